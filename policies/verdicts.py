"""What the evidence says about the stage a release stands in: feeds the gates, reads them, names what is still missing.

Guardrails share one error budget (`errors.false_revert`) over everything that may revert a rollout: each of n processes (a gate on users,
a gate on mirrored copies) of each of K arms gets 1/(nK) of it. Mirrored copies are judged by error gates only: their latency includes a load
that users do not see.
Neighbours: `contest` decides an `ab`, `capacity` what pods can carry, `yardstick` what an arm is held against when stable has no traffic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

from policies import gates, radius, ratio, wish, yardstick
from policies.evidence import Counts
from policies.gates import GateState, Reading, Verdict
from policies.memo import by_object
from policies.rollout import ArmState, Fact, Probing, Reason, Rollout
from policies.spec.policy import FULL_BP, Gate, Metric, Role, RolloutPolicy
from policies.steps import Stage, stages

BETA = 0.05
"""Probability that a gate passes an arm that is worse by the margin (of a goal: not better)."""

GONE_S = 10.0
"""How long an arm that is due a share may be without a ready pod before that counts as a failure [s]."""

Kind = Literal[
    "resume",
    "unfreeze",
    "edit",
    "lane",
    "source",
    "ack",
    "pods",
    "capacity",
    "probe",
    "time",
    "samples",
    "gate",
    "goal",
    "radius",
    "ratio",
    "winner",
    "approval",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One thing a stage still waits for; `have` and `need` in the unit of the kind (proxies, pods, shares, seconds, requests, evidence).

    Attributes:
        variant: The arm it is about; "" = all.
    """

    kind: Kind
    have: float = 0.0
    need: float = 0.0
    what: str = ""
    variant: str = ""


def label(state: Rollout) -> str:
    at = wish.stage(state)
    return at.label if at else state.mode.value


@by_object
def has_shadow(policy: RolloutPolicy) -> bool:
    return any(stage.kind == "shadow" for stage in stages(policy))


@by_object
def shadow_gates(policy: RolloutPolicy) -> tuple[Gate, ...]:
    """The gates that judge mirrored copies."""
    if not has_shadow(policy):
        return ()
    return tuple(gate for gate in policy.gates if gate.metric is Metric.ERROR_RATE and gate.role is not Role.GOAL)


@by_object
def weight(policy: RolloutPolicy) -> float:
    """The part of the error budget that each guardrail process of each arm gets."""
    guardrails = [gate for gate in (*policy.gates, *shadow_gates(policy)) if gate.role is Role.GUARDRAIL]
    return 1.0 / (max(1, len(guardrails)) * max(1, len(policy.arms)))


@by_object
def deadline_s(policy: RolloutPolicy) -> float:
    """Over how long the gates spread the part of their budget that is kept for late regressions [s]."""
    return sum(stage.hold.for_s + stage.within_s for stage in stages(policy)) + policy.when.stuck_after_s


def opened(state: Rollout, *, now: float) -> Rollout:
    """Fresh gates for a new release: never the evidence of another version."""
    after = deadline_s(state.policy)
    users = tuple(gates.open_gate(gate, now=now, deadline_s=after) for gate in state.policy.gates)
    copies = tuple(gates.open_gate(gate, now=now, deadline_s=after) for gate in shadow_gates(state.policy))
    return replace(state, arms=tuple(replace(arm, gates=users, shadow_gates=copies) for arm in state.arms))


def reopened(state: Rollout, old: RolloutPolicy, *, now: float) -> Rollout:
    """After an edit: gates that did not change keep their evidence, others start anew."""
    fresh = opened(state, now=now)
    policy = state.policy
    arms: list[ArmState] = []
    for arm, new in zip(state.arms, fresh.arms, strict=True):
        users = dict(zip(old.gates, arm.gates, strict=True))
        copies = dict(zip(shadow_gates(old), arm.shadow_gates, strict=True))
        kept = tuple(users.get(gate, empty) for gate, empty in zip(policy.gates, new.gates, strict=True))
        mirrored = tuple(copies.get(gate, empty) for gate, empty in zip(shadow_gates(policy), new.shadow_gates, strict=True))
        arms.append(replace(arm, gates=kept, shadow_gates=mirrored))
    return replace(state, arms=tuple(arms))


