"""The transport port over grpcio: asyncio, raw bytes, one reading and one writing task per stream.

It knows nothing of discovery or telemetry: methods come as rows of `xds_server.core.transport`. Messages a peer does not read pile up to
a limit, then the stream is cut off; what a session raises ends that stream alone and is logged once.

Neighbours: `xds_server.runtime` starts it with all services' methods. Facts about grpc.aio: one event loop per process
(grpc/grpc#25364); an address already in use is only noticed with `so_reuseport` off.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from xds_server.core.transport import Kind, Method, Session, Status
from xds_server.errors import ListenError

_log = structlog.get_logger()

MAX_RECEIVE_BYTES: Final = 64 * 1024 * 1024
"""An Envoy's first request is 61 KB; one that lists a hundred thousand resources it has stays below this."""
MAX_OUTBOX: Final = 64
"""Messages waiting for one peer. Discovery sessions have one unanswered response per type, so more means nobody reads."""
FLUSH_S: Final = 5.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class _Stream:
    """One stream's way out: an `Outlet`."""

    __slots__ = ("_outbox", "_peer", "_wake", "deadline", "ended")

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._outbox: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self.ended: tuple[Status, str] | None = None
        self.deadline: asyncio.Timeout | None = None

    @property
    def peer(self) -> str:
        return self._peer

    def send(self, message: bytes) -> None:
        if self.ended is not None:
            return
        if len(self._outbox) >= MAX_OUTBOX:
            self._outbox.clear()
            self._finish(Status.RESOURCE_EXHAUSTED, f"{MAX_OUTBOX} messages were sent and not read", within_s=0.0)
            return
        self._outbox.append(message)
        self._wake.set()

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        self._finish(status, message, within_s=FLUSH_S)

    def _finish(self, status: Status, message: str, *, within_s: float) -> None:
        if self.ended is not None:
            return
        self.ended = (status, message)
        self._wake.set()
        if self.deadline is not None:
            self.deadline.reschedule(asyncio.get_running_loop().time() + within_s)

    async def write_all(self, write: Callable[[bytes], Awaitable[None]]) -> tuple[Status, str]:
        """Writes until the stream is finished and what was sent before is out, or the peer has had its time to read it."""
        try:
            async with asyncio.timeout(None) as self.deadline:
                while True:
                    while self._outbox:
                        await write(self._outbox.popleft())
                    if self.ended is not None:
                        return self.ended
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            return self.ended or (Status.INTERNAL, "")


class GrpcTransport(grpc.GenericRpcHandler):
    """A gRPC server for the methods of a registry.

    Args:
        methods: Its rows; a path no row has is answered UNIMPLEMENTED.
    """

    def __init__(self, methods: Iterable[Method]) -> None:
        self._handlers = {method.path: self._handler(method) for method in methods}
        self._server: Any = None
        self._streams: set[_Stream] = set()

    async def serve(self, address: str) -> int:
        """Listens on HOST:PORT and returns the port, which the system chose for port 0.

        Raises: ListenError: If the address is in use, not this machine's or not an address.
        """
        _probe(address)
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self,))
        try:
            port: int = server.add_insecure_port(address)
        except RuntimeError as error:
            raise _listen_error(address, str(error)) from error
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float = 1.0) -> None:
        """Ends all streams as UNAVAILABLE, so that peers come back, then closes the port."""
        for stream in tuple(self._streams):
            stream.finish(Status.UNAVAILABLE, "the server is stopping")
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace_s)

    def service(self, handler_call_details: Any) -> Any:
        """Called by grpc to find a method."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, method: Method) -> Any:
        async def handle(_: object, context: Any) -> None:
            await self._run(method, context)

        # A unary call is a stream of one message each way on the wire, so one form serves both.
        return grpc.stream_stream_rpc_method_handler(handle)

    async def _run(self, method: Method, context: Any) -> None:
        stream = _Stream(context.peer())
        self._streams.add(stream)
        session: Session | None = None
        try:
            session = method.service(stream)
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(_read(method, context, stream, session))
                status, message = await stream.write_all(context.write)
                reading.cancel()
        except* grpc.aio.BaseError as gone:
            _log.debug("stream.lost", peer=stream.peer, path=method.path, reason=str(gone.exceptions[0]))
            status, message = Status.UNAVAILABLE, "the stream broke"
        finally:
            self._streams.discard(stream)
            stream.finish(Status.CANCELLED)
            if session is not None:
                session.closed()
        if status is not Status.OK:
            await context.abort(_CODES[status], message)


async def _read(method: Method, context: Any, stream: _Stream, session: Session) -> None:
    """Passes on what the peer says until it has said all; a fault of the session ends the stream and nothing else."""
    try:
        while stream.ended is None:
            message = await context.read()
            if message is grpc.aio.EOF:
                break
            session.received(message)
            del message  # the next one may be hours away
        if method.kind is Kind.STREAM:
            stream.finish()
    except grpc.aio.BaseError as error:
        stream.finish(Status.CANCELLED, str(error))
    except Exception:  # noqa: BLE001 - a task root: logged once, the stream ends
        _log.exception("stream.failed", peer=stream.peer, path=method.path)
        stream.finish(Status.INTERNAL, "an error of the server; its log has it")


def _probe(address: str) -> None:
    """Binds once by hand: grpc says that an address cannot be had, the system says why."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65_535:
        raise _listen_error(address, "it is not of the form HOST:PORT")
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, bound = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(bound)
    except OSError as error:
        raise _listen_error(address, error.strerror or str(error)) from error


def _listen_error(address: str, reason: str) -> ListenError:
    return ListenError(
        f"cannot listen on {address}: {reason}; hint: stop what uses it, or choose another address (port 0 takes a free one)"
    )
