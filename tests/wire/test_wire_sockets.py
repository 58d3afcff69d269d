"""The wire transport's own: TLS and client certificates, ALPN, limits of the listener, back-pressure of real sockets; over both loops."""

import asyncio
import socket

import grpc
import grpc.aio
import pytest
import structlog

from bench.fleet import ACK, DATA, GOAWAY, HEADERS, PING, frame, greeting, message
from tests.wire.discovery import until
from tests.wire.listening import PATH, WIDE, Service, on_both_loops, serving
from tests.wire_pair import parsed
from xds_server.core.transport import Kind, Status
from xds_server.wire import Limits, Reason


@on_both_loops
async def test_one_connection_too_many_is_turned_away_and_there_is_room_again_when_another_leaves():
    async with serving(Service(), limits=Limits(connections=1)) as (transport, port):
        _, first = await asyncio.open_connection("127.0.0.1", port)
        first.write(greeting(PATH) + message(b"hello"))
        await until(lambda: transport.links)
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        said = await reader.read()
        assert frame(GOAWAY, 0, 0, b"")[3:] in said
        assert transport.counters.refused == {Reason.CONNECTIONS: 1}
        first.close()
        second.close()
        await until(lambda: not transport.links)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = channel.stream_stream(PATH)()
            await stream.write(b"hello")
            assert await stream.read() == b"hello"


