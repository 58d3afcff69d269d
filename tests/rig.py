"""The world around the control plane, for end-to-end tests and benches: HTTP backends and clients that count.

`tests.real_envoy` has the proxy between them.

Everything listens on the loopback, is bounded, and ends with its context. Backends and clients speak raw HTTP/1.1 with keep-alive over
asyncio streams: one core carries several hundred requests a second through them with time left for Envoy.
"""

import asyncio
import contextlib
import inspect
import random
import socket
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

PATIENCE_S = 20.0
"""A hang becomes a failure after this; nothing is measured by it."""

HEAD_MAX = 256 * 1024
SEEN_MAX = 20_000
USER_HEADER = "x-user"
VARIANT_HEADER = "x-variant"


_PORTS = iter(random.sample(range(12_000, 32_000), 20_000))


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now, below those the system gives to outgoing connections; never the same twice.

    A test asks for several before it binds the first: by chance alone one run in fifty would get one port for two servers.
    """
    for port in _PORTS:
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("all ports are used up")


async def until(
    condition: Callable[[], object | Awaitable[object]], what: str = "", *, timeout_s: float = PATIENCE_S, every_s: float = 0.01
):
    """Waits until a condition (plain or async) gives something true and returns that; AssertionError when it never does."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        await asyncio.sleep(every_s)


def binomial_band(number: int, share: float, confidence: float = 0.999) -> tuple[int, int]:
    """Counts a fair draw stays within with the given confidence, both ends included."""
    from scipy.stats import binom

    low, high = binom.interval(confidence, number, share)
    return int(low), int(high)


async def turn_of(port: int) -> None:
    """One turn of the worker behind a listener: an ACK comes from the main thread, a moment before the workers act on what it accepted.

    The request has no host, so Envoy answers it itself and no backend counts it.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"400"
    finally:
        writer.transport.abort()


# Backends.


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as a backend saw it; header names in lower case."""

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def shadow(self) -> bool:
        """Envoy appends `-shadow` to the host of a mirrored copy."""
        return self.headers.get("host", "").partition(":")[0].endswith("-shadow")

    @property
    def user(self) -> str | None:
        return self.headers.get(USER_HEADER)


