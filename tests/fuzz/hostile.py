"""Messages that mean harm: valid discovery requests of both variants, and what bit flips, cuts, splices and lies about lengths make of them."""

import struct

from envoy.service.discovery.v3 import discovery_pb2 as wire

from xds_server.core.facts import Variant
from xds_server.core.types import CDS, TYPES
from xds_server.errors import PeerError
from xds_server.services.messages import MAX_WORDS, decode

URLS = (*(row.url for row in TYPES), "", "type.googleapis.com/of.nobody", "x" * 600)
NAMES = ("a", "b", "c", "*", "", "ü", "n" * 300)
NONCES = ("", "1.abc", "0", "\x00", "9" * 2000)
NUMBERS = (0.0, -0.0, 1.5, 1e308, float("inf"), float("-inf"), float("nan"))
LENGTHS = (0, 1, 127, 128, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
REQUESTS = {Variant.SOTW: wire.DiscoveryRequest, Variant.DELTA: wire.DeltaDiscoveryRequest}


def varint(number):
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*made, number))


def request(chance, variant):
    """A message that could be meant well; a third carry a node, some of these as big as Envoy's."""
    made = REQUESTS[variant](type_url=chance.choice(URLS), response_nonce=chance.choice(NONCES))
    names = chance.choices(NAMES, k=chance.randrange(5))
    if variant is Variant.SOTW:
        made.resource_names.extend(names)
    else:
        made.resource_names_subscribe.extend(names)
        made.resource_names_unsubscribe.extend(chance.choices(NAMES, k=chance.randrange(3)))
        made.initial_resource_versions.update(dict.fromkeys(chance.choices(NAMES, k=chance.randrange(3)), "1"))
    if chance.random() < 0.2:
        made.error_detail.code = chance.randrange(20)
        made.error_detail.message = "no " * chance.choice((0, 1, 2000))
    if chance.random() < 0.3:
        fill(made.node, chance)
    return made


def fill(node, chance):
    node.id, node.cluster = chance.choice(("n", "", "i" * 1000)), chance.choice(("c", "other", ""))
    node.user_agent_name = "envoy"
    if chance.random() < 0.5:
        node.user_agent_build_version.version.major_number = chance.choice((0, 1, 2**32 - 1))
    inner = node.metadata.fields["crossfade" if chance.random() < 0.5 else "else"]
    for _ in range(chance.choice((0, 1, 3, 40))):
        inner = inner.list_value.values.add() if chance.random() < 0.5 else inner.struct_value.fields["deeper"]
    inner.number_value = chance.choice(NUMBERS)
    if chance.random() < 0.3:
        node.metadata.fields["big"].string_value = "b" * chance.choice((4096, 20_000))


def garbage(chance, _):
    return chance.randbytes(chance.choice((0, 1, 2, 7, 30, 200, 5000)))


def flip(chance, message):
    changed = bytearray(message)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(chance, message):
    return message[: chance.randrange(len(message) + 1)]


def drop(chance, message):
    """Something in the middle is missing."""
    at = chance.randrange(len(message) + 1)
    return message[:at] + message[at + chance.randrange(20) :]


def lie(chance, message):
    """A length, or what may be one, says something else."""
    at = chance.randrange(len(message) + 1)
    return message[:at] + varint(chance.choice(LENGTHS)) + message[at + 1 :]


def overwrite(chance, message):
    """Eight bytes become a number that JSON does not have, a long varint, or zeros."""
    at = chance.randrange(len(message) + 1)
    return message[:at] + chance.choice((struct.pack("<d", chance.choice(NUMBERS)), b"\xff" * 11, bytes(8))) + message[at + 8 :]


def field(chance, message):
    """One more field that nobody knows, of any wire type, valid or not."""
    return message + varint(chance.randrange(1, 2**29) << 3 | chance.randrange(8)) + varint(chance.choice(LENGTHS)) + chance.randbytes(8)


def nest(chance, message):
    """The message within itself, as a node, deeper and deeper."""
    for _ in range(chance.choice((1, 5, 60))):
        message = varint(chance.choice((1, 2, 3)) << 3 | 2) + varint(len(message)) + message
    return message


MUTATIONS = (garbage, flip, flip, cut, drop, lie, overwrite, field, nest)


class Hostile:
    """An endless source. Args: chance: Where all of it comes from."""

    def __init__(self, chance):
        self.chance = chance
        self.seeds = {variant: [request(chance, variant).SerializeToString() for _ in range(300)] for variant in Variant}

    def message(self, variant):
        """Now and then a valid one, mostly one that was valid, now and then the front of one with the back of another."""
        chance = self.chance
        message = chance.choice(self.seeds[variant])
        if chance.random() < 0.1:
            other = chance.choice(self.seeds[chance.choice(tuple(Variant))])
            message = cut(chance, message) + other[chance.randrange(len(other) + 1) :]
        for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
            message = chance.choice(MUTATIONS)(chance, message)
        return message


def read(message, variant, *, implied_type, node_known):
    """Decodes one message. True if it was one; raises whatever but PeerError comes out, and AssertionError for a value without bounds."""
    try:
        request, node = decode(message, variant, implied_type=implied_type, node_known=node_known)
    except PeerError as error:
        assert 0 < len(str(error)) < 2000  # noqa: PT017 - not a test of the error: whatever else comes out is the finding
        return False
    assert 0 < len(request.type_url) <= 512
    assert request.error is None or len(request.error) <= MAX_WORDS
    assert node is None or max(len(node.id), len(node.cluster), len(node.version)) <= 512
    assert not (node_known and node)
    assert len(repr(node and node.metadata)) < 300_000, "a node's metadata is kept without a bound"
    return True


def read_any(source):
    """Decodes the next message of a source as a service of any kind would."""
    chance, variant = source.chance, source.chance.choice(tuple(Variant))
    message = source.message(variant)
    implied_type, node_known = chance.choice((None, None, CDS)), chance.random() < 0.5
    try:
        return read(message, variant, implied_type=implied_type, node_known=node_known)
    except Exception as error:
        error.add_note(f"{variant.name} implied_type={implied_type} node_known={node_known} input={message.hex()}")
        raise
