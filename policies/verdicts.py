"""What the evidence says about the stage a release stands in: feeds the gates, reads them, names what is still missing.

Guardrails share one error budget (`errors.false_revert`) over everything that may revert a rollout: each of n processes (a gate on users,
a gate on mirrored copies) gets 1/n of it. Mirrored copies are judged by error gates only: their latency includes a load that users do
not see.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from policies import gates, wish
from policies.evidence import Counts
from policies.gates import Reading, Verdict
from policies.rollout import Fact, Reason, Rollout
from policies.spec.policy import Gate, Metric, Role, RolloutPolicy
from policies.steps import Stage, stages

BETA = 0.05
"""Probability that a gate passes a candidate that is worse by the margin."""

Kind = Literal["ack", "pods", "time", "samples", "gate", "resume", "edit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One thing a stage still waits for; `have` and `need` in the unit of the kind (proxies, pods, seconds, requests, evidence)."""

    kind: Kind
    have: float = 0.0
    need: float = 0.0
    what: str = ""


def label(state: Rollout) -> str:
    at = wish.stage(state)
    return at.label if at else state.mode.value


def has_shadow(policy: RolloutPolicy) -> bool:
    return any(stage.kind == "shadow" for stage in stages(policy))


def shadow_gates(policy: RolloutPolicy) -> tuple[Gate, ...]:
    """The gates that judge mirrored copies."""
    return tuple(gate for gate in policy.gates if gate.metric is Metric.ERROR_RATE) if has_shadow(policy) else ()


def weight(policy: RolloutPolicy) -> float:
    """The part of the error budget that each guardrail process gets."""
    guardrails = [gate for gate in (*policy.gates, *shadow_gates(policy)) if gate.role is Role.GUARDRAIL]
    return 1.0 / max(1, len(guardrails))


def deadline_s(policy: RolloutPolicy) -> float:
    """Over how long the gates spread the part of their budget that is kept for late regressions [s]."""
    return sum(stage.hold.for_s for stage in stages(policy)) + policy.when.stuck_after_s


def opened(state: Rollout, *, now: float) -> Rollout:
    """Fresh gates for a new release: never the evidence of another version."""
    after = deadline_s(state.policy)
    return replace(
        state,
        gates=tuple(gates.open_gate(gate, now=now, deadline_s=after) for gate in state.policy.gates),
        shadow_gates=tuple(gates.open_gate(gate, now=now, deadline_s=after) for gate in shadow_gates(state.policy)),
    )


def reopened(state: Rollout, old: RolloutPolicy, *, now: float) -> Rollout:
    """After an edit: gates that did not change keep their evidence, others start anew."""
    fresh = opened(state, now=now)
    users = dict(zip(old.gates, state.gates, strict=True))
    copies = dict(zip(shadow_gates(old), state.shadow_gates, strict=True))
    return replace(
        state,
        gates=tuple(users.get(gate, new) for gate, new in zip(state.policy.gates, fresh.gates, strict=True)),
        shadow_gates=tuple(copies.get(gate, new) for gate, new in zip(shadow_gates(state.policy), fresh.shadow_gates, strict=True)),
    )


def next_stage(state: Rollout) -> Rollout:
    """What gates drop between stages: counts that had not yet made a block (a block never spans two shares)."""
    return replace(
        state,
        gates=tuple(gates.cut(gate) for gate in state.gates),
        shadow_gates=tuple(gates.cut(gate) for gate in state.shadow_gates),
    )


def feed(state: Rollout, at: Stage, stable: Counts, candidate: Counts, *, now: float) -> Rollout:
    """Gives one block to the gates of the stage; samples count from the moment the share is ACKed."""
    silent_s = 0.0 if candidate.requests else state.silent_s
    samples = state.samples
    if state.delivery.complete:
        samples = replace(samples, stable=samples.stable + stable.requests, candidate=samples.candidate + candidate.requests)
    state = replace(state, samples=samples, silent_s=silent_s)
    if at.kind == "shadow":
        fed = tuple(
            gates.feed(gate, memory, stable, candidate, now=now)
            for gate, memory in zip(shadow_gates(state.policy), state.shadow_gates, strict=True)
        )
        return replace(state, shadow_gates=fed)
    fed = tuple(gates.feed(gate, memory, stable, candidate, now=now) for gate, memory in zip(state.policy.gates, state.gates, strict=True))
    return replace(state, gates=fed)


