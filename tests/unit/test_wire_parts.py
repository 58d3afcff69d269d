"""The parts of the wire one by one: states, settings, header blocks, status and time limits, shared frames."""

import pytest
from hpack import Decoder, Encoder

from tests.wire_pair import HEADERS, parsed, prefixed
from xds_server.wire import frames, grpc
from xds_server.wire.errors import Code, FatalError, StreamError
from xds_server.wire.headers import Blocks, Reader
from xds_server.wire.shared import SharedFrames, framed
from xds_server.wire.states import MOVES, VERDICTS, Move, State

STREAM_FRAMES = {frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.WINDOW_UPDATE}


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_verdict_on_every_frame_of_a_stream(state):
    assert VERDICTS[state].keys() == STREAM_FRAMES
    for verdict in VERDICTS[state].values():
        assert not (verdict.takes and verdict.code is not None)


def test_closed_states_take_nothing_and_go_nowhere():
    closed = {State.ENDED, State.RESET_BY_PEER, State.RESET_BY_US, State.PASSED}
    assert not any(verdict.takes for state in closed for verdict in VERDICTS[state].values())
    assert MOVES.keys() == set(State) - closed


def test_every_state_can_be_left_by_a_reset_of_either_side_and_comes_to_an_end():
    for state in (State.OPEN, State.HALF_CLOSED_REMOTE):
        assert MOVES[state][Move.PEER_RESET] is State.RESET_BY_PEER
        assert MOVES[state][Move.WE_RESET] is State.RESET_BY_US


def test_of_equal_settings_the_last_counts():
    packed = frames.pack_settings({frames.INITIAL_WINDOW_SIZE: 5})[9:] + frames.pack_settings({frames.INITIAL_WINDOW_SIZE: 7})[9:]
    assert frames.parse_settings(packed) == {frames.INITIAL_WINDOW_SIZE: 7}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600.0), ("2M", 120.0), ("3S", 3.0), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9), ("99999999S", 99_999_999.0)],
)
def test_time_limits(text, seconds):
    assert grpc.timeout_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "1", "1s", "1 S", "-1S", "123456789S", "١S", "1.5S"])
def test_what_is_no_time_limit(text):
    with pytest.raises(ValueError, match="grpc-timeout"):
        grpc.timeout_s(text)


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 5000])
def test_a_status_message_is_cut_between_characters_of_its_encoding(length):
    block = grpc.trailers_block(13, "ü" * length, alone=True)
    fields = dict(Decoder().decode(block))
    sent = fields.get("grpc-message", "")
    assert len(sent) <= 1024
    assert sent == ("%C3%BC" * length)[: len(sent)]
    assert len(sent) % 3 == 0
    assert fields["grpc-status"] == "13"
    assert len(block) < frames.MAX_FRAME


def test_our_header_blocks_leave_the_tables_of_a_peer_alone():
    decoder = Decoder()
    decoder.decode(grpc.HEADERS_BLOCK)
    decoder.decode(grpc.trailers_block(12, "no", alone=True))
    assert not decoder.header_table.dynamic_entries


def test_the_same_first_block_is_decoded_once_for_all_connections():
    blocks = Blocks(list_bytes=16_384)
    block = Encoder().encode(HEADERS)
    requests = [Reader(blocks).request(bytes(bytearray(block))) for _ in range(3)]
    assert requests[0] is requests[1] is requests[2]
    assert requests[0].path == "/t.T/M"


def test_a_reader_that_took_a_short_cut_catches_up():
    blocks, encoders = Blocks(list_bytes=16_384), [Encoder() for _ in range(2)]
    for encoder in encoders:
        reader = Reader(blocks)
        for number in (1, 2, 2, 1):
            fields = [*HEADERS, ("x-number", str(number)), ("x-more", "same")]
            request = reader.request(encoder.encode(fields))
            assert dict(request.fields)[b"x-number"] == str(number).encode()
        assert reader.fields(encoder.encode([("x-trailer", "1"), ("x-more", "same")])) == ((b"x-trailer", b"1"), (b"x-more", b"same"))


