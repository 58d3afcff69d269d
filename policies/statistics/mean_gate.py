"""Is the candidate's mean (cost, tokens) above stable's by more than a margin? Evidence whose guarantee is asymptotic: see `means`.

A relative margin is tested as mean_c - (1 + m) mean_b, which is linear in both means and so needs no logarithm of small blocks; an absolute
one as mean_c - mean_b - delta. With two margins both must be exceeded to FAIL, within either is good enough to PASS. Half of FAIL is the
confidence sequence since the start, half restarts in every block and so finds what begins late.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Self

import numpy as np

from policies.statistics import means
from policies.statistics.means import Moments
from policies.statistics.mixture import LOG_NOTHING, Bools, Floats, Process, log_mean
from policies.statistics.parts import advance, number, unpack
from policies.statistics.verdict import TwoOdds

EFFECTS = np.array([0.02, 0.05, 0.1, 0.2])
"""Bets of the half that restarts: differences, in standard deviations of a request. A larger one is found with the largest of these."""

LARGEST = 10.0
"""How far above its mean a winsorised value may lie [standard deviations]: what the price of a bet must allow for."""

PRICES = (np.expm1(LARGEST * EFFECTS) - LARGEST * EFFECTS) / LARGEST**2
"""Price of each bet per effective request: log of its mean at most, for any law without larger values (Bennett 1962). Half the square of
the bet, which is right for a normal law alone, fails as many as a third of good candidates when values are skewed and blocks are small."""

_EFFECTS = tuple(zip(EFFECTS.tolist(), PRICES.tolist(), strict=True))

MIN_REQUESTS = 100
"""Requests of each arm below which there is no verdict and no bet [requests]: a mean of fewer is not yet normal."""

EQUAL = 1e-200
"""Variance up to which values count as all equal, which is no evidence: nothing says how they would vary."""

_BETA = 0.05
"""The level for which the mixtures are tightest."""

SUMS = 12
"""Numbers in `MeanGate.sums`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanConfig:
    """The margin, and where the test is to be sharpest.

    Attributes:
        relative: A fraction on top of the baseline's mean (which then must be > 0), >= 0, or None.
        absolute: An amount on top, >= 0, in the unit of the values, or None; at least one of the two is set.
        deadline_s: Time over which regressions are expected to start [s].
        tightest_at: Effective requests n_c n_b / (n_c + n_b) at which intervals are tightest, > 0 [requests].
    """

    relative: float | None = 0.05
    absolute: float | None = None
    deadline_s: float = 7200.0
    tightest_at: float = 2000.0

    def __post_init__(self) -> None:
        if self.relative is None and self.absolute is None:
            raise ValueError("a mean gate needs a relative or an absolute margin")
        for name, value in (("relative", self.relative), ("absolute", self.absolute)):
            if value is not None and not 0 <= value < np.inf:
                raise ValueError(f"{name} margin of a mean must be >= 0, got {value}")
        if not self.deadline_s > 0 or not self.tightest_at > 0:
            raise ValueError(f"deadline and tightest_at must be > 0, got {self.deadline_s} and {self.tightest_at}")

    @property
    def forms(self) -> tuple[Floats, Floats]:
        """Per margin: the factor on the baseline's mean and the amount on top of it."""
        return _forms(self.relative, self.absolute)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanGate(TwoOdds):
    """Evidence so far; `update` gives the next. Leading axes are independent runs. Worse is a mean above the margin; asymptotic, so each alpha and beta of its odds is an about.

    Attributes:
        process: Evidence of the half of FAIL that restarts; margins times effects.
        sums: On the last axis: H, and per arm (candidate, baseline) the sum of h mean, of h^2 variance of the mean, requests, squares,
            degrees of freedom; last the sum of h^2 variance of the candidate's mean if its values varied like the baseline's.
    """

    config: MeanConfig
    process: Process
    sums: Floats

    @classmethod
    def start(cls, config: MeanConfig) -> Self:
        return cls(config=config, process=Process.start(len(config.forms[0]) * len(EFFECTS), 0), sums=np.zeros(SUMS))

    def update(self, baseline: Moments, candidate: Moments, *, elapsed_s: float = 10.0) -> "MeanGate":
        """The gate after one more block.

        A block counts where both arms have two requests; thirty are better. Which requests make a block may depend on their number and
        time, never on their values.

        Args:
            baseline: What `moments` says of its values.
            candidate: The same of the other arm, same shape, same cap.
            elapsed_s: Time since the end of the block before [s].
        """
        arms = [(number(arm.requests), number(arm.mean), number(arm.squares)) for arm in (candidate, baseline)]
        if all(isinstance(part, float) for arm in arms for part in arm) and self.sums.ndim == 1:
            log_one, added = _one_block(self.config, self.sums.tolist(), [(float(n), float(mean), float(sq)) for n, mean, sq in arms])
            log_e = None if log_one is None else (np.array(log_one), np.zeros(0))
            sums = np.array(added)
            update: Bools | bool = log_one is not None
        else:
            of_c, of_b = ((np.asarray(n), np.asarray(mean), np.asarray(sq)) for n, mean, sq in arms)
            h = means.weight(of_c[0], of_b[0])
            known = (self.sums[..., 5:7] >= MIN_REQUESTS).all(axis=-1)
            update = (h > 0) & known
            log_e = (_bets(self.config, self.sums, of_c, of_b, h), np.zeros((*h.shape, 0)))
            sums = self.sums + _sums(of_c, of_b, h)
        process = advance(self.process, log_e, update=update, elapsed_s=elapsed_s, deadline_s=self.config.deadline_s)
        return MeanGate(config=self.config, process=process, sums=sums)

    def _score(self, side: float) -> tuple[Floats, Floats]:
        """Z per margin, the candidate's mean above what the margin allows, and H.

        Of skewed values, a few that happen to be small also happen to vary little, so a candidate seen seldom would seem surely cheap: to
        PASS, its values are taken to vary as much as the baseline's at least.
        """
        ratio, amount = self.config.forms
        h, sum_c, sum_b, noise_c, noise_b = (self.sums[..., place, np.newaxis] for place in range(5))
        if side < 0:
            noise_c = np.maximum(noise_c, ratio**2 * self.sums[..., -1, np.newaxis])
        noise = noise_c + ratio**2 * noise_b
        gap = sum_c - ratio * sum_b - amount * h
        varies = noise > EQUAL
        return np.where(varies, gap / np.sqrt(np.where(varies, noise, 1.0)), 0.0), h

    def _since_start(self, side: float) -> Floats:
        """Log E per margin of the confidence sequence: that the mean is above (side 1) or below (-1) what the margin allows."""
        rho = means.best_rho(self.config.tightest_at, _BETA, two_sided=False)
        if self.sums.ndim == 1:
            return np.array(_one_since_start(self.config, self.sums.tolist(), side, rho))
        z, h = self._score(side)
        log_e = np.where(h > 0, means.one_sided(side * z * np.sqrt(h), h, rho), 0.0)
        return np.where(self.enough[..., np.newaxis], log_e, np.minimum(log_e, 0.0))

    @property
    def log_fail(self) -> Floats:
        """Log of `evidence`: the weaker form where both margins must be exceeded."""
        forms = len(self.config.forms[0])
        log_m = self.process.log_fail
        later = log_mean(log_m.reshape(*log_m.shape[:-1], forms, len(EFFECTS)))
        both: Floats = (np.logaddexp(self._since_start(1.0), later) - np.log(2)).min(axis=-1)
        return np.maximum(both, LOG_NOTHING)

    @property
    def log_pass(self) -> Floats:
        """Log of `evidence_pass`: the mean of the forms."""
        return np.maximum(log_mean(self._since_start(-1.0)), LOG_NOTHING)

    @property
    def enough(self) -> Bools:
        """Whether both arms have requests enough for any verdict."""
        return np.asarray((self.sums[..., 5:7] >= MIN_REQUESTS).all(axis=-1))

    def difference(self, alpha: float = 0.05) -> tuple[Floats, Floats]:
        """Where the difference of the means may lie: holds at every look with probability 1 - alpha; without data everywhere."""
        h, sum_c, sum_b, noise_c, noise_b = (self.sums[..., place] for place in range(5))
        safe, noise = np.maximum(h, 1e-300), noise_c + noise_b
        half = np.where((h > 0) & (noise > EQUAL), self._critical(alpha) * np.sqrt(noise) / safe, np.inf)
        return (sum_c - sum_b) / safe - half, (sum_c - sum_b) / safe + half

    def ratio(self, alpha: float = 0.05) -> tuple[Floats, Floats]:
        """Where the ratio of the means may lie, >= 0, likewise: all r that D_c - r D_b does not contradict (Fieller 1954)."""
        _, sum_c, sum_b, noise_c, noise_b = (self.sums[..., place] for place in range(5))
        square = np.minimum(self._critical(alpha) ** 2, 1e300)
        a, b, c = sum_b**2 - square * noise_b, sum_b * sum_c, sum_c**2 - square * noise_c
        root = np.sqrt(np.maximum(b * b - a * c, 0.0))
        known = (a > 0) & (noise_c + noise_b > EQUAL)
        safe = np.where(known, a, 1.0)
        return np.where(known, np.maximum((b - root) / safe, 0.0), 0.0), np.where(known, (b + root) / safe, np.inf)

    def _critical(self, alpha: float) -> Floats:
        return means.critical(self.sums[..., 0], alpha=alpha, rho=means.best_rho(self.config.tightest_at, alpha, two_sided=True))

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        return (*self.process.log_fail.tolist(), float(self.process.left), float(self.process.age_s), *self.sums.tolist())

    @classmethod
    def restore(cls, config: MeanConfig, memory: tuple[float, ...]) -> "MeanGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged or of a gate with other margins."""
        fails = len(config.forms[0]) * len(EFFECTS)
        values = unpack(memory, fails + 2 + SUMS, "mean gate")
        left, age_s = values[fails : fails + 2].tolist()
        process = Process(log_fail=values[:fails], log_pass=np.zeros(0), left=left, age_s=age_s)
        return cls(config=config, process=process, sums=values[fails + 2 :])


