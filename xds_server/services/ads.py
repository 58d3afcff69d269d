"""Discovery services: one hub that knows every proxy, what its group's world is, and how far the proxy is.

The hub is driven by calls only and never blocks: `publish` offers a snapshot to the streams of its world, many at once and the rest in the
next turns of the loop; a proxy that is slow or silent holds one unanswered response per type and nothing else. New proxies are let in a few
per turn, those known from before first, so that a fleet that comes back at once does not hold up those that are already served.

Neighbours: `xds_server.core.stream` decides what to send, `messages` translates, a transport (`core.transport`) carries; `proxies` has the
events and values; the runtime says who sees which world (`select`, `assign`), publishes and listens.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final
from zlib import crc32

import structlog

from xds_server.core.facts import Acked as AckedFact
from xds_server.core.facts import Fact, Variant
from xds_server.core.facts import Nacked as NackedFact
from xds_server.core.snapshot import Snapshot
from xds_server.core.transport import Method, Outlet, Status
from xds_server.core.types import RTDS, TYPES, short
from xds_server.services.messages import NodeInfo
from xds_server.services.proxies import (
    Acked,
    Connected,
    Disconnected,
    Member,
    Nacked,
    ProxyEvent,
    ProxyStatus,
    Refusal,
    Refused,
    RefusedProxy,
    Sync,
)
from xds_server.services.streams import Audience, Session

__all__ = ["AdsHub", "Limits"]

_log = structlog.get_logger()

_ADS: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
_SPREAD_FROM: Final = 0.9
_MAX_REFUSED: Final = 256
_MAX_REMEMBERED: Final = 20_000
_MAX_ANSWERS: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one process takes on.

    Attributes:
        streams: Open at once; more are refused.
        age_s: After this time [s], give or take a tenth, a stream that has nothing open is ended: the proxy comes back, to another replica
            where there are several. The tenth spreads the returns of a fleet that came at once.
        answer_s: A stream that owes an answer and says nothing for so long is ended [s]. Envoy withholds the ACK of a cluster for 15 s.
        admitted: Proxies let in per turn of the loop.
        offered: Streams that a publication reaches per turn of the loop.
    """

    streams: int = 20_000
    age_s: float = 1800.0
    answer_s: float = 90.0
    admitted: int = 16
    offered: int = 256