def test_a_block_that_only_repeats_is_decoded_once():
    reader, encoder = Reader(Blocks(list_bytes=16_384)), Encoder()
    encoded = [encoder.encode(HEADERS) for _ in range(4)]
    assert encoded[1] == encoded[2] == encoded[3]
    requests = [reader.request(block) for block in encoded]
    assert requests[1] is requests[2] is requests[3]
    changed = reader.request(encoder.encode([*HEADERS, ("x-new", "1")]))
    assert dict(changed.fields)[b"x-new"] == b"1"
    assert reader.request(encoder.encode(HEADERS)).fields == requests[0].fields


@pytest.mark.parametrize(
    "fields", [[*HEADERS, ("host", "test")], [*(each for each in HEADERS if each[0] != ":authority"), ("host", "elsewhere")]]
)
def test_a_host_that_contradicts_nothing_is_a_field_like_any_other(fields):
    assert Reader(Blocks(list_bytes=16_384)).request(Encoder().encode(fields)).refusal is None


def test_a_malformed_first_block_is_not_forgotten():
    reader, encoder = Reader(Blocks(list_bytes=16_384)), Encoder()
    with pytest.raises(StreamError):
        reader.request(encoder.encode([*HEADERS, ("connection", "close"), ("x-kept", "1")]))
    assert dict(reader.request(encoder.encode([*HEADERS, ("x-kept", "1")])).fields)[b"x-kept"] == b"1"


def test_a_block_that_cannot_be_decoded_costs_the_connection():
    with pytest.raises(FatalError) as caught:
        Reader(Blocks(list_bytes=16_384)).request(b"\x80")
    assert caught.value.code is Code.COMPRESSION_ERROR


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 32_763, 100_000])
def test_frames_hold_the_message_and_no_frame_is_larger_than_16_kb(size):
    body = bytes(size)
    found = parsed(b"".join(framed(body, 5)))
    assert b"".join(payload for *_, payload in found) == prefixed(body)
    assert all(len(payload) <= 16_384 and (kind, flags, stream) == (0, 0, 5) for kind, flags, stream, payload in found)


def test_a_short_message_is_joined_at_once_and_a_long_one_the_second_time():
    shared, short, long = SharedFrames(room=10**6), bytes(100), bytes(50_000)
    assert shared.frames(short, 1) is shared.frames(short, 1)
    assert len(shared.frames(long, 1)) > 1
    joined = shared.frames(long, 1)
    assert len(joined) == 1
    assert shared.frames(long, 1) is joined
    assert shared.frames(long, 3) != joined


def test_equal_messages_are_not_mixed_up_and_what_is_kept_is_bounded():
    shared = SharedFrames(room=50_000)
    for number in range(100):
        body = bytes([number]) * 1000
        assert parsed(shared.frames(body, 1)[0])[0][3] == prefixed(body)
        assert shared.held <= 50_000
    assert shared.held > 40_000
    large = bytes(60_000)
    shared.frames(large, 1)
    assert b"".join(shared.frames(large, 1)) == b"".join(framed(large, 1))


def test_what_is_not_sent_again_is_forgotten():
    shared, kept, lost = SharedFrames(room=10**6), bytes(10), bytes(20)
    shared.frames(kept, 1), shared.frames(lost, 1)
    shared.expire()
    shared.frames(kept, 1)
    shared.expire()
    assert shared.held == len(shared.frames(kept, 1)[0])
    shared.expire(), shared.expire()
    assert shared.held == 0


def test_long_messages_that_are_sent_once_do_not_pile_up():
    shared = SharedFrames(room=50_000)
    for number in range(40):
        message = bytes([number]) * 10_000
        assert b"".join(shared.frames(message, 1))[14:] == message
        assert shared.kept <= 50_000
    assert shared.kept > 40_000
    whole = bytes(60_000)
    assert sum(map(len, shared.frames(whole, 1))) == 60_000 + 5 + 4 * 9
    assert shared.kept <= 50_000
    shared.expire()
    shared.expire()
    assert (shared.kept, shared.held) == (0, 0)