def next_stage(state: Rollout) -> Rollout:
    """What is dropped between stages: samples, probes, who got them, and counts that had not yet made a block (a block never spans two shares)."""
    arms = tuple(
        replace(
            arm,
            samples=0,
            silent_s=0.0,
            blast=None,
            probing=Probing(),
            gates=tuple(gates.cut(gate) for gate in arm.gates),
            shadow_gates=tuple(gates.cut(gate) for gate in arm.shadow_gates),
        )
        for arm in state.arms
    )
    return replace(state, arms=arms, duels=tuple(gates.cut(duel) for duel in state.duels), drawn=ratio.Drawn())


def duelling(state: Rollout, at: Stage, *, now: float) -> Rollout:
    """Opens what an `ab` asks of every two arms: whether the one is as good as the other."""
    asked = goal_of(state.policy, at)
    if asked is None:
        return replace(state, duels=())
    duel, after = duel_of(asked), deadline_s(state.policy)
    return replace(state, duels=tuple(gates.open_gate(duel, now=now, deadline_s=after) for _ in permutations(state.arms, 2)))


@by_object
def duel_of(goal: Gate) -> Gate:
    """What is asked of every two arms: whether the one is as good as the other, within the goal's margin."""
    return replace(goal, role=Role.SIGNAL, better_by=None)


def goal_of(policy: RolloutPolicy, at: Stage) -> Gate | None:
    return next((gate for gate in policy.gates if gate.name == at.goal and gate.role is Role.GOAL), None)


def fed(
    asked: Sequence[Gate], memories: tuple[GateState, ...], evidence: tuple[Counts, Counts], *, now: float, dispersion: float
) -> tuple[GateState, ...]:
    """Gates after one block of (what an arm is held against, the arm)."""
    against, arm = evidence
    if not against.requests and not arm.requests:
        return memories
    return tuple(
        [gates.feed(gate, memory, against, arm, now=now, dispersion=dispersion) for gate, memory in zip(asked, memories, strict=True)]
    )


def readings(state: Rollout, arm: ArmState, *, now: float) -> tuple[Reading, ...]:
    """What the gates that the current stage asks about an arm say now: those on its users, those on its copies; outside a stage the former."""
    policy, at = state.policy, wish.stage(state)
    copies = at is not None and at.copies_of(arm.name) > 0
    users = at is None or at.share_of(arm.name) > 0 or not copies
    share, beta = weight(policy), BETA / max(1, len(policy.arms))
    asked = [(gate, memory) for gate, memory in zip(policy.gates, arm.gates, strict=True) if users or gate.role is Role.GOAL]
    if copies:
        asked += zip(shadow_gates(policy), arm.shadow_gates, strict=True)
    return tuple(
        gates.read(
            gate,
            memory,
            alpha=policy.false_revert,
            beta=beta if gate.role is Role.GOAL else BETA,
            weight=share,
            now=now,
            no_data_after_s=policy.when.no_data_after_s,
        )
        for gate, memory in asked
    )


def radius_reading(state: Rollout, arm: ArmState, *, now: float) -> Reading | None:
    """What is known of what more users would suffer; None = the stage does not ask."""
    asked = radius.asked(state, arm)
    if asked is None or arm.blast is None:
        return None
    return gates.read(
        asked, arm.blast, alpha=state.policy.false_revert, beta=BETA, now=now, no_data_after_s=state.policy.when.no_data_after_s
    )


