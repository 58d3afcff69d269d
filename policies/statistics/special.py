"""Special functions on the log scale, from scipy.

scipy is imported at the first call and not with the module: a server without such gates starts a fifth of a second sooner.
"""

from math import erfc, log, pi, sqrt

import numpy as np

from policies.statistics.mixture import Floats

FAR = -30.0
"""Standard deviations below which the tail of a normal law is taken by its bound."""


def log_gamma(values: Floats) -> Floats:
    """Ln Gamma(x), x > 0."""
    from scipy.special import gammaln  # noqa: PLC0415 - see the module

    result: Floats = gammaln(values)
    return result


def log_tilted_normal(values: Floats) -> Floats:
    """x^2 / 2 + ln Phi(x). Below `FAR` its upper bound, 0.1 % of 1 above (Mills' ratio), where the two terms would cancel to noise."""
    from scipy.special import log_ndtr  # noqa: PLC0415 - see the module

    near = np.maximum(values, FAR)
    bound = -np.log(np.maximum(-values, -FAR) * sqrt(2 * pi))
    result: Floats = np.where(values > FAR, near * near / 2 + log_ndtr(near), bound)
    return result


def log_tilted_normal_one(value: float) -> float:
    """The same of one number, in plain floats."""
    return value * value / 2 + log(erfc(-value / sqrt(2)) / 2) if value > FAR else -log(-value * sqrt(2 * pi))


def log_beta_above(wins: Floats, losses: Floats, level: float) -> Floats:
    """Log of the integral of p^wins (1 - p)^losses over level < p < 1, less that of its integrand at `level`; counts >= 0.

    Far in the tail, where the incomplete beta function has no digits left, an upper bound takes its place: the log of the integrand is
    concave, so the integral is at most that of its tangent at `level`.
    """
    from scipy.special import betaincc, betaln  # noqa: PLC0415 - see the module

    above = betaincc(1 + wins, 1 + losses, level)
    exact = betaln(1 + wins, 1 + losses) + np.log(np.maximum(above, 1e-280)) - wins * np.log(level) - losses * np.log1p(-level)
    slope = losses / (1 - level) - wins / level
    bound = np.where(slope > 0, -np.log(np.maximum(slope, 1 / (1 - level))), np.inf)
    result: Floats = np.where(above > 1e-280, np.minimum(exact, bound), bound)
    return result
