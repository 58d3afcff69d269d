"""One xDS stream as a value machine: requests in, facts and responses out; no clock, no I/O, no protobuf.

`receive` takes what the client said and tells what that meant; `offer` takes the newest snapshot and gives what must be sent now;
`heartbeat` prolongs leases. The caller offers after every request and after every publication; offering twice sends nothing twice.

How it behaves, for each type apart (a type is its own world: own names, nonces and versions):
  - At most one response is unanswered. Whatever is published meanwhile coalesces: the next offer after the answer sends the newest.
  - A NACK is an `error_detail` on the unanswered nonce, nothing else. What it rejected is not sent again by itself until it changes.
    The state of the world has one exception: a full world (CDS, LDS) is one unit, so it is sent again when any part of it changes.
  - The first request of a type is never stale, whatever nonce a former stream left in it. Otherwise a stale nonce is neither ACK nor
    NACK; its names still count, because requests come in order and the later one is what the client wants now.
  - A changed cluster takes its endpoints along in the same offer, even unchanged: the client warms it on them and may not ask.
  - Make before break: one offer goes in the order of `types.TYPES`, and a removal waits until the types that may still point at the
    removed thing are settled on this client (`ResourceType.parents`). Types do not wait for each other otherwise.
  - Nonces come from the content, so all clients of a group that are sent the same thing can be sent the same bytes.

Source: Envoy `xds_protocol.rst`, `discovery.proto`. Neighbours: `subscription`, `facts`, `snapshot`; `services.ads` drives it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from xds_server.core.facts import Acked, Fact, Nacked, Request, Response, Stale, Subscribed, Variant
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.subscription import MAX_NAMES, Change, Subscription
from xds_server.core.types import BY_URL, ORDER, ResourceType
from xds_server.errors import PeerError

MAX_TYPES: Final = 32
"""Types one client may ask for on one stream; Envoy knows about a dozen."""

LATE_BEAT: Final = 0.8
"""Part of a lifetime after which a heartbeat carries the whole resource, since the client may have dropped it."""


class State(Enum):
    """How far one type is on one stream, for people."""

    NOT_SENT = "NOT_SENT"
    SYNCED = "SYNCED"
    STALE = "STALE"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One type on one stream, as shown to people.

    Attributes:
        sent_version, acked_version: "" when there was none.
        error: The client's words about what it rejects now, else "".
        acked_at: Time of the last ACK as given to `receive`.
    """

    type_url: str
    state: State
    sent_version: str
    acked_version: str
    error: str
    acked_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unanswered:
    nonce: str
    version: str
    serial: int
    whole: bool
    heartbeat: bool
    full: bool
    names: frozenset[str]
    fresh: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class _Plan:
    send: dict[str, Resource] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    owed: bool = False

    def __bool__(self) -> bool:
        return bool(self.send) or bool(self.gone) or bool(self.absent) or self.owed


_NO_PLAN: Final = _Plan()


