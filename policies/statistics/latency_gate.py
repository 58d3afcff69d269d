"""Is the candidate slower than stable by more than a margin? Evidence from two histograms.

The margin is taken off the candidate first (its bins are moved down), then scores that grow with slowness are bet on: half on shifts of the
whole distribution, half on its tail. Bins are `policies.evidence.LATENCY_EDGES_MS`; a value in the last, open bin counts as "no answer",
which no margin makes good. A margin is worth whole bins of 8 %, rounded so that neither verdict comes too easily.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite, log
from statistics import NormalDist
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.evidence import LATENCY_BINS, LATENCY_EDGES_MS
from policies.statistics import blocks
from policies.statistics.mixture import Bools, Floats, Number, Process, log_mean
from policies.statistics.verdict import MIN_REQUESTS, TwoOdds

_SCORES: Floats = np.linspace(-3.5, 3.5, 1401)
_PROBABILITIES: Floats = np.array([NormalDist().cdf(float(score)) for score in _SCORES])
"""The normal quantile between -3.5 and 3.5 as a table: scipy's is no better here and takes half of the server's start to import."""

Bins = npt.NDArray[np.intp]

SHIFTS = np.array([0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
"""Alternatives: shifts of the whole distribution, in its own normal scores."""

WORSE_ODDS = np.array([1.5, 3.0, 10.0, 100.0])
"""Alternatives: odds of lying above a quantile of the baseline, times what they are."""

GOOD_ODDS = np.array([1 / 1.1, 1 / 1.25, 1 / 1.5, 1 / 3])
"""The same for PASS."""

GOOD_SHIFTS = np.array([0.5, 1.0, 1.5])
"""Alternatives of PASS: shifts, times the margin."""

TAILS = (0.9, 0.99)
"""Quantiles whose tails are watched when the whole distribution is asked for."""

MIN_KNOWN = 10.0
"""Requests of the baseline in earlier blocks before the first bet [requests]."""

FORGET_S = 1800.0
"""Time constant with which the baseline's past is forgotten [s]. A stale past costs speed, never validity."""

RENEW = 1.0
"""The distribution that scores are made of is taken anew when as much as is known has come since, as a part of it, or after `RENEW_S`."""

RENEW_S = 180.0
"""How old that distribution gets [s]. It follows a baseline that drifts, and in between scores stay what they are."""

DECIMALS = 3
"""Of what is remembered [requests]: bins that were forgotten are empty."""

STEP = log(LATENCY_EDGES_MS[1] / LATENCY_EDGES_MS[0])
"""Width of a bin on the log scale."""

_PLACES: Floats = np.arange(LATENCY_BINS - 1, dtype=np.float64) * STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyConfig:
    """What is compared and the margin.

    Attributes:
        statistic: "distribution" or a quantile: "p50", "p99", "p99.9".
        relative: A fraction on top of the baseline's latency, >= 0, or None.
        absolute_ms: Milliseconds on top, >= 0, or None; at least one is set; with both, both must be exceeded to fail.
        deadline_s: Time over which regressions are expected to start [s].
    """

    statistic: str = "distribution"
    relative: float | None = 0.25
    absolute_ms: float | None = None
    deadline_s: float = 7200.0

    def __post_init__(self) -> None:
        if self.relative is None and self.absolute_ms is None:
            raise ValueError("a latency gate needs a relative or an absolute margin")
        for name, value in (("relative", self.relative), ("absolute", self.absolute_ms)):
            if value is not None and not 0 <= value < inf:
                raise ValueError(f"{name} margin must be >= 0, got {value}")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline must be > 0 s, got {self.deadline_s}")
        quantile(self.statistic)

    @property
    def quantile(self) -> float | None:
        return quantile(self.statistic)

    @property
    def size(self) -> tuple[int, int]:
        """Number of alternatives of FAIL and of PASS."""
        if self.quantile is None:
            return len(SHIFTS) + len(TAILS) * len(WORSE_ODDS), len(GOOD_SHIFTS)
        return len(WORSE_ODDS), len(GOOD_ODDS)


def quantile(statistic: str) -> float | None:
    """0.99 of "p99"; None of "distribution". Raises: ValueError: If it is neither."""
    if statistic == "distribution":
        return None
    found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", statistic)
    if found is None or not 0 < float(found[1]) < 100:
        raise ValueError(f'statistic of a latency gate is "distribution" or a quantile such as "p50" or "p99.9", got {statistic!r}')
    return float(found[1]) / 100


