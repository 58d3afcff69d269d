"""Gates of many runs at once: what `policies.gates.feed` does to a `GateState`, as arrays with one row per run.

The gates of one metric and one source (users, or mirrored copies) see the same requests, so they share all but their tests. Rows go into
`GateState`s and come back from them (`state_of`, `put`), so that the engine can take over a run at any block. That the two ways say the same
is a test: tests/properties/test_replay.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import exp, log
from typing import Self

import numpy as np

from policies import gates, verdicts
from policies.evidence import NOTHING, Counts
from policies.gates import MAX_PENDING_S, NO_PENDING, SMALL_BLOCK, SMALL_S, GateState, Pending, Seen
from policies.replay.arrays import Ints, Rows, changed
from policies.replay.error_rows import ErrorRows
from policies.replay.latency_rows import LatencyRows
from policies.replay.truth import Counted
from policies.spec.policy import Gate, Metric, Role, RolloutPolicy
from policies.statistics import ErrorGate, LatencyGate
from policies.statistics.mixture import LOG_MOST, LOG_NOTHING, Bools, Floats
from policies.statistics.verdict import MIN_BAD, MIN_REQUESTS

Test = ErrorRows | LatencyRows

SLACK = 1e-6
"""How much earlier than the engine a threshold counts as reached: sums of logarithms may be rounded otherwise there."""


def can_watch(gate: Gate) -> bool:
    """Whether a gate is one of those that are done for many runs at once."""
    return gate.limit is None


@dataclass(slots=True, kw_only=True)
class Watch:
    """Gates of one metric on one source.

    Attributes:
        bins: First bin of latency that is kept, and the one behind the last; of errors the two columns are requests and errors.
        tests: One per gate.
        log_fail, log_pass: Per gate and run.
        pending_stable, pending_candidate, seen_stable, seen_candidate: Per run and column [requests].
        since, last_fresh, last_block: Times [s], nan = none.
    """

    metric: Metric
    bins: tuple[int, int]
    gates: tuple[Gate, ...]
    deadline_s: float
    tests: list[Test]
    log_fail: Floats
    log_pass: Floats
    pending_stable: Ints
    pending_candidate: Ints
    seen_stable: Ints
    seen_candidate: Ints
    since: Floats
    last_fresh: Floats
    blocks: Ints
    opened: Floats
    last_block: Floats

    @classmethod
    def of(cls, asked: Sequence[Gate], metric: Metric, *, runs: int, deadline_s: float, bins: tuple[int, int]) -> Self:
        """Gates without evidence; one with a limit is never folded (`flock.can_flock`)."""
        wanted = tuple(gate for gate in asked if gate.metric is metric and gate.limit is None)
        tests = [_test(gate, deadline_s, runs, bins) for gate in wanted]
        width = 2 if metric is Metric.ERROR_RATE else bins[1] - bins[0]
        never, none = np.full(runs, np.nan), np.zeros((runs, width), dtype=np.int64)
        return cls(
            metric=metric,
            bins=bins,
            gates=wanted,
            deadline_s=deadline_s,
            tests=tests,
            log_fail=np.full((len(wanted), runs), LOG_NOTHING),
            log_pass=np.zeros((len(wanted), runs)),
            pending_stable=none,
            pending_candidate=none,
            seen_stable=none,
            seen_candidate=none,
            since=never,
            last_fresh=never,
            blocks=np.zeros(runs, dtype=np.int64),
            opened=np.zeros(runs),
            last_block=never,
        )

    def columns(self, counted: Counted) -> Ints:
        """What these gates look at."""
        if self.metric is Metric.ERROR_RATE:
            return np.stack([counted.requests, counted.errors], axis=1)
        assert counted.latency is not None
        return counted.latency

    def requests(self, columns: Ints) -> Ints:
        return columns[:, 0] if self.metric is Metric.ERROR_RATE else columns.sum(axis=1)

    def fed(self, stable: Ints, candidate: Ints, now: Floats) -> "Watch":
        """The gates after one more block of each run."""
        seen_some = self.requests(candidate) > 0
        active = seen_some | (self.requests(stable) > 0)
        pending_stable, pending_candidate = self.pending_stable + stable, self.pending_candidate + candidate
        since = np.where(active & np.isnan(self.since), now, self.since)
        whole = (self.requests(pending_stable) > 0) & (self.requests(pending_candidate) > 0)
        few = (self.requests(pending_stable) + self.requests(pending_candidate) < SMALL_BLOCK) & (now - since < SMALL_S)
        closing = active & np.where(whole, ~few, now - since > MAX_PENDING_S)
        seen_stable, seen_candidate = self.seen_stable + stable, self.seen_candidate + candidate
        tests, log_fail, log_pass = self.tests, self.log_fail, self.log_pass
        rows = np.flatnonzero(closing)
        if len(rows):
            block = pending_stable, np.where(whole[:, np.newaxis], pending_candidate, 0)
            log_fail, log_pass, tests = self._advanced(rows, block, (seen_stable, seen_candidate), now)
        still = ~closing[:, np.newaxis]
        return Watch(
            metric=self.metric,
            bins=self.bins,
            gates=self.gates,
            deadline_s=self.deadline_s,
            tests=tests,
            log_fail=log_fail,
            log_pass=log_pass,
            pending_stable=pending_stable * still,
            pending_candidate=pending_candidate * still,
            seen_stable=seen_stable,
            seen_candidate=seen_candidate,
            since=np.where(closing, np.nan, since),
            last_fresh=np.where(seen_some, now, self.last_fresh),
            blocks=self.blocks + (closing & whole),
            opened=self.opened,
            last_block=np.where(closing, now, self.last_block),
        )

    def _advanced(self, rows: Rows, block: tuple[Ints, Ints], seen: tuple[Ints, Ints], now: Floats) -> tuple[Floats, Floats, list[Test]]:
        """Evidence after the runs `rows` closed a block; `block` and `seen` are of stable and of the candidate."""
        log_fail, log_pass, tests = self.log_fail.copy(), self.log_pass.copy(), []
        elapsed_s = np.maximum(now - np.where(np.isnan(self.last_block), self.opened, self.last_block), 0.0)
        some = len(rows) < len(now)
        if some:
            block, seen, now, elapsed_s = (block[0][rows], block[1][rows]), (seen[0][rows], seen[1][rows]), now[rows], elapsed_s[rows]
        for index, (gate, test) in enumerate(zip(self.gates, self.tests, strict=True)):
            arms, of = (block, seen[0]) if gate.role is not Role.GOAL else (block[::-1], seen[1])
            mine = test.only(rows) if some else test
            after = mine.updated(arms, of, elapsed_s=elapsed_s, now=now, deadline_s=self.deadline_s)
            log_fail[index, rows] = np.maximum(after.log_fail, LOG_NOTHING)
            log_pass[index, rows] = np.maximum(after.log_pass, LOG_NOTHING)
            tests.append(test.with_rows(rows, after) if some else after)  # type: ignore[arg-type]  # both are rows of the same gate
        return log_fail, log_pass, tests

    # Into the engine's values and back.

    def states(self, row: int, like: Sequence[GateState]) -> dict[str, GateState]:
        """The gates of one run by name. `like`: what the engine had last."""
        known = {state.name: state for state in like}
        pending, seen, last_block = self._pending(row), self._seen(row), _time(self.last_block[row])
        return {
            gate.name: replace(
                test.state(row, known[gate.name]),
                log_fail=float(self.log_fail[index, row]),
                log_pass=float(self.log_pass[index, row]),
                pending=pending,
                seen=seen,
                blocks=int(self.blocks[row]),
                last_block=last_block,
            )
            for index, (gate, test) in enumerate(zip(self.gates, self.tests, strict=True))
        }

    def put(self, rows: Sequence[int], given: Sequence[Sequence[GateState]]) -> "Watch":
        """The same with what the engine has of some runs."""
        if not rows or not self.gates:
            return self
        after = self._copied()
        names = {gate.name: index for index, gate in enumerate(self.gates)}
        mine = [{state.name: state for state in states if state.name in names} for states in given]
        for row, states in zip(rows, mine, strict=True):
            first = states[self.gates[0].name]
            after.pending_stable[row], after.pending_candidate[row] = (
                self._dense(first.pending.stable),
                self._dense(first.pending.candidate),
            )
            after.seen_stable[row], after.seen_candidate[row] = self._dense(first.seen.stable), self._dense(first.seen.candidate)
            after.since[row] = np.nan if first.pending.since is None else first.pending.since
            after.last_fresh[row] = np.nan if first.seen.last_fresh is None else first.seen.last_fresh
            after.last_block[row] = np.nan if first.last_block is None else first.last_block
            after.blocks[row], after.opened[row] = first.blocks, first.opened
            for name, index in names.items():
                after.log_fail[index, row], after.log_pass[index, row] = states[name].log_fail, states[name].log_pass
        tests = [test.put(rows, [states[gate.name] for states in mine]) for gate, test in zip(self.gates, self.tests, strict=True)]
        return replace(after, tests=tests)

    def only(self, rows: Rows) -> "Watch":
        """Some runs alone."""
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        arrays = {
            name: value[:, rows] if name in {"log_fail", "log_pass"} else value[rows]
            for name, value in mine.items()
            if isinstance(value, np.ndarray)
        }
        return changed(self, arrays | {"tests": [test.only(rows) for test in self.tests]})

    def _copied(self) -> "Watch":
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        return changed(self, {name: value.copy() for name, value in mine.items() if isinstance(value, np.ndarray)})

    def _pending(self, row: int) -> Pending:
        since = _time(self.since[row])
        if since is None:
            return NO_PENDING
        return Pending(stable=self._counts(self.pending_stable[row]), candidate=self._counts(self.pending_candidate[row]), since=since)

    def _seen(self, row: int) -> Seen:
        fresh = _time(self.last_fresh[row])
        return Seen(stable=self._counts(self.seen_stable[row]), candidate=self._counts(self.seen_candidate[row]), last_fresh=fresh)

    def _counts(self, columns: Ints) -> Counts:
        if self.metric is Metric.ERROR_RATE:
            requests, errors = columns.tolist()
            return Counts(requests=requests, errors=errors) if requests else NOTHING
        return histogram(columns, self.bins[0])

    def _dense(self, counts: Counts) -> Ints:
        if self.metric is Metric.ERROR_RATE:
            return np.array([counts.requests, counts.errors])
        return dense(counts.latency, self.bins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What gates say, one column per run.

    Attributes:
        fail: A guardrail alone fails.
        weighed: The guardrails' evidence, weighed and added up.
        open: A gate that is no goal has not passed.
        goals_open: A goal has not.
    """

    fail: Bools
    weighed: Floats
    open: Bools
    goals_open: Bools


