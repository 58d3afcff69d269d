"""What the mere passing of time changes: the hold that is served, how long a stage lasts, how long an arm is silent or without pods.

Durations are summed from small ticks: a process that was away or a clock that jumped neither serves a hold nor trips a deadline.
"""

from dataclasses import dataclass, replace

from policies import wish
from policies.rollout import IN_RELEASE, ArmState, Mode, Rollout
from policies.steps import Stage

MAX_TICK_S = 5.0
"""The longest time one event may add to a running hold [s]: more means that we were away or the clock jumped."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Some time later: `seconds` since the last event, as far as they count, and what they add up to.

    Attributes:
        served: Whether the time counts as held: the share is ACKed and nothing is paused.
    """

    seconds: float
    served: bool
    clock: float
    stage_s: float
    held_s: float
    source_s: float


def until(state: Rollout, now: float) -> Passed:
    """What has passed since the last event of a rollout."""
    seconds = min(max(now - state.clock, 0.0), MAX_TICK_S)
    waits = state.paused or state.freezes or (state.mode is Mode.WARMING and not wish.fits(state))
    running = (state.mode in IN_RELEASE or state.incoming is not None) and not waits
    served = state.mode in {Mode.STEP, Mode.BAKING} and not state.paused and state.delivery.complete
    return Passed(
        seconds,
        served,
        now,
        state.stage_s + seconds if running else state.stage_s,
        state.held_s + seconds if served and not _starved(state, wish.stage(state)) else state.held_s,
        state.source_s + seconds if state.source_words else 0.0,
    )


def later(state: Rollout, passed: Passed) -> Rollout:
    """The rollout some time later."""
    at = wish.stage(state)
    arms = state.arms
    if passed.seconds and at is not None:
        arms = tuple(
            replace(
                arm,
                silent_s=silent_s(arm, passed),
                gone_s=gone_s(arm, at, passed),
                ceiling_s=arm.ceiling_s + passed.seconds,
            )
            for arm in arms
        )
    return replace(state, arms=arms, clock=passed.clock, stage_s=passed.stage_s, held_s=passed.held_s, source_s=passed.source_s)


def silent_s(arm: ArmState, passed: Passed) -> float:
    """How long nothing of an arm was seen although proxies give it something [s]."""
    in_effect = arm.in_effect_bp > 0 or arm.shadow_in_effect_bp > 0
    return arm.silent_s + passed.seconds if passed.served and in_effect and arm.out is None else arm.silent_s


def gone_s(arm: ArmState, at: Stage, passed: Passed) -> float:
    """How long an arm that is due a share has no pod [s]."""
    due = at.share_of(arm.name) > 0 and arm.out is None
    return arm.gone_s + passed.seconds if due and not arm.pods.ready else 0.0


def _starved(state: Rollout, at: Stage | None) -> bool:
    """Whether an arm has less than the stage says: such time is no hold served."""
    return at is not None and any(arm.ceiling_bp < at.share_of(arm.name) for arm in state.running)
