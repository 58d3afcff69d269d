"""One stream, a naive client and all that can happen between them: driven by Hypothesis (properties) and by plain chance (fuzz).

The client applies what it is sent as the protocol says and knows nothing of the server's bookkeeping. Messages are delivered in order, but
any number may be on the way: whoever drives decides when the client reads and when the server hears of it. Each answer of the stream is
compared with the oracle's; laws that need no oracle are checked too.
"""

from collections import Counter, deque
from functools import cache

from tests.oracle import Oracle
from xds_server.core.facts import Request, Variant
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.stream import AdsStream
from xds_server.core.types import BY_URL, CDS, EDS, LDS, RDS, RTDS

TYPES = (CDS, EDS, LDS, RDS, RTDS)
FULL = (CDS, LDS)
NAMES = ("a", "b", "c")
VERSIONS = ("1", "2", "3", "bad")


@cache
def resource(url, name, version):
    """Runtime layers are leased but for "c"; the cluster "b" finds its endpoints under another name."""
    ttl_s = 3.0 if url == RTDS and name != "c" else None
    references = ((EDS, "c"),) if (url, name) == (CDS, "b") else ()
    return Resource(name=name, version=version, body=f"{name}{version}".encode(), ttl_s=ttl_s, references=references)


class Client:
    """One type at the client: what it wants, what it has, what it was last told."""

    def __init__(self):
        self.asked = False
        self.named = False
        self.wild = False
        self.wanted = set()
        self.has = {}
        self.nonce = ""

    def listed(self):
        """All it wants, as the state of the world says it; everything is an empty list as long as nothing was ever named."""
        return tuple(sorted(self.wanted)) + (("*",) if self.wild and self.named else ())


