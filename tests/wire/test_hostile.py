"""Peers that mean harm, on real sockets of uvloop: each is bounded, counted and told the right code, and a good neighbour is served all the while.

docs/wire.md has the list of attacks and which test covers which. Nothing is timed: what an attack may cost is read off counters, buffers and
memory. The sans-IO twins of these tests, with more variants, are in tests/unit/test_wire_hostile.py.
"""

import asyncio
import socket
import struct

import pytest
from hpack import Encoder
from structlog.testing import capture_logs

from bench.fleet import frame, greeting
from tests.wire.attackers import (
    BIG,
    BIG_BYTES,
    BLOCK,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEAD,
    HELLO,
    NO,
    PATH,
    PING,
    PRIORITY,
    RST,
    SETTINGS,
    STUMBLE,
    WIDE,
    WINDOW_UPDATE,
    Echo,
    Stage,
    block,
    half_closed,
    on_uvloop,
    opening,
    settings,
    u32,
    under_attack,
)
from tests.wire.discovery import until
from tests.wire.listening import Authority
from tests.wire_pair import HEADERS, prefixed
from xds_server.adapters.wire_transport import WireTransport
from xds_server.wire import Limits, Reason
from xds_server.wire.errors import Code
from xds_server.wire.frames import ACK, END_HEADERS, END_STREAM, MAX_FRAME, PREFACE
from xds_server.wire.limits import Cost

STRAIN = Limits().strain

# Floods: the connection ends with ENHANCE_YOUR_CALM (RFC 9113 section 10.5) long before the flood does.

FLOODS = {
    "2019-9512 ping": (b"", lambda _: frame(PING, 0, 0, bytes(8)), Reason.FLOOD),
    "2019-9515 settings": (b"", lambda _: settings(), Reason.FLOOD),
    "2019-9515 settings that set much": (b"", lambda n: settings(window=65_535 + n % 2), Reason.FLOOD),
    "2019-9513 priority": (opening(1), lambda n: frame(PRIORITY, 0, 2 * n + 3, u32(0) + bytes(1)), Reason.FLOOD),
    "2019-9518 empty frames": (opening(1), lambda _: frame(DATA, 0, 1, b""), Reason.FLOOD),
    "2019-9518 padding only": (opening(1), lambda _: frame(DATA, 8, 1, b"\xff" + bytes(255)), Reason.FLOOD),
    "window updates of the connection": (b"", lambda _: frame(WINDOW_UPDATE, 0, 0, u32(1)), Reason.FLOOD),
    "window updates of a stream": (opening(1), lambda _: frame(WINDOW_UPDATE, 0, 1, u32(1)), Reason.FLOOD),
    "window updates of a closed stream": (
        opening(1) + frame(RST, 0, 1, u32(8)),
        lambda _: frame(WINDOW_UPDATE, 0, 1, u32(1)),
        Reason.FLOOD,
    ),
    "unknown frames": (b"", lambda _: frame(99, 0, 0, b"?"), Reason.FLOOD),
    "acknowledgements of nothing": (b"", lambda _: frame(SETTINGS, ACK, 0, b""), Reason.FLOOD),
    "goaway": (b"", lambda _: frame(GOAWAY, 0, 0, bytes(8)), Reason.FLOOD),
    "100,000 tiny frames of one message": (
        opening(1) + frame(DATA, 0, 1, b"\0" + u32(10**6)),
        lambda _: frame(DATA, 0, 1, b"x"),
        Reason.FLOOD,
    ),
    "data for a stream that was reset": (opening(1) + frame(RST, 0, 1, u32(8)), lambda _: frame(DATA, 0, 1, b""), Reason.FLOOD),
    "2023-44487 rapid reset": (b"", lambda n: opening(2 * n + 1) + frame(RST, 0, 2 * n + 1, u32(8)), Reason.RESETS),
    "streams of no method": (b"", lambda n: opening(2 * n + 1, block=block(path="/none")), Reason.RESETS),
    "streams beyond the limit": (b"", lambda n: opening(2 * n + 1), Reason.RESETS),
}


