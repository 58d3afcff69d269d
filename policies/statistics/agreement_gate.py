"""Does the candidate answer differently from stable more often than stable differs from itself? For mirrored requests without a "better".

A model that draws its answers disagrees with itself, so some requests go to stable twice. What is compared is the disagreement of
candidate and stable (A/B pairs) with that of stable and stable (A/A pairs): the error gate's absolute form, a disagreement for an error.
Without A/A pairs a floor of agreement must be given, and the ceiling gate holds it. Source: both gates'.
"""

from dataclasses import dataclass
from typing import Self

from policies.statistics.ceiling_gate import CeilingConfig, CeilingGate
from policies.statistics.error_gate import ErrorConfig, ErrorGate
from policies.statistics.mixture import Bools, Floats
from policies.statistics.parts import Amount
from policies.statistics.verdict import TwoOdds


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementConfig:
    """How much disagreement is allowed.

    Attributes:
        margin: What the candidate may disagree more than stable does with itself, 0 <= margin < 1; needs A/A pairs.
        floor: Instead of it: the share of A/B pairs that must agree, 0 < floor < 1, or None; needs no A/A pairs.
        deadline_s: Time over which disagreement is expected to start [s].
    """

    margin: float = 0.02
    floor: float | None = None
    deadline_s: float = 7200.0

    def __post_init__(self) -> None:
        if self.floor is not None and not 0 < self.floor < 1:
            raise ValueError(f"floor of agreement must lie between 0 and 1, got {self.floor}; hint: 0.99 allows 1 % of pairs to differ")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin of disagreement must be in [0, 1), got {self.margin}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementGate(TwoOdds):
    """Evidence so far; `update` gives the next. Leading axes are independent runs. Worse is to differ too often.

    Attributes:
        gate: What does the work.
    """

    config: AgreementConfig
    gate: ErrorGate | CeilingGate

    @classmethod
    def start(cls, config: AgreementConfig) -> Self:
        if config.floor is None:
            return cls(config=config, gate=ErrorGate.start(_error(config)))
        return cls(config=config, gate=CeilingGate.start(_ceiling(config, config.floor)))

    def update(self, baseline: tuple[Amount, Amount], candidate: tuple[Amount, Amount], *, elapsed_s: float = 10.0) -> "AgreementGate":
        """The gate after one more block.

        Args:
            baseline: (pairs, disagreements) of A/A pairs, numbers or arrays of one shape [pairs]; not looked at where there is a floor.
            candidate: The same of A/B pairs.
            elapsed_s: Time since the end of the block before [s].
        """
        return AgreementGate(config=self.config, gate=self.gate.update(baseline, candidate, elapsed_s=elapsed_s))

    @property
    def log_fail(self) -> Floats:
        """Log of `evidence`."""
        return self.gate.log_fail

    @property
    def log_pass(self) -> Floats:
        """Log of `evidence_pass`."""
        return self.gate.log_pass

    @property
    def enough(self) -> Bools:
        """Whether there are pairs and disagreements enough to fail."""
        return self.gate.enough

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        return self.gate.memory()

    @classmethod
    def restore(cls, config: AgreementConfig, memory: tuple[float, ...]) -> "AgreementGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged or of another kind of gate."""
        if config.floor is None:
            return cls(config=config, gate=ErrorGate.restore(_error(config), memory))
        return cls(config=config, gate=CeilingGate.restore(_ceiling(config, config.floor), memory))


def _error(config: AgreementConfig) -> ErrorConfig:
    return ErrorConfig(relative=None, absolute=config.margin, deadline_s=config.deadline_s, baseline_rate=0.05)


def _ceiling(config: AgreementConfig, floor: float) -> CeilingConfig:
    return CeilingConfig(ceiling=1 - floor, deadline_s=config.deadline_s)
