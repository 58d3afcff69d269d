"""Every crash point between persist, publish and notify replays to the same end."""

import asyncio
from dataclasses import replace

import pytest

from policies import wish
from policies.rollout import Commanded, Mode, Verb
from policies.spec.policy import AbStep, Hold, Lease, PromoteStep, SwitchStep, When
from tests.making import ERRORS, HOLD, canary, policy, variant
from tests.simulation.documents import GOAL
from tests.simulation.parts import Fuse
from tests.simulation.sim import Sim

DOCUMENT = policy(lease=Lease(ttl_s=3), when=When(stuck_after_s=1e5, no_data_after_s=1e5))
BLUE_GREEN = replace(DOCUMENT, steps=(canary(1000, hold=HOLD), SwitchStep(arm="candidate", hold=HOLD), PromoteStep(keep_stable_for_s=2.0)))
TWO = (variant("b", "v2", 8002), variant("c", "v3", 8003))
CONTEST = AbStep(shares=(("b", 3000), ("c", 3000)), goal="goal", at_most_s=1e4, hold=HOLD)
AB = replace(DOCUMENT, arms=TWO, steps=(CONTEST, PromoteStep(keep_stable_for_s=2.0)), gates=(ERRORS, GOAL))


async def live(sim, ticks, script=lambda _sim, _tick: None):
    await sim.boot()
    for tick in range(ticks):
        said = script(sim, tick)
        if said is not None:
            await sim.send("chat", said)
        await sim.tick()
        if sim.states["chat"].mode in {Mode.PROMOTED, Mode.REVERTED} and tick > ticks // 2:
            break
    return sim


def outcome(sim):
    state = sim.states["chat"]
    arms = tuple((arm.variant.version, arm.out is not None) for arm in state.arms)
    return state.mode, state.stable.version, arms, state.rejected, wish.same(wish.traffic(state), sim.world.wishes.get("chat"))


def calm(document, at):
    return Sim([document], 1, fuse=Fuse(at=at), chaos=False)


def promoted(at=-1):
    return live(calm(DOCUMENT, at), 60)


def reverted(at=-1):
    def turn(sim, tick):
        if tick == 24:
            sim.bad.add("v2")

    return live(calm(DOCUMENT, at), 60, turn)


def aborted(at=-1):
    return live(calm(DOCUMENT, at), 60, lambda _, tick: Commanded(verb=Verb.ABORT, key="k", actor="ann") if 20 <= tick < 25 else None)


def blue_green(at=-1):
    return live(calm(BLUE_GREEN, at), 60)


def decided(at=-1):
    """One of two arms fails and is dropped, the other wins."""
    sim = calm(AB, at)
    sim.bad.add("v3")
    return live(sim, 100)


def rolled_back(at=-1):
    """Promoted, the old version let go, and then gone back to by hand: said until the process has heard it."""

    def back(sim, _):
        state = sim.states["chat"]
        wanted = state.mode is Mode.PROMOTED and not state.rolled_back
        return Commanded(verb=Verb.ROLLBACK, key="k", actor="ann") if wanted else None

    return live(calm(replace(DOCUMENT, steps=(canary(1000, hold=Hold(samples=5)), PromoteStep())), at), 50, back)


ENDS = [
    (promoted, Mode.PROMOTED, "v2"),
    (reverted, Mode.REVERTED, "v1"),
    (aborted, Mode.REVERTED, "v1"),
    (blue_green, Mode.PROMOTED, "v2"),
    (decided, Mode.PROMOTED, "v2"),
    (rolled_back, Mode.IDLE, "v1"),
]


@pytest.mark.parametrize(("life", "mode", "stable"), ENDS, ids=[life.__name__ for life, *_ in ENDS])
def test_a_crash_at_every_boundary_ends_where_the_undisturbed_life_ends(life, mode, stable):
    undisturbed = asyncio.run(life())
    state = undisturbed.states["chat"]
    assert (state.mode, state.stable.version, undisturbed.crashes) == (mode, stable, 0)
    wanted, boundaries = outcome(undisturbed), undisturbed.fuse.seen
    assert boundaries > 20
    for at in range(1, boundaries + 1):
        sim = asyncio.run(life(at))
        assert sim.crashes >= 1, at
        assert outcome(sim) == wanted, f"crash at boundary {at}"


def test_without_a_store_a_new_rollout_serves_stable_and_a_removal_waits_until_the_store_is_back():
    async def life():
        sim = Sim([DOCUMENT], 1, chaos=False)
        await sim.boot()
        await sim.tick()
        sim.store.failing = True
        await sim.conductor.apply_policies({"other": replace(DOCUMENT, name="other")})
        await sim.conductor.checkpoint()
        assert sim.states["chat"].mode is not Mode.RETIRED
        assert set(sim.world.wishes) == {"chat", "other"}
        assert sim.world.wishes["other"].arms[0].share_bp == 0
        assert set(sim.disk.states) == {"chat"}
        sim.store.failing = False
        await sim.conductor.checkpoint()
        assert sim.states["chat"].mode is Mode.RETIRED
        assert set(sim.world.wishes) == {"other"}
        assert set(sim.disk.states) == {"chat", "other"}

    asyncio.run(life())
