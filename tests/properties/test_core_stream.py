"""Any interleaving of wishes, publications and answers: laws of one xDS stream against a naive client.

The client applies what it is sent as the protocol says and knows nothing of the server's bookkeeping. Messages are delivered in order,
but any number may be on the way: the machine decides when the client reads and when the server hears of it.
"""

from collections import Counter, deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xds_server.core.facts import Request, Variant
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.stream import AdsStream
from xds_server.core.types import BY_URL, CDS, EDS, LDS, RDS, RTDS

TYPES = (CDS, EDS, LDS, RDS, RTDS)
FULL = (CDS, LDS)
NAMES = ("a", "b", "c")
versions = st.sampled_from(["1", "2", "3", "bad"])
worlds = st.dictionaries(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(NAMES), versions, max_size=3), max_size=5)
names = st.frozensets(st.sampled_from(NAMES), max_size=3)


def resource(type_url, name, version):
    return Resource(name=name, version=version, body=f"{name}{version}".encode(), ttl_s=3.0 if type_url == RTDS else None)


class Client:
    """One type at the client: what it wants, what it has, what it was last told."""

    def __init__(self):
        self.asked = False
        self.wild = False
        self.wanted = set()
        self.has = {}
        self.nonce = ""


class Streams(RuleBasedStateMachine):
    """One stream of either variant."""

    variant: Variant
    rejects: bool

    @initialize(variant=st.sampled_from(list(Variant)), rejects=st.booleans())
    def begin(self, variant, rejects):
        self.variant, self.rejects = variant, rejects
        self.stream = AdsStream(variant)
        self.clients = {url: Client() for url in TYPES}
        self.serial = 0
        self.beat = 0
        self.to_client, self.to_server = deque(), deque()
        self.unanswered = {}
        self.nonces = set()
        self.sent = {}
        self.nacked = {}
        self.wishes, self.wishes_at_send = Counter(), Counter()
        self.publish({})

    # What happens in the world.

    @rule(types=worlds)
    def publish(self, types):
        self.serial += 1
        self.nacked = {key: version for key, version in self.nacked.items() if types.get(key[0], {}).get(key[1]) == version}
        self.snapshot = Snapshot(
            serial=self.serial,
            resources={url: {name: resource(url, name, version) for name, version in found.items()} for url, found in types.items()},
        )
        self.take(self.stream.offer(self.snapshot, now=float(self.serial)))

    @rule()
    def heartbeat(self):
        self.beat += 1
        self.take(self.stream.heartbeat(RTDS, NAMES, beat=self.beat, now=float(self.serial)))

    @rule(url=st.sampled_from(TYPES), wanted=names, wild=st.booleans())
    def wish(self, url, wanted, wild):
        """The client changes its mind; in the state of the world the request is a repeated answer, in delta a spontaneous one."""
        client = self.clients[url]
        wild = wild and url in FULL
        if self.variant is Variant.SOTW:
            listed = tuple(sorted(wanted)) + (("*",) if wild else ())
            request = Request(type_url=url, names=listed, nonce=client.nonce)
            if not listed and url in FULL:
                return  # whether that is the legacy wildcard is tested rule by rule
        else:
            added = wanted - client.wanted
            dropped = client.wanted - wanted
            subscribe = tuple(sorted(added)) + (("*",) if wild and not client.wild else ())
            unsubscribe = tuple(sorted(dropped)) + (("*",) if client.wild and not wild else ())
            if not client.asked and not subscribe:
                return
            request = Request(type_url=url, names=subscribe, unsubscribe=unsubscribe)
        client.asked, client.wanted, client.wild = True, set(wanted), wild
        client.has = {name: version for name, version in client.has.items() if wild or name in wanted}
        self.to_server.append((request, True))

    @precondition(lambda self: self.to_client)
    @rule()
    def client_reads(self):
        response = self.to_client.popleft()
        client = self.clients[response.type_url]
        client.nonce = response.nonce
        bad = self.rejects and any(each.version == "bad" for each in response.resources)
        if not bad:
            self.apply(client, response)
        listed = tuple(sorted(client.wanted)) + (("*",) if client.wild else ())
        request = Request(
            type_url=response.type_url,
            nonce=response.nonce,
            error="bad resource" if bad else None,
            names=listed if self.variant is Variant.SOTW else (),
        )
        self.to_server.append((request, False))

    def apply(self, client, response):
        sent = {each.name: each.version for each in response.resources}
        if self.variant is Variant.SOTW and response.type_url in FULL:
            client.has = {}
        for name in response.removed:
            client.has.pop(name, None)
        for name, version in sent.items():
            if client.wild or name in client.wanted:
                if response.bodiless:
                    assert client.has.get(name) in {version, None}, "a heartbeat names a version the client does not have"
                    continue
                client.has[name] = version

    @precondition(lambda self: self.to_server)
    @rule()
    def server_reads(self):
        request, wish = self.to_server.popleft()
        self.wishes[request.type_url] += wish
        if request.nonce and self.unanswered.get(request.type_url) == request.nonce:
            del self.unanswered[request.type_url]
            if request.error is not None:
                now = {name: each.version for name, each in self.snapshot.of(request.type_url).items()}
                rejected = {name: version for name, version in self.sent[request.type_url].items() if now.get(name) == version}
                self.nacked |= {
                    (request.type_url, name, self.wishes_at_send[request.type_url]): version for name, version in rejected.items()
                }
        self.stream.receive(request, now=float(self.serial))
        self.take(self.stream.offer(self.snapshot, now=float(self.serial)))

    def take(self, responses):
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

    # Laws.

    @invariant()
    def synced_never_runs_ahead(self):
        if hasattr(self, "stream"):
            assert self.stream.synced_serial <= self.serial

    @rule()
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
        assert self.stream.offer(self.snapshot, now=float(self.serial)) == (), "an offer of what was offered sends something"
        rejecting = {url for url, _ in self.stream.errors}
        for url, client in self.clients.items():
            if url in rejecting:
                assert self.rejects
                continue
            world = {name: each.version for name, each in self.snapshot.of(url).items() if client.wild or name in client.wanted}
            if not client.asked:
                continue
            gone_unseen = self.variant is Variant.SOTW and url not in FULL
            held = self.held(url, rejecting)
            seen = {name: version for name, version in client.has.items() if name in world or not (gone_unseen or held)}
            assert seen == world, f"{BY_URL[url].short}: the client has {seen}, the world is {world}"
        if not rejecting and any(client.asked for client in self.clients.values()):
            assert self.stream.synced_serial == self.serial

    def teardown(self):
        if hasattr(self, "stream"):
            self.quiet()

    @staticmethod
    def held(url, rejecting):
        """Removals wait while a type that may point at them is rejected."""
        return not rejecting.isdisjoint(BY_URL[url].parents) or any(
            not rejecting.isdisjoint(BY_URL[up].parents) for up in BY_URL[url].parents
        )


Streams.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStreams = Streams.TestCase