def failure(state: Rollout, arm: ArmState, seen: Sequence[Reading]) -> Reason | None:
    """What says that an arm is bad, if something does: a probe, no pods, a guardrail alone, or all of them together."""
    if arm.probing.words:
        probing = arm.probing
        return Reason(code="probe_failed", facts=about(state, arm) | {"words": probing.words, "asked": probing.asked, "good": probing.good})
    if arm.gone_s >= GONE_S:
        return Reason(code="pods_gone", facts=about(state, arm) | {"gone_s": round(arm.gone_s, 1), "words": arm.pods.words})
    guardrails = [reading for reading in seen if reading.role is Role.GUARDRAIL]
    together = gates.combined(guardrails)
    budget = state.policy.false_revert / max(1, len(state.policy.arms))
    alone = [reading for reading in guardrails if reading.verdict is Verdict.FAIL]
    if not alone and together < -math.log(state.policy.false_revert):
        return None
    # Errors explain latency (a request without an answer is a slow one too), not the other way round.
    named = max(
        alone or guardrails, key=lambda reading: (reading.unit == "ratio" and reading.evidence >= 10, reading.enough, reading.evidence)
    )
    told = about(state, arm) | facts(named)
    if alone:
        return Reason(code="gate_failed", facts=told)
    scale = state.policy.false_revert / budget
    all_of_them: dict[str, Fact] = {"together": float(f"{math.exp(together) * scale:.6g}"), "needed_together": float(f"{1 / budget:.6g}")}
    return Reason(code="gates_failed", facts=told | all_of_them | {"gates": ", ".join(reading.name for reading in guardrails)})


def about(state: Rollout, arm: ArmState) -> dict[str, Fact]:
    """Where and whom a reason is about; the arm is named where there is more than one."""
    told: dict[str, Fact] = {"step": label(state)}
    return told | {"variant": arm.name} if len(state.arms) > 1 else told


def silence(state: Rollout, arm: ArmState) -> Reason | None:
    """No request of an arm was seen for too long although it has a share."""
    after = state.policy.when.no_data_after_s
    if arm.silent_s < after:
        return None
    return Reason(code="no_data", facts=about(state, arm) | {"silent_s": round(arm.silent_s, 1), "after_s": after})


def waiting_for(state: Rollout, seen: Sequence[tuple[ArmState, Sequence[Reading]]]) -> tuple[Waiting, ...]:
    """Everything the current stage still waits for; nothing = it may advance.

    Args:
        seen: The arms in the release with what their gates say.
    """
    at = wish.stage(state)
    missing: list[Waiting] = []
    if state.paused:
        missing.append(Waiting(kind="resume"))
    if state.freezes:
        missing.append(Waiting(kind="unfreeze", what=state.freezes[0].words))
    if state.orphan is not None or at is None:
        missing.append(Waiting(kind="edit"))
        return tuple(missing)
    if not wish.fits(state):
        missing.append(Waiting(kind="lane", what=state.policy.assignment.layer))
    if state.source_words and at.waits_for_evidence:
        missing.append(Waiting(kind="source", what=state.source_words))
    if not state.delivery.complete:
        missing.append(Waiting(kind="ack", have=state.delivery.acked, need=max(1, state.delivery.selected), what=state.delivery.words))
    for arm, said in seen:
        missing += _of_arm(state, at, arm, said)
    missing += _of_draw(state, at)
    if at.kind == "approve" and not state.approved:
        missing.append(Waiting(kind="approval", have=state.stage_s, need=at.within_s, what=at.who))
    following = _following(state)
    if at.kind != "ab" and following is not None and following.kind == "promote" and not any(_promoted_next(state, arm) for arm, _ in seen):
        missing.append(Waiting(kind="winner", what=following.arm or state.winner))
    missing += baseline(state, following)
    if at.kind == "ab" and not state.winner:
        missing.append(Waiting(kind="winner", have=state.stage_s, need=at.within_s, what=at.goal))
    if at.waits_for_evidence and state.held_s < at.hold.for_s:
        missing.append(Waiting(kind="time", have=state.held_s, need=at.hold.for_s))
    if at.share_bp > 0 and sum(arm.in_effect_bp for arm in state.running) < FULL_BP and state.stable_samples < at.hold.samples:
        missing.append(Waiting(kind="samples", have=state.stable_samples, need=at.hold.samples, variant="stable"))
    return tuple(missing)


