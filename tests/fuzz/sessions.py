"""Whole streams that mean harm, on a hub that serves two honest proxies: whatever is said, it costs the stream that said it and nothing else."""

from collections import Counter

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire

from tests.fuzz.hostile import NAMES, REQUESTS, URLS
from tests.xds_peer import res, world
from xds_server.core.facts import Variant
from xds_server.core.transport import Status
from xds_server.core.types import CDS, EDS, RTDS, TYPES
from xds_server.errors import PeerError
from xds_server.services.ads import AdsHub
from xds_server.services.messages import decode
from xds_server.services.proxies import Connected, Disconnected, Refusal

RESPONSES = {Variant.SOTW: wire.DiscoveryResponse, Variant.DELTA: wire.DeltaDiscoveryResponse}
ENDS = {Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION}
MESSAGES = 12


class Outlet:
    peer = "127.0.0.1:1"

    def __init__(self):
        self.sent, self.end = [], None

    def send(self, message):
        assert self.end is None, "something is sent after the end"
        self.sent.append(message)

    def finish(self, status=Status.OK, message=""):
        self.end = self.end or (status, message)


class Stream:
    """A proxy's side of one stream."""

    def __init__(self, hub, variant, type_url=None):
        row = next((each for each in TYPES if each.url == type_url), None)
        ads = ("StreamAggregatedResources", "DeltaAggregatedResources")
        method = (row.methods if row else ads)[variant is Variant.DELTA]
        self.variant, self.type_url, self.outlet, self.heard = variant, type_url, Outlet(), 0
        self.session = next(each.service for each in hub.methods() if each.path.endswith("/" + method))(self.outlet)

    def say(self, **fields):
        self.session.received(REQUESTS[self.variant](**fields).SerializeToString())

    def answers(self):
        """What it was sent and has not heard yet."""
        new, self.heard = self.outlet.sent[self.heard :], len(self.outlet.sent)
        return [RESPONSES[self.variant].FromString(message) for message in new]

    def ask(self, url, names=(), **fields):
        listed = "resource_names" if self.variant is Variant.SOTW else "resource_names_subscribe"
        self.say(type_url=url, **{listed: names}, **fields)


class Stage:
    """A hub with its two honest proxies; `turn` is its event loop."""

    def __init__(self, source):
        self.source, self.turns, self.serial, self.now, self.events = source, [], 0, 0.0, Counter()
        self.hub = AdsHub(
            select=lambda node: "g" if node.cluster == "c" else Refusal(message="no group"),
            events=lambda event: self.events.update((type(event),)),
            clock=lambda: self.now,
            defer=self.turns.append,
        )
        self.hub.ready()
        self.publish()
        self.honest = [Stream(self.hub, variant) for variant in Variant]
        for number, stream in enumerate(self.honest):
            stream.ask(CDS, node=Node(id=f"honest{number}", cluster="c"))
            stream.ask(EDS, ["a"])
        self.settle()

    def publish(self):
        self.serial += 1
        version = str(self.serial % 5)
        types = {url: [res(name, version) for name in "abc"] for url in (each.url for each in TYPES)}
        types[RTDS] = [res("a", version, ttl_s=3.0)]
        self.hub.publish("g", world(self.serial, types))

    def turn(self):
        while self.turns:
            self.turns.pop(0)()

    def settle(self):
        """The honest answer until there is nothing left to say."""
        self.turn()
        for stream in self.honest:
            while answers := stream.answers():
                for each in answers:
                    names = ["a"] if stream.variant is Variant.SOTW and each.type_url == EDS else ()
                    stream.ask(each.type_url, names, response_nonce=each.nonce)
                    self.turn()

    def attack(self):
        """One hostile stream, from its first words to its end."""
        chance = self.source.chance
        stream = Stream(self.hub, chance.choice(tuple(Variant)), chance.choice((None, None, *(row.url for row in TYPES))))
        said = []
        try:
            for _ in range(chance.randrange(MESSAGES)):
                said.append(self.words(stream, first=not said))
                self.hear(stream, said[-1])
                if chance.random() < 0.5:
                    self.turn()
                if chance.random() < 0.1:
                    self.publish()
                if chance.random() < 0.05:
                    self.hub.heartbeat("g", RTDS, ["a"])
            if chance.random() < 0.7:
                self.hear(stream, b"\xff" * 20)
                assert stream.outlet.end is not None, "garbage was taken"
            stream.session.closed()
            self.unharmed()
        except Exception as error:
            error.add_note(f"{stream.variant.name} {stream.type_url} " + " ".join(message.hex() or "-" for message in said))
            raise

    def words(self, stream, *, first):
        """An honest beginning or answer in half of the cases, else anything."""
        chance = self.source.chance
        if chance.random() < 0.5:
            return self.source.message(stream.variant)
        message = REQUESTS[stream.variant](type_url=stream.type_url or chance.choice(URLS[:6]))
        names = message.resource_names if stream.variant is Variant.SOTW else message.resource_names_subscribe
        names.extend(chance.choices(NAMES, k=chance.randrange(3)))
        if first:
            message.node.id, message.node.cluster = "hostile", chance.choice(("c", "c", "other"))
        answers = stream.answers()
        if answers:
            answer = chance.choice(answers)
            message.type_url, message.response_nonce = answer.type_url, answer.nonce
            if chance.random() < 0.3:
                message.error_detail.message = "no"
        return message.SerializeToString()

    def hear(self, stream, message):
        """What cannot be read ends its stream there and then, with the right status; an ended stream hears nothing."""
        ended, sent = stream.outlet.end, len(stream.outlet.sent)
        known = stream.session.node is not None
        stream.session.received(message)
        try:
            decode(message, stream.variant, implied_type=stream.type_url, node_known=known)
        except PeerError:
            assert stream.outlet.end is not None
            assert ended or stream.outlet.end[0] is Status.INVALID_ARGUMENT
        if ended:
            assert len(stream.outlet.sent) == sent
        assert stream.outlet.end is None or stream.outlet.end[0] in ENDS, stream.outlet.end

    def unharmed(self):
        """The hub counts the honest and nobody else, and they see what is published."""
        self.publish()
        self.settle()
        hub = self.hub
        state = hub.sync_state("g", self.serial)
        assert (state.selected, state.acked, state.rejected) == (2, 2, 0), state
        assert [each.node_id for each in hub.members("g")] == ["honest0", "honest1"]
        assert hub.outstanding() == 0
        assert hub._streams == 2
        assert not hub._due
        assert not any(hub._waiting)
        assert self.events[Connected] - self.events[Disconnected] == 2
        assert all(stream.outlet.end is None for stream in self.honest)
        for stream in self.honest:
            del stream.outlet.sent[: stream.heard]
            stream.heard = 0