@dataclass(slots=True)
class Backend:
    """A model server without a model; its switches can be turned while it serves.

    Attributes:
        name: What the answers' `x-variant` header says.
        status: Status of every answer.
        error_share: Fraction of requests answered with `error_status` instead, drawn from `seed`.
        delay_s: Time before the answer begins [s].
        chunks: 0 = one body with a length; n = a stream of n events.
        chunk_gap_s: Time between two events [s].
        break_after: Cuts the connection after so many events of a stream; 0 = right after the head.
        finish: Streams that began while it was here wait for it before their last event.
        hang: Takes requests and never answers.
        health_status: What `health_path` answers.
        requests, shadows: Counts of users' requests and of mirrored copies, health checks in neither.
        last_at, last_shadow_at: When the last of each came in [s since the epoch].
        began: Users' answers of which at least the head was sent.
    """

    name: str = "v1"
    status: int = 200
    error_share: float = 0.0
    error_status: int = 500
    delay_s: float = 0.0
    chunks: int = 0
    chunk_gap_s: float = 0.0
    break_after: int | None = None
    finish: asyncio.Event | None = None
    hang: bool = False
    health_path: str = "/health"
    health_status: int = 200
    body: bytes = b"ok"
    seed: int = 0
    port: int = 0
    requests: int = 0
    shadows: int = 0
    health_checks: int = 0
    began: int = 0
    active: int = 0
    last_at: float | None = None
    last_shadow_at: float | None = None
    by_path: Counter[str] = field(default_factory=Counter)
    by_user: Counter[str] = field(default_factory=Counter)
    seen: deque[Seen] = field(default_factory=lambda: deque(maxlen=SEEN_MAX))
    _server: asyncio.Server | None = None
    _connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = field(default_factory=dict)
    _random: random.Random = field(default_factory=random.Random)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._random = random.Random(self.seed)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Listens; after `kill` on the same port again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=HEAD_MAX, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """As `kill -9` looks from outside: the port refuses, every connection is reset."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for writer, task in tuple(self._connections.items()):
            writer.transport.abort()
            if task is not None:
                task.cancel()
        await until(lambda: not self._connections, "the backend's connections to end")

    def reset_counts(self) -> None:
        self.requests = self.shadows = self.health_checks = self.began = 0
        self.last_at = self.last_shadow_at = None
        self.by_path.clear()
        self.by_user.clear()
        self.seen.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = asyncio.current_task()
        try:
            while True:
                request = await _read_request(reader)
                await self._answer(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        if request.path.partition("?")[0] == self.health_path:
            self.health_checks += 1
            writer.write(_answer_head(self.health_status, self.name, 2) + b"up")
            return
        self._count(request)
        self.active += 1
        try:
            if self.hang:
                await asyncio.Event().wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            failing = self.error_share > 0.0 and self._random.random() < self.error_share
            status = self.error_status if failing else self.status
            self.began += not request.shadow
            if self.chunks and status == 200:
                await self._stream(writer)
            else:
                writer.write(_answer_head(status, self.name, len(self.body)) + self.body)
                await writer.drain()
        finally:
            self.active -= 1

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_answer_head(200, self.name, None))
        last, finish = self.chunks - 1, self.finish
        for number in range(self.chunks):
            if finish is not None and number == last:
                await finish.wait()
            if self.break_after is not None and number >= self.break_after:
                await writer.drain()
                writer.close()
                raise ConnectionResetError("told to break half-way")
            if self.chunk_gap_s:
                await asyncio.sleep(self.chunk_gap_s)
            event = f"data: {number}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    def _count(self, request: Seen) -> None:
        self.seen.append(request)
        if request.shadow:
            self.shadows += 1
            self.last_shadow_at = request.at
            return
        self.requests += 1
        self.last_at = request.at
        self.by_path[request.path] += 1
        if request.user is not None:
            self.by_user[request.user] += 1


async def _read_request(reader: asyncio.StreamReader) -> Seen:
    first, headers = await _read_head(reader)
    method, path, _ = first.split(" ", 2)
    body = b""
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b"".join([piece async for piece in _chunks(reader)])
    elif (length := int(headers.get("content-length", 0))) > 0:
        body = await reader.readexactly(length)
    return Seen(at=time.time(), method=method, path=path, headers=headers, body=body)


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = raw[:-4].split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        size = int((await reader.readuntil(b"\r\n"))[:-2].partition(b";")[0], 16)
        piece = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield piece[:-2]


def _answer_head(status: int, name: str, length: int | None) -> bytes:
    kind = "application/json" if length is not None else "text/event-stream"
    framing = f"content-length: {length}" if length is not None else "transfer-encoding: chunked"
    return f"HTTP/1.1 {status} Status\r\n{VARIANT_HEADER}: {name}\r\ncontent-type: {kind}\r\n{framing}\r\n\r\n".encode()


# Clients.


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client got.

    Attributes:
        at: When the request was sent [s since the epoch].
        status: 0 = no answer began.
        variant: The backend's name, None where Envoy answered itself.
        ttft_ms: Time to the first body byte [ms]; None without a body.
        latency_ms: Time to the last byte or to the failure [ms].
        failure: "" = a whole answer below 500; else what went wrong: "status 503", "reset", "timeout", "connect".
    """

    at: float
    user: str | None
    status: int
    variant: str | None
    ttft_ms: float | None
    latency_ms: float
    failure: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def began(self) -> bool:
        """Whether the client got at least a head."""
        return self.status > 0


