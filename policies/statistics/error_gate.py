"""Is the candidate's error rate worse than stable's by more than a margin? Two evidences from the same counts.

FAIL, against "no worse than the margin allows": with two margins both must be exceeded, so the weaker evidence counts.
PASS, against "worse than the margin": its own process with the null reversed, staked once at the start; the mean of both forms.
Built of `blocks` and `mixture`; used by `policies.gates`.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, log
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from policies.statistics import blocks, error_block
from policies.statistics.mixture import Bools, Floats, Number, Process, anywhere, kept, log_mean, log_means
from policies.statistics.verdict import MIN_BAD, MIN_REQUESTS, TwoOdds

if TYPE_CHECKING:
    from policies.statistics.error_table import Table

Amount = float | npt.NDArray[np.integer] | Floats
Arm = tuple[Amount, Amount]

WORSE_RATIOS = np.array([1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50])
"""Alternatives of the relative form, times the margin."""

WORSE_RATES = np.array([1.25, 1.5, 2, 3, 5, 10, 30, 100, 300, 1000])
"""Alternatives of the absolute form, times the rate the margin allows; capped near 1, where a total failure is."""

GOOD_RATES = np.array([1.0, 0.5, 1.2])
"""Alternatives of PASS in the absolute form, times the baseline's rate."""

GOOD = len(GOOD_RATES)
"""Number of alternatives of PASS in either form."""

MOST = 0.985
"""The error rate of a candidate that fails totally."""

PRIOR_REQUESTS = 50.0
"""What is assumed of the baseline before the first block weighs as much as these [requests]."""

LEAST_RATE = 1e-7
"""Error rate below which the baseline's is not told apart."""

RATE_STEP = 0.1
"""Steps in which the baseline's rate is known, on the log scale: finer is no faster."""

MAX_STRETCH = 2.0
"""PASS of the absolute form skips a block with more baseline requests than this many times those its rate is known from: what one such block
of a wrong guess costs, PASS, which is staked once, would carry to the end."""

MANY = 256
"""Runs from which their blocks are read from a table."""

FIRST_PLACE = round(log(LEAST_RATE) / RATE_STEP)
"""The least known rate, in steps; the greatest is 0: a rate of 1."""

