"""The HTTP port itself: what a client does to it hurts nobody else."""

import asyncio
import contextlib

import uvicorn
from uvicorn.server import ServerState

from tests.cli.control import FakeControl
from tests.rig import until
from xds_server.runtime import web
from xds_server.services import http_api


async def ask(port):
    """The first line of an answer, b"" for none."""
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return await reader.readline()
    return b""


async def test_connections_that_say_nothing_are_only_so_many(monkeypatch):
    monkeypatch.setattr(web, "CONNECTIONS_MAX", 3)
    config, state = uvicorn.Config(http_api.app(FakeControl()), lifespan="off", log_config=None), ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: web.Capped(config, state, {}), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        await until(lambda: len(state.connections) == 3, "three to be there")
        assert await ask(port) == b""
        for _, writer in silent:
            writer.close()
        await until(lambda: not state.connections, "them to be gone")
        assert await ask(port) == b"HTTP/1.1 200 OK\r\n"