class Interleaving:
    """Args:
    rejects: The client rejects every response with a resource of version "bad".
    partial: It applies the good resources of what it rejects, as Envoy does.
    """

    def __init__(self, variant, *, rejects, partial=False):
        self.variant, self.rejects, self.partial = variant, rejects, partial
        self.clients = {url: Client() for url in TYPES}
        self.serial = self.beat = 0
        self.now = 0.0
        self.worlds = [{}, {}]
        self.at = 0
        self.snapshot = Snapshot(serial=0, resources={})
        self.connect()

    def connect(self):
        self.stream, self.oracle = AdsStream(self.variant), Oracle(self.variant)
        self.to_client, self.to_server = deque(), deque()
        self.unanswered, self.sent, self.nacked, self.nonces = {}, {}, {}, set()
        self.wishes, self.wishes_at_send = Counter(), Counter()

    # What happens in the world.

    def publish(self, types, world=0):
        """A world of this content, built anew; a stream that sees the other world is offered nothing new."""
        self.worlds[world] = types
        if world == self.at:
            made = {url: {name: resource(url, name, version) for name, version in found.items()} for url, found in types.items()}
            self.show(Snapshot(serial=self.serial + 1, resources=made))

    def edit(self, url, name, version):
        """One resource changes or goes (None); the rest of the snapshot is shared with the last."""
        now = self.worlds[self.at]
        left = {each: has for each, has in now.get(url, {}).items() if each != name}
        self.worlds[self.at] = now | {url: left | ({name: version} if version else {})}
        changed = {url: {name: resource(url, name, version) if version else None}}
        self.show(self.snapshot.replace(serial=self.serial + 1, changed=changed))

    def move(self):
        """The client is shown the other world, without a reconnect."""
        self.at = 1 - self.at
        self.publish(self.worlds[self.at], self.at)

    def show(self, snapshot):
        self.serial, self.snapshot = snapshot.serial, snapshot
        now = self.worlds[self.at]
        self.nacked = {key: version for key, version in self.nacked.items() if now.get(key[0], {}).get(key[1]) == version}
        self.offer()

    def heartbeat(self):
        self.beat += 1
        self.take(
            self.stream.heartbeat(RTDS, NAMES, beat=self.beat, now=self.now),
            self.oracle.heartbeat(RTDS, NAMES, self.now),
        )

    def pass_time(self, seconds):
        self.now += seconds

    # What the client does.

    def wish(self, url, wanted, *, wild):
        """It changes its mind; in the state of the world the request is a repeated answer, in delta a spontaneous one."""
        client = self.clients[url]
        wild = wild and url in FULL
        names = bool(wanted) or (wild and client.asked and not client.wild)
        if not client.asked and not wanted and not wild:
            return
        if url in FULL and not wanted and not wild and not client.named and self.variant is Variant.SOTW:
            return  # cannot be said: an empty list still means everything
        if self.variant is Variant.SOTW:
            client.named = client.named or names
        else:
            client.named = True if client.asked else bool(wanted)
        if self.variant is Variant.DELTA:
            star = wild and not client.wild and client.named
            subscribe = tuple(sorted(wanted - client.wanted)) + (("*",) if star else ())
            unsubscribe = tuple(sorted(client.wanted - wanted)) + (("*",) if client.wild and not wild else ())
            request = Request(type_url=url, names=subscribe, unsubscribe=unsubscribe)
        client.asked, client.wanted, client.wild = True, set(wanted), wild
        client.has = {name: version for name, version in client.has.items() if wild or name in wanted}
        if self.variant is Variant.SOTW:
            request = Request(type_url=url, names=client.listed(), nonce=client.nonce)
        self.to_server.append((request, True))

    def ask_again(self, url, name):
        """Delta: it forgot a name that it still wants."""
        client = self.clients[url]
        if self.variant is Variant.DELTA and name in client.wanted:
            client.has.pop(name, None)
            self.to_server.append((Request(type_url=url, names=(name,)), True))

    def client_reads(self):
        response = self.to_client.popleft()
        client = self.clients[response.type_url]
        client.nonce = response.nonce
        bad = self.rejects and any(each.version == "bad" for each in response.resources)
        if not bad:
            self.apply(client, response)
        elif self.partial:
            good = {each.name: each.version for each in response.resources if each.version != "bad"}
            client.has |= {name: version for name, version in good.items() if client.wild or name in client.wanted}
        names = client.listed() if self.variant is Variant.SOTW else ()
        error = "bad resource" if bad else None
        self.to_server.append((Request(type_url=response.type_url, nonce=response.nonce, error=error, names=names), False))

    def apply(self, client, response):
        if self.variant is Variant.SOTW and response.type_url in FULL:
            client.has = {}
        for name in response.removed:
            client.has.pop(name, None)
        for each in response.resources:
            if not (client.wild or each.name in client.wanted):
                continue
            if response.bodiless:
                assert client.has.get(each.name) in {each.version, None}, "a heartbeat names a version the client does not have"
            else:
                client.has[each.name] = each.version

    def reconnect(self, leftovers=()):
        """A new stream; the client asks for all it wanted, with what it has. `leftovers` are names it has and no longer wants."""
        self.connect()
        for url, client in self.clients.items():
            if not client.asked:
                continue
            client.nonce = ""
            client.named = bool(client.wanted) or not client.wild
            if not client.wanted and not client.wild:
                client.asked, client.named = False, False
                continue
            if self.variant is Variant.SOTW:
                request = Request(type_url=url, names=client.listed())
            else:
                subscribe = tuple(sorted(client.wanted)) + (("*",) if client.wild and client.wanted else ())
                request = Request(type_url=url, names=subscribe, initial_versions=dict.fromkeys(leftovers, "old") | client.has)
            self.to_server.append((request, True))

    # What the server does.

    def server_reads(self):
        request, wish = self.to_server.popleft()
        url = request.type_url
        self.wishes[url] += wish
        if request.nonce and self.unanswered.get(url) == request.nonce:
            del self.unanswered[url]
            if request.error is not None:
                now = self.worlds[self.at].get(url, {})
                rejected = {name: version for name, version in self.sent[url].items() if now.get(name) == version}
                self.nacked |= {(url, name, self.wishes_at_send[url]): version for name, version in rejected.items()}
            else:  # what was rejected beside something else may be tried once more
                self.nacked = {key: version for key, version in self.nacked.items() if key[0] != url}
        facts = [type(fact).__name__ for fact in self.stream.receive(request, now=self.now)]
        assert facts == self.oracle.receive(request), f"{request} was understood as {facts}"
        self.offer()

    def offer(self):
        self.take(self.stream.offer(self.snapshot, now=self.now), self.oracle.offer(self.snapshot, self.now))

    def take(self, responses, expected):
        said = [
            (each.type_url, {one.name: (one.version, one.ttl_s) for one in each.resources}, set(each.removed), each.bodiless)
            for each in responses
        ]
        assert said == [(each.type_url, each.content, each.removed, each.bodiless) for each in expected]
        for response in responses:
            url = response.type_url
            assert url not in self.unanswered, "two responses of one type are unanswered"
            assert (url, response.nonce) not in self.nonces, "a nonce was used twice"
            assert len({each.name for each in response.resources}) == len(response.resources)
            if self.variant is Variant.DELTA or url not in FULL:
                again = [each.name for each in response.resources if self.nacked.get((url, each.name, self.wishes[url])) == each.version]
                assert not again, "rejected content was sent again"
            self.wishes_at_send[url] = self.wishes[url]
            self.sent[url] = {each.name: each.version for each in response.resources}
            self.nonces.add((url, response.nonce))
            self.unanswered[url] = response.nonce
            self.to_client.append(response)
            self.oracle.named(url, response.nonce)

    # Laws.

    def check(self):
        """Holds at any moment: whom the server calls synced has what the newest snapshot says."""
        assert self.stream.synced_serial <= self.serial
        if self.to_server:
            return
        for url, client in self.clients.items():
            if client.asked and self.stream.synced(url) == self.serial and url not in self.unanswered:
                self.sees_the_world(url, client, removals=self.variant is Variant.DELTA or url in FULL)

    def sees_the_world(self, url, client, *, removals):
        world = {name: version for name, version in self.worlds[self.at].get(url, {}).items() if client.wild or name in client.wanted}
        seen = {name: version for name, version in client.has.items() if removals or name in world}
        assert seen == world, f"{BY_URL[url].short}: the client has {seen}, the world is {world}"

    def quiet(self):
        """When all that is on the way has arrived, the client sees the snapshot, unless it rejects it; and silence follows."""
        rounds = 0
        while self.to_client or self.to_server:
            rounds += 1
            assert rounds < 500, "the two never come to rest"
            if self.to_client:
                self.client_reads()
            else:
                self.server_reads()
        assert self.stream.offer(self.snapshot, now=self.now) == (), "an offer of what was offered sends something"
        rejecting = {url for url, _ in self.stream.errors}
        assert self.rejects or not rejecting
        for url, client in self.clients.items():
            if client.asked and url not in rejecting:
                held = any(not rejecting.isdisjoint(BY_URL[up].parents) or up in rejecting for up in BY_URL[url].parents)
                self.sees_the_world(url, client, removals=not held and (self.variant is Variant.DELTA or url in FULL))
        if not rejecting and any(client.asked for client in self.clients.values()):
            assert self.stream.synced_serial == self.serial
