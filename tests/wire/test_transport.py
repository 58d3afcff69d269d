"""What the transport does with peers that break the rules of the road: that vanish, do not read, or send too much. Bare HTTP/2 where it must be."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest

from bench.fleet import ACK, PING, frame, greeting, message
from tests.wire.discovery import until
from tests.wire.transports import Transport
from xds_server.adapters.grpc_transport import MAX_RECEIVE_BYTES, GrpcTransport
from xds_server.core.transport import Method

pytestmark = pytest.mark.usefixtures("each_transport")

PATH = "/t.T/M"


class Service:
    """Answers every message with `answer`; knows who came and went."""

    def __init__(self, answer=b"answer"):
        self.answer, self.outlets, self.closed, self.received = answer, [], 0, 0

    def __call__(self, outlet):
        self.outlets.append(outlet)
        return _Session(self, outlet)


class _Session:
    def __init__(self, service, outlet):
        self._service, self._outlet = service, outlet

    def received(self, _):
        self._service.received += 1
        self._outlet.send(self._service.answer)

    def closed(self):
        self._service.closed += 1


@asynccontextmanager
async def serving(service, **options):
    transport = Transport([Method(path=PATH, service=service)], **options)
    port = await transport.serve("127.0.0.1:0")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await transport.stop(0.1)


@asynccontextmanager
async def bare(address):
    """A connection with one open stream on which one message was said."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(greeting(PATH) + message(b"hello"))
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer_pings(reader, writer, count):
    """Reads frames until so many pings were answered."""
    while count:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == PING and not head[4] & ACK:
            writer.write(frame(PING, ACK, 0, payload))
            count -= 1


async def test_peers_whose_connections_break_while_they_are_written_to_leave_nothing_behind(capfd):
    service = Service(bytes(2_000))
    async with serving(service) as address:
        writers = []
        for _ in range(200):
            _, writer = await asyncio.open_connection(*address.split(":"))
            writer.write(greeting(PATH) + message(b"hello"))
            writers.append(writer)
        await until(lambda: service.received == 200)
        for outlet in service.outlets:
            outlet.send(service.answer)
        for number, writer in enumerate(writers):
            writer.transport.abort()
            if number % 20 == 0:
                await asyncio.sleep(0)  # the server is at a different place with each
        await until(lambda: service.closed == 200)
    assert "Traceback" not in capfd.readouterr().err


class Context:
    """A call as grpc hands it to a handler: a peer that says nothing and, if `broken`, cannot be written to."""

    def __init__(self, *, broken=False):
        self.broken, self.status, self.silence = broken, None, asyncio.Event()

    def peer(self):
        return "nobody"

    async def read(self):
        await self.silence.wait()

    async def write(self, _):
        if self.broken:
            raise grpc.aio.InternalError("broken")

    async def abort(self, code, details):
        self.status = (code, details)


def handled(service, context):
    transport = GrpcTransport([Method(path=PATH, service=service)])
    return asyncio.create_task(transport.service(SimpleNamespace(method=PATH)).stream_stream(None, context))


async def test_a_call_that_grpc_cancels_closes_its_session():
    service = Service()
    handler = handled(service, Context())
    await until(lambda: service.outlets)
    handler.cancel()
    await asyncio.wait([handler])
    assert service.closed == 1


async def test_a_peer_that_cannot_be_written_to_is_gone_and_gets_no_status():
    service, context = Service(), Context(broken=True)
    handler = handled(service, context)
    await until(lambda: service.outlets)
    service.outlets[0].send(b"hello")
    await asyncio.wait([handler])
    assert handler.cancelled()
    assert service.closed == 1
    assert context.status is None


async def test_a_silent_peer_that_answers_pings_stays_and_one_that_vanished_goes():
    service = Service()
    async with serving(service, keepalive_s=0.1, answer_s=0.2) as address, bare(address) as (reader, writer):
        async with asyncio.timeout(20):
            await answer_pings(reader, writer, 5)
        assert service.closed == 0
        await until(lambda: service.closed == 1)


@pytest.mark.rule("P20")
async def test_a_request_over_the_limit_ends_its_stream_and_no_other():
    service = Service()
    async with serving(service) as address, grpc.aio.insecure_channel(address) as channel:
        good, bad = (channel.stream_stream(PATH)() for _ in range(2))
        await good.write(b"hello")
        assert await good.read() == b"answer"
        await bad.write(bytes(MAX_RECEIVE_BYTES + 1))
        assert await bad.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await good.write(b"hello")
        assert await good.read() == b"answer"
        await until(lambda: service.closed == 1)


@pytest.mark.rule("P20")
async def test_a_request_of_the_limit_is_taken():
    service = Service()
    async with serving(service) as address, grpc.aio.insecure_channel(address) as channel:
        stream = channel.stream_stream(PATH)()
        await stream.write(bytes(MAX_RECEIVE_BYTES))
        assert await stream.read() == b"answer"


async def test_a_peer_that_does_not_read_delays_nobody():
    service = Service(bytes(200_000))
    async with serving(service) as address, bare(address), grpc.aio.insecure_channel(address) as channel:
        await until(lambda: service.received == 1)
        for _ in range(20):
            service.outlets[0].send(service.answer)
        stream = channel.stream_stream(PATH, response_deserializer=len)()
        for _ in range(20):
            await stream.write(b"hello")
            async with asyncio.timeout(10):
                assert await stream.read() == 200_000
        assert service.closed == 0


async def test_a_service_that_refuses_at_once_is_heard():
    def refuse(outlet):
        outlet.finish(14, "not yet")  # UNAVAILABLE
        return _Session(Service(), outlet)

    async with serving(refuse) as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="not yet"):
            await channel.stream_stream(PATH)().read()