@lru_cache(maxsize=128)
def moved(relative: float | None, absolute_ms: float | None) -> tuple[Bins, Bins]:
    """Where each bin of the candidate lands when the margin is taken off: for FAIL and for PASS.

    A bin that straddles two goes to the lower for FAIL and to the higher for PASS, but by one bin at least: differences within
    a bin cannot be seen. With both margins the larger one is taken off. The open bin stays.
    """

    def less(value_ms: float) -> float:
        by_ratio = value_ms / (1 + relative) if relative is not None else inf
        by_difference = value_ms - absolute_ms if absolute_ms is not None else inf
        return min(by_ratio, by_difference)

    last = LATENCY_BINS - 1
    slack = 1 + 1e-9  # a margin of exactly so many bins is so many bins
    fail = [bisect_right(LATENCY_EDGES_MS, less(edge) * slack) if less(edge) > 0 else 0 for edge in (0.0, *LATENCY_EDGES_MS[:-1])]
    good = [bisect_left(LATENCY_EDGES_MS, less(edge) / slack) if less(edge) > 0 else 0 for edge in LATENCY_EDGES_MS]
    good = [min(after, max(before - 1, 0)) for before, after in enumerate(good)]
    return np.array([*fail, last], dtype=np.intp), np.array([*good, last], dtype=np.intp)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyGate(TwoOdds):
    """Evidence so far; `update` gives the next. Leading axes are independent runs. Worse is slower than the margin.

    Attributes:
        process: Evidence per alternative.
        known: Histogram of the baseline that scores are made of [requests]: of its past when it was taken, slowly forgotten.
        since: The baseline's requests since then [requests]; `since_s`: the time since then [s].
        requests: The candidate's sum, for the least count a FAIL needs [requests].
    """

    config: LatencyConfig
    process: Process
    known: Floats
    since: Floats
    since_s: Number
    requests: Number

    @classmethod
    def start(cls, config: LatencyConfig) -> Self:
        process = Process.start(*config.size)
        nothing = np.zeros(LATENCY_BINS)
        return cls(config=config, process=process, known=nothing, since=nothing, since_s=0.0, requests=0.0)

    def update(self, baseline: npt.ArrayLike, candidate: npt.ArrayLike, *, elapsed_s: Number = 10.0) -> "LatencyGate":
        """The gate after one more block.

        Where an arm has no request, or nothing is known of the baseline from earlier blocks, there is no update.

        Args:
            baseline: Counts per bin, bins on the last axis [requests]; requests without an answer are counts of the last bin.
            candidate: The same of the other arm, same shape.
            elapsed_s: Time since the end of the block before, one or one per run [s].
        """
        base, cand = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
        requests_b, requests_c = base.sum(axis=-1), cand.sum(axis=-1)
        ready: Bools = np.asarray((requests_b > 0) & (requests_c > 0) & (self.known.sum(axis=-1) >= MIN_KNOWN))
        log_e = self._block(base, cand, np.asarray(requests_c / np.maximum(requests_b + requests_c, 1))) if ready.any() else None
        since, since_s = self.since + base, np.asarray(self.since_s + np.maximum(elapsed_s, 0.0))
        come = since.sum(axis=-1)
        enough = (come >= RENEW * self.known.sum(axis=-1)) | (since_s >= RENEW_S)
        renewed: Bools = np.asarray((come > 0) & enough)[..., np.newaxis]
        return LatencyGate(
            config=self.config,
            process=self.process.advance(log_e, update=ready, elapsed_s=elapsed_s, deadline_s=self.config.deadline_s),
            known=np.where(renewed, np.round(self.known * np.exp(-since_s / FORGET_S)[..., np.newaxis] + since, DECIMALS), self.known),
            since=np.where(renewed, 0.0, since),
            since_s=np.where(renewed[..., 0], 0.0, since_s),
            requests=self.requests + requests_c,
        )

    def _block(self, base: Floats, cand: Floats, share: Floats) -> tuple[Floats, Floats]:
        """Log E of the block per alternative of FAIL and of PASS; only bins that hold something are looked at."""
        columns_b = np.flatnonzero(base.reshape(-1, LATENCY_BINS).any(axis=0))
        columns_c = np.flatnonzero(cand.reshape(-1, LATENCY_BINS).any(axis=0))
        base, cand = base[..., columns_b], cand[..., columns_c]
        log_u = scores(self.config, self.known, candidate=columns_c, baseline=columns_b)
        fail, good = (
            blocks.scores(cand, base, log_u_candidate=of_candidate, log_u_baseline=of_baseline, share=share)
            for of_candidate, of_baseline in log_u
        )
        return fail, good

    @property
    def log_fail(self) -> Floats:
        """Log of `evidence`."""
        return log_mean(self.process.log_fail)

    @property
    def log_pass(self) -> Floats:
        """Log of `evidence_pass`."""
        return log_mean(self.process.log_pass)

    @property
    def enough(self) -> Bools:
        """Whether the candidate has requests enough to fail."""
        return np.asarray(self.requests >= MIN_REQUESTS)

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        numbers = (self.process.left, self.process.age_s, self.requests, self.since_s)
        histograms = (*self.known.tolist(), *self.since.tolist())
        return (*self.process.log_fail.tolist(), *self.process.log_pass.tolist(), *map(float, numbers), *histograms)

    @classmethod
    def restore(cls, config: LatencyConfig, memory: tuple[float, ...]) -> "LatencyGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged or of another gate."""
        fails, passes = config.size
        numbers = fails + passes
        if len(memory) != numbers + 4 + 2 * LATENCY_BINS or not isfinite(sum(memory)):
            raise ValueError(f"memory of this latency gate is {numbers + 4 + 2 * LATENCY_BINS} finite numbers, got {len(memory)}")
        left, age_s, requests, since_s = memory[numbers : numbers + 4]
        values = np.array(memory)
        known, since = values[numbers + 4 :].reshape(2, -1)
        process = Process(log_fail=values[:fails], log_pass=values[fails:numbers], left=left, age_s=age_s)
        return cls(config=config, process=process, known=known, since=since, since_s=since_s, requests=requests)


