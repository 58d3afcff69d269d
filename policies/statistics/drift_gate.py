"""Do the candidate's inputs or outputs fall into other bins than stable's? Evidence, an effect size, and a picture.

The score of a bin is how much more often the candidate fell into it than the baseline, as learnt from *earlier* blocks: the gate bets on the
drift it has seen (Turner, Ly & Gruenwald, arXiv:2106.02693, with learnt alternatives). Evidence alone would report drifts too small to
matter, so FAIL also asks for a population stability index of 0.1 after its bias is taken off: PSI - (B-1)(1/n_c + 1/n_b), since raw PSI of
two equal samples is (B-1)(1/n_c + 1/n_b) in the mean (its expansion to the second order is chi-squared with B-1 degrees of freedom).
There is no PASS: that nothing was found proves nothing. Drifted *inputs* under random routing mean that routing is not random. A frozen
reference (training data) is no arm of this gate, whose arms must have met the same conditions: compare with it by `bands.dkw`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.statistics import blocks
from policies.statistics.mixture import Bools, Floats, Process, log_mean, shown
from policies.statistics.parts import advance, unpack
from policies.statistics.verdict import Verdict

PRIOR_CANDIDATE = 5.0
"""What is assumed of each of the candidate's bins before it is seen weighs as much as these [requests]: little, so that drift shows soon."""

PRIOR_BASELINE = 50.0
"""The same of the baseline's."""

MIN_PSI = 0.1
"""Least effect size of a FAIL: the line drawn by habit between "stable" and "look at it"."""

OTHER = "other"
"""Name of the bin of what is not among the most frequent categories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftConfig:
    """The bins.

    Attributes:
        bins: Number of bins, >= 2; best equally filled by what the baseline did before: `deciles`, `categories`.
        deadline_s: Time over which drift is expected to start [s].
        forget_s: Time constant with which past blocks are forgotten [s]: shorter sees late drift sooner, longer sees small drift.
    """

    bins: int = 10
    deadline_s: float = 7200.0
    forget_s: float = 21_600.0

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"drift needs two bins at least, got {self.bins}")
        if not self.deadline_s > 0 or not self.forget_s > 0:
            raise ValueError(f"deadline and forget_s must be > 0 s, got {self.deadline_s} and {self.forget_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftGate:
    """Evidence so far; `update` gives the next. Leading axes are independent runs.

    Attributes:
        process: Evidence of one alternative.
        candidate, baseline: Counts per bin of earlier blocks, slowly forgotten [requests].
    """

    config: DriftConfig
    process: Process
    candidate: Floats
    baseline: Floats

    @classmethod
    def start(cls, config: DriftConfig) -> Self:
        none = np.zeros(config.bins)
        return cls(config=config, process=Process.start(1, 0), candidate=none, baseline=none)

    def update(self, baseline: npt.ArrayLike, candidate: npt.ArrayLike, *, elapsed_s: float = 10.0) -> "DriftGate":
        """The gate after one more block; without a request of each arm there is no evidence in it.

        Args:
            baseline: Counts per bin on the last axis [requests].
            candidate: The same of the other arm, same shape.
            elapsed_s: Time since the end of the block before [s].
        """
        base, cand = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
        if base.shape[-1] != self.config.bins or cand.shape[-1] != self.config.bins:
            raise ValueError(f"this gate has {self.config.bins} bins, got counts of {base.shape[-1]} and {cand.shape[-1]}")
        n_c, n_b = cand.sum(axis=-1), base.sum(axis=-1)
        both = (n_c > 0) & (n_b > 0)
        log_u = np.log(_smoothed(self.candidate, PRIOR_CANDIDATE) / _smoothed(self.baseline, PRIOR_BASELINE))[..., np.newaxis, :]
        share = n_c / np.maximum(n_c + n_b, 1.0)
        log_e = blocks.scores(cand, base, log_u_candidate=log_u, log_u_baseline=log_u, share=share), np.zeros((*share.shape, 0))
        update = both if both.ndim else bool(both)
        kept = exp(-max(elapsed_s, 0.0) / self.config.forget_s)
        return DriftGate(
            config=self.config,
            process=advance(self.process, log_e, update=update, elapsed_s=elapsed_s, deadline_s=self.config.deadline_s),
            candidate=self.candidate * kept + cand,
            baseline=self.baseline * kept + base,
        )

    @property
    def log_fail(self) -> Floats:
        """Log of `evidence`."""
        return log_mean(self.process.log_fail)

    @property
    def evidence(self) -> Floats:
        """Odds that the arms differ at all: P(ever >= 1/alpha) <= alpha while they do not."""
        return shown(self.log_fail)

    @property
    def evidence_pass(self) -> Floats:
        """Always 0: there is no PASS."""
        return np.zeros(np.shape(self.log_fail))

    @property
    def effect(self) -> Floats:
        """PSI without its bias; about 0 while nothing drifts, 0.1 is small, 0.25 large; may be negative."""
        return psi_adjusted(self.candidate, self.baseline)

    @property
    def distance(self) -> Floats:
        """Kolmogorov-Smirnov distance over the bins in their order, in [0, 1]; see `bands.dkw` for its band."""
        cdfs = (
            np.cumsum(counts, axis=-1) / np.maximum(counts.sum(axis=-1, keepdims=True), 1.0) for counts in (self.candidate, self.baseline)
        )
        one, other = cdfs
        largest: Floats = np.abs(one - other).max(axis=-1)
        return largest

    @property
    def enough(self) -> Bools:
        """Whether the difference is large enough to matter."""
        return np.asarray(self.effect >= MIN_PSI)

    def verdict(self, alpha: float, beta: float = 0.05) -> npt.NDArray[np.str_]:  # noqa: ARG002 - one form for all gates
        """FAIL or INCONCLUSIVE per run, as strings equal to `Verdict`; never PASS."""
        fails = self.enough & (self.log_fail >= -np.log(alpha))
        return np.where(fails, Verdict.FAIL.value, Verdict.INCONCLUSIVE.value)

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        numbers = (float(self.process.log_fail[0]), float(self.process.left), float(self.process.age_s))
        return (*numbers, *self.candidate.tolist(), *self.baseline.tolist())

    @classmethod
    def restore(cls, config: DriftConfig, memory: tuple[float, ...]) -> "DriftGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged or of other bins."""
        values = unpack(memory, 3 + 2 * config.bins, "drift gate")
        process = Process(log_fail=values[:1], log_pass=np.zeros(0), left=float(values[1]), age_s=float(values[2]))
        return cls(config=config, process=process, candidate=values[3 : 3 + config.bins], baseline=values[3 + config.bins :])