class _World:
    """One type on one stream."""

    __slots__ = (
        "acked_at",
        "acked_serial",
        "acked_version",
        "again",
        "asked",
        "error",
        "known",
        "leased_at",
        "nonce",
        "nonce_serial",
        "owed",
        "planned",
        "rejected",
        "repeats",
        "row",
        "sent_version",
        "subscription",
        "unanswered",
    )

    def __init__(self, row: ResourceType) -> None:
        self.row = row
        self.subscription = Subscription(allows_wildcard=row.wildcard)
        self.known: dict[str, Resource] = {}  # what the client has, or will have when it accepts what is on the way
        self.rejected: dict[str, str] = {}  # version by name; "" for a rejected removal
        self.error = ""
        self.asked: set[str] = set()  # names the client must be answered about
        self.again: set[str] = set()  # names to repeat for our own reasons
        self.owed = False  # an answer even if there is nothing to say
        self.unanswered: _Unanswered | None = None
        self.planned: str | None = None  # version of the world up to which nothing is left to do
        self.nonce = ""
        self.nonce_serial = -1
        self.repeats = 0
        self.leased_at: dict[str, float] = {}
        self.sent_version = ""
        self.acked_version = ""
        self.acked_serial = 0
        self.acked_at: float | None = None

    @property
    def synced_serial(self) -> int:
        """Newest accepted snapshot; a wish or response that is still open at that snapshot takes it back by one."""
        waiting = self.unanswered is not None and not self.unanswered.heartbeat and self.unanswered.serial <= self.acked_serial
        return max(0, self.acked_serial - 1) if waiting else self.acked_serial

    def apply(self, change: Change) -> None:
        self.asked |= change.asked
        self.owed = self.owed or change.world
        self.planned = None
        if change.world and self.unanswered is not None:  # what is on the way reaches a client that wants everything again
            self.asked |= self.unanswered.names
        if change.shrank:
            for name in [name for name in self.known if not self.subscription.covers(name)]:
                self.forget(name)
            self.asked = {name for name in self.asked if self.subscription.covers(name)}
            self.again = {name for name in self.again if self.subscription.covers(name)}
            still = {name: version for name, version in self.rejected.items() if self.subscription.covers(name)}
            if len(still) < len(self.rejected):  # what spoiled the removals beside it may be gone
                self.asked |= {name for name, version in still.items() if not version}
            self.rejected = still
            if not self.rejected:
                self.error = ""

    def forget(self, name: str) -> None:
        self.known.pop(name, None)
        self.leased_at.pop(name, None)

    def next_nonce(self, serial: int, content: str) -> str:
        """Unique on this stream and type: a snapshot's second response of a type is numbered."""
        self.repeats = self.repeats + 1 if serial == self.nonce_serial else 0
        self.nonce_serial = serial
        return f"{serial:x}.{content}.{self.repeats:x}" if self.repeats else f"{serial:x}.{content}"

    def sent(self, unanswered: _Unanswered, resources: Iterable[Resource], *, now: float) -> None:
        self.unanswered = unanswered
        self.nonce = unanswered.nonce
        self.sent_version = unanswered.version
        self.leased_at.update((each.name, now) for each in resources if each.ttl_s is not None)

    def answer(self, error: str | None, *, now: float) -> Fact:
        """The unanswered response was answered."""
        answered = self.unanswered
        assert answered is not None
        self.unanswered = None
        if error is not None:
            self.rejected.update(answered.fresh)
            self.error = error or "rejected without words"
            names = tuple(sorted(answered.fresh))
            return Nacked(type_url=self.row.url, version=answered.version, message=self.error, resources=names)
        still = {} if answered.full else self.rejected
        self.rejected = {name: version for name, version in still.items() if name not in answered.names}
        if not self.rejected:
            self.error = ""
        self.acked_version = answered.version
        self.acked_at = now
        if answered.whole and not self.rejected:
            self.acked_serial = max(self.acked_serial, answered.serial)
        return Acked(type_url=self.row.url, version=answered.version, heartbeat=answered.heartbeat)

    def plan(self, snapshot: Snapshot) -> _Plan:
        """What separates the client from the snapshot."""
        if self.planned == snapshot.version(self.row.url):
            return _NO_PLAN
        desired = self.subscription.desired(snapshot.of(self.row.url))
        send = {name: each for name, each in desired.items() if _differs(self.known.get(name), each)}
        for name in self.again:
            if name in desired and self.rejected.get(name) != desired[name].version:
                send[name] = desired[name]
        for name in self.asked:
            if name in desired:
                send[name] = desired[name]
        plan = _Plan(
            send=send,
            gone=tuple(sorted(name for name in self.known if name not in desired)),
            absent=tuple(sorted(name for name in self.asked if name not in desired and name not in self.known)),
            owed=self.owed,
        )
        if plan:  # removals that were rejected along with something else go again with the next change
            doubtful = {name for name, version in self.rejected.items() if not version and name not in desired}
            plan.gone = tuple(sorted(doubtful.union(plan.gone)))
        return plan

    def progress(self) -> Progress:
        if self.rejected or self.error:
            state = State.ERROR
        elif not self.sent_version:
            state = State.NOT_SENT
        elif self.planned is not None and (self.unanswered is None or self.unanswered.heartbeat):
            state = State.SYNCED
        else:
            state = State.STALE
        return Progress(
            type_url=self.row.url,
            state=state,
            sent_version=self.sent_version,
            acked_version=self.acked_version,
            error=self.error,
            acked_at=self.acked_at,
        )


