"""What proxies do and where they stand, as values: what `ads` tells the rest of the process.

`key` is always the home of a proxy, the key that `select` gave it; `world` is the key of what it is shown now, which differs while it tries
a change before the others.
"""

from dataclasses import dataclass
from typing import NamedTuple

from xds_server.core.facts import Variant
from xds_server.core.stream import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No world for this proxy; the message tells it why, with a hint."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    key: str
    node_id: str
    variant: Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    key: str
    node_id: str
    variant: Variant


class Acked(NamedTuple):
    """The proxy has now accepted everything up to snapshot `serial` of the world it sees. One per proxy and push, so it has to be cheap."""

    key: str
    node_id: str
    serial: int
    world: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """The proxy rejected a response, in its own words."""

    key: str
    node_id: str
    type_url: str
    message: str
    resources: tuple[str, ...]
    world: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No group for this proxy."""

    node_id: str
    cluster: str
    message: str


ProxyEvent = Connected | Disconnected | Acked | Nacked | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """How far the proxies that see a world are with one snapshot.

    Attributes:
        selected: Streams that see it.
        acked: Of these, those that accepted it or a newer one in everything they ask for.
        rejected: Of these, those that reject something now.
        words: What one of the rejecting proxies says, "" if none does.
    """

    selected: int
    acked: int
    rejected: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStatus:
    """One stream of one proxy.

    Attributes:
        leased: It asks for runtime layers, so a share can be an overlay on it.
    """

    key: str
    node_id: str
    cluster: str
    version: str
    peer: str
    variant: Variant
    service: str
    connected_since: float
    leased: bool
    types: tuple[Progress, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedProxy:
    """A proxy that was turned away: when last, how often, and what it was told."""

    node_id: str
    cluster: str
    version: str
    peer: str
    message: str
    at: float
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One proxy of a group, whatever the number of its streams.

    Attributes:
        world: The key of the world it sees.
        settled: It has accepted the newest snapshot of that world.
        words: What it rejects now, in its own words; "" for nothing.
    """

    node_id: str
    world: str
    connected_since: float
    settled: bool
    words: str
