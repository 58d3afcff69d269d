"""One discovery stream, and all streams that see one world: what the hub keeps of each.

Neighbours: `ads` is the hub that drives them; `xds_server.core.stream` decides what to send, `messages` translates.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from xds_server.core.facts import Fact, Request, Response, Variant
from xds_server.core.snapshot import Snapshot
from xds_server.core.stream import AdsStream
from xds_server.core.transport import Outlet, Status
from xds_server.core.types import short
from xds_server.errors import PeerError
from xds_server.services.messages import NodeInfo, decode, decoder, encode

_log = structlog.get_logger()

MAX_PARKED: Final = 64
_MAX_ENCODED: Final = 128


class Hub(Protocol):
    """What a session asks of its hub."""

    @property
    def clock(self) -> Callable[[], float]: ...

    def queue(self, session: "Session", node: NodeInfo) -> None:
        """A stream said who it is and waits to be let in."""
        ...

    def proceed(self, session: "Session", facts: tuple[Fact, ...], now: float) -> None:
        """Something was said."""
        ...

    def leave(self, session: "Session") -> None:
        """The stream is gone."""
        ...


class Session:
    """One open stream. `node` is set by its first request and never changes; `group` once it was let in; `over` once it has ended."""

    __slots__ = (
        "_decode",
        "_hub",
        "group",
        "home",
        "node",
        "outlet",
        "over",
        "parked",
        "reported",
        "service",
        "silent_since",
        "since",
        "stream",
        "type_url",
        "variant",
    )

    def __init__(self, hub: Hub, outlet: Outlet, *, variant: Variant, type_url: str | None) -> None:
        self._hub = hub
        self.over = False
        self.outlet = outlet
        self.variant = variant
        self._decode = decoder(variant)
        self.type_url = type_url
        self.service = short(type_url) if type_url else "ADS"
        self.stream = AdsStream(variant)
        self.home = ""
        self.group: Audience | None = None
        self.node: NodeInfo | None = None
        self.parked: tuple[Request, ...] = ()
        self.since = hub.clock()
        self.silent_since: float | None = None
        self.reported = 0

    def received(self, message: bytes) -> None:
        if self.over:
            return
        try:
            if self.group is None:
                self._park(*decode(message, self.variant, implied_type=self.type_url, node_known=self.node is not None))
                return
            request = self._decode(message, self.type_url)
            self.silent_since = None
            now = self._hub.clock()
            facts = self.stream.receive(request, now)
        except PeerError as error:
            self._broken(error)
            return
        self._hub.proceed(self, facts, now)

    def _park(self, request: Request, node: NodeInfo | None) -> None:
        """It waits to be let in; Envoy says a handful of things until then."""
        if len(self.parked) >= MAX_PARKED:
            raise PeerError(f"{MAX_PARKED} requests came before the first answer")
        self.parked = (*self.parked, request)
        if self.node is None:
            if node is None or not node.id:
                raise PeerError("the first request of a stream must carry a node with an id; hint: give Envoy `node.id` or --service-node")
            self.node = node
            self._hub.queue(self, node)

    def let_in(self, now: float) -> tuple[Fact, ...]:
        """Takes in what was said while waiting."""
        parked, self.parked = self.parked, ()
        try:
            return tuple(fact for request in parked for fact in self.stream.receive(request, now=now))
        except PeerError as error:
            self._broken(error)
            return ()

    def _broken(self, error: PeerError) -> None:
        _log.warning("stream.broken", peer=self.outlet.peer, node=self.node.id if self.node else "", reason=str(error))
        self.finish(Status.INVALID_ARGUMENT, str(error))

    def closed(self) -> None:
        self.over = True
        self._hub.leave(self)

    @property
    def world(self) -> str:
        """The key of the world it sees; "" before it is let in."""
        return self.group.key if self.group is not None else ""

    def finish(self, status: Status, message: str) -> None:
        if not self.over:
            self.over = True
            if self.group is not None:
                self.group.remove(self)
            self.outlet.finish(status, message)


class Audience:
    """All streams that see one world."""

    __slots__ = ("_encoded", "_reached", "key", "pushes", "rejecting", "sessions", "snapshot")

    def __init__(self, key: str) -> None:
        self.key = key
        self.snapshot: Snapshot | None = None
        self.sessions: dict[Session, None] = {}
        self.rejecting: dict[Session, None] = {}
        self.pushes: dict[str, int] = {}
        self._encoded: dict[str, bytes] = {}
        self._reached: dict[int, int] = {}

    def add(self, session: Session) -> None:
        session.group = self
        self.sessions[session] = None
        self._count(session.reported, +1)

    def remove(self, session: Session) -> None:
        if session in self.sessions:
            del self.sessions[session]
            self.rejecting.pop(session, None)
            self._count(session.reported, -1)

    def reach(self, session: Session, serial: int) -> None:
        """The stream has now accepted everything up to a serial."""
        reached, before = self._reached, session.reported
        reached[serial] = reached.get(serial, 0) + 1
        left = reached[before] = reached[before] - 1
        if not left:
            del reached[before]
        session.reported = serial

    def mark(self, session: Session, *, rejects: bool) -> None:
        """Whether the stream rejects something now."""
        if rejects:
            self.rejecting[session] = None
        else:
            self.rejecting.pop(session, None)

    def _count(self, serial: int, change: int) -> None:
        count = self._reached.get(serial, 0) + change
        if count:
            self._reached[serial] = count
        else:
            del self._reached[serial]

    def acked(self, serial: int) -> int:
        """Streams that have accepted everything up to a serial."""
        return sum(streams for reached, streams in self._reached.items() if reached >= serial)

    def send(self, session: Session, responses: Iterable[Response]) -> None:
        for response in responses:
            encoded = self._encoded.get(response.nonce)
            session.outlet.send(encoded if encoded is not None else self._encode(response, session.variant))
            self.pushes[response.type_url] = self.pushes.get(response.type_url, 0) + 1

    def _encode(self, response: Response, variant: Variant) -> bytes:
        """One encoding, the very same bytes object, for all streams that are sent the same: equal nonces say so."""
        if len(self._encoded) >= _MAX_ENCODED:
            self._encoded.clear()
        encoded = self._encoded[response.nonce] = encode(response, variant)
        return encoded

    def publish(self, snapshot: Snapshot) -> None:
        if self.snapshot is not None and snapshot.serial <= self.snapshot.serial:
            raise ValueError(f"snapshot {snapshot.serial} of {self.key!r} does not follow snapshot {self.snapshot.serial}")
        self.snapshot = snapshot
        self._encoded.clear()
