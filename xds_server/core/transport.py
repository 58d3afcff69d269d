"""The transport port: how a service speaks on a long-lived stream without knowing who carries it.

Callback style, bytes in and bytes out: a transport may serve it from tasks (`xds_server.adapters.grpc_transport`) or straight
from a socket's callbacks. Nothing here blocks or awaits. The port lives in `core` because services consume it and adapters
implement it, and those two do not import each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol


class Status(IntEnum):
    """gRPC status codes. Source: grpc/grpc `doc/statuscodes.md`."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Outlet(Protocol):
    """The way to the peer of one stream."""

    @property
    def peer(self) -> str:
        """Address of the peer, for people."""
        ...

    @property
    def certificate(self) -> bytes:
        """The peer's certificate in DER form; empty where the transport asks for none."""
        ...

    def send(self, message: bytes) -> None:
        """Queues one message; never blocks. After `finish` or `Session.closed` it does nothing.

        A peer that does not read while messages pile up is cut off with RESOURCE_EXHAUSTED by the transport.
        """
        ...

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        """Ends the stream after what was sent; the first call counts. `Session.closed` still follows, once."""
        ...


class Session(Protocol):
    """One open stream of a service. Calls never overlap; none comes after `closed`."""

    def received(self, message: bytes) -> None:
        """One whole message of the peer."""
        ...

    def closed(self) -> None:
        """The stream is gone, whoever ended it; called exactly once."""
        ...


StreamService = Callable[[Outlet], Session]
"""Opens a session on a new stream. It may already call `Outlet.finish`."""


class Kind(Enum):
    """STREAM: any number of messages either way. UNARY: one message in, one `send` and `finish` out."""

    STREAM = "stream"
    UNARY = "unary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One row of a transport's registry.

    Attributes:
        path: Full gRPC path, `/package.Service/Method`.
        service: Opens the session of a call.
    """

    path: str
    service: StreamService
    kind: Kind = Kind.STREAM
