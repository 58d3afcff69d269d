"""Carries every event to the engine and every effect out, in the written order: persist, publish, notify.

One task works a bounded queue, so a rollout never sees two events at once. A decision is saved (compare-and-set) before anything follows from
it; evidence and hold are checkpointed once a second. Where the store fails, a step that takes traffic *off* the candidate goes out all the same
(revert needs no healthy store); any other is dropped and tried again at the next event.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
from pydantic import TypeAdapter, ValidationError

from policies import engine, explain, wish
from policies.lanes import WHOLE, Lane, allocate
from policies.rollout import (
    IN_RELEASE,
    Commanded,
    Effect,
    Event,
    EvidenceArrived,
    Mode,
    Notify,
    Persist,
    PolicyChanged,
    PolicyRemoved,
    Publish,
    Record,
    Restarted,
    Rollout,
    Step,
    Ticked,
    Withdraw,
)
from policies.spec.policy import RolloutPolicy
from policies.steps import reserves
from policies.traffic import Arm
from xds_server.adapters.store import Conflict, Store
from xds_server.errors import PermanentStoreError, StoreError
from xds_server.runtime.ports import Delivering

log = structlog.get_logger()

QUEUE_MAX = 20_000
"""Events waiting at most; beyond that evidence is dropped and counted (no data never passes), all else is kept."""

TURN_S = 0.005
"""How long the queue is worked at a stretch [s]: a step that needs no store never waits by itself."""

CHECKPOINT_AT_ONCE = 50
"""States saved in one transaction: writing them takes the loop about 3 ms, and events wait meanwhile."""

UNSAVED_MAX = 100
"""Decision records kept per rollout until the store is back."""

ROLLOUT: TypeAdapter[Rollout] = TypeAdapter(Rollout)
RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass(slots=True)
class Entry:
    """A rollout as this process holds it. `revision` None = never saved; `saved` is the state of that revision, `saved_at` when it was [s, monotonic]."""

    state: Rollout
    revision: int | None = None
    saved: Rollout | None = None
    saved_at: float = 0.0
    unsaved: tuple[tuple[bytes, float], ...] = ()
    """Records of steps that went out while the store was away."""


Waiter = asyncio.Future[Step]


class Conductor:
    """All rollouts of this process."""

    def __init__(
        self,
        *,
        store: Store,
        world: Delivering,
        clock: Callable[[], float],
        decided: Callable[[Record], None],
        dropped: Callable[[str], None],
        saved: Callable[[str, float], None],
    ) -> None:
        self._store = store
        self._world = world
        self._clock = clock
        self._decided = decided
        self._dropped = dropped
        self._saved = saved
        self._queue: deque[tuple[str, Event, Waiter | None]] = deque()
        self._wake = asyncio.Event()
        self.entries: dict[str, Entry] = {}
        self.kept: dict[str, bytes] = {}
        self._kept_revisions: dict[str, int | None] = {}
        self.version = 0
        self._wanted: dict[str, RolloutPolicy] = {}
        self._owed = False
        self.store_failing_since: float | None = None
        self.store_words = ""
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    # In.

    def submit(self, name: str, event: Event) -> None:
        """Queues an event; never blocks."""
        if len(self._queue) >= QUEUE_MAX and isinstance(event, (EvidenceArrived, Ticked)):
            self._dropped("event")
            return
        self._queue.append((name, event, None))
        self._wake.set()

    async def ask(self, name: str, event: Commanded) -> Step:
        """Queues a command and waits for its step."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._queue.append((name, event, waiter))
        self._wake.set()
        return await waiter

    def imagine(self, name: str, event: Commanded) -> Step:
        """What a command would do now (`--dry-run`)."""
        return engine.step(self.entries[name].state, event, now=self._clock())

    async def wait_change(self, since: int, timeout_s: float) -> int:
        """Returns the current version of the whole state as soon as it is newer than `since`, or after the time-out."""
        if self.version == since:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self.version

    @property
    def waiting(self) -> int:
        """Events in the queue."""
        return len(self._queue)

    # Work.

    async def load(self) -> None:
        """Reads every rollout from the store; leases and proxies are unknown, so each starts with `Restarted`."""
        for stored in await self._store.load_all():
            if stored.name.startswith("_"):
                self.kept[stored.name], self._kept_revisions[stored.name] = stored.state, stored.revision
                continue
            try:
                state = ROLLOUT.validate_json(stored.state)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                raise PermanentStoreError(
                    f"the stored state of rollout {stored.name!r} cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}",
                    "run the crossfade version that wrote it, or move the store away (rollouts then start from their policies)",
                ) from error
            self.entries[stored.name] = Entry(state=state, revision=stored.revision, saved=state)
            await self._apply(stored.name, Restarted())

    async def apply_policies(self, policies: dict[str, RolloutPolicy]) -> None:
        """Makes the rollouts those of the documents: new ones adopted, edited ones told, gone ones retired.

        What the store kept from happening is owed: `checkpoint` tries it again.
        """
        self._wanted, self._owed = policies, False
        lanes, fresh = self._lanes(policies), dict[str, Step]()
        for name, policy in policies.items():
            lane = self._vacant(name, policy, lanes.get(name)) if policy.assignment.layer else WHOLE
            if name in self.entries:
                await self._try(name, PolicyChanged(policy=policy, lane=lane))
            else:
                fresh[name] = engine.adopt(policy, now=self._clock(), lane=lane)
        await self._adopt(fresh)
        for name in sorted(self.entries.keys() - policies.keys()):
            await self._try(name, PolicyRemoved())
        self._world.flush()

    def _lanes(self, policies: Mapping[str, RolloutPolicy]) -> dict[str, Lane]:
        """Lanes of the rollouts that are in a layer; each keeps the one it has, as long as it stays in its layer and is wide enough."""
        layers: dict[str, dict[str, int]] = {}
        for name, policy in policies.items():
            if policy.assignment.layer:
                layers.setdefault(policy.assignment.layer, {})[name] = sum(reserves(policy).values())
        given: dict[str, Lane] = {}
        for layer, wanted in layers.items():
            known = {name: self.entries[name].state for name in wanted if name in self.entries}
            held = {name: state.lane for name, state in known.items() if state.policy.assignment.layer == layer and state.lane.width_bp}
            # A release keeps the lane it began in: its users are there.
            kept = {name: lane.width_bp for name, lane in held.items() if known[name].mode in IN_RELEASE}
            given |= allocate(wanted | kept, held)
        return given

    def _vacant(self, name: str, policy: RolloutPolicy, lane: Lane | None) -> Lane | None:
        """The lane, unless another rollout of the layer has not left it yet (the store may keep it there): then none for now, and tried again."""
        others = (entry.state for other, entry in self.entries.items() if other != name and entry.state.mode is not Mode.RETIRED)
        there = [other.lane for other in others if other.policy.assignment.layer == policy.assignment.layer]
        if lane is None or all(lane.end_bp <= other.start_bp or other.end_bp <= lane.start_bp for other in there):
            return lane
        self._owed = True
        return None

    async def tell(self, name: str, event: Event) -> None:
        """Applies an event at once, before those that wait in the queue."""
        await self._try(name, event)

    async def _try(self, name: str, event: Event) -> None:
        try:
            await self._apply(name, event)
        except StoreError as error:
            self._owed = True
            self._store_failed(error)

    async def keep(self, name: str, value: bytes) -> None:
        """Saves something of the runtime's own beside the rollouts; its name starts with "_"."""
        if self.kept.get(name) == value:
            return
        try:
            self._kept_revisions[name] = await self._store.commit(name, value, expected=self._kept_revisions.get(name), records=())
        except (StoreError, Conflict) as error:
            self._store_failed(error)
            return
        self.kept[name] = value

    async def run(self) -> None:
        """Works the queue for ever, and lets others have a turn between."""
        while True:
            began = time.perf_counter()
            while self._queue:
                name, event, waiter = self._queue.popleft()
                await self._work(name, event, waiter)
                if time.perf_counter() - began > TURN_S:
                    await asyncio.sleep(0)
                    began = time.perf_counter()
            self._wake.clear()
            await self._wake.wait()

    async def checkpoint(self, most: int | None = None) -> None:
        """Saves states that changed since they were last saved, some at a time, and applies what of the policies is still owed.

        Args:
            most: How many at most, those saved longest ago first; None = all.
        """
        for name, entry in tuple(self.entries.items()):
            if entry.unsaved:
                async with self._one_at_a_time:
                    await self._persist(name, entry, entry.state, ())
        dirty = [name for name, entry in self.entries.items() if entry.state is not entry.saved and not entry.unsaved]
        dirty = sorted(dirty, key=lambda name: self.entries[name].saved_at)[:most]
        for first in range(0, len(dirty), CHECKPOINT_AT_ONCE):
            async with self._one_at_a_time:
                if not await self._checkpoint(dirty[first : first + CHECKPOINT_AT_ONCE]):
                    break
        if self._owed:
            await self.apply_policies(self._wanted)

    async def _checkpoint(self, names: Sequence[str]) -> bool:
        """Saves some states in one transaction; False = the store did not take them."""
        entries = {name: self.entries[name] for name in names}
        states = {name: entry.state for name, entry in entries.items()}
        batch = [(name, ROLLOUT.dump_json(state), entries[name].revision) for name, state in states.items()]
        began = time.perf_counter()
        try:
            revisions = await self._store.save_many(batch)
            self._saved("checkpoint", time.perf_counter() - began)
        except (StoreError, Conflict) as error:
            self._store_failed(error)
            return False
        self._store_worked()
        for (name, entry), revision in zip(entries.items(), revisions, strict=True):
            entry.revision, entry.saved, entry.saved_at = revision, states[name], began
        return True

    async def _work(self, name: str, event: Event, waiter: Waiter | None) -> None:
        try:
            outcome = await self._apply(name, event) if name in self.entries else None
        except StoreError as error:
            self._store_failed(error)
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
            return
        self._world.flush()
        if waiter is not None and not waiter.done():
            if outcome is None:
                waiter.set_exception(KeyError(name))
            else:
                waiter.set_result(outcome)

    async def _adopt(self, fresh: Mapping[str, Step]) -> None:
        """Takes new rollouts in. Never waits for the store: a new rollout sends everything to stable, and is saved when the store is back."""
        async with self._one_at_a_time:
            entries = {name: Entry(state=first.state) for name, first in fresh.items()}
            records = {name: _records(first) for name, first in fresh.items()}
            batch = [(name, ROLLOUT.dump_json(first.state), None, records[name]) for name, first in fresh.items()]
            try:
                revisions = await self._store.commit_many(batch) if batch else []
            except (StoreError, Conflict) as error:
                self._store_failed(error)
                for name, entry in entries.items():
                    entry.unsaved = records[name]
            else:
                for entry, revision in zip(entries.values(), revisions, strict=True):
                    entry.revision, entry.saved = revision, entry.state
            for name, first in fresh.items():
                await self._carry_out(name, entries[name], replace(first, effects=_unsaved(first)))
                self.entries[name] = entries[name]

    async def _apply(self, name: str, event: Event) -> Step:
        async with self._one_at_a_time:
            entry = self.entries[name]
            outcome = engine.step(entry.state, event, now=self._clock())
            await self._carry_out(name, entry, outcome)
            return outcome

    async def _carry_out(self, name: str, entry: Entry, outcome: Step) -> None:
        for effect in outcome.effects:
            match effect:
                case Persist(records=records):
                    await self._persist(name, entry, outcome.state, records)
                case Publish(traffic=traffic):
                    self._world.publish(traffic)
                case Withdraw(rollout=rollout):
                    self._world.withdraw(rollout)
                case Notify(record=record):
                    self._notify(record)
        entry.state = outcome.state
        if outcome.effects:
            self.touch()

    async def _persist(self, name: str, entry: Entry, state: Rollout, records: tuple[Record, ...]) -> None:
        written = (*entry.unsaved, *((_json(record), record.at) for record in records))
        began = time.perf_counter()
        try:
            entry.revision = await self._store.commit(name, ROLLOUT.dump_json(state), expected=entry.revision, records=written)
            self._saved("commit", time.perf_counter() - began)
        except (StoreError, Conflict) as error:
            if not _safer(entry.state, state):
                raise
            entry.unsaved = written[-UNSAVED_MAX:]
            self._store_failed(error)
            return
        entry.saved, entry.unsaved = state, ()
        self._store_worked()

    def _notify(self, record: Record) -> None:
        event = f"rollout.{record.decision.value}"
        log.info(
            event,
            rollout=record.rollout,
            step=record.step,
            generation=record.generation,
            because=explain.sentence(record.reason),
        )
        self._decided(record)

    def touch(self) -> None:
        """Says that something people look at has changed."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _store_worked(self) -> None:
        if self.store_words:
            log.info("store.recovered")
            self.store_failing_since, self.store_words = None, ""

    def _store_failed(self, error: Exception) -> None:
        if not self.store_words:
            log.error("store.failed", error=str(error))
            self.store_failing_since = time.monotonic()
        self.store_words = str(error)


def _safer(before: Rollout, after: Rollout) -> bool:
    """Whether a step leaves no arm with more than it had, and none with other users, and stable what it is or was before a promotion."""
    old, new = wish.traffic(before), wish.traffic(after)
    if old is None or new is None:
        return False
    had = {arm.variant.identity: arm for arm in old.arms}
    same_users = old.lane == new.lane and old.assignment == new.assignment
    warm = {old.stable.identity} | ({before.previous.identity} if before.previous is not None else set())
    return new.stable.identity in warm and all(
        (same_users or not (arm.share_bp or arm.pinned)) and _no_more(arm, had.get(arm.variant.identity)) for arm in new.arms
    )


def _no_more(arm: Arm, had: Arm | None) -> bool:
    share, shadow, pinned = (had.share_bp, had.shadow_bp, had.pinned) if had else (0, 0, False)
    return arm.share_bp <= share and arm.shadow_bp <= shadow and arm.pinned <= pinned


def _records(step: Step) -> tuple[tuple[bytes, float], ...]:
    return tuple((_json(record), record.at) for effect in step.effects if isinstance(effect, Persist) for record in effect.records)


def _unsaved(step: Step) -> tuple[Effect, ...]:
    """What follows once a step is saved."""
    return tuple(effect for effect in step.effects if not isinstance(effect, Persist))


def _json(record: Record) -> bytes:
    return RECORD.dump_json(record)
