"""A rollout's gates as plain values: open, feed with counts, read a verdict.

The engine keeps one `GateState` per gate of the policy (plain numbers, stored as JSON) and asks `read` after every block. The tests behind
are in `policies.statistics`; here are the closing of blocks, the freshness of data and the precedence of verdicts, first that holds:

    ERROR          the stored memory is not one of this gate
    NO_DATA        no request of the candidate for `no_data_after_s`: silence is neither good nor bad
    FAIL           evidence that the candidate is worse by the margin >= 1 / (weight * alpha), on a few (bad) requests at least
    PASS           evidence that it is not >= 1 / beta
    INCONCLUSIVE   neither

A goal is the same test with the arms changed over: evidence that stable is worse than the candidate by `better_by` is its PASS, evidence that it
is not its FAIL (which holds nothing and reverts nothing: it tells that waiting is in vain). A gate with a limit asks the candidate alone.
Verdicts follow the evidence of now, so the FAIL of a signal ends when the trouble does; a guardrail acts on its first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp, inf, log

from policies.evidence import LATENCY_BINS, NOTHING, Counts, latency_bin, merge
from policies.memo import by_object
from policies.spec.policy import Gate, Metric, Role
from policies.statistics import CeilingConfig, CeilingGate, ErrorConfig, ErrorGate, LatencyConfig, LatencyGate, Verdict
from policies.statistics.intervals import quantile_difference, quantile_ms, rate_difference
from policies.statistics.latency_gate import quantile
from policies.statistics.mixture import LOG_MOST, LOG_NOTHING
from policies.statistics.single import NOTHING_KNOWN, Known, SingleCeiling, SingleError, SingleLatency, renewed
from policies.statistics.verdict import MIN_BAD, MIN_REQUESTS

__all__ = ["GateState", "Reading", "Verdict", "combined", "cut", "feed", "gate_test", "open_gate", "read"]

Single = SingleError | SingleLatency | SingleCeiling

MAX_PENDING_S = 120.0
"""How long requests of one arm wait for one of the other to make a block [s]: both must have met the same conditions."""


SMALL_BLOCK = 8
"""Requests of both arms below which a block waits for more, up to `SMALL_S`: the smaller a block, the less it tells of its requests [requests]."""

SMALL_S = 10.0
"""How long it does [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Requests that do not make a block yet: of one arm only. `since`: when the first came [s since the epoch]; None = there are none."""

    stable: Counts = NOTHING
    candidate: Counts = NOTHING
    since: float | None = None


NO_PENDING = Pending()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All requests since the gate opened, for display. `last_fresh`: when the candidate's last came [s since the epoch]; None = never."""

    stable: Counts = NOTHING
    candidate: Counts = NOTHING
    last_fresh: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """One gate's evidence; round-trips through JSON.

    Attributes:
        name: Of the gate in the policy.
        opened: When it began [s since the epoch].
        deadline_s: Time over which regressions are expected to start [s].
        memory: The test's own state.
        known: What a latency gate knows of the baseline.
        log_fail: log evidence that the candidate is worse, as of the last block.
        log_pass: log evidence that it is not worse by the margin.
        blocks: Closed so far.
        last_block: When the last closed [s since the epoch]; None = none did.
    """

    name: str
    opened: float
    deadline_s: float
    memory: tuple[float, ...]
    log_fail: float
    log_pass: float
    known: Known = NOTHING_KNOWN
    pending: Pending = NO_PENDING
    seen: Seen = Seen()
    blocks: int = 0
    last_block: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a gate says now. What takes time to compute is computed when it is asked for.

    Attributes:
        gate: Which was asked.
        evidence: Odds that the candidate is worse by the margin (of a goal: not better); a FAIL needs `needed`.
        evidence_pass: Odds that it is not (of a goal: better); a PASS needs `needed_pass`.
        weight: The gate's share of the error budget, 0 < weight <= 1.
        enough: Whether the candidate was seen enough to fail.
        stable, candidate: Requests seen since the gate opened.
        age_s: Time since the candidate's last request [s]; None = none came.
    """

    gate: Gate
    verdict: Verdict
    evidence: float
    needed: float
    evidence_pass: float
    needed_pass: float
    weight: float
    enough: bool
    stable: Counts
    candidate: Counts
    age_s: float | None

    @property
    def name(self) -> str:
        return self.gate.name

    @property
    def role(self) -> Role:
        return self.gate.role

    @property
    def statistic(self) -> str:
        return self.gate.statistic

    @property
    def unit(self) -> str:
        """What estimates are in: "ratio" or "ms"."""
        return "ratio" if self.gate.metric is Metric.ERROR_RATE else "ms"

    @property
    def estimate_stable(self) -> float | None:
        """Error rate, or latency [ms]: the median of a "distribution"; None = not seen."""
        return _estimate(self.gate, self.stable)

    @property
    def estimate_candidate(self) -> float | None:
        return _estimate(self.gate, self.candidate)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Approximate 95 % interval of candidate minus stable, in `unit`; None = an arm was not seen."""
        return _interval(self.gate, self.stable, self.candidate)


def open_gate(gate: Gate, *, now: float, deadline_s: float) -> GateState:
    """A gate without evidence.

    Raises: ValueError: If its margin or statistic makes no sense.
    """
    memory = _test(gate, deadline_s).start
    return GateState(name=gate.name, opened=now, deadline_s=deadline_s, memory=memory, log_fail=LOG_NOTHING, log_pass=0.0)


def gate_test(gate: Gate, *, deadline_s: float) -> ErrorGate | LatencyGate | CeilingGate:
    """The gate's test before any evidence; it takes many runs at once as well (`policies.planning`)."""
    config = _test(gate, deadline_s).config
    if isinstance(config, CeilingConfig):
        return CeilingGate.start(config)
    return ErrorGate.start(config) if isinstance(config, ErrorConfig) else LatencyGate.start(config)


def cut(state: GateState) -> GateState:
    """The gate without the requests that do not make a block yet: a block never spans two shares."""
    return replace(state, pending=NO_PENDING)


def feed(gate: Gate, state: GateState, baseline: Counts, candidate: Counts, *, now: float, dispersion: float = 1.0) -> GateState:
    """The gate after more requests of either arm.

    A block closes as soon as both arms have a request; of a gate with a limit, the candidate; and it is no `SMALL_BLOCK` that may wait. Whether it
    does depends on numbers and times only, never on outcomes.

    Args:
        gate: What `state` was opened with; with another, nothing is learnt and `read` says ERROR.
        state: Before.
        baseline: New requests of stable.
        candidate: New requests of the candidate.
        now: Seconds since the epoch.
        dispersion: Times by which errors vary more than by chance, known before the block, >= 1.
    """
    baseline, candidate = _needed(gate, baseline), _needed(gate, candidate)
    if not baseline.requests and not candidate.requests:
        return state
    seen = Seen(
        stable=_sum(state.seen.stable, baseline),
        candidate=_sum(state.seen.candidate, candidate),
        last_fresh=now if candidate.requests else state.seen.last_fresh,
    )
    pending = state.pending
    baseline, candidate = _sum(pending.stable, baseline), _sum(pending.candidate, candidate)
    since = now if pending.since is None else pending.since
    whole = candidate.requests > 0 and (baseline.requests > 0 or gate.limit is not None)
    few = gate.limit is None and baseline.requests + candidate.requests < SMALL_BLOCK and now - since < SMALL_S
    if few if whole else now - since <= MAX_PENDING_S:
        return replace(state, pending=Pending(stable=baseline, candidate=candidate, since=since), seen=seen)
    if not _fits(gate, state):
        return replace(state, pending=NO_PENDING, seen=seen)
    # requests too old to meet the other arm's still tell what stable is like
    return _advanced(gate, state, seen, (baseline, candidate if whole else NOTHING), (now, dispersion))


def _advanced(gate: Gate, state: GateState, seen: Seen, block: tuple[Counts, Counts], at: tuple[float, float]) -> GateState:
    """The gate after a block of (stable, candidate). `at`: now and the dispersion."""
    test, memory, known, (now, dispersion) = _test(gate, state.deadline_s), state.memory, state.known, at
    elapsed_s = now - (state.opened if state.last_block is None else state.last_block)
    baseline, candidate = block if gate.role is not Role.GOAL else block[::-1]
    if isinstance(test, SingleError):
        memory = test.update(memory, _rates(baseline), _rates(candidate), elapsed_s=elapsed_s, dispersion=dispersion)
    elif isinstance(test, SingleCeiling):
        memory = test.update(memory, (candidate.requests, _bad(gate, candidate)), elapsed_s=elapsed_s, dispersion=dispersion)
    else:
        memory = test.update(memory, known, baseline.latency, candidate.latency, elapsed_s=elapsed_s)
        known = renewed(known, seen.stable if gate.role is not Role.GOAL else seen.candidate, now=now)
    log_fail, log_pass = test.evidence(memory)
    return GateState(
        name=state.name,
        opened=state.opened,
        deadline_s=state.deadline_s,
        memory=memory,
        known=known,
        log_fail=max(log_fail, LOG_NOTHING),
        log_pass=max(log_pass, LOG_NOTHING),
        seen=seen,
        blocks=state.blocks + (1 if block[1].requests else 0),
        last_block=now,
    )


def read(
    gate: Gate, state: GateState, *, alpha: float, beta: float = 0.05, weight: float = 1.0, now: float, no_data_after_s: float
) -> Reading:
    """What the gate says.

    Args:
        gate: What `state` was opened with.
        state: The evidence.
        alpha: Probability that a rollout of a good candidate is ever failed, all guardrails together, 0 < alpha < 1.
        beta: Probability that a candidate worse by the margin (of a goal: not better) is ever passed, 0 < beta < 1.
        weight: This gate's share of alpha, 0 < weight <= 1; the weights of all guardrails sum to 1.
        now: Seconds since the epoch.
        no_data_after_s: Silence of the candidate that makes NO_DATA [s].
    """
    fits = _fits(gate, state)
    goal = gate.role is Role.GOAL
    stable, candidate = (state.seen.stable, state.seen.candidate) if fits else (NOTHING, NOTHING)
    watched = stable if goal else candidate
    counted = gate.metric is Metric.ERROR_RATE or gate.limit is not None
    enough = watched.requests >= MIN_REQUESTS and (not counted or _bad(gate, watched) >= MIN_BAD)
    silent_s = max(now - (state.opened if state.seen.last_fresh is None else state.seen.last_fresh), 0.0)
    worse, better = (state.log_pass, state.log_fail) if goal else (state.log_fail, state.log_pass)
    needed, needed_pass = (1 / beta if goal else 1 / (weight * alpha)), 1 / beta
    if not fits:
        verdict = Verdict.ERROR
    elif silent_s >= no_data_after_s:
        verdict = Verdict.NO_DATA
    elif (goal or enough) and worse >= log(needed):
        verdict = Verdict.FAIL
    elif (enough or not goal) and better >= log(needed_pass):
        verdict = Verdict.PASS
    else:
        verdict = Verdict.INCONCLUSIVE
    return Reading(
        gate=gate,
        verdict=verdict,
        evidence=exp(min(worse, LOG_MOST)),
        needed=needed,
        evidence_pass=exp(min(better, LOG_MOST)),
        needed_pass=needed_pass,
        weight=weight,
        enough=enough,
        stable=stable,
        candidate=candidate,
        age_s=None if state.seen.last_fresh is None else silent_s,
    )


def combined(readings: Iterable[Reading]) -> float:
    """Log of the weighted sum of the guardrails' evidence: log(1/alpha) or more means FAIL of all together, at the same alpha.

    Never weaker than each gate alone against its own `needed`, valid however they depend on each other. Gates without data or without
    requests enough do not count; -inf if none does.
    """
    able = [
        reading
        for reading in readings
        if reading.role is Role.GUARDRAIL and reading.enough and reading.verdict not in {Verdict.NO_DATA, Verdict.ERROR}
    ]
    total = sum(reading.weight * reading.evidence for reading in able)
    return log(total) if total > 0 else -inf


def _needed(gate: Gate, counts: Counts) -> Counts:
    """What the gate looks at, brought into range: an error rate's requests and errors, or a histogram and its total."""
    if counts is NOTHING:
        return NOTHING
    if gate.metric is Metric.ERROR_RATE:
        requests = max(counts.requests, 0)
        return Counts(requests=requests, errors=min(max(counts.errors, 0), requests))
    requests = 0
    for place, count in counts.latency:
        if count <= 0 or not 0 <= place < LATENCY_BINS:
            sound = tuple((place, count) for place, count in counts.latency if 0 <= place < LATENCY_BINS and count > 0)
            return Counts(requests=sum([count for _, count in sound]), latency=sound)
        requests += count
    return Counts(requests=requests, latency=counts.latency) if requests else NOTHING


def _sum(a: Counts, b: Counts) -> Counts:
    """The sum of what a gate looks at."""
    if not a.requests or not b.requests:
        return a if a.requests else b
    return Counts(requests=a.requests + b.requests, errors=a.errors + b.errors, latency=merge(a.latency, b.latency))


def _rates(counts: Counts) -> tuple[int, int]:
    return counts.requests, counts.errors


def _bad(gate: Gate, counts: Counts) -> int:
    """Requests that failed, or that took longer than a limit of latency: than the next edge above it, at most 8 % more."""
    if gate.metric is Metric.ERROR_RATE or gate.limit is None:
        return counts.errors
    fine = latency_bin(gate.limit)
    return sum([count for place, count in counts.latency if place > fine])


@by_object
def _tests(gate: Gate) -> dict[float, Single]:
    """Of one gate, by deadline."""
    del gate
    return {}


def _test(gate: Gate, deadline_s: float) -> Single:
    tests = _tests(gate)
    found = tests.get(deadline_s)
    if found is None:
        found = tests[deadline_s] = _made(gate, deadline_s)
    return found


def _made(gate: Gate, deadline_s: float) -> Single:
    margin = gate.better_by or gate.margin
    if gate.limit is not None:
        ceiling = gate.limit if gate.metric is Metric.ERROR_RATE else 1 - _level(gate)
        return SingleCeiling.of(CeilingConfig(ceiling=ceiling, deadline_s=deadline_s))
    if gate.metric is Metric.ERROR_RATE:
        return SingleError.of(ErrorConfig(relative=margin.relative, absolute=margin.absolute, deadline_s=deadline_s))
    return SingleLatency.of(
        LatencyConfig(statistic=gate.statistic, relative=margin.relative, absolute_ms=margin.absolute, deadline_s=deadline_s)
    )


def _fits(gate: Gate, state: GateState) -> bool:
    """Whether what is remembered is of this gate, as far as one can tell."""
    test = _test(gate, state.deadline_s)
    fits = test.fits(state.memory, state.known) if isinstance(test, SingleLatency) else test.fits(state.memory)
    return fits and state.name == gate.name


def _level(gate: Gate) -> float:
    """The quantile shown for a latency gate."""
    return quantile(gate.statistic) or 0.5


def _estimate(gate: Gate, counts: Counts) -> float | None:
    if not counts.requests:
        return None
    if gate.metric is Metric.ERROR_RATE:
        return counts.errors / counts.requests
    return quantile_ms(counts.latency, _level(gate))


def _interval(gate: Gate, stable: Counts, candidate: Counts) -> tuple[float, float] | None:
    if not stable.requests or not candidate.requests:
        return None
    if gate.metric is Metric.ERROR_RATE:
        return rate_difference(_rates(candidate), _rates(stable))
    return quantile_difference(candidate.latency, stable.latency, quantile=_level(gate))
