"""A rollout's state as the status people and machines read (`crossfade status -o json`, `GET /v1/rollouts`): plain JSON, pure."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from policies import explain, verdicts, wish
from policies.gates import Reading
from policies.lanes import TOTAL, weight
from policies.rollout import IN_RELEASE, ArmState, Mode, Record, Rollout
from policies.spec.policy import FULL_BP
from policies.steps import stages

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def phase(state: Rollout) -> str:
    """The word of the status for a mode and what hinders it."""
    if state.mode in IN_RELEASE and state.paused:
        return "paused"
    if state.mode in IN_RELEASE and state.freezes:
        return "frozen"
    if state.mode is Mode.WARMING:
        return "waiting_capacity" if state.delivery.complete else "running"
    if state.mode is Mode.STEP:
        return _phase_of_stage(state)
    return "idle" if state.mode is Mode.RETIRED else state.mode.value


def _phase_of_stage(state: Rollout) -> str:
    at = wish.stage(state)
    if state.holding or at is None:
        return "holding"
    if at.kind == "approve" and not state.approved:
        return "waiting_approval"
    starved = any(arm.ceiling_bp < at.share_of(arm.name) for arm in state.running)
    return "waiting_capacity" if starved or not wish.fits(state) else "running"


def report(state: Rollout, *, now: float, held: bool) -> dict[str, Json]:
    """The JSON of one rollout.

    Args:
        held: Whether a lease of this rollout is being kept alive now.
    """
    at = wish.stage(state)
    flat = stages(state.policy)
    seen = tuple((arm, verdicts.readings(state, arm, now=now)) for arm in state.running)
    missing = verdicts.waiting_for(state, seen) if at is not None else ()
    on_way = state.arms if state.mode not in wish.AFTER else ()
    return {
        "name": state.name,
        "phase": phase(state),
        "generation": state.generation,
        "stable": {"version": state.stable.version, "identity": state.stable.identity},
        "variants": [_variant(arm) for arm in on_way],
        "step": None
        if at is None
        else {
            "index": state.position,
            "of": len(flat),
            "kind": at.kind,
            "label": at.label,
            "since": rfc3339(state.since),
            "waiting_for": [_waiting(item) for item in missing],
        },
        "weights": _weights(state),
        "gates": [_reading(arm.name, reading) for arm, said in seen for reading in said],
        "winner": state.winner,
        "freezes": [{"source": each.source, "words": each.words} for each in state.freezes],
        "rollback_to": [variant.version for variant in reversed(state.committed)],
        "lease": {"ttl_s": state.policy.lease.ttl_s, "held": held},
        "proxies": {
            "selected": state.delivery.selected,
            "acked": state.delivery.acked,
            "rejected": state.delivery.rejected,
            "words": state.delivery.words,
        },
        "because": because(state, missing),
    }


def because(state: Rollout, missing: Sequence[verdicts.Waiting]) -> str:
    """The sentence for what the rollout does now: what it waits for while all is well, else its last reason."""
    if state.mode is Mode.WARMING and not state.paused:
        return f"{explain.sentence(state.because)}; {_warming(state)}"
    if state.mode is Mode.STEP and not state.paused and not state.holding and missing:
        return explain.waiting(verdicts.label(state), missing)
    return explain.sentence(state.because)


def _warming(state: Rollout) -> str:
    """What a release waits for before its first stage."""
    if not state.delivery.complete:
        seen, words = state.delivery, f" ({state.delivery.words})" if state.delivery.words else ""
        return f"{seen.acked} of {seen.selected} proxies have its clusters{words}"
    if state.freezes:
        return f"frozen ({state.freezes[0].words})"
    if not wish.fits(state):
        return f"layer {state.policy.assignment.layer} has no room for it"
    first = next(iter(stages(state.policy)), None)
    unknown = verdicts.baseline(state, first)
    if unknown:
        return f"{unknown[0].have:.0f} of {unknown[0].need:.0f} requests of stable seen, against which it will be held"
    cold = next((arm for arm in state.running if not arm.pods.ready), None)
    if cold is None:
        return "ready"
    words = f" ({cold.pods.words})" if cold.pods.words else ""
    return f"no pod of {'it' if len(state.arms) == 1 else cold.name} is ready{words}"


def record(entry: Record) -> dict[str, Json]:
    """The JSON of a decision record."""
    facts: dict[str, Json] = dict(entry.reason.facts)
    return {
        "at": rfc3339(entry.at),
        "rollout": entry.rollout,
        "generation": entry.generation,
        "publication": entry.publication,
        "decision": entry.decision.value,
        "reason": entry.reason.code,
        "facts": facts,
        "step": entry.step,
        "share": sum(share for _, share in entry.shares) / FULL_BP,
        "shares": {arm: share / FULL_BP for arm, share in entry.shares},
        "stable": entry.stable,
        "candidate": entry.candidate,
        "actor": entry.actor,
        "because": explain.sentence(entry.reason),
    }


def _variant(arm: ArmState) -> dict[str, Json]:
    return {
        "name": arm.name,
        "version": arm.variant.version,
        "identity": arm.variant.identity,
        "share": arm.in_effect_bp / FULL_BP,
        "shadow_share": arm.shadow_in_effect_bp / FULL_BP,
        "ready": arm.pods.ready,
        "pods": arm.pods.total,
        "capacity_share": arm.ceiling_bp / FULL_BP if arm.pods.ready else 0.0,
        "out": explain.sentence(arm.out) if arm.out else None,
    }


def _weights(state: Rollout) -> dict[str, Json]:
    """What the proxies are sent, stable's slots added up."""
    wanted = wish.traffic(state)
    sent = {arm.variant.name: weight(arm.share_bp) for arm in wanted.arms} if wanted else {}
    return {"stable": TOTAL - sum(sent.values()), **sent, "total": TOTAL}


def _waiting(item: verdicts.Waiting) -> dict[str, Json]:
    return {"kind": item.kind, "have": round(item.have, 3), "need": round(item.need, 3), "what": item.what, "variant": item.variant}


def _reading(variant: str, reading: Reading) -> dict[str, Json]:
    def finite(amount: float | None) -> float | None:
        return None if amount is None or not math.isfinite(amount) else float(f"{amount:.6g}")

    return {
        "name": reading.name,
        "variant": variant,
        "role": reading.role.value,
        "verdict": reading.verdict.value,
        "evidence": finite(reading.evidence),
        "needed": finite(reading.needed),
        "evidence_pass": finite(reading.evidence_pass),
        "needed_pass": finite(reading.needed_pass),
        "estimate": {"stable": finite(reading.estimate_stable), "candidate": finite(reading.estimate_candidate)},
        "interval": None if reading.interval is None else [finite(bound) for bound in reading.interval],
        "samples": {"stable": reading.stable.requests, "candidate": reading.candidate.requests},
        "unit": reading.unit,
        "reading_age_s": finite(reading.age_s),
        "because": explain.reading(reading),
    }
