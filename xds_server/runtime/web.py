"""Serves the HTTP API in the process's own loop (uvicorn without its signal handlers; its port is bound before anything else starts)."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from xds_server.errors import ListenError


class _Quiet(uvicorn.Server):
    """Signals are the supervisor's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Api:
    def __init__(self, application: Any, address: str) -> None:
        self._application = application
        self._address = address
        self._socket: socket.socket | None = None

    def bind(self) -> int:
        """Takes the port. Raises: ListenError: If it cannot be had."""
        host, _, port = self._address.rpartition(":")
        taken = socket.socket(socket.AF_INET6 if ":" in host.strip("[]") else socket.AF_INET, socket.SOCK_STREAM)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host.strip("[]"), int(port)))
            taken.listen(128)
        except (OSError, ValueError) as error:
            taken.close()
            words = getattr(error, "strerror", None) or str(error)
            raise ListenError(f"cannot listen on {self._address}: {words}; hint: stop what uses it, or choose another --api") from error
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
            self._application, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, server_header=False
        )
        await _Quiet(config).serve(sockets=[self._socket])
