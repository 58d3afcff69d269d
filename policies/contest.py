"""Which arm of an `ab` has won: the one that is provably better than stable by what the goal asks, and provably not worse than any other arm.

1. Only an arm whose guardrails and signals all say PASS can win.
2. Against stable it must be better by the goal's `better_by`.
3. Against every other arm it must be as good, within the goal's `margin`; that the other is worse by more than that says so too, and sooner.
4. If that holds of several (they are equal within the margin), the one whose advantage over stable is the surest wins.
5. No winner within `at_most`: stable keeps the traffic.
Each question has its own evidence that may be looked at at any time; the probability of a wrong winner is `verdicts.BETA` at most.
Source: pairwise confidence sequences with ties, best arm within epsilon.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

from policies import gates, verdicts
from policies.evidence import Counts
from policies.gates import Reading, Verdict
from policies.rollout import ArmState, Reason, Rollout
from policies.spec.policy import Role
from policies.steps import Stage


def fight(state: Rollout, at: Stage, users: Mapping[str, Counts], *, now: float) -> Rollout:
    """Gives one block to what is asked of every two arms; `users` by arm."""
    goal = verdicts.goal_of(state.policy, at)
    if goal is None or not state.duels:
        return state
    asked = verdicts.duel_of(goal)
    duels = tuple(
        duel if one.out or other.out else gates.feed(asked, duel, users[other.name], users[one.name], now=now)
        for (one, other), duel in zip(permutations(state.arms, 2), state.duels, strict=True)
    )
    return replace(state, duels=duels)


def winner(state: Rollout, at: Stage, seen: Sequence[tuple[ArmState, Sequence[Reading]]]) -> tuple[ArmState, Reason] | None:
    """The arm that has won, and why; None = none has yet."""
    able = [(arm, goal) for arm, said in seen if (goal := _eligible(at, said)) is not None]
    best = max((pair for pair in able if _holds_its_own(state, pair[0])), key=lambda pair: pair[1].evidence_pass, default=None)
    if best is None:
        return None
    arm, goal = best
    told = verdicts.facts(goal) | {"step": at.label, "variant": arm.name, "version": arm.variant.version, "of": len(state.arms) + 1}
    return arm, Reason(code="won", facts=told)


def _eligible(at: Stage, said: Sequence[Reading]) -> Reading | None:
    """The goal's reading, if it and every other gate of the arm says PASS."""
    goal = next((reading for reading in said if reading.name == at.goal), None)
    others = (reading.verdict is Verdict.PASS for reading in said if reading.role is not Role.GOAL)
    return goal if goal is not None and goal.verdict is Verdict.PASS and all(others) else None


def _holds_its_own(state: Rollout, arm: ArmState) -> bool:
    """Whether it is as good as each other arm that is still in: by the test that says so, or by the one that says that the other is worse."""
    needed = -math.log(verdicts.BETA / (2 * max(1, len(state.arms))))
    duels = {(one.name, other.name): duel for (one, other), duel in zip(permutations(state.arms, 2), state.duels, strict=True)}
    others = (other.name for other in state.running if other.name != arm.name)
    return all(max(duels[arm.name, other].log_pass, duels[other, arm.name].log_fail) >= needed for other in others)
