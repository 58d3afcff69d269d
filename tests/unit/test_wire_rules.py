"""Peers that break the rules of HTTP/2: frames, streams and headers that may not be, each told the right code. Bare frames."""

import pytest
from hpack import Encoder

from tests.wire_bare import (
    COMPRESSION,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL,
    FRAME_SIZE,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS_FRAME,
    ONE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL,
    PUSH_PROMISE,
    RST,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    assert_over,
    block,
    goaway,
    greeted,
    opening,
    resets,
)
from tests.wire_pair import HEADERS, Host, Wire, frame, message, prefixed
from xds_server.wire import Reason


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(DATA, 0, 0, b""), PROTOCOL),
        (frame(DATA, 0, 5, b""), PROTOCOL),
        (frame(DATA, PADDED, 1, b"\x05abcd"), PROTOCOL),
        (frame(DATA, PADDED, 1, b""), FRAME_SIZE),
        (frame(HEADERS_FRAME, END_HEADERS, 0, block()), PROTOCOL),
        (frame(HEADERS_FRAME, END_HEADERS, 2, block()), PROTOCOL),
        (frame(HEADERS_FRAME, END_HEADERS | HAS_PRIORITY, 3, b"\0\0\0"), FRAME_SIZE),
        (frame(HEADERS_FRAME, END_HEADERS | PADDED, 3, b"\xff" + block()[:20]), PROTOCOL),
        (frame(HEADERS_FRAME, END_HEADERS, 3, b"\xff\xff\xff"), COMPRESSION),
        (frame(HEADERS_FRAME, END_HEADERS, 3, b"\x3f\xe2\x1f" + block()), COMPRESSION),
        (frame(HEADERS_FRAME, 0, 3, block()) + frame(PING, 0, 0, bytes(8)), PROTOCOL),
        (frame(HEADERS_FRAME, 0, 3, block()) + frame(DATA, 0, 1, b""), PROTOCOL),
        (frame(HEADERS_FRAME, 0, 3, block()) + frame(CONTINUATION, END_HEADERS, 5, b""), PROTOCOL),
        (frame(HEADERS_FRAME, 0, 3, block()) + frame(0x77, 0, 3, b""), PROTOCOL),
        (frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL),
        (frame(PRIORITY, 0, 1, ONE + b"\0"), PROTOCOL),
        (frame(PRIORITY, 0, 9, bytes(4)), FRAME_SIZE),
        (frame(RST, 0, 0, bytes(4)), PROTOCOL),
        (frame(RST, 0, 9, bytes(4)), PROTOCOL),
        (frame(RST, 0, 1, bytes(3)), FRAME_SIZE),
        (frame(SETTINGS, 0, 1, b""), PROTOCOL),
        (frame(SETTINGS, 0, 0, b"\0"), FRAME_SIZE),
        (frame(SETTINGS, 1, 0, bytes(6)), FRAME_SIZE),
        (frame(SETTINGS, 0, 0, b"\0\2\0\0\0\2"), PROTOCOL),
        (frame(SETTINGS, 0, 0, b"\0\4\x80\0\0\0"), FLOW_CONTROL),
        (frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"), PROTOCOL),
        (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL),
        (frame(PING, 0, 0, bytes(7)), FRAME_SIZE),
        (frame(PING, 0, 1, bytes(8)), PROTOCOL),
        (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
        (frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL),
        (frame(WINDOW_UPDATE, 0, 7, ONE), PROTOCOL),
        (frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE),
        (b"\0\x40\x01\0\0\0\0\0\1", FRAME_SIZE),
    ],
)
def test_frames_that_end_the_connection(data, code):
    wire = greeted()
    wire.give(opening(1))
    assert goaway(wire.frames(data)) == code
    assert wire.connection.over
    assert sum(wire.refused.values()) == 1
    assert wire.host.receivers[0].closed_count == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE),
        (frame(WINDOW_UPDATE, 0, 1, bytes(4)), PROTOCOL),
        (frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"), FLOW_CONTROL),
        (opening(1), PROTOCOL),  # trailers without END_STREAM
        (opening(1, flags=END_HEADERS | END_STREAM), PROTOCOL),  # pseudo-header fields in trailers
    ],
)
def test_frames_that_end_one_stream(data, code):
    wire = greeted()
    wire.give(opening(1) + opening(3))
    assert resets(wire.frames(data)) == {1: code}
    assert [receiver.closed_count for receiver in wire.host.receivers] == [1, 0]
    wire.give(frame(DATA, 0, 3, prefixed(b"alive")))
    assert wire.host.messages == [b"alive"]


@pytest.mark.parametrize(
    "fields",
    [
        [("Upper", "x")],
        [("connection", "close")],
        [("transfer-encoding", "chunked")],
        [("te", "gzip")],
        [("", "x")],
        [("bad name", "x")],
        [("x", "a\nb")],
        [("x", " a")],
        [(":path", "/again")],
        [(":unknown", "x")],
        [("content-length", "-1")],
        [("content-length", "1"), ("content-length", "2")],
        [("host", "elsewhere")],
    ],
)
def test_malformed_headers_end_their_stream_and_no_other(fields):
    wire = greeted()
    wire.give(opening(1))
    assert resets(wire.frames(opening(3, fields=fields))) == {3: PROTOCOL}
    wire.give(frame(DATA, 0, 3, b"ignored") + frame(DATA, 0, 1, prefixed(b"alive")))
    assert wire.host.messages == [b"alive"]
    assert wire.refused == {Reason.HEADERS: 1}


