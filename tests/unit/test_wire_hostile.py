"""Peers that cost too much: each is bounded, counted, and told the right code. Bare frames, as no library sends them."""

import pytest
from hpack import Encoder

from tests.wire_bare import (
    CALM,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS_FRAME,
    HELLO,
    NO_ERROR,
    ONE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    REFUSED,
    RST,
    SETTINGS,
    WINDOW_UPDATE,
    assert_over,
    block,
    goaway,
    greeted,
    opening,
    resets,
)
from tests.wire_pair import HEADERS, PATH, Host, Wire, frame, parsed, prefixed
from xds_server.wire import Reason


def test_rapid_reset():
    wire = greeted()
    sent = b"".join(opening(stream) + frame(RST, 0, stream, bytes(4)) for stream in range(1, 2001, 2))
    assert goaway(wire.frames(sent)) == CALM
    assert_over(wire, Reason.RESETS)
    assert len(wire.host.receivers) <= 201


def test_resets_that_we_are_made_to_send():
    wire = greeted()
    sent = b"".join(opening(stream) + frame(WINDOW_UPDATE, 0, stream, bytes(4)) for stream in range(1, 2001, 2))
    assert goaway(wire.frames(sent)) == CALM
    assert wire.refused[Reason.RESETS] == 1
    assert len(wire.host.receivers) <= 201


@pytest.mark.parametrize(
    "one",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(PING, 1, 0, bytes(8)),
        frame(SETTINGS, 0, 0, b""),
        frame(SETTINGS, 1, 0, b""),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(WINDOW_UPDATE, 0, 1, ONE),
        frame(WINDOW_UPDATE, 0, 0, ONE),
        frame(GOAWAY, 0, 0, bytes(8)),
        frame(0x77, 0, 1, b""),
        frame(DATA, 0, 1, b""),
        frame(DATA, PADDED, 1, b"\0"),
    ],
)
def test_floods_of_frames_that_do_no_work(one):
    wire = greeted()
    wire.give(opening(1))
    assert goaway(wire.frames(one * 5001)) == CALM
    assert_over(wire, Reason.FLOOD)


def test_a_message_in_100_000_tiny_frames():
    wire = greeted()
    wire.give(opening(1) + frame(DATA, 0, 1, prefixed(bytes(100_000))[:5]))
    assert goaway(wire.frames(frame(DATA, 0, 1, b"\0") * 100_000)) == CALM
    assert_over(wire, Reason.FLOOD)
    assert wire.server.assembling == 0


def test_a_settings_frame_full_of_settings_counts_as_many():
    wire = greeted()
    full = frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff" * 2730)
    assert goaway(wire.frames(full * 2)) == CALM


def test_the_same_at_a_walking_pace_is_nothing():
    wire = greeted()
    wire.give(opening(1))
    for second in range(5):
        wire.give(frame(PING, 0, 0, bytes(8)) * 900)
        wire.connection.tick(float(second))
    wire.give(frame(DATA, 0, 1, prefixed(b"alive")))
    assert wire.host.messages == [b"alive"]


def test_continuation_flood():
    wire = greeted()
    sent = frame(HEADERS_FRAME, 0, 1, block()) + frame(CONTINUATION, 0, 1, b"") * 1000
    assert goaway(wire.frames(sent)) == CALM
    assert_over(wire, Reason.CONTINUATION)


def test_a_header_block_in_pieces_is_taken():
    wire = greeted()
    whole = block()
    wire.give(
        frame(HEADERS_FRAME, 0, 1, whole[:9]) + frame(CONTINUATION, 0, 1, whole[9:20]) + frame(CONTINUATION, END_HEADERS, 1, whole[20:])
    )
    assert wire.host.receivers[0].call.request.path == PATH


def test_a_huge_header_block():
    wire = greeted()
    piece = bytes(16_384)
    sent = frame(HEADERS_FRAME, 0, 1, piece) + frame(CONTINUATION, END_HEADERS, 1, piece)
    assert goaway(wire.frames(sent)) == CALM
    assert_over(wire, Reason.HEADER_SIZE)


def test_an_hpack_bomb():
    wire = greeted()
    encoder = Encoder()
    bomb = encoder.encode([*HEADERS, ("x-bomb", "b" * 4000)]) + b"\xbe" * 8000  # one entry of the table, again and again
    assert goaway(wire.frames(frame(HEADERS_FRAME, END_HEADERS, 1, bomb))) == CALM
    assert_over(wire, Reason.HEADER_SIZE)


