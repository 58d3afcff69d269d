"""What a gate says, and how two evidences become one of it (vectorised over runs)."""

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from policies.statistics.mixture import Floats

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


def decide(log_fail: Floats, log_pass: Floats, enough: npt.NDArray[np.bool_], *, alpha: float, beta: float) -> npt.NDArray[np.str_]:
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
