"""Discovery messages to and from the values of `xds_server.core`: the only place that knows their protobuf form.

Neighbours: `ads` calls it. Envoy repeats its node (61 KB) in every request unless told otherwise; a stream that has its node already
lets it be cut out before parsing, and nothing here keeps a parsed node alive. What is left of an answer is the same from all proxies that
were sent the same, so it is parsed once for all of them. Source: `envoy/service/discovery/v3/discovery.proto`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from xds_server.core.facts import Request, Response, Variant
from xds_server.core.snapshot import Resource
from xds_server.errors import PeerError

CONTROL_PLANE: Final = "crossfade"
MAX_WORDS: Final = 1024
"""Characters kept of a proxy's own words."""
_MAX_TEXT: Final = 512
_MAX_METADATA_BYTES: Final = 16_384
_SCAN_FROM_BYTES: Final = 4096
_MAX_ANSWERS: Final = 1024
_MAX_METADATA: Final = 256
_NODE_FIELD: Final = {Variant.SOTW: 2, Variant.DELTA: 1}
_OUR_METADATA: Final = "crossfade"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """What is kept of a proxy's node.

    Attributes:
        version: "1.40.0", or what the client calls itself; "" if it does not say.
        metadata: As in JSON; of more than 16 KiB only our own key is kept.
    """

    id: str
    cluster: str = ""
    version: str = ""
    metadata: Mapping[str, object]


def decode(message: bytes, variant: Variant, *, implied_type: str | None, node_known: bool) -> tuple[Request, NodeInfo | None]:
    """One request and, unless it is known already, the node in it.

    Args:
        message: The serialised DiscoveryRequest or DeltaDiscoveryRequest.
        variant: Which of the two.
        implied_type: Type URL of a per-type service; None on the aggregated one.
        node_known: The stream has its node; another is not looked at.
    Raises: PeerError: If the bytes are no such message, or the type is missing or not the service's.
    """
    if node_known:
        return decoder(variant)(message, implied_type), None
    return _parse(message, variant, implied_type, node_known=False)


def decoder(variant: Variant) -> Callable[[bytes, str | None], Request]:
    """`decode` for what comes on a stream whose node is known: message, implied type -> request."""
    return _LATER[variant]


def _later_of(variant: Variant) -> Callable[[bytes, str | None], Request]:
    """Decodes what comes on a stream whose node is known; keeps nothing that could be large."""

    @lru_cache(maxsize=_MAX_ANSWERS)
    def parsed(message: bytes, implied_type: str | None) -> Request:
        return _parse(message, variant, implied_type, node_known=True)[0]

    def decoded(message: bytes, implied_type: str | None) -> Request:
        if len(message) < _SCAN_FROM_BYTES:
            return parsed(message, implied_type)
        try:
            rest = without_field(message, _NODE_FIELD[variant])
        except (IndexError, ValueError) as error:
            raise _unreadable(message, variant) from error
        if len(rest) < _SCAN_FROM_BYTES:
            return parsed(rest, implied_type)
        return _parse(rest, variant, implied_type, node_known=True)[0]

    return decoded


def _unreadable(message: bytes, variant: Variant) -> PeerError:
    return PeerError(f"a message of {len(message)} bytes is no {_NAME[variant]}")


def _parse(message: bytes, variant: Variant, implied_type: str | None, *, node_known: bool) -> tuple[Request, NodeInfo | None]:
    try:
        parsed = wire.DiscoveryRequest.FromString(message) if variant is Variant.SOTW else wire.DeltaDiscoveryRequest.FromString(message)
    except (DecodeError, ValueError) as error:
        raise _unreadable(message, variant) from error
    type_url = parsed.type_url or implied_type
    if not type_url:
        raise PeerError("type_url is missing; on the aggregated service every request names its type")
    if len(type_url) > _MAX_TEXT:
        raise PeerError(f"type_url has {len(type_url)} characters; at most {_MAX_TEXT} make sense")
    if implied_type is not None and type_url != implied_type:
        raise PeerError(f"type_url {type_url} does not belong to this service, which serves {implied_type}")
    node = None if node_known or not parsed.HasField("node") else node_info(parsed.node)
    error_words = parsed.error_detail.message[:MAX_WORDS] if parsed.HasField("error_detail") else None
    if variant is Variant.SOTW:
        return Request(type_url=type_url, nonce=parsed.response_nonce, error=error_words, names=tuple(parsed.resource_names)), node
    request = Request(
        type_url=type_url,
        nonce=parsed.response_nonce,
        error=error_words,
        names=tuple(parsed.resource_names_subscribe),
        unsubscribe=tuple(parsed.resource_names_unsubscribe),
        initial_versions=dict(parsed.initial_resource_versions),
    )
    return request, node