def readings(state: Rollout, *, now: float) -> tuple[Reading, ...]:
    """What the gates of the current stage say now."""
    at = wish.stage(state)
    copies = at is not None and at.kind == "shadow"
    policy = state.policy
    asked = shadow_gates(policy) if copies else policy.gates
    memories = state.shadow_gates if copies else state.gates
    share = weight(policy)
    return tuple(
        gates.read(
            gate,
            memory,
            alpha=policy.false_revert,
            beta=BETA,
            weight=share,
            now=now,
            no_data_after_s=policy.when.no_data_after_s,
        )
        for gate, memory in zip(asked, memories, strict=True)
    )


def failure(state: Rollout, seen: Sequence[Reading]) -> Reason | None:
    """The guardrail that says the candidate is worse, if one does: alone, or all of them together."""
    guardrails = [reading for reading in seen if reading.role is Role.GUARDRAIL]
    together = gates.combined(guardrails)
    alone = [reading for reading in guardrails if reading.verdict is Verdict.FAIL]
    if not alone and together < -math.log(state.policy.false_revert):
        return None
    # Errors explain latency (a request without an answer is a slow one too), not the other way round.
    named = max(
        alone or guardrails, key=lambda reading: (reading.unit == "ratio" and reading.evidence >= 10, reading.enough, reading.evidence)
    )
    told = facts(named) | {"step": label(state)}
    if alone:
        return Reason(code="gate_failed", facts=told)
    all_of_them = {"together": float(f"{math.exp(together):.6g}"), "needed_together": 1 / state.policy.false_revert}
    return Reason(code="gates_failed", facts=told | all_of_them | {"gates": ", ".join(reading.name for reading in guardrails)})


def silence(state: Rollout) -> Reason | None:
    """No request of the candidate was seen for too long although it has a share."""
    after = state.policy.when.no_data_after_s
    if state.silent_s < after:
        return None
    return Reason(code="no_data", facts={"silent_s": round(state.silent_s, 1), "after_s": after, "step": label(state)})


def waiting_for(state: Rollout, seen: Sequence[Reading]) -> tuple[Waiting, ...]:
    """Everything the current stage still waits for; nothing = it may advance."""
    at = wish.stage(state)
    missing: list[Waiting] = []
    if state.paused:
        missing.append(Waiting(kind="resume"))
    if state.orphan is not None or at is None:
        missing.append(Waiting(kind="edit"))
        return tuple(missing)
    if not state.delivery.complete:
        missing.append(Waiting(kind="ack", have=state.delivery.acked, need=max(1, state.delivery.selected), what=state.delivery.words))
    if state.pods.ready == 0:
        missing.append(Waiting(kind="pods", have=0, need=1, what=state.pods.words))
    if state.held_s < at.hold.for_s:
        missing.append(Waiting(kind="time", have=state.held_s, need=at.hold.for_s))
    have = min(state.samples.stable, state.samples.candidate) if at.share_bp < 10_000 else state.samples.candidate
    if have < at.hold.samples:
        missing.append(Waiting(kind="samples", have=have, need=at.hold.samples))
    missing.extend(
        Waiting(kind="gate", have=reading.evidence_pass, need=reading.needed_pass, what=reading.name)
        for reading in seen
        if reading.verdict is not Verdict.PASS
    )
    return tuple(missing)


def passed(state: Rollout, seen: Sequence[Reading]) -> Reason:
    """Why a stage is over."""
    return Reason(
        code="stage_passed",
        facts={
            "step": label(state),
            "held_s": round(state.held_s, 1),
            "candidate_requests": state.samples.candidate,
            "stable_requests": state.samples.stable,
            "gates": ", ".join(reading.name for reading in seen),
        },
    )


def undecided(state: Rollout, missing: Sequence[Waiting], seen: Sequence[Reading]) -> Reason:
    """The hold is served and a gate has not said PASS."""
    open_gates = {item.what for item in missing}
    order = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE)
    first = min((reading for reading in seen if reading.name in open_gates), key=lambda reading: order.index(reading.verdict))
    return Reason(code=f"gate_{first.verdict.value.lower()}", facts=facts(first) | {"step": label(state)})


def facts(reading: Reading) -> dict[str, Fact]:
    """A reading's numbers as plain facts for a record."""

    def finite(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

    return {
        "gate": reading.name,
        "role": reading.role.value,
        "verdict": reading.verdict.value,
        "evidence": finite(reading.evidence),
        "needed": finite(reading.needed),
        "evidence_pass": finite(reading.evidence_pass),
        "needed_pass": finite(reading.needed_pass),
        "stable_value": finite(reading.estimate_stable),
        "candidate_value": finite(reading.estimate_candidate),
        "stable_samples": reading.samples_stable,
        "candidate_samples": reading.samples_candidate,
        "unit": reading.unit,
        "statistic": reading.statistic,
    }