@pytest.mark.parametrize("attack", FLOODS)
@on_uvloop
async def test_a_flood_ends_its_connection(attack):
    begins, unit, reason = FLOODS[attack]
    async with under_attack(streams=100) as stage:
        peer = await stage.peer(HELLO + begins)
        await peer.attack(unit(number) for number in range(100_000))
        assert await peer.end() is Code.ENHANCE_YOUR_CALM
        assert stage.refused[reason] == 1
        assert stage.calls <= 1 + STRAIN // Cost.STREAM
        assert len(peer.said) <= 3 + STRAIN // Cost.REPLY, "answers are bounded as well"


MADE_RESETS = {
    "a window that opens by 0": lambda n: opening(n) + frame(WINDOW_UPDATE, 0, n, u32(0)),
    "a window over 2^31-1": lambda n: opening(n) + frame(WINDOW_UPDATE, 0, n, u32(2**31 - 1)),
    "data after the end": lambda n: half_closed(n) + frame(DATA, 0, n, b"x"),
    "headers after the end": lambda n: half_closed(n) + opening(n),
    "priority of a wrong size": lambda n: opening(n) + frame(PRIORITY, 0, n, bytes(4)),
    "a malformed request (9516: a header without a name)": lambda n: opening(n, block=BLOCK + b"\0\0\0"),
    "content that was not promised": lambda n: opening(n, block=block(("content-length", "3"))) + frame(DATA, 0, n, bytes(9)),
    "a message of 4 GB": lambda n: opening(n) + frame(DATA, 0, n, b"\0\xff\xff\xff\xff"),
    "a compressed message": lambda n: opening(n) + frame(DATA, 0, n, b"\1" + u32(1) + b"x"),
    "a time limit of a nanosecond": lambda n: opening(n, block=block(("grpc-timeout", "1n"))),
    "a message that its service refuses": lambda n: opening(n, block=block(path=NO)) + frame(DATA, 0, n, prefixed(b"?")),
    "a message over which its service stumbles": lambda n: opening(n, block=block(path=STUMBLE)) + frame(DATA, 0, n, prefixed(b"?")),
    "half a message": lambda n: opening(n) + frame(DATA, END_STREAM, n, b"\0" + u32(2) + b"x"),
}


@pytest.mark.parametrize("attack", MADE_RESETS)
@on_uvloop
async def test_who_makes_us_reset_streams_again_and_again_is_told_to_calm_down(attack):
    """MadeYouReset (CVE-2025-8671): streams that end by a fault the peer makes are as dear as those that it resets."""
    async with under_attack() as stage:
        peer = await stage.peer()
        await peer.attack(MADE_RESETS[attack](2 * number + 1) for number in range(100_000))
        assert await peer.end() is Code.ENHANCE_YOUR_CALM
        assert stage.refused.get(Reason.RESETS, 0) + stage.refused.get(Reason.FLOOD, 0) == 1
        assert stage.calls <= Limits().turn + STRAIN // (Cost.STREAM - Cost.EARNED), (
            "a turn may be over before the ends it brings are counted"
        )


@on_uvloop
async def test_faults_of_a_service_do_not_flood_the_log():
    with capture_logs() as logs:
        async with under_attack() as stage:
            peer = await stage.peer()
            await peer.attack(MADE_RESETS["a message over which its service stumbles"](2 * number + 1) for number in range(1000))
            assert await peer.end() is Code.ENHANCE_YOUR_CALM
            assert stage.refused[Reason.FAULT] > 100
    assert len(logs) == 20


@on_uvloop
async def test_a_stream_that_ends_by_a_fault_does_not_end_the_others():
    """Section 5.4.2. The same faults, once each."""
    async with under_attack() as stage:
        peer = await stage.peer()
        for place, attack in enumerate(MADE_RESETS.values()):
            await peer.say(attack(4 * place + 1) + opening(4 * place + 3) + frame(DATA, 0, 4 * place + 3, prefixed(b"still there")))
            await peer.until(lambda stream=4 * place + 3: (DATA, 0, stream, prefixed(b"still there")) in peer.said)
        assert not peer.payloads(GOAWAY)


# Header blocks: sections 4.3, 6.10, 10.5.1.

