"""Frames of HTTP/2: their types, flags and sizes, as tables, and the few a server writes.

Source: RFC 9113 sections 4 (format) and 6 (types); the error codes are in `errors`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from xds_server.wire.errors import Code, FatalError, StreamError
from xds_server.wire.limits import Reason

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
MAX_FRAME: Final = 16_384
"""Largest payload we take and send: every peer takes as much, so a message is framed in one way for all (section 4.2)."""
MAX_WINDOW: Final = 2**31 - 1
FIRST_WINDOW: Final = 65_535

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
NAMES: Final = ("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION")

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20
PRIORITY_BYTES: Final = 5


HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a peer may say of a setting (section 6.5.2)."""

    low: int
    high: int
    code: Code


_SETTINGS: Final = {
    ENABLE_PUSH: _Setting(0, 1, Code.PROTOCOL_ERROR),
    INITIAL_WINDOW_SIZE: _Setting(0, MAX_WINDOW, Code.FLOW_CONTROL_ERROR),
    MAX_FRAME_SIZE: _Setting(MAX_FRAME, 2**24 - 1, Code.PROTOCOL_ERROR),
}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the head of a frame must say: the stream is 0 (False), is not (True) or either (None); the length is at least, at most."""

    on_stream: bool | None
    low: int = 0
    high: int = MAX_FRAME


_SHAPES: Final = (
    _Shape(on_stream=True),
    _Shape(on_stream=True),
    _Shape(on_stream=True, low=5, high=5),
    _Shape(on_stream=True, low=4, high=4),
    _Shape(on_stream=False),
    _Shape(on_stream=True),
    _Shape(on_stream=False, low=8, high=8),
    _Shape(on_stream=False, low=8),
    _Shape(on_stream=None, low=4, high=4),
    _Shape(on_stream=True),
)

unpack_head: Final = struct.Struct(">IBI").unpack_from
"""Length and type in one number (`length << 8 | type`), flags, stream."""
_pack_head = struct.Struct(">IBI").pack
_pack_u32 = struct.Struct(">I").pack
_unpack_u32 = struct.Struct(">I").unpack_from
_iter_settings = struct.Struct(">HI").iter_unpack


def head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The 9 bytes before a payload."""
    return _pack_head(length << 8 | kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return _pack_head(len(payload) << 8 | kind, flags, stream_id) + payload


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _pack_u32(code))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _pack_u32(increment))


def goaway(last_stream_id: int, code: int, words: str) -> bytes:
    """The end of a connection; words are for the people on the other side."""
    return frame(GOAWAY, 0, 0, _pack_u32(last_stream_id) + _pack_u32(code) + words.encode()[:1024])


def check(kind: int, length: int, stream_id: int) -> None:
    """Whether a frame of a known type may be of that length on that stream.

    Raises: FatalError, StreamError: If not.
    """
    shape, name = _SHAPES[kind], NAMES[kind]
    if shape.on_stream is not None and shape.on_stream is not bool(stream_id):
        raise FatalError(Code.PROTOCOL_ERROR, Reason.FRAME, f"{name} on stream {stream_id} (RFC 9113 section 6)")
    if not shape.low <= length <= shape.high:
        words = f"{name} of {length} bytes (RFC 9113 section 6)"
        if kind == PRIORITY:
            raise StreamError(Code.FRAME_SIZE_ERROR, Reason.FRAME, words)
        raise FatalError(Code.FRAME_SIZE_ERROR, Reason.FRAME, words)


def u32(payload: bytes, at: int = 0) -> int:
    """An unsigned number of 4 bytes."""
    value: int = _unpack_u32(payload, at)[0]
    return value


def padding(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """What a padded payload has before and after its content [bytes]. Raises: FatalError: If that is more than there is."""
    if start == stop:
        raise FatalError(Code.FRAME_SIZE_ERROR, Reason.FRAME, "no room for the length of the padding (RFC 9113 section 4.2)")
    if data[start] >= stop - start:
        raise FatalError(Code.PROTOCOL_ERROR, Reason.FRAME, "padding as long as the frame (RFC 9113 section 6.1)")
    return 1, data[start]


def check_priority(payload: bytes, stream_id: int) -> None:
    """Raises: FatalError: If a stream is to depend on itself (RFC 7540 section 5.3.1); else priorities mean nothing to us."""
    if u32(payload) & MAX_WINDOW == stream_id:
        raise FatalError(Code.PROTOCOL_ERROR, Reason.FRAME, "a stream depends on itself (RFC 7540 section 5.3.1)")


def parse_settings(payload: bytes) -> dict[int, int]:
    """The settings of a frame; the last of equal ones counts. Raises: FatalError: If one is out of its range."""
    if len(payload) % 6:
        raise FatalError(Code.FRAME_SIZE_ERROR, Reason.FRAME, f"SETTINGS of {len(payload)} bytes (RFC 9113 section 6.5)")
    found: dict[int, int] = {}
    pairs: Iterator[tuple[int, int]] = _iter_settings(payload)
    for setting, value in pairs:
        rule = _SETTINGS.get(setting)
        if rule is not None and not rule.low <= value <= rule.high:
            raise FatalError(rule.code, Reason.FRAME, f"setting {setting} is {value} (RFC 9113 section 6.5.2)")
        found[setting] = value
    return found


def pack_settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in values.items()))