def scores(config: LatencyConfig, known: Floats, *, candidate: Bins, baseline: Bins) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """What is bet on, for FAIL and for PASS: log u of bins of the candidate and of the baseline per alternative; axes alternatives, bins.

    Args:
        known: Histogram of the baseline, bins on the last axis, not empty [requests].
        candidate: Bins of the candidate; its margin is taken off here.
        baseline: Bins of the baseline.
    """
    fail, good = moved(config.relative, config.absolute_ms)
    below, first = known.cumsum(axis=-1), len(candidate)
    worse = _worse(config, known, below, np.concatenate([fail[candidate], baseline]))
    better = _better(config, known, below, np.concatenate([good[candidate], baseline]))
    return (worse[..., :first], worse[..., first:]), (better[..., :first], better[..., first:])


def _worse(config: LatencyConfig, known: Floats, below: Floats, bins: Bins) -> Floats:
    """Log u of the bins per alternative of FAIL: grows with slowness."""
    if config.quantile is not None:
        return _tail(below, bins, config.quantile, WORSE_ODDS)
    shift = SHIFTS[:, np.newaxis]
    body = shift * _normal_score(known, below, bins)[..., np.newaxis, :] - shift * shift / 2
    return np.concatenate([body, *(_tail(below, bins, tail, WORSE_ODDS) for tail in TAILS)], axis=-2)


def _better(config: LatencyConfig, known: Floats, below: Floats, bins: Bins) -> Floats:
    """Log u of the bins per alternative of PASS: falls with slowness."""
    if config.quantile is not None:
        return _tail(below, bins, config.quantile, GOOD_ODDS)
    shift = _margin(below, known, moved(config.relative, config.absolute_ms)[1])[..., np.newaxis, np.newaxis] * GOOD_SHIFTS[:, np.newaxis]
    falling: Floats = -shift * _normal_score(known, below, bins)[..., np.newaxis, :] - shift * shift / 2
    return falling


def _normal_score(known: Floats, below: Floats, bins: Bins) -> Floats:
    """Normal quantile of the middle of each bin in the known distribution of the baseline."""
    middle = (below[..., bins] - known[..., bins] / 2 + 0.5) / (below[..., -1:] + 1)
    score: Floats = np.interp(middle, _PROBABILITIES, _SCORES)
    return score


def _tail(below: Floats, bins: Bins, level: float, odds: Floats) -> Floats:
    """Log likelihood ratio of "above the baseline's quantile" per alternative; axes alternatives, bins."""
    total = below[..., -1:]
    # "no answer" is above every quantile, also where it is so common that the quantile lies there
    place = np.minimum((below < level * total).sum(axis=-1, keepdims=True), LATENCY_BINS - 2)
    above = below[place] if below.ndim == 1 else np.take_along_axis(below, place, axis=-1)
    theta_0 = np.minimum(np.maximum((total - above + 0.5) / (total + 1), 1e-6), 1 - 1e-6)[..., np.newaxis]
    raised = odds[:, np.newaxis] * theta_0
    theta_1 = raised / (1 - theta_0 + raised)
    return np.where((bins > place)[..., np.newaxis, :], np.log(theta_1 / theta_0), np.log((1 - theta_1) / (1 - theta_0)))


def _margin(below: Floats, known: Floats, down: Bins) -> Floats:
    """The margin at the baseline's median, in standard deviations of its log latency, at most 2."""
    median = np.minimum((below < below[..., -1:] / 2).sum(axis=-1), LATENCY_BINS - 2)
    width = (median - down[median]) * STEP
    answered = known[..., :-1]
    total = np.maximum(answered.sum(axis=-1), 1e-9)
    mean = answered @ _PLACES / total
    variance = answered @ (_PLACES * _PLACES) / total - mean * mean
    deviations: Floats = np.minimum(width / np.sqrt(np.maximum(variance, (STEP / 2) ** 2)), 2.0)
    return deviations
