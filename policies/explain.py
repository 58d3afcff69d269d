"""A `Reason` -> one sentence; the same sentence in the command line, the API, logs and notifications.

Sentences start in lower case, end without a full stop and carry the numbers the decision used. Evidence is told as odds, never as a bare
p-value.
"""

from collections.abc import Callable, Sequence

from policies import verdicts
from policies.gates import Reading, Verdict
from policies.rollout import Fact, Reason
from policies.steps import percent
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
            return f"{_compared(facts)}; {odds(facts['evidence'])} that it is {_feared(facts)}"
        case Verdict.PASS:
            return f"{_compared(facts)}; {odds(facts['evidence_pass'])} that it is {_hoped(facts)}"
        case Verdict.INCONCLUSIVE:
            return f"{_compared(facts)}; {odds(facts['evidence'])} that it is {_feared(facts)}, {odds(facts['evidence_pass'])} that it is {_hoped(facts)}"
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


def _hoped(facts: Facts) -> str:
    if facts.get("limit") is not None:
        return "within its limit"
    return "better" if facts.get("role") == "goal" else "as good"


def _feared(facts: Facts) -> str:
    if facts.get("limit") is not None:
        return "beyond its limit"
    return "not better" if facts.get("role") == "goal" else "worse"


def _who(facts: Facts) -> str:
    """The arm a reason is about: by its name where there are several."""
    return str(facts.get("variant") or "the candidate")


def _compared(facts: Facts) -> str:
    """What was seen of an arm beside stable, or beside its limit: how many times, both values, how far apart they may be, how many requests."""
    arm, stable, candidates, stables = _who(facts), facts.get("stable_value"), facts.get("candidate_samples"), facts.get("stable_samples")
    if facts.get("limit") is not None:
        return _limited(facts) if candidates else f"no request of {arm} seen"
    if not candidates or not stables:
        return f"{candidates} {facts.get('variant') or 'candidate'} and {stables} stable requests seen"
    seen = f"{value(facts.get('candidate_value'), facts.get('unit'))} against {value(stable, facts.get('unit'))}"
    requests = f"{seen}{_apart(facts)}, {candidates} and {stables} requests"
    times = _times(facts.get("candidate_value"), stable)
    if facts.get("unit") != "ratio":
        return f"{arm}'s {_quantile(facts)} is {f'{times} times' if times else 'as'} stable's ({requests})".replace(
            "is as stable's", "is stable's"
        )
    if not stable:
        return f"{arm} answers {'errors' if facts.get('candidate_value') else 'no errors'}, stable none ({requests})"
    return f"{arm} answers {f'{times} times as many' if times else 'as many'} errors as stable ({requests})"


def _limited(facts: Facts) -> str:
    limit, unit = value(facts.get("limit"), facts.get("unit")), facts.get("unit")
    seen, requests = value(facts.get("candidate_value"), unit), f"{facts.get('candidate_samples')} requests"
    if unit == "ratio":
        return f"{_who(facts)} answers {seen} of its requests with an error, less than {limit} is allowed ({requests})"
    return f"{_who(facts)}'s {_quantile(facts)} is {seen}, less than {limit} is allowed ({requests})"


def _quantile(facts: Facts) -> str:
    statistic = facts.get("statistic")
    return f"{statistic} latency" if statistic not in {None, "distribution"} else "median latency"


def _times(candidate: Fact, stable: Fact) -> str:
    """How many times as much an arm has as stable; "" = about as much."""
    if not isinstance(candidate, int | float) or not isinstance(stable, int | float) or stable <= 0:
        return ""
    ratio = candidate / stable
    return "" if 0.95 < ratio < 1.05 else f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


def _apart(facts: Facts) -> str:
    """Where the difference may lie, at 95 % confidence however often it is looked at."""
    low, high = facts.get("low"), facts.get("high")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return ""
    if facts.get("unit") == "ratio":
        return f", difference {low * 100:+.2g} to {high * 100:+.2g} points"
    return f", difference {low:+.3g} to {high:+.3g} {facts.get('unit')}"


