"""What a scenario expects of a policy, as values: `promoted: ">= 95%"`, `time_to_revert: {p50: "<= 30s"}`. `policies.replay.judge` checks them."""

from dataclasses import dataclass
from typing import Final, Literal

RATES: Final = ("promoted", "reverted", "held", "false_reverts", "missed")
"""Parts of all runs."""

TIMES: Final = ("time_to_revert", "time_to_promote")
"""Durations [s] of the runs that ended so."""

AMOUNTS: Final = ("users_harmed", "users_slowed", "candidate_requests")
"""Requests per run."""

Sign = Literal["<=", ">=", "<", ">"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One line of `expect:`.

    Attributes:
        what: One of `RATES`, `TIMES`, `AMOUNTS`.
        level: Of times and amounts: the quantile, 0 < level < 1; None = a rate.
        bound: A fraction, seconds or requests, as `what` has it.
        text: As it was written.
    """

    what: str
    sign: Sign
    bound: float
    level: float | None = None
    text: str = ""

    def holds(self, value: float) -> bool:
        match self.sign:
            case "<=":
                return value <= self.bound
            case ">=":
                return value >= self.bound
            case "<":
                return value < self.bound
            case ">":
                return value > self.bound
