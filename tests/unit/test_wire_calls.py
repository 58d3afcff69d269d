"""Calls over the wire's HTTP/2, against h2 as an independent peer: messages, status, windows, time limits, drain."""

import pytest

from tests.wire_pair import HEADERS, Host, Peer, Wire, frame, parsed, prefixed
from xds_server.wire import Reason
from xds_server.wire.frames import GOAWAY, RST_STREAM
from xds_server.wire.frames import HEADERS as HEADERS_FRAME

OK, CANCELLED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 0, 1, 8, 12, 13, 14
BIG = bytes(range(256)) * 1000


def echo(call, message):
    call.send(message)


def talking(on_message=echo, *, unary=False, settings=None, **limits):
    wire = Wire(Host(on_message, unary=unary), **limits)
    return wire, Peer(wire, **(settings or {}))


@pytest.mark.parametrize("body", [b"", b"a", bytes(16_379), bytes(16_380), BIG], ids=len)
def test_a_message_comes_back_as_it_went(body):
    wire, peer = talking()
    stream = peer.open()
    peer.send(stream, prefixed(body))
    assert wire.host.messages == [body]
    assert peer.messages(stream) == [body]


def test_many_messages_in_one_frame_and_one_message_in_many_frames():
    wire, peer = talking()
    stream = peer.open()
    peer.send(stream, prefixed(b"one", b"", b"three"))
    for byte in prefixed(b"slow", b"and"):
        peer.send(stream, bytes([byte]))
    assert wire.host.messages == peer.messages(stream) == [b"one", b"", b"three", b"slow", b"and"]


def test_a_message_whose_end_shares_a_frame_with_the_next_one():
    wire, peer = talking()
    stream = peer.open()
    data = prefixed(bytes(100), b"next")
    peer.send(stream, data[:50])
    peer.send(stream, data[50:])
    assert wire.host.messages == [bytes(100), b"next"]
    assert wire.server.assembling == 0


def test_the_peers_end_ends_a_streaming_call_with_ok():
    wire, peer = talking()
    stream = peer.open()
    peer.send(stream, prefixed(b"hello"), end=True)
    assert peer.messages(stream) == [b"hello"]
    assert peer.status(stream) == OK
    assert stream in peer.ended
    assert not peer.resets
    assert wire.host.receivers[0].closed_count == 1


def test_a_unary_call_goes_on_until_the_service_answers():
    wire, peer = talking(lambda *_: None, unary=True)
    stream = peer.open()
    peer.send(stream, prefixed(b"hello"), end=True)
    assert stream not in peer.ended
    call = wire.host.receivers[0].call
    call.send(b"answer")
    call.finish()
    peer.talk()
    assert peer.messages(stream) == [b"answer"]
    assert peer.status(stream) == OK


def test_what_was_sent_before_the_end_arrives_before_it_even_through_a_narrow_window():
    def answer(call, _):
        call.send(BIG)
        call.send(b"last")
        call.finish(10, "genug für heute: 100 %")
        call.send(b"too late")

    _, peer = talking(answer, settings={"INITIAL_WINDOW_SIZE": 7}, strain=1_000_000)
    stream = peer.open()
    peer.send(stream, prefixed(b"go"))
    assert peer.messages(stream) == [BIG, b"last"]
    assert peer.fields[stream]["grpc-status"] == "10"
    assert peer.fields[stream]["grpc-message"] == "genug f%C3%BCr heute: 100 %25"


def test_a_window_that_closes_below_zero_and_opens_again_loses_nothing():
    wire, peer = talking()
    peer.reads = False
    stream = peer.open()
    peer.send(stream, prefixed(BIG))
    began = len(peer.data[stream])
    assert 0 < began < len(BIG)
    peer.h2.update_settings({4: 10})
    peer.talk()
    peer.h2.increment_flow_control_window(10**6)
    peer.h2.increment_flow_control_window(10**6, stream)
    peer.talk()
    assert peer.messages(stream) == [BIG]
    assert not wire.host.receivers[0].call.is_waiting


def test_streams_share_a_window_in_turn():
    wire, peer = talking(lambda *_: None)
    peer.reads = False
    streams = [peer.open() for _ in range(3)]
    for receiver in wire.host.receivers:
        receiver.call.send(BIG)
    peer.talk()
    got = [len(peer.data.get(stream, b"")) for stream in streams]
    assert sum(got) == 65_535
    assert max(got) - min(got) <= 16_384


