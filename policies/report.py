"""A rollout's state as the status people and machines read (`crossfade status -o json`, `GET /v1/rollouts`): plain JSON, pure."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from policies import explain, verdicts, wish
from policies.gates import Reading
from policies.rollout import Mode, Record, Rollout
from policies.spec.policy import FULL_BP, Variant
from policies.steps import stages
from policies.weights import weights

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def phase(state: Rollout) -> str:
    """The word of the status for a mode and what hinders it."""
    if state.mode in {Mode.WARMING, Mode.STEP} and state.paused:
        return "paused"
    if state.mode is Mode.WARMING:
        return "waiting_capacity" if state.delivery.complete else "running"
    if state.mode is Mode.STEP:
        return "holding" if state.holding else "running"
    return "idle" if state.mode is Mode.RETIRED else state.mode.value


def report(state: Rollout, *, now: float, held: bool) -> dict[str, Json]:
    """The JSON of one rollout.

    Args:
        held: Whether a lease of this rollout is being kept alive now.
    """
    at = wish.stage(state)
    flat = stages(state.policy)
    seen = verdicts.readings(state, now=now) if state.candidate is not None and state.gates else ()
    missing = verdicts.waiting_for(state, seen) if at is not None else ()
    share = at.share_bp if at else 0
    lanes = weights({"candidate": share} if state.candidate is not None else {})
    return {
        "name": state.name,
        "phase": phase(state),
        "generation": state.generation,
        "stable": {"version": state.stable.version, "identity": state.stable.identity},
        "variants": [_variant(state, state.candidate)] if state.candidate is not None else [],
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
        "weights": {**lanes, "total": sum(lanes.values())},
        "gates": [_reading(reading) for reading in seen],
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
        if not state.delivery.complete:
            seen, words = state.delivery, f" ({state.delivery.words})" if state.delivery.words else ""
            return f"{explain.sentence(state.because)}; {seen.acked} of {seen.selected} proxies have its clusters{words}"
        return f"{explain.sentence(state.because)}; no pod of it is ready" + (f" ({state.pods.words})" if state.pods.words else "")
    if state.mode is Mode.STEP and not state.paused and not state.holding and missing:
        return explain.waiting(verdicts.label(state), missing)
    return explain.sentence(state.because)


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
        "share": entry.share_bp / FULL_BP,
        "stable": entry.stable,
        "candidate": entry.candidate,
        "actor": entry.actor,
        "because": explain.sentence(entry.reason),
    }


def _variant(state: Rollout, variant: Variant) -> dict[str, Json]:
    return {
        "name": variant.name,
        "version": variant.version,
        "identity": variant.identity,
        "share": state.in_effect_bp / FULL_BP,
        "shadow_share": state.shadow_in_effect_bp / FULL_BP,
        "ready": state.pods.ready,
        "pods": state.pods.total,
        "capacity_share": 1.0 if state.pods.ready else 0.0,
    }


def _waiting(item: verdicts.Waiting) -> dict[str, Json]:
    return {"kind": item.kind, "have": round(item.have, 3), "need": round(item.need, 3), "what": item.what}


def _reading(reading: Reading) -> dict[str, Json]:
    def finite(amount: float | None) -> float | None:
        return None if amount is None or not math.isfinite(amount) else float(f"{amount:.6g}")

    return {
        "name": reading.name,
        "role": reading.role.value,
        "verdict": reading.verdict.value,
        "evidence": finite(reading.evidence),
        "needed": finite(reading.needed),
        "evidence_pass": finite(reading.evidence_pass),
        "needed_pass": finite(reading.needed_pass),
        "estimate": {"stable": finite(reading.estimate_stable), "candidate": finite(reading.estimate_candidate)},
        "interval": None if reading.interval is None else [finite(bound) for bound in reading.interval],
        "samples": {"stable": reading.samples_stable, "candidate": reading.samples_candidate},
        "unit": reading.unit,
        "reading_age_s": finite(reading.age_s),
        "because": explain.reading(reading),
    }
