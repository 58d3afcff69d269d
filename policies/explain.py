"""A `Reason` -> one sentence; the same sentence in the command line, the API, logs and notifications.

Sentences start in lower case, end without a full stop and carry the numbers the decision used. Evidence is told as odds, never as a bare
p-value.
"""

from collections.abc import Callable, Sequence

from policies import verdicts
from policies.gates import Reading, Verdict
from policies.rollout import Fact, Reason
from policies.verdicts import Waiting

Facts = dict[str, Fact]


def sentence(reason: Reason) -> str:
    """The reason in words; an unknown code (written by a newer version) is shown with its facts."""
    write = _SENTENCES.get(reason.code)
    if write is None:
        return f"{reason.code}: " + ", ".join(f"{key}={value}" for key, value in sorted(reason.facts.items()))
    return write(reason.facts)


def waiting(step: str, missing: Sequence[Waiting]) -> str:
    """What a running stage still waits for, e.g. "canary 5%: 312 of 500 samples, 40 s of 5m"."""
    return f"{step}: " + (", ".join(_WAITING[item.kind](item) for item in missing) or "nothing missing")


def reading(seen: Reading) -> str:
    """One gate's verdict in words."""
    facts = verdicts.facts(seen)
    match seen.verdict:
        case Verdict.FAIL:
            return f"{_compared(facts)}; {odds(facts['evidence'])} that it is worse"
        case Verdict.PASS:
            return f"{_compared(facts)}; {odds(facts['evidence_pass'])} that it is as good"
        case Verdict.INCONCLUSIVE:
            return f"{_compared(facts)}; {odds(facts['evidence'])} that it is worse, {odds(facts['evidence_pass'])} that it is as good"
        case Verdict.NO_DATA:
            return "no request of the candidate was seen"
        case Verdict.ERROR:
            return "its evidence cannot be read"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 5 min, 2 h, 3.5 s."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def odds(evidence: Fact) -> str:
    if not isinstance(evidence, int | float):
        return "overwhelming odds"
    if evidence >= 1e6:
        return f"odds {evidence:.0e}:1".replace("e+0", "e").replace("e+", "e")
    return f"odds {evidence:.0f}:1" if evidence >= 10 else f"odds {evidence:.2g}:1"


def value(amount: Fact, unit: Fact) -> str:
    """A gate's estimate with its unit: ratios as per cent, latencies in ms."""
    if not isinstance(amount, int | float):
        return "no value"
    return f"{amount * 100:.3g} %" if unit == "ratio" else f"{amount:.4g} {unit}"


def _compared(facts: Facts) -> str:
    unit = facts.get("unit")
    if not facts.get("candidate_samples") or not facts.get("stable_samples"):
        return f"{facts.get('candidate_samples')} candidate and {facts.get('stable_samples')} stable requests seen"
    candidate, stable = value(facts.get("candidate_value"), unit), value(facts.get("stable_value"), unit)
    requests = f"{facts.get('candidate_samples')} and {facts.get('stable_samples')} requests"
    if unit == "ratio":
        return f"the candidate fails {candidate} of its requests, stable {stable} ({requests})"
    statistic = facts.get("statistic")
    what = f"{statistic} latency" if statistic not in {None, "distribution"} else "median latency"
    return f"the candidate's {what} is {candidate}, stable's {stable} ({requests})"


def _failed(facts: Facts) -> str:
    return (
        f"gate {facts.get('gate')} failed in {facts.get('step')}: {_compared(facts)}; "
        f"{odds(facts.get('evidence'))} that it is worse, {_number(facts.get('needed'))}:1 needed" + _back(facts)
    )


def _back(facts: Facts) -> str:
    return f"; all traffic back to {facts['stable']}" if facts.get("stable") else ""


def _number(amount: Fact) -> str:
    return f"{amount:.6g}" if isinstance(amount, int | float) else str(amount)


def _said(facts: Facts) -> str:
    by = f" by {facts['by']}" if facts.get("by") else ""
    return by + (f": {facts['said']}" if facts.get("said") else "")


def _undecided(facts: Facts) -> str:
    return (
        f"{facts.get('step')} is held: gate {facts.get('gate')} cannot tell yet: {_compared(facts)}; "
        f"{odds(facts.get('evidence_pass'))} that it is as good, {_number(facts.get('needed_pass'))}:1 needed"
    )