def _of_arm(state: Rollout, at: Stage, arm: ArmState, said: Sequence[Reading]) -> list[Waiting]:
    """What is missing of one arm."""
    missing: list[Waiting] = []
    name = arm.name if len(state.arms) > 1 else ""
    share_bp, last = at.share_of(arm.name), _promoted_next(state, arm)
    if arm.pods.ready == 0:
        missing.append(Waiting(kind="pods", have=0, need=1, what=arm.pods.words, variant=name))
    elif arm.ceiling_bp < (needed := FULL_BP if last else share_bp):
        missing.append(Waiting(kind="capacity", have=arm.ceiling_bp, need=needed, what=_pods(arm), variant=name))
    if at.kind == "probe" and not arm.probing.done:
        missing.append(Waiting(kind="probe", have=arm.probing.good, need=arm.probing.asked, variant=name))
    goals = [reading for reading in said if reading.role is Role.GOAL and reading.verdict is not Verdict.PASS] if last else []
    missing += [
        Waiting(kind="goal", have=reading.evidence_pass, need=reading.needed_pass, what=reading.name, variant=name) for reading in goals
    ]
    if not at.waits_for_evidence or not (last or _asked(at, arm)):
        return missing
    undecided = [reading for reading in said if reading.verdict is not Verdict.PASS and reading.role is not Role.GOAL]
    # Gates remember earlier stages: at least one request must have been seen in this one, or silence would pass.
    need = max(at.hold.samples, 1 if said and not undecided else 0)
    if arm.samples < need:
        missing.append(Waiting(kind="samples", have=arm.samples, need=need, variant=name))
    missing += [
        Waiting(kind="gate", have=reading.evidence_pass, need=reading.needed_pass, what=reading.name, variant=name) for reading in undecided
    ]
    more = radius_reading(state, arm, now=state.clock) if arm.blast is not None else None
    if more is not None and more.verdict is not Verdict.PASS:
        missing.append(Waiting(kind="radius", have=more.evidence_pass, need=more.needed_pass, what=more.name, variant=name))
    return missing


def _of_draw(state: Rollout, at: Stage) -> list[Waiting]:
    """Whether requests are drawn as the shares say: if not, no PASS counts."""
    known = at.share_bp > 0 and at.waits_for_evidence and len(state.drawn.shares) == 1 + len(state.arms)
    off = ratio.mismatch(state.drawn, stages=len(stages(state.policy))) if known else None
    if off is None:
        return []
    names = ("stable", *(arm.name for arm in state.arms))
    return [Waiting(kind="ratio", have=off.seen * FULL_BP, need=off.due * FULL_BP, variant=names[off.arm])]


def _promoted_next(state: Rollout, arm: ArmState) -> bool:
    """Whether the next stage promotes this arm: then its goals must be reached and its gates have been asked, whatever share it has."""
    following = _following(state)
    if following is None or following.kind != "promote":
        return False
    meant = following.arm or state.winner
    return arm.name == meant if meant else len(state.running) == 1


def _following(state: Rollout) -> Stage | None:
    flat = stages(state.policy)
    return flat[state.position + 1] if state.position + 1 < len(flat) else None


def baseline(state: Rollout, following: Stage | None) -> list[Waiting]:
    """What must be known of stable before a stage that leaves it no traffic: arms are held against it afterwards."""
    seen = state.yardstick.seen.requests
    if (
        following is None
        or following.kind == "promote"
        or following.share_bp < FULL_BP
        or not state.policy.gates
        or seen >= yardstick.LEAST
    ):
        return []
    return [Waiting(kind="samples", have=seen, need=yardstick.LEAST, variant="stable")]


