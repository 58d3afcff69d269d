"""The transport port over `xds_server.wire`: sockets of uvloop (or asyncio), plain or TLS, one protocol object per connection.

What is read goes to the service's function in the same call, and what a service says in one turn of the loop goes out in one write. A
connection whose socket is full is not written to, and one that does not read its answers is not read from, until that changes.

Neighbours: `xds_server.wire` has the protocol and its limits; `xds_server.adapters.grpc_transport` is the reference over grpcio and
keeps the same contract; `xds_server.runtime` starts either; `wire_tls` encrypts. A fact about uvloop: a write is a system call at once,
`writelines` is one for all.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, cast

import structlog

from xds_server.adapters.listening import listen_error, probe
from xds_server.adapters.shared_pages import FROM_BYTES, SharedPages
from xds_server.adapters.wire_tls import Tls, tls_context
from xds_server.core.transport import Kind, Method, Session, Status
from xds_server.wire import Call, Connection, Counters, Limits, Reason, Server
from xds_server.wire import grpc as codes

__all__ = ["WireTransport", "tls_context"]

_log = structlog.get_logger()

KEEPALIVE_S: Final = 30.0
ANSWER_S: Final = 10.0
_TICK_S: Final = 1.0
_MAX_TOLD: Final = 20
"""Faults of services in the log [1/s]: each has its traceback, which takes milliseconds to write."""
_LONGEST_S: Final = 365 * 86_400.0
_JOINED_BYTES: Final = 16 * 1024
"""So much is copied into one buffer for less than the system takes for several."""
_TLS_AHEAD: Final = 256 * 1024
"""Encrypted bytes are a copy for each connection."""
_TLS_UNREAD: Final = 1024 * 1024
"""Bytes that wait in a socket when the peer still makes TLS itself answer, which no window holds back: then it is cut off."""


class WireTransport:
    """A gRPC server for the methods of a registry.

    Args:
        methods: Its rows; a path no row has is answered UNIMPLEMENTED.
        keepalive_s: After so long without a word a peer is asked for a sign of life.
        answer_s: Without that sign for so long, its connection and streams are gone.
        limits: What it takes on besides; None for the defaults.
        tls: Makes it TLS; see `tls_context`.

    Attributes:
        counters: What happened and what was refused, for metrics.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        keepalive_s: float = KEEPALIVE_S,
        answer_s: float = ANSWER_S,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        limits = replace(limits or Limits(), keepalive_s=keepalive_s, answer_s=answer_s)
        if tls is not None:
            limits = replace(limits, ahead_bytes=min(limits.ahead_bytes, _TLS_AHEAD))
        self._methods = {method.path: method for method in methods}
        self._tls = tls
        self._tls_outgoing = ssl.MemoryBIO()
        self._reported: Counter[Reason] = Counter()
        self._tick_s = min(_TICK_S, keepalive_s / 2, answer_s / 2)
        self._listeners: list[asyncio.Server] = []
        self._expired_at = 0.0
        self._told = 0
        self._ticking: asyncio.TimerHandle | None = None
        self._nobody_left: asyncio.Future[None] | None = None
        self.due: list[_Link] = []
        self.links: set[_Link] = set()
        self.pages = SharedPages(room=limits.shared_bytes)
        self.server = Server(self, limits)

    @property
    def counters(self) -> Counters:
        return self.server.counters

    def take_refused(self) -> dict[str, int]:
        """What was refused or ended early since the last call, by what it was called, one of few names: for metrics."""
        before, self._reported = self._reported, self.counters.refused.copy()
        return {f"wire_{reason}": count for reason, count in (self._reported - before).items()}

    async def serve(self, address: str) -> int:
        """Listens on HOST:PORT and returns the port, which the system chose for port 0.

        Raises: ListenError: If the address is in use, not this machine's or not an address.
        """
        probe(address)
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        # Of a name with several addresses a chosen port is only free on the first.
        found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        wanted = host.strip("[]") or None if int(port) else found[0][4][0]
        try:
            listener = await loop.create_server(
                lambda: _Link(self, loop),
                cast("str | None", wanted),
                int(port),
                backlog=4096,
            )
        except OSError as error:
            raise listen_error(address, error.strerror or str(error)) from error
        self._listeners.append(listener)
        if self._ticking is None:
            self._ticking = loop.call_later(self._tick_s, self._tick)
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    async def stop(self, grace_s: float = 1.0) -> None:
        """Ends all streams as UNAVAILABLE, so that peers come back, then closes the port and all connections."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for link in tuple(self.links):
            for call in link.connection.calls:
                call.finish(Status.UNAVAILABLE, "the server is stopping")
            link.connection.drain()
        await self._left(within_s=grace_s)
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        for link in tuple(self.links):
            link.abort()
        await self._left(within_s=None)  # the loop closes an aborted socket in its next turn
        self.pages.close()

    async def _left(self, *, within_s: float | None) -> None:
        """Waits until no connection is left, at most so long."""
        if self.links:
            self._nobody_left = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._nobody_left], timeout=within_s)

    # What connections ask of their host.

    def opened(self, call: Call) -> Session | None:
        """Called by a connection when a call comes in."""
        method = self._methods.get(call.request.path)
        if method is None:
            self.counters.refused[Reason.UNKNOWN_PATH] += 1
            call.finish(codes.UNIMPLEMENTED, f"no method {call.request.path}")
            return None
        call.is_unary = method.kind is Kind.UNARY
        if call.request.timeout_s is not None:
            call.on_end = asyncio.get_running_loop().call_later(min(call.request.timeout_s, _LONGEST_S), call.expire).cancel
        return method.service(call)

    def failed(self, call: Call, error: Exception) -> None:
        """Called by a connection when a session raised. All are counted (`Reason.FAULT`); a peer that knows how to make one cannot flood the log."""
        self._told += 1
        if self._told <= _MAX_TOLD:
            _log.error("stream.failed", peer=call.peer, path=call.request.path, exc_info=error)

    # What links ask of it.

    def secure(self) -> Tls | None:
        """The TLS of a new connection, if the listener has any."""
        return None if self._tls is None else Tls(self._tls, self._tls_outgoing)

    def gone(self, link: "_Link") -> None:
        """A connection is closed."""
        self.links.discard(link)
        if not self.links and self._nobody_left is not None and not self._nobody_left.done():
            self._nobody_left.set_result(None)

    def flush(self) -> None:
        """Lets those write that came back for it."""
        due, self.due = self.due, []
        for link in due:
            try:
                link.flush()
            except Exception:  # noqa: BLE001 - a fault of ours costs this connection, not those that come after it
                _failed(link)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticking, now = loop.call_later(self._tick_s, self._tick), loop.time()
        for link in tuple(self.links):
            try:
                if link.connection.tick(now):
                    link.abort()
            except Exception:  # noqa: BLE001 - as above
                _failed(link)
        if now - self._expired_at >= _TICK_S:
            self._expired_at = now
            self._told = 0
            self.server.frames.expire()
            self.pages.expire()


def _failed(link: "_Link") -> None:
    _log.exception("connection.failed", peer=link.connection.peer)
    link.abort()


class _Link(asyncio.Protocol):
    """The socket of one connection."""

    __slots__ = ("_host", "_is_going_on", "_is_held", "_is_new", "_loop", "_tls", "_transport", "connection")

    def __init__(self, host: WireTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop
        self._is_going_on = self._is_held = False
        self._is_new = True
        self._tls = host.secure()
        self._transport: asyncio.Transport
        self.connection: Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        host, self._transport = self._host, cast("asyncio.Transport", transport)
        self.connection = Connection(
            host.server,
            self._come_back,
            now=self._loop.time(),
            peer=_words(transport.get_extra_info("peername")),
        )
        if len(host.links) >= host.server.limits.connections:
            self.connection.turn_away()
        host.links.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.connection.lost()
        self._host.gone(self)

    def data_received(self, data: bytes) -> None:
        tls = self._tls
        if tls is not None:
            data = self._decrypted(tls, data)
        if data and self.connection.receive(data):
            if self._is_new:  # its first response may come in this turn too, and go out in the same write
                self._is_new = False
                self._come_back()
            else:
                self.flush()
            self._hold()
        if tls is not None and tls.is_over:
            self.flush()
            self._close()

    def _come_back(self) -> None:
        """There is something to write outside of a turn of this connection: it is in the next one, with all others that have something."""
        host = self._host
        if not host.due:
            self._loop.call_soon(host.flush)
        host.due.append(self)

    def pause_writing(self) -> None:
        self.connection.pause()

    def resume_writing(self) -> None:
        self.connection.resume()
        self._hold()

    def flush(self) -> None:
        """Writes what there is."""
        connection, tls = self.connection, self._tls
        if tls is not None and not tls.is_ready:
            if connection.over:
                self.abort()
            return
        out = connection.take()
        if tls is not None and self._transport.is_closing():
            return
        if out:
            if tls is not None:
                out = tls.protect(out)
            if len(out) == 1 and len(out[0]) < FROM_BYTES:
                self._transport.write(out[0])
            elif len(out) == 1:
                self._write_long(out[0])
            elif sum(map(len, out)) <= _JOINED_BYTES:
                self._transport.write(b"".join(out))
            else:
                self._transport.writelines(out)
        if connection.over:
            self._close()

    def _write_long(self, buffer: bytes | memoryview) -> None:
        """Writes a long buffer, without a copy if other connections are sent it too."""
        transport = self._transport
        if self._tls is None and isinstance(buffer, bytes) and self._is_writable:
            sent = self._host.pages.send(transport.get_extra_info("socket").fileno(), buffer)
            if sent == len(buffer):
                return
            buffer = memoryview(buffer)[sent:]
        transport.write(buffer)

    @property
    def _is_writable(self) -> bool:
        """Whether the socket is ours, which it may not be when its transport closes, and nothing is to be sent before."""
        return not self._transport.is_closing() and not self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Closes at once; what was not written is lost."""
        self._transport.abort()

    def _close(self) -> None:
        """Closes when what was written has gone out."""
        if self._tls is not None and not self._transport.is_closing():
            self._transport.write(self._tls.farewell())
        self._transport.close()

    def _decrypted(self, tls: Tls, data: bytes) -> bytes:
        """What the peer said; the handshake is taken care of."""
        was_ready = tls.is_ready
        said, answer, is_broken = tls.receive(data)
        if answer:
            self._transport.write(answer)
        if is_broken or (answer and self._transport.get_write_buffer_size() > _TLS_UNREAD):
            self._host.counters.refused[Reason.TLS] += 1
            self._transport.close()
            return b""
        if tls.is_ready and not was_ready:
            if tls.protocol != "h2":
                self._host.counters.refused[Reason.ALPN] += 1
                self.abort()
                return b""
            self.connection.certificate = tls.certificate
            self.flush()
        return said

    def _hold(self) -> None:
        """Reads no more while what was read is not done, or its answers are not read; reads on after that."""
        connection = self.connection
        is_unfinished = connection.is_unfinished
        if (is_unfinished or connection.is_choked) is not self._is_held and not self._transport.is_closing():
            self._is_held = not self._is_held
            (self._transport.pause_reading if self._is_held else self._transport.resume_reading)()
        if is_unfinished and not self._is_going_on:
            self._is_going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_going_on = False
        if self.connection.receive(b""):
            self.flush()
        self._hold()


def _words(peername: tuple[str, int] | None) -> str:
    """An address as grpc writes it."""
    if not peername:
        return "unknown"
    host, port, *_ = peername
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