def test_more_streams_than_may_be_open_are_refused_and_may_be_tried_again():
    wire = greeted(streams=2)
    frames = wire.frames(opening(1) + opening(3) + opening(5))
    assert resets(frames) == {5: REFUSED}
    wire.give(frame(RST, 0, 1, bytes(4)) + opening(7))
    assert len(wire.connection.calls) == 2
    assert wire.refused == {Reason.STREAMS: 1}


def test_half_messages_are_bounded_on_one_connection_and_on_all():
    wire = greeted(assembling_bytes=1000, assembling_bytes_all=1500)
    wire.give(opening(1) + opening(3))
    wire.give(frame(DATA, 0, 1, prefixed(bytes(2000))[:800]))
    wire.give(frame(DATA, 0, 3, prefixed(bytes(2000))[:800]))
    assert [receiver.closed_count for receiver in wire.host.receivers] == [0, 1]
    other = Wire(wire.host, server=wire.server)
    other.give(HELLO + opening(1) + frame(DATA, 0, 1, prefixed(bytes(2000))[:600]))
    assert wire.refused == {Reason.ASSEMBLING: 1}
    other.give(opening(3) + frame(DATA, 0, 3, prefixed(bytes(300))[:200]))
    assert wire.due, "who holds most gives way to others"
    wire.taken()
    assert [receiver.closed_count for receiver in wire.host.receivers] == [1, 1, 0, 0]
    assert wire.refused == {Reason.ASSEMBLING: 2}
    assert wire.server.assembling == 800
    other.give(frame(DATA, 0, 3, prefixed(bytes(300))[200:]))
    assert wire.host.receivers[3].messages == [bytes(300)]
    assert wire.server.assembling == 600
    other.connection.lost()
    assert wire.server.assembling == 0


def test_a_turn_that_ends_within_the_head_of_a_frame_goes_on():
    wire = greeted(turn=4)
    wire.give(opening(1))
    data = frame(DATA, 0, 1, prefixed(b"a")) * 2 + frame(DATA, 0, 1, prefixed(b"b"))
    wire.connection.receive(data[:-12])
    assert wire.connection.is_unfinished
    wire.connection.receive(b"")
    assert not wire.connection.is_unfinished, "less than the head of a frame is left: nothing to do before more is read"
    wire.give(data[-12:])
    assert wire.host.messages == [b"a", b"a", b"b"]