class Client:
    """A pool of keep-alive connections to one port; a failed connection is never tried twice on behalf of a request."""

    def __init__(self, port: int, *, host: str = "model.test", timeout_s: float = PATIENCE_S, connections_max: int = 512) -> None:
        self.port = port
        self.host = host
        self.timeout_s = timeout_s
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._limit = asyncio.Semaphore(connections_max)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)

    async def request(
        self,
        path: str = "/",
        *,
        user: str | None = None,
        method: str = "GET",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        host: str | None = None,
    ) -> Reply:
        """Sends one request and reads its answer to the end; failures are told, not raised."""
        lines = {"host": host or self.host, **({USER_HEADER: user} if user is not None else {}), **(headers or {})}
        if body or method != "GET":
            lines["content-length"] = str(len(body))
        head = "\r\n".join((f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""))
        raw = head.encode() + body
        async with self._limit:
            return await self._exchange(raw, user)

    async def _exchange(self, raw: bytes, user: str | None) -> Reply:
        at, start = time.time(), time.perf_counter()
        got = Got()
        failure, connection = "", None
        try:
            async with asyncio.timeout(self.timeout_s):
                connection = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port, limit=HEAD_MAX)
                connection[1].write(raw)
                await receive(connection[0], got)
            failure = f"status {got.status}" if got.status >= 500 else ""
        except TimeoutError:
            failure = "timeout"
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            failure = "reset" if connection is not None else "connect"
        except asyncio.CancelledError:
            if connection is not None:
                connection[1].transport.abort()
            raise
        if connection is not None:
            if failure in {"timeout", "reset"} or got.headers.get("connection") == "close":
                connection[1].transport.abort()
            else:
                self._idle.append(connection)
        return Reply(
            at=at,
            user=user,
            status=got.status,
            variant=got.headers.get(VARIANT_HEADER),
            ttft_ms=None if got.first_at is None else (got.first_at - start) * 1000.0,
            latency_ms=(time.perf_counter() - start) * 1000.0,
            failure=failure,
            headers=got.headers,
            body=b"".join(got.pieces),
        )

    async def burst(self, number: int, *, at_once: int = 16, user: Callable[[int], str | None] = lambda _: None, **request) -> list[Reply]:
        """`number` requests, so many at once, as fast as they go."""
        numbers = iter(range(number))
        replies: list[Reply] = []

        async def worker() -> None:
            for each in numbers:
                replies.append(await self.request(user=user(each), **request))  # noqa: PERF401  every worker adds its own as they come

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(at_once, number)):
                tasks.create_task(worker())
        return replies

    @asynccontextmanager
    async def load(self, rate: float, *, user: Callable[[int], str | None] = lambda _: None, **request) -> AsyncIterator["Load"]:
        """Open-loop load of `rate` requests a second for as long as the block lasts; every started request is waited for at the end."""
        load = Load()
        async with asyncio.TaskGroup() as tasks:
            pacing = tasks.create_task(self._pace(load, tasks, rate, user, request))
            try:
                yield load
            finally:
                load.stopped = True
                pacing.cancel()

    async def _pace(self, load: "Load", tasks: asyncio.TaskGroup, rate: float, user: Callable[[int], str | None], request: Mapping) -> None:
        start = time.perf_counter()

        async def one(number: int) -> None:
            load.replies.append(await self.request(user=user(number), **request))

        while not load.stopped:
            due = int((time.perf_counter() - start) * rate) + 1
            while load.sent < due:
                tasks.create_task(one(load.sent))
                load.sent += 1
            await asyncio.sleep(max(0.0, start + load.sent / rate - time.perf_counter()))


@dataclass(slots=True)
class Load:
    """What a running load has brought so far; replies in the order in which they ended."""

    sent: int = 0
    replies: list[Reply] = field(default_factory=list)
    stopped: bool = False

    @property
    def failures(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.failure]

    def since(self, at: float) -> list[Reply]:
        """Finished requests that were sent at or after a moment [s since the epoch]."""
        return [reply for reply in self.replies if reply.at >= at]

    def by_variant(self, since: float = 0.0) -> Counter[str | None]:
        return Counter(reply.variant for reply in self.since(since))


@dataclass(slots=True)
class Got:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    first_at: float | None = None
    pieces: list[bytes] = field(default_factory=list)

    def add(self, piece: bytes) -> None:
        if self.first_at is None:
            self.first_at = time.perf_counter()
        self.pieces.append(piece)


async def receive(reader: asyncio.StreamReader, got: Got) -> None:
    first, got.headers = await _read_head(reader)
    got.status = int(first.split(" ", 2)[1])
    if "chunked" in got.headers.get("transfer-encoding", ""):
        async for piece in _chunks(reader):
            got.add(piece)
    elif (length := int(got.headers.get("content-length", 0))) > 0:
        got.add(await reader.readexactly(length))
