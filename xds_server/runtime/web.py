"""Serves the control API in the process's own loop, over HTTP (uvicorn without its signal handlers) and over gRPC.

The ports are bound before anything else starts. They are two: uvicorn speaks no HTTP/2, grpcio no HTTP/1.1.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import grpc
import grpc.aio
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from uvicorn.protocols.http.h11_impl import H11Protocol

from xds_server.errors import ListenError
from xds_server.services import rollouts_grpc
from xds_server.services.control import Control

GRPC_MESSAGE_MAX_BYTES: Final = 64 * 1024
"""Largest message a client may send; an act has a few lines of text."""

RPCS_MAX: Final = 512
"""Calls at once over gRPC, watchers of health among them."""

GRACE_S: Final = 1.0

CONNECTIONS_MAX: Final = 512
"""HTTP connections at once: one that says nothing is never closed, and the proxies need file descriptors too."""


class _Quiet(uvicorn.Server):
    """Signals are the supervisor's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Capped(H11Protocol):
    """Ends connections that are too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()


class Api:
    def __init__(self, application: Any, address: str) -> None:
        self._application = application
        self._address = address
        self._socket: socket.socket | None = None

    def bind(self) -> int:
        """Takes the port. Raises: ListenError: If it cannot be had."""
        taken = _bound(self._address, "--api")
        taken.listen(128)
        self._socket = taken
        bound: int = taken.getsockname()[1]
        return bound

    def release(self) -> None:
        """Gives the port back when nothing will be served."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def serve(self) -> None:
        assert self._socket is not None
        config = uvicorn.Config(
            self._application,
            http=Capped,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        await _Quiet(config).serve(sockets=[self._socket])


class GrpcApi:
    """`crossfade.v1.Rollouts`, with `grpc.health.v1` and reflection."""

    def __init__(self, control: Control, address: str) -> None:
        self._control = control
        self._address = address
        self._health = health.aio.HealthServicer()
        self._server: Any = None

    def bind(self) -> int:
        """Takes the port; nothing is answered before `serve`. Raises: ListenError: If it cannot be had."""
        _bound(self._address, "--api-grpc").close()  # grpc says that a port cannot be had, the system says why
        options = (
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", GRPC_MESSAGE_MAX_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        )
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=RPCS_MAX)
        server.add_generic_rpc_handlers((rollouts_grpc.handler(self._control),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((rollouts_grpc.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            bound: int = server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise _refused(self._address, "--api-grpc", str(error)) from error
        self._server = server
        return bound

    async def serve(self) -> None:
        """Answers for ever; health follows the control plane's."""
        await self._server.start()
        try:
            version = -1
            while True:
                ready = self._control.health().ready
                status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
                for name in ("", rollouts_grpc.SERVICE):
                    await self._health.set(name, status)
                version = await self._control.wait_change(version, GRACE_S)
        finally:
            await self._server.stop(GRACE_S)


def _bound(address: str, flag: str) -> socket.socket:
    """A socket that has the port. Raises: ListenError."""
    host, _, port = address.rpartition(":")
    taken = socket.socket(socket.AF_INET6 if ":" in host.strip("[]") else socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host.strip("[]"), int(port)))
    except (OSError, ValueError) as error:
        taken.close()
        raise _refused(address, flag, getattr(error, "strerror", None) or str(error)) from error
    return taken


def _refused(address: str, flag: str, words: str) -> ListenError:
    return ListenError(f"cannot listen on {address}: {words}; hint: stop what uses it, or choose another {flag}")
