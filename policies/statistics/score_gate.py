"""Are the candidate's bounded scores (judged quality, ratings; 0 worst, 1 best) lower than stable's by more than a margin? Betting.

Every candidate's score is held against the mean of its own baseline scores: X = mean(y_b) - y_c - delta. FAIL bets that X > 0 in the mean,
PASS that X < 0: E = prod (1 + lambda X) is a fair game at the margin and a losing one within it, whatever the law of the scores, since X is
bounded and lambda small enough that E stays > 0. Unpaired, a baseline score serves once and in order of arrival; paired (a mirrored request
answered by both arms), X is the pair's own difference. Source: Waudby-Smith & Ramdas, arXiv:2010.09686 (constant bets, mixed).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.statistics import means
from policies.statistics.mixture import Bools, Floats, Number, Process, log_mean
from policies.statistics.parts import advance, unpack
from policies.statistics.verdict import MIN_REQUESTS, TwoOdds

BETS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
"""Alternatives: what share of the evidence is staked on a full difference."""

TIGHTEST_AT = 1000.0
"""Scores at which the interval is tightest [requests]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """The margin.

    Attributes:
        margin: How much lower the candidate's mean score may be, 0 <= margin < 1.
        paired: Whether each candidate's score has its own baseline score, of the same request.
        deadline_s: Time over which regressions are expected to start [s].
    """

    margin: float = 0.02
    paired: bool = False
    deadline_s: float = 7200.0

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin of a score must be in [0, 1), got {self.margin}")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline must be > 0 s, got {self.deadline_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreGate(TwoOdds):
    """Evidence so far; `update` gives the next. Leading axes are independent runs. Worse are scores that are lower by more than the margin.

    Attributes:
        process: Evidence per bet.
        compared: Scores of the candidate so far that were compared [requests].
        lower, squares: Sum of mean(y_b) - y_c over them, and of its square: how much lower, for people.
    """

    config: ScoreConfig
    process: Process
    compared: float
    lower: Number
    squares: Number

    @classmethod
    def start(cls, config: ScoreConfig) -> Self:
        return cls(config=config, process=Process.start(len(BETS), len(BETS)), compared=0.0, lower=0.0, squares=0.0)

    def update(self, baseline: npt.ArrayLike, candidate: npt.ArrayLike, *, elapsed_s: float = 10.0) -> "ScoreGate":
        """The gate after one more block.

        Args:
            baseline: Scores in order of arrival on the last axis, each in [0, 1].
            candidate: The same of the other arm; paired: the same requests in the same order.
            elapsed_s: Time since the end of the block before [s].

        Raises:
            ValueError: If a score is outside [0, 1] or not a number, or pairs do not match.
        """
        base, cand = _scores(baseline, "baseline"), _scores(candidate, "candidate")
        if self.config.paired and base.shape != cand.shape:
            raise ValueError(f"paired scores must be of one shape, got {base.shape} and {cand.shape}; hint: leave out unpaired requests")
        lower = differences(base, cand)
        won = capital(lower - self.config.margin, _bets(self.config.margin))
        log_e = won[..., : len(BETS)], won[..., len(BETS) :]
        pairs = lower.shape[-1]
        process = advance(self.process, log_e, update=pairs > 0, elapsed_s=elapsed_s, deadline_s=self.config.deadline_s)
        total, squares = lower.sum(axis=-1), (lower * lower).sum(axis=-1)
        return ScoreGate(
            config=self.config,
            process=process,
            compared=self.compared + pairs,
            lower=self.lower + (total if total.ndim else float(total)),
            squares=self.squares + (squares if squares.ndim else float(squares)),
        )

    @property
    def log_fail(self) -> Floats:
        """Log of `evidence`."""
        return log_mean(self.process.log_fail)

    @property
    def log_pass(self) -> Floats:
        """Log of `evidence_pass`."""
        return log_mean(self.process.log_pass)

    @property
    def enough(self) -> Bools:
        """Whether there are scores enough to fail."""
        return np.asarray(self.compared >= MIN_REQUESTS)

    @property
    def estimate(self) -> Number:
        """How much lower the candidate's mean score is; 0 without data."""
        return self.lower / max(self.compared, 1.0)

    def interval(self, alpha: float = 0.05) -> tuple[Floats, Floats]:
        """Where `estimate` may truly lie, within [-1, 1]: holds at every look with probability 1 - alpha, for many scores."""
        n = max(self.compared, 1.0)
        # two more of the farthest differences: scores that never varied are no proof that they cannot
        variance = (self.squares + 2) / (n + 2) - (self.lower / (n + 2)) ** 2
        rho = means.best_rho(TIGHTEST_AT, alpha, two_sided=True)
        half = means.critical(np.asarray(self.compared), alpha=alpha, rho=rho) * np.sqrt(variance / n) if self.compared else 2.0
        return np.maximum(self.estimate - half, -1.0), np.minimum(self.estimate + half, 1.0)

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        numbers = (self.process.left, self.process.age_s, self.compared, self.lower, self.squares)
        return (*self.process.log_fail.tolist(), *self.process.log_pass.tolist(), *map(float, numbers))

    @classmethod
    def restore(cls, config: ScoreConfig, memory: tuple[float, ...]) -> "ScoreGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged."""
        fails, both = len(BETS), 2 * len(BETS)
        values = unpack(memory, both + 5, "score gate")
        left, age_s, compared, lower, squares = values[both:].tolist()
        process = Process(log_fail=values[:fails], log_pass=values[fails:both], left=left, age_s=age_s)
        return cls(config=config, process=process, compared=compared, lower=lower, squares=squares)


def differences(baseline: Floats, candidate: Floats) -> Floats:
    """How much lower each candidate's score is than the mean of the baseline scores that are its own, in order of arrival.

    Each gets max(1, floor(n_b / n_c)) of them; who gets none is left out. Shape of the candidate's, the last axis perhaps shorter.
    """
    pairs = min(baseline.shape[-1], candidate.shape[-1])
    if not pairs:
        return np.zeros((*candidate.shape[:-1], 0))
    each = max(1, baseline.shape[-1] // candidate.shape[-1])
    own = baseline[..., : pairs * each].reshape(*baseline.shape[:-1], pairs, each).mean(axis=-1)
    lower: Floats = own - candidate[..., :pairs]
    return lower


def capital(excess: Floats, bets: Floats) -> Floats:
    """Log E per bet after staking that share of it on each X in turn.

    Args:
        excess: X on the last axis.
        bets: On X > 0 in the mean, or negative on X < 0; 1 + bet X > 0 for every X there can be.
    """
    log_e: Floats = np.log1p(bets[:, np.newaxis] * excess[..., np.newaxis, :]).sum(axis=-1)
    return log_e


@lru_cache(maxsize=1024)
def _bets(margin: float) -> Floats:
    """Those of FAIL, then those of PASS: X lies between -1 - margin and 1 - margin, so no bet can lose more than 0.8 of what there is."""
    return np.concatenate([BETS / (1 + margin), -BETS / (1 - margin)])


def _scores(values: npt.ArrayLike, arm: str) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim < 1 or (scores.size and not (scores.min() >= 0 and scores.max() <= 1)):
        raise ValueError(f"scores of the {arm} must be a list of numbers in [0, 1]; hint: rescale them, drop what is not a number")
    return scores
