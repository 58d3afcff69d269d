"""Evidence of one block: how much better "the candidate is worse" explains the counts of both arms than "it is as good" does.

Every function returns log E per alternative (last axis) with E[E] <= 1 under the null its docstring names, whatever the traffic split, the
error rate and their drift from block to block; only within a block must both arms have met the same conditions. That asks for short blocks
and forbids adding up counts over a ramp. `f` is the candidate's share of the block's requests. Proofs in short: (R) and (M) by the
inequality of the means over requests; (A) because the projection minimises a convex divergence (Turner, Gruenwald, arXiv:2203.09785).
`mixture` multiplies blocks.
"""

import numpy as np

from policies.statistics.mixture import Floats

SETTLED = 1e-4
"""A relative step of Newton's after which the next would be about the square of it."""


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
    share = requests_c / (requests_c + requests_b)
    ratios = _first(ratio, share.ndim)
    log_e = share * (ratios - 1)
    log_e += 1
    log_e /= 1 + share * (rho - 1)
    np.log(log_e, out=log_e)
    log_e *= -(errors_c + errors_b)
    log_e += errors_c * np.log(ratios / rho)
    return np.moveaxis(log_e, 0, -1)


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
    (requests_c, errors_c), (requests_b, errors_b) = candidate, baseline
    share = requests_c / (requests_c + requests_b)
    of_c, of_b = _first(theta_c, share.ndim), _first(theta_b, share.ndim)
    x = project(share, of_c, of_b, delta)
    log_e = np.zeros_like(x)
    y = x + delta
    for count, rate, nearest in (
        (errors_c, of_c, y),
        (requests_c - errors_c, 1 - of_c, 1 - y),
        (errors_b, of_b, x),
        (requests_b - errors_b, 1 - of_b, 1 - x),
    ):
        term = rate / nearest
        np.log(term, out=term)
        term *= count
        log_e += term
    return np.moveaxis(log_e, 0, -1)


def _first(alternatives: Floats, axes: int) -> Floats:
    """The last axis in front of `axes` axes of counts: inner loops then run over thousands of runs, not over a dozen alternatives."""
    first = np.moveaxis(np.asarray(alternatives), -1, 0)
    return first.reshape(first.shape[:1] + (1,) * (axes + 1 - first.ndim) + first.shape[1:])


def project(share: Floats, theta_c: Floats, theta_b: Floats, delta: float) -> Floats:
    """The x in (0, 1 - delta) that minimises f KL(theta_c || x + delta) + (1 - f) KL(theta_b || x): the nearest point of the null.

    The derivative times x(1-x)y(1-y), y = x + delta, is the cubic f (y - theta_c) x(1-x) + (1-f) (x - theta_b) y(1-y). It has one root
    below 0, one above 1 - delta, and ours is the middle one. With (1-y)/(1-x) taken for 1 - delta, which it is for small rates, a quadratic
    is left; a step of Newton's leads from its root to the cubic's. Where that is a long step, the trigonometric form finds it.

    Args: All broadcast against each other.
    """
    rest = 1 - share
    of_b, of_c = rest * theta_b, share * theta_c
    b = (share * (1 - delta) + rest * (1 - 2 * delta) + of_b) + of_c
    c = (share * delta + rest * (delta * (1 - delta)) - of_b * (1 - 2 * delta)) - of_c
    d = -of_b * (delta * (1 - delta))
    below = np.maximum(np.minimum(theta_b, theta_c - delta), theta_b * 1e-9)
    above = np.maximum(theta_b, theta_c - delta)
    scale = 1 / (1 - rest * delta)
    start = _quadratic(((of_b - rest * delta) * (1 - delta) - share * delta + of_c) * scale, of_b * scale * (delta * (1 - delta)))
    np.clip(start, below, above, out=start)
    x = _newton(start, b, c, d, flat=1e-300)
    np.clip(x, below, above, out=x)
    start -= x
    np.abs(start, out=start)
    far = start > SETTLED * x
    if far.any():
        b, c, d, below, above = (np.broadcast_to(values, x.shape)[far] for values in (b, c, d, below, above))
        x[far] = _middle_root(b, c, d, below, above)
    return x


def _quadratic(p: Floats, q: Floats) -> Floats:
    """The positive root of x^2 - p x - q for q >= 0, without cancellation."""
    root = p * p
    root += 4 * q
    np.sqrt(root, out=root)
    root += np.abs(p)
    return np.where(p > 0, root / 2, 2 * q / np.maximum(root, 1e-300))


def _newton(x: Floats, b: Floats, c: Floats, d: Floats, *, flat: float) -> Floats:
    """A step towards the root of -x^3 + b x^2 + c x + d. `flat`: the slope where the cubic does not rise; inf = stay there, 0+ = leap."""
    value, slope = b - x, 2 * b - 3 * x
    value *= x
    value += c
    value *= x
    value += d
    slope *= x
    slope += c
    slope[slope <= 0] = flat
    value /= slope
    return np.subtract(x, value, out=value)


def _middle_root(b: Floats, c: Floats, d: Floats, below: Floats, above: Floats) -> Floats:
    """The middle root of -x^3 + b x^2 + c x + d in its trigonometric form; Newton mends what cancellation costs at tiny rates."""
    middle = b / 3
    half = np.sqrt(np.maximum(middle * middle + c / 3, 1e-300))
    angle = np.arccos(np.clip((middle**3 + middle * c / 2 + d / 2) / half**3, -1.0, 1.0))
    x = np.clip(middle + 2 * half * np.cos((angle - 2 * np.pi) / 3), below, above)
    for _ in range(2):
        x = np.clip(_newton(x, b, c, d, flat=np.inf), below, above)
    return x


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
