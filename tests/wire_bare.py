"""HTTP/2 by hand, against the rules or too much of it: bare frames, as no library sends them, and what came back."""

from tests.wire_pair import HEADERS, Wire, frame

DATA, HEADERS_FRAME, PRIORITY, RST, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY = 1, 4, 8, 32
NO_ERROR, PROTOCOL, FLOW_CONTROL, STREAM_CLOSED, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 0, 1, 3, 5, 6, 7, 8, 9, 11
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + frame(SETTINGS, 0, 0, b"")
ONE = (1).to_bytes(4, "big")


def block(*fields):
    """A header block that needs no table."""
    return b"".join(bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode() for name, value in (*HEADERS, *fields))


def opening(stream, *, flags=END_HEADERS, fields=()):
    return frame(HEADERS_FRAME, flags, stream, block(*fields))


def greeted(host=None, **limits):
    wire = Wire(host, **limits)
    wire.give(HELLO)
    return wire


def goaway(frames):
    """The code of the last frame, which ends the connection."""
    kind, _, stream, payload = frames[-1]
    assert (kind, stream) == (GOAWAY, 0)
    return int.from_bytes(payload[4:8], "big")


def resets(frames):
    return {stream: int.from_bytes(payload, "big") for kind, _, stream, payload in frames if kind == RST}


def assert_over(wire, reason):
    assert wire.connection.over
    assert wire.refused == {reason: 1}
    assert all(receiver.closed_count == 1 for receiver in wire.host.receivers)
    assert wire.give(frame(PING, 0, 0, bytes(8))) == b""