HEADER_ATTACKS = {
    "2024-27316 continuation flood": ([frame(HEAD, 0, 1, b"\0")] + [frame(CONTINUATION, 0, 1, b"")] * 10_000, Reason.CONTINUATION),
    "continuations of 16 KB": ([frame(HEAD, 0, 1, b"\0")] + [frame(CONTINUATION, 0, 1, bytes(MAX_FRAME))] * 1000, Reason.HEADER_SIZE),
    "a huge header": ([opening(1, block=BLOCK + b"\0\x01x\x7f" + b"\x81\x7e" + bytes(16_256))], Reason.HEADER_SIZE),
    "a hundred headers of 200 bytes": ([opening(1, block=BLOCK + (b"\0\x01x\x7f\x49" + b"v" * 200) * 75)], Reason.HEADER_SIZE),
    "hpack bomb": ([opening(1, block=BLOCK + b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 12_000)], Reason.HEADER_SIZE),
}


@pytest.mark.parametrize("attack", HEADER_ATTACKS)
@on_uvloop
async def test_header_blocks_are_bounded_before_and_after_they_are_decoded(attack):
    units, reason = HEADER_ATTACKS[attack]
    async with under_attack() as stage:
        peer = await stage.peer()
        await peer.attack(units, per_write=10)
        assert await peer.end() is Code.ENHANCE_YOUR_CALM
        assert stage.refused == {reason: 1}
        assert stage.calls == 0


@on_uvloop
async def test_large_header_blocks_again_and_again_are_a_strain():
    """Each is within the limit; Huffman codes make them dear to decode."""
    large = Encoder().encode([*HEADERS, *((f"x-{number}", "v" * 1000) for number in range(12))], huffman=True)
    async with under_attack() as stage:
        peer = await stage.peer()
        await peer.attack((opening(2 * number + 1, block=large) for number in range(10_000)), per_write=10)
        assert await peer.end() is Code.ENHANCE_YOUR_CALM
        assert stage.calls <= 1 + STRAIN // (len(large) >> 4)


# Peers that do not read: CVE-2019-9511, -9517.


@on_uvloop
async def test_a_window_of_zero_costs_references_and_ends_its_stream():
    """Section 10.5; `Limits.outbox` messages wait, one more ends the stream with RESOURCE_EXHAUSTED."""
    async with under_attack(outbox=8) as stage:
        peer = await stage.peer(PREFACE + settings(window=0) + opening(1) + frame(DATA, 0, 1, prefixed(b"a") * 8))
        await until(lambda: stage.service.opened == 2)
        await stage.neighbour()
        assert stage.refused == {}
        await peer.say(frame(DATA, 0, 1, prefixed(b"b")))
        assert await peer.until(peer.resets) == {1: Code.ENHANCE_YOUR_CALM}
        assert peer.statuses() == {1: (8, "8 messages were sent and not read")}
        assert not peer.payloads(DATA)
        assert stage.refused == {Reason.UNREAD: 1}


@on_uvloop
async def test_a_window_that_opens_a_byte_at_a_time_is_a_flood():
    """Data dribble (CVE-2019-9511)."""
    async with under_attack() as stage:
        peer = await stage.peer(PREFACE + settings(window=1) + opening(1, block=block(path=BIG)) + frame(DATA, 0, 1, prefixed(b"")))
        await peer.attack((frame(WINDOW_UPDATE, 0, 1, u32(1)) for _ in range(100_000)), per_write=20)
        assert await peer.end() is Code.ENHANCE_YOUR_CALM
        assert len(peer.payloads(DATA)) <= STRAIN + 1
        assert stage.refused == {Reason.FLOOD: 1}


@on_uvloop
async def test_an_open_window_and_a_socket_that_is_not_read_fill_no_memory():
    """Internal data buffering (CVE-2019-9517): what is handed to the socket is bounded, and so is what waits behind it."""
    async with under_attack(outbox=8) as stage:
        peer = await stage.peer(HELLO + WIDE, read_buffer=8192)
        for number in range(40):
            await peer.say(opening(2 * number + 1, block=block(path=BIG)) + frame(DATA, 0, 2 * number + 1, prefixed(*([b""] * 100))))
        await until(lambda: stage.refused.get(Reason.UNREAD, 0) >= 30)
        await stage.neighbour()
        assert stage.buffered() <= Limits().ahead_bytes + 2 * BIG_BYTES
        assert peer.said == []


