"""State -> the traffic it wants. The only place that says which share a state allows."""

from dataclasses import replace

from policies.rollout import ArmState, Mode, Rollout
from policies.spec.policy import FULL_BP, Shares
from policies.steps import Stage, reserves, stages
from policies.traffic import Arm, Traffic

AFTER = frozenset({Mode.PROMOTING, Mode.BAKING, Mode.PROMOTED})
"""Modes in which the arm is stable itself."""


def stage(state: Rollout) -> Stage | None:
    """The stage a release stands in; None outside one (warming, idle, reverting, ...) and behind the last."""
    if state.mode is not Mode.STEP:
        return None
    if state.orphan is not None:
        return state.orphan
    flat = stages(state.policy)
    return flat[state.position] if state.position < len(flat) else None


def shares(state: Rollout) -> dict[str, int]:
    """What each arm of the release gets of the users' requests now, by name [hundredths of a per cent].

    That is what the stage says, but never more than its home among the lanes, than its ready pods carry, nor, while nothing may grow, than it
    had; and nothing for an arm that was taken out.
    """
    at = stage(state)
    if at is None:
        return {arm.name: 0 for arm in state.arms}
    rooms = dict(state.homes)
    return {
        arm.name: min(_allowed(arm), at.share_of(arm.name), FULL_BP if _takes_all(state, at) else rooms.get(arm.name, 0))
        for arm in state.arms
    }


def _allowed(arm: ArmState) -> int:
    """The most an arm may have whatever the stage says."""
    if arm.out is not None:
        return 0
    return arm.ceiling_bp if arm.cap is None else min(arm.ceiling_bp, arm.cap.share_bp)


def _takes_all(state: Rollout, at: Stage) -> bool:
    """Whether one arm has everything: it needs no home of its own, unless others of its layer live beside it."""
    return not state.policy.assignment.layer and any(share >= FULL_BP for _, share in at.shares)


def fits(state: Rollout) -> bool:
    """Whether the lanes have room for what the stage says; before the first one, for the whole release."""
    at = stage(state)
    if at is None:
        return sum(reserves(state.policy).values()) <= state.lane.width_bp
    rooms = dict(state.homes)
    return _takes_all(state, at) or all(at.share_of(arm.name) <= rooms.get(arm.name, 0) for arm in state.running)


def homes(state: Rollout) -> Shares:
    """The homes a release has under its policy: as the policy says if its lane has room, never less than what the stage gives; else as they are."""
    at, wanted = stage(state), reserves(state.policy)
    known = dict(state.homes)
    fresh = tuple(
        (arm.name, max(wanted.get(arm.name, 0), min(known.get(arm.name, 0), at.share_of(arm.name) if at else 0))) for arm in state.arms
    )
    width_bp = state.lane.width_bp
    return next((each for each in (fresh, state.homes) if sum(share for _, share in each) <= width_bp), ())


def traffic(state: Rollout) -> Traffic | None:
    """What the proxies should do, or None for a retired rollout.

    An arm has a share only in a stage of users and copies only in a `shadow` stage; in every other state stable has it all.
    """
    if state.mode is Mode.RETIRED:
        return None
    arms = () if state.mode in AFTER else _arms(state)
    taken = {state.stable.identity, *(arm.variant.identity for arm in arms)}
    kept = tuple(
        variant for variant in (state.previous, state.incoming, *state.leaving) if variant is not None and variant.identity not in taken
    )
    return Traffic(
        rollout=state.name,
        publication=state.publication,
        generation=state.generation,
        where=state.policy.traffic,
        assignment=state.frozen_assignment or state.policy.assignment,
        lease=state.policy.lease,
        stable=state.stable,
        arms=arms,
        lane=state.lane,
        kept=kept,
    )


def _arms(state: Rollout) -> tuple[Arm, ...]:
    if not state.arms:
        return ()
    at, users, rooms = stage(state), shares(state), dict(state.homes)
    if any(share > rooms.get(name, 0) for name, share in users.items()):
        rooms = users
    return tuple(
        Arm(
            variant=arm.variant,
            share_bp=users[arm.name],
            shadow_bp=copies(at, arm),
            reserve_bp=rooms.get(arm.name, 0),
            pinned=pinned(state, arm),
        )
        for arm in state.arms
    )


def copies(at: Stage | None, arm: ArmState) -> int:
    """Requests that an arm gets a copy of [hundredths of a per cent]."""
    if at is None or arm.out is not None:
        return 0
    most = min(arm.ceiling_bp, FULL_BP if arm.cap is None else arm.cap.shadow_bp)
    return min(at.copies_of(arm.name), most)


def pinned(state: Rollout, arm: ArmState) -> bool:
    """Whether segments reach an arm: from the first stage with users on; with no pod ready they stay on stable."""
    at, segments = stage(state), (state.frozen_assignment or state.policy.assignment).segments
    if at is None or not at.users or arm.out is not None or arm.ceiling_bp == 0 or (arm.cap is not None and not arm.cap.pinned):
        return False
    return any(segment.variant == arm.name for segment in segments)


def same(one: Traffic | None, other: Traffic | None) -> bool:
    """Whether two wishes ask for the same thing, whatever their publication numbers."""
    if one is None or other is None:
        return one is other
    return replace(one, publication=other.publication) == other


def untouched(before: Rollout, after: Rollout) -> bool:
    """Whether nothing that `traffic` looks at has changed, told at a glance: true of nearly every event. False says nothing."""
    return (
        before.policy is after.policy
        and before.mode is after.mode
        and before.position == after.position
        and before.orphan is after.orphan
        and before.generation == after.generation
        and before.stable is after.stable
        and before.previous is after.previous
        and before.incoming is after.incoming
        and before.leaving is after.leaving
        and before.lane is after.lane
        and before.homes is after.homes
        and before.frozen_assignment is after.frozen_assignment
        and len(before.arms) == len(after.arms)
        and all(map(_alike, before.arms, after.arms))
    )


def _alike(one: ArmState, other: ArmState) -> bool:
    return one.variant is other.variant and one.ceiling_bp == other.ceiling_bp and one.cap is other.cap and one.out is other.out