class AdsHub:
    """All discovery streams of this process.

    Args:
        select: The home of a proxy: the key of the world it sees, or why there is none.
        events: Told what proxies do, after the hub's own state is consistent; must not block, may publish.
        clock: Seconds, for display and for the lifetimes of leases.
        defer: Calls back in the next turn of the event loop; without it everything is done at once.
    """

    def __init__(
        self,
        select: Callable[[NodeInfo], str | Refusal],
        events: Callable[[ProxyEvent], None],
        clock: Callable[[], float],
        defer: Callable[[Callable[[], None]], object] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.clock = clock
        self._answers_s: deque[float] = deque(maxlen=_MAX_ANSWERS)
        self._select = select
        self._events = events
        self._defer = defer
        self._limits = limits or Limits()
        self._groups: dict[str, Audience] = {}
        self._waiting: tuple[deque[Session], deque[Session]] = deque(), deque()
        self._due: dict[Session, None] = {}
        self._deferred = False
        self._remembered: OrderedDict[str, None] = OrderedDict()
        self._refused: OrderedDict[tuple[str, str], RefusedProxy] = OrderedDict()
        self._beat = 0
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

    # What proxies see.

    def publish(self, key: str, snapshot: Snapshot) -> None:
        """Makes a snapshot a world and sends what that means to each proxy that sees this world.

        Raises: ValueError: If its serial is not greater than that of the world's last snapshot.
        """
        group = self._group(key)
        group.publish(snapshot)
        self._due |= group.sessions
        self._offer_due()

    def withdraw(self, key: str) -> None:
        """Ends a world: its proxies are sent away to come back and be selected anew."""
        group = self._groups.pop(key, None)
        for session in tuple(group.sessions) if group else ():
            session.finish(Status.UNAVAILABLE, "the group of this proxy was removed; connect again")

    def reselect(self) -> None:
        """Sends away every proxy that `select` now puts elsewhere; it comes back to its new world."""
        for session in self._sessions():
            if session.node is not None and self._select(session.node) != session.home:
                session.finish(Status.UNAVAILABLE, "this proxy belongs to another group now; connect again")

    def assign(self, home: str, nodes: Collection[str], world: str) -> None:
        """Shows another world to some proxies of a home, on the streams they have. A proxy that connects anew begins at home.

        Serials must grow over all worlds that one proxy comes to see.
        """
        if not nodes:
            return
        target = self._group(world)
        for session in self._sessions():
            group, node = session.group, session.node
            if group is not None and node is not None and session.home == home and node.id in nodes and group is not target:
                group.remove(session)
                target.add(session)
                target.mark(session, rejects=session.stream.rejects)
                self._due[session] = None
        self._offer_due()

    def heartbeat(self, key: str, type_url: str, names: Iterable[str]) -> None:
        """Prolongs leased resources on every proxy that sees a world and has them."""
        group = self._groups.get(key)
        if group is None:
            return
        self._beat += 1  # of the hub, not of the world: a proxy that is shown another one must not see a number twice
        wanted, now = tuple(names), self.clock()
        for session in tuple(group.sessions):
            group.send(session, session.stream.heartbeat(type_url, wanted, beat=self._beat, now=now))

    def tick(self) -> None:
        """Ends streams that are too old or owe an answer for too long; to be called about once a second.

        At most one stream in a hundred is ended for its age at a time, the oldest first; none that tries a change for the others.
        """
        now, limits = self.clock(), self._limits
        youngest = limits.age_s * _SPREAD_FROM
        old: list[Session] = []
        for session in self._sessions():
            if session.stream.awaits:
                if session.silent_since is None:
                    session.silent_since = now
                elif now - session.silent_since > limits.answer_s:
                    _log.warning("stream.silent", peer=session.outlet.peer, node=session.node.id if session.node else "")
                    session.finish(Status.UNAVAILABLE, f"a response was not answered for {limits.answer_s:.0f} s; connect again")
            elif (
                (age := now - session.since) > youngest
                and session.world == session.home
                and age > limits.age_s * _spread(session.outlet.peer)
            ):
                old.append(session)
        for session in sorted(old, key=lambda each: each.since)[: 1 + self._streams // 100]:
            session.finish(Status.UNAVAILABLE, "the stream has reached its maximum age; connect again")

    # Where proxies stand.

    def sync_state(self, key: str, serial: int) -> Sync:
        """How far the proxies that see a world are with the snapshot of that serial."""
        group = self._groups.get(key)
        if group is None:
            return Sync(selected=0, acked=0, rejected=0, words="")
        words = next((_words(session) for session in group.rejecting), "")
        return Sync(selected=len(group.sessions), acked=group.acked(serial), rejected=len(group.rejecting), words=words)

    def members(self, home: str) -> tuple[Member, ...]:
        """The proxies of a home, by node, whichever world they see."""
        found: dict[str, Member] = {}
        for session in self._sessions():
            if session.home != home or session.node is None or session.group is None:
                continue
            known, snapshot = found.get(session.node.id), session.group.snapshot
            settled = snapshot is None or session.reported >= snapshot.serial
            words = _words(session) if session in session.group.rejecting else ""
            found[session.node.id] = Member(
                node_id=session.node.id,
                world=session.group.key,
                connected_since=min(session.since, known.connected_since) if known else session.since,
                settled=settled and (known is None or known.settled),
                words=words or (known.words if known else ""),
            )
        return tuple(found[node] for node in sorted(found))

    def proxies(self, wanted: Callable[[str], bool] | None = None, *, at_most: int | None = None) -> list[ProxyStatus]:
        """The streams of selected proxies, by node.

        Args:
            wanted: Says by the id of a node whether it is; None takes all.
            at_most: Streams handed out: a status costs 0.05 ms, and nothing else runs meanwhile.
        """
        named = [(session.node.id, session.since, place, session) for place, session in enumerate(self._sessions()) if session.node]
        found = sorted(each for each in named if wanted is None or wanted(each[0]))
        return [_status(session) for *_, session in found[:at_most]]

    def outstanding(self) -> int:
        """Responses that proxies have not answered yet."""
        return sum(session.stream.outstanding for session in self._sessions())

    def take_answers_s(self) -> list[float]:
        """How long ACKs took since the last call, from the response [s]; of very many the last ones."""
        taken = list(self._answers_s)
        self._answers_s.clear()
        return taken

    def take_pushes(self) -> dict[str, int]:
        """Responses sent by type since the last call."""
        taken: Counter[str] = Counter()
        for group in self._groups.values():
            taken.update(group.pushes)
            group.pushes.clear()
        return dict(taken)

    def refused(self) -> list[RefusedProxy]:
        """Proxies no group selects, the latest last; the oldest are forgotten."""
        return list(self._refused.values())

    # What sessions call.

    def queue(self, session: Session, node: NodeInfo) -> None:
        """A stream said who it is: it is let in when its turn comes, one that was here before first."""
        if self._defer is None:
            self._let_in(session)
        else:
            self._waiting[node.id not in self._remembered].append(session)
            self._call_again()

    def proceed(self, session: Session, facts: tuple[Fact, ...], now: float) -> None:
        """Sends what is to be sent after a request or a publication, then tells the listener."""
        group, node = session.group, session.node
        if group is None or node is None or session.over:
            return
        stream, rejects, nacks = session.stream, bool(group.rejecting) and session in group.rejecting, False
        for fact in facts:
            if type(fact) is AckedFact:
                if not fact.heartbeat:
                    self._answers_s.append(stream.answered_s)
            elif type(fact) is NackedFact:
                rejects = nacks = True
        if group.snapshot is not None:
            try:
                responses = stream.offer(group.snapshot, now)
                if responses:
                    group.send(session, responses)
            except Exception:  # noqa: BLE001 - a fault of ours costs this stream, not those that come after it in a publication
                self._failed(session)
                return
        reported, serial = session.reported, stream.synced_serial
        if serial != reported:
            group.reach(session, serial)
        if rejects:
            group.mark(session, rejects=stream.rejects)
            if nacks:
                self._tell_rejected(session, group, node, facts)
        if serial > reported:
            self._events(tuple.__new__(Acked, (session.home, node.id, serial, group.key)))  # a third of what calling it takes

    def _tell_rejected(self, session: Session, group: Audience, node: NodeInfo, facts: tuple[Fact, ...]) -> None:
        for fact in facts:
            if isinstance(fact, NackedFact):
                _log.warning("stream.nacked", node=node.id, type=short(fact.type_url), version=fact.version, words=fact.message)
                self._events(
                    Nacked(
                        key=session.home,
                        world=group.key,
                        node_id=node.id,
                        type_url=fact.type_url,
                        message=fact.message,
                        resources=fact.resources,
                    )
                )

    def leave(self, session: Session) -> None:
        """The stream is gone."""
        self._streams -= 1
        self._due.pop(session, None)
        group, node = session.group, session.node
        if group is not None and node is not None:
            group.remove(session)
            _log.debug("stream.closed", node=node.id, group=session.home)
            self._events(Disconnected(key=session.home, node_id=node.id, variant=session.variant))

    # Work.

    def _group(self, key: str) -> Audience:
        return self._groups.setdefault(key, Audience(key))

    def _sessions(self) -> list[Session]:
        return [session for group in self._groups.values() for session in group.sessions]

    def _open(self, variant: Variant, type_url: str | None, outlet: Outlet) -> Session:
        self._streams += 1
        session = Session(self, outlet, variant=variant, type_url=type_url)
        if not self._ready:
            session.finish(Status.UNAVAILABLE, "starting: the state is not loaded yet")
        elif self._streams > self._limits.streams:
            session.finish(Status.RESOURCE_EXHAUSTED, f"more than {self._limits.streams} discovery streams are open")
        return session

    def _call_again(self) -> None:
        if self._defer is not None and not self._deferred:
            self._deferred = True
            self._defer(self._next_turn)

    def _next_turn(self) -> None:
        """Goes on with what was too much for one turn: first those that are served already, then some of those that wait."""
        self._deferred = False
        self._offer_due()
        known, strangers = self._waiting
        for _ in range(self._limits.admitted):
            if not known and not strangers:
                break
            self._let_in((known or strangers).popleft())
        if known or strangers:
            self._call_again()

    def _offer_due(self) -> None:
        """Offers their newest snapshot to streams that have not seen it, as many as fit into one turn."""
        room = self._limits.offered if self._defer is not None else len(self._due)
        due, now = self._due, self.clock()
        for session in list(islice(due, room)):
            if due.pop(session, self) is None:
                self.proceed(session, (), now)
        if self._due:
            self._call_again()

    def _let_in(self, session: Session) -> None:
        """Puts a stream into the group of its node, or turns it away."""
        node = session.node
        if session.over or node is None:
            return
        home = self._select(node)
        if isinstance(home, Refusal):
            self._refuse(session, node, home.message)
            return
        session.home = home
        self._remember(node)
        self._group(home).add(session)
        _log.debug(
            "stream.opened", peer=session.outlet.peer, node=node.id, group=home, variant=session.variant.value, service=session.service
        )
        self._events(Connected(key=home, node_id=node.id, variant=session.variant))
        now = self.clock()
        self.proceed(session, session.let_in(now), now)

    def _remember(self, node: NodeInfo) -> None:
        self._refused.pop((node.id, node.cluster), None)
        self._remembered[node.id] = None
        self._remembered.move_to_end(node.id)
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _failed(self, session: Session) -> None:
        """Called while an error is handled that ends this stream; logged once."""
        _log.exception(
            "stream.failed", node=session.node.id if session.node else "", group=session.group.key if session.group is not None else ""
        )
        session.finish(Status.INTERNAL, "an error of the server; its log has it")

    def _refuse(self, session: Session, node: NodeInfo, message: str) -> None:
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


def _spread(peer: str) -> float:
    """0.9 to 1.1, fixed for a connection."""
    return _SPREAD_FROM + crc32(peer.encode()) % 2001 / 10_000


def _words(session: Session) -> str:
    """What a stream rejects, for people."""
    node = session.node.id if session.node else ""
    return next((f"{node} rejects {short(url)}: {words}" for url, words in session.stream.errors), "")


def _status(session: Session) -> ProxyStatus:
    assert session.node is not None
    types = session.stream.progress()
    return ProxyStatus(
        key=session.home,
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
