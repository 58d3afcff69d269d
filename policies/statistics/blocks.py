"""Evidence of one block: how much better "the candidate is worse" explains the counts of both arms than "it is as good" does.

Every function returns log E per alternative (last axis) with E[E] <= 1 under the null its docstring names, whatever the traffic split, the
error rate and their drift from block to block; only within a block must both arms have met the same conditions. That asks for short blocks
and forbids adding up counts over a ramp. `f` is the candidate's share of the block's requests. Proofs in short: (R) and (M) by the
inequality of the means over requests; (A) because the projection minimises a convex divergence (Turner, Gruenwald, arXiv:2203.09785).
`mixture` multiplies blocks.
"""

import numpy as np

from policies.statistics.mixture import Floats


def relative(candidate: tuple[Floats, Floats], baseline: tuple[Floats, Floats], *, ratio: Floats, rho: float) -> Floats:
    """(R): log E against p_candidate <= rho * p_baseline for ratios > rho; against >= for ratios < rho.

    Args:
        candidate: (requests, errors), any shape; requests > 0 [requests].
        baseline: The same of the other arm, same shape.
        ratio: Alternatives, p_candidate / p_baseline, > 0; last axis.
        rho: 1 + relative margin.
    Returns: log E, shape of the counts plus the axis of alternatives. Exact for Bernoulli and Poisson counts.
    """
    requests_c, errors_c = candidate
    requests_b, errors_b = baseline
    share = (requests_c / (requests_c + requests_b))[..., np.newaxis]
    errors = (errors_c + errors_b)[..., np.newaxis]
    return errors_c[..., np.newaxis] * np.log(ratio / rho) - errors * np.log((1 + share * (ratio - 1)) / (1 + share * (rho - 1)))


def absolute(
    candidate: tuple[Floats, Floats], baseline: tuple[Floats, Floats], *, theta_c: Floats, theta_b: Floats, delta: float
) -> Floats:
    """(A): log E against p_candidate <= p_baseline + delta for theta_c > theta_b + delta; against >= for theta_c below it.

    Args:
        candidate: (requests, errors), any shape; requests > 0 [requests].
        baseline: The same of the other arm, same shape.
        theta_c: Alternatives: error rates of the candidate, 0 < theta_c < 1; last axis.
        theta_b: The baseline's error rate as known before the block, 0 < theta_b < 1 - delta; broadcast against theta_c.
        delta: The absolute margin, 0 <= delta < 1.
    """
    requests_c, errors_c = (values[..., np.newaxis] for values in candidate)
    requests_b, errors_b = (values[..., np.newaxis] for values in baseline)
    x = project(requests_c / (requests_c + requests_b), theta_c, theta_b, delta)
    y = x + delta
    of_candidate = errors_c * np.log(theta_c / y) + (requests_c - errors_c) * np.log((1 - theta_c) / (1 - y))
    of_baseline = errors_b * np.log(theta_b / x) + (requests_b - errors_b) * np.log((1 - theta_b) / (1 - x))
    total: Floats = of_candidate + of_baseline
    return total


def project(share: Floats, theta_c: Floats, theta_b: Floats, delta: float) -> Floats:
    """The x in (0, 1 - delta) that minimises f KL(theta_c || x + delta) + (1 - f) KL(theta_b || x): the nearest point of the null.

    The derivative times x(1-x)y(1-y), y = x + delta, is the cubic f (y - theta_c) x(1-x) + (1-f) (x - theta_b) y(1-y). It has one root
    below 0, one above 1 - delta, and ours is the middle one (trigonometric form). Newton steps mend what cancellation costs at tiny rates.
    """
    rest = 1 - share
    # a x^3 + b x^2 + c x + d with a = -1
    b = share * (1 + theta_c - delta) + rest * (1 - 2 * delta + theta_b)
    c = share * (delta - theta_c) + rest * (delta * (1 - delta) - theta_b * (1 - 2 * delta))
    d = -rest * theta_b * delta * (1 - delta)
    middle = b / 3
    half = np.sqrt(np.maximum(middle * middle + c / 3, 1e-300))
    angle = np.arccos(np.clip((middle**3 + middle * c / 2 + d / 2) / half**3, -1.0, 1.0))
    low, high = np.minimum(theta_b, theta_c - delta), np.maximum(theta_b, theta_c - delta)
    low = np.maximum(low, theta_b * 1e-9)
    x = np.clip(middle + 2 * half * np.cos((angle - 2 * np.pi) / 3), low, high)
    for _ in range(2):
        value = ((b - x) * x + c) * x + d
        slope = (2 * b - 3 * x) * x + c
        x = np.clip(x - value / np.where(slope > 0, slope, np.inf), low, high)
    nearest: Floats = x
    return nearest


def scores(candidate: Floats, baseline: Floats, *, log_u_candidate: Floats, log_u_baseline: Floats, share: Floats) -> Floats:
    """(M): log E against "the candidate is stochastically no worse" for scores u that grow with badness; against the reverse for falling u.

    Args:
        candidate: Counts per bin; bins on the last axis [requests].
        baseline: The same of the other arm; its bins may be others.
        log_u_candidate: log score of each bin of the candidate, moved by the margin; axes alternatives, bins.
        log_u_baseline: log score of each bin of the baseline.
        share: The candidate's share of the block's requests; without the last axis.
    """
    f = share[..., np.newaxis, np.newaxis]
    of_candidate = log_u_candidate - np.log1p(f * np.expm1(log_u_candidate))
    of_baseline = np.log1p(f * np.expm1(log_u_baseline))
    return _weigh(of_candidate, candidate) - _weigh(of_baseline, baseline)


def _weigh(values: Floats, counts: Floats) -> Floats:
    total: Floats = (values * counts[..., np.newaxis, :]).sum(axis=-1)
    return total
