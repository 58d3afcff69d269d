"""The transport port over grpcio: asyncio, raw bytes, one reading task per stream and a writing one while there is something to write.

It knows nothing of discovery or telemetry: methods come as rows of `xds_server.core.transport`. Messages a peer does not read pile up to
a limit, then the stream is cut off; a peer that vanished is found by keepalive; what a session raises ends that stream alone and is
logged once.

Neighbours: `xds_server.runtime` starts it with all services' methods. Facts about grpc.aio: one event loop per process
(grpc/grpc#25364); an address already in use is only noticed with `so_reuseport` off; it may cancel a handler at any moment, before the
handler's own reads and writes say that the peer is gone, and a status for a peer that is gone ends in a traceback.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from xds_server.adapters.listening import listen_error, probe
from xds_server.core.transport import Kind, Method, Session, Status

_log = structlog.get_logger()

MAX_RECEIVE_BYTES: Final = 16 * 1024 * 1024
"""An Envoy's first request is 61 KB; one that lists a hundred thousand resources of 100 characters it has stays below this."""
MAX_OUTBOX: Final = 64
"""Messages waiting for one peer. Discovery sessions have one unanswered response per type, so more means nobody reads."""
FLUSH_S: Final = 5.0
KEEPALIVE_S: Final = 30.0
ANSWER_S: Final = 10.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # a settled proxy is silent for hours
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.bdp_probe", 0),  # a ping after every ACK, to size a window that ACKs never fill
)
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class _Stream:
    """One stream's way out: an `Outlet`. Its handler awaits `over`, which is cancelled when the peer is gone."""

    __slots__ = ("_outbox", "_peer", "_write", "_writing", "ended", "over")

    def __init__(self, peer: str, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._peer = peer
        self._write = write
        self._outbox: deque[bytes] = deque()
        self._writing: asyncio.Task[None] | None = None
        self.ended: tuple[Status, str] | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def certificate(self) -> bytes:
        return b""  # it listens without TLS

    def send(self, message: bytes) -> None:
        if self.ended is not None:
            return
        if len(self._outbox) >= MAX_OUTBOX:
            self._outbox.clear()
            self._finish(Status.RESOURCE_EXHAUSTED, f"{MAX_OUTBOX} messages were sent and not read", within_s=0.0)
            return
        self._outbox.append(message)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        self._finish(status, message, within_s=FLUSH_S)

    def close(self) -> None:
        """Nothing goes out any more."""
        self.ended = self.ended or (Status.CANCELLED, "")
        self._outbox.clear()
        if self._writing is not None:
            self._writing.cancel()

    def _finish(self, status: Status, message: str, *, within_s: float) -> None:
        if self.ended is not None:
            return
        self.ended = (status, message)
        if self._writing is None:
            self._end()
        else:
            asyncio.get_running_loop().call_later(within_s, self._end)

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    async def _write_all(self) -> None:
        """Writes what was sent; if that was all, the stream may end."""
        try:
            while self._outbox:
                await self._write(self._outbox.popleft())
        except grpc.aio.BaseError:
            self.over.cancel()
        self._writing = None
        if self.ended is not None:
            self._end()


class GrpcTransport(grpc.GenericRpcHandler):
    """A gRPC server for the methods of a registry.

    Args:
        methods: Its rows; a path no row has is answered UNIMPLEMENTED.
        keepalive_s: After so long without a word a peer is asked for a sign of life.
        answer_s: Without that sign for so long, its connection and streams are gone.
    """

    def __init__(self, methods: Iterable[Method], *, keepalive_s: float = KEEPALIVE_S, answer_s: float = ANSWER_S) -> None:
        self._handlers = {method.path: self._handler(method) for method in methods}
        # The ping's own time limit is what counts: the keepalive's alone leaves a vanished peer connected for a minute.
        times = (("grpc.keepalive_time_ms", keepalive_s), ("grpc.keepalive_timeout_ms", answer_s), ("grpc.http2.ping_timeout_ms", answer_s))
        self._options = (*_OPTIONS, *((name, round(seconds * 1000)) for name, seconds in times))
        self._server: Any = None
        self._streams: set[_Stream] = set()

    async def serve(self, address: str) -> int:
        """Listens on HOST:PORT and returns the port, which the system chose for port 0.

        Raises: ListenError: If the address is in use, not this machine's or not an address.
        """
        probe(address)
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self,))
        try:
            port: int = server.add_insecure_port(address)
        except RuntimeError as error:
            raise listen_error(address, str(error)) from error
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

    def take_refused(self) -> dict[str, int]:
        """Nothing: what grpcio refuses it does not tell."""
        return {}

    def service(self, handler_call_details: Any) -> Any:
        """Called by grpc to find a method."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, method: Method) -> Any:
        async def handle(_: object, context: Any) -> None:
            await self._run(method, context)

        # A unary call is a stream of one message each way on the wire, so one form serves both.
        return grpc.stream_stream_rpc_method_handler(handle)

    async def _run(self, method: Method, context: Any) -> None:
        stream = _Stream(context.peer(), context.write)
        session = method.service(stream)
        self._streams.add(stream)
        reading = asyncio.get_running_loop().create_task(_read(method, context, stream, session))
        try:
            await stream.over
        finally:
            self._streams.discard(stream)
            reading.cancel()
            stream.close()
            session.closed()
        status, message = stream.ended or (Status.OK, "")
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
    except (grpc.aio.BaseError, asyncio.CancelledError):
        stream.over.cancel()
    except Exception:  # noqa: BLE001 - a task root: logged once, the stream ends
        _log.exception("stream.failed", peer=stream.peer, path=method.path)
        stream.finish(Status.INTERNAL, "an error of the server; its log has it")