@on_uvloop
async def test_who_makes_us_answer_and_does_not_read_is_not_read_from():
    """PING without reading (CVE-2019-9512): the answers that wait are bounded, and the rest stays in the peer's own socket."""
    async with under_attack(strain=10**9) as stage:
        peer = await stage.peer(read_buffer=4096)
        link = next(link for link in stage.transport.links if link.connection.peer.endswith(str(peer.plain.getsockname()[1])))
        flood = asyncio.create_task(peer.say(frame(PING, 0, 0, bytes(8)) * 2_000_000))
        await until(lambda: link.connection.is_choked)
        await stage.neighbour()
        assert not flood.done()
        assert stage.buffered() <= 2**20
        peer.plain.shutdown(socket.SHUT_RDWR)
        await flood


# Slowloris: `Limits.greeting_s`.

BEGINNINGS = {
    "nothing": b"",
    "half a preface": PREFACE[:12],
    "a preface without SETTINGS": PREFACE,
    "half a frame": PREFACE + settings()[:5],
    "half a header block": HELLO + frame(HEAD, 0, 1, BLOCK[:9]),
}


@pytest.mark.parametrize("said", BEGINNINGS)
@on_uvloop
async def test_what_is_begun_and_not_ended_is_cut_off(said):
    async with under_attack(tick_s=0.1, greeting_s=0.2) as stage:
        peer = await stage.peer(BEGINNINGS[said])
        assert await peer.end() is None
        assert stage.refused == {Reason.SLOW: 1}


@on_uvloop
async def test_a_tls_handshake_that_is_not_ended_is_cut_off(tmp_path):
    """Before it is, there is no connection that a tick could end: the loop has to."""
    service = Echo()
    transport = WireTransport([], limits=Limits(greeting_s=0.2), tls=Authority(tmp_path).context(mutual=False))
    stage = Stage(transport, service, await transport.serve("127.0.0.1:0"))
    try:
        for said in (b"", b"\x16\x03\x01\x02\x00"):
            peer = await stage.peer(said)
            assert await peer.end() is None
            peer.plain.close()
        assert not transport.links
    finally:
        await transport.stop(0.1)


