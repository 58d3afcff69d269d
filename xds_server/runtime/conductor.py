"""Carries every event to the engine and every effect out, in the written order: persist, publish, notify.

One task works a bounded queue, so a rollout never sees two events at once. A decision is saved (compare-and-set) before anything follows from
it; evidence and hold are checkpointed once a second. Where the store fails, a step that takes traffic *off* the candidate goes out all the same
(revert needs no healthy store); any other is dropped and tried again at the next event.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pydantic import TypeAdapter, ValidationError

from policies import engine, explain, wish
from policies.rollout import (
    Commanded,
    Event,
    EvidenceArrived,
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
from xds_server.adapters.store import Conflict, Store
from xds_server.errors import PermanentStoreError, StoreError
from xds_server.runtime.ports import Delivering

log = structlog.get_logger()

QUEUE_MAX = 20_000
"""Events waiting at most; beyond that evidence is dropped and counted (no data never passes), all else is kept."""

UNSAVED_MAX = 100
"""Decision records kept per rollout until the store is back."""

ROLLOUT: TypeAdapter[Rollout] = TypeAdapter(Rollout)
RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass(slots=True)
class Entry:
    """A rollout as this process holds it. `revision` None = never saved; `saved` is the state of that revision."""

    state: Rollout
    revision: int | None = None
    saved: Rollout | None = None
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
        for name, policy in policies.items():
            if name in self.entries:
                await self._try(name, PolicyChanged(policy=policy))
            else:
                await self._adopt(policy)
        for name in self.entries.keys() - policies.keys():
            await self._try(name, PolicyRemoved())
        self._world.flush()

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
        """Works the queue for ever."""
        while True:
            while self._queue:
                name, event, waiter = self._queue.popleft()
                await self._work(name, event, waiter)
            self._wake.clear()
            await self._wake.wait()

    async def checkpoint(self) -> None:
        """Saves every state that changed since it was last saved, in one transaction, and applies what of the policies is still owed."""
        async with self._one_at_a_time:
            await self._checkpoint()
        if self._owed:
            await self.apply_policies(self._wanted)

    async def _checkpoint(self) -> None:
        for name, entry in self.entries.items():
            if entry.unsaved:
                await self._persist(name, entry, entry.state, ())
        dirty = {name: entry.state for name, entry in self.entries.items() if entry.state is not entry.saved and not entry.unsaved}
        if not dirty:
            return
        batch = [(name, ROLLOUT.dump_json(state), self.entries[name].revision) for name, state in dirty.items()]
        began = time.perf_counter()
        try:
            revisions = await self._store.save_many(batch)
            self._saved("checkpoint", time.perf_counter() - began)
        except (StoreError, Conflict) as error:
            self._store_failed(error)
            return
        self._store_worked()
        for name, revision in zip(dirty, revisions, strict=True):
            entry = self.entries[name]
            entry.revision, entry.saved = revision, dirty[name]

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

    async def _adopt(self, policy: RolloutPolicy) -> None:
        async with self._one_at_a_time:
            first = engine.adopt(policy, now=self._clock())
            entry = Entry(state=first.state)
            # Never waits for the store: a new rollout sends everything to stable, and is saved when the store is back.
            await self._carry_out(policy.name, entry, first)
            self.entries[policy.name] = entry

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
    """Whether a step leaves no arm with more than it had."""
    old, new = wish.traffic(before), wish.traffic(after)
    if old is None or new is None:
        return False
    had = {arm.variant.identity: (arm.share_bp, arm.shadow_bp) for arm in old.arms}
    return old.stable.identity == new.stable.identity and all(
        arm.share_bp <= had.get(arm.variant.identity, (0, 0))[0] and arm.shadow_bp <= had.get(arm.variant.identity, (0, 0))[1]
        for arm in new.arms
    )


def _json(record: Record) -> bytes:
    return RECORD.dump_json(record)