@lru_cache(maxsize=1024)
def _forms(relative: float | None, absolute: float | None) -> tuple[Floats, Floats]:
    forms = [] if relative is None else [(1 + relative, 0.0)]
    forms += [] if absolute is None else [(1.0, absolute)]
    ratio, amount = np.array(forms).T
    return ratio, amount


Block = tuple[Floats, Floats, Floats]
"""(requests, mean, squares) of one arm."""


def _sums(of_c: Block, of_b: Block, h: Floats) -> Floats:
    """What a block adds to `MeanGate.sums`; nothing where h is 0."""
    (n_c, mean_c, squares_c), (n_b, mean_b, squares_b) = of_c, of_b
    noise_c, noise_b = means.variance(n_c, squares_c), means.variance(n_b, squares_b)
    noises = h * h * noise_c, h * h * noise_b
    likewise = noises[1] * n_b / np.maximum(n_c, 1.0)
    new = (h, h * mean_c, h * mean_b, *noises, n_c, n_b, squares_c, squares_b, n_c - 1, n_b - 1, likewise)
    added: Floats = np.where((h > 0)[..., np.newaxis], np.stack(new, axis=-1), 0.0)
    return added


def _bets(config: MeanConfig, sums: Floats, of_c: Block, of_b: Block, h: Floats) -> Floats:
    """Log E of a block per margin and effect, the spread of the values taken as known from the blocks before."""
    ratio, amount = config.forms
    spread = sums[..., 7:9] / np.maximum(sums[..., 9:11], 1.0)
    requests_c, requests_b = (np.maximum(arm[0], 1.0)[..., np.newaxis] for arm in (of_c, of_b))
    noise = (spread[..., :1] / requests_c + ratio**2 * spread[..., 1:] / requests_b)[..., np.newaxis]
    gap = (of_c[1][..., np.newaxis] - ratio * of_b[1][..., np.newaxis] - amount)[..., np.newaxis]
    size = h[..., np.newaxis, np.newaxis]
    varies = noise > EQUAL
    log_e = np.where(varies, EFFECTS * np.sqrt(size / np.where(varies, noise, 1.0)) * gap - size * PRICES, 0.0)
    flat: Floats = log_e.reshape(*log_e.shape[:-2], -1)
    return flat