def test_streams_share_a_window_that_opens_a_little_at_a_time():
    wire, peer = talking(lambda *_: None, settings={"INITIAL_WINDOW_SIZE": 10**6})
    peer.reads = False
    streams = [peer.open() for _ in range(3)]
    for receiver in wire.host.receivers:
        receiver.call.send(BIG)
    for _ in range(12):
        peer.h2.increment_flow_control_window(10_000)
        peer.talk()
    got = [len(peer.data.get(stream, b"")) for stream in streams]
    assert max(got) - min(got) <= 16_384


def test_a_unary_call_without_a_message_is_an_error_of_the_peer():
    wire, peer = talking(unary=True)
    assert peer.status(stream := peer.open(end=True)) == INTERNAL
    assert wire.host.receivers[0].closed_count == 1
    assert stream in peer.ended


def test_a_message_for_many_is_one_object_on_all_connections():
    host = Host(lambda *_: None)
    first = Wire(host)
    wires = [first, *(Wire(host, server=first.server) for _ in range(4))]
    peers = [Peer(wire, INITIAL_WINDOW_SIZE=10**6) for wire in wires]
    for peer in peers:
        peer.h2.increment_flow_control_window(10**6)
        peer.open()
    for receiver in host.receivers:
        receiver.call.send(BIG)
    written = [max(wire.connection.take(), key=len) for wire in wires]
    assert len({id(buffer) for buffer in written[1:]}) == 1
    assert wires[0].server.frames.held == len(written[-1])


def test_many_streams_of_one_connection_are_kept_apart():
    wire, peer = talking()
    streams = [peer.open() for _ in range(20)]
    for stream in streams:
        peer.send(stream, prefixed(str(stream).encode()))
    for stream in streams[::2]:
        peer.send(stream, b"", end=True)
    for stream in streams[1::2]:
        peer.send(stream, prefixed(b"still here"))
    assert [peer.messages(stream) for stream in streams[:2]] == [[b"1"], [b"3", b"still here"]]
    assert len(wire.connection.calls) == 10


def test_a_fault_of_the_service_ends_its_call_alone_and_is_told_once():
    def fail(call, message):
        if message == b"bad":
            raise RuntimeError("a bug")
        call.send(message)

    wire, peer = talking(fail)
    good, bad = peer.open(), peer.open()
    peer.send(bad, prefixed(b"bad", b"more"))
    peer.send(good, prefixed(b"good"))
    assert peer.status(bad) == INTERNAL
    assert peer.messages(good) == [b"good"]
    assert [str(error) for _, error in wire.host.faults] == ["a bug"]
    assert [receiver.closed_count for receiver in wire.host.receivers] == [0, 1]


def test_a_service_that_cannot_even_open_ends_its_call():
    wire, peer = talking()

    def opened(_):
        raise RuntimeError("no")

    wire.host.opened = opened
    assert peer.status(peer.open()) == INTERNAL


def test_a_session_that_ends_its_call_hears_of_the_end_once_and_later():
    def end(call, _):
        call.finish(UNAVAILABLE, "later")
        assert wire.host.receivers[0].closed_count == 0

    wire, peer = talking(end)
    stream = peer.open()
    peer.send(stream, prefixed(b"one", b"two"))
    assert wire.host.messages == [b"one"]
    assert wire.host.receivers[0].closed_count == 1
    assert peer.status(stream) == UNAVAILABLE
    assert peer.resets[stream] == 0  # the peer may stop speaking, and nothing went wrong


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ([("grpc-encoding", "gzip")], UNIMPLEMENTED, Reason.ENCODING),
        ([("grpc-timeout", "forever")], INTERNAL, Reason.HEADERS),
        ([("grpc-timeout", "123456789S")], INTERNAL, Reason.HEADERS),
    ],
)
def test_what_a_call_asks_for_in_vain(fields, status, reason):
    wire, peer = talking()
    assert peer.status(stream := peer.open(fields=fields)) == status
    assert peer.fields[stream][":status"] == "200"
    assert wire.refused == {reason: 1}
    assert not wire.host.receivers


@pytest.mark.parametrize(
    ("headers", "status"), [([(":method", "GET")], "405"), ([(":method", "POST"), ("content-type", "text/html")], "415")]
)
def test_who_does_not_speak_grpc_is_told_so_in_plain_http(headers, status):
    _, peer = talking()
    pseudo, regular = [each for each in headers if each[0][0] == ":"], [each for each in headers if each[0][0] != ":"]
    stream = peer.open(headers=[*pseudo, *HEADERS[1:4], *regular], end=True)
    assert peer.fields[stream][":status"] == status
    assert b"gRPC" in peer.data[stream]
    assert stream in peer.ended


