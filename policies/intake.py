"""A block of evidence -> what it changes in a rollout: the gates of every arm, the stage's samples, what is known of stable and of the load.

Most events are blocks, so that everything, the time that has passed included, is put into the state at once.
"""

from dataclasses import replace

from policies import capacity, contest, gates, noise, passing, radius, ratio, verdicts, wish, yardstick
from policies.evidence import NOTHING, Block, Counts
from policies.gates import GateState
from policies.passing import Passed
from policies.ratio import Drawn
from policies.rollout import IN_RELEASE, KEEPING, ArmState, Mode, Rollout
from policies.spec.policy import FULL_BP
from policies.steps import Stage


def take_in(state: Rollout, block: Block, passed: Passed) -> Rollout:
    """The rollout after one block; one that is not on its way learns nothing."""
    at, baking, now = wish.stage(state), state.mode in KEEPING, passed.clock
    learnt = noise.seen(state.noise, block.halves.get(state.stable.identity), now=now)
    if not state.arms or not (state.mode in IN_RELEASE or baking):
        after = passing.later(state, passed)
        return after if learnt is state.noise else replace(after, noise=learnt)
    stable = NOTHING if baking else block.users.get(state.stable.identity, NOTHING)
    load = capacity.in_flight(state, block, now=now)
    # What counts is what users have: an arm that was dropped, or that has too few pods, leaves stable its part.
    alone = baking or sum(arm.in_effect_bp for arm in state.running) >= FULL_BP
    measure = state.yardstick if alone else yardstick.measure(state.yardstick, stable, now=now)
    arms = state.arms
    if at is not None or baking:
        fed = []
        for arm in arms:
            against = stable
            if alone:
                measure, against = yardstick.give(measure, block.users.get(arm.variant.identity, NOTHING).requests)
            fed.append(arm if arm.out else _fed(state, at, arm, (against, block), passed))
        arms = tuple(fed)
    state = replace(
        state,
        clock=now,
        stage_s=passed.stage_s,
        held_s=passed.held_s,
        source_s=passed.source_s,
        load=load,
        load_at=now,
        arms=capacity.limited(arms, load, at_once=state.mode is not Mode.STEP),
        yardstick=measure,
        noise=learnt,
        drawn=_drawn(state, at, block),
        stable_samples=state.stable_samples + stable.requests if at is not None and state.delivery.complete else state.stable_samples,
    )
    if at is not None and at.kind == "ab":
        users = {arm.name: block.users.get(arm.variant.identity, NOTHING) for arm in state.arms}
        return contest.fight(state, at, users, now=now)
    return state


def _fed(state: Rollout, at: Stage | None, arm: ArmState, evidence: tuple[Counts, Block], passed: Passed) -> ArmState:
    """One arm after a block: its gates, its samples in the stage, its silence.

    Args:
        evidence: What it is held against (stable's requests of the block, or remembered ones), and the block.
    """
    against, block = evidence
    users, copies = (each.get(arm.variant.identity, NOTHING) for each in (block.users, block.shadows))
    seen = users.requests if at is None or at.share_of(arm.name) else copies.requests
    now, phi = passed.clock, state.noise.phi
    return replace(
        arm,
        gates=verdicts.fed(state.policy.gates, arm.gates, (against, users), now=now, dispersion=phi),
        shadow_gates=verdicts.fed(verdicts.shadow_gates(state.policy), arm.shadow_gates, (against, copies), now=now, dispersion=phi)
        if copies.requests
        else arm.shadow_gates,
        blast=arm.blast and _blast(state, arm, (against, users), now=now),
        silent_s=0.0 if seen else passing.silent_s(arm, passed),
        gone_s=passing.gone_s(arm, at, passed) if at is not None else 0.0,
        ceiling_s=arm.ceiling_s + passed.seconds,
        samples=arm.samples + seen if state.delivery.complete else arm.samples,
    )


def _blast(state: Rollout, arm: ArmState, evidence: tuple[Counts, Counts], *, now: float) -> GateState | None:
    asked = radius.asked(state, arm)
    if asked is None or arm.blast is None:
        return arm.blast
    return gates.feed(asked, arm.blast, *evidence, now=now, dispersion=state.noise.phi)


def _drawn(state: Rollout, at: Stage | None, block: Block) -> Drawn:
    """Who got the requests, while every one of them is drawn anew and every proxy has the shares of the stage."""
    if at is None or not at.share_bp or not state.delivery.complete or state.policy.assignment.sticky:
        return state.drawn
    identities = (state.stable.identity, *(arm.variant.identity for arm in state.arms))
    return ratio.drawn(state.drawn, [arm.in_effect_bp for arm in state.arms], identities, block.users)