def read(watch: Watch, policy: RolloutPolicy, now: Floats) -> Verdicts:
    """What `policies.gates.read` says of the gates of one watch, with `SLACK` towards calling the engine."""
    share, runs = verdicts.weight(policy), len(now)
    fail, open_, goals_open = (np.zeros(runs, dtype=np.bool_) for _ in range(3))
    weighed = np.zeros(runs)
    silent = np.maximum(now - np.where(np.isnan(watch.last_fresh), watch.opened, watch.last_fresh), 0.0) >= policy.when.no_data_after_s
    for index, gate in enumerate(watch.gates):
        goal = gate.role is Role.GOAL
        watched = watch.seen_stable if goal else watch.seen_candidate
        enough = watch.requests(watched) >= MIN_REQUESTS
        if watch.metric is Metric.ERROR_RATE:
            enough &= watched[:, 1] >= MIN_BAD
        log_fail, log_pass = watch.log_fail[index], watch.log_pass[index]
        beta = verdicts.BETA / max(1, len(policy.arms)) if goal else verdicts.BETA
        if goal:
            goals_open |= silent | ~enough | (log_fail < -log(beta) - SLACK)
            continue
        failing = enough & (log_fail >= -log(share * policy.false_revert) - SLACK)
        open_ |= silent | (log_pass < -log(beta) - SLACK)
        if gate.role is Role.GUARDRAIL:
            fail |= failing & ~silent
            weighed += np.where(enough & ~silent, share * np.exp(np.minimum(log_fail, LOG_MOST)), 0.0)
        else:
            open_ |= failing
    return Verdicts(fail=fail, weighed=weighed, open=open_, goals_open=goals_open)


def needed_together(policy: RolloutPolicy) -> float:
    """The sum of the guardrails' weighed evidence that fails an arm, less `SLACK`."""
    return exp(-SLACK) / policy.false_revert


# Histograms.


def histogram(columns: Ints, first: int) -> Counts:
    """Counts of the bins from `first` on."""
    places = np.flatnonzero(columns)
    if not len(places):
        return NOTHING
    pairs = tuple(zip((places + first).tolist(), columns[places].tolist(), strict=True))
    return Counts(requests=int(columns.sum()), latency=pairs)


def dense(latency: Sequence[tuple[int, int]], bins: tuple[int, int]) -> Ints:
    """The reverse."""
    columns = np.zeros(bins[1] - bins[0], dtype=np.int64)
    for place, count in latency:
        columns[place - bins[0]] = count
    return columns


def _test(gate: Gate, deadline_s: float, runs: int, bins: tuple[int, int]) -> Test:
    test = gates.gate_test(gate, deadline_s=deadline_s)
    if isinstance(test, ErrorGate):
        return ErrorRows.start(test, runs)
    assert isinstance(test, LatencyGate)
    return LatencyRows.start(test.config, runs, bins)


def _time(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
