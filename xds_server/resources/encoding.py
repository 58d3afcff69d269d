"""Small helpers around protobuf: packing, durations, and turning content into a `Resource` whose version is that content.

A message that holds many rollouts is kept in pieces: protobuf messages concatenate, and a hash over the pieces' hashes stands for the whole,
so a changed piece costs itself. Source: protobuf "Encoding"; xDS `Resource.version` belongs to the resource: replicas must agree on it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Piece:
    """One or more whole fields of a serialised message.

    Attributes:
        digest: Stands for the content: equal for equal content, wherever it was made.
    """

    body: bytes
    digest: bytes


def piece(message: Any) -> Piece:
    """The fields of a message that are set."""
    body: bytes = message.SerializeToString(deterministic=True)
    return Piece(body, _digest(body))


def joined(pieces: Iterable[Piece]) -> Piece:
    """Pieces of one message, in the order of their field numbers."""
    listed = tuple(pieces)
    return Piece(b"".join([each.body for each in listed]), _digest(b"".join([each.digest for each in listed])))


def nested(field_number: int, content: Piece) -> Piece:
    """A piece as the message in one field, field number < 16; the field's number is the only content this adds."""
    return Piece(delimited(field_number, content.body), content.digest)


def resource(name: str, content: Any, *, ttl_s: float | None = None, references: tuple[Reference, ...] = ()) -> Resource:
    """A resource of a message or of a piece."""
    whole = content if isinstance(content, Piece) else piece(content)
    return Resource(name=name, version=whole.digest.hex(), body=whole.body, ttl_s=ttl_s, references=references)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]
