"""Before more users get an arm: it is to be shown that all users together would not suffer too much.

With `errors.blast_radius` b, an arm's share grows to w only if its error rate is shown to be less than b / w above stable's, so that less than b
of all requests would be bad because of it. Asked in the stage before, of that stage's own evidence, as the PASS of an error gate with that
margin; not asked where a guardrail of the policy asks for as little itself.
Neighbours: `policies.statistics.margins` has the margin; `verdicts` waits for the PASS.
"""

from dataclasses import replace

from policies import gates, wish
from policies.memo import by_object
from policies.rollout import ArmState, Rollout
from policies.spec.policy import FULL_BP, Gate, Margin, Metric, Role, RolloutPolicy
from policies.statistics.margins import before_step
from policies.steps import Stage, percent, stages

NAME = "blast radius"


def asked(state: Rollout, arm: ArmState) -> Gate | None:
    """What the stage a release stands in asks about an arm before its share grows; None = nothing."""
    at = wish.stage(state)
    if at is None or state.orphan is not None or not at.share_of(arm.name):
        return None
    return of_stage(state.policy, state.position, arm.name)


def of_stage(policy: RolloutPolicy, position: int, arm: str) -> Gate | None:
    """The question of a stage about an arm, by the stage's place among all; None = nothing."""
    return None if policy.blast_radius is None else _gates(policy).get((position, arm))


def opened(state: Rollout, *, now: float, deadline_s: float) -> Rollout:
    """The release with the evidence that its stage asks for: as it is where that is what was asked before, else none yet."""
    if state.policy.blast_radius is None and not any(arm.blast for arm in state.arms):
        return state

    def of(arm: ArmState) -> ArmState:
        gate = asked(state, arm)
        if gate is not None and arm.blast is not None and arm.blast.name == gate.name:
            return arm
        return replace(arm, blast=None if gate is None else gates.open_gate(gate, now=now, deadline_s=deadline_s))

    return replace(state, arms=tuple(map(of, state.arms)))


@by_object
def _gates(policy: RolloutPolicy) -> dict[tuple[int, str], Gate]:
    """By stage and arm."""
    flat, found = stages(policy), dict[tuple[int, str], Gate]()
    for place, at in enumerate(flat):
        for arm, share_bp in at.shares:
            grown = next((share for share in (_share(later, arm) for later in flat[place + 1 :]) if share > share_bp), 0)
            if policy.blast_radius is None or not share_bp or not grown or not at.waits_for_evidence:
                continue
            margin = before_step(grown / FULL_BP, budget=policy.blast_radius)
            if margin < 1 and not any(_asks(gate, margin) for gate in policy.gates):
                name = f"{NAME} {policy.blast_radius * 100:g}% at {percent(grown)}"  # says the margin: another one is another question
                found[place, arm] = Gate(
                    name=name, metric=Metric.ERROR_RATE, role=Role.SIGNAL, statistic="mean", margin=Margin(absolute=margin)
                )
    return found


def _share(at: Stage, arm: str) -> int:
    """What a stage gives an arm; a promotion everything, to the arm that it names or to whichever it will be."""
    if at.kind == "promote":
        return FULL_BP if at.arm in {"", arm} else 0
    return at.share_of(arm)


def _asks(gate: Gate, margin: float) -> bool:
    """Whether a PASS of a gate of the policy says as much."""
    if gate.role is Role.GOAL or gate.metric is not Metric.ERROR_RATE or gate.limit is not None:
        return False
    return gate.margin.relative is None and gate.margin.absolute is not None and gate.margin.absolute <= margin