def test_time_limits_are_known_and_kept():
    wire, peer = talking(lambda *_: None)
    stream = peer.open(fields=[("grpc-timeout", "250m")])
    call = wire.host.receivers[0].call
    assert call.request.timeout_s == 0.25
    call.expire()
    peer.talk()
    assert peer.status(stream) == 4
    assert wire.refused == {Reason.DEADLINE: 1}
    assert wire.host.receivers[0].closed_count == 1


def test_a_timer_is_cancelled_with_the_call():
    wire, peer = talking(lambda *_: None)
    cancelled = []
    stream = peer.open()
    wire.host.receivers[0].call.on_end = lambda: cancelled.append(1)
    peer.h2.reset_stream(stream)
    peer.talk()
    assert cancelled == [1]
    assert wire.host.receivers[0].closed_count == 1


def test_a_message_over_the_limit_ends_its_call_and_no_other():
    wire, peer = talking(message_bytes=1000)
    good, bad = peer.open(), peer.open()
    peer.send(bad, prefixed(bytes(1000)))
    assert peer.messages(bad) == [bytes(1000)]
    peer.send(bad, prefixed(bytes(1001))[:20])
    assert peer.status(bad) == RESOURCE_EXHAUSTED
    peer.send(good, prefixed(b"good"))
    assert peer.messages(good) == [b"good"]
    assert wire.refused == {Reason.MESSAGE_SIZE: 1}


def test_a_message_marked_as_compressed_and_one_cut_short_are_refused():
    wire, peer = talking()
    marked, cut = peer.open(), peer.open()
    peer.send(marked, b"\1" + prefixed(b"zip")[1:])
    peer.send(cut, prefixed(b"whole", b"half")[:-1], end=True)
    assert (peer.status(marked), peer.status(cut)) == (INTERNAL, INTERNAL)
    assert wire.refused == {Reason.ENCODING: 1, Reason.MESSAGE: 1}
    assert wire.server.assembling == 0


def test_drain_lets_calls_end_and_takes_no_new_ones():
    wire, peer = talking()
    stream, other = peer.open(), peer.h2.get_next_available_stream_id()
    peer.h2.send_headers(other, HEADERS)  # on its way when we drain
    wire.connection.drain()
    on_its_way = peer.h2.data_to_send()
    assert [kind for kind, *_ in parsed(wire.taken())] == [GOAWAY]
    assert wire.give(on_its_way) == b""
    assert len(wire.host.receivers) == 1
    assert not wire.connection.over
    wire.host.receivers[0].call.finish(UNAVAILABLE, "the server is stopping")
    assert [(kind, number) for kind, _, number, _ in parsed(wire.taken())] == [(HEADERS_FRAME, stream), (RST_STREAM, stream)]
    assert wire.connection.over


def test_who_is_sent_away_is_told_to_open_another_connection_and_keeps_its_other_calls():
    wire, peer = talking()
    away, other = peer.open(), peer.open()
    wire.host.receivers[0].call.finish(UNAVAILABLE, "connect again")
    frames = [(kind, number) for kind, _, number, _ in parsed(wire.taken())]
    assert frames == [(HEADERS_FRAME, away), (RST_STREAM, away), (GOAWAY, 0)]
    assert not wire.connection.over
    assert wire.give(b"".join(frame(0, 0, other, prefixed(b"still here")) for _ in range(2)))
    wire.host.receivers[1].call.finish(UNAVAILABLE, "connect again")
    assert GOAWAY not in [kind for kind, *_ in parsed(wire.taken())], "told once"
    assert wire.connection.over


def test_a_lost_connection_closes_every_session_once():
    wire, peer = talking()
    peer.open(), peer.open()
    wire.connection.lost()
    call = wire.host.receivers[0].call
    call.send(b"too late")
    call.finish()
    assert [receiver.closed_count for receiver in wire.host.receivers] == [1, 1]
    assert wire.connection.take() == []


def test_trailers_of_the_peer_end_its_side():
    wire, peer = talking()
    stream = peer.open()
    peer.h2.send_headers(stream, [("x-trailer", "yes")], end_stream=True)
    peer.talk()
    assert peer.status(stream) == OK
    assert wire.host.receivers[0].closed_count == 1


def test_the_dynamic_table_of_the_peer_is_followed_over_many_calls():
    wire, peer = talking()
    for number in range(5):
        peer.open(fields=[("x-number", str(number % 2)), ("x-same", "again")])
    asked = [dict(receiver.call.request.fields)[b"x-number"] for receiver in wire.host.receivers]
    assert asked == [b"0", b"1", b"0", b"1", b"0"]


def test_a_peer_that_keeps_no_table_understands_our_headers():
    _, peer = talking(settings={"HEADER_TABLE_SIZE": 0})
    stream = peer.open()
    peer.send(stream, prefixed(b"hello"), end=True)
    assert peer.status(stream) == OK
