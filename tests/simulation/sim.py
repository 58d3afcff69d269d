"""The whole decision core with a fake clock, disk, several proxies, pods and traffic: the real engine and conductor, nothing else real.

A seed makes everything: when ACKs come or get lost, which versions turn bad, which verbs are said, when the store fails, where the process
dies. A `Crash` may strike at any effect boundary; then a new conductor starts from the disk, as after `kill -9`. After every event all
`invariants` are asked.
Two times: `time` only grows (proxies live by it); `now` is the wall clock of the process, which jumps.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, replace

from policies import wish
from policies.evidence import NOTHING, Block, add
from policies.rollout import (
    Commanded,
    EvidenceArrived,
    Mode,
    Pods,
    PodsProbed,
    Probed,
    Probing,
    Record,
    Rollout,
    SourceReported,
    Step,
    Ticked,
    Verb,
    WindowChanged,
)
from tests.making import counts
from tests.simulation import documents
from tests.simulation.invariants import INVARIANTS, Journal, Violation
from tests.simulation.parts import Crash, Disk, DiskStore, Fuse, Mail, Proxy, SimWorld
from xds_server.errors import StoreError
from xds_server.runtime.conductor import Conductor

REQUESTS = 20
"""Requests a proxy gets for each rollout in a tick."""


@dataclass
class Moment:
    """One event and what became of it; `step` None = the store kept it from happening."""

    name: str
    before: Rollout | None
    event: object
    step: Step | None


class Watched(Conductor):
    """The conductor, with every step it carried out shown to a witness."""

    def __init__(self, witness, **ports):
        super().__init__(**ports)
        self._witness = witness

    async def _apply(self, name, event):
        before = self.entries[name].state
        step = await super()._apply(name, event)
        self._witness(Moment(name, before, event, step))
        return step

    async def _adopt(self, fresh):
        await super()._adopt(fresh)
        for name in fresh:
            self._witness(Moment(name, None, None, None))


class Sim:
    """The lives of some rollouts under one seed."""

    def __init__(self, policies, seed, *, fuse=None, chaos=True, proxies=1):
        self.rng = random.Random(seed)
        self.policies = {policy.name: policy for policy in policies}
        self.fuse = fuse or Fuse()
        self.chaos = chaos
        self.disk, self.journal = Disk(), Journal()
        self.proxies = [Proxy(f"edge-{index}") for index in range(proxies)]
        self.gone: list[Proxy] = []
        self.mail: list[Mail] = []
        self.time, self.now = 0.0, 1e9
        self.notified: list[Record] = []
        self.crashes = 0
        self.bad: set[str] = set()
        self.bad_probes: set[str] = set()
        self.pods: dict[str, Pods] = defaultdict(lambda: Pods(ready=2, total=2))
        self.source = self.window = ""
        self.store = self.world = self.conductor = None

    # The process.

    async def boot(self):
        """Starts the process; a crash while starting is a crash too."""
        while True:
            failing = self.store is not None and self.store.failing
            self.store = DiskStore(self.disk, self.fuse)
            self.world = SimWorld(self.fuse, lambda traffic: self.journal.published(self, traffic))
            self.mail.clear()
            self.conductor = Watched(
                self._witness,
                store=self.store,
                world=self.world,
                clock=lambda: self.now,
                decided=self._decided,
                dropped=lambda _: None,
                saved=lambda *_: None,
            )
            try:
                await self.conductor.load()
                self.store.failing = failing
                await self.conductor.apply_policies(self.policies)
            except Crash:
                self.crashes += 1
                continue
            return

    def _decided(self, record):
        self.fuse.boundary()
        self.journal.told(self, record)
        self.notified.append(record)

    def _witness(self, moment):
        self.journal.note(self, moment)
        for invariant in INVARIANTS:
            invariant(self, moment)

    @property
    def states(self):
        return {name: entry.state for name, entry in self.conductor.entries.items()}

    async def send(self, name, event):
        """One event through the conductor, some twice; after a crash the process starts again and the event is gone, as in life."""
        twice = self.chaos and self.rng.random() < (0.5 if isinstance(event, Commanded) else 0.1)
        await self.guarded(lambda: self.conductor._apply(name, event))
        if twice and name in self.conductor.entries:
            await self.guarded(lambda: self.conductor._apply(name, event))

    async def guarded(self, work):
        try:
            await work()
        except Crash:
            self.crashes += 1
            await self.boot()
        except StoreError:
            if not self.store.failing:
                raise

    # Time.

    async def tick(self, seconds=0.5):
        """A moment of life: delivery, pods, probes, traffic, time."""
        self.time += seconds
        self.now += seconds
        self.journal.passed(self, seconds)
        self._hear()
        for name in list(self.conductor.entries):
            if name in self.conductor.entries:
                await self._live(name)
        if self.rng.random() < 0.3 or not self.chaos:
            await self.guarded(self.conductor.checkpoint)

    def _hear(self):
        rng = self.rng
        for proxy in self.proxies:
            if self.chaos and rng.random() < 0.25:
                continue
            new = {name: wanted.publication for name, wanted in self.world.wishes.items()}
            proxy.hear(self.world.wishes, self.time)
            for name, publication in new.items():
                if self.chaos and rng.random() < 0.2:
                    continue
                good = not self.chaos or rng.random() > 0.004
                late = rng.choice([0.0, 0.0, 0.0, 0.7, 1.5]) if self.chaos else 0.0
                self.mail.append(Mail(arrives=self.time + late, proxy=proxy.name, rollout=name, publication=publication, good=good))
        arrived = [mail for mail in self.mail if mail.arrives <= self.time]
        self.mail = [mail for mail in self.mail if mail.arrives > self.time]
        if self.chaos:
            rng.shuffle(arrived)
        for mail in arrived:
            known = self.world.acked.get((mail.proxy, mail.rollout))
            if known is None or known.publication <= mail.publication:
                self.world.acked[mail.proxy, mail.rollout] = mail

    async def _live(self, name):
        if name in self.world.wishes:
            told = self.world.delivered(name, [proxy.name for proxy in self.proxies])
            state = self.conductor.entries[name].state
            # as the server does: a group without proxies has nothing to ACK, and that is said too
            awaited = (state.mode is Mode.REVERTING or state.incoming is not None) and told.delivery.acked >= told.delivery.selected
            if told.publication == state.publication and (told.delivery != state.delivery or awaited):
                await self.send(name, told)
            elif self.chaos and self.rng.random() < 0.05:
                await self.send(name, replace(told, publication=told.publication - 1))
        await self._pods(name)
        await self._probe(name)
        if self.source != self.conductor.entries[name].state.source_words:
            await self.send(name, SourceReported(words=self.source))
        frozen = next((each.words for each in self.conductor.entries[name].state.freezes if each.source == "window"), "")
        if self.window != frozen:
            await self.send(name, WindowChanged(words=self.window))
        await self._traffic(name)
        await self.send(name, Ticked())

    async def _pods(self, name):
        for arm in self.conductor.entries[name].state.arms:
            pods = self.pods[arm.variant.identity]
            if pods != arm.pods or (self.chaos and self.rng.random() < 0.02):
                await self.send(name, PodsProbed(identity=arm.variant.identity, pods=pods))

    async def _probe(self, name):
        state = self.conductor.entries[name].state
        at = wish.stage(state)
        if at is None or at.kind != "probe":
            return
        for arm in state.arms:
            if not arm.probing.done and (not self.chaos or self.rng.random() < 0.7):
                asked, bad = arm.probing.asked + 2, arm.variant.version in self.bad_probes
                found = Probing(asked=asked, good=asked - bad, done=bad or asked >= 4, words="500" if bad else "")
                await self.send(name, Probed(identity=arm.variant.identity, position=state.position, probing=found))

    async def _traffic(self, name):
        """What the proxies' users did since the last tick."""
        users, shadows = defaultdict(lambda: NOTHING), defaultdict(lambda: NOTHING)
        for proxy in self.proxies:
            heard = proxy.heard.get(name)
            if heard is None or (self.chaos and self.rng.random() < 0.1):
                continue
            left = REQUESTS
            for arm in proxy.arms(name, self.time):
                served = self._share(arm.share_bp)
                left -= served
                bad = arm.variant.version in self.bad
                users[arm.variant.identity] = add(users[arm.variant.identity], counts(served, served if bad else 0))
                copies = self._share(arm.shadow_bp)
                shadows[arm.variant.identity] = add(shadows[arm.variant.identity], counts(copies, copies if bad else 0))
            stable = heard.traffic.stable
            users[stable.identity] = add(users[stable.identity], counts(max(left, 0), max(left, 0) // 7))
        if users:
            block = Block(start=self.now - 0.5, end=self.now, users=dict(users), shadows=dict(shadows))
            await self.send(name, EvidenceArrived(block=block))

    def _share(self, share_bp):
        return max(1, REQUESTS * share_bp // 10_000) if share_bp else 0

    # What comes from outside.

    async def command(self, verb, name="", **said):
        await self.send(name or next(iter(self.policies)), Commanded(verb=verb, actor="sim", **said))

    async def disturb(self):
        """Something unexpected."""
        happenings = (
            *(4 * [self._say]),
            *(4 * [self._edit]),
            *(3 * [self._pods_move]),
            *(
                self._remove,
                self._store,
                self._kill,
                self._fuse,
                self._jump,
                self._turn,
                self._away,
                self._join,
                self._leave,
                self._outside,
            ),
        )
        happened = self.rng.choice(happenings)()
        if happened is not None:
            await happened

    def _store(self):
        self.store.failing = not self.store.failing

    async def _kill(self):
        self.crashes += 1
        away_s = self.rng.uniform(0, 20)
        self.time, self.now = self.time + away_s, self.now + away_s
        await self.boot()

    def _fuse(self):
        self.fuse.odds, self.fuse.rng = self.rng.choice([0.0, 0.02]), self.rng

    def _jump(self):
        self.now += self.rng.choice([-3600.0, 3600.0])
        self.journal.jumped()

    def _turn(self):
        """A version turns bad, or all are good again."""
        turned = self.rng.choice([self.bad, self.bad, self.bad_probes])
        if self.rng.random() < 0.4:
            turned.clear()
        else:
            turned.add(f"v{self.rng.randrange(1, 6)}")

    def _join(self):
        self.proxies.append(Proxy(f"edge-{self.rng.randrange(10**6)}"))

    def _leave(self):
        if self.proxies:
            self.gone.append(self.proxies.pop(self.rng.randrange(len(self.proxies))))

    def _outside(self):
        if self.rng.random() < 0.5:
            self.window = self.rng.choice(["", "the weekend"])
        else:
            self.source = self.rng.choice(["", "the log is silent"])

    def _away(self):
        """Nothing is heard and nobody decides for a while."""
        seconds = self.rng.choice([0.2, 4.0])
        self.time += seconds
        self.now += seconds
        self.journal.passed(self, seconds)

    def _pods_move(self):
        identities = [arm.variant.identity for state in self.states.values() for arm in state.arms]
        if identities:
            self.pods[self.rng.choice(identities)] = Pods(ready=self.rng.choice([0, 1, 2, 2]), total=2)

    async def _say(self):
        """A verb: most times one that means something where the rollout is."""
        rng = self.rng
        if not self.conductor.entries:
            return
        name = rng.choice(list(self.conductor.entries))
        state = self.conductor.entries[name].state
        at = wish.stage(state)
        apt = (
            [Verb.APPROVE] if at is not None and at.kind == "approve" else [Verb.ADVANCE, Verb.RETRY] if at else [Verb.ROLLBACK, Verb.START]
        )
        verb = rng.choice(apt) if rng.random() < 0.4 else rng.choice(list(Verb))
        to = rng.choice(["", "", "", "v0", "v1", "v2", "candidate", "b"])
        await self.command(verb, name, key=str(rng.randrange(30)) if rng.random() < 0.7 else "", to=to)

    async def _remove(self):
        if self.rng.random() < 0.3 and self.policies:
            name = self.rng.choice(list(self.policies))
            self.policies = {other: policy for other, policy in self.policies.items() if other != name}
            await self.guarded(lambda: self.conductor.apply_policies(self.policies))

    async def _edit(self):
        name = self.rng.choice(list(self.policies)) if self.policies else "chat"
        other = documents.edited(self.rng, self.policies[name]) if name in self.policies else documents.document(self.rng, name)
        self.policies = self.policies | {name: other}
        await self.guarded(lambda: self.conductor.apply_policies(self.policies))


# A whole life.


def population(rng):
    """One rollout alone, and at times two that share a layer."""
    alone = [documents.document(rng, "chat")]
    together = [documents.document(rng, name, layer="left") for name in ("one", "two")]
    return rng.choice([alone, alone, together, alone + together])


async def random_life(seed, *, ticks=60):
    """Trouble at any moment; at the end a healthy world and an abort."""
    rng = random.Random(seed)
    sim = Sim(population(rng), rng.randrange(2**32), proxies=rng.choice([1, 2, 3]))
    trouble = rng.choice([0.05, 0.15, 0.3])
    try:
        await sim.boot()
        for _ in range(ticks):
            if sim.rng.random() < trouble:
                await sim.disturb()
            await sim.tick(sim.rng.choice([0.2, 0.5, 1.0]))
        await ending(sim)
    except Violation as broken:
        raise Violation(f"seed {seed}: {broken}") from broken
    return sim


async def ending(sim):
    """However it went: with a healthy store and healthy proxies an abort ends with everything at stable."""
    sim.chaos, sim.store.failing, sim.fuse.odds = False, False, 0.0
    sim.source = sim.window = ""
    for _ in range(12):
        await sim.tick()
        for name, state in sim.states.items():
            if state.mode in {Mode.WARMING, Mode.STEP, Mode.PROMOTING, Mode.BAKING}:
                await sim.command(Verb.ABORT, name)
    for _ in range(5):
        await sim.tick(1.0)
    for name, state in sim.states.items():
        if state.mode not in {Mode.REVERTED, Mode.PROMOTED, Mode.IDLE, Mode.RETIRED}:
            raise Violation(f"revert_always_ends_at_all_stable: {name} is {state.mode.value} long after an abort ({state.because})")
        for proxy in (*sim.proxies, *sim.gone):
            if share := proxy.share_bp(name, sim.time):
                raise Violation(f"revert_always_ends_at_all_stable: {name} still has {share} at {proxy.name}")
