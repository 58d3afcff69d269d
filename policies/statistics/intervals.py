"""Intervals for people: how far apart the arms may be. Shown beside a verdict, never used for one.

Approximate: time-uniform only for large counts (asymptotic confidence sequence, Waudby-Smith et al., arXiv:2103.06476, eq. 9), and they
take the sums of the whole rollout for a random sample of one moment, so a ramp over changing traffic moves them a little.
Plain floats, cheap.
"""

from collections.abc import Sequence
from math import exp, log, sqrt

from policies.evidence import LATENCY_BINS, LATENCY_EDGES_MS

Histogram = Sequence[tuple[int, int]]
"""(bin, count) pairs in ascending order of the bins of `LATENCY_EDGES_MS` [requests]."""


def half_width(information: float, *, level: float, effect: float) -> float:
    """Half the width of an interval that holds at every look.

    Args:
        information: 1 / variance of the estimate, > 0.
        level: Confidence, 0 < level < 1.
        effect: Difference at which the interval is to be tightest, > 0; the unit of the estimate.
    """
    nats = log(1 / (1 - level))
    rho = 2 * nats / effect**2 / (2 * nats + log(1 + 2 * nats))
    return sqrt((information + rho) * (log(1 + information / rho) + 2 * nats)) / information


def rate_difference(candidate: tuple[int, int], baseline: tuple[int, int], *, effect: float, level: float = 0.95) -> tuple[float, float]:
    """Where the candidate's error rate minus the baseline's may lie, within [-1, 1].

    Args:
        candidate: (requests, errors) [requests], requests > 0.
        baseline: The same of the other arm.
        effect: The margin, as a rate.
        level: Confidence.
    """
    variance = 0.0
    for requests, errors in (candidate, baseline):
        rate = (errors + 0.5) / (requests + 1)  # never 0: no error in ten requests does not mean none in a million
        variance += rate * (1 - rate) / requests
    half = half_width(1 / variance, level=level, effect=max(effect, 1e-4))
    middle = candidate[1] / candidate[0] - baseline[1] / baseline[0]
    return max(middle - half, -1.0), min(middle + half, 1.0)


def quantile_ms(histogram: Histogram, level: float) -> float:
    """The quantile of a histogram, interpolated within its bin on the log scale; at most the last edge (17 min) [ms]."""
    wanted = level * sum(count for _, count in histogram)
    below = 0
    for place, count in histogram:
        if below + count >= wanted and count > 0:
            if place >= LATENCY_BINS - 1:
                break
            top = LATENCY_EDGES_MS[place]
            bottom = LATENCY_EDGES_MS[place - 1] if place else top / (LATENCY_EDGES_MS[1] / top)
            return bottom * exp(log(top / bottom) * (wanted - below) / count)
        below += count
    return LATENCY_EDGES_MS[-1]


def quantile_difference(candidate: Histogram, baseline: Histogram, *, quantile: float, level: float = 0.95) -> tuple[float, float]:
    """Where the candidate's quantile minus the baseline's may lie [ms]: the ends of both arms' intervals at half the error each."""
    low_c, high_c = _quantile_range(candidate, quantile, (1 + level) / 2)
    low_b, high_b = _quantile_range(baseline, quantile, (1 + level) / 2)
    return low_c - high_b, high_c - low_b


def _quantile_range(histogram: Histogram, quantile: float, level: float) -> tuple[float, float]:
    total = sum(count for _, count in histogram)
    half = half_width(total / (quantile * (1 - quantile)), level=level, effect=0.05)
    low = quantile_ms(histogram, quantile - half) if quantile > half else 0.0
    return low, quantile_ms(histogram, min(quantile + half, 1.0)) if quantile + half < 1 else LATENCY_EDGES_MS[-1]
