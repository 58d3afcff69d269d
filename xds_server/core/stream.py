"""One xDS stream as a value machine: requests in, facts and responses out; no clock, no I/O, no protobuf.

`receive` takes what the client said and tells what that meant; `offer` takes the newest snapshot and gives what must be sent now;
`heartbeat` prolongs leases. The caller offers after every request and after every publication; offering twice sends nothing twice.

How it behaves, for each type apart (a type is its own world: own names, nonces and versions):
  - At most one response is unanswered. Whatever is published meanwhile coalesces: the next offer after the answer sends the newest.
  - A NACK is an `error_detail` on the unanswered nonce, nothing else. What it rejected is not sent again by itself until it changes,
    but for what was only beside the bad one: when that is mended and accepted, or no longer wanted, the rest is tried
    once more.
    The state of the world has one exception: a full world (CDS, LDS) is one unit, so it is sent again when any part of it changes.
  - The first request of a type is never stale, whatever nonce a former stream left in it. Otherwise a stale nonce is neither ACK nor
    NACK; its names still count, because requests come in order and the later one is what the client wants now.
  - A changed cluster takes its endpoints along in the same offer, even unchanged: the client warms it on them and may not ask.
  - Make before break: one offer goes in the order of `types.TYPES`, and a removal waits until the types that may still point at the
    removed thing are settled on this client (`ResourceType.parents`). Types do not wait for each other otherwise.
  - Nonces come from the content, so all clients of a group that are sent the same thing can be sent the same bytes.

Source: Envoy `xds_protocol.rst`, `discovery.proto`. Neighbours: `subscription`, `facts`, `snapshot`; `services.ads` drives it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from xds_server.core.exchange import NONE, Exchange, Outcome, Situation, heartbeat, outcome
from xds_server.core.facts import Fact, Nacked, Request, Response, Stale, Subscribed, Variant
from xds_server.core.snapshot import NOTHING, Resource, Snapshot
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


_NOTHING_REJECTED: Final[Mapping[str, str]] = MappingProxyType({})
_SOTW: Final = Variant.SOTW
_BEFORE: Final = Snapshot(serial=0, resources={})


class _World:
    """One type on one stream. Its values are immutable and shared with the other streams where these are in the same situation."""

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
        "rejected",
        "repeats",
        "row",
        "seen",
        "sent_at",
        "sent_version",
        "subscription",
        "unanswered",
        "url",
    )

    def __init__(self, row: ResourceType) -> None:
        self.row = row
        self.url = row.url
        self.subscription = Subscription(allows_wildcard=row.wildcard)
        self.known: Mapping[str, Resource] = NOTHING  # what the client has, or will have when it accepts what is on the way
        self.rejected = _NOTHING_REJECTED  # version by name; "" for a rejected removal
        self.error = ""
        self.asked = NONE  # names the client must be answered about
        self.again = NONE  # names to repeat for our own reasons
        self.owed = False  # an answer even if there is nothing to say
        self.unanswered: Exchange | None = None
        self.seen: Mapping[str, Resource] | None = None  # the type's world up to which nothing is left to do
        self.nonce = ""
        self.nonce_serial = -1
        self.repeats = 0
        self.leased_at: dict[str, float] | None = None
        self.sent_at = 0.0
        self.sent_version = ""
        self.acked_version = ""
        self.acked_serial = 0
        self.acked_at: float | None = None

    @property
    def awaits(self) -> bool:
        """Something that matters is unanswered; a heartbeat does not."""
        return self.unanswered is not None and not self.unanswered.acked.heartbeat

    def settled(self, snapshot: Snapshot) -> bool:
        """The client has accepted the type's part of a snapshot, the last that was offered."""
        return self.seen is snapshot.of(self.row.url) and not self.awaits and not self.rejected

    def unsettle(self, offered: Snapshot, serial: int) -> None:
        """There is something to do.

        Args:
            offered: The last snapshot that was offered.
            serial: Up to which the client was served if it was settled on that.
        """
        if self.settled(offered):
            self.acked_serial = serial
        self.seen = None

    def apply(self, change: Change, offered: Snapshot) -> None:
        """The client's wishes changed."""
        self.unsettle(offered, offered.serial - 1)
        self.asked |= change.asked
        self.owed = self.owed or change.world
        if change.world and self.unanswered is not None:  # what is on the way reaches a client that wants everything again
            self.asked |= self.unanswered.names
        if change.shrank:
            self._shrink()

    def _shrink(self) -> None:
        covers = self.subscription.covers
        self.known = {name: each for name, each in self.known.items() if covers(name)}
        self.asked = frozenset(filter(covers, self.asked))
        self.again = frozenset(filter(covers, self.again))
        still = {name: version for name, version in self.rejected.items() if covers(name)}
        self.reject(still)

    def reject(self, still: Mapping[str, str]) -> None:
        """What it rejects from now on. If that is less than before, what spoiled the rest may be gone: the rest is tried once more."""
        again = frozenset(still) - (self.unanswered.names if self.unanswered else NONE)
        if again and len(still) < len(self.rejected):
            self.asked |= again
            self.seen = None
        self.rejected = still or _NOTHING_REJECTED
        if not still:
            self.error = ""

    def outcome(self, variant: Variant, snapshot: Snapshot, *, held: bool = False) -> Outcome:
        """What this client must be told now; most of a fleet has what it wants of the last snapshot, and is told what the first was."""
        if self.asked or self.again or self.owed or self.rejected or snapshot.serial == self.nonce_serial:
            return outcome(self.row, variant, snapshot, self.situation(snapshot), held=held)
        subscription, known = self.subscription, self.known
        key = (self.url, id(known), subscription.names, subscription.wildcard, variant is _SOTW, held)
        found: tuple[Mapping[str, Resource], Outcome] | None = snapshot.memo.get(key)
        if found is None:
            found = known, outcome(self.row, variant, snapshot, self.situation(snapshot), held=held)
            snapshot.memo.put(key, found)
        return found[1]

    def situation(self, snapshot: Snapshot) -> Situation:
        desired = self.subscription.desired(snapshot, self.url)
        repeats = self.repeats + 1 if snapshot.serial == self.nonce_serial else 0
        return Situation(self.known, desired, self.asked, self.again, self.owed, self.rejected, repeats)

    def sent(self, exchange: Exchange, now: float) -> Response:
        response = exchange.response
        self.unanswered = exchange
        self.nonce = response.nonce
        self.sent_at = now
        self.sent_version = response.version
        if exchange.leased:
            self.leased_at = {name: at for name, at in (self.leased_at or {}).items() if name in self.known}
            self.leased_at.update(dict.fromkeys(exchange.leased, now))
        return response

    def settle(self, result: Outcome, snapshot: Snapshot, before: Snapshot, variant: Variant, now: float) -> Response | None:
        """Does what the situation calls for: sends something, or finds that nothing is to be sent."""
        exchange, whole = result.exchange, result.whole
        if (exchange is not None or not whole) and not self.rejected and self.seen is before.resources.get(self.url, NOTHING):
            self.acked_serial = before.serial
        self.known = result.known
        self.asked = self.again = NONE
        self.owed = False
        self.seen = snapshot.of(self.url) if whole else None
        if self.rejected and variant is _SOTW and whole and not self.row.wildcard:
            self.rejected = {name: version for name, version in self.rejected.items() if name not in result.gone} or _NOTHING_REJECTED
        if exchange is None:
            if not self.rejected:
                self.error = ""
            return None
        self.repeats = self.repeats + 1 if snapshot.serial == self.nonce_serial else 0
        self.nonce_serial = snapshot.serial
        return self.sent(exchange, now)

    def answer(self, error: str | None, now: float) -> Fact:
        """The unanswered response was answered."""
        answered = self.unanswered
        assert answered is not None
        self.unanswered = None
        if error is not None:
            self.rejected = {**self.rejected, **answered.fresh}
            self.error = error or "rejected without words"
            names = tuple(sorted(answered.fresh))
            return Nacked(type_url=self.row.url, version=answered.response.version, message=self.error, resources=names)
        if self.rejected:
            still = {} if answered.full else self.rejected
            self.reject({name: version for name, version in still.items() if name not in answered.names})
        else:
            self.error = ""
        self.acked_version = answered.response.version
        self.acked_at = now
        if self.seen is not None and not self.rejected and self.acked_serial < answered.serial:
            self.acked_serial = answered.serial
        return answered.acked

    def progress(self) -> Progress:
        if self.rejected or self.error:
            state = State.ERROR
        elif not self.sent_version:
            state = State.NOT_SENT
        elif self.seen is not None and not self.awaits:
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

    Attributes:
        answered_s: How long the client took for the last answer, from the response [s].
    """

    __slots__ = ("_ordered", "_snapshot", "_variant", "_worlds", "answered_s")

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._worlds: dict[str, _World] = {}
        self._ordered: tuple[_World, ...] = ()
        self._snapshot = _BEFORE
        self.answered_s = 0.0

    def receive(self, request: Request, now: float = 0.0) -> tuple[Fact, ...]:
        """What a request meant. Call `offer` next.

        Raises: PeerError: If the client asks for more types or names than anybody needs.
        """
        world = self._worlds.get(request.type_url)
        if world is None:
            return self._begin(request)
        facts: tuple[Fact, ...] = ()
        answers = world.unanswered is not None and request.nonce == world.nonce
        if answers:
            self.answered_s = now - world.sent_at
            facts = (world.answer(request.error, now),)
        elif request.nonce and request.nonce != world.nonce:
            facts = (Stale(type_url=request.type_url, nonce=request.nonce),)
        # All its names again (state of the world), or no change of them (delta): what an ACK says.
        same = request.names == world.subscription.listed and not request.unsubscribe
        change = None if same else self._subscribe(world, request)
        if change:
            world.apply(change, self._snapshot)
            facts = (*facts, Subscribed(type_url=request.type_url))
        elif not answers and self._repeats_itself(world, request):
            world.unsettle(self._snapshot, self._snapshot.serial - 1)
            world.again |= world.subscription.names
        return facts

    def offer(self, snapshot: Snapshot, now: float = 0.0) -> tuple[Response, ...]:
        """What must be sent now so that the client comes to see the snapshot; often nothing.

        Args:
            snapshot: The newest of the world this client sees; serials never go back on a stream.
            now: Time of sending [seconds], for the lifetimes of leases.
        """
        before, self._snapshot = self._snapshot, snapshot
        if snapshot.serial < before.serial:
            self._snapshot = before
            raise ValueError(f"snapshot {snapshot.serial} is older than snapshot {before.serial}, which was offered before")
        current = snapshot.resources.get
        for world in self._ordered:
            if world.unanswered is None and world.seen is not current(world.url, NOTHING):
                break
        else:
            return ()
        responses: list[Response] = []
        while self._pass(snapshot, responses, before, now):
            pass
        return tuple(responses)

    def _pass(self, snapshot: Snapshot, responses: list[Response], before: Snapshot, now: float) -> bool:
        """Every type once, in order. True if a type settled without a message, which may let go of what another holds back."""
        holding = freed = False
        variant = self._variant
        current = snapshot.resources.get
        for world in self._ordered:
            if world.unanswered is not None or world.seen is current(world.url, NOTHING):
                continue
            result = world.outcome(variant, snapshot)
            if result.gone and self._pointed_at(world.row, snapshot):
                result = world.outcome(variant, snapshot, held=True)
            response = world.settle(result, snapshot, before, variant, now)
            if response is None:
                holding = holding or not result.whole
                freed = freed or result.whole
                continue
            responses.append(response)
            if world.row.child is not None:
                self._take_child_along(world, before=before)
        return holding and freed

    def _pointed_at(self, row: ResourceType, snapshot: Snapshot) -> bool:
        """Whether a type that may still point at resources of this one is not settled on this client."""
        for url in row.parents:
            parent = self._worlds.get(url)
            if parent is None:
                continue
            if parent.unanswered is not None or parent.rejected:
                return True
            if parent.seen is not snapshot.of(url):
                result = parent.outcome(self._variant, snapshot)
                if result.exchange is not None or result.gone:
                    return True
        return False

    def heartbeat(self, type_url: str, names: Iterable[str], *, beat: int, now: float = 0.0) -> tuple[Response, ...]:
        """Prolongs the lifetimes of leased resources the client has; nothing while a response of the type is unanswered.

        Args:
            type_url: Type of the leased resources.
            names: Of the leased resources to prolong; those the client does not have, rejected or has without lifetime are left out.
            beat: Number of the heartbeat, growing over all worlds this client may see, the same for all streams it goes to.
            now: Time of sending [seconds].
        """
        world = self._worlds.get(type_url)
        if world is None or world.unanswered is not None:
            return ()
        known = (world.known[name] for name in sorted(set(names) & world.known.keys()) if name not in world.rejected)
        leased = tuple(each for each in known if each.ttl_s is not None)
        if not leased:
            return ()
        since = world.leased_at or {}
        late = any(now - since.get(each.name, now) > LATE_BEAT * (each.ttl_s or 0.0) for each in leased)
        exchange = heartbeat(world.row, self._variant, self._snapshot, leased, world.sent_version, beat=beat, late=late)
        return (world.sent(exchange, now),)

    def synced(self, type_url: str) -> int:
        """Newest snapshot whose part of this type the client has accepted; the newest offered for a type it never asked for."""
        world = self._worlds.get(type_url)
        return self._snapshot.serial if world is None or world.settled(self._snapshot) else world.acked_serial

    @property
    def synced_serial(self) -> int:
        """Serial of the newest snapshot that the client has accepted in everything it asks for; 0 for none."""
        serial = self._snapshot.serial if self._ordered else 0
        for world in self._ordered:
            if world.acked_serial < serial and not world.settled(self._snapshot):
                serial = world.acked_serial
        return serial

    @property
    def awaits(self) -> bool:
        """The client owes an answer to something that matters."""
        return any(world.awaits for world in self._ordered)

    @property
    def outstanding(self) -> int:
        """Responses that are not answered yet."""
        return sum(world.unanswered is not None for world in self._ordered)

    @property
    def rejects(self) -> bool:
        """The client rejects something now."""
        return any(world.error for world in self._ordered)

    @property
    def errors(self) -> tuple[tuple[str, str], ...]:
        """(type URL, the client's words) of what it rejects now."""
        return tuple((world.row.url, world.error) for world in self._ordered if world.error)

    def progress(self) -> tuple[Progress, ...]:
        """All types the client asked for, in the order of sending."""
        return tuple(world.progress() for world in self._ordered)

    def resources(self, type_url: str) -> tuple[tuple[str, str, bool], ...]:
        """(name, version, whether the client rejects it) of all it was sent of a type and should still have, by name."""
        world = self._worlds.get(type_url)
        if world is None:
            return ()
        return tuple((name, each.version, name in world.rejected) for name, each in sorted(world.known.items()))

    def _begin(self, request: Request) -> tuple[Fact, ...]:
        if len(self._worlds) >= MAX_TYPES:
            raise PeerError(f"more than {MAX_TYPES} resource types are asked for on one stream")
        if len(request.initial_versions) > MAX_NAMES:
            raise PeerError(f"more than {MAX_NAMES} initial resource versions of one type are listed")
        row = BY_URL.get(request.type_url)
        world = _World(row or ResourceType(url=request.type_url, short=request.type_url, service="", methods=("", "")))
        world.apply(self._subscribe(world, request), _BEFORE)
        if self._variant is Variant.DELTA and request.initial_versions:
            world.known = {name: Resource(name=name, version=version, body=b"") for name, version in request.initial_versions.items()}
        self._worlds[request.type_url] = world
        self._ordered = tuple(sorted(self._worlds.values(), key=_place))
        return (Subscribed(type_url=request.type_url),)

    def _subscribe(self, world: _World, request: Request) -> Change:
        if self._variant is _SOTW:
            return world.subscription.replace(request.names)
        return world.subscription.update(request.names, request.unsubscribe)

    def _repeats_itself(self, world: _World, request: Request) -> bool:
        """A state-of-the-world client that asks for the same names a second time after its ACK wants them once more.

        Envoy does so for endpoints when their cluster changed; answering is what ends the cluster's warming.
        """
        idle = world.unanswered is None and request.nonce == world.nonce and request.error is None
        return idle and self._variant is _SOTW and not world.row.wildcard

    def _take_child_along(self, world: _World, *, before: Snapshot) -> None:
        """The resources that the client will want again because of what it was just sent."""
        child = self._worlds.get(world.row.child or "")
        if child is None or world.unanswered is None:
            return
        again: set[str] = set()
        for name, version in world.unanswered.fresh.items():
            if version:
                pointed = {needed for url, needed in world.known[name].references if url == child.row.url} | {name}
                again |= {needed for needed in pointed if child.subscription.covers(needed)}
        if again:
            child.unsettle(before, before.serial)
            child.again |= again


def _place(world: _World) -> int:
    return ORDER.get(world.row.url, len(ORDER))