def _plural(count: Fact, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_SENTENCES: dict[str, Callable[[Facts], str]] = {
    "idle": lambda _: "nothing to roll out",
    "adopted": lambda f: f"{f['stable']} is stable and serves all requests",
    "recommitted": lambda f: f"the policy's stable changed from {f['previous']} to {f['stable']}: it serves all requests now",
    "recommitting": lambda f: (
        f"the policy's stable changed from {f['previous']} to {f['stable']}: delivered first, {f['previous']} serves meanwhile"
    ),
    "document_removed": lambda _: "the policy document is gone: the rollout owns no traffic any more",
    "started": lambda f: f"{f['candidate']} is the new candidate against stable {f['stable']}: warming up at share 0",
    "restarted": lambda f: (
        f"the candidate changed from {f['previous']} to {f['candidate']}: starts again at share 0 without the old evidence"
    ),
    "entered": lambda f: f"every proxy knows the candidate and {_plural(f['ready'], 'pod')} of it ready: {f['step']} begins",
    "stage_passed": lambda f: (
        f"{f['step']} passed: {_plural(f['candidate_requests'], 'candidate request')} in {duration(float(f['held_s'] or 0))}, "
        + (f"gates {f['gates']} say as good as stable" if f.get("gates") else "no gates asked")
        + (f"; on to {f['to']}" if f.get("to") else "")
        + (f"; {f['stable']} becomes stable" if f.get("stable") else "")
    ),
    "no_steps": lambda f: f"the policy asks for no step before promotion: {f.get('stable')} becomes stable",
    "steps_over": lambda f: f"all {f['steps']} steps are over and none of them is `promote`: held at the last share until someone promotes",
    "gate_failed": _failed,
    "gates_failed": lambda f: (
        f"gates {f['gates']} together failed in {f.get('step')}: {_compared(f)}; "
        f"{odds(f['together'])} that it is worse, {_number(f['needed_together'])}:1 needed" + _back(f)
    ),
    "gate_fail": lambda f: f"{f.get('step')} is held by signal {f.get('gate')}: {_compared(f)}; {odds(f.get('evidence'))} that it is worse",
    "gate_error": lambda f: f"{f.get('step')} is held: gate {f.get('gate')} cannot be read",
    "gate_no_data": lambda f: f"{f.get('step')} is held: gate {f.get('gate')} has seen no request of the candidate",
    "gate_inconclusive": _undecided,
    "no_data": lambda f: f"no request of the candidate was seen for {duration(float(f['silent_s'] or 0))} in {f.get('step')}" + _back(f),
    "stuck": lambda f: f"{f.get('step')} did not end within {duration(float(f['after_s'] or 0))}" + _back(f),
    "nacked": lambda f: (
        f"{_plural(f['rejected'], 'proxy')} of {f['selected']} rejected the configuration: {f['words']}".replace("proxys", "proxies")
        + _back(f)
    ),
    "candidate_withdrawn": lambda f: f"the candidate {f.get('candidate')} was taken out of the policy" + _back(f),
    "aborted": lambda f: f"aborted{_said(f)}" + _back(f),
    "all_on_stable": lambda f: f"every proxy sends all requests to {f['stable']} again",
    "paused": lambda f: f"paused{_said(f)}; guardrails stay on",
    "resumed_by_hand": lambda f: f"resumed{_said(f)}",
    "resumed": lambda f: f"{f['step']} goes on: what held it is gone",
    "step_removed": lambda f: f"{f['step']} was taken out of the policy: held at its share until the policy or a command says what next",
    "step_edited": lambda f: f"{f['from']} was edited: {f.get('to')} applies and its hold starts again",
    "promoted_by_hand": lambda f: f"promoted{_said(f)}; {f.get('stable')} becomes stable",
    "promoted": lambda f: f"{f['stable']} is stable; the old version was let go",
    "refused.nothing_to_abort": lambda f: f"nothing to abort: the rollout is {f['mode']}",
    "refused.nothing_to_promote": lambda f: (
        f"nothing to promote: the rollout is {f['mode']} and has no candidate that is delivered and ready"
    ),
    "refused.nothing_to_pause": lambda f: f"nothing to pause: the rollout is {f['mode']}",
    "refused.not_paused": lambda f: f"the rollout is not paused but {f['mode']}",
}

_WAITING: dict[str, Callable[[Waiting], str]] = {
    "resume": lambda _: "paused until resumed",
    "edit": lambda _: "its step is no longer in the policy",
    "ack": lambda w: (
        (f"{w.have:.0f} of {w.need:.0f} proxies ACKed" if w.have or w.need > 1 else "no proxy has ACKed yet")
        + (f" ({w.what})" if w.what else "")
    ),
    "pods": lambda w: "no pod of the candidate is ready" + (f" ({w.what})" if w.what else ""),
    "time": lambda w: f"{duration(round(w.have, 1))} of {duration(w.need)} held",
    "samples": lambda w: f"{w.have:.0f} of {w.need:.0f} samples",
    "gate": lambda w: f"gate {w.what} not passed yet",
}
