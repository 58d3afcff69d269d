"""Small helpers around protobuf: packing, durations, and turning a message into a `Resource` whose version is its content.

Source: xDS `Resource.version` belongs to the resource; a hash of deterministic bytes lets replicas agree on it.
"""

import hashlib
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from xds_server.core.snapshot import Reference, Resource

TYPE_PREFIX = "type.googleapis.com/"


def pack(message: Message) -> AnyMessage:
    """The message inside an `Any`, always the same bytes for the same content."""
    packed = AnyMessage()
    packed.Pack(message, deterministic=True)
    return packed


def pack_raw(full_name: str, value: bytes) -> AnyMessage:
    """An `Any` of a message that xds-protos does not declare."""
    return AnyMessage(type_url=TYPE_PREFIX + full_name, value=value)


def delimited(field_number: int, value: bytes) -> bytes:
    """One length-delimited field (text, bytes or message), field number < 16."""
    return _varint(field_number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def seconds(value: float) -> Duration:
    """A duration [s], exact to the microsecond."""
    whole = Duration()
    whole.FromMicroseconds(round(value * 1e6))
    return whole


def uint32(value: int) -> UInt32Value:
    return UInt32Value(value=value)


def boolean(*, value: bool) -> BoolValue:
    return BoolValue(value=value)


def resource(name: str, message: Any, *, ttl_s: float | None = None, references: tuple[Reference, ...] = ()) -> Resource:
    body: bytes = message.SerializeToString(deterministic=True)
    return Resource(name=name, version=hashlib.sha256(body).hexdigest()[:16], body=body, ttl_s=ttl_s, references=references)