def psi(candidate: Floats, baseline: Floats) -> Floats:
    """Population stability index of two histograms, bins on the last axis; empty bins count as half a request. Source: Lewis 1994."""
    one, other = _filled(candidate), _filled(baseline)
    index: Floats = ((one - other) * np.log(one / other)).sum(axis=-1)
    return index


def psi_adjusted(candidate: Floats, baseline: Floats) -> Floats:
    """PSI less what two equal samples of these sizes have in the mean; 0 without data."""
    n_c, n_b = candidate.sum(axis=-1), baseline.sum(axis=-1)
    bias = (candidate.shape[-1] - 1) * (1 / np.maximum(n_c, 1.0) + 1 / np.maximum(n_b, 1.0))
    return np.where((n_c > 0) & (n_b > 0), psi(candidate, baseline) - bias, 0.0)


def js_distance(candidate: Floats, baseline: Floats) -> Floats:
    """Jensen-Shannon distance of two histograms, in [0, sqrt(ln 2)]; bins on the last axis. Source: Lin 1991."""
    one, other = (counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1e-300) for counts in (candidate, baseline))
    middle = (one + other) / 2

    def divergence(p: Floats) -> Floats:
        safe = np.where(p > 0, p / np.where(middle > 0, middle, 1.0), 1.0)
        total: Floats = (p * np.log(safe)).sum(axis=-1)
        return total

    distance: Floats = np.sqrt(np.maximum((divergence(one) + divergence(other)) / 2, 0.0))
    return distance


def deciles(values: npt.ArrayLike, *, bins: int = 10) -> tuple[float, ...]:
    """Edges that fill the bins equally by what the baseline did before the rollout, ascending; fewer than bins - 1 where values repeat."""
    known = np.asarray(values, dtype=np.float64)
    if known.size == 0 or not np.isfinite(known).all():
        raise ValueError("bins need finite values of the baseline from before the rollout; hint: drop what is not a number")
    return tuple(np.unique(np.quantile(known, np.arange(1, bins) / bins)).tolist())


def histogram(values: npt.ArrayLike, edges: Sequence[float]) -> Floats:
    """Counts of len(edges) + 1 bins, the lower ones with their upper edge; values of any number of runs on the last axis."""
    known = np.asarray(values, dtype=np.float64)
    places = np.searchsorted(np.asarray(edges), known)
    counts: Floats = (places[..., np.newaxis] == np.arange(len(edges) + 1)).sum(axis=-2, dtype=np.float64)
    return counts


def categories(counts: Mapping[str, float], *, most: int = 20) -> tuple[str, ...]:
    """The categories that get a bin: the most frequent of the baseline before the rollout, then `OTHER`."""
    known = sorted((name for name in counts if name != OTHER), key=lambda name: (-counts[name], name))
    return (*known[:most], OTHER)


def binned(counts: Mapping[str, float], names: Sequence[str]) -> Floats:
    """Counts per bin of `categories`; whatever has no name is in the last."""
    kept = [counts.get(name, 0.0) for name in names[:-1]]
    return np.array([*kept, sum(counts.values()) - sum(kept)], dtype=np.float64)


def _smoothed(counts: Floats, prior: float) -> Floats:
    """Shares of the bins, each with `prior` requests more."""
    shares: Floats = (counts + prior) / (counts + prior).sum(axis=-1, keepdims=True)
    return shares


def _filled(counts: Floats) -> Floats:
    filled = np.where(counts > 0, counts, 0.5)
    shares: Floats = filled / filled.sum(axis=-1, keepdims=True)
    return shares
