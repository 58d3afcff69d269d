"""From the evidence of blocks to the evidence of a whole rollout: mixtures over alternatives and over start times.

Nobody knows how bad a regression will be nor when it starts. So M_j, the evidence for alternative j, gets a fresh stake `gamma` in every
block: M_j <- E_t(j) * (M_j + gamma_t). The stakes are paid from a purse of 1 that is never overdrawn, hence M + purse is a non-negative
supermartingale that starts at 1 whenever E[E_t] <= 1 under the null, and P(ever M >= 1/alpha) <= alpha (Ville). Everything is kept as
logarithms: evidence of 1e12 requests is finite. Source: e-detectors, Shin, Ramdas, Rinaldo, arXiv:2203.03532; spending is ours.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, sqrt
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Number = Floats | float
"""One number, or one per run."""

LOG_NOTHING = -1e6
"""Logarithm of evidence not yet staked: finite, so that it survives JSON; exp of it is 0."""

LOG_MOST = 690.0
"""Evidence is shown as at most exp(690), about 1e299, so that it stays finite when weighed."""

FIRST_STAKE = 0.5
"""Share of the purse staked on a candidate that is bad from its first block; what is not `LATE` nor `EARLY`."""

LATE = 0.2
"""Share spread evenly over the time to the deadline, but for a tenth of it, which is for later."""

EARLY = 1 - FIRST_STAKE - LATE
"""Share staked soon after the start: it falls with the root of the age."""

SETTLED_S = 5.0
"""Age from which it does so [s]."""


def purse(age_s: Number, deadline_s: float) -> Number:
    """What is left to stake after the first block, `age_s` after the start, of 1; falls and never reaches 0.

    Regressions show soon after a start more often than late, and may yet begin at any time up to `deadline_s`. A stake in every block
    matters: evidence for a total failure dies with each good request, so only the youngest stakes are alive when a failure begins.
    """
    if not isinstance(age_s, np.ndarray):
        return purse_of(float(age_s), deadline_s)
    fading = np.exp(-age_s / deadline_s)
    even = 0.9 * np.maximum(1 - age_s / deadline_s, 0.0) + 0.1 * fading
    left: Number = LATE * even + EARLY * fading / np.sqrt(1 + age_s / SETTLED_S)
    return left


def purse_of(age_s: float, deadline_s: float) -> float:
    """`purse` of a single run."""
    fading = exp(-age_s / deadline_s)
    even = 0.9 * max(1 - age_s / deadline_s, 0.0) + 0.1 * fading
    return LATE * even + EARLY * fading / sqrt(1 + age_s / SETTLED_S)


def kept(elapsed_s: Number, over_s: float) -> Number:
    """The part of the past that is not forgotten yet after `elapsed_s`, one or one per run; a clock that jumps back forgets nothing [s]."""
    if isinstance(elapsed_s, np.ndarray):
        left: Floats = np.exp(-np.maximum(elapsed_s, 0.0) / over_s)
        return left
    return exp(-max(elapsed_s, 0.0) / over_s)


def restart(log_m: Floats, log_e: Floats, gamma: Number) -> Floats:
    """Log M_j after one block.

    Args:
        log_m: log M_j before, alternatives on the last axis.
        log_e: log E_t(j) of the block, same shape.
        gamma: The block's stake, >= 0; without the last axis.
    """
    # exp and log are several times faster than logaddexp, and a stake is at most 1, so whoever has e^690 does not notice it
    staked = np.minimum(log_m, LOG_MOST)
    np.exp(staked, out=staked)
    staked = staked + np.asarray(np.maximum(gamma, 1e-300))[..., np.newaxis]
    np.log(staked, out=staked)
    np.maximum(staked, log_m, out=staked)
    log_after: Floats = staked + log_e
    return np.maximum(log_after, LOG_NOTHING, out=log_after)


def log_mean(log_values: Floats) -> Floats:
    """Log of the mean of exp(log_values) over the last axis: the evidence of a mixture with equal weights."""
    mean: Floats = log_means(log_values, (log_values.shape[-1],))[..., 0]
    return mean


def log_means(log_values: Floats, sizes: tuple[int, ...]) -> Floats:
    """`log_mean` of consecutive parts of the last axis; parts of size 0 are left out.

    Returns: One value per part on the last axis.
    """
    sizes = tuple(size for size in sizes if size)
    if log_values.ndim == 1:
        return _exact_means(log_values, sizes)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        means: Floats = np.log(np.exp(log_values) @ _averages(sizes))
    if not bool((np.abs(means) < LOG_MOST).all()):  # exp over- or underflows
        extreme = ~(np.abs(means) < LOG_MOST).all(axis=-1)
        means[extreme] = _exact_means(log_values[extreme], sizes)
    return means


def _exact_means(log_values: Floats, sizes: tuple[int, ...]) -> Floats:
    ends = np.cumsum(sizes)
    parts = [log_values[..., end - size : end] for end, size in zip(ends.tolist(), sizes, strict=True)]
    return np.stack([np.logaddexp.reduce(part, axis=-1) - log(part.shape[-1]) for part in parts], axis=-1)


@lru_cache(maxsize=64)
def _averages(sizes: tuple[int, ...]) -> Floats:
    """The matrix that takes the mean of each part."""
    matrix = np.zeros((sum(sizes), len(sizes)))
    for index, size in enumerate(sizes):
        start = sum(sizes[:index])
        matrix[start : start + size, index] = 1 / size
    return matrix


def shown(log_evidence: Floats) -> Floats:
    """Evidence as a finite number >= 0."""
    return np.exp(np.minimum(log_evidence, LOG_MOST))


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Evidence of both verdicts so far.

    Attributes:
        log_fail: log M_j of FAIL, alternatives on the last axis, restarted in every block.
        log_pass: log M_j of PASS, staked once at the start.
        left: What is left in the purse for later starts of FAIL, 1 before the first block.
        age_s: Time since the start [s].
    """

    log_fail: Floats
    log_pass: Floats
    left: Number
    age_s: Number

    @classmethod
    def start(cls, fails: int, passes: int) -> Self:
        return cls(log_fail=np.full(fails, LOG_NOTHING), log_pass=np.zeros(passes), left=1.0, age_s=0.0)

    def advance(self, log_e: tuple[Floats, Floats] | None, *, update: Bools | bool, elapsed_s: Number, deadline_s: float) -> "Process":
        """The process after a block.

        Args:
            log_e: log E of the block per alternative of FAIL and of PASS; None = no run had one.
            update: The runs that had a block; the others go on waiting.
            elapsed_s: Time since the end of the block before, one or one per run [s]; a clock that jumps back gives 0.
            deadline_s: Time over which starts are expected [s].
        """
        age_s = self.age_s + np.maximum(elapsed_s, 0.0)
        if log_e is None:
            return Process(log_fail=self.log_fail, log_pass=self.log_pass, left=self.left, age_s=age_s)
        left = np.minimum(purse(age_s, deadline_s), self.left)
        log_fail = restart(self.log_fail, log_e[0], self.left - left)
        log_pass = np.maximum(self.log_pass + log_e[1], LOG_NOTHING)
        if everywhere(update):
            return Process(log_fail=log_fail, log_pass=log_pass, left=left, age_s=age_s)
        waits = ~np.asarray(update)
        np.copyto(log_fail, self.log_fail, where=waits[..., np.newaxis])
        np.copyto(log_pass, self.log_pass, where=waits[..., np.newaxis])
        return Process(log_fail=log_fail, log_pass=log_pass, left=np.where(waits, self.left, left), age_s=age_s)

    def advance_one(self, log_e: tuple[Floats, Floats] | None, *, elapsed_s: float, deadline_s: float) -> "Process":
        """`advance` of a single run."""
        age_s = float(self.age_s) + max(elapsed_s, 0.0)
        if log_e is None:
            return Process(log_fail=self.log_fail, log_pass=self.log_pass, left=self.left, age_s=age_s)
        before = float(self.left)
        left = min(purse_of(age_s, deadline_s), before)
        staked = np.logaddexp(self.log_fail, log(max(before - left, 1e-300)))
        return Process(
            log_fail=np.maximum(log_e[0] + staked, LOG_NOTHING),
            log_pass=np.maximum(self.log_pass + log_e[1], LOG_NOTHING),
            left=left,
            age_s=age_s,
        )


def everywhere(update: Bools | bool) -> bool:
    return update if isinstance(update, bool) else bool(update.all())


def anywhere(update: Bools | bool) -> bool:
    return update if isinstance(update, bool) else bool(update.any())
