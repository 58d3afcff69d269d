"""Intervals for people: how far apart the arms may be. Shown beside a verdict, never used for one.

Those of latency are time-uniform only for large counts (asymptotic confidence sequence, Waudby-Smith et al., arXiv:2103.06476, eq. 9). All
take the sums of the whole rollout for a random sample of one moment, so a ramp over changing traffic moves them a little. Plain floats, cheap.
"""

from collections.abc import Sequence
from math import exp, lgamma, log, log1p, pi, sqrt

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


def rate_difference(candidate: tuple[int, int], baseline: tuple[int, int], *, level: float = 0.95) -> tuple[float, float]:
    """Where the candidate's error rate minus the baseline's may lie, within [-1, 1]: the ends of both arms' intervals at half the error each.

    Args:
        candidate: (requests, errors) [requests], 0 <= errors <= requests > 0.
        baseline: The same of the other arm.
        level: Confidence, 0 < level < 1.
    """
    low_c, high_c = rate(candidate, level=(1 + level) / 2)
    low_b, high_b = rate(baseline, level=(1 + level) / 2)
    return low_c - high_b, high_c - low_b


def rate(arm: tuple[int, int], *, level: float = 0.95) -> tuple[float, float]:
    """Where an error rate may lie, exact at every look while it does not change: all rates under which a mixture over all rates is not worth
    1 / (1 - level) times as much (Robbins' mixture with the Jeffreys prior; Howard et al., arXiv:1810.08240, section 3).

    Args:
        arm: (requests, errors) [requests], 0 <= errors <= requests > 0.
        level: Confidence, 0 < level < 1.
    """
    requests, errors = arm
    good, middle = requests - errors, errors / requests
    mixed = lgamma(errors + 0.5) + lgamma(good + 0.5) - lgamma(requests + 1.0) - log(pi) + log(1 - level)

    def likely(p: float) -> bool:
        return mixed < (errors * log(p) if errors else 0.0) + (good * log1p(-p) if good else 0.0)

    def end(inside: float, outside: float) -> float:
        for _ in range(40):
            between = (inside + outside) / 2
            inside, outside = (between, outside) if likely(between) else (inside, between)
        return inside

    return (end(middle, 0.0) if errors else 0.0), (end(middle, 1.0) if good else 1.0)


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
