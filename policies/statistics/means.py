"""Means whose law is not known (cost, tokens, utility): how far apart two arms are, stratified by block, and what that is evidence of.

A block's difference of means is weighted by h = n_c n_b / (n_c + n_b), which depends on counts alone: weights by the block's own variance
would lean to blocks that happen to look calm, and with them to small means wherever the law is skewed. Its variance is estimated from the
block itself, without bias, so it may drift (Cochran's stratified difference; asymptotic confidence sequences of Waudby-Smith, Arbour,
Sinha, Kennedy & Ramdas, arXiv:2103.06476). With the sums D of h times the difference, H of h and W of h^2 times the variance,
z = D / sqrt(W) is what a normal mixture turns into evidence at H effective requests.
"""

from dataclasses import dataclass
from math import log, sqrt

import numpy as np

from policies.statistics.mixture import Floats
from policies.statistics.special import log_tilted_normal, log_tilted_normal_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Values of one arm in one block; numbers, or arrays of one shape.

    Attributes:
        requests: How many [requests].
        mean: Their mean.
        squares: Sum of the squared distances from it.
        clipped: How many were cut to the cap [requests]; their share deserves an error gate of its own, so that a cap hides nothing.
    """

    requests: Floats | float
    mean: Floats | float
    squares: Floats | float
    clipped: Floats | float = 0.0


def moments(values: Floats, *, cap: float = np.inf) -> Moments:
    """What a mean gate is told of a block, winsorised.

    Args:
        values: One per request on the last axis; all finite.
        cap: Where values are cut: the baseline's 99.9 % quantile of earlier blocks, or none. Keeps one value from deciding.
    Raises: ValueError: If a value is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("values of a mean must be finite; hint: drop the others and watch their share with an error gate")
    requests = values.shape[-1]
    cut = np.minimum(values, cap)
    mean = cut.mean(axis=-1) if requests else np.zeros(values.shape[:-1])
    squares = ((cut - mean[..., np.newaxis]) ** 2).sum(axis=-1)
    clipped = (values > cap).sum(axis=-1)
    if values.ndim == 1:
        return Moments(requests=float(requests), mean=float(mean), squares=float(squares), clipped=float(clipped))
    return Moments(requests=np.full(values.shape[:-1], float(requests)), mean=mean, squares=squares, clipped=clipped)


def weight(requests_c: Floats, requests_b: Floats) -> Floats:
    """h: effective requests of a comparison; 0 where an arm has not two requests, which have no variance to estimate."""
    h: Floats = np.where((requests_c > 1) & (requests_b > 1), requests_c * requests_b / np.maximum(requests_c + requests_b, 1.0), 0.0)
    return h


def variance(requests: Floats, squares: Floats) -> Floats:
    """Variance of the mean of one arm, estimated without bias from its block; 0 where it has not two requests."""
    estimate: Floats = squares / np.maximum(requests * (requests - 1), 1.0)
    return estimate


def best_rho(information: float, alpha: float, *, two_sided: bool) -> float:
    """The mixture's parameter that makes bounds tightest at that information (Howard, Ramdas, McAuliffe & Sekhon, arXiv:1810.08240, 3.6)."""
    nats = 2 * log(1 / (alpha if two_sided else 2 * alpha))
    return information / (nats + log(1 + nats))


def one_sided(score: Floats, information: Floats, rho: float) -> Floats:
    """Log E against "the mean is at most 0": normal mixture over positive effects (arXiv:1810.08240, proposition 6).

    Args:
        score: Sum of the centred, standardised differences (S), its variance is `information`.
        information: Its variance (V), >= 0.
        rho: The mixture's parameter, see `best_rho`.
    """
    total = information + rho
    log_e: Floats = 0.5 * np.log(4 * rho / total) + log_tilted_normal(score / np.sqrt(total))
    return log_e


def one_sided_one(score: float, information: float, rho: float) -> float:
    """`one_sided` of one number, in plain floats."""
    total = information + rho
    return 0.5 * log(4 * rho / total) + log_tilted_normal_one(score / sqrt(total))


def two_sided(score: Floats, information: Floats, rho: float) -> Floats:
    """Log E against "the mean is 0" (arXiv:1810.08240, proposition 5); arguments as of `one_sided`."""
    total = information + rho
    log_e: Floats = 0.5 * np.log(rho / total) + score**2 / (2 * total)
    return log_e


def critical(information: Floats, *, alpha: float, rho: float) -> Floats:
    """How many standard errors wide half of a two-sided interval is that holds at every look with probability 1 - alpha."""
    safe = np.maximum(information, 1e-300)
    width: Floats = np.sqrt((safe + rho) / safe * (np.log1p(safe / rho) + 2 * log(1 / alpha)))
    return width