def _failed(facts: Facts) -> str:
    return (
        f"gate {facts.get('gate')} failed in {facts.get('step')}: {_compared(facts)}; "
        f"{odds(facts.get('evidence'))} that it is {_feared(facts)}, {_number(facts.get('needed'))}:1 needed" + _back(facts)
    )


def _back(facts: Facts) -> str:
    """What follows: everything goes back, or of several arms this one is taken out."""
    if facts.get("version"):
        return f"; {facts['variant']} ({facts['version']}) is taken out, its users go to {facts['stable']}"
    return f"; all traffic back to {facts['stable']}" if facts.get("stable") else ""


def _onward(facts: Facts) -> str:
    return (f"; on to {facts['to']}" if facts.get("to") else "") + (f"; {facts['stable']} becomes stable" if facts.get("stable") else "")


def _number(amount: Fact) -> str:
    return f"{amount:.6g}" if isinstance(amount, int | float) else str(amount)


def _said(facts: Facts) -> str:
    by = f" by {facts['by']}" if facts.get("by") else ""
    return by + (f": {facts['said']}" if facts.get("said") else "")


def _undecided(facts: Facts) -> str:
    return (
        f"{facts.get('step')} is held: gate {facts.get('gate')} cannot tell yet: {_compared(facts)}; "
        f"{odds(facts.get('evidence_pass'))} that it is {_hoped(facts)}, {_number(facts.get('needed_pass'))}:1 needed"
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
    "started": lambda f: (
        f"{f['candidate']} {'are the new arms' if ', ' in str(f['candidate']) else 'is the new candidate'} against stable {f['stable']}: "
        f"warming up at share 0{' (started' + _said(f) + ')' if f.get('by') or f.get('said') else ''}"
    ),
    "restarted": lambda f: (
        f"the candidate changed from {f['previous']} to {f['candidate']}: starts again at share 0 without the old evidence"
    ),
    "entered": lambda f: (
        f"every proxy knows {'the candidate' if f.get('arms', 1) == 1 else 'the arms'} and {_plural(f['ready'], 'pod')} "
        f"{'of it ' if f.get('arms', 1) == 1 else 'of them '}ready: {f['step']} begins"
    ),
    "stage_passed": lambda f: (
        f"{f['step']} passed: {_plural(f['candidate_requests'], 'candidate request')} in {duration(float(f['held_s'] or 0))}, "
        + (f"gates {f['gates']} say as good as stable" if f.get("gates") else "no gates asked")
        + _onward(f)
    ),
    "no_steps": lambda f: f"the policy asks for no step before promotion: {f.get('stable')} becomes stable",
    "steps_over": lambda f: f"all {f['steps']} steps are over and none of them is `promote`: held at the last share until someone promotes",
    "gate_failed": _failed,
    "gates_failed": lambda f: (
        f"gates {f['gates']} together failed in {f.get('step')}: {_compared(f)}; "
        f"{odds(f['together'])} that it is worse, {_number(f['needed_together'])}:1 needed" + _back(f)
    ),
    "gate_fail": lambda f: (
        f"{f.get('step')} is held by signal {f.get('gate')}: {_compared(f)}; {odds(f.get('evidence'))} that it is {_feared(f)}"
    ),
    "gate_error": lambda f: f"{f.get('step')} is held: gate {f.get('gate')} cannot be read",
    "gate_no_data": lambda f: f"{f.get('step')} is held: gate {f.get('gate')} has seen no request of the candidate",
    "gate_inconclusive": _undecided,
    "goal_open": lambda f: (
        f"{f.get('step')} is held: goal {f.get('gate')} is not reached: {_compared(f)}; "
        f"{odds(f.get('evidence_pass'))} that it is better, {_number(f.get('needed_pass'))}:1 needed"
    ),
    "radius_open": lambda f: (
        f"{f.get('step')} is held: {f.get('gate')} asks that {_who(f)} is worse by less than {value(f.get('margin'), 'ratio')}: {_compared(f)}; "
        f"{odds(f.get('evidence_pass'))} that it is, {_number(f.get('needed_pass'))}:1 needed"
    ),
    "ratio_off": lambda f: (
        f"{f['step']} is held: {f['arm']} got {percent(int(f['seen_bp'] or 0))} of {f['requests']} requests where {percent(int(f['due_bp'] or 0))} "
        "are due: requests go astray or are not logged, and no PASS counts until that is over"
    ),
    "no_data": lambda f: f"no request of {_who(f)} was seen for {duration(float(f['silent_s'] or 0))} in {f.get('step')}" + _back(f),
    "source_error": lambda f: f"the evidence cannot be had: {f.get('words')}; in {f.get('step')}" + _back(f),
    "pods_gone": lambda f: (
        f"no pod of {_who(f)} has been ready for {duration(float(f['gone_s'] or 0))} in {f.get('step')}"
        + (f" ({f['words']})" if f.get("words") else "")
        + _back(f)
    ),
    "probe_failed": lambda f: f"the probe of {_who(f)} failed: {f.get('words')} ({f['good']} of {f['asked']} answers were good)" + _back(f),
    "probe_passed": lambda f: f"{f['step']} passed: all {_plural(f['answers'], 'answer')} good" + _onward(f),
    "won": lambda f: (
        f"{f['variant']} ({f['version']}) wins {f.get('step')} by {f['gate']}: {_compared(f)}; "
        f"{odds(f.get('evidence_pass'))} that it is better; the others leave, their users go to stable"
    ),
    "lost": lambda f: f"{f['winner']} won",
    "tie": lambda f: f"no arm proved better by {f['goal']} within {duration(float(f['within_s'] or 0))} of {f.get('step')}" + _back(f),
    "no_winner": lambda f: f"held: more than one arm is left ({f['arms']}) and none has won: say which with `crossfade promote --variant`",
    "approved": lambda f: f"approved{_said(f)}",
    "approved_over": lambda f: f"{f['step']} given" + _onward(f),
    "not_approved": lambda f: (
        f"nobody approved within {duration(float(f['within_s'] or 0))}" + (f" ({f['who']} was asked)" if f.get("who") else "") + _back(f)
    ),
    "window": lambda f: f"nothing grows: {f['window']}; reverts go out as ever",
    "window_over": lambda _: "the freeze window is over: it may grow again",
    "frozen_by_hand": lambda f: f"frozen{_said(f)}: nothing grows until it is unfrozen; reverts go out as ever",
    "unfrozen_by_hand": lambda f: f"unfrozen{_said(f)}",
    "rolling_back": lambda f: f"rolling back{_said(f)}: {f['stable']} is delivered first, {f['previous']} serves meanwhile",
    "rolled_back": lambda f: f"rolled back from {f['previous']} to {f['stable']}: it serves all requests now",
    "rolled_back_warm": lambda f: f"rolled back{_said(f)}" + _back(f),
    "called_off": lambda f: f"the policy's new stable {f['candidate']} is called off{_said(f)}: {f['stable']} goes on serving",
    "recommitting_warm": lambda f: f"the policy's stable changed back from {f['previous']} while {f['stable']} is still warm" + _back(f),
    "advanced_by_hand": lambda f: f"{f['step']} ended by hand{_said(f)}" + _onward(f),
    "retried": lambda f: f"{f['step']} begins anew{_said(f)}",
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
    "refused.abort": lambda f: f"nothing to abort: the rollout is {f['mode']}",
    "refused.promote": lambda f: f"nothing to promote: the rollout is {f['mode']} and has no candidate that is delivered and ready",
    "refused.which_arm": lambda f: (
        f"there is no arm {f['to']!r} to promote: one of {f['arms']}" if f.get("to") else f"say which arm to promote: one of {f['arms']}"
    ),
    "refused.pause": lambda f: f"nothing to pause: the rollout is {f['mode']}",
    "refused.resume": lambda f: f"the rollout is not paused but {f['mode']}",
    "refused.start": lambda f: f"nothing to start: the rollout is {f['mode']}, or the policy names no version that is not stable already",
    "refused.retry": lambda f: f"nothing to retry: the rollout is {f['mode']}",
    "refused.advance": lambda f: f"there is no stage to advance to: the rollout is {f['mode']}",
    "refused.approve": lambda f: f"nothing waits for approval: the rollout is in {f['step']}",
    "refused.needs_approval": lambda _: "the stage waits for approval: use `crossfade approve`",
    "refused.not_delivered": lambda f: (
        f"{f['step']} is not on every proxy yet, or no pod is ready: `crossfade status` says what is missing"
    ),
    "refused.no_lane": lambda _: "its layer has no room for it",
    "refused.no_capacity": lambda f: (
        f"{f['pods']} of {f['total']} pods are ready and can carry {percent(int(f['share_bp'] or 0))}: promoted it would get everything"
    ),
    "refused.frozen": lambda _: "it is frozen: `crossfade unfreeze` first, or wait for the end of the window",
    "refused.unfreeze": lambda _: "it is not frozen by hand or by a gate; a freeze window of the policy ends by itself",
    "refused.retired": lambda _: "its document is gone: put it back first",
    "refused.already_there": lambda _: "that version is stable already",
    "refused.no_such_version": lambda f: (
        f"there is no earlier version {f['to']!r}: known are {f['known']}" if f.get("to") else "there is no earlier version to go back to"
    ),
}

