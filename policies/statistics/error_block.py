"""One block of one error gate: what `error_gate` and `blocks` compute for many runs at once, here for a single one in plain floats.

A server feeds thousands of gates with small blocks; a dozen alternatives are too few for numpy to pay. Equal to the general form up to
rounding: `tests/properties/test_gates.py`.
"""

from collections.abc import Sequence
from math import acos, cos, log, pi, sqrt

Counts = tuple[float, float]
"""(requests, errors) [requests]."""


def relative(candidate: Counts, baseline: Counts, ratios: Sequence[float], rho: float) -> list[float]:
    """`blocks.relative`: log E per alternative."""
    share = candidate[0] / (candidate[0] + baseline[0])
    errors, allowed = candidate[1] + baseline[1], log(1 + share * (rho - 1))
    return [candidate[1] * log(ratio / rho) - errors * (log(1 + share * (ratio - 1)) - allowed) for ratio in ratios]


def absolute(candidate: Counts, baseline: Counts, thetas: Sequence[float], theta_b: float, delta: float) -> list[float]:
    """`blocks.absolute`: log E per alternative."""
    (requests_c, errors_c), (requests_b, errors_b) = candidate, baseline
    share, good_c, good_b = requests_c / (requests_c + requests_b), requests_c - errors_c, requests_b - errors_b
    found: list[float] = []
    for theta_c in thetas:
        x = _project(share, theta_c, theta_b, delta)
        y = x + delta
        log_e = good_c * log((1 - theta_c) / (1 - y)) + good_b * log((1 - theta_b) / (1 - x))
        if errors_c:
            log_e += errors_c * log(theta_c / y)
        if errors_b:
            log_e += errors_b * log(theta_b / x)
        found.append(log_e)
    return found


def _project(share: float, theta_c: float, theta_b: float, delta: float) -> float:
    """`blocks.project`: the nearest point of the null."""
    rest = 1 - share
    b = share * (1 + theta_c - delta) + rest * (1 - 2 * delta + theta_b)
    c = share * (delta - theta_c) + rest * (delta * (1 - delta) - theta_b * (1 - 2 * delta))
    d = -rest * theta_b * delta * (1 - delta)
    middle = b / 3
    half = sqrt(max(middle * middle + c / 3, 1e-300))
    ratio = (middle**3 + middle * c / 2 + d / 2) / half**3
    angle = acos(ratio) if -1.0 < ratio < 1.0 else (0.0 if ratio > 0 else pi)
    low, high = (theta_b, theta_c - delta) if theta_b < theta_c - delta else (theta_c - delta, theta_b)
    low = max(low, theta_b * 1e-9)
    x = middle + 2 * half * cos((angle - 2 * pi) / 3)
    for step in range(3):  # two of Newton's, each within the bounds
        x = low if x < low else min(x, high)
        slope = (2 * b - 3 * x) * x + c
        if step == 2 or slope <= 0:
            break
        x -= (((b - x) * x + c) * x + d) / slope
    return x
