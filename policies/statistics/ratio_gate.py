"""Do the arms get the share of requests that they should? A sample ratio that is off means that nothing else may be believed.

Two questions, one form: *started* requests against the weights, and *completed* against started ones; only the second sees a candidate that
swallows requests without an error. Under the null each request falls to arm a with the probability w_a that is known before it; the
alternative is a Dirichlet around the weights that follows what was seen, so the evidence of a stage is
    ln E = ln G(k) - ln G(k + N) + sum_a [ln G(k w_a + n_a) - ln G(k w_a)] - sum_a n_a ln w_a,    G = Gamma, k = 100,
however its requests were cut into blocks. Source: Lindon & Malek, arXiv:2011.03567. Where the weights change from block to block (completed
against started) the same alternative is tilted with them: each block's law is fixed before it, so E stays a martingale. Completed requests
are drawn from the started ones without replacement, for which E is smaller in the mean (Hoeffding 1963, theorem 4). At each change of
weights the alternative starts anew, and each stage gets a part of the level: a mismatch that comes with a stage is seen as fast as at first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma, log
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.statistics.mixture import LOG_NOTHING, Bools, Floats, shown
from policies.statistics.parts import Amount, unpack
from policies.statistics.special import log_gamma
from policies.statistics.verdict import Verdict

ALPHA = 0.001
"""Probability of ever calling a right ratio wrong: small, because it stops every verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioConfig:
    """The shares at the start.

    Attributes:
        shares: Of the baseline, then of each candidate; >= 0, of any sum > 0. What an arm of share 0 gets is not looked at.
        stages: Number of shares that are planned one after the other, >= 1; more may come, with ever less of the level.
        concentration: k: the larger, the smaller the mismatch that is looked for [requests].
    """

    shares: tuple[float, ...]
    stages: int = 1
    concentration: float = 100.0

    def __post_init__(self) -> None:
        if len(self.shares) < 2:
            raise ValueError(f"a sample ratio needs the shares of two arms at least, got {len(self.shares)}")
        _checked(self.shares)
        if self.stages < 1 or not self.concentration > 0:
            raise ValueError(f"stages must be >= 1 and concentration > 0, got {self.stages} and {self.concentration}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioGate:
    """Evidence so far; `update` gives the next. Leading axes are independent runs, the last one is the arms.

    Attributes:
        shares: Of the present stage, sum 1.
        stage: Number of stages before this one.
        log_stage: Log evidence of the present stage, of its own.
        log_before: Log of what the stages before have left, their parts of the level taken off.
        seen, due: Requests of this stage per arm: seen, and expected by the weights [requests].
    """

    config: RatioConfig
    shares: Floats
    stage: int
    log_stage: Floats
    log_before: Floats
    seen: Floats
    due: Floats

    @classmethod
    def start(cls, config: RatioConfig) -> Self:
        none = np.zeros(len(config.shares))
        return cls(
            config=config,
            shares=_checked(config.shares),
            stage=0,
            log_stage=np.zeros(()),
            log_before=np.full((), LOG_NOTHING),
            seen=none,
            due=none,
        )

    def reweigh(self, shares: tuple[float, ...]) -> "RatioGate":
        """The gate at the start of the next stage. The same shares again are no new stage."""
        after = _checked(shares)
        if len(after) != len(self.shares):
            raise ValueError(f"this gate watches {len(self.shares)} arms, got shares of {len(after)}")
        if np.array_equal(after, self.shares):
            return self
        none = np.zeros(len(after))
        return RatioGate(
            config=self.config,
            shares=after,
            stage=self.stage + 1,
            log_stage=np.zeros(()),
            log_before=self.log_evidence,
            seen=none,
            due=none,
        )

    def update(
        self,
        baseline: Amount,
        *candidates: Amount,
        of: tuple[Amount, ...] | None = None,
        elapsed_s: float = 10.0,  # noqa: ARG002 - one form for all gates
    ) -> "RatioGate":
        """The gate after one more block.

        Args:
            baseline: Requests of the baseline, numbers or arrays of one shape [requests].
            candidates: The same of each candidate.
            of: Requests of each arm, the baseline first, of which those were to come: completed *of* started; None = by the shares. Take
                those started long enough ago to be answered, or a slow arm looks like one that loses requests.
            elapsed_s: Not needed.
        """
        counts = np.stack([np.asarray(count, dtype=np.float64) for count in (baseline, *candidates)], axis=-1)
        if counts.shape[-1] != len(self.shares):
            raise ValueError(f"this gate watches {len(self.shares)} arms, got counts of {counts.shape[-1]}")
        shares = self.shares
        if of is not None:
            started = np.stack([np.asarray(count, dtype=np.float64) for count in of], axis=-1)
            shares = started / np.maximum(started.sum(axis=-1, keepdims=True), 1.0)
        counts = np.where(shares > 0, counts, 0.0)
        due = shares * counts.sum(axis=-1, keepdims=True)
        log_e = _block(counts, shares, self.seen, self.due, self.config.concentration)
        return RatioGate(
            config=self.config,
            shares=self.shares,
            stage=self.stage,
            log_stage=np.maximum(self.log_stage + log_e, LOG_NOTHING),
            log_before=self.log_before,
            seen=self.seen + counts,
            due=self.due + due,
        )

    @property
    def log_evidence(self) -> Floats:
        """Log of `evidence`."""
        total: Floats = np.logaddexp(self.log_before, self.log_stage + np.log(_part(self.stage, self.config.stages)))
        return total

    @property
    def evidence(self) -> Floats:
        """Odds that the ratio is wrong: P(ever >= 1/alpha) <= alpha over all stages while it is right."""
        return shown(self.log_evidence)

    @property
    def evidence_pass(self) -> Floats:
        """Always 0: a ratio that seems right proves nothing about an arm."""
        return np.zeros(np.shape(self.log_evidence))

    def verdict(self, alpha: float = ALPHA, beta: float = 0.05) -> npt.NDArray[np.str_]:  # noqa: ARG002 - one form for all gates
        """ERROR where the ratio is wrong, since no arm is to blame but the measurement, else INCONCLUSIVE; never PASS nor FAIL."""
        return np.where(invalid(self, alpha), Verdict.ERROR.value, Verdict.INCONCLUSIVE.value)

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        numbers = (float(self.stage), float(self.log_stage), float(self.log_before))
        return (*numbers, *self.shares.tolist(), *self.seen.tolist(), *self.due.tolist())

    @classmethod
    def restore(cls, config: RatioConfig, memory: tuple[float, ...]) -> "RatioGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged or of another number of arms."""
        arms = len(config.shares)
        values = unpack(memory, 3 + 3 * arms, "ratio gate")
        shares, seen, due = values[3:].reshape(3, arms)
        return cls(
            config=config,
            shares=shares,
            stage=int(values[0]),
            log_stage=np.asarray(values[1]),
            log_before=np.asarray(values[2]),
            seen=seen,
            due=due,
        )


def invalid(gate: RatioGate, alpha: float = ALPHA) -> Bools:
    """Whether the sample ratio is so far off that no verdict counts: hold and page, whatever other gates say."""
    return np.asarray(gate.log_evidence >= -np.log(alpha))


def log_ratio(counts: Sequence[int], shares: Sequence[float], concentration: float = 100.0) -> float:
    """Log evidence of a single stage from its sums, in plain floats: the formula of the module.

    Args:
        counts: Requests of each arm [requests].
        shares: Of each arm, of sum 1; what an arm of share 0 gets is not looked at.
    """
    none = [0.0] * len(counts)
    return _one_block([float(count) for count in counts], list(shares), none, none, concentration)


def _block(counts: Floats, shares: Floats, seen: Floats, due: Floats, concentration: float) -> Floats:
    """Log E of one block; arms on the last axis. With constant shares the blocks add up to the formula of the module."""
    if counts.ndim == 1 and seen.ndim == 1:
        return np.asarray(_one_block(counts.tolist(), shares.tolist(), seen.tolist(), due.tolist(), concentration))
    weight = concentration + seen.sum(axis=-1)
    tilt = shares * (concentration * shares + seen) / np.where(shares > 0, concentration * shares + due, 1.0)
    alpha = weight[..., np.newaxis] * tilt / np.maximum(tilt.sum(axis=-1, keepdims=True), 1e-300)
    alpha = np.where(alpha > 0, alpha, 1.0)
    arms = log_gamma(alpha + counts) - log_gamma(alpha) - counts * np.log(np.where(shares > 0, shares, 1.0))
    log_e: Floats = log_gamma(weight) - log_gamma(weight + counts.sum(axis=-1)) + arms.sum(axis=-1)
    return log_e


def _one_block(counts: list[float], shares: list[float], seen: list[float], due: list[float], concentration: float) -> float:
    """`_block` of one run, in plain floats: a few arms are too few for numpy to pay."""
    arms = [
        (n, w, w * (concentration * w + s) / (concentration * w + d)) for n, w, s, d in zip(counts, shares, seen, due, strict=True) if w > 0
    ]
    weight, tilts = concentration + sum(seen), sum(tilt for _, _, tilt in arms)
    log_e = lgamma(weight) - lgamma(weight + sum(count for count, _, _ in arms))
    for count, share, tilt in arms:
        if count:
            alpha = weight * tilt / tilts
            log_e += lgamma(alpha + count) - lgamma(alpha) - count * log(share)
    return log_e


def _part(stage: int, planned: int) -> float:
    """The part of the level of a stage: even over those planned, one more part halved again and again for those that were not."""
    even = 1 / (planned + 1)
    return even if stage < planned else even * 0.5 ** min(stage - planned + 1, 1000)


def _checked(shares: tuple[float, ...]) -> Floats:
    """Shares of sum 1. Raises: ValueError: If one is negative or not finite, or all are 0."""
    values = np.array(shares, dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or not values.sum() > 0:
        raise ValueError(f"shares must be >= 0 and not all 0, got {shares}")
    normal: Floats = values / values.sum()
    return normal