FORGET_S = 1800.0
"""Time constant with which the baseline's past rate is forgotten [s]. Being wrong costs speed, never validity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorConfig:
    """The margin and what is assumed.

    Attributes:
        relative: A fraction on top of the baseline's rate, >= 0, or None.
        absolute: A rate, 0 <= absolute < 1, or None; at least one of the two is set.
        deadline_s: Time over which regressions are expected to start [s].
        baseline_rate: Error rate assumed of the baseline before the first block.
    """

    relative: float | None = 0.25
    absolute: float | None = 0.001
    deadline_s: float = 7200.0
    baseline_rate: float = 0.001

    def __post_init__(self) -> None:
        if self.relative is None and self.absolute is None:
            raise ValueError("an error gate needs a relative or an absolute margin")
        if self.relative is not None and not 0 <= self.relative < np.inf:
            raise ValueError(f"relative margin must be >= 0, got {self.relative}")
        if self.absolute is not None and not 0 <= self.absolute < 1:
            raise ValueError(f"absolute margin of an error rate must be in [0, 1), got {self.absolute}")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline must be > 0 s, got {self.deadline_s}")

    @property
    def fails(self) -> tuple[int, int]:
        """Number of alternatives of FAIL in the relative and in the absolute form."""
        return (0 if self.relative is None else len(WORSE_RATIOS)), (0 if self.absolute is None else len(WORSE_RATES))

    @property
    def passes(self) -> tuple[int, int]:
        """The same of PASS."""
        return (0 if self.relative is None else GOOD), (0 if self.absolute is None else GOOD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGate(TwoOdds):
    """Evidence so far; `update` gives the next. Leading axes are independent runs. Worse is a rate beyond the margin.

    Attributes:
        process: Evidence per alternative: those of the relative form, then those of the absolute form.
        known_requests, known_errors: The baseline's past, slowly forgotten [requests].
        requests, errors: The candidate's sums, for the least counts a FAIL needs [requests].
    """

    config: ErrorConfig
    process: Process
    known_requests: Number
    known_errors: Number
    requests: Number
    errors: Number

    @classmethod
    def start(cls, config: ErrorConfig) -> Self:
        process = Process.start(sum(config.fails), sum(config.passes))
        return cls(config=config, process=process, known_requests=0.0, known_errors=0.0, requests=0.0, errors=0.0)

    def update(self, baseline: Arm, candidate: Arm, *, elapsed_s: Number = 10.0, dispersion: Number = 1.0) -> "ErrorGate":
        """The gate after one more block.

        Where an arm has no request there is no update: silence is no evidence. Which requests make a block may depend on their number and
        time, never on their outcome.

        Args:
            baseline: (requests, errors), numbers or arrays of one shape, 0 <= errors <= requests [requests].
            candidate: The same of the other arm, same shape.
            elapsed_s: Time since the end of the block before, one or one per run [s].
            dispersion: How many times as much as independent requests an arm's errors vary, known before the block, >= 1, one or one per
                run. Evidence is drawn from the root of E of that degree: never more than E itself is valid for (Jensen).
        """
        base, cand = (_number(baseline[0]), _number(baseline[1])), (_number(candidate[0]), _number(candidate[1]))
        both = (base[0] > 0) & (cand[0] > 0)
        log_e = self._block(cand, base) if anywhere(both) else None
        if log_e is not None and (isinstance(dispersion, np.ndarray) or dispersion > 1):
            divisor = np.maximum(dispersion, 1.0)[..., np.newaxis]
            log_e = log_e[0] / divisor, log_e[1] / divisor
        left = kept(elapsed_s, FORGET_S)
        if isinstance(both, bool):
            process = self.process.advance_one(log_e, elapsed_s=float(elapsed_s), deadline_s=self.config.deadline_s)
        else:
            process = self.process.advance(log_e, update=both, elapsed_s=elapsed_s, deadline_s=self.config.deadline_s)
        return ErrorGate(
            config=self.config,
            process=process,
            known_requests=self.known_requests * left + base[0],
            known_errors=self.known_errors * left + base[1],
            requests=self.requests + cand[0],
            errors=self.errors + cand[1],
        )

    def _block(self, cand: tuple[Number, Number], base: tuple[Number, Number]) -> tuple[Floats, Floats]:
        """Log E of the block per alternative of FAIL and of PASS, the baseline's rate taken as known before the block."""
        known = (self.known_errors + PRIOR_REQUESTS * self.config.baseline_rate) / (self.known_requests + PRIOR_REQUESTS)
        place = np.rint(np.log(np.maximum(known, LEAST_RATE)) / RATE_STEP)
        if isinstance(cand[0], float) and isinstance(base[0], float) and isinstance(cand[1], float) and isinstance(base[1], float):
            log_e, fails = one_block(self.config, (cand[0], cand[1]), (base[0], base[1]), float(place)), sum(self.config.fails)
            if stretched(base[0], float(self.known_requests)):
                log_e[fails + self.config.passes[0] :] = [0.0] * self.config.passes[1]
            return np.array(log_e[:fails]), np.array(log_e[fails:])
        cand, base = (np.maximum(cand[0], 1.0), cand[1]), (np.maximum(base[0], 1.0), base[1])  # finite where there was none: not used
        fail, good = (_blocks if np.size(place) < MANY else _many_blocks)(self.config, cand, base, place)
        skips = np.broadcast_to(stretched(base[0], self.known_requests), good.shape[:-1])
        if skips.any():
            good[skips, self.config.passes[0] :] = 0.0
        return fail, good

    @property
    def log_fail(self) -> Floats:
        """Log of `evidence`: the weaker form where both margins must be exceeded."""
        forms = log_means(self.process.log_fail, self.config.fails)
        return forms[..., 0] if forms.shape[-1] == 1 else np.minimum(forms[..., 0], forms[..., 1])

    @property
    def log_pass(self) -> Floats:
        """Log of `evidence_pass`: the mean of the forms, since within either margin is good enough."""
        return log_mean(self.process.log_pass)

    @property
    def enough(self) -> Bools:
        """Whether the candidate has requests and bad requests enough to fail."""
        return np.asarray((self.requests >= MIN_REQUESTS) & (self.errors >= MIN_BAD))

    def memory(self) -> tuple[float, ...]:
        """All of a single run as plain numbers, for `restore`."""
        numbers = (self.process.left, self.process.age_s, self.known_requests, self.known_errors, self.requests, self.errors)
        return (*self.process.log_fail.tolist(), *self.process.log_pass.tolist(), *map(float, numbers))

    @classmethod
    def restore(cls, config: ErrorConfig, memory: tuple[float, ...]) -> "ErrorGate":
        """The gate that said `memory`. Raises: ValueError: If it is damaged or of a gate with other margins."""
        fails, passes = sum(config.fails), sum(config.passes)
        if len(memory) != fails + passes + 6 or not isfinite(sum(memory)):
            raise ValueError(f"memory of this error gate is {fails + passes + 6} finite numbers, got {len(memory)}")
        left, age_s, known_requests, known_errors, requests, errors = memory[fails + passes :]
        values = np.array(memory[: fails + passes])
        process = Process(log_fail=values[:fails], log_pass=values[fails:], left=left, age_s=age_s)
        return cls(
            config=config, process=process, known_requests=known_requests, known_errors=known_errors, requests=requests, errors=errors
        )


def stretched(requests_b: Number, known_requests: Number) -> Bools | bool:
    """Whether a block's baseline requests are too many for what is known of their rate; decided by numbers of requests alone."""
    return requests_b > MAX_STRETCH * (known_requests + PRIOR_REQUESTS)


def _number(value: Amount) -> Number:
    if isinstance(value, (int, float)):
        return float(value)
    return np.asarray(value, dtype=np.float64)