def _one_block(config: MeanConfig, sums: list[float], arms: list[tuple[float, float, float]]) -> tuple[list[float] | None, list[float]]:
    """`_bets` (None: no bet yet) and the sums after, of one run, in plain floats."""
    (n_c, mean_c, squares_c), (n_b, mean_b, squares_b) = arms
    if n_c < 2 or n_b < 2:
        return None, sums
    h = n_c * n_b / (n_c + n_b)
    log_e: list[float] | None = None
    if sums[5] >= MIN_REQUESTS and sums[6] >= MIN_REQUESTS:
        log_e = []
        spread_c, spread_b = sums[7] / sums[9] / n_c, sums[8] / sums[10] / n_b
        for ratio, amount in zip(*(form.tolist() for form in config.forms), strict=True):
            noise = spread_c + ratio**2 * spread_b
            scale = sqrt(h / noise) * (mean_c - ratio * mean_b - amount) if noise > EQUAL else 0.0
            log_e += [effect * scale - h * price if noise > EQUAL else 0.0 for effect, price in _EFFECTS]
    noise_c, noise_b = squares_c / (n_c * (n_c - 1)), squares_b / (n_b * (n_b - 1))
    new = (
        h,
        h * mean_c,
        h * mean_b,
        h * h * noise_c,
        h * h * noise_b,
        n_c,
        n_b,
        squares_c,
        squares_b,
        n_c - 1,
        n_b - 1,
        h * h * noise_b * n_b / n_c,
    )
    return log_e, [before + more for before, more in zip(sums, new, strict=True)]


def _one_since_start(config: MeanConfig, sums: list[float], side: float, rho: float) -> list[float]:
    """`MeanGate._since_start` of one run, in plain floats."""
    h, sum_c, sum_b, noise_c, noise_b = sums[:5]
    found: list[float] = []
    for ratio, amount in zip(*(form.tolist() for form in config.forms), strict=True):
        noise = (noise_c if side > 0 else max(noise_c, ratio**2 * sums[-1])) + ratio**2 * noise_b
        z = side * (sum_c - ratio * sum_b - amount * h) / sqrt(noise) if noise > EQUAL else 0.0
        log_e = means.one_sided_one(z * sqrt(h), h, rho) if h else 0.0
        found.append(log_e if min(sums[5:7]) >= MIN_REQUESTS else min(log_e, 0.0))
    return found
