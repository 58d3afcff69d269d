"""Many simulated rollouts of one gate at once, by the test that ships.

Requests of either arm come at a steady rate; nothing but the outcome of each is random (of an error gate also the moment it comes). Blocks are as
short as the server's soon after the start of a stage and grow with its age: by then a block more or less changes no time that is told.
All kinds of runs are values: `advance` gives the runs one block later. "Tested" is the arm whose badness makes evidence: of a goal that is stable.
"""

from dataclasses import dataclass, replace
from math import floor
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from policies.gates import MAX_PENDING_S, SMALL_BLOCK, SMALL_S
from policies.planning.load import Load
from policies.statistics import CeilingGate, ErrorGate, LatencyGate
from policies.statistics.latency_gate import MIN_KNOWN
from policies.statistics.mixture import Bools, Floats, Number, Process
from policies.statistics.verdict import MIN_REQUESTS, TwoOdds

Index = npt.NDArray[np.intp]

G = TypeVar("G", bound=TwoOdds)

BLOCK_S = 0.1
"""The server's blocks [s]."""

GROWS = 0.08
"""Blocks are this part of the stage's age, if that is longer."""


MANY = 300
"""Requests of one block from which on the mean of what they are worth is drawn from its normal limit [requests]."""

RARE = 1e-7
"""Probability of a bin below which it is left out."""


def block_s(age_s: float, rate: float) -> float:
    """The next block `age_s` after a stage began, for an arm with `rate` requests/s: about every fourth has a request where they are few [s]."""
    return max(BLOCK_S, GROWS * age_s, 0.25 / rate)


