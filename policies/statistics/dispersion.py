"""How much more do counts of the arms differ than chance makes them, while both run the same version (A/A)? Noise that is not the version's.

Pods, hosts and sessions have good and bad minutes of their own. Tests that take requests for independent then fail good candidates: in
39 to 100 % of simulated days at 100 requests a second and more, after this calibration in 2 to 3 %. Before a rollout stable's pods are split
as the candidate's will be, and each minute's Pearson statistic X2 of the split is noted; phi = its mean, at least 1, five minutes of 1
assumed before. Every log evidence is then divided by phi: E^(1/phi), whose mean is at most E's to the power of 1/phi (Jensen), so dividing
never breaks a guarantee and only costs time. Source: quasi-likelihood, Wedderburn 1974; McCullagh & Nelder 1989, section 4.5. That it is
enough where noise is not "phi times Poisson" is known by simulation only.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.statistics.mixture import Floats, Number
from policies.statistics.parts import Amount, number, unpack

PRIOR_MINUTES = 5.0
"""Minutes of plain chance that are assumed before the first."""

PRIOR_ERRORS = 5.0
"""Errors of each arm, at the common rate, that are assumed before the first minute: keeps the first ratios near 1."""

MANY = 5.0
"""phi above which the candidate has too few pods to be judged: more would average their noise out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispersion:
    """Noise seen so far; `update` gives the next. Leading axes are independent runs.

    Attributes:
        squares: Sum of X2 over the minutes.
        minutes: Those with an error in them and requests of both arms; no others say anything.
        requests_c, errors_c, requests_b, errors_b: Sums of earlier minutes, of which the ratio of the arms is known [requests].
    """

    squares: Number
    minutes: Number
    requests_c: Number
    errors_c: Number
    requests_b: Number
    errors_b: Number

    @classmethod
    def start(cls) -> Self:
        return cls(squares=0.0, minutes=0.0, requests_c=0.0, errors_c=0.0, requests_b=0.0, errors_b=0.0)

    def update(self, baseline: tuple[Amount, Amount], candidate: tuple[Amount, Amount]) -> "Dispersion":
        """The noise after one more minute, its expectation taken from the minutes before.

        Args:
            baseline: (requests, errors) of the larger part of stable's pods, numbers or arrays of one shape [requests].
            candidate: The same of the part as large as the candidate will be.
        """
        n_b, k_b, n_c, k_c = (number(value) for value in (*baseline, *candidate))
        ratio = self._ratio()
        errors = k_c + k_b
        q = n_c * ratio / np.maximum(n_c * ratio + n_b, 1e-300)
        told = (errors > 0) & (q > 0) & (q < 1)
        spread = np.where(told, errors * q * (1 - q), 1.0)
        square = np.where(told, (k_c - errors * q) ** 2 / spread, 0.0)
        return Dispersion(
            squares=_plain(self.squares + square),
            minutes=_plain(self.minutes + told),
            requests_c=self.requests_c + n_c,
            errors_c=self.errors_c + k_c,
            requests_b=self.requests_b + n_b,
            errors_b=self.errors_b + k_b,
        )

    def _ratio(self) -> Number:
        """Error rate of the candidate's part over that of the other, so far."""
        rate = (self.errors_c + self.errors_b + 1) / (self.requests_c + self.requests_b + 1)
        prior = PRIOR_ERRORS / rate
        return (self.errors_c + PRIOR_ERRORS) / (self.requests_c + prior) * (self.requests_b + prior) / (self.errors_b + PRIOR_ERRORS)

    @property
    def phi(self) -> Number:
        """How many times the variance of counts is what chance alone makes it, >= 1."""
        return _plain(np.maximum(1.0, (PRIOR_MINUTES + self.squares) / (PRIOR_MINUTES + self.minutes)))

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        numbers = (self.squares, self.minutes, self.requests_c, self.errors_c, self.requests_b, self.errors_b)
        return tuple(float(value) for value in numbers)

    @classmethod
    def restore(cls, memory: tuple[float, ...]) -> "Dispersion":
        """The noise that said `memory`. Raises: ValueError: If it is damaged."""
        squares, minutes, requests_c, errors_c, requests_b, errors_b = unpack(memory, 6, "dispersion").tolist()
        return cls(squares=squares, minutes=minutes, requests_c=requests_c, errors_c=errors_c, requests_b=requests_b, errors_b=errors_b)


def divide(log_e: tuple[Floats, Floats], phi: Number) -> tuple[Floats, Floats]:
    """Log E of a block, of FAIL and of PASS with alternatives on the last axis, of which chance made only 1/phi; phi >= 1 per run."""
    by = np.maximum(np.asarray(phi, dtype=np.float64), 1.0)[..., np.newaxis]
    return log_e[0] / by, log_e[1] / by


def design_effect(requests: npt.ArrayLike, errors: npt.ArrayLike) -> float:
    """How many times larger errors that come in clusters (of a session, a pod, a user) make the variance of an error rate, >= 1.

    With sticky routing a whole session is served by one arm, so the session is what chance draws. The between-cluster variance of the
    ratio estimate over the binomial one, shrunk to 1 as if `PRIOR_MINUTES` more clusters had none. Source: Rao & Scott 1992.

    Args:
        requests: Of each cluster that has any [requests].
        errors: Of the same clusters.
    """
    n, k = np.asarray(requests, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    clusters, total = n.size, n.sum()
    rate = k.sum() / max(total, 1.0)
    if clusters < 2 or not 0 < rate < 1:
        return 1.0
    raw = clusters / (clusters - 1) * ((k - n * rate) ** 2).sum() / (total * rate * (1 - rate))
    return float(max(1.0, (PRIOR_MINUTES + clusters * raw) / (PRIOR_MINUTES + clusters)))


def _plain(value: npt.ArrayLike) -> Number:
    found = np.asarray(value, dtype=np.float64)
    return found if found.ndim else float(found)
