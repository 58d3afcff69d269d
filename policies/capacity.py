"""What an arm's ready pods can carry: its share is never more, so that one GPU is not overloaded while others are still starting.

Two limits, the smaller counts: the part of its pods that is ready; and the requests its ready pods may hold at once (`max_concurrency`)
against the requests in flight, which are estimated from what ended (Little's law: the latencies of a time, added up, over that time).
The limit falls at once. It rises when it has not fallen for a while, because every change moves users.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from policies.evidence import LATENCY_BINS, LATENCY_EDGES_MS, Block, Counts
from policies.rollout import ArmState, Mode, Pods, Rollout
from policies.spec.policy import FULL_BP

MEMORY_S = 30.0
"""Over how long the requests in flight are averaged [s]."""

LONGEST_S = 120.0
"""A request counts as this long at most [s]: a few very long ones that end together are no load."""

LEAST_SPAN_S = 0.05
"""Blocks shorter than this count as this long [s]."""

RISES_AFTER_S = 10.0
"""How long a limit must not have fallen before it rises [s]."""

STEP_BP = 500
"""Steps of the limit above 10 % [hundredths of a per cent]: a load that grows does not change the share with every block."""


_SECONDS = (*(min(edge / 1000.0, LONGEST_S) for edge in LATENCY_EDGES_MS), 0.0)
"""How long a request of each latency bin was in a pod [s]; those that never ended well are left out."""


def probed(state: Rollout, identity: str, pods: Pods) -> Rollout:
    """With what is known of one arm's pods."""
    arms = tuple(_with(arm, pods) if arm.variant.identity == identity else arm for arm in state.arms)
    return settled(replace(state, arms=arms))


def settled(state: Rollout) -> Rollout:
    """With every arm's limit as its pods and the load make it; itself if none changes."""
    arms = limited(state.arms, state.load, at_once=state.mode is not Mode.STEP)
    return state if arms is state.arms else replace(state, arms=arms)


def limited(arms: tuple[ArmState, ...], load: float, *, at_once: bool) -> tuple[ArmState, ...]:
    """The arms under a load; the same tuple if no limit changes. `at_once`: limits may rise without waiting."""
    fresh = tuple(_limited(arm, load, at_once=at_once) for arm in arms)
    return fresh if any(one is not other for one, other in zip(fresh, arms, strict=True)) else arms


def in_flight(state: Rollout, block: Block, *, now: float) -> float:
    """The moving average of the requests in flight, after one more block [requests]."""
    since_s = abs(now - state.load_at) if state.load_at else 0.0
    span_s = min(max(since_s, block.end - block.start, LEAST_SPAN_S), MEMORY_S)
    keep = math.exp(-span_s / MEMORY_S)
    return state.load * keep + _busy_s(block.users.values()) / span_s * (1 - keep)


def ceiling_bp(arm: ArmState, load: float) -> int:
    """The share an arm's ready pods carry [hundredths of a per cent]."""
    if not arm.pods.total:
        return 0
    ready = arm.pods.ready * FULL_BP // arm.pods.total
    room = arm.pods.ready * arm.variant.max_concurrency / load if load > 0 else 1.0
    if room >= 1.0:
        return ready
    by_load = int(room * FULL_BP)
    return min(ready, by_load - by_load % (STEP_BP if by_load >= 2 * STEP_BP else 100) or by_load)


def _with(arm: ArmState, pods: Pods) -> ArmState:
    """Fewer pods are a fall also where the limit is as low as that already: pods that come and go do not move users each time."""
    fewer = pods.ready * arm.pods.total < arm.pods.ready * pods.total
    return replace(arm, pods=pods, ceiling_s=0.0 if fewer else arm.ceiling_s)


def _limited(arm: ArmState, load: float, *, at_once: bool) -> ArmState:
    ceiling = ceiling_bp(arm, load)
    if ceiling == arm.ceiling_bp:
        return arm
    if ceiling < arm.ceiling_bp:
        return replace(arm, ceiling_bp=ceiling, ceiling_s=0.0)
    return replace(arm, ceiling_bp=ceiling) if at_once or arm.ceiling_s >= RISES_AFTER_S else arm


def _busy_s(counts: Iterable[Counts]) -> float:
    """Time that requests spent in pods [s]."""
    return sum([_SECONDS[place] * count for each in counts for place, count in each.latency if 0 <= place < LATENCY_BINS])
