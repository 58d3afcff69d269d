"""One block of one latency gate: what `latency_gate` computes for many runs at once, here for a single one by a third of the calls.

A server feeds thousands of gates with small blocks, and there numpy's price is per call. Bins without requests are left out, both verdicts share
one matrix, and tails (a score of two values) are plain sums. Equal to the general form up to rounding: `tests/properties/test_gates.py`.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log, log1p, sqrt

import numpy as np
import numpy.typing as npt

from policies.evidence import LATENCY_BINS
from policies.statistics.mixture import Floats

Pairs = Sequence[tuple[int, int]]
"""(bin, count) of the bins that hold something, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """What is bet on, as `latency_gate` has it.

    Attributes:
        shifts: Of the whole distribution, FAIL.
        good_shifts: The same of PASS, times the margin.
        tails: Quantiles whose tails are watched beside.
        odds: Of lying above a quantile, FAIL.
        good_odds: The same of PASS.
        score: Normal quantile of probabilities.
    """

    shifts: Floats
    good_shifts: Floats
    tails: tuple[float, ...]
    odds: tuple[float, ...]
    good_odds: tuple[float, ...]
    score: Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Where each bin of the candidate lands when the margin is taken off, for FAIL and for PASS."""

    fail: tuple[int, ...]
    good: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One arm's requests: bins ascending, and how many there are up to each."""

    bins: list[int]
    up_to: list[int]

    def split(self, place: int) -> tuple[int, int]:
        """Requests (above, not above) a bin."""
        index = bisect_right(self.bins, place)
        low = self.up_to[index - 1] if index else 0
        return self.up_to[-1] - low, low


def one_block(of: Alternatives, moved: Moved, quantile: float | None, known: Floats, arms: tuple[Pairs, Pairs]) -> tuple[Floats, Floats]:
    """Log E of the block per alternative of FAIL and of PASS.

    Args:
        quantile: The one that is compared; None = the whole distribution.
        known: Histogram of the baseline before the block [requests].
        arms: Requests of the candidate and of the baseline, neither empty.
    """
    cand, base = arms
    count_c, count_b = [count for _, count in cand], [count for _, count in base]
    worse, better, bins_b = [moved.fail[place] for place, _ in cand], [moved.good[place] for place, _ in cand], [place for place, _ in base]
    up_to_c, up_to_b = list(accumulate(count_c)), list(accumulate(count_b))
    share = up_to_c[-1] / (up_to_c[-1] + up_to_b[-1])
    below = known.cumsum()
    failing, passing, baseline = (_Side(bins=bins, up_to=sums) for bins, sums in ((worse, up_to_c), (better, up_to_c), (bins_b, up_to_b)))
    if quantile is not None:
        fail = _tail(below, quantile, of.odds, (failing, baseline), share)
        return np.array(fail), np.array(_tail(below, quantile, of.good_odds, (passing, baseline), share))
    places = np.array(worse + better + bins_b)
    scores = of.score((below[places] - known[places] / 2 + 0.5) / (below[-1] + 1))
    shifts = np.concatenate((of.shifts, of.good_shifts * -_margin(below, known, moved)))
    log_e = _body(shifts, len(of.shifts), scores, np.array(count_c + count_b, dtype=np.float64), (len(cand), share))
    tails = [value for level in of.tails for value in _tail(below, level, of.odds, (failing, baseline), share)]
    return np.concatenate((log_e[: len(of.shifts)], tails)), log_e[len(of.shifts) :]


def _body(shifts: Floats, fails: int, scores: Floats, counts: Floats, candidate: tuple[int, float]) -> Floats:
    """`blocks.scores` of shifts of the whole distribution.

    Args:
        shifts: Of FAIL (the first `fails`), then of PASS.
        scores: Of the candidate's bins moved for FAIL, moved for PASS, and of the baseline's.
        counts: Of the candidate's bins, then of the baseline's.
        candidate: Number of its bins, and its share of the requests.
    """
    width, share = candidate
    column = shifts[:, np.newaxis]
    score = np.empty((len(shifts), len(counts)))
    score[:fails, :width] = scores[:width]
    score[fails:, :width] = scores[width : 2 * width]
    score[:, width:] = scores[2 * width :]
    log_u = column * score - column * column / 2
    log_e: Floats = log_u[:, :width] @ counts[:width] - np.log1p(share * np.expm1(log_u)) @ counts
    return log_e


def _tail(below: Floats, level: float, odds: Sequence[float], sides: tuple[_Side, _Side], share: float) -> list[float]:
    """`blocks.scores` of "above the baseline's quantile" per alternative."""
    total = float(below[-1])
    place = min(int(below.searchsorted(level * total)), LATENCY_BINS - 2)
    theta_0 = min(max((total - float(below[place]) + 0.5) / (total + 1), 1e-6), 1 - 1e-6)
    above, low = sides[0].split(place)
    above_b, low_b = sides[1].split(place)
    found: list[float] = []
    for times in odds:
        raised = times * theta_0
        theta_1 = raised / (1 - theta_0 + raised)
        up, down = theta_1 / theta_0, (1 - theta_1) / (1 - theta_0)
        expected = (above + above_b) * log1p(share * (up - 1)) + (low + low_b) * log1p(share * (down - 1))
        found.append(above * log(up) + low * log(down) - expected)
    return found


_PLACE: npt.NDArray[np.float64] = np.arange(LATENCY_BINS - 1, dtype=np.float64)
_PLACE_SQUARED = _PLACE * _PLACE


def _margin(below: Floats, known: Floats, moved: Moved) -> float:
    """The margin at the baseline's median, in standard deviations of its log latency (both in bins), at most 2."""
    median = min(int(below.searchsorted(float(below[-1]) / 2)), LATENCY_BINS - 2)
    answered = known[:-1]
    total = max(float(below[-2]), 1e-9)
    mean = float(answered @ _PLACE) / total
    variance = float(answered @ _PLACE_SQUARED) / total - mean * mean
    return min((median - moved.good[median]) / sqrt(max(variance, 0.25)), 2.0)