_NAME: Final = {Variant.SOTW: "DiscoveryRequest", Variant.DELTA: "DeltaDiscoveryRequest"}
_LATER: Final = {variant: _later_of(variant) for variant in Variant}


def node_info(node: Any) -> NodeInfo:
    """The little that is kept of a node message."""
    return NodeInfo(id=node.id[:_MAX_TEXT], cluster=node.cluster[:_MAX_TEXT], version=_version(node), metadata=_metadata(node))


def _version(node: Any) -> str:
    if node.HasField("user_agent_build_version"):
        number = node.user_agent_build_version.version
        return f"{number.major_number}.{number.minor_number}.{number.patch}"
    return f"{node.user_agent_name} {node.user_agent_version}".strip()[:_MAX_TEXT]


def _metadata(node: Any) -> Mapping[str, object]:
    metadata = node.metadata
    if metadata.ByteSize() > _MAX_METADATA_BYTES:
        ours = metadata.fields.get(_OUR_METADATA)
        small = Node()
        if ours is not None and ours.ByteSize() <= _MAX_METADATA_BYTES:
            small.metadata.fields[_OUR_METADATA].CopyFrom(ours)
        metadata = small.metadata
    try:
        return _plain(metadata.SerializeToString(deterministic=True))
    except ValueError as error:  # a number that JSON has no word for
        raise PeerError(f"the node's metadata cannot be read: {error}") from error


@lru_cache(maxsize=_MAX_METADATA)
def _plain(metadata: bytes) -> Mapping[str, object]:
    """Equal metadata of a fleet is one object. A double is all a Struct has; whole numbers are meant as such by whoever wrote the bootstrap."""
    plain: dict[str, object] = MessageToDict(Struct.FromString(metadata))
    return MappingProxyType(plain)


def encode(response: Response, variant: Variant) -> bytes:
    """The serialised response; the same bytes for every client that is sent the same response."""
    if variant is Variant.SOTW:
        answer = wire.DiscoveryResponse(version_info=response.version, type_url=response.type_url, nonce=response.nonce)
        answer.resources.extend(_sotw(response.type_url, each) for each in response.resources)
    else:
        answer = wire.DeltaDiscoveryResponse(system_version_info=response.version, type_url=response.type_url, nonce=response.nonce)
        answer.removed_resources.extend(response.removed)
        for each in response.resources:
            _fill(answer.resources.add(), response.type_url, each, bodiless=response.bodiless)
    answer.control_plane.identifier = CONTROL_PLANE
    encoded: bytes = answer.SerializeToString()
    return encoded


def _sotw(type_url: str, resource: Resource) -> Any:
    """A lifetime has no place in a bare Any: such a resource travels inside a `Resource`."""
    if resource.ttl_s is None:
        return AnyMessage(type_url=type_url, value=resource.body)
    wrapped = wire.Resource()
    _fill(wrapped, type_url, resource, bodiless=False)
    return AnyMessage(type_url=_RESOURCE_TYPE, value=wrapped.SerializeToString())


def _fill(message: Any, type_url: str, resource: Resource, *, bodiless: bool) -> None:
    message.name = resource.name
    message.version = resource.version
    if resource.ttl_s is not None:
        message.ttl.FromMicroseconds(round(resource.ttl_s * 1e6))
    if not bodiless:
        message.resource.type_url = type_url
        message.resource.value = resource.body


_RESOURCE_TYPE: Final = "type.googleapis.com/envoy.service.discovery.v3.Resource"


_FIXED_BYTES: Final = {1: 8, 5: 4}
"""What follows a tag of these wire types."""


def without_field(message: bytes, number: int) -> bytes:
    """A protobuf message without the first top-level field of a number, by skipping and not parsing; what follows it is not looked at.

    Raises: IndexError, ValueError: If the message is cut off before, or has wire types that no message has.
    """
    place = 0
    while place < len(message):
        start, tag = place, message[place]
        place += 1
        if tag >= 0x80:
            tag, place = _varint(message, start)
        kind = tag & 7
        if kind == 2:
            length = message[place]
            place += 1
            if length >= 0x80:
                length, place = _varint(message, place - 1)
            place += length
        elif kind == 0:
            _, place = _varint(message, place)
        elif kind in _FIXED_BYTES:
            place += _FIXED_BYTES[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if place > len(message):
            raise ValueError("cut off")
        if tag >> 3 == number:
            return message[:start] + message[place:]
    return message


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("varint of more than ten bytes")
