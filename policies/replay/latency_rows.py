"""A latency gate of many runs at once, with one row per run: `policies.statistics.single.SingleLatency`, as arrays.

Scores are made when a run's known distribution of stable is taken anew, which is rare, and kept until then; a block costs a logarithm for each
bin and each alternative that shifts the whole distribution, and for each alternative about a tail two. Only bins from `first` on are kept: what a
scenario can bring, and where a margin moves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.evidence import LATENCY_BINS, Counts
from policies.gates import GateState
from policies.replay.arrays import Ints, Rows
from policies.statistics import LatencyConfig
from policies.statistics.latency_gate import (
    DECIMALS,
    FORGET_S,
    GOOD_ODDS,
    MIN_KNOWN,
    RENEW,
    RENEW_S,
    SHIFTS,
    TAILS,
    WORSE_ODDS,
    moved,
    scores,
)
from policies.statistics.mixture import Bools, Floats, Process, log_mean
from policies.statistics.single import NOTHING_KNOWN, Known

_NO_BINS = np.array([], dtype=np.intp)
_ENDS = np.array([0, LATENCY_BINS - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Where the bins of the candidate land when the margin is taken off: the first of each run of bins with one goal, and those goals."""

    starts: Rows
    goals: Rows

    @classmethod
    def of(cls, goals: Rows, first: int) -> Self:
        starts = np.flatnonzero(np.diff(goals, prepend=-1))
        return cls(starts=starts, goals=goals[starts] - first)

    def moved(self, counts: Ints, width: int) -> Floats:
        after = np.zeros((len(counts), width))
        after[:, self.goals] = np.add.reduceat(counts, self.starts, axis=1)
        return after


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What is bet on for one verdict. Axes: runs, alternatives, bins.

    Attributes:
        log_u: Of alternatives that shift the whole distribution; `less`: u - 1.
        above: Per quantile: the bins above it. Axes: runs, quantiles, bins.
        log_above, log_below: Of the alternatives about a tail: log u on either side. Axes: runs, quantiles, alternatives.
    """

    log_u: Floats
    less: Floats
    above: Bools
    log_above: Floats
    log_below: Floats

    @classmethod
    def of(cls, log_u: Floats, body: int, tails: int) -> Self:
        """Of a table of log u: `body` alternatives that shift, then the same number for each of `tails` quantiles."""
        runs, alternatives, width = log_u.shape
        rest = log_u[:, body:].reshape(runs, tails, (alternatives - body) // tails if tails else 0, width)
        above = rest[:, :, 0, :] == rest[:, :, 0, -1:] if tails else np.zeros((runs, 0, width), dtype=np.bool_)
        whole = log_u[:, :body].copy()
        return cls(log_u=whole, less=np.expm1(whole), above=above, log_above=rest[..., -1].copy(), log_below=rest[..., 0].copy())

    def log_e(self, candidate: Floats, baseline: Floats, share: Floats) -> Floats:
        """Log E of a block per alternative; `candidate` has its margin taken off."""
        both = candidate + baseline
        mixed = self.less * share[:, np.newaxis, np.newaxis]
        np.log1p(mixed, out=mixed)
        of_body = _weighed(self.log_u, candidate) - _weighed(mixed, both)
        if not self.above.shape[1]:
            return of_body
        high_c, high = _weighed(self.above, candidate)[..., np.newaxis], _weighed(self.above, both)[..., np.newaxis]
        low_c, low = candidate.sum(axis=1)[:, np.newaxis, np.newaxis] - high_c, both.sum(axis=1)[:, np.newaxis, np.newaxis] - high
        part = share[:, np.newaxis, np.newaxis]
        tail = high_c * self.log_above + low_c * self.log_below
        tail -= high * np.log1p(part * np.expm1(self.log_above)) + low * np.log1p(part * np.expm1(self.log_below))
        return np.concatenate([of_body, tail.reshape(len(tail), -1)], axis=1)

    def only(self, rows: Rows) -> "Scores":
        return Scores(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})

    def put(self, rows: Rows, given: "Scores") -> None:
        """Writes rows in place: the tables are large, and nobody looks at those of an earlier block."""
        for each in fields(self):
            getattr(self, each.name)[rows] = getattr(given, each.name)


def _weighed(values: Floats | Bools, counts: Floats) -> Floats:
    total: Floats = (values @ counts[:, :, np.newaxis])[..., 0]
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRows:
    """Evidence so far; `updated` gives the next.

    Attributes:
        bins: First bin of latency that comes, and the one behind the last.
        first: First bin that is kept.
        known, taken, taken_requests, taken_at, until: `single.Known` of each run, its bins from `first` on.
        objects: The same as the engine has it, where it has been made.
        fail, good: Scores of either verdict; they are of the newest block, whichever of them has it.
    """

    config: LatencyConfig
    bins: tuple[int, int]
    first: int
    moves: tuple[Moves, Moves]
    process: Process
    known: Floats
    taken: Ints
    taken_requests: Ints
    taken_at: Floats
    until: Floats
    objects: tuple[Known | None, ...]
    fail: Scores
    good: Scores

    @classmethod
    def start(cls, config: LatencyConfig, runs: int, bins: tuple[int, int]) -> Self:
        goals = [each[bins[0] : bins[1]] for each in moved(config.relative, config.absolute_ms)]
        first = min(bins[0], *(int(each.min()) for each in goals))
        width = bins[1] - first
        fails, passes = config.size
        fresh = Process.start(fails, passes)
        wide = np.zeros((runs, width))
        process = Process(
            log_fail=np.tile(fresh.log_fail, (runs, 1)),
            log_pass=np.tile(fresh.log_pass, (runs, 1)),
            left=np.ones(runs),
            age_s=np.zeros(runs),
        )
        fail, good = (Scores.of(np.zeros((runs, size, width)), *shape) for size, shape in zip(config.size, _shapes(config), strict=True))
        return cls(
            config=config,
            bins=bins,
            first=first,
            moves=(Moves.of(goals[0], first), Moves.of(goals[1], first)),
            process=process,
            known=wide,
            taken=wide.astype(np.int64),
            taken_requests=np.zeros(runs, dtype=np.int64),
            taken_at=np.full(runs, NOTHING_KNOWN.taken_at),
            until=np.full(runs, NOTHING_KNOWN.until),
            objects=(NOTHING_KNOWN,) * runs,
            fail=fail,
            good=good,
        )

    def updated(self, arms: tuple[Ints, Ints], seen: Ints, *, elapsed_s: Floats, now: Floats, deadline_s: float) -> "LatencyRows":
        """The gate after one more block of each run.

        Args:
            arms: Counts of stable and of the candidate per bin.
            seen: All that was seen of the baseline, this block included.
            elapsed_s: Time since the end of the block before [s].
            now: The engine's clock [s].
        """
        base, cand = arms
        requests_b, requests_c = base.sum(axis=1), cand.sum(axis=1)
        ready = (requests_b > 0) & (requests_c > 0) & (self.known.sum(axis=1) >= MIN_KNOWN)
        log_e = None
        if ready.any():
            share = requests_c / np.maximum(requests_b + requests_c, 1)
            wide = self._wide(base)
            width = self.known.shape[1]
            log_e = (
                self.fail.log_e(self.moves[0].moved(cand, width), wide, share),
                self.good.log_e(self.moves[1].moved(cand, width), wide, share),
            )
        process = self.process.advance(log_e, update=ready, elapsed_s=elapsed_s, deadline_s=deadline_s)
        return replace(self, process=process).renewed(seen, now)

    def renewed(self, seen: Ints, now: Floats) -> "LatencyRows":
        """With stable's distribution taken anew where enough has come, as `single.renewed` does."""
        requests = seen.sum(axis=1)
        old = (now - self.taken_at >= RENEW_S) & (requests > self.taken_requests)
        rows = np.flatnonzero((requests >= self.until) | old)
        if not len(rows):
            return self
        wide = self._wide(seen[rows])
        kept = np.exp(-np.maximum(now[rows] - self.taken_at[rows], 0.0) / FORGET_S)
        known, taken, taken_requests = self.known.copy(), self.taken.copy(), self.taken_requests.copy()
        taken_at, until, objects = self.taken_at.copy(), self.until.copy(), list(self.objects)
        known[rows] = np.maximum(np.round(known[rows] * kept[:, np.newaxis] + wide - taken[rows], DECIMALS), 0.0)
        taken[rows], taken_requests[rows], taken_at[rows] = wide, requests[rows], now[rows]
        # one after the other, as the engine adds them up: numpy's sum differs in the last digit
        until[rows] = requests[rows] + np.maximum(RENEW * known[rows].cumsum(axis=1)[:, -1], 1.0)
        for row in rows.tolist():
            objects[row] = None
        after = replace(
            self, known=known, taken=taken, taken_requests=taken_requests, taken_at=taken_at, until=until, objects=tuple(objects)
        )
        after.score(rows)
        return after

    def score(self, rows: Rows) -> None:
        """Makes the scores of some runs of what is known there, in place."""
        rows = rows[self.known[rows].sum(axis=1) > 0]
        if not len(rows):
            return
        whole = np.zeros((len(rows), LATENCY_BINS))
        whole[:, self.first : self.bins[1]] = self.known[rows]
        if self.config.quantile is not None:
            self._score_tails(rows, whole, self.config.quantile)
            return
        tables = scores(self.config, whole, candidate=_NO_BINS, baseline=np.arange(self.first, self.bins[1]))
        for mine, table, shape in zip((self.fail, self.good), tables, _shapes(self.config), strict=True):
            mine.put(rows, Scores.of(table[1], *shape))

    def _score_tails(self, rows: Rows, known: Floats, level: float) -> None:
        """The same of a quantile: a score has two values, that of the first bin up to the quantile and that of the last one above it."""
        below = known.cumsum(axis=1)
        place = np.minimum((below < level * below[:, -1:]).sum(axis=1), LATENCY_BINS - 2)
        above = (np.arange(self.first, self.bins[1]) > place[:, np.newaxis])[:, np.newaxis]
        none = np.zeros((len(rows), 0, self.known.shape[1]))
        for mine, table in zip((self.fail, self.good), scores(self.config, known, candidate=_NO_BINS, baseline=_ENDS), strict=True):
            ends = table[1][:, np.newaxis]
            mine.put(rows, Scores(log_u=none, less=none, above=above, log_above=ends[..., 1], log_below=ends[..., 0]))

    def _wide(self, counts: Ints) -> Floats:
        wide = np.zeros((len(counts), self.known.shape[1]))
        wide[:, self.bins[0] - self.first :] = counts
        return wide

    @property
    def log_fail(self) -> Floats:
        return log_mean(self.process.log_fail)

    @property
    def log_pass(self) -> Floats:
        return log_mean(self.process.log_pass)

    # Into the engine's values and back.

    def state(self, row: int, like: GateState) -> GateState:
        """Memory and knowledge of one run."""
        known = self.objects[row]
        if known is None:
            known = self._known(row)
        process = self.process
        numbers = (float(np.asarray(process.left)[row]), float(np.asarray(process.age_s)[row]))
        return replace(like, memory=(*process.log_fail[row].tolist(), *process.log_pass[row].tolist(), *numbers), known=known)

    def _known(self, row: int) -> Known:
        bins = _pairs(self.known[row], self.first)
        taken = tuple((place, int(count)) for place, count in _pairs(self.taken[row], self.first))
        counts = Counts(requests=int(self.taken_requests[row]), latency=taken)
        return Known(bins=bins, taken=counts, taken_at=float(self.taken_at[row]), until=float(self.until[row]))

    def put(self, rows: Sequence[int], states: Sequence[GateState]) -> "LatencyRows":
        """The same with what the engine has of some runs."""
        fails, both = self.config.size[0], sum(self.config.size)
        process = self.process
        log_fail, log_pass = process.log_fail.copy(), process.log_pass.copy()
        left, age_s = np.array(process.left), np.array(process.age_s)
        known, taken, taken_requests = self.known.copy(), self.taken.copy(), self.taken_requests.copy()
        taken_at, until, objects, fresh = self.taken_at.copy(), self.until.copy(), list(self.objects), []
        for row, state in zip(rows, states, strict=True):
            log_fail[row], log_pass[row] = state.memory[:fails], state.memory[fails:both]
            left[row], age_s[row] = state.memory[both:]
            same = (state.known.taken_at, state.known.until) == (taken_at[row], until[row])
            if same and (self.objects[row] is None or self.objects[row] is state.known):
                objects[row] = state.known
                continue
            fresh.append(row)
            objects[row], taken_at[row], until[row] = state.known, state.known.taken_at, state.known.until
            taken_requests[row] = state.known.taken.requests
            for array, pairs in ((known, state.known.bins), (taken, state.known.taken.latency)):
                array[row] = 0
                for place, count in pairs:
                    array[row, place - self.first] = count
        after = replace(
            self,
            process=Process(log_fail=log_fail, log_pass=log_pass, left=left, age_s=age_s),
            known=known,
            taken=taken,
            taken_requests=taken_requests,
            taken_at=taken_at,
            until=until,
            objects=tuple(objects),
        )
        if fresh:
            after.score(np.array(fresh, dtype=np.intp))
        return after

    def only(self, rows: Rows) -> "LatencyRows":
        """Some runs alone."""
        process = self.process
        arrays = {name: getattr(self, name)[rows] for name in ("known", "taken", "taken_requests", "taken_at", "until")}
        return replace(
            self,
            process=Process(
                log_fail=process.log_fail[rows],
                log_pass=process.log_pass[rows],
                left=np.asarray(process.left)[rows],
                age_s=np.asarray(process.age_s)[rows],
            ),
            objects=tuple(self.objects[row] for row in rows),
            fail=self.fail.only(rows),
            good=self.good.only(rows),
            **arrays,
        )

    def with_rows(self, rows: Rows, given: "LatencyRows") -> "LatencyRows":
        """The same with other rows."""
        objects = list(self.objects)
        for row, each in zip(rows.tolist(), given.objects, strict=True):
            objects[row] = each
        arrays = {}
        for name in ("known", "taken", "taken_requests", "taken_at", "until"):
            arrays[name] = getattr(self, name).copy()
            arrays[name][rows] = getattr(given, name)
        parts = {}
        for name in ("log_fail", "log_pass", "left", "age_s"):
            parts[name] = np.array(getattr(self.process, name))
            parts[name][rows] = getattr(given.process, name)
        self.fail.put(rows, given.fail)
        self.good.put(rows, given.good)
        return replace(self, process=Process(**parts), objects=tuple(objects), **arrays)


def _shapes(config: LatencyConfig) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many alternatives shift the whole distribution, and about how many quantiles the others are: of FAIL and of PASS."""
    fails, passes = config.size
    if config.quantile is not None:
        assert (fails, passes) == (len(WORSE_ODDS), len(GOOD_ODDS))
        return (0, 1), (0, 1)
    assert fails == len(SHIFTS) + len(TAILS) * len(WORSE_ODDS)
    return (len(SHIFTS), len(TAILS)), (passes, 0)


def _pairs(columns: npt.NDArray[np.float64] | Ints, first: int) -> tuple[tuple[int, float], ...]:
    places = np.flatnonzero(columns)
    return tuple(zip((places + first).tolist(), columns[places].tolist(), strict=True))