@on_uvloop
async def test_who_speaks_something_else_is_told_so_at_once():
    """Section 3.4."""
    async with under_attack() as stage:
        peer = await stage.peer(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert await peer.end() is Code.PROTOCOL_ERROR
        assert stage.refused == {Reason.PREFACE: 1}


# Streams: sections 5.1, 5.1.2, 8.1.

STREAM_FAULTS = {
    "data on an idle stream": (frame(DATA, 0, 5, b"x"), Code.PROTOCOL_ERROR),
    "a reset of an idle stream": (frame(RST, 0, 5, u32(8)), Code.PROTOCOL_ERROR),
    "a window of an idle stream": (frame(WINDOW_UPDATE, 0, 5, u32(1)), Code.PROTOCOL_ERROR),
    "a stream of the server": (opening(2), Code.PROTOCOL_ERROR),
    "a stream that was passed over": (opening(5) + opening(3), Code.PROTOCOL_ERROR),
    "data after the end of both sides": (opening(1, ends=True) + frame(DATA, 0, 1, b"x"), Code.STREAM_CLOSED),
    "a frame over 16 KB": (opening(1) + frame(DATA, 0, 1, bytes(MAX_FRAME + 1)), Code.FRAME_SIZE_ERROR),
    "a push": (frame(5, END_HEADERS, 1, u32(2) + BLOCK), Code.PROTOCOL_ERROR),
    "a header block that is interrupted": (frame(HEAD, 0, 1, BLOCK) + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "a window over 2^31-1": (frame(WINDOW_UPDATE, 0, 0, u32(2**31 - 1)), Code.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize("fault", STREAM_FAULTS)
@on_uvloop
async def test_what_no_stream_allows_ends_the_connection(fault):
    said, code = STREAM_FAULTS[fault]
    async with under_attack() as stage:
        peer = await stage.peer(HELLO + said)
        assert await peer.end() is code
        assert sum(stage.refused.values()) == 1


@on_uvloop
async def test_streams_beyond_the_limit_are_refused_and_may_be_tried_again():
    """Section 5.1.2, also for a peer that never acknowledged our SETTINGS (section 6.5.3)."""
    async with under_attack(streams=10) as stage:
        peer = await stage.peer(HELLO + b"".join(opening(2 * number + 1) for number in range(15)))
        await peer.until(lambda: len(peer.resets()) == 5)
        assert peer.resets() == dict.fromkeys(range(21, 31, 2), Code.REFUSED_STREAM)
        await peer.say(frame(RST, 0, 1, u32(8)) + opening(31) + frame(DATA, 0, 31, prefixed(b"hello")))
        await peer.until(lambda: (DATA, 0, 31, prefixed(b"hello")) in peer.said)
        assert stage.refused == {Reason.STREAMS: 5}


@on_uvloop
async def test_half_closed_streams_that_nobody_ends_are_as_many_as_streams_may_be():
    """A service that never answers, a peer that has said all: no more than `Limits.streams`, and gone with the connection."""
    async with under_attack(streams=10) as stage:
        peer = await stage.peer(HELLO + b"".join(half_closed(n) for n in range(1, 41, 2)))
        await peer.until(lambda: len(peer.resets()) == 10)
        assert stage.calls == 10
        assert set(peer.resets().values()) == {Code.REFUSED_STREAM}


# Messages.


@on_uvloop
async def test_a_message_in_frames_of_one_byte_is_taken():
    """It is odd, not hostile, as long as it is no flood."""
    async with under_attack() as stage:
        body = b"in small pieces, with padding"
        pieces = [frame(DATA, 8, 1, b"\x03" + bytes((byte,)) + bytes(3)) for byte in prefixed(body)]
        peer = await stage.peer(HELLO + opening(1) + b"".join(pieces))
        await peer.until(lambda: (DATA, 0, 1, prefixed(body)) in peer.said)


@on_uvloop
async def test_a_message_of_4_gb_is_refused_by_its_first_five_bytes():
    async with under_attack() as stage:
        peer = await stage.peer(HELLO + opening(1) + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"))
        assert await peer.until(peer.resets) == {1: Code.NO_ERROR}
        [(status, words)] = peer.statuses().values()
        assert status == 8
        assert "4294967295 bytes" in words
        assert stage.refused == {Reason.MESSAGE_SIZE: 1}


@on_uvloop
async def test_peers_that_fill_the_room_for_half_messages_end_themselves_and_nobody_else():
    async with under_attack(message_bytes=2**20, assembling_bytes=2**20, assembling_bytes_all=2**22) as stage:
        half = [frame(DATA, 0, 1, (b"\0" + u32(2**20) if not place else b"") + bytes(16_000)) for place in range(60)]
        for _ in range(8):
            await stage.peer(HELLO + opening(1) + b"".join(half))
        await until(lambda: stage.refused.get(Reason.ASSEMBLING, 0) >= 4)
        assert stage.transport.server.assembling <= 2**22
        await stage.neighbour(bytes(200_000))


# Connections.


@on_uvloop
async def test_connections_beyond_the_limit_are_turned_away():
    async with under_attack(connections=20) as stage:
        peers = [await stage.peer(HELLO + opening(1)) for _ in range(40)]
        turned_away = [await peer.end() for peer in peers[19:]]
        assert set(turned_away) == {Code.ENHANCE_YOUR_CALM}
        assert stage.refused == {Reason.CONNECTIONS: 21}
        assert stage.calls == 19


@on_uvloop
async def test_a_thousand_connections_that_come_and_go_leave_nothing():
    async with under_attack() as stage:
        for _ in range(10):
            peers = [await stage.peer(greeting(PATH)[: number * 5]) for number in range(100)]
            for peer in peers[::2]:
                peer.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with RST
            for peer in peers:
                peer.plain.close()
            await until(lambda: len(stage.transport.links) == 1)
            await stage.neighbour()


@on_uvloop
async def test_all_attacks_at_once_delay_no_neighbour_for_ever():
    """Twenty connections flood while a neighbour has a hundred messages echoed."""
    async with under_attack(streams=100) as stage:
        peers = [await stage.peer(HELLO + begins) for begins, *_ in FLOODS.values()]
        attacks = [
            asyncio.create_task(peer.attack(unit(number) for number in range(100_000)))
            for peer, (_, unit, _) in zip(peers, FLOODS.values(), strict=True)
        ]
        for _ in range(100):
            await stage.neighbour()
        await asyncio.wait(attacks)
        assert [await peer.end() for peer in peers] == [Code.ENHANCE_YOUR_CALM] * len(peers)
