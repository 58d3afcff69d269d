"""gRPC over HTTP/2: what a request asks for, how messages are marked, how a call ends.

Source: grpc/grpc `doc/PROTOCOL-HTTP2.md`, `doc/compression.md`, `doc/statuscodes.md`. Compression is refused with UNIMPLEMENTED and the
list of what is accepted: our messages are small or shared, and an inflated message is a bomb that somebody has to bound.
"""

import struct
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from hpack import Encoder, NeverIndexedHeaderTuple

OK: Final = 0
CANCELLED: Final = 1
DEADLINE_EXCEEDED: Final = 4
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14

PREFIX_BYTES: Final = 5
unpack_prefix: Final = struct.Struct(">BI").unpack_from
"""The mark of compression and the length before a message."""
pack_prefix: Final = struct.Struct(">BI").pack

_SMALL_PIECE: Final = 4096


class Partial:
    """A message that is not whole, with its prefix: its pieces, few of them however small they come, so that they are copied only once more."""

    __slots__ = ("_pieces", "_size")

    def __init__(self, begun: bytes) -> None:
        self._pieces = [begun]
        self._size = len(begun)

    def __len__(self) -> int:
        return self._size

    @property
    def first(self) -> bytes:
        """At least what of the prefix there is."""
        return self._pieces[0]

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if len(self._pieces[-1]) < _SMALL_PIECE:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)

    def body(self) -> bytes:
        """All that follows the prefix."""
        return b"".join((memoryview(self._pieces[0])[PREFIX_BYTES:], *self._pieces[1:]))


_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_TIMEOUT_DIGITS: Final = 8
_MAX_STATUS_MESSAGE: Final = 1024
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def timeout_s(text: str) -> float:
    """The time limit of a `grpc-timeout` header [s].

    Raises: ValueError: If it is not one to eight digits and a unit.
    """
    digits, unit = text[:-1], text[-1:]
    if unit not in _UNITS_S or not 1 <= len(digits) <= _MAX_TIMEOUT_DIGITS or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"grpc-timeout {text!r} is not one to eight digits and a unit of H, M, S, m, u, n")
    return int(digits) * _UNITS_S[unit]


def header_block(*fields: tuple[str, str]) -> bytes:
    """A header block that neither reads nor changes the state of a connection: no field is indexed (RFC 7541 section 6.2.3)."""
    return Encoder().encode([NeverIndexedHeaderTuple(*field) for field in fields])


HEADERS_BLOCK: Final = header_block((":status", "200"), ("content-type", "application/grpc"))
"""What precedes the first message of a call, always the same."""


@lru_cache(maxsize=256)
def trailers_block(status: int, message: str, *, alone: bool) -> bytes:
    """What ends a call.

    Args:
        status: A gRPC status code.
        message: For people; cut at 1024 bytes of its encoded form.
        alone: Whether nothing was sent before, so that it is headers and trailers in one ("Trailers-Only").
    """
    fields = [(":status", "200"), ("content-type", "application/grpc")] if alone else []
    fields.append(("grpc-status", str(status)))
    if message:
        fields.append(("grpc-message", _cut(quote(message, safe=_PLAIN))))
    if status == UNIMPLEMENTED:
        fields.append(("grpc-accept-encoding", "identity"))
    return header_block(*fields)


def _cut(encoded: str) -> str:
    """At most so long, and no escape cut in two."""
    if len(encoded) <= _MAX_STATUS_MESSAGE:
        return encoded
    cut = encoded[:_MAX_STATUS_MESSAGE]
    escape = cut.rfind("%", -2)
    return cut if escape < 0 else cut[:escape]
