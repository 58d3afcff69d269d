"""What goes into an xDS stream and what comes out of it, as values.

Neighbours: `stream` consumes requests and makes the rest; `xds_server.services.messages` translates to and from the wire.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from xds_server.core.snapshot import Resource


class Variant(Enum):
    """The two forms of the protocol."""

    SOTW = "sotw"
    DELTA = "delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of either variant.

    Attributes:
        nonce: Of the response it answers; "" when it answers none.
        error: The client's words when it rejects that response; None otherwise, "" is a rejection without words.
        names: State of the world: all names wanted. Delta: names newly wanted.
        unsubscribe: Delta only.
        initial_versions: Delta only: what the client has from an earlier stream, version by name.
    """

    type_url: str
    nonce: str = ""
    error: str | None = None
    names: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response to send. Equal nonce, type and variant within a group mean equal bytes.

    Attributes:
        version: Of the type's world it belongs to, for people.
        removed: Delta only: names that are gone or do not exist.
        bodiless: Delta heartbeat: name, version and lifetime only.
    """

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    bodiless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """The client's wishes for a type changed, or it spoke of the type for the first time."""

    type_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """The unanswered response was accepted; `heartbeat` when it only prolonged lifetimes."""

    type_url: str
    version: str
    heartbeat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """The unanswered response was rejected: state of the named resources at this client is unknown until the next ACK."""

    type_url: str
    version: str
    message: str
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """The nonce is not the unanswered response's: neither an ACK nor a NACK."""

    type_url: str
    nonce: str


Fact = Subscribed | Acked | Nacked | Stale
