"""Which of K arms is the best, provably within a tolerance: pairwise confidence sequences, guardrails first, the incumbent in doubt.

1. An arm can win only while it is eligible (no guardrail failed) and passed (every guardrail says PASS); the incumbent always may.
2. Arms are compared by one utility in printed exchange rates, or by several objectives in strict order, each with its tolerance eps.
3. a is as good as b if the objectives, in order, say so: better by more than eps ends the comparison, not worse by eps goes on to the next.
4. The winner is as good as every other arm that is still in; if it is not the incumbent, it is also better than it in some objective.
   Of several the incumbent wins, else the one with the best mean of the first objective.
5. An arm that is surely worse than one that is still in is dropped. No winner at the deadline: the incumbent.

Only the pairs with the truly best arm can make a wrong winner, hence the level alpha / (K-1), and once more divided by the number of
objectives. Comparisons are stratified by block (see `means`), so traffic may be moved between arms by what is known: `top_two`.
Source: confidence sequences of Waudby-Smith et al., arXiv:2103.06476; allocation of Russo, arXiv:1602.08448.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.statistics import means
from policies.statistics.mixture import Bools, Floats
from policies.statistics.parts import unpack

MIN_REQUESTS = 100
"""Requests of an arm below which nothing is said of it [requests]: a mean of fewer is not yet normal."""

FLOOR = 0.05
"""Least share of an arm while traffic is adaptive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One thing to compare by.

    Attributes:
        name: For people.
        tolerance: eps: a difference that does not matter, > 0, in the objective's unit.
        lower_is_better: True for cost and latency.
    """

    name: str
    tolerance: float
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < np.inf:
            raise ValueError(
                f"tolerance of objective {self.name!r} must be > 0, got {self.tolerance}; hint: without one equal arms never end"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Utility:
    """One number for all objectives: the sum of each value times its exchange rate, per request.

    Attributes:
        rates: (name, utility of one unit); negative for what is better when lower.
    """

    rates: tuple[tuple[str, float], ...]

    def of(self, values: Mapping[str, Floats]) -> Floats:
        """Utility of each request. Raises: ValueError: If a value is missing."""
        missing = [name for name, _ in self.rates if name not in values]
        if missing:
            raise ValueError(f"the utility needs {', '.join(missing)} of each request; hint: report it or take it out of the rates")
        return np.asarray(sum(rate * np.asarray(values[name], dtype=np.float64) for name, rate in self.rates), dtype=np.float64)

    def breakdown(self, means_of: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
        """What each objective's mean adds to the mean utility, in the order of the rates."""
        return tuple((name, rate * means_of[name]) for name, rate in self.rates)

    def __str__(self) -> str:
        return "U = " + " ".join(f"{rate:+g} x {name}" for name, rate in self.rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerConfig:
    """What the arms are compared by.

    Attributes:
        arms: K >= 2; arm 0 is the incumbent.
        objectives: In strict order; one for a utility.
        tightest_at: Effective requests n_a n_b / (n_a + n_b) of a pair at which intervals are tightest, > 0 [requests].
    """

    arms: int
    objectives: tuple[Objective, ...]
    tightest_at: float = 2000.0

    def __post_init__(self) -> None:
        if self.arms < 2 or not self.objectives:
            raise ValueError(f"a comparison needs two arms and one objective at least, got {self.arms} and {len(self.objectives)}")
        if not self.tightest_at > 0:
            raise ValueError(f"tightest_at must be > 0 requests, got {self.tightest_at}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What the comparison says; leading axes are independent runs.

    Attributes:
        winner: Index of the arm that has won, -1 while none has.
        dropped: Per arm, whether it is surely worse than one that is still in.
        as_good: [a, b]: whether a is as good as b; False on the diagonal.
    """

    winner: npt.NDArray[np.intp]
    dropped: Bools
    as_good: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerGate:
    """Comparisons so far; `update` gives the next. Leading axes are independent runs.

    Attributes:
        effective: [a, b]: sum of h [requests].
        gaps: [objective, a, b]: sum of h times how much higher a's mean is.
        noise: [objective, a, b]: sum of h^2 times the variance of the difference.
        requests: Per arm [requests].
        totals: [objective, arm]: sum of the values.
    """

    config: WinnerConfig
    effective: Floats
    gaps: Floats
    noise: Floats
    requests: Floats
    totals: Floats

    @classmethod
    def start(cls, config: WinnerConfig) -> Self:
        arms, objectives = config.arms, len(config.objectives)
        pairs = np.zeros((objectives, arms, arms))
        return cls(
            config=config,
            effective=np.zeros((arms, arms)),
            gaps=pairs,
            noise=pairs,
            requests=np.zeros(arms),
            totals=np.zeros((objectives, arms)),
        )

    def update(self, requests: npt.ArrayLike, mean: npt.ArrayLike, squares: npt.ArrayLike) -> "WinnerGate":
        """The gate after one more block. A pair of arms counts where both have two requests.

        Args:
            requests: Per arm, on the last axis [requests].
            mean: [objective, arm]: means of the block's values (finite, winsorised; of an arm without requests anything finite).
            squares: [objective, arm]: sums of squared distances from them.
        """
        n, m, q = (np.asarray(values, dtype=np.float64) for values in (requests, mean, squares))
        h = means.weight(n[..., :, np.newaxis], n[..., np.newaxis, :]) * (1 - np.eye(self.config.arms))
        spread = means.variance(n[..., np.newaxis, :], q)
        wide = h[..., np.newaxis, :, :]
        return WinnerGate(
            config=self.config,
            effective=self.effective + h,
            gaps=self.gaps + wide * (m[..., :, np.newaxis] - m[..., np.newaxis, :]),
            noise=self.noise + wide * wide * (spread[..., :, np.newaxis] + spread[..., np.newaxis, :]),
            requests=self.requests + n,
            totals=self.totals + m * n[..., np.newaxis, :],
        )

    @property
    def estimates(self) -> Floats:
        """[objective, arm]: mean of all values; 0 without data. For people: not stratified."""
        average: Floats = self.totals / np.maximum(self.requests, 1.0)[..., np.newaxis, :]
        return average

    def bounds(self, alpha: float) -> tuple[Floats, Floats]:
        """[objective, a, b]: where a's mean less b's may lie. All pairs with any one arm hold at every look with probability 1 - alpha.

        Infinite where an arm has too few requests or values do not vary.
        """
        level = alpha / (self.config.arms - 1) / len(self.config.objectives)
        rho = means.best_rho(self.config.tightest_at, level, two_sided=True)
        h = self.effective[..., np.newaxis, :, :]
        seen = self.requests >= MIN_REQUESTS
        known = (h > 0) & (self.noise > 0) & (seen[..., np.newaxis, :, np.newaxis] & seen[..., np.newaxis, np.newaxis, :])
        safe = np.where(h > 0, h, 1.0)
        half = np.where(known, means.critical(h, alpha=level, rho=rho) * np.sqrt(self.noise) / safe, np.inf)
        middle = self.gaps / safe
        return middle - half, middle + half

    def verdicts(self, alpha: float, *, eligible: npt.ArrayLike, passed: npt.ArrayLike, over: bool = False) -> Verdicts:
        """Who has won and who is dropped.

        Args:
            alpha: Probability of ever naming an arm that is not within the tolerance of the best, 0 < alpha < 1.
            eligible: Per arm, whether no guardrail has failed; the incumbent's entry is not looked at.
            passed: Per arm, whether every guardrail says PASS; likewise.
            over: Whether the deadline is reached: then the incumbent wins if none has.
        """
        incumbent = np.arange(self.config.arms) == 0
        able = np.asarray(eligible, dtype=bool) | incumbent
        as_good, improves = self._compared(alpha)
        dropped = (self._surely_better(alpha) & able[..., :, np.newaxis]).any(axis=-2)
        rivals = (able & ~dropped)[..., np.newaxis, :] & ~np.eye(self.config.arms, dtype=bool)
        wins = (as_good | ~rivals).all(axis=-1) & ~dropped & (incumbent | (able & np.asarray(passed, dtype=bool) & improves[..., 0]))
        sign = -1.0 if self.config.objectives[0].lower_is_better else 1.0
        rank = np.where(wins, sign * self.estimates[..., 0, :], -np.inf)
        best = np.where(wins[..., 0], 0, rank.argmax(axis=-1))
        return Verdicts(winner=np.where(wins.any(axis=-1), best, 0 if over else -1), dropped=dropped, as_good=as_good)

    def _compared(self, alpha: float) -> tuple[Bools, Bools]:
        """[a, b]: whether a is as good as b, and whether it is that and better in an objective; False on the diagonal."""
        low = self._low(alpha)
        as_good = np.zeros(low.shape[:-3] + low.shape[-2:], dtype=bool)
        higher, still = as_good.copy(), ~np.broadcast_to(np.eye(self.config.arms, dtype=bool), as_good.shape)
        for place, objective in enumerate(self.config.objectives):
            at_least = low[..., place, :, :]
            as_good |= still & (at_least > objective.tolerance)
            higher |= still & (at_least > 0)
            still = still & (at_least > -objective.tolerance)
        as_good |= still
        return as_good, as_good & higher

    def _surely_better(self, alpha: float) -> Bools:
        """[a, b]: whether a is better than b in the first objective: at all if it is the only one, else by more than its tolerance."""
        first = self.config.objectives[0]
        surely: Bools = self._low(alpha)[..., 0, :, :] > (first.tolerance if len(self.config.objectives) > 1 else 0.0)
        return surely

    def _low(self, alpha: float) -> Floats:
        """[objective, a, b]: how much better a is at least."""
        low, high = self.bounds(alpha)
        lower = np.array([objective.lower_is_better for objective in self.config.objectives])[:, np.newaxis, np.newaxis]
        return np.where(lower, -high, low)

    def needed(self, alpha: float) -> Floats:
        """[objective, a, b]: effective requests in all until a is likely shown not worse than b; infinite where it seems to be, or unknown."""
        level = alpha / (self.config.arms - 1) / len(self.config.objectives)
        eps = np.array([objective.tolerance for objective in self.config.objectives])[:, np.newaxis, np.newaxis]
        sign = np.array([-1.0 if objective.lower_is_better else 1.0 for objective in self.config.objectives])[:, np.newaxis, np.newaxis]
        h = self.effective[..., np.newaxis, :, :]
        known = (h > 0) & (self.noise > 0)
        gap = sign * self.gaps / np.where(known, h, 1.0) + eps
        spread = self.noise / np.where(known, h, 1.0)
        return np.where(known & (gap > 0), 2 * np.log(1 / level) * spread / np.where(gap > 0, gap, 1.0) ** 2, np.inf)

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        parts = (self.effective, self.gaps, self.noise, self.requests, self.totals)
        return tuple(float(value) for part in parts for value in part.ravel())

    @classmethod
    def restore(cls, config: WinnerConfig, memory: tuple[float, ...]) -> "WinnerGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged or of other arms or objectives."""
        arms, objectives = config.arms, len(config.objectives)
        shapes = ((arms, arms), (objectives, arms, arms), (objectives, arms, arms), (arms,), (objectives, arms))
        sizes = [int(np.prod(shape)) for shape in shapes]
        parts = np.split(unpack(memory, sum(sizes), "winner gate"), np.cumsum(sizes)[:-1])
        effective, gaps, noise, requests, totals = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        return cls(config=config, effective=effective, gaps=gaps, noise=noise, requests=requests, totals=totals)


def top_two(mean: Floats, deviation: Floats, normals: Floats, *, within: Bools, floor: float = FLOOR) -> Floats:
    """Shares of the arms by top-two Thompson sampling: half to the arm that is probably best, half to its probable rivals.

    Args:
        mean: Mean utility per arm, higher is better.
        deviation: Standard error of each mean, > 0; large for an arm hardly seen.
        normals: Standard normal draws, shape (many, arms): the only randomness, so the same draws give the same shares.
        within: The arms that are still in, one at least; the others get nothing.
        floor: Least share of an arm that is in, so that no comparison starves; at most an even share.
    Returns: Shares of sum 1.
    """
    draws = np.where(within, mean + deviation * normals, -np.inf)
    best = np.bincount(draws.argmax(axis=-1), minlength=len(mean)) / len(draws)
    rest = np.where(best < 1, best / np.maximum(1 - best, 1e-300), 0.0)
    # the second is drawn until it differs from the first: P(a second) = sum over i != a of P(i) P(a) / (1 - P(i))
    second = best * (rest.sum() - rest)
    shares = np.where(within, best / 2 + second / 2, 0.0)
    arms = within.sum()
    least = min(floor, 1 / arms)
    missing = 1 - shares.sum()
    even: Floats = np.where(within, least + (1 - least * arms) * (shares + missing / arms), 0.0)
    return even