_WAITING: dict[str, Callable[[Waiting], str]] = {
    "resume": lambda _: "paused until resumed",
    "unfreeze": lambda w: f"frozen ({w.what})",
    "edit": lambda _: "its step is no longer in the policy",
    "lane": lambda w: f"layer {w.what} has no room for it",
    "source": lambda w: f"the evidence cannot be had ({w.what})",
    "ack": lambda w: (
        (f"{w.have:.0f} of {w.need:.0f} proxies ACKed" if w.have or w.need > 1 else "no proxy has ACKed yet")
        + (f" ({w.what})" if w.what else "")
    ),
    "pods": lambda w: f"no pod of {w.variant or 'the candidate'} is ready" + (f" ({w.what})" if w.what else ""),
    "capacity": lambda w: f"{w.variant or 'the candidate'} can carry {percent(round(w.have))} of {percent(round(w.need))} ({w.what})",
    "probe": lambda w: f"{_of(w)}{w.have:.0f} good answers so far",
    "time": lambda w: f"{duration(round(w.have, 1))} of {duration(w.need)} held",
    "samples": lambda w: f"{_of(w)}{w.have:.0f} of {w.need:.0f} samples",
    "gate": lambda w: f"{_of(w)}gate {w.what} not passed yet",
    "goal": lambda w: f"{_of(w)}goal {w.what} not reached yet",
    "radius": lambda w: f"{_of(w)}{w.what} not passed yet",
    "ratio": lambda w: f"{w.variant} gets {percent(round(w.have))} of the requests where {percent(round(w.need))} are due",
    "winner": lambda w: (
        f"no winner by {w.what} yet, {duration(round(w.have))} of {duration(w.need)}"
        if w.need
        else "nobody knows which arm to promote: say which with `crossfade promote --variant`"
    ),
    "approval": lambda w: f"waits for approval{' by ' + w.what if w.what else ''}, {duration(round(w.have))} of {duration(w.need)}",
}


def _of(waiting: Waiting) -> str:
    return f"{waiting.variant}: " if waiting.variant else ""
