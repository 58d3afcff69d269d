"""Pods that say anything at all, and pods that speak HTTP/2, for tests of those who ask pods directly (`tests.rig.Backend` is the well-behaved one)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded

from tests.rig import until

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handle: Handle) -> AsyncIterator[tuple[str, int]]:
    """Handles every connection and ends them all with the context; gives the address."""
    open_now: set[asyncio.StreamWriter] = set()

    async def serve(reader, writer):
        open_now.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handle(reader, writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        open_now.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "127.0.0.1", server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in tuple(open_now):
            writer.transport.abort()
        await until(lambda: not open_now, "the connections to end")


@contextlib.asynccontextmanager
async def saying(answer: bytes | None, *, hold: bool = False) -> AsyncIterator[tuple[str, int]]:
    """Says these bytes to whoever sends a line, and closes (or waits for the other side to); None = closes at once."""

    async def handle(reader, writer):
        if answer is not None:
            await reader.readline()
            writer.write(answer)
        if hold:
            await reader.read()

    async with serving(handle) as place:
        yield place


@contextlib.asynccontextmanager
async def http2(*, status: int = 200, body: bytes = b"{}") -> AsyncIterator[tuple[tuple[str, int], list[dict[str, str]]]]:
    """Answers every request; gives the address and the headers of what came."""
    seen: list[dict[str, str]] = []

    async def handle(reader, writer):
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(65_536):
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    seen.append(dict(event.headers))
                if isinstance(event, StreamEnded):
                    connection.send_headers(event.stream_id, [(":status", str(status))])
                    connection.send_data(event.stream_id, body, end_stream=True)
            writer.write(connection.data_to_send())

    async with serving(handle) as place:
        yield place, seen