def test_a_peer_with_a_window_of_zero_costs_references_and_is_cut_off():
    wire = Wire()
    wire.give(PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0") + opening(1))
    call, big = wire.host.receivers[0].call, bytes(1_000_000)
    for _ in range(64):
        call.send(big)
    assert sum(map(len, wire.connection.take())) < 100
    assert call.is_waiting
    call.send(big)
    written = wire.taken()
    assert written.endswith(frame(RST, 0, 1, CALM.to_bytes(4, "big")))
    assert wire.refused == {Reason.UNREAD: 1}
    assert wire.host.receivers[0].closed_count == 1
    assert wire.server.frames.held == 0


def test_a_window_that_opens_a_byte_at_a_time():
    wire = Wire()
    wire.give(PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0") + opening(1))
    wire.host.receivers[0].call.send(bytes(10_000))
    dribble = [kind for _ in range(6000) for kind, *_ in wire.frames(frame(WINDOW_UPDATE, 0, 1, ONE))]
    assert dribble.count(DATA) <= 5000
    assert dribble[-1] == GOAWAY
    assert wire.refused == {Reason.FLOOD: 1}


def test_a_peer_that_reads_much_may_open_its_windows_often():
    wire = Wire()
    wire.give(HELLO + opening(1))
    call, body = wire.host.receivers[0].call, bytes(32_000)
    for _ in range(6000):
        call.send(body)
        for stream in (0, 1):
            wire.give(frame(WINDOW_UPDATE, 0, stream, (32_005).to_bytes(4, "big")))
    assert not wire.connection.over
    assert not call.is_waiting


def test_a_call_that_is_to_end_does_not_wait_for_ever_for_a_peer_that_does_not_read():
    wire = Wire(flush_s=5.0)
    wire.give(PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0") + opening(1))
    call = wire.host.receivers[0].call
    call.send(b"never read")
    call.finish(14, "bye")
    wire.taken()
    for second in range(6):
        assert not wire.connection.tick(float(second))
    assert wire.taken() == b""
    wire.connection.tick(6.1)
    assert frame(RST, 0, 1, CANCEL.to_bytes(4, "big")) in wire.taken()
    assert wire.host.receivers[0].closed_count == 1


def test_who_does_not_read_answers_is_not_read_from():
    wire = greeted()
    wire.connection.pause()
    wire.give(frame(PING, 0, 0, bytes(8)) * 64)
    assert not wire.connection.is_choked
    wire.give(frame(PING, 0, 0, bytes(8)))
    assert wire.connection.is_choked
    wire.connection.resume()
    assert not wire.connection.is_choked


def test_a_host_that_cannot_write_is_handed_no_messages():
    wire = greeted()
    wire.give(opening(1))
    call = wire.host.receivers[0].call
    wire.connection.pause()
    call.send(b"wait")
    assert b"wait" not in wire.taken()
    wire.connection.resume()
    assert b"wait" in wire.taken()


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, HELLO + frame(HEADERS_FRAME, 0, 1, block())])
def test_what_is_begun_has_to_be_done_in_time(said):
    wire = Wire(greeting_s=10.0)
    wire.give(said)
    seconds = [second for second in range(20) if wire.connection.tick(float(second))]
    assert seconds[0] in {11, 12}
    assert wire.refused[Reason.SLOW]


def test_a_silent_peer_is_asked_and_one_that_does_not_answer_is_cut():
    wire = greeted(keepalive_s=30.0, answer_s=10.0)
    wire.give(opening(1))
    assert not wire.connection.tick(0.0)
    assert wire.taken() == b""
    assert not wire.connection.tick(31.0)
    ((kind, flags, stream, payload),) = parsed(wire.taken())
    assert (kind, flags, stream) == (PING, 0, 0)
    wire.give(frame(PING, 1, 0, payload))
    assert not wire.connection.tick(42.0)
    assert not wire.connection.tick(73.0)
    assert wire.connection.tick(84.0)
    assert wire.refused == {Reason.SILENT: 1}


def test_a_connection_without_calls_is_ended_after_a_while():
    wire = greeted(idle_s=100.0, keepalive_s=1000.0)
    wire.give(opening(1))
    wire.connection.tick(500.0)
    wire.give(frame(RST, 0, 1, bytes(4)))
    wire.connection.tick(590.0)
    assert not wire.connection.over
    wire.connection.tick(601.0)
    assert wire.connection.over
    assert goaway(parsed(wire.taken())) == NO_ERROR


def test_one_connection_too_many_is_told_to_calm_down():
    wire = Wire()
    wire.connection.turn_away()
    written = wire.taken()
    assert written[3] == SETTINGS
    assert CALM.to_bytes(4, "big") in written
    assert_over(wire, Reason.CONNECTIONS)


def test_a_busy_peer_gives_others_their_turn():
    wire = greeted(turn=10)
    wire.connection.receive(opening(1) + frame(DATA, 0, 1, prefixed(b"m")) * 100)
    assert len(wire.host.messages) < 10
    assert wire.connection.is_unfinished
    turns = 0
    while wire.connection.is_unfinished:
        wire.connection.receive(b"")
        turns += 1
    assert len(wire.host.messages) == 100
    assert turns >= 19  # a frame and its message count


def test_large_answers_that_nobody_reads_are_bounded_over_all_streams():
    """Internal data buffering (CVE-2019-9517): many streams, each with one answer that is nobody else's."""
    wire = Wire(Host(lambda call, _: call.send(bytes(1000))), waiting_bytes=3500)
    wire.give(PREFACE + frame(SETTINGS, 0, 0, b"\0\4" + bytes(4)))
    for stream in (1, 3, 5):
        wire.give(opening(stream) + frame(DATA, 0, stream, prefixed(b"?")))
    assert wire.connection.waiting_bytes == 3000
    assert resets(wire.frames(opening(7) + frame(DATA, 0, 7, prefixed(b"?")))) == {7: CALM}
    assert wire.refused == {Reason.UNREAD: 1}
    assert wire.connection.waiting_bytes == 3000
    said = wire.frames(frame(SETTINGS, 0, 0, b"\0\4" + (2000).to_bytes(4, "big")))
    assert sum(len(payload) for kind, _, _, payload in said if kind == DATA) == 3 * 1005
    assert wire.connection.waiting_bytes == 0
