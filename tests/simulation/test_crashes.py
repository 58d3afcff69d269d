"""Every crash point between persist, publish and notify replays to the same state; random lives never break the laws. Seeds are printed."""

import asyncio
from dataclasses import replace

import pytest

from policies import wish
from policies.rollout import Commanded, Mode, Verb
from policies.spec.policy import Lease, Then, When
from policies.steps import stages
from tests.making import policy
from tests.simulation.sim import Fuse, Sim

DOCUMENT = policy(lease=Lease(ttl_s=3), when=When(stuck_after_s=1e5, no_data_after_s=1e5))


async def live(sim, ticks, script=lambda _sim, _tick: None):
    await sim.boot()
    for tick in range(ticks):
        said = script(sim, tick)
        if said is not None:
            await sim.send(said)
        await sim.tick()
        if sim.state.mode in {Mode.PROMOTED, Mode.REVERTED} and tick > ticks // 2:
            break
    return sim


def outcome(sim):
    state = sim.state
    return (
        state.mode,
        state.stable.version,
        state.candidate and state.candidate.version,
        state.rejected,
        wish.same(wish.traffic(state), sim.world.wishes.get(state.name)),
    )


def promoted_life(at=-1):
    return live(Sim(DOCUMENT, 1, fuse=Fuse(at=at), chaos=False), 120)


def reverted_life(at=-1):
    sim = Sim(DOCUMENT, 1, fuse=Fuse(at=at), chaos=False)
    sim.bad_from = sim.now + 12
    return live(sim, 120)


def aborted_life(at=-1):
    def abort(_sim, tick):
        return Commanded(verb=Verb.ABORT, key="k", actor="ann") if 20 <= tick < 25 else None

    return live(Sim(DOCUMENT, 1, fuse=Fuse(at=at), chaos=False), 120, abort)


@pytest.mark.parametrize(("life", "end"), [(promoted_life, Mode.PROMOTED), (reverted_life, Mode.REVERTED), (aborted_life, Mode.REVERTED)])
def test_a_crash_at_every_boundary_ends_where_the_undisturbed_life_ends(life, end):
    calm = asyncio.run(life())
    assert calm.state.mode is end
    assert calm.crashes == 0
    wanted, boundaries = outcome(calm), calm.fuse.seen
    assert boundaries > 20
    for at in range(1, boundaries + 1):
        sim = asyncio.run(life(at))
        assert sim.crashes >= 1, at
        assert outcome(sim) == wanted, f"crash at boundary {at}"


@pytest.mark.parametrize("seed", range(150))
def test_random_lives_keep_the_laws(seed):
    """Seed in the test's name: ACKs lost, store away, clock jumps, kills, verbs, at any moment; `Sim.check` runs after every event."""
    asyncio.run(random_life(seed))


async def random_life(seed):
    sim = Sim(replace(DOCUMENT, when=When(nack=Then.HOLD, stuck_after_s=600, no_data_after_s=120)), seed)
    await sim.boot()
    for _ in range(200):
        if sim.rng.random() < 0.08:
            await sim.disturb()
        before = sim.state
        await sim.tick(sim.rng.choice([0.1, 0.5, 1.0]))
        grown(before, sim.state)
    # However it went: an abort and a healthy proxy end at stable.
    sim.store.failing = False
    sim.chaos = False
    await sim.send(Commanded(verb=Verb.ABORT, actor="sim"))
    for _ in range(5):
        await sim.tick()
    assert sim.state.mode in {Mode.REVERTED, Mode.PROMOTED}, f"seed {seed}"
    assert sim.proxy.share(sim.now) == (0, 0)


def grown(before, after):
    """A share grows by one stage at a time, and only from a stage that was ACKed."""
    if before.mode is Mode.STEP and after.mode is Mode.STEP and after.generation == before.generation and after.position > before.position:
        assert after.position == before.position + 1
        assert stages(after.policy)[after.position].kind == "canary"


def test_without_a_store_a_new_rollout_serves_stable_and_a_removal_waits_until_the_store_is_back():
    async def life():
        sim = Sim(DOCUMENT, 1, chaos=False)
        await sim.boot()
        await sim.tick()
        sim.store.failing = True
        await sim.conductor.apply_policies({"other": replace(DOCUMENT, name="other")})
        await sim.conductor.checkpoint()
        assert sim.state.mode is not Mode.RETIRED
        assert set(sim.world.wishes) == {"chat", "other"}
        assert sim.world.wishes["other"].arms[0].share_bp == 0
        assert set(sim.disk.states) == {"chat"}
        sim.store.failing = False
        await sim.conductor.checkpoint()
        assert sim.state.mode is Mode.RETIRED
        assert set(sim.world.wishes) == {"other"}
        assert set(sim.disk.states) == {"chat", "other"}

    asyncio.run(life())
