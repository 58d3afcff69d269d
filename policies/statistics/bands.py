"""For people, beside a verdict: bands of a distribution and of a chance that hold at every look.

Of a distribution, at every value at once. Source: Howard & Ramdas, arXiv:1906.09712, theorem 2 (a time-uniform Dvoretzky-Kiefer-Wolfowitz inequality): from t_min values on,
sup |F_t - F| <= A sqrt((ln(1 + ln(t / t_min)) + C) / t) with probability 1 - alpha, A = 0.85.
Of a chance, all those that its mixture likelihood ratio with a uniform prior does not contradict (Robbins 1970), with no approximation.
"""

from collections.abc import Callable
from functools import lru_cache
from math import exp, inf, lgamma, log, log1p, sqrt

import numpy as np

from policies.statistics.mixture import Floats

_A = 0.85


def dkw(values: Floats | float, alpha: float, *, from_values: float = 100.0) -> Floats:
    """Half the width of the band after so many values; infinite before `from_values` of them. Two arms: alpha / 2 each, widths added.

    Args:
        values: How many values there are, any shape.
        alpha: Probability that the band ever misses, 0 < alpha < 1.
        from_values: t_min: how many there must be, fixed before the first.
    """
    t = np.asarray(values, dtype=np.float64)
    safe = np.maximum(t, from_values)
    half = _A * np.sqrt((np.log1p(np.log(safe / from_values)) + _level(alpha)) / safe)
    return np.where(t >= from_values, half, np.inf)


def chance(yes: float, no: float, *, alpha: float = 0.05) -> tuple[float, float]:
    """Where the chance of a yes may lie, within [0, 1]: misses with probability alpha at most, however often it is looked at.

    Args:
        yes, no: Counts >= 0; together they may depend on anything but the outcomes to come.
        alpha: Probability of ever missing, 0 < alpha < 1.
    """
    total = yes + no
    prior = lgamma(1 + yes) + lgamma(1 + no) - lgamma(2 + total)

    def contradicted(p: float) -> bool:
        seen = (yes * log(p) if yes else 0.0) + (no * log1p(-p) if no else 0.0)
        return prior - seen > log(1 / alpha)

    best = yes / total if total else 0.5
    low = 0.0 if not yes else _edge(contradicted, 0.0, best)
    return low, 1.0 if not no else _edge(contradicted, 1.0, best)


def _edge(contradicted: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where it begins to be contradicted, seen from inside."""
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if not 0 < middle < 1 or contradicted(middle) else (outside, middle)
    return outside


@lru_cache(maxsize=128)
def _level(alpha: float) -> float:
    """C: the smallest whose band misses with probability alpha at most."""
    low, high = 1.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _misses(middle) > alpha else (low, middle)
    return high


def _misses(c: float) -> float:
    """Probability that the band of C ever misses, by the best ratio eta of the epochs that the proof cuts time into (golden section)."""

    def bound(eta: float) -> float:
        gamma = sqrt(2 / eta) * (_A - sqrt(2 * (eta - 1) / c))
        return 4 * exp(-(gamma**2) * c) * (1 + 1 / ((gamma**2 - 1) * log(eta))) if gamma > 1 else inf

    grid = [1 + (2 * _A**2 - 1) * step / 400 for step in range(1, 400)]
    best = min(grid, key=bound)
    low, high = best - (grid[1] - grid[0]), best + (grid[1] - grid[0])
    low = max(low, 1 + 1e-9)
    for _ in range(100):
        third = (high - low) / 3
        low, high = (low, high - third) if bound(low + third) <= bound(high - third) else (low + third, high)
    return bound((low + high) / 2)
