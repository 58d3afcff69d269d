"""Hostile bytes and random conversations by plain chance: what Hypothesis does with care for few, done fast for very many.

A finding is an exception: anything but `PeerError` out of the decoder, a hub whose other stream was harmed or whose counts are wrong, a broken
law of a conversation. Each comes from a seed of its own, so that it can be played again.
"""

import random
from collections.abc import Iterator

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire

from tests.interleaving import NAMES, TYPES, VERSIONS, Interleaving
from tests.xds_peer import res, world
from xds_server.core.facts import Variant
from xds_server.core.transport import Status
from xds_server.core.types import CDS, RTDS
from xds_server.errors import PeerError
from xds_server.services.ads import AdsHub
from xds_server.services.messages import decode

VARIANTS = tuple(Variant)
LENGTHS = (0, 1, 127, 128, 2**14, 2**21, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1)
"""Lengths that a length field may lie about."""


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _seeds() -> tuple[bytes, ...]:
    """Honest requests, of the kinds a proxy sends; one of them as large as Envoy's first."""
    node = Node(id="edge-1", cluster="edge")
    node.metadata.update({"crossfade": {"layers": 16}, "zone": ["a", {"b": 1.5}]})
    large = Node(id="edge-2")
    large.extensions.add(name="x" * 4000, type_urls=["t" * 1000])
    delta, sotw = wire.DeltaDiscoveryRequest, wire.DiscoveryRequest
    nack = delta(type_url=RTDS, response_nonce="1.a")
    nack.error_detail.message = "no"
    made = (
        delta(type_url=CDS, node=node, resource_names_subscribe=["a", "*"], initial_resource_versions={"a": "1", "b": "2"}),
        delta(type_url=CDS, response_nonce="1.a", resource_names_unsubscribe=["b"], node=large),
        nack,
        sotw(type_url=CDS, node=node, resource_names=["a"], version_info="1"),
        sotw(type_url=RTDS, response_nonce="1.a", resource_names=["a", "b"], node=large),
    )
    return tuple(message.SerializeToString() for message in made)


SEEDS = _seeds()


def hostile(chance: random.Random) -> bytes:
    """Garbage, or an honest request that was cut, flipped, spliced or lied about."""
    if chance.random() < 0.25:
        return chance.randbytes(chance.choice((0, 1, 2, 8, 40, 300)))
    message = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(message) + 1)
        match chance.randrange(6):
            case 0:
                del message[place:]
            case 1 if message:
                message[place - 1] ^= 1 << chance.randrange(8)
            case 2:
                other = chance.choice(SEEDS)
                message[place:] = other[chance.randrange(len(other)) :]
            case 3:
                message[place:place] = bytes((chance.randrange(256),)) + varint(chance.choice(LENGTHS))
            case 4:
                message[place:place] = b"\xff" * chance.randint(1, 12)
            case _:
                message[place:place] = chance.choice(SEEDS)
    return bytes(message)


def bytes_in(seed: int, count: int) -> int:
    """Throws hostile bytes at the decoder; how many of them were taken for a request."""
    chance, taken = random.Random(seed), 0
    for _ in range(count):
        message = hostile(chance)
        variant, implied, known = chance.choice(VARIANTS), chance.choice((None, CDS)), chance.random() < 0.5
        try:
            decode(message, variant, implied_type=implied, node_known=known)
        except PeerError:
            continue
        except BaseException as error:
            error.add_note(f"decode({message.hex()!r}, {variant}, implied_type={implied!r}, node_known={known})")
            raise
        taken += 1
    return taken


class _Outlet:
    peer = "fuzz"

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.end: tuple[Status, str] | None = None

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        self.end = self.end or (status, message)


def sessions(seed: int, count: int) -> int:
    """Hostile streams through a hub beside one honest proxy; how many of them it had to end."""
    chance, ended = random.Random(seed), 0
    hub = AdsHub(select=lambda _: "g", events=lambda _: None, clock=lambda: 0.0)
    hub.ready()
    serial = 1
    hub.publish("g", world(serial, {CDS: [res("a")], RTDS: [res("a")]}))
    services = [method.service for method in hub.methods()]
    honest = _Outlet()
    proxy = services[1](honest)
    proxy.received(wire.DeltaDiscoveryRequest(type_url=CDS, node=Node(id="honest")).SerializeToString())
    for number in range(count):
        outlet = _Outlet()
        session = chance.choice(services)(outlet)
        if chance.random() < 0.5:
            session.received(SEEDS[0 if chance.random() < 0.5 else 3])
        for _ in range(chance.randint(1, 8)):
            session.received(hostile(chance))
        assert outlet.end is None or outlet.end[0] is Status.INVALID_ARGUMENT, f"session {number} ended with {outlet.end}"
        ended += outlet.end is not None
        session.closed()
        nonce = wire.DeltaDiscoveryResponse.FromString(honest.sent[-1]).nonce
        proxy.received(wire.DeltaDiscoveryRequest(type_url=CDS, response_nonce=nonce).SerializeToString())
        serial += 1
        hub.publish("g", world(serial, {CDS: [res("a", str(serial))], RTDS: [res("a", str(serial))]}))
        assert (len(honest.sent), honest.end) == (number + 2, None), f"after session {number} the honest proxy is not served"
        assert hub.sync_state("g", serial).selected == len(hub.proxies()) == 1
        honest.sent = [b""] * (number + 1) + honest.sent[-1:] if number % 1000 == 0 else honest.sent
    return ended


def conversation(seed: int) -> None:
    """One stream, one client, some dozens of things that happen in a random order."""
    chance = random.Random(seed)
    pair = Interleaving(chance.choice(VARIANTS), rejects=chance.random() < 0.5, partial=chance.random() < 0.5)
    try:
        for _ in range(chance.randint(5, 40)):
            _something(pair, chance)
            pair.check()
        pair.quiet()
    except BaseException as error:
        error.add_note(f"tests.fuzz.attack.conversation({seed})")
        raise


def _something(pair: Interleaving, chance: random.Random) -> None:
    url, name = chance.choice(TYPES), chance.choice(NAMES)
    match chance.randrange(12):
        case 0:
            pair.publish({kind: dict(_content(chance)) for kind in TYPES if chance.random() < 0.7}, chance.randrange(2))
        case 1:
            pair.edit(url, name, chance.choice((*VERSIONS, None)))
        case 2:
            pair.move()
        case 3:
            pair.heartbeat()
        case 4:
            pair.pass_time(chance.uniform(0.1, 3.0))
        case 5 | 6:
            wanted = frozenset(each for each in NAMES if chance.random() < 0.5)
            pair.wish(url, wanted, wild=chance.random() < 0.5)
        case 7:
            pair.ask_again(url, name)
        case 8 if chance.random() < 0.3:
            pair.reconnect(frozenset(("a", "z")) if chance.random() < 0.3 else frozenset())
        case 9 if pair.to_client:
            pair.client_reads()
        case 10 if pair.to_server:
            pair.server_reads()
        case _:
            pair.quiet()


def _content(chance: random.Random) -> Iterator[tuple[str, str]]:
    for name in NAMES:
        if chance.random() < 0.6:
            yield name, chance.choice(VERSIONS)
