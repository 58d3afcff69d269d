"""The wire transport's own: TLS and client certificates, ALPN, limits of the listener, back-pressure of real sockets; over both loops."""

import asyncio
import contextlib
import inspect
import socket
import ssl
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
import structlog
import trustme
import uvloop

from bench.fleet import ACK, DATA, GOAWAY, HEADERS, PING, WINDOW_UPDATE, frame, greeting, message
from tests.wire.discovery import until
from tests.wire_pair import parsed
from xds_server.adapters.wire_transport import WireTransport, tls_context
from xds_server.core.transport import Kind, Method, Status
from xds_server.wire import Limits, Reason

PATH = "/t.T/M"
WIDE = frame(WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big"))


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test):
    """Runs an async test once on each loop: sockets behave differently on them."""

    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop, **fixtures):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**fixtures))

    run.__signature__ = inspect.signature(test).replace(
        parameters=[
            inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY),
            *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inspect.signature(test).parameters.values()),
        ]
    )
    return run


class Service:
    """Answers with what `answer` makes of a message."""

    def __init__(self, answer=lambda message: message):
        self.answer, self.outlets, self.closed = answer, [], 0

    def __call__(self, outlet):
        self.outlets.append(outlet)
        service = self

        class Session:
            def received(self, message):
                if (answer := service.answer(message)) is not None:
                    outlet.send(answer)

            def closed(self):
                service.closed += 1

        return Session()


@asynccontextmanager
async def serving(service, *, kind=Kind.STREAM, **options):
    transport = WireTransport([Method(path=PATH, service=service, kind=kind)], **options)
    port = await transport.serve("127.0.0.1:0")
    try:
        yield transport, port
    finally:
        await transport.stop(0.1)


class Authority:
    """Who vouches for servers and clients, and their files."""

    def __init__(self, folder):
        self.ca = trustme.CA()
        server = self.ca.issue_cert("localhost", "127.0.0.1")
        self.files = [folder / name for name in ("server.pem", "server.key", "ca.pem")]
        server.cert_chain_pems[0].write_to_path(self.files[0])
        server.private_key_pem.write_to_path(self.files[1])
        self.ca.cert_pem.write_to_path(self.files[2])

    def context(self, *, mutual):
        return tls_context(*self.files[: 3 if mutual else 2])

    def channel(self, port, client=None):
        pair = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()) if client else (None, None)
        return grpc.aio.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(self.ca.cert_pem.bytes(), *pair))


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@on_both_loops
async def test_calls_over_tls(authority):
    async with serving(Service(), tls=authority.context(mutual=False)) as (_, port), authority.channel(port) as channel:
        stream = channel.stream_stream(PATH)()
        for body in (b"hello", bytes(1_000_000), b"", bytes(100_000)):
            await stream.write(body)
            assert await stream.read() == body


@on_both_loops
async def test_a_client_certificate_reaches_the_service(authority):
    service, client = Service(), authority.ca.issue_cert("client@example.test")
    async with serving(service, tls=authority.context(mutual=True)) as (_, port), authority.channel(port, client) as channel:
        stream = channel.stream_stream(PATH)()
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        assert service.outlets[0].certificate == ssl.PEM_cert_to_DER_cert(client.cert_chain_pems[0].bytes().decode())


@on_both_loops
async def test_a_client_without_a_certificate_or_with_one_of_another_authority_gets_no_service(authority):
    service, stranger = Service(), trustme.CA().issue_cert("client@example.test")
    async with serving(service, tls=authority.context(mutual=True)) as (_, port):
        for client in (None, stranger):
            async with authority.channel(port, client) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.stream_stream(PATH)().read()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not service.outlets


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
@on_both_loops
async def test_a_client_that_did_not_agree_on_http2_is_cut_off(authority, protocols):
    context = ssl.create_default_context()
    authority.ca.configure_trust(context)
    if protocols:
        context.set_alpn_protocols(protocols)
    async with serving(Service(), tls=authority.context(mutual=False)) as (transport, port):
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # OpenSSL itself refuses where nothing is in common
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            assert await reader.read() == b""
            assert transport.counters.refused == {Reason.ALPN: 1}
            writer.transport.abort()
        await until(lambda: not transport.links)


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


