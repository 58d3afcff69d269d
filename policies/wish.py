"""A rollout's state -> the traffic it wants. The only place that says which share a state allows."""

from dataclasses import replace

from policies.rollout import Mode, Rollout
from policies.steps import Stage, stages
from policies.traffic import Arm, Traffic


def stage(state: Rollout) -> Stage | None:
    """The stage a release stands in; None outside one (warming, idle, reverting, ...) and behind the last."""
    if state.mode is not Mode.STEP:
        return None
    if state.orphan is not None:
        return state.orphan
    flat = stages(state.policy)
    return flat[state.position] if state.position < len(flat) else None


def traffic(state: Rollout) -> Traffic | None:
    """What the proxies should do, or None for a retired rollout.

    A candidate has a share only in a `canary` stage and copies only in a `shadow` stage; in every other state stable has it all.
    """
    if state.mode is Mode.RETIRED:
        return None
    at = stage(state)
    arms: tuple[Arm, ...] = ()
    if state.candidate is not None:
        arms = (Arm(variant=state.candidate, share_bp=at.share_bp if at else 0, shadow_bp=at.shadow_bp if at else 0),)
    taken = {state.stable.identity, *(arm.variant.identity for arm in arms)}
    kept = tuple(
        variant for variant in (state.previous, state.incoming, state.leaving) if variant is not None and variant.identity not in taken
    )
    return Traffic(
        rollout=state.name,
        publication=state.publication,
        generation=state.generation,
        where=state.policy.traffic,
        assignment=state.policy.assignment,
        lease=state.policy.lease,
        stable=state.stable,
        arms=arms,
        kept=kept,
    )


def same(one: Traffic | None, other: Traffic | None) -> bool:
    """Whether two wishes ask for the same thing, whatever their publication numbers."""
    if one is None or other is None:
        return one is other
    return replace(one, publication=0) == replace(other, publication=0)
