"""The whole decision core with a fake clock, disk, proxy and traffic: the real engine and conductor, nothing else real.

A seed makes everything: when ACKs come or get lost, when the candidate turns bad, which verbs are said, when the store fails, where the
process dies. A `Crash` may strike at any effect boundary; then a new conductor starts from the disk, as after `kill -9`.
"""

import random
from dataclasses import dataclass, field

from policies import wish
from policies.evidence import Block
from policies.rollout import Commanded, Delivered, Delivery, EvidenceArrived, Mode, Pods, PodsProbed, Record, Ticked, Verb
from policies.traffic import Traffic
from tests.making import counts
from xds_server.adapters.store import Conflict, Stored
from xds_server.errors import TemporaryStoreError
from xds_server.runtime.conductor import Conductor


class Crash(Exception):  # noqa: N818 - it is none: the process is gone
    """The process dies here."""


@dataclass
class Fuse:
    """Counts effect boundaries and blows at one of them."""

    at: int = -1
    seen: int = 0

    def boundary(self):
        self.seen += 1
        if self.seen == self.at:
            raise Crash


@dataclass
class Disk:
    """What survives a crash."""

    states: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    records: dict[str, list[bytes]] = field(default_factory=dict)


class DiskStore:
    """The store port over a `Disk`, with crashes around each commit and failures on demand."""

    def __init__(self, disk, fuse):
        self.disk, self.fuse, self.failing = disk, fuse, False

    async def load_all(self):
        return [Stored(name=name, revision=revision, state=state) for name, (revision, state) in self.disk.states.items()]

    async def save_many(self, batch):
        return [self._write(name, state, expected) for name, state, expected in batch]

    async def commit(self, name, state, *, expected, records):
        self.fuse.boundary()
        revision = self._write(name, state, expected)
        self.disk.records.setdefault(name, []).extend(body for body, _ in records)
        self.fuse.boundary()
        return revision

    def _write(self, name, state, expected):
        if self.failing:
            raise TemporaryStoreError("the disk is away")
        have = self.disk.states.get(name, (None, b""))[0]
        if have != expected:
            raise Conflict(name)
        revision = (have or 0) + 1
        self.disk.states[name] = (revision, state)
        return revision


class Proxy:
    """One Envoy: applies what it is sent after a while, ACKs, and drops a lease that is not renewed."""

    def __init__(self):
        self.committed: Traffic | None = None
        self.lease_until = 0.0

    def share(self, now):
        if self.committed is None or now > self.lease_until:
            return 0, 0
        arm = self.committed.arms[0] if self.committed.arms else None
        return (arm.share_bp, arm.shadow_bp) if arm else (0, 0)


class SimWorld:
    """The world port: remembers the newest wish; the simulation moves it to the proxy."""

    def __init__(self, fuse):
        self.fuse, self.wishes = fuse, {}

    def publish(self, traffic):
        self.fuse.boundary()
        self.wishes[traffic.rollout] = traffic
        self.fuse.boundary()

    def withdraw(self, rollout):
        self.fuse.boundary()
        self.wishes.pop(rollout, None)

    def flush(self):
        pass


class Sim:
    """One rollout's life under one seed."""

    def __init__(self, document, seed, *, fuse=None, chaos=True):
        self.rng = random.Random(seed)
        self.document = document
        self.fuse = fuse or Fuse()
        self.chaos = chaos
        self.disk, self.proxy = Disk(), Proxy()
        self.now = 1e9
        self.notified: list[Record] = []
        self.crashes = 0
        self.bad_from = float("inf")
        self.store = self.world = self.conductor = None

    async def boot(self):
        """Starts the process; a crash while starting is a crash too."""
        while True:
            self.store, self.world = DiskStore(self.disk, self.fuse), SimWorld(self.fuse)
            self.conductor = Conductor(
                store=self.store,
                world=self.world,
                clock=lambda: self.now,
                decided=self._decided,
                dropped=lambda _: None,
                saved=lambda *_: None,
            )
            try:
                await self.conductor.load()
                await self.conductor.apply_policies({self.document.name: self.document})
            except Crash:
                self.crashes += 1
                continue
            return

    def _decided(self, record):
        self.fuse.boundary()
        self.notified.append(record)

    @property
    def state(self):
        return self.conductor.entries[self.document.name].state

    async def send(self, event):
        """One event through the conductor; after a crash the process starts again and the event is gone, as in life."""
        try:
            await self.conductor._apply(self.document.name, event)
        except Crash:
            self.crashes += 1
            await self.boot()
        except (TemporaryStoreError, Conflict):
            assert self.store.failing
        self.check()

    async def tick(self, seconds=0.5):
        """A moment of life: delivery, heartbeat, traffic, time."""
        rng, name = self.rng, self.document.name
        self.now += seconds
        wanted = self.world.wishes.get(name)
        if wanted is not None:
            if not self.chaos or rng.random() < 0.7:
                self.proxy.committed = wanted
            self.proxy.lease_until = self.now + self.document.lease.ttl_s
        done = self.proxy.committed is not None and wanted is not None and self.proxy.committed.publication == wanted.publication
        if done and (not self.chaos or rng.random() < 0.8) and (not self.state.delivery.complete or self.state.mode is Mode.REVERTING):
            await self.send(Delivered(publication=wanted.publication, delivery=Delivery(selected=1, acked=1)))
        if self.state.candidate is not None and not self.state.pods.ready:
            await self.send(PodsProbed(identity=self.state.candidate.identity, pods=Pods(ready=1, total=1)))
        await self._traffic()
        await self.send(Ticked())
        if not self.store.failing:
            await self.conductor.checkpoint()

    async def _traffic(self):
        committed = self.proxy.committed
        if committed is None:
            return
        share, shadow = self.proxy.share(self.now)
        users = {committed.stable.identity: counts(20)}
        shadows = {}
        bad = self.now >= self.bad_from
        if committed.arms:
            identity = committed.arms[0].variant.identity
            asked = max(1, 20 * share // 10_000) if share else 0
            users[identity] = counts(asked, asked if bad else 0)
            copies = max(1, 20 * shadow // 10_000) if shadow else 0
            shadows[identity] = counts(copies, copies if bad else 0)
        await self.send(EvidenceArrived(block=Block(start=self.now - 0.5, end=self.now, users=users, shadows=shadows)))

    async def disturb(self):
        """Something unexpected."""
        match self.rng.choice(["verb", "verb", "store", "kill", "jump", "bad", "away"]):
            case "verb":
                verb = self.rng.choice([Verb.PAUSE, Verb.RESUME, Verb.ABORT, Verb.PROMOTE])
                await self.send(Commanded(verb=verb, key=str(self.rng.randrange(50)), actor="sim"))
            case "store":
                self.store.failing = not self.store.failing
            case "kill":
                self.crashes += 1
                self.now += self.rng.uniform(0, 20)
                await self.boot()
            case "jump":
                self.now += self.rng.choice([-3600.0, 3600.0])
                self.proxy.lease_until = self.now
            case "bad":
                self.bad_from = self.now
            case "away":
                self.proxy.committed = None

    def check(self):
        """What must be true at any moment."""
        state = self.state
        wanted = wish.traffic(state)
        published = self.world.wishes.get(self.document.name)
        if published is not None and wanted is not None and not self.store.failing:
            assert published == wanted, "what is published is what the state says"
        share, shadow = self.proxy.share(self.now)
        if state.mode in {Mode.REVERTED, Mode.PROMOTED, Mode.IDLE} and state.delivery.complete and self.proxy.committed == published:
            assert (share, shadow) == (0, 0), "nothing beside stable once it is ACKed"
