"""Laws of the wire: how bytes are cut changes nothing, no bytes make it stumble, no window loses or reorders what is sent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire_pair import HEADERS, Host, Peer, Wire, frame, parsed, prefixed

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OPENING = b"".join(bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode() for name, value in HEADERS)

streams = st.integers(0, 9)
payloads = st.one_of(
    st.binary(max_size=40),
    st.just(OPENING),
    st.just(prefixed(b"message")),
    st.just(prefixed(b"one", b"two")[:-1]),
    st.integers(0, 2**32 - 1).map(lambda number: number.to_bytes(4, "big")),
    st.just(bytes(8)),
)
any_frame = st.builds(frame, st.integers(0, 11), st.sampled_from([0, 1, 4, 5, 8, 12, 32, 37, 255]), streams, payloads)
good_frame = st.one_of(
    st.builds(lambda stream: frame(1, 4, stream, OPENING), st.sampled_from([1, 3, 5])),
    st.builds(lambda stream, last: frame(0, last, stream, prefixed(b"hello")), st.sampled_from([1, 3, 5]), st.booleans()),
    st.builds(lambda stream: frame(3, 0, stream, bytes(4)), st.sampled_from([1, 3, 5])),
)
talks = st.lists(st.one_of(good_frame, good_frame, any_frame), max_size=25).map(
    lambda frames: PREFACE + frame(4, 0, 0, b"") + b"".join(frames)
)


def behaviour(wire, written):
    return (
        written,
        wire.connection.over,
        wire.refused,
        [(receiver.call.id, receiver.messages, receiver.closed_count) for receiver in wire.host.receivers],
    )


def echo(call, message):
    call.send(message)


@given(talks, st.lists(st.integers(1, 60), max_size=40))
@settings(deadline=None)
def test_how_the_bytes_are_cut_changes_nothing_but_when(data, cuts):
    whole, cut = Wire(Host(echo)), Wire(Host(echo))
    at_once = whole.give(data)
    in_pieces, start = b"", 0
    for size in [*cuts, len(data)]:
        in_pieces += cut.give(data[start : start + size])
        start += size
    # Messages wait for the end of a turn only when there is no room; here there is, so the order is the same as well.
    assert behaviour(whole, parsed(at_once)) == behaviour(cut, parsed(in_pieces))


def framed(stream, lengths, sizes):
    """Messages of these lengths in frames of these sizes, again and again."""
    content, frames, start = prefixed(*(bytes([length % 251]) * length for length in lengths)), [], 0
    while start < len(content):
        size = sizes[len(frames) % len(sizes)]
        frames.append(frame(0, 0, stream, content[start : start + size]))
        start += size
    return frames


between = st.sampled_from(
    [b"", b"", frame(6, 0, 0, bytes(8)), frame(0, 0, 3, prefixed(b"small")), frame(0, 9, 1, b"\x01\x00\x00"), frame(3, 0, 3, bytes(4))]
)
limits = st.sampled_from(
    [
        {},
        {},
        {"window_bytes": 90_000},
        {"connection_window_bytes": 150_000},
        {"assembling_bytes": 45_000},
        {"message_bytes": 40_000},
        {"turn": 3},
    ]
)


long_parts = st.tuples(
    st.sampled_from([1, 3]),
    st.lists(st.sampled_from([40_000, 61_000, 32_763, 16_380, 3000, 7, 0]), min_size=1, max_size=3),
    st.sampled_from([[16_384], [16_384], [5000], [1024, 16_384], [16_384, 1023], [16_384, 0], [16_384, 1]]),
    st.integers(0, 12),
    between,
)


@given(st.lists(long_parts, min_size=1, max_size=4), limits)
@settings(deadline=None)
def test_long_messages_that_were_read_whole_are_as_those_that_were_not(parts, limits):
    frames = []
    for stream, lengths, sizes, place, other in parts:
        pieces = framed(stream, lengths, sizes)
        frames += (*pieces[:place], other, *pieces[place:])
    assert_alike(frames, limits)


def assert_alike(frames, limits):
    """Read at once, and one by one, so that no long message is read whole."""
    whole, cut = (Wire(Host(), **limits) for _ in range(2))
    begin = [PREFACE, frame(4, 0, 0, b""), *(frame(1, 4, stream, OPENING) for stream in (1, 3))]
    at_once, in_pieces = whole.give(b"".join((*begin, *frames))), b""
    for one in (*begin, *frames):
        in_pieces += cut.give(one)
    same = behaviour(whole, parsed(at_once)) == behaviour(cut, parsed(in_pieces))  # compared here: what differs would be megabytes of words
    assert same
    assert whole.server.assembling == cut.server.assembling
    assert whole.connection._strain == cut.connection._strain


LONG = framed(1, [40_000], [16_384])
FIRST, *LIKE_ONE = (frame(0, 0, 1, part) for part in (prefixed(bytes(36_384))[:16_384], prefixed(bytes(20_000))[:16_384], bytes(3621)))
HALF = frame(0, 0, 3, prefixed(bytes(30_000))[:16_000])


@pytest.mark.parametrize(
    ("frames", "limits"),
    [
        (LONG, {}),
        ([LONG[0], frame(0, 0, 3, LONG[1][9:]), LONG[2]], {}),
        ([LONG[0], frame(11, 0, 1, LONG[1][9:]), LONG[2]], {}),
        ([LONG[0], frame(0, 0, 1, LONG[1][9:] + LONG[2][9:])], {}),
        ([*LONG[:2], frame(0, 1, 1, LONG[2][9:])], {}),
        ([LONG[0], frame(0, 8, 1, b"\x0a" + LONG[1][9:-20] + bytes(30)), *framed(1, [7233], [16_384])], {}),
        ([frame(0, 0, 1, b"\1" + LONG[0][10:]), *LONG[1:]], {}),
        (LONG, {"message_bytes": 39_999}),
        ([HALF, *LONG], {"assembling_bytes": 50_000}),
        ([HALF, *LONG], {"assembling_bytes_all": 50_000}),
        ([*LONG, *LONG], {"window_bytes": 100_000}),
        ([*LONG, *LONG], {"connection_window_bytes": 100_000}),
        ([*LONG, *[frame(6, 0, 0, bytes(8))] * 999], {}),
        (framed(1, [40_000], [16_384, 100, 16_384]), {}),
        (framed(1, [32_765, 5], [16_384]), {}),
        (LONG[:2], {}),
        ([FIRST, frame(6, 0, 0, bytes(8)), *LIKE_ONE], {}),
    ],
    ids=(
        "plain",
        "another stream between",
        "an extension between",
        "a frame over 16 KB",
        "the peer ends",
        "padding",
        "compressed",
        "over the limit",
        "no room here",
        "no room anywhere",
        "window of the stream",
        "window of the connection",
        "what it earns",
        "a crumb within",
        "another message begins",
        "not whole",
        "what looks like one within",
    ),
)
def test_what_makes_a_long_message_no_plain_one(frames, limits):
    assert_alike(frames, limits)


def test_a_long_message_is_as_many_frames_of_a_turn_as_it_has():
    wire = Wire(Host(), turn=12)
    wire.connection.receive(PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, OPENING) + b"".join(LONG * 4))
    assert len(wire.host.messages) == 2, "two frames of the greeting, then twice three and a message each; two are left"
    assert wire.connection.is_unfinished


@given(st.one_of(st.binary(max_size=200), talks), st.binary(max_size=60))
@settings(deadline=None)
def test_no_bytes_make_it_stumble_and_every_session_ends_once(data, more):
    wire = Wire(Host(echo))
    written = wire.give(data) + wire.give(more)
    wire.connection.tick(1.0)
    written += wire.taken()
    if wire.connection.over:
        assert [kind for kind, *_ in parsed(written)].count(7) == 1, "one GOAWAY says why"
    wire.connection.lost()
    assert all(receiver.closed_count == 1 for receiver in wire.host.receivers)
    assert not wire.host.faults
    assert wire.server.assembling == 0
    assert not wire.connection.calls
    assert wire.connection.take() == []


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60_000)), min_size=1, max_size=8),
    st.integers(200, 70_000),
    st.lists(st.one_of(st.just("pause"), st.just("resume"), st.integers(1, 40_000)), max_size=12),
)
@settings(deadline=None, max_examples=50)
def test_every_message_arrives_whole_and_in_order_through_any_window(sends, window, moves):
    wire = Wire(ahead_bytes=30_000, strain=10**6)
    peer = Peer(wire, INITIAL_WINDOW_SIZE=window)
    ids = [peer.open() for _ in range(3)]
    sent = {number: [] for number in ids}
    for place, (index, size) in enumerate(sends):
        body = bytes([place]) * size
        sent[ids[index]].append(body)
        wire.host.receivers[index].call.send(body)
        if place < len(moves):
            match moves[place]:
                case "pause":
                    wire.connection.pause()
                case "resume":
                    wire.connection.resume()
                case room:
                    peer.h2.increment_flow_control_window(room)
        peer.talk()
    wire.connection.resume()
    for receiver in wire.host.receivers:
        receiver.call.finish()
    for _ in range(1000):
        peer.talk()
        if not any(receiver.call.is_waiting for receiver in wire.host.receivers):
            break
        peer.h2.ping(bytes(8))
    assert {number: peer.messages(number) for number in ids} == sent
    assert [peer.status(number) for number in ids] == [0, 0, 0]


@given(st.lists(st.binary(max_size=300), max_size=10), st.lists(st.integers(0, 50), min_size=1, max_size=30), st.booleans())
@settings(deadline=None)
def test_messages_in_any_frames_are_the_messages_that_were_sent(bodies, sizes, padded):
    wire = Wire(strain=10**6)
    wire.give(PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, OPENING))
    data, place = prefixed(*bodies), 0
    while data:
        size, place = sizes[place % len(sizes)] or 1, place + 1
        piece, data = data[:size], data[size:]
        wire.give(frame(0, 8, 1, b"\x03" + piece + bytes(3)) if padded else frame(0, 0, 1, piece))
    assert wire.host.messages == bodies
    assert wire.server.assembling == 0
