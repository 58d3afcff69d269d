"""Laws of the wire: how bytes are cut changes nothing, no bytes make it stumble, no window loses or reorders what is sent."""

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
