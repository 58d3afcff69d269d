"""What a gate says, and how two evidences become one of it (vectorised over runs)."""

from abc import ABC, abstractmethod
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from policies.statistics.mixture import Bools, Floats, shown

MIN_BAD = 3
"""Bad requests of the candidate below which an error gate never fails [requests]: delays, never breaks the guarantee."""

MIN_REQUESTS = 5
"""Requests of the candidate below which no gate fails [requests]."""


class Verdict(StrEnum):
    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_DATA = "NO_DATA"
    ERROR = "ERROR"


def decide(log_fail: Floats, log_pass: Floats, enough: Bools, *, alpha: float, beta: float) -> npt.NDArray[np.str_]:
    """The verdict of each run, as strings equal to `Verdict`: FAIL before PASS before INCONCLUSIVE.

    Args:
        log_fail: log evidence that the candidate is worse.
        log_pass: log evidence that it is not.
        enough: Whether the candidate had requests enough to fail.
        alpha: Probability of ever failing a candidate that is as good, 0 < alpha < 1.
        beta: Probability of ever passing a candidate that is worse than the margin, 0 < beta < 1.
    """
    fails = enough & (log_fail >= -np.log(alpha))
    passes = log_pass >= -np.log(beta)
    return np.where(fails, Verdict.FAIL.value, np.where(passes, Verdict.PASS.value, Verdict.INCONCLUSIVE.value))


class TwoOdds(ABC):
    """What every gate says that can fail and pass: base of their classes, which say what "worse" is and keep what they need to know it."""

    __slots__ = ()

    @property
    @abstractmethod
    def log_fail(self) -> Floats:
        """Log of `evidence`."""

    @property
    @abstractmethod
    def log_pass(self) -> Floats:
        """Log of `evidence_pass`."""

    @property
    @abstractmethod
    def enough(self) -> Bools:
        """Whether there is data enough to fail."""

    @property
    def evidence(self) -> Floats:
        """Odds that the candidate is worse than its gate allows: P(ever >= 1/alpha) <= alpha while it is not."""
        return shown(self.log_fail)

    @property
    def evidence_pass(self) -> Floats:
        """Odds that it is not: P(ever >= 1/beta) <= beta while it is."""
        return shown(self.log_pass)

    def verdict(self, alpha: float, beta: float = 0.05) -> npt.NDArray[np.str_]:
        """PASS, FAIL or INCONCLUSIVE per run, as strings equal to `Verdict`."""
        return decide(self.log_fail, self.log_pass, self.enough, alpha=alpha, beta=beta)
