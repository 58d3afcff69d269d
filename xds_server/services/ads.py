"""Discovery services: one hub that knows every proxy, what its group's world is, and how far the proxy is.

The hub is driven by calls only and never blocks: `publish` offers a snapshot to every stream of its group and returns; a proxy that is
slow or silent holds one unanswered response per type and nothing else. Who may see which world is the caller's decision (`select`).

Neighbours: `xds_server.core.stream` decides what to send, `messages` translates, a transport (`core.transport`) carries; the runtime
publishes and listens to events.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from xds_server.core.facts import Acked as AckedFact
from xds_server.core.facts import Fact, Response, Variant
from xds_server.core.facts import Nacked as NackedFact
from xds_server.core.snapshot import Snapshot
from xds_server.core.stream import AdsStream, Progress
from xds_server.core.transport import Method, Outlet, Status
from xds_server.core.types import RTDS, TYPES, short
from xds_server.errors import PeerError
from xds_server.services.messages import NodeInfo, decode, encode

__all__ = ["AdsHub", "NodeInfo", "ProxyEvent", "ProxyStatus", "Refusal", "Sync"]

_log = structlog.get_logger()

_ADS: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
_MAX_REFUSED: Final = 256
_MAX_ENCODED: Final = 128
_MAX_STREAMS: Final = 20_000


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """The proxy has now accepted everything up to snapshot `serial`."""

    key: str
    node_id: str
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """The proxy rejected a response, in its own words."""

    key: str
    node_id: str
    type_url: str
    message: str
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No group for this proxy."""

    node_id: str
    cluster: str
    message: str