class Rude:
    """A client that does the handshake by hand and then something else."""

    def __init__(self, context, port):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.port = port

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.write()
                self.incoming.write(await self.reader.read(65_536))
            else:
                return self.write()

    def write(self, data=b""):
        self.writer.write(self.outgoing.read() + data)

    async def last_words(self):
        """All the server says until it closes, and how it closes: by an alert of TLS, or without."""
        said = b""
        while data := await self.reader.read(65_536):
            self.incoming.write(data)
        self.incoming.write_eof()
        try:
            while piece := self.tls.read(65_536):
                said += piece
        except ssl.SSLError as error:
            return said, error.reason
        return said, None


def trusting(authority):
    context = ssl.create_default_context()
    authority.ca.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    return context


@on_both_loops
async def test_a_record_that_was_tampered_with_ends_its_connection_with_an_alert_and_no_other(authority):
    async with serving(Service(), tls=authority.context(mutual=False)) as (transport, port), authority.channel(port) as channel:
        stream = channel.stream_stream(PATH)()
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        rude = Rude(trusting(authority), port)
        await rude.connect()
        rude.tls.write(greeting(PATH))
        record = bytearray(rude.outgoing.read())
        record[-1] ^= 1
        rude.write(bytes(record))
        _, reason = await rude.last_words()
        assert "BAD_RECORD_MAC" in reason
        assert transport.counters.refused == {Reason.TLS: 1}
        rude.writer.close()
        await stream.write(b"again")
        assert await stream.read() == b"again"


@on_both_loops
async def test_plain_words_to_a_tls_port_are_refused(authority):
    async with serving(Service(), tls=authority.context(mutual=False)) as (transport, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting(PATH))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        await until(lambda: not transport.links)
        assert transport.counters.refused == {Reason.TLS: 1}
        writer.close()


@on_both_loops
async def test_a_handshake_cut_in_bytes_is_one_and_records_of_several_reads_are_put_together(authority):
    service = Service()
    async with serving(service, tls=authority.context(mutual=False)) as (_, port):
        rude = Rude(trusting(authority), port)
        rude.write = lambda: [rude.writer.write(bytes([byte])) for byte in rude.outgoing.read()]
        await rude.connect()
        body = bytes(range(256)) * 100
        rude.tls.write(greeting(PATH))
        for start in range(0, len(said := message(body)), 1000):
            rude.tls.write(said[start : start + 1000])
        for byte in (data := rude.outgoing.read()):
            rude.writer.write(bytes([byte]))
        assert len(data) > len(body)
        await until(lambda: service.outlets)
        got = b""
        while body[-1000:] not in got:
            rude.incoming.write(await rude.reader.read(65_536))
            with contextlib.suppress(ssl.SSLWantReadError):
                while piece := rude.tls.read(65_536):
                    got += piece
        rude.writer.close()


@on_both_loops
async def test_a_peer_that_says_goodbye_is_answered_before_it_is_gone(authority):
    async with serving(Service(), tls=authority.context(mutual=False)) as (transport, port):
        rude = Rude(trusting(authority), port)
        await rude.connect()
        rude.tls.write(greeting(PATH) + message(b"hello"))
        with contextlib.suppress(ssl.SSLWantReadError):
            rude.tls.unwrap()
        rude.write()
        said, reason = await rude.last_words()
        assert reason is None
        assert message(b"hello") in said
        await until(lambda: not transport.links)
        assert not transport.counters.refused
        rude.writer.close()


@on_both_loops
async def test_who_never_finishes_the_handshake_is_cut_off(authority):
    async with serving(Service(), tls=authority.context(mutual=False), limits=Limits(greeting_s=0.05), keepalive_s=0.1) as (
        transport,
        port,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert transport.counters.refused == {Reason.SLOW: 1}
        writer.close()


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
