"""Who wins when people or judges compare two answers to one request, and which arm is wrong when only one of them is (McNemar).

Ties say nothing and are only counted. Both questions are about the chance that the candidate wins a decided comparison:
FAIL against "at least 1/2", PASS against "at most 0.45". The alternative is a uniform prior on the other side, so nothing has to be guessed:
    ln E = ln[ B(1+W, 1+L) I_{>q}(1+W, 1+L) ] - ln(1-q) - W ln q - L ln(1-q).
Source: mixture likelihood ratio of Bernoulli trials (Ville 1939; Robbins 1970), prior cut to the alternative.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.statistics.bands import chance
from policies.statistics.mixture import LOG_NOTHING, Bools, Floats, Number
from policies.statistics.parts import Amount, number, unpack
from policies.statistics.special import log_beta_above
from policies.statistics.verdict import MIN_REQUESTS, TwoOdds


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteConfig:
    """Chances that the candidate wins a decided comparison.

    Attributes:
        fair: At least this is no reason to fail, 0 < fair < 1.
        good_enough: More than this is a PASS, 0 < good_enough <= fair.
    """

    fair: float = 0.5
    good_enough: float = 0.45

    def __post_init__(self) -> None:
        if not 0 < self.good_enough <= self.fair < 1:
            raise ValueError(f"0 < good_enough <= fair < 1 must hold, got {self.good_enough} and {self.fair}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteGate(TwoOdds):
    """Evidence so far; `update` gives the next. Leading axes are independent runs. Worse is a chance to win below `fair` for FAIL, below `good_enough` for PASS.

    Attributes:
        wins, losses, ties: Of the candidate [comparisons].
    """

    config: VoteConfig
    wins: Number
    losses: Number
    ties: Number

    @classmethod
    def start(cls, config: VoteConfig) -> Self:
        return cls(config=config, wins=0.0, losses=0.0, ties=0.0)

    def update(self, baseline: Amount, candidate: Amount, *, ties: Amount = 0.0, elapsed_s: float = 10.0) -> "VoteGate":  # noqa: ARG002 - all gates
        """The gate after more comparisons.

        Args:
            baseline: How many the baseline won, a number or one per run, >= 0 [comparisons].
            candidate: How many the candidate won.
            ties: How many nobody won.
            elapsed_s: Not needed.
        """
        return VoteGate(
            config=self.config,
            wins=self.wins + number(candidate),
            losses=self.losses + number(baseline),
            ties=self.ties + number(ties),
        )

    @property
    def log_fail(self) -> Floats:
        """Log of `evidence`."""
        return log_above(np.asarray(self.losses), np.asarray(self.wins), 1 - self.config.fair)

    @property
    def log_pass(self) -> Floats:
        """Log of `evidence_pass`."""
        return log_above(np.asarray(self.wins), np.asarray(self.losses), self.config.good_enough)

    @property
    def enough(self) -> Bools:
        """Whether there are comparisons enough to fail."""
        return np.asarray(self.wins + self.losses >= MIN_REQUESTS)

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Where the chance that the candidate wins may lie in a single run: holds at every look with probability 1 - alpha."""
        return chance(float(self.wins), float(self.losses), alpha=alpha)

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        return float(self.wins), float(self.losses), float(self.ties)

    @classmethod
    def restore(cls, config: VoteConfig, memory: tuple[float, ...]) -> "VoteGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged."""
        wins, losses, ties = unpack(memory, 3, "vote gate").tolist()
        return cls(config=config, wins=wins, losses=losses, ties=ties)


def log_above(wins: Floats, losses: Floats, chance: float) -> Floats:
    """Log E against "the chance to win is at most `chance`"; counts >= 0, 0 < chance < 1."""
    log_e: Floats = np.maximum(log_beta_above(wins, losses, chance) - np.log1p(-chance), LOG_NOTHING)
    return log_e


def discordant(baseline_ok: npt.ArrayLike, candidate_ok: npt.ArrayLike, *, unpaired: int = 0) -> tuple[float, float, float]:
    """(won by the baseline, won by the candidate, ties) of pairs that are each right or wrong, for a `VoteGate` (McNemar 1947).

    Args:
        baseline_ok: Whether the baseline's answer was right (valid, not an error), one per pair.
        candidate_ok: The same of the candidate's.
        unpaired: Pairs whose candidate never answered: won by the baseline [pairs].
    """
    base, cand = np.asarray(baseline_ok, dtype=bool), np.asarray(candidate_ok, dtype=bool)
    lost, won = float((base & ~cand).sum()), float((cand & ~base).sum())
    return lost + unpaired, won, base.size - lost - won