ProxyEvent = Connected | Disconnected | Acked | Nacked | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """How far a group's proxies are with one snapshot.

    Attributes:
        selected: Streams of the group.
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


class _Session:
    """One open stream."""

    __slots__ = ("_hub", "_over", "group", "node", "outlet", "reported", "service", "since", "stream", "type_url", "variant")

    def __init__(self, hub: "AdsHub", outlet: Outlet, *, variant: Variant, type_url: str | None) -> None:
        self._hub = hub
        self._over = False
        self.outlet = outlet
        self.variant = variant
        self.type_url = type_url
        self.service = short(type_url) if type_url else "ADS"
        self.stream = AdsStream(variant)
        self.group: _Group | None = None
        self.node: NodeInfo | None = None
        self.since = hub.clock()
        self.reported = 0

    def received(self, message: bytes) -> None:
        if self._over:
            return
        try:
            request, node = decode(message, self.variant, implied_type=self.type_url, node_known=self.node is not None)
            if self.node is None and not self._hub.join(self, node):
                return
            facts = self.stream.receive(request, now=self._hub.clock())
        except PeerError as error:
            _log.warning("stream.broken", peer=self.outlet.peer, node=self.node.id if self.node else "", reason=str(error))
            self.finish(Status.INVALID_ARGUMENT, str(error))
            return
        self._hub.proceed(self, facts)

    def closed(self) -> None:
        self._over = True
        self._hub.leave(self)

    def finish(self, status: Status, message: str) -> None:
        if not self._over:
            self._over = True
            if self.group is not None:
                self.group.sessions.pop(self, None)
            self.outlet.finish(status, message)


class _Group:
    """All streams that see one world."""

    __slots__ = ("beat", "encoded", "key", "pushes", "sessions", "snapshot")

    def __init__(self, key: str) -> None:
        self.key = key
        self.snapshot: Snapshot | None = None
        self.sessions: dict[_Session, None] = {}
        self.encoded: dict[tuple[Variant, str, str], bytes] = {}
        self.beat = 0
        self.pushes: dict[str, int] = {}

    def encode(self, response: Response, variant: Variant) -> bytes:
        """One encoding for all streams that are sent the same: the very same bytes object."""
        name = (variant, response.type_url, response.nonce)
        encoded = self.encoded.get(name)
        if encoded is None:
            if len(self.encoded) >= _MAX_ENCODED:
                self.encoded.clear()
            encoded = self.encoded[name] = encode(response, variant)
        return encoded

    def send(self, session: _Session, responses: Iterable[Response]) -> None:
        for response in responses:
            session.outlet.send(self.encode(response, session.variant))
            self.pushes[response.type_url] = self.pushes.get(response.type_url, 0) + 1


class AdsHub:
    """All discovery streams of this process.

    Args:
        select: The key of the snapshot a proxy sees, or why there is none.
        events: Told what proxies do, after the hub's own state is consistent; must not block, may publish.
        clock: Seconds, for display and for the lifetimes of leases.
    """

    def __init__(
        self,
        select: Callable[[NodeInfo], str | Refusal],
        events: Callable[[ProxyEvent], None],
        clock: Callable[[], float],
    ) -> None:
        self.clock = clock
        self._select = select
        self._events = events
        self._groups: dict[str, _Group] = {}
        self._refused: OrderedDict[tuple[str, str], RefusedProxy] = OrderedDict()
        self._streams = 0
        self._ready = False

    def methods(self) -> tuple[Method, ...]:
        """The aggregated service and one service per type, both variants of each."""
        rows: list[tuple[str, Variant, str | None]] = [
            (f"{_ADS}/StreamAggregatedResources", Variant.SOTW, None),
            (f"{_ADS}/DeltaAggregatedResources", Variant.DELTA, None),
        ]
        for row in TYPES:
            for method, variant in zip(row.methods, Variant, strict=True):
                rows.append((f"/{row.service}/{method}", variant, row.url))
        return tuple(Method(path=path, service=partial(self._open, variant, type_url)) for path, variant, type_url in rows)

    def ready(self) -> None:
        """From now on proxies are let in: before, an empty world could be taken for the truth."""
        self._ready = True

    def publish(self, key: str, snapshot: Snapshot) -> None:
        """Makes a snapshot the world of a group and sends what that means to each of its proxies.

        Raises: ValueError: If its serial is not greater than that of the group's last snapshot.
        """
        group = self._groups.setdefault(key, _Group(key))
        if group.snapshot is not None and snapshot.serial <= group.snapshot.serial:
            raise ValueError(f"snapshot {snapshot.serial} of {key!r} does not follow snapshot {group.snapshot.serial}")
        group.snapshot = snapshot
        group.encoded.clear()
        for session in tuple(group.sessions):
            self.proceed(session, ())

    def withdraw(self, key: str) -> None:
        """Ends a group: its world is forgotten and its proxies are sent away to come back and be selected anew."""
        group = self._groups.pop(key, None)
        for session in tuple(group.sessions) if group else ():
            session.finish(Status.UNAVAILABLE, "the group of this proxy was removed; connect again")

    def reselect(self) -> None:
        """Sends away every proxy that `select` now puts elsewhere; it comes back to its new world."""
        for group in tuple(self._groups.values()):
            for session in tuple(group.sessions):
                if session.node is not None and self._select(session.node) != group.key:
                    session.finish(Status.UNAVAILABLE, "this proxy belongs to another group now; connect again")

    def heartbeat(self, key: str, type_url: str, names: Iterable[str]) -> None:
        """Prolongs leased resources on every proxy of a group that has them."""
        group = self._groups.get(key)
        if group is None:
            return
        group.beat += 1
        wanted, now = tuple(names), self.clock()
        for session in tuple(group.sessions):
            group.send(session, session.stream.heartbeat(type_url, wanted, beat=group.beat, now=now))

    def sync_state(self, key: str, serial: int) -> Sync:
        """How far the group's proxies are with the snapshot of that serial."""
        group = self._groups.get(key)
        sessions = tuple(group.sessions) if group else ()
        errors = [(session.node.id if session.node else "", *session.stream.errors[0]) for session in sessions if session.stream.errors]
        return Sync(
            selected=len(sessions),
            acked=sum(session.stream.synced_serial >= serial for session in sessions),
            rejected=len(errors),
            words=f"{errors[0][0]} rejects {short(errors[0][1])}: {errors[0][2]}" if errors else "",
        )

    def proxies(self) -> list[ProxyStatus]:
        """Every stream of every selected proxy, by node."""
        found = [_status(session, group) for group in self._groups.values() for session in group.sessions]
        return sorted(found, key=lambda each: (each.node_id, each.connected_since))

    def take_pushes(self) -> dict[str, int]:
        """Responses sent by type since the last call."""
        taken: dict[str, int] = {}
        for group in self._groups.values():
            for type_url, count in group.pushes.items():
                taken[type_url] = taken.get(type_url, 0) + count
            group.pushes.clear()
        return taken

    def refused(self) -> list[RefusedProxy]:
        """Proxies no group selects, the latest last; the oldest are forgotten."""
        return list(self._refused.values())

    def _open(self, variant: Variant, type_url: str | None, outlet: Outlet) -> _Session:
        self._streams += 1
        session = _Session(self, outlet, variant=variant, type_url=type_url)
        if not self._ready:
            session.finish(Status.UNAVAILABLE, "starting: the state is not loaded yet")
        elif self._streams > _MAX_STREAMS:
            session.finish(Status.RESOURCE_EXHAUSTED, f"more than {_MAX_STREAMS} discovery streams are open")
        return session

    # What sessions call.

    def join(self, session: _Session, node: NodeInfo | None) -> bool:
        """Puts a stream into the group of the node it introduced itself as, or turns it away.

        Raises: PeerError: If it did not introduce itself.
        """
        if node is None or not node.id:
            raise PeerError("the first request of a stream must carry a node with an id; hint: give Envoy `node.id` or --service-node")
        key = self._select(node)
        if isinstance(key, Refusal):
            self._refuse(session, node, key.message)
            return False
        session.node = node
        session.group = group = self._groups.setdefault(key, _Group(key))
        group.sessions[session] = None
        self._refused.pop((node.id, node.cluster), None)
        _log.info(
            "stream.opened", peer=session.outlet.peer, node=node.id, group=key, variant=session.variant.value, service=session.service
        )
        self._events(Connected(key=key, node_id=node.id, variant=session.variant))
        return True

    def proceed(self, session: _Session, facts: tuple[Fact, ...]) -> None:
        """Sends what is to be sent after a request or a publication, then tells the listener."""
        group, node = session.group, session.node
        if group is None or node is None or session not in group.sessions:
            return
        if group.snapshot is not None and not self._send_open(session, group, group.snapshot):
            return
        reported, session.reported = session.reported, session.stream.synced_serial
        for fact in facts:
            if isinstance(fact, NackedFact):
                _log.warning("stream.nacked", node=node.id, type=short(fact.type_url), version=fact.version, words=fact.message)
                self._events(Nacked(key=group.key, node_id=node.id, type_url=fact.type_url, message=fact.message, resources=fact.resources))
            elif isinstance(fact, AckedFact) and not fact.heartbeat:
                _log.debug("stream.acked", node=node.id, type=short(fact.type_url), version=fact.version)
        if session.reported > reported:
            self._events(Acked(key=group.key, node_id=node.id, serial=session.reported))

    def _send_open(self, session: _Session, group: _Group, snapshot: Snapshot) -> bool:
        """Sends what is open. A fault of ours costs this stream, not the ones that come after it in a publication."""
        try:
            group.send(session, session.stream.offer(snapshot, now=self.clock()))
        except Exception:  # noqa: BLE001 - logged once, the stream ends
            _log.exception("stream.failed", node=session.node.id if session.node else "", group=group.key)
            session.finish(Status.INTERNAL, "an error of the server; its log has it")
            return False
        return True

    def leave(self, session: _Session) -> None:
        """The stream is gone."""
        self._streams -= 1
        group, node = session.group, session.node
        if group is not None and node is not None:
            group.sessions.pop(session, None)
            _log.info("stream.closed", node=node.id, group=group.key)
            self._events(Disconnected(key=group.key, node_id=node.id, variant=session.variant))

    def _refuse(self, session: _Session, node: NodeInfo, message: str) -> None:
        before = self._refused.pop((node.id, node.cluster), None)
        if len(self._refused) >= _MAX_REFUSED:
            self._refused.popitem(last=False)
        self._refused[node.id, node.cluster] = RefusedProxy(
            node_id=node.id,
            cluster=node.cluster,
            version=node.version,
            peer=session.outlet.peer,
            message=message,
            at=self.clock(),
            times=before.times + 1 if before else 1,
        )
        if before is None:
            _log.warning("stream.refused", peer=session.outlet.peer, node=node.id, cluster=node.cluster, reason=message)
        session.finish(Status.FAILED_PRECONDITION, message)
        self._events(Refused(node_id=node.id, cluster=node.cluster, message=message))


def _status(session: _Session, group: _Group) -> ProxyStatus:
    assert session.node is not None
    types = session.stream.progress()
    return ProxyStatus(
        key=group.key,
        node_id=session.node.id,
        cluster=session.node.cluster,
        version=session.node.version,
        peer=session.outlet.peer,
        variant=session.variant,
        service=session.service,
        connected_since=session.since,
        leased=any(each.type_url == RTDS for each in types),
        types=types,
    )