def _pods(arm: ArmState) -> str:
    return f"{arm.pods.ready} of {arm.pods.total} pods ready"


def passed(state: Rollout, seen: Sequence[tuple[ArmState, Sequence[Reading]]]) -> Reason:
    """Why a stage is over."""
    at = wish.stage(state)
    told: dict[str, Fact] = {"step": label(state), "held_s": round(state.held_s, 1)}
    if at is not None and at.kind == "probe":
        told |= {"answers": sum(arm.probing.good for arm, _ in seen)}
        return Reason(code="probe_passed", facts=told)
    told |= {
        "candidate_requests": sum(arm.samples for arm, _ in seen),
        "stable_requests": state.stable_samples,
        "gates": ", ".join(dict.fromkeys(reading.name for arm, said in seen if _asked(at, arm) for reading in said if _good(reading))),
    }
    return Reason(code="approved_over" if at is not None and at.kind == "approve" else "stage_passed", facts=told)


def _asked(at: Stage | None, arm: ArmState) -> bool:
    """Whether the stage gives an arm anything that gates can judge."""
    return at is not None and (at.share_of(arm.name) > 0 or at.copies_of(arm.name) > 0)


def _good(reading: Reading) -> bool:
    return reading.verdict is Verdict.PASS and reading.role is not Role.GOAL


def undecided(state: Rollout, missing: Sequence[Waiting], seen: Sequence[tuple[ArmState, Sequence[Reading]]]) -> Reason:
    """The hold is served and a gate has not said PASS, or more users would be too many, or the requests are not drawn as they should be."""
    off = next((item for item in missing if item.kind == "ratio"), None)
    if off is not None:
        drawn: dict[str, Fact] = {"seen_bp": round(off.have), "due_bp": round(off.need), "requests": sum(state.drawn.requests)}
        return Reason(code="ratio_off", facts=drawn | {"step": label(state), "arm": off.variant})
    if all(item.kind == "radius" for item in missing):
        several = len(state.arms) > 1
        for arm, _ in seen:
            reading = radius_reading(state, arm, now=state.clock)
            if reading is not None and any(item.variant == (arm.name if several else "") for item in missing):
                return Reason(code="radius_open", facts=facts(reading) | about(state, arm) | {"margin": reading.gate.margin.absolute})
    open_gates = {(item.variant, item.what) for item in missing if item.kind in {"gate", "goal"}}
    order = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE, Verdict.PASS)
    several = len(state.arms) > 1
    arm, first = min(
        ((arm, reading) for arm, said in seen for reading in said if (arm.name if several else "", reading.name) in open_gates),
        key=lambda pair: order.index(pair[1].verdict),
    )
    code = "goal_open" if first.role is Role.GOAL else f"gate_{first.verdict.value.lower()}"
    return Reason(code=code, facts=facts(first) | about(state, arm))


def facts(reading: Reading) -> dict[str, Fact]:
    """A reading's numbers as plain facts for a record."""

    def finite(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

    low, high = reading.interval or (None, None)
    told: dict[str, Fact] = {"limit": reading.gate.limit} if reading.gate.limit is not None else {}
    return told | {
        "gate": reading.name,
        "role": reading.role.value,
        "verdict": reading.verdict.value,
        "evidence": finite(reading.evidence),
        "needed": finite(reading.needed),
        "evidence_pass": finite(reading.evidence_pass),
        "needed_pass": finite(reading.needed_pass),
        "stable_value": finite(reading.estimate_stable),
        "candidate_value": finite(reading.estimate_candidate),
        "low": finite(low),
        "high": finite(high),
        "stable_samples": reading.stable.requests,
        "candidate_samples": reading.candidate.requests,
        "unit": reading.unit,
        "statistic": reading.statistic,
    }
