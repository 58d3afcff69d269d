"""Is a rate above a ceiling that was promised, whatever the baseline does? For SLOs, and for when there is no baseline.

FAIL against "the rate is at most the ceiling", PASS against "it is at least the ceiling". Each alternative is a likelihood ratio of
Bernoulli trials, theta against the ceiling s: E = (theta/s)^bad ((1-theta)/(1-s))^good. One request's mean of it is
1 + (p - s)(theta - s) / (s(1-s)), so at most 1 on the side of the ceiling that theta is not on; requests may depend on the past in any way.
Source: Ville's test by likelihood ratios; as a test martingale for means, Waudby-Smith & Ramdas, arXiv:2010.09686, section 4.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np

from policies.statistics.bands import chance
from policies.statistics.mixture import Bools, Floats, Number, Process, log_mean
from policies.statistics.parts import Amount, advance, column, number, unpack
from policies.statistics.verdict import MIN_BAD, MIN_REQUESTS, TwoOdds

WORSE_ODDS = np.array([1.25, 1.5, 2, 3, 5, 10, 30, 100, 300, 1000])
"""Alternatives of FAIL: odds of a bad request, times those of the ceiling."""

GOOD_RATES = np.array([0.25, 0.5, 0.75])
"""Alternatives of PASS: rates, times the ceiling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingConfig:
    """The promise.

    Attributes:
        ceiling: The highest rate of bad requests that is kept to, 0 < ceiling < 1.
        deadline_s: Time over which regressions are expected to start [s].
    """

    ceiling: float
    deadline_s: float = 7200.0

    def __post_init__(self) -> None:
        if not 0 < self.ceiling < 1:
            raise ValueError(
                f"ceiling of a rate must lie between 0 and 1, got {self.ceiling}; hint: an SLO of 99.9 % is a ceiling of 0.001"
            )
        if not self.deadline_s > 0:
            raise ValueError(f"deadline must be > 0 s, got {self.deadline_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingGate(TwoOdds):
    """Evidence so far; `update` gives the next. Leading axes are independent runs. Worse is a rate above the ceiling.

    Attributes:
        process: Evidence per alternative.
        requests, bad: The candidate's sums [requests].
    """

    config: CeilingConfig
    process: Process
    requests: Number
    bad: Number

    @classmethod
    def start(cls, config: CeilingConfig) -> Self:
        return cls(config=config, process=Process.start(len(WORSE_ODDS), len(GOOD_RATES)), requests=0.0, bad=0.0)

    def update(self, baseline: object, candidate: tuple[Amount, Amount], *, elapsed_s: float = 10.0) -> "CeilingGate":  # noqa: ARG002 - all gates
        """The gate after one more block.

        Args:
            baseline: Not looked at.
            candidate: (requests, bad), numbers or arrays of one shape, 0 <= bad <= requests [requests].
            elapsed_s: Time since the end of the block before [s].
        """
        requests, bad = number(candidate[0]), number(candidate[1])
        fail, good = weights(self.config.ceiling)
        bads, rest = column(bad), column(requests - bad)
        log_e = bads * fail[0] + rest * fail[1], bads * good[0] + rest * good[1]
        process = advance(self.process, log_e, update=requests > 0, elapsed_s=elapsed_s, deadline_s=self.config.deadline_s)
        return CeilingGate(config=self.config, process=process, requests=self.requests + requests, bad=self.bad + bad)

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
        """Whether there are requests and bad requests enough to fail."""
        return np.asarray((self.requests >= MIN_REQUESTS) & (self.bad >= MIN_BAD))

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Where the rate of a single run may lie, if it stood still: holds at every look with probability 1 - alpha."""
        return chance(float(self.bad), float(self.requests - self.bad), alpha=alpha)

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        numbers = (self.process.left, self.process.age_s, self.requests, self.bad)
        return (*self.process.log_fail.tolist(), *self.process.log_pass.tolist(), *map(float, numbers))

    @classmethod
    def restore(cls, config: CeilingConfig, memory: tuple[float, ...]) -> "CeilingGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged."""
        fails, both = len(WORSE_ODDS), len(WORSE_ODDS) + len(GOOD_RATES)
        values = unpack(memory, both + 4, "ceiling gate")
        left, age_s, requests, bad = values[both:].tolist()
        process = Process(log_fail=values[:fails], log_pass=values[fails:both], left=left, age_s=age_s)
        return cls(config=config, process=process, requests=requests, bad=bad)


@lru_cache(maxsize=1024)
def weights(ceiling: float) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Log likelihood ratio of a bad and of a good request per alternative: of FAIL, then of PASS; 0 < ceiling < 1."""
    raised = WORSE_ODDS * ceiling / (1 - ceiling)
    good = GOOD_RATES * ceiling
    fails = np.log(raised / (1 + raised) / ceiling), -np.log1p(raised) - np.log1p(-ceiling)
    return fails, (np.log(GOOD_RATES), np.log1p(-good) - np.log1p(-ceiling))
