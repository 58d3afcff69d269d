"""The face of a model server: passes HTTP/1.1 on to the real model behind it, counts every request, and misbehaves when told to.

The model itself is never touched: a fault is 500s or slowness added here, so each good answer is a real one. Users and mirrored copies are
counted apart (Envoy appends `-shadow` to the host of a copy). The control port answers `GET /stats` and obeys `POST /mode` (body: a mode).
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from xds_server.cli.demo.http1 import HEAD_MAX, Head, HttpError, head_bytes, message, read_body, read_head

HEALTH_PATH = "/health"
CONNECTIONS_MAX = 256
"""Connections served at once; more are closed at once."""

IDLE_S = 300.0
ANSWER_S = 120.0
"""Longest time the model may take for one answer [s]."""

SLOW_FACTOR = 3.0
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "te", "upgrade"})


class Mode(StrEnum):
    GOOD = "good"
    ERRORS = "errors"
    """Every answer is a 500; health checks stay green."""
    SLOW = "slow"
    """Every answer takes three times as long, token by token."""


@dataclass(slots=True)
class Tally:
    """What one audience asked for and got.

    Attributes:
        requests: Requests that arrived.
        good: Whole answers below 500.
        failed: Answers of 500 and above.
        broken: Answers that did not reach their end (also when the client left).
        active: Requests in work now.
        since_fault: Requests that arrived since the mode became bad.
        last_at: When the last request arrived [s since the epoch].
    """

    requests: int = 0
    good: int = 0
    failed: int = 0
    broken: int = 0
    active: int = 0
    since_fault: int = 0
    last_at: float | None = None


@dataclass(slots=True)
class Stats:
    """All a model server knows of itself; `fault_at` is when its mode became bad [s since the epoch]."""

    name: str
    ready: bool = False
    mode: Mode = Mode.GOOD
    fault_at: float | None = None
    users: Tally = field(default_factory=Tally)
    shadows: Tally = field(default_factory=Tally)


class Front:
    """One model server's public and control ports."""

    def __init__(
        self, name: str, *, upstream: tuple[str, int], clock: Callable[[], float] = time.time, slow_factor: float = SLOW_FACTOR
    ) -> None:
        self.stats = Stats(name=name)
        self.upstream = upstream
        self._clock = clock
        self._slow_factor = slow_factor
        self._connections = 0

    def set_mode(self, mode: Mode) -> None:
        if mode is self.stats.mode:
            return
        self.stats.mode = mode
        self.stats.fault_at = None if mode is Mode.GOOD else self._clock()
        self.stats.users.since_fault = self.stats.shadows.since_fault = 0

    async def public(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection of the public port to its end."""
        await self._connection(reader, writer, self._answer)

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection of the control port to its end."""
        await self._connection(reader, writer, self._command)

    async def _connection(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[Head, bytes, asyncio.StreamWriter], Awaitable[bool]],
    ) -> None:
        if self._connections >= CONNECTIONS_MAX:
            writer.close()
            return
        self._connections += 1
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    head = await read_head(reader)
                    if head is None:
                        return
                    body = await read_body(reader, head)
                if not await answer(head, body, writer) or not head.keeps:
                    return
        except HttpError as error:
            with contextlib.suppress(ConnectionError):
                writer.write(_json_answer(error.status, {"error": {"message": str(error)}}))
                await writer.drain()
        except (ConnectionError, TimeoutError):
            pass
        except asyncio.CancelledError:
            pass  # the process ends and this is the task's root; asyncio would log each connection's cancellation as an error
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    # Control.

    async def _command(self, head: Head, body: bytes, writer: asyncio.StreamWriter) -> bool:
        match head.first[:2]:
            case ("GET", "/stats"):
                writer.write(_json_answer(200, asdict(self.stats)))
            case ("POST", "/mode"):
                try:
                    self.set_mode(Mode(body.decode("utf-8", "replace").strip()))
                    writer.write(_json_answer(200, asdict(self.stats)))
                except ValueError:
                    writer.write(_json_answer(400, {"error": {"message": f"mode is one of {', '.join(Mode)}"}}))
            case _:
                writer.write(_json_answer(404, {"error": {"message": "GET /stats or POST /mode"}}))
        await writer.drain()
        return True

    # Public.

    async def _answer(self, head: Head, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False = the connection cannot be used again."""
        if head.first[1].partition("?")[0] == HEALTH_PATH:
            status = 200 if self.stats.ready else 503
            writer.write(_json_answer(status, {"status": "ok" if self.stats.ready else "loading model"}))
            await writer.drain()
            return True
        tally = self.stats.shadows if is_shadow(head.get("host")) else self.stats.users
        tally.requests += 1
        tally.since_fault += self.stats.mode is not Mode.GOOD
        tally.last_at = self._clock()
        tally.active += 1
        broken = True
        try:
            if self.stats.mode is Mode.ERRORS:
                broken, status = False, 500
                writer.write(_json_answer(500, {"error": {"message": "model failed: out of memory", "type": "server_error"}}))
                await writer.drain()
                tally.failed += 1
                return True
            status, whole = await self._relay(head, body, writer)
            broken = not whole
            if whole:
                tally.failed += status >= 500
                tally.good += status < 500
            return whole
        finally:
            tally.active -= 1
            tally.broken += broken

    async def _relay(self, head: Head, body: bytes, writer: asyncio.StreamWriter) -> tuple[int, bool]:
        """Fetches the answer from the model and passes it on. Returns: Its status and whether it was passed on whole."""
        start = time.monotonic()
        factor = self._slow_factor if self.stats.mode is Mode.SLOW else 1.0
        async with asyncio.timeout(ANSWER_S):
            try:
                up_reader, up_writer = await asyncio.open_connection(*self.upstream, limit=HEAD_MAX)
            except OSError:
                writer.write(_json_answer(503, {"error": {"message": "the model is not running"}}))
                await writer.drain()
                return 503, True
            try:
                headers = tuple((name, value) for name, value in head.headers if name not in HOP_BY_HOP)
                up_writer.write(message(" ".join(head.first), (*headers, ("connection", "close")), body))
                await up_writer.drain()
                answer = await read_head(up_reader)
                if answer is None:
                    raise HttpError(502, "the model closed the connection without an answer")
                return answer.status, await self._pass_on(answer, up_reader, writer, start=start, factor=factor)
            finally:
                up_writer.close()

    async def _pass_on(
        self, answer: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, start: float, factor: float
    ) -> bool:
        """The answer's head and body, each piece at `factor` times its age."""
        length = answer.length
        framed = answer.chunked or length is not None
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1024)
        headers = tuple((name, value) for name, value in answer.headers if name not in {"connection", "keep-alive"})
        passed, tail, cut = 0, b"", False
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_arrivals(reader, pieces))
                arrived, piece = (
                    time.monotonic(),
                    head_bytes(" ".join(answer.first), headers if framed else (*headers, ("connection", "close"))),
                )
                body = False
                while piece:
                    await asyncio.sleep(max(0.0, start + factor * (arrived - start) - time.monotonic()))
                    writer.write(piece)
                    await writer.drain()
                    if body:
                        passed, tail = passed + len(piece), (tail + piece)[-5:]
                    body = True
                    arrived, piece = await pieces.get()
        except* ConnectionError:
            cut = True
        return not cut and framed and (tail == b"0\r\n\r\n" if answer.chunked else passed == length)


async def _arrivals(reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
    """Stamps what the model sends with the time it came; an empty piece is the end."""
    while True:
        try:
            piece = await reader.read(16 * 1024)
        except ConnectionError:
            piece = b""
        await pieces.put((time.monotonic(), piece))
        if not piece:
            return


def is_shadow(host: str) -> bool:
    """Whether a request is a mirrored copy: its host is `name-shadow` or `name-shadow:port`."""
    return host.partition(":")[0].endswith("-shadow")


def _json_answer(status: int, what: object) -> bytes:
    reason = {200: "OK", 500: "Internal Server Error", 503: "Service Unavailable"}.get(status, "Answer")
    return message(f"HTTP/1.1 {status} {reason}", (("content-type", "application/json"),), json.dumps(what).encode())


async def listen(handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], port: int) -> asyncio.Server:
    """Serves on a loopback port; 0 = any."""
    return await asyncio.start_server(handler, "127.0.0.1", port, limit=HEAD_MAX)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port
