"""One block of one error gate: what `blocks` computes for many runs at once, here for a single one in plain floats.

A server feeds thousands of gates with small blocks; a dozen alternatives are too few for numpy to pay. Equal to the general form up to
rounding: `tests/properties/test_gates.py`.
"""

from collections.abc import Sequence
from math import log, sqrt

Counts = tuple[float, float]
"""(requests, errors) [requests]."""

SETTLED = 1e-5
"""Halley's steps end with one that is smaller, as a part of where it leads to; the error is then about its cube."""

STEPS = 100
"""Steps at most: each that is not Halley's halves the interval."""


Row = tuple[float, float, float, float]
"""What one request adds to log E of one alternative: a good one of the candidate, a bad one; a good one of the baseline, a bad one."""


def relative(candidate: Counts, baseline: Counts, ratios: Sequence[float], rho: float) -> list[float]:
    """`blocks.relative`: log E per alternative."""
    errors = candidate[1] + baseline[1]
    if not errors:
        return [0.0] * len(ratios)
    share = candidate[0] / (candidate[0] + baseline[0])
    allowed = log(1 + share * (rho - 1))
    return [candidate[1] * log(ratio / rho) - errors * (log(1 + share * (ratio - 1)) - allowed) for ratio in ratios]


def absolute(candidate: Counts, baseline: Counts, rows: Sequence[Row]) -> list[float]:
    """`blocks.absolute`: log E per alternative, by its rows."""
    (requests_c, bad_c), (requests_b, bad_b) = candidate, baseline
    good_c, good_b = requests_c - bad_c, requests_b - bad_b
    return [good_c * of_c + bad_c * of_bad_c + good_b * of_b + bad_b * of_bad_b for of_c, of_bad_c, of_b, of_bad_b in rows]


def rows(share: float, thetas: Sequence[float], theta_b: float, delta: float) -> tuple[Row, ...]:
    """One row per alternative of the absolute form: `share` is the candidate's of the requests, the rest as in `blocks.absolute`."""
    return tuple(
        (log((1 - theta_c) / (1 - x - delta)), log(theta_c / (x + delta)), log((1 - theta_b) / (1 - x)), log(theta_b / x))
        for theta_c, x in zip(thetas, project(share, thetas, theta_b, delta), strict=True)
    )


def project(share: float, thetas: Sequence[float], theta_b: float, delta: float) -> list[float]:
    """`blocks.project`: the nearest point of the null per alternative; the cubic is -x^3 + b x^2 + c x + d."""
    rest = 1 - share
    of_b = rest * theta_b
    all_b, all_c = share * (1 - delta) + rest * (1 - 2 * delta) + of_b, (share + rest * (1 - delta)) * delta - of_b * (1 - 2 * delta)
    d = -of_b * delta * (1 - delta)
    least = theta_b * 1e-9
    found: list[float] = []
    for theta_c in thetas:
        of_c, other = share * theta_c, theta_c - delta
        low, high = (theta_b, other) if theta_b < other else (max(other, least), theta_b)
        # with (1 - x) / (1 - y) as it is at the lower end, x is the root of x^2 - p x - q
        heavier = share * (1 - low) / (1 - low - delta)
        weight = heavier / (heavier + rest)
        p, q = weight * theta_c + (1 - weight) * theta_b - delta, (1 - weight) * theta_b * delta
        root = sqrt(p * p + 4 * q)
        x = (p + root) / 2 if p > 0 else 2 * q / (root - p)
        found.append(_root(low if x < low else min(x, high), all_b + of_c, all_c - of_c, d, (low, high)))
    return found


def _root(x: float, b: float, c: float, d: float, within: tuple[float, float]) -> float:
    """The root of -x^3 + b x^2 + c x + d between two bounds, where it rises from below 0 to above: Halley's steps, kept between them."""
    low, high = within
    for _ in range(STEPS):
        value, slope = ((b - x) * x + c) * x + d, (2 * b - 3 * x) * x + c
        if value > 0:
            high = x
        else:
            low = x
        bend = slope * slope - value * (b - 3 * x)
        after = x - value * slope / bend if slope > 0 and bend > 0 else high + 1
        if not low <= after <= high:
            after = (low + high) / 2
        step = after - x
        x = after
        if -SETTLED * x <= step <= SETTLED * x:
            break
    return x