class AdsStream:
    """The server's side of one stream, aggregated or of a single type.

    Args:
        variant: State of the world or delta; the only difference a caller sees is in the requests it may pass.
    """

    __slots__ = ("_serial", "_variant", "_worlds")

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._worlds: dict[str, _World] = {}
        self._serial = 0

    def receive(self, request: Request, *, now: float = 0.0) -> tuple[Fact, ...]:
        """What a request meant. Call `offer` next.

        Raises: PeerError: If the client asks for more types or names than anybody needs.
        """
        world = self._worlds.get(request.type_url)
        if world is None:
            return self._begin(request)
        facts: list[Fact] = []
        answers = world.unanswered is not None and request.nonce == world.unanswered.nonce
        if answers:
            facts.append(world.answer(request.error, now=now))
        elif request.nonce and request.nonce != world.nonce:
            facts.append(Stale(type_url=request.type_url, nonce=request.nonce))
        change = self._subscribe(world, request)
        if change:
            world.apply(change)
            facts.append(Subscribed(type_url=request.type_url))
        elif not answers and self._repeats_itself(world, request):
            world.again |= world.subscription.names
            world.planned = None
        return tuple(facts)

    def offer(self, snapshot: Snapshot, *, now: float = 0.0) -> tuple[Response, ...]:
        """What must be sent now so that the client comes to see the snapshot; often nothing.

        Args:
            snapshot: The newest of the group; serials never go back on a stream.
            now: Time of sending [seconds], for the lifetimes of leases.
        """
        if snapshot.serial < self._serial:
            raise ValueError(f"snapshot {snapshot.serial} is older than snapshot {self._serial}, which was offered before")
        self._serial = snapshot.serial
        responses: list[Response] = []
        unsettled: set[str] | None = None
        while unsettled is None or any(world.planned is None and world.unanswered is None for world in self._worlds.values()):
            plans = {url: world.plan(snapshot) for url, world in self._worlds.items()}
            before, unsettled = unsettled, {url for url, world in self._worlds.items() if plans[url] or world.unanswered or world.rejected}
            if unsettled == before:
                break
            responses.extend(self._pass(snapshot, plans, unsettled, now=now))
        return tuple(responses)

    def _pass(self, snapshot: Snapshot, plans: dict[str, _Plan], unsettled: set[str], *, now: float) -> list[Response]:
        """Every type once, in order. What a type settles without a message may let go of another's removals: then one more pass."""
        responses: list[Response] = []
        for url in sorted(self._worlds, key=_place):
            world = self._worlds[url]
            if world.unanswered is not None:
                continue
            if world.again and plans[url] is not _NO_PLAN:
                plans[url] = world.plan(snapshot)  # a cluster sent in this very offer took its endpoints along
            held = not unsettled.isdisjoint(world.row.parents)
            response = self._send(world, plans[url], snapshot, held=held, now=now)
            if response is not None:
                responses.append(response)
                self._take_child_along(world, plans)
        return responses

    def heartbeat(self, type_url: str, names: Iterable[str], *, beat: int, now: float = 0.0) -> tuple[Response, ...]:
        """Prolongs the lifetimes of leased resources the client has; nothing while a response of the type is unanswered.

        Args:
            type_url: Type of the leased resources.
            names: Of the leased resources to prolong; those the client does not have, rejected or has without lifetime are left out.
            beat: Number of the heartbeat, growing within the group, the same for all its streams.
            now: Time of sending [seconds].
        """
        world = self._worlds.get(type_url)
        if world is None or world.unanswered is not None:
            return ()
        leased = [world.known[name] for name in sorted(set(names) & world.known.keys()) if name not in world.rejected]
        leased = [each for each in leased if each.ttl_s is not None]
        if not leased:
            return ()
        late = any(now - world.leased_at.get(each.name, now) > LATE_BEAT * (each.ttl_s or 0.0) for each in leased)
        nonce = f"b{beat:x}.{_digest(leased, ())}{'.full' if late else ''}"
        response = Response(
            type_url=type_url,
            nonce=nonce,
            version=world.sent_version,
            resources=tuple(leased),
            bodiless=self._variant is Variant.DELTA and not late,
        )
        unanswered = _Unanswered(
            nonce=nonce,
            version=world.sent_version,
            serial=world.acked_serial,
            whole=True,
            heartbeat=True,
            full=False,
            names=frozenset(each.name for each in leased),
            fresh={each.name: each.version for each in leased},
        )
        world.sent(unanswered, leased, now=now)
        return (response,)

    def synced(self, type_url: str) -> int:
        """Newest snapshot whose part of this type the client has accepted; the newest offered for a type it never asked for."""
        world = self._worlds.get(type_url)
        return self._serial if world is None else world.synced_serial

    @property
    def synced_serial(self) -> int:
        """Serial of the newest snapshot that the client has accepted in everything it asks for; 0 for none."""
        return min((world.synced_serial for world in self._worlds.values()), default=0)

    @property
    def errors(self) -> tuple[tuple[str, str], ...]:
        """(type URL, the client's words) of what it rejects now."""
        return tuple((url, world.error) for url, world in self._worlds.items() if world.error)

    def progress(self) -> tuple[Progress, ...]:
        """All types the client asked for, in the order of sending."""
        return tuple(self._worlds[url].progress() for url in sorted(self._worlds, key=_place))

    def _begin(self, request: Request) -> tuple[Fact, ...]:
        if len(self._worlds) >= MAX_TYPES:
            raise PeerError(f"more than {MAX_TYPES} resource types are asked for on one stream")
        if len(request.initial_versions) > MAX_NAMES:
            raise PeerError(f"more than {MAX_NAMES} initial resource versions of one type are listed")
        row = BY_URL.get(request.type_url)
        world = _World(row or ResourceType(url=request.type_url, short=request.type_url, service="", methods=("", "")))
        change = self._subscribe(world, request)
        world.apply(change)
        if self._variant is Variant.DELTA:
            stubs = (Resource(name=name, version=version, body=b"") for name, version in request.initial_versions.items())
            world.known = {stub.name: stub for stub in stubs}
        self._worlds[request.type_url] = world
        return (Subscribed(type_url=request.type_url),)

    def _subscribe(self, world: _World, request: Request) -> Change:
        if self._variant is Variant.SOTW:
            return world.subscription.replace(request.names)
        return world.subscription.update(request.names, request.unsubscribe)

    def _repeats_itself(self, world: _World, request: Request) -> bool:
        """A state-of-the-world client that asks for the same names a second time after its ACK wants them once more.

        Envoy does so for endpoints when their cluster changed; answering is what ends the cluster's warming.
        """
        idle = world.unanswered is None and request.nonce == world.nonce and request.error is None
        return idle and self._variant is Variant.SOTW and not world.row.wildcard

    def _send(self, world: _World, plan: _Plan, snapshot: Snapshot, *, held: bool, now: float) -> Response | None:
        """Turns a plan into a response, or settles the type without one."""
        kept = plan.gone if held else ()
        gone = () if held else plan.gone
        sotw = self._variant is Variant.SOTW
        removed: tuple[str, ...] = ()
        if sotw and world.row.wildcard:
            must = bool(plan.send or gone or plan.absent or plan.owed)
            desired = world.subscription.desired(snapshot.of(world.row.url)) if must else {}
            resources = {name: world.known[name] for name in kept if must} | dict(desired)
        else:
            resources = plan.send
            removed = () if sotw else tuple(sorted({*gone, *plan.absent}))
            must = bool(resources or removed) or (plan.owed and not sotw)
        for name in gone:
            world.forget(name)
            if sotw and not world.row.wildcard:
                world.rejected.pop(name, None)
        fresh = {name: each.version for name, each in plan.send.items()} | dict.fromkeys(removed, "")
        world.known.update(plan.send)
        world.asked.clear()
        world.again.clear()
        world.owed = False
        whole = not kept
        version = snapshot.version(world.row.url)
        world.planned = version if whole else None
        if not must:
            if not world.rejected:
                world.error = ""
                if whole:
                    world.acked_serial = snapshot.serial
            return None
        ordered = tuple(resources[name] for name in sorted(resources))
        nonce = world.next_nonce(snapshot.serial, _digest(ordered, removed))
        unanswered = _Unanswered(
            nonce=nonce,
            version=version,
            serial=snapshot.serial,
            whole=whole,
            heartbeat=False,
            full=sotw and world.row.wildcard,
            names=frozenset((*resources, *removed)),
            fresh=fresh,
        )
        world.sent(unanswered, ordered, now=now)
        return Response(type_url=world.row.url, nonce=nonce, version=version, resources=ordered, removed=removed)

    def _take_child_along(self, world: _World, plans: dict[str, _Plan]) -> None:
        child = self._worlds.get(world.row.child or "")
        if child is None or world.unanswered is None:
            return
        for name, version in world.unanswered.fresh.items():
            if not version:
                continue
            pointed = {needed for url, needed in world.known[name].references if url == child.row.url} | {name}
            child.again |= {needed for needed in pointed if child.subscription.covers(needed)}
        if child.again:
            child.planned = None
            plans[child.row.url] = _Plan()  # to be planned anew


def _place(type_url: str) -> int:
    return ORDER.get(type_url, len(ORDER))


def _differs(known: Resource | None, wanted: Resource) -> bool:
    return known is None or (known is not wanted and (known.version != wanted.version or known.ttl_s != wanted.ttl_s))


def _digest(resources: Iterable[Resource], removed: Iterable[str]) -> str:
    """Short name of a response's content: equal content, equal name, whoever computes it."""
    digest = hashlib.blake2b(digest_size=6)
    for each in resources:
        digest.update(f"{len(each.name)}:{each.name}{len(each.version)}:{each.version}{each.ttl_s};".encode())
    for name in removed:
        digest.update(f"-{len(name)}:{name}".encode())
    return digest.hexdigest()