@on_both_loops
async def test_the_time_limit_of_a_call_is_kept_by_the_server():
    service = Service(lambda _: None)
    async with serving(service, kind=Kind.UNARY) as (transport, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(PATH)(b"hello", timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: service.closed == 1)
        assert not any(link.connection.calls for link in transport.links)


@on_both_loops
async def test_a_socket_that_is_full_is_not_written_to_and_what_waits_is_bounded():
    body = bytes(1_000_000)
    service = Service(lambda _: body)
    async with serving(service) as (transport, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        settings = frame(4, 0, 0, (4).to_bytes(2, "big") + (2**31 - 1).to_bytes(4, "big"))
        head = greeting(PATH)
        writer.write(head[:24] + settings + WIDE + head[head.index(frame(8, 0, 0, b"")[3:]) - 3 :])
        for _ in range(200):
            writer.write(message(b"more"))
            await writer.drain()
        await until(lambda: transport.counters.refused[Reason.UNREAD] == 1)
        await until(lambda: service.closed == 1)
        writer.transport.abort()


@on_both_loops
async def test_a_peer_that_pings_and_does_not_read_is_not_read_from_until_it_reads():
    pings = 400_000
    async with serving(Service(), limits=Limits(strain=10**9)) as (transport, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(greeting(PATH))
        writing = asyncio.create_task(write_all(writer, frame(PING, 0, 0, bytes(8)) * 1000, pings // 1000))
        await until(lambda: any(link.connection.is_choked for link in transport.links))
        answered, rest = 0, b""
        while answered < pings:
            rest += await reader.read(1 << 20)
            at = 0
            while len(rest) - at >= 9 and len(rest) - at >= (size := 9 + int.from_bytes(rest[at : at + 3], "big")):
                answered += rest[at + 3] == PING and rest[at + 4] == ACK
                at += size
            rest = rest[at:]
        await writing
        writer.close()


async def write_all(writer, data, times):
    for _ in range(times):
        writer.write(data)
        await writer.drain()


@on_both_loops
async def test_a_burst_of_one_peer_is_taken_in_turns_and_whole():
    service = Service(lambda _: None)
    seen = []
    service.answer = lambda message: seen.append(message)
    async with serving(service, limits=Limits(turn=16)) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting(PATH) + b"".join(message(str(number).encode()) for number in range(5000)))
        await until(lambda: len(seen) == 5000)
        assert seen == [str(number).encode() for number in range(5000)]
        writer.close()


@on_both_loops
async def test_what_is_said_in_one_turn_goes_out_in_one_write():
    service = Service(lambda _: None)
    async with serving(service) as (transport, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting(PATH) + message(b"hello"))
        await until(lambda: service.outlets)
        await reader.read(1000)  # the greeting
        (link,) = transport.links
        for number in range(3):
            service.outlets[0].send(bytes([number]))
        assert link.connection.room < transport.server.limits.ahead_bytes
        said = b""
        while said.count(bytes((DATA, 0, 0, 0, 0, 1))) < 3:
            said += await reader.read(1000)
        assert said[3] == HEADERS
        writer.close()


@on_both_loops
async def test_a_connection_that_is_cut_in_the_middle_of_a_turn_costs_the_others_nothing():
    service = Service(lambda _: None)
    async with serving(service) as (transport, port):
        readers = []
        for count in range(1, 4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(greeting(PATH) + message(b"hello"))
            readers.append((reader, writer))
            await until(lambda count=count: len(service.outlets) == count)
        for outlet in service.outlets:
            outlet.send(b"for all of you")
        first = next(link for link in transport.links if link.connection.calls[0] is service.outlets[0])
        first.abort()
        for reader, _ in readers[1:]:
            await reader.readuntil(b"for all of you")
        await until(lambda: service.closed == 1)
        for _, writer in readers:
            writer.transport.abort()


@on_both_loops
async def test_a_bug_of_ours_costs_one_connection_and_is_logged_once():
    service = Service()
    async with serving(service, keepalive_s=0.02) as (transport, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting(PATH) + message(b"hello"))
        await until(lambda: service.outlets)
        (link,) = transport.links
        with structlog.testing.capture_logs() as logs:
            link.connection = Broken(link.connection)
            await until(lambda: service.closed == 1)
        assert [(line["event"], line["exc_info"]) for line in logs] == [("connection.failed", True)]
        stream = channel.stream_stream(PATH)()
        await stream.write(b"alive")
        assert await stream.read() == b"alive"
        writer.close()


class Broken:
    """A connection whose clock is broken."""

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def tick(self, now):
        raise RuntimeError("a bug")


@on_both_loops
async def test_what_was_refused_is_told_once_by_name():
    async with serving(Service()) as (transport, port):
        assert transport.take_refused() == {}
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(2):
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.unary_unary("/no/Such")(b"hello")
        assert transport.take_refused() == {"wire_unknown_path": 2}
        assert transport.take_refused() == {}


def long_messages(data):
    """The messages in what one stream was sent."""
    content = b"".join(payload for kind, _, _, payload in parsed(data) if kind == DATA)
    found = []
    while content:
        size = 5 + int.from_bytes(content[1:5], "big")
        found.append(content[5:size])
        content = content[size:]
    return found


@on_both_loops
async def test_long_messages_for_many_arrive_whole_whoever_reads_slowly():
    service, many = Service(lambda _: None), 6
    updates = [bytes([place]) * (250_000 if place % 4 else 40_000) for place in range(24)]  # more than a socket takes that nobody reads
    async with serving(service) as (transport, port):
        peers = [await asyncio.open_connection("127.0.0.1", port, limit=2**16) for _ in range(many)]
        for _, writer in peers:
            writer.write(greeting(PATH) + WIDE + message(b"hello"))
        await until(lambda: len(service.outlets) == many)
        told = [bytearray() for _ in peers]

        async def listen(place):
            while data := await peers[place][0].read(2**20):
                told[place] += data

        quick = [asyncio.create_task(listen(place)) for place in range(many) if place % 3]
        for update in updates:
            for outlet in service.outlets:
                outlet.send(update)
            await asyncio.sleep(0)
        assert transport.pages.held >= 100_000, "they go out as pages"
        slow = [asyncio.create_task(listen(place)) for place in range(0, many, 3)]
        await until(lambda: min(map(len, told)) > sum(map(len, updates)))
        for _, writer in peers:
            writer.close()
        await asyncio.gather(*quick, *slow)
    assert all(long_messages(bytes(data)) == updates for data in told)
    assert transport.pages.held == 0


@on_both_loops
async def test_what_a_socket_did_not_take_goes_out_before_the_next_long_message():
    service, updates = Service(lambda _: None), [bytes([place]) * 40_000 for place in range(250)]
    async with serving(service) as (transport, port):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(greeting(PATH) + message(b"hello"))
            await until(lambda: service.outlets)
            (link,), sent, told = transport.links, 0, b""
            _, other = await asyncio.open_connection("127.0.0.1", port)
            other.write(greeting(PATH) + message(b"hello"))
            await until(lambda: len(service.outlets) == 2)

            async def send():
                nonlocal sent
                for outlet in reversed(service.outlets):  # only what was sent elsewhere too goes out as pages
                    outlet.send(updates[sent])
                sent += 1
                await asyncio.sleep(0)

            while not link._transport.get_write_buffer_size():
                await send()
            while len(told) < 1_000_000:  # the socket has room again, and the loop does not know
                told += peer.recv(2**20)
            for _ in range(3):
                await send()
            peer.setblocking(False)
            while len(told) < 40_000 * sent:
                told += await asyncio.get_running_loop().sock_recv(peer, 2**20)
            other.close()
    assert long_messages(told) == updates[:sent]


@on_both_loops
async def test_a_client_that_is_sent_away_comes_back_on_another_connection():
    service = Service()
    async with serving(service) as (transport, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for connections in (1, 2):
            stream = channel.stream_stream(PATH)(wait_for_ready=True)
            await stream.write(b"hello")
            assert await stream.read() == b"hello"
            assert transport.counters.connections == connections
            service.outlets[-1].finish(Status.UNAVAILABLE, "connect again")
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE


@on_both_loops
async def test_a_peer_that_asks_and_ends_its_side_at_once_is_answered():
    async with serving(Service()) as (transport, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting(PATH) + message(b"hello"))
        writer.write_eof()
        assert message(b"hello") in await reader.read(-1)
        writer.close()
        await until(lambda: not transport.links)