@pytest.mark.parametrize("content", [[b"1234"], [b"123456"], [b"123", b"4567"]])
def test_content_that_is_not_as_long_as_promised_ends_its_stream(content):
    wire = greeted()
    wire.give(opening(1, fields=[("content-length", "5")]))
    *first, last = content
    sent = b"".join(frame(DATA, 0, 1, each) for each in first) + frame(DATA, END_STREAM, 1, last)
    assert resets(wire.frames(sent)) == {1: PROTOCOL}


def test_frames_on_streams_that_are_closed():
    wire = greeted(Host(lambda call, _: call.finish()))
    wire.give(opening(1) + frame(RST, 0, 1, bytes(4)))
    assert resets(wire.frames(frame(DATA, 0, 1, b""))) == {1: STREAM_CLOSED}
    wire.give(opening(3) + frame(DATA, 0, 3, prefixed(b"end it")))
    assert wire.frames(frame(DATA, 0, 3, b"late") + frame(WINDOW_UPDATE, 0, 3, ONE) + frame(RST, 0, 3, bytes(4))) == []
    wire.give(opening(5, flags=END_HEADERS | END_STREAM))
    assert goaway(wire.frames(frame(DATA, 0, 5, b""))) == STREAM_CLOSED


def test_a_half_closed_stream_takes_no_more_data():
    wire = greeted(Host(unary=True))
    wire.give(opening(1) + frame(DATA, END_STREAM, 1, prefixed(b"all")))
    assert resets(wire.frames(frame(DATA, 0, 1, prefixed(b"more")))) == {1: STREAM_CLOSED}
    assert wire.host.messages == [b"all"]


def test_a_stream_number_that_was_passed_over_cannot_be_opened():
    wire = greeted()
    wire.give(opening(5))
    assert goaway(wire.frames(opening(3))) == PROTOCOL


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", PREFACE[:-1] + b"x"])
def test_who_does_not_speak_http2_is_told_so(start):
    wire = Wire()
    frames = wire.frames(start)
    assert frames[0][0] == SETTINGS
    assert goaway(frames) == PROTOCOL
    assert_over(wire, Reason.PREFACE)


@pytest.mark.parametrize("first", [frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 1, 0, b""), frame(DATA, 0, 1, b"x"), opening(1)])
def test_the_first_frame_is_settings(first):
    wire = Wire()
    assert goaway(wire.frames(PREFACE + first)) == PROTOCOL
    assert not wire.host.receivers


def test_extensions_are_ignored():
    wire = greeted()
    assert wire.frames(frame(0x77, 0xFF, 3, b"what") + frame(SETTINGS, 0, 0, b"\xff\xff\0\0\0\1"))[-1][:2] == (SETTINGS, 1)


def test_a_unary_call_is_one_message():
    wire = greeted(Host(unary=True))
    wire.give(opening(1) + frame(DATA, 0, 1, prefixed(b"one", b"two")) + frame(DATA, 0, 1, prefixed(b"three")))
    assert wire.host.messages == [b"one"]


def test_the_words_of_an_error_say_nothing_about_our_memory():
    wire = greeted()
    [said] = [payload for kind, _, _, payload in wire.frames(frame(HEADERS_FRAME, END_HEADERS, 1, b"\xff")) if kind == GOAWAY]
    assert b"0x" not in said
    assert b"cannot be decoded" in said


@pytest.mark.parametrize("field", [(":path", "/a\0b"), (":authority", "a\nb"), (":scheme", " http")])
def test_pseudo_fields_are_held_to_what_a_value_may_be(field):
    wire = greeted()
    spoilt = Encoder().encode([field if name == field[0] else (name, value) for name, value in HEADERS])
    assert resets(wire.frames(frame(HEADERS_FRAME, END_HEADERS, 1, spoilt))) == {1: PROTOCOL}


def test_a_wrong_frame_after_one_that_ended_the_connection_is_not_read():
    wire = greeted()
    wire.give(frame(PING, 0, 1, bytes(8)) + opening(1) + message(b"late"))
    assert not wire.host.receivers


def test_window_is_given_back_for_what_nobody_takes():
    wire = greeted(Host(lambda call, _: call.finish()), connection_window_bytes=200_000, strain=10**6)
    wire.give(opening(1))
    wire.give(frame(DATA, 0, 1, prefixed(b"end")))
    given = sum(
        int.from_bytes(payload, "big")
        for _ in range(100)
        for kind, _, stream, payload in wire.frames(frame(DATA, 0, 1, bytes(10_000)))
        if kind == WINDOW_UPDATE and stream == 0
    )
    assert given >= 900_000


def test_a_stream_number_that_was_passed_over_cannot_be_opened_after_a_fault_on_it_either():
    wire = greeted()
    wire.give(opening(5))
    assert resets(wire.frames(frame(DATA, 0, 3, b"x"))) == {3: STREAM_CLOSED}
    assert goaway(wire.frames(opening(3))) == PROTOCOL