def one_block(config: ErrorConfig, cand: tuple[float, float], base: tuple[float, float], place: float) -> list[float]:
    """`_blocks` of one run in plain floats: log E per alternative of FAIL, then of PASS."""
    arms = (max(cand[0], 1.0), cand[1]), (max(base[0], 1.0), base[1])
    relative = error_block.relative(*arms, _ratios_of(config.relative), 1 + config.relative) if config.relative is not None else []
    absolute = error_block.absolute(*arms, _rows(arms[0][0], arms[1][0], place, config.absolute)) if config.absolute is not None else []
    return [*relative[:-GOOD], *absolute[:-GOOD], *relative[-GOOD:], *absolute[-GOOD:]]


@lru_cache(maxsize=16384)
def _rows(requests_c: float, requests_b: float, place: float, delta: float) -> tuple[error_block.Row, ...]:
    """Short blocks of a steady load have few different numbers of requests, so most are found here."""
    theta_b, theta_c = _rates_of(place, delta)
    return error_block.rows(requests_c / (requests_c + requests_b), theta_c, theta_b, delta)


@lru_cache(maxsize=256)
def _ratios_of(relative: float) -> tuple[float, ...]:
    return tuple(_ratios(relative).tolist())


@lru_cache(maxsize=4096)
def _rates_of(place: float, delta: float) -> tuple[float, tuple[float, ...]]:
    theta_b, theta_c = _rates(place, delta)
    return float(theta_b[0]), tuple(theta_c.tolist())


def _blocks(config: ErrorConfig, cand: tuple[Number, Number], base: tuple[Number, Number], place: Number) -> tuple[Floats, Floats]:
    """Log E of one block per alternative of FAIL and of PASS.

    Args:
        config: The margins.
        cand: (requests, errors) of the candidate, requests > 0.
        base: The same of the baseline.
        place: The baseline's known rate, as log rate / `RATE_STEP`.
    """
    fails, goods = [], []
    arms = (np.asarray(cand[0]), np.asarray(cand[1])), (np.asarray(base[0]), np.asarray(base[1]))
    if config.relative is not None:
        log_e = blocks.relative(*arms, ratio=_ratios(config.relative), rho=1 + config.relative)
        fails.append(log_e[..., :-GOOD])
        goods.append(log_e[..., -GOOD:])
    if config.absolute is not None:
        theta_b, theta_c = _rates(place, config.absolute)
        log_e = blocks.absolute(*arms, theta_c=theta_c, theta_b=theta_b, delta=config.absolute)
        fails.append(log_e[..., :-GOOD])
        goods.append(log_e[..., -GOOD:])
    return np.concatenate(fails, axis=-1), np.concatenate(goods, axis=-1)


def _many_blocks(config: ErrorConfig, cand: tuple[Number, Number], base: tuple[Number, Number], place: Number) -> tuple[Floats, Floats]:
    """`_blocks` of thousands of runs, by table."""
    from policies.statistics.error_table import read  # noqa: PLC0415 - needs scipy.sparse, which a server has no use for

    shape = np.broadcast_shapes(*map(np.shape, (*cand, *base, place)))
    counts = [np.broadcast_to(values, shape).ravel() for values in (*cand, *base)]
    places = np.broadcast_to(np.clip(place, FIRST_PLACE, 0), shape).ravel().astype(np.intp) - FIRST_PLACE
    fail, good = read(_table(config.relative, config.absolute), (counts[0], counts[1]), (counts[2], counts[3]), places)
    return fail.reshape(*shape, -1), good.reshape(*shape, -1)


@lru_cache(maxsize=8)
def _table(relative: float | None, absolute: float | None) -> "Table":
    from policies.statistics.error_table import Table  # noqa: PLC0415 - see above

    config = ErrorConfig(relative=relative, absolute=absolute)

    def exact(cand: tuple[Floats, Floats], base: tuple[Floats, Floats], place: Floats) -> tuple[Floats, Floats]:
        return _blocks(config, cand, base, place + FIRST_PLACE)

    return Table(exact=exact, places=1 - FIRST_PLACE, sizes=(sum(config.fails), sum(config.passes)))


def _rates(place: Number, delta: float) -> tuple[Floats, Floats]:
    """The baseline's rate, and the candidate's in the alternatives of the absolute form."""
    theta_b = np.asarray(np.minimum(np.exp(place * RATE_STEP), 0.9 * (1 - delta)))[..., np.newaxis]
    allowed = theta_b + delta
    worse = np.minimum(allowed * WORSE_RATES, np.maximum(MOST, 1 - 0.1 * (1 - allowed)))
    good = np.minimum(theta_b * GOOD_RATES, theta_b + 0.8 * delta)
    return theta_b, np.concatenate([worse, good], axis=-1)


def _ratios(relative: float) -> Floats:
    """Alternatives of the relative form: those of FAIL, then those of PASS."""
    return np.append(WORSE_RATIOS * (1 + relative), (0.8, 1.0, 1 + 0.3 * relative))