class Runs(Protocol):
    """What all kinds can do; arrays have one value per run."""

    @property
    def size(self) -> int: ...
    @property
    def rate(self) -> float:
        """Requests of the arm that has fewer [requests/s]."""

    @property
    def log_fail(self) -> Floats: ...
    @property
    def log_pass(self) -> Floats: ...
    @property
    def enough(self) -> Bools: ...
    @property
    def harm(self) -> Floats:
        """What the tested arm has done since `under`: bad answers, or of a latency gate answers [requests]."""

    def advance(self, elapsed_s: float, random: np.random.Generator) -> Self: ...
    def idle(self, elapsed_s: float) -> Self:
        """Later, without a request: a gate's age counts from the start of the release."""

    def take(self, runs: Index) -> Self: ...
    def under(self, levels: tuple[Floats, Floats], rates: tuple[float, float]) -> Self:
        """From now on with these (tested, other) levels per run and rates [requests/s]; what had made no block is dropped.

        A level is an error rate, or a factor on stable's latency.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gated(Generic[G]):
    """Runs whose evidence is that of one gate for all of them; `harm` is as in `Runs`."""

    gate: G
    harm: Floats

    @property
    def size(self) -> int:
        return len(self.harm)

    @property
    def log_fail(self) -> Floats:
        return self.gate.log_fail

    @property
    def log_pass(self) -> Floats:
        return self.gate.log_pass

    @property
    def enough(self) -> Bools:
        return self.gate.enough


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRuns(_Gated[ErrorGate]):
    """Runs of an error gate. `waiting`: (requests, errors) of the tested and of the other arm that made no block yet, and for how long [s]."""

    levels: tuple[Floats, Floats]
    rates: tuple[float, float]
    waiting: Floats
    waited_s: Floats

    @classmethod
    def start(cls, gate: ErrorGate, size: int) -> Self:
        nothing, many = np.zeros(size), _many(gate.process, size)
        gate = replace(gate, process=many, known_requests=nothing, known_errors=nothing, requests=nothing, errors=nothing)
        return cls(gate=gate, levels=(nothing, nothing), rates=(1.0, 1.0), waiting=np.zeros((4, size)), waited_s=nothing, harm=nothing)

    @property
    def rate(self) -> float:
        return min(self.rates)

    def advance(self, elapsed_s: float, random: np.random.Generator) -> "ErrorRuns":
        fresh = np.empty((4, self.size))
        for arm, (level, rate) in enumerate(zip(self.levels, self.rates, strict=True)):
            fresh[2 * arm + 1] = random.poisson(rate * elapsed_s * level)
            fresh[2 * arm] = fresh[2 * arm + 1] + random.poisson(rate * elapsed_s * (1 - level))
        seen = self.waiting + fresh
        few = (seen[0] + seen[2] < SMALL_BLOCK) & (self.waited_s < SMALL_S)
        whole = (seen[0] > 0) & (seen[2] > 0) & ~few
        old = ~((seen[0] > 0) & (seen[2] > 0)) & (self.waited_s + elapsed_s > MAX_PENDING_S)
        tested, other = np.where(whole, seen[:2], 0.0), np.where(whole | old, seen[2:], 0.0)
        done = whole | old
        return replace(
            self,
            gate=self.gate.update((other[0], other[1]), (tested[0], tested[1]), elapsed_s=elapsed_s),
            waiting=np.where(done, 0.0, seen),
            waited_s=np.where(done, 0.0, self.waited_s + elapsed_s),
            harm=self.harm + fresh[1],
        )

    def idle(self, elapsed_s: float) -> "ErrorRuns":
        nothing = np.zeros(self.size)
        return replace(self, gate=self.gate.update((nothing, nothing), (nothing, nothing), elapsed_s=elapsed_s))

    def take(self, runs: Index) -> "ErrorRuns":
        gate = self.gate
        numbers = (_of(number, runs) for number in (gate.known_requests, gate.known_errors, gate.requests, gate.errors))
        known_requests, known_errors, requests, errors = numbers
        kept = replace(
            gate,
            process=_taken(gate.process, runs),
            known_requests=known_requests,
            known_errors=known_errors,
            requests=requests,
            errors=errors,
        )
        levels = self.levels[0][runs], self.levels[1][runs]
        return replace(self, gate=kept, levels=levels, waiting=self.waiting[:, runs], waited_s=self.waited_s[runs], harm=self.harm[runs])

    def under(self, levels: tuple[Floats, Floats], rates: tuple[float, float]) -> "ErrorRuns":
        nothing = np.zeros(self.size)
        return replace(self, levels=levels, rates=rates, waiting=np.zeros((4, self.size)), waited_s=nothing, harm=nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingRuns(_Gated[CeilingGate]):
    """Runs of a gate with a limit, which looks at the tested arm alone.

    Attributes:
        slower_than: Of a limit of latency: the bin beyond which an answer is bad; None = levels are error rates.
        of: Requests of the tested arm [requests/s].
    """

    load: Load
    slower_than: int | None
    level: Floats
    of: float

    @classmethod
    def start(cls, load: Load, gate: CeilingGate, slower_than: int | None, size: int) -> Self:
        nothing = np.zeros(size)
        gate = replace(gate, process=_many(gate.process, size), requests=nothing, bad=nothing)
        return cls(load=load, gate=gate, slower_than=slower_than, level=nothing, of=1.0, harm=nothing)

    @property
    def rate(self) -> float:
        return self.of

    def advance(self, elapsed_s: float, random: np.random.Generator) -> "CeilingRuns":
        chance = self._chance()
        bad = random.poisson(self.of * elapsed_s * chance).astype(np.float64)
        requests = bad + random.poisson(self.of * elapsed_s * (1 - chance))
        gate = self.gate.update(None, (requests, bad), elapsed_s=elapsed_s)
        return replace(self, gate=gate, harm=self.harm + (bad if self.slower_than is None else requests))

    def _chance(self) -> Floats:
        """That an answer is bad."""
        if self.slower_than is None:
            return self.level
        found, place = np.unique(self.level, return_inverse=True)
        beyond = np.array([self.load.latencies(float(level))[self.slower_than + 1 :].sum() for level in found])
        chance: Floats = np.clip(beyond, 0.0, 1.0)[place.reshape(-1)]
        return chance

    def idle(self, elapsed_s: float) -> "CeilingRuns":
        nothing = np.zeros(self.size)
        return replace(self, gate=self.gate.update(None, (nothing, nothing), elapsed_s=elapsed_s))

    def take(self, runs: Index) -> "CeilingRuns":
        gate = self.gate
        kept = replace(gate, process=_taken(gate.process, runs), requests=_of(gate.requests, runs), bad=_of(gate.bad, runs))
        return replace(self, gate=kept, level=self.level[runs], harm=self.harm[runs])

    def under(self, levels: tuple[Floats, Floats], rates: tuple[float, float]) -> "CeilingRuns":
        return replace(self, level=levels[0], of=rates[0], harm=np.zeros(self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What requests of one bin are worth, all others being equal: log E of a block is the sum over both arms.

    The test's log E is linear in the counts of a block whose split is fixed, so that blocks all of whose requests of an arm lie in one bin tell
    everything; they are asked of the test itself. Axes: bins, alternatives (FAIL, then PASS).

    Attributes:
        known: Requests of the baseline it was made for [requests].
        bins: Those that any arm's requests lie in.
        tested, other: log E of a block of one request in all, this arm's in the bin, the other's in the first; and each bin's row.
    """

    known: float
    bins: Index
    tested: tuple[Floats, Index]
    other: tuple[Floats, Index]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRuns:
    """Runs of a latency gate. What is known of the baseline is taken to be the same in all.

    Attributes:
        mean: The test of an average run; only its memory of the baseline is used.
        due: Requests of the tested and of the other arm that came and made no block yet; parts of one too.
        of: The bins' probabilities by level; `levels` says which level a run has.
        requests: Of the tested arm, since the gate opened.
        harm_now: Of the tested arm, since `under`.
    """

    load: Load
    mean: LatencyGate
    process: Process
    levels: tuple[Floats, Floats]
    rates: tuple[float, float]
    due: tuple[float, float] = (0.0, 0.0)
    requests: float = 0.0
    harm_now: float = 0.0
    table: Table | None = None

    @classmethod
    def start(cls, load: Load, gate: LatencyGate, size: int) -> Self:
        level = np.ones(size)
        return cls(load=load, mean=gate, process=_many(gate.process, size), levels=(level, level), rates=(1.0, 1.0))

    @property
    def size(self) -> int:
        return len(self.levels[0])

    @property
    def rate(self) -> float:
        return min(self.rates)

    @property
    def log_fail(self) -> Floats:
        return replace(self.mean, process=self.process).log_fail

    @property
    def log_pass(self) -> Floats:
        return replace(self.mean, process=self.process).log_pass

    @property
    def enough(self) -> Bools:
        return np.full(self.size, self.requests >= MIN_REQUESTS)

    @property
    def harm(self) -> Floats:
        return np.full(self.size, self.harm_now)

    def advance(self, elapsed_s: float, random: np.random.Generator) -> "LatencyRuns":
        due = self.due[0] + self.rates[0] * elapsed_s, self.due[1] + self.rates[1] * elapsed_s
        whole = min(due) >= 1 and sum(due) >= min(SMALL_BLOCK, SMALL_S * sum(self.rates))
        counts = (floor(due[0]), floor(due[1])) if whole else (0, 0)
        usual = self.load.latencies(float(self.levels[1][0])) if self.size else np.zeros(1)
        table = self._table() if whole else self.table
        log_e = self._block(table, counts, random) if whole and table is not None else None
        deadline_s = self.mean.config.deadline_s
        return replace(
            self,
            mean=self.mean.update(usual * counts[1], usual * 0, elapsed_s=elapsed_s),
            process=self.process.advance(log_e, update=log_e is not None, elapsed_s=elapsed_s, deadline_s=deadline_s),
            due=(due[0] - counts[0], due[1] - counts[1]),
            requests=self.requests + counts[0],
            harm_now=self.harm_now + self.rates[0] * elapsed_s,
            table=table,
        )

    def idle(self, elapsed_s: float) -> "LatencyRuns":
        nothing, deadline_s = np.zeros_like(self.mean.known), self.mean.config.deadline_s
        process = self.process.advance(None, update=False, elapsed_s=elapsed_s, deadline_s=deadline_s)
        return replace(self, mean=self.mean.update(nothing, nothing, elapsed_s=elapsed_s), process=process)

    def take(self, runs: Index) -> "LatencyRuns":
        return replace(self, process=_taken(self.process, runs), levels=(self.levels[0][runs], self.levels[1][runs]))

    def under(self, levels: tuple[Floats, Floats], rates: tuple[float, float]) -> "LatencyRuns":
        return replace(self, levels=levels, rates=rates, due=(0.0, 0.0), harm_now=0.0, table=None)

    def _table(self) -> Table | None:
        """Made anew whenever what is known of the baseline has doubled (or halved: it fades)."""
        known = float(self.mean.known.sum())
        if known < MIN_KNOWN or (self.table is not None and self.table.known / 2 < known < self.table.known * 2):
            return self.table
        share = self.rates[0] / sum(self.rates)
        arms = [np.array([self.load.latencies(float(level)) for level in np.unique(levels)]) for levels in self.levels]
        bins = np.flatnonzero(np.concatenate(arms).max(axis=0) > RARE)
        each, first = np.eye(len(self.mean.known))[bins], np.zeros((len(bins), len(self.mean.known)))
        first[:, bins[0]] = 1.0
        nothing_bet = replace(self.mean.process, log_fail=np.zeros_like(self.mean.process.log_fail), left=0.0)
        pure = replace(self.mean, process=_many(nothing_bet, 2 * len(bins)))
        after = pure.update((1 - share) * np.vstack([first, each]), share * np.vstack([each, first]), elapsed_s=0.0).process
        worth = np.concatenate([after.log_fail, after.log_pass], axis=-1)
        tested, other = _grouped(worth[: len(bins)]), _grouped(worth[len(bins) :] - worth[0])
        return Table(known=known, bins=bins, tested=tested, other=other)

    def _block(self, table: Table, counts: tuple[int, int], random: np.random.Generator) -> tuple[Floats, Floats]:
        worth = sum(counts) * (
            self._mean_worth(table, table.tested, self.levels[0], counts[0], random)
            + self._mean_worth(table, table.other, self.levels[1], counts[1], random)
        )
        fails = self.process.log_fail.shape[-1]
        return worth[:, :fails], worth[:, fails:]

    def _mean_worth(self, table: Table, of: tuple[Floats, Index], levels: Floats, count: int, random: np.random.Generator) -> Floats:
        """Of `count` random requests of an arm in each run."""
        rows, group = of
        found, place = np.unique(levels, return_inverse=True)
        chances = np.array([np.bincount(group, self.load.latencies(float(level))[table.bins], minlength=len(rows)) for level in found])
        chances /= chances.sum(axis=1, keepdims=True)
        if count < MANY:
            drawn: Floats = random.multinomial(count, chances[place.reshape(-1)]) @ rows / count
            return drawn
        mean = chances @ rows
        spread, axes = np.linalg.eigh((rows.T * chances[:, np.newaxis]) @ rows - mean[:, :, np.newaxis] * mean[:, np.newaxis])
        scaled = random.standard_normal((len(levels), rows.shape[1])) * np.sqrt(np.maximum(spread, 0.0) / count)[place.reshape(-1)]
        worth: Floats = mean[place.reshape(-1)] + (axes[place.reshape(-1)] @ scaled[..., np.newaxis])[..., 0]
        return worth


def _grouped(worth: Floats) -> tuple[Floats, Index]:
    """Bins that are worth the same, once: the tail of a quantile has two values."""
    rows, group = np.unique(worth.round(12), axis=0, return_inverse=True)
    return rows, group.reshape(-1)


def _many(process: Process, size: int) -> Process:
    return Process(
        log_fail=np.tile(process.log_fail, (size, 1)),
        log_pass=np.tile(process.log_pass, (size, 1)),
        left=np.full(size, process.left),
        age_s=process.age_s,
    )


def _taken(process: Process, runs: Index) -> Process:
    return Process(
        log_fail=process.log_fail[runs], log_pass=process.log_pass[runs], left=_of(process.left, runs), age_s=_of(process.age_s, runs)
    )


def _of(number: Number, runs: Index) -> Number:
    """Of these runs, where it is not one number for all."""
    return number[runs] if isinstance(number, np.ndarray) and number.ndim else number
