"""Gates of a single run in plain floats, which is what a server has thousands of: the rule here, the evidence a tuple of numbers.

`ErrorGate` and `LatencyGate` do the same for many runs at once; both forms are equal up to rounding: `tests/properties/test_gates.py`.
Used by `policies.gates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite, log

from policies.evidence import LATENCY_BINS, NOTHING, Counts
from policies.memo import while_alive
from policies.statistics.ceiling_gate import CeilingConfig, weights
from policies.statistics.error_gate import FORGET_S as FORGET_ERRORS_S
from policies.statistics.error_gate import LEAST_RATE, PRIOR_REQUESTS, RATE_STEP, ErrorConfig, stretched
from policies.statistics.error_gate import one_block as one_error_block
from policies.statistics.latency_block import Pairs, Table, table
from policies.statistics.latency_block import one_block as one_latency_block
from policies.statistics.latency_gate import DECIMALS, FORGET_S, MIN_KNOWN, RENEW, RENEW_S, LatencyConfig
from policies.statistics.mixture import LOG_MOST, LOG_NOTHING, purse_of

Memory = tuple[float, ...]
"""Evidence as plain numbers: log M per alternative of FAIL, then of PASS; the purse; the age [s]; and what else the gate remembers."""


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Known:
    """What a latency gate knows of the baseline: the distribution that its scores are made of.

    Attributes:
        bins: (bin, requests), ascending; the past is slowly forgotten [requests].
        taken: All of the baseline that was seen by then, since the gate opened.
        taken_at: When it was taken [s since the epoch].
        until: It is taken anew once so many were seen, or after `RENEW_S` [requests].
    """

    bins: tuple[tuple[int, float], ...] = ()
    taken: Counts = NOTHING
    taken_at: float = 0.0
    until: float = 1.0


NOTHING_KNOWN = Known()


def renewed(known: Known, seen: Counts, *, now: float) -> Known:
    """What is known once `seen` is all of the baseline since the gate opened; mostly what was known."""
    since_s = max(now - known.taken_at, 0.0)
    if seen.requests < known.until and (since_s < RENEW_S or seen.requests <= known.taken.requests):
        return known
    kept = exp(-since_s / FORGET_S)
    bins = {place: count * kept for place, count in known.bins}
    taken = dict(known.taken.latency)
    for place, count in seen.latency:
        bins[place] = bins.get(place, 0.0) + count - taken.get(place, 0)
    rounded = ((place, round(bins[place], DECIMALS)) for place in sorted(bins))
    held = tuple((place, count) for place, count in rounded if count > 0)
    until = seen.requests + max(RENEW * sum([count for _, count in held]), 1.0)
    return Known(bins=held, taken=seen, taken_at=now, until=until)


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleError:
    """An error gate; `memory` is that of `ErrorGate`.

    Attributes:
        relative, fails: Where in the memory the alternatives of FAIL in the relative form end, and those in the absolute form.
        both: Where those of PASS end.
    """

    config: ErrorConfig
    relative: int
    fails: int
    both: int

    @classmethod
    def of(cls, config: ErrorConfig) -> "SingleError":
        relative, fails = config.fails[0], sum(config.fails)
        return cls(config=config, relative=relative, fails=fails, both=fails + sum(config.passes))

    @property
    def start(self) -> Memory:
        return _start(self.fails, self.both, 4)

    def update(
        self, memory: Memory, baseline: tuple[int, int], candidate: tuple[int, int], *, elapsed_s: float, dispersion: float = 1.0
    ) -> Memory:
        """The memory after one more block of (requests, errors); where an arm has none it is no evidence.

        Args:
            dispersion: How many times as much as independent requests an arm's errors vary, known before the block, >= 1.
        """
        config = self.config
        *_, known_requests, known_errors, requests, errors = memory
        log_e = None
        if baseline[0] and candidate[0]:
            known = (known_errors + PRIOR_REQUESTS * config.baseline_rate) / (known_requests + PRIOR_REQUESTS)
            log_e = one_error_block(config, candidate, baseline, float(round(log(max(known, LEAST_RATE)) / RATE_STEP)))
            if stretched(baseline[0], known_requests):
                log_e[self.fails + config.passes[0] :] = [0.0] * config.passes[1]
            if dispersion > 1:
                log_e = [each / dispersion for each in log_e]
        kept = exp(-max(elapsed_s, 0.0) / FORGET_ERRORS_S)
        return (
            *_advanced(memory, self.fails, self.both, log_e, (elapsed_s, config.deadline_s)),
            known_requests * kept + baseline[0],
            known_errors * kept + baseline[1],
            requests + candidate[0],
            errors + candidate[1],
        )

    def evidence(self, memory: Memory) -> tuple[float, float]:
        """Log odds that the candidate is worse (the weaker form where both margins must be exceeded), and that it is within the margin."""
        forms = [memory[first:last] for first, last in ((0, self.relative), (self.relative, self.fails)) if first < last]
        return min([log_mean(form) for form in forms]), log_mean(memory[self.fails : self.both])

    def fits(self, memory: Memory) -> bool:
        """Whether a memory is one of this gate, as far as one can tell."""
        return len(memory) == self.both + 6 and isfinite(sum(memory))


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleCeiling:
    """A gate on a ceiling, without a baseline; its memory is that of `CeilingGate`.

    Attributes:
        bad, good: Log evidence of a bad and of a good request per alternative, those of FAIL first.
        fails: Number of those of FAIL.
    """

    config: CeilingConfig
    bad: tuple[float, ...]
    good: tuple[float, ...]
    fails: int

    @classmethod
    def of(cls, config: CeilingConfig) -> "SingleCeiling":
        fail, passes = weights(config.ceiling)
        return cls(
            config=config,
            bad=(*fail[0].tolist(), *passes[0].tolist()),
            good=(*fail[1].tolist(), *passes[1].tolist()),
            fails=len(fail[0]),
        )

    @property
    def start(self) -> Memory:
        return _start(self.fails, len(self.bad), 2)

    def update(self, memory: Memory, candidate: tuple[int, int], *, elapsed_s: float, dispersion: float = 1.0) -> Memory:
        """The memory after one more block of (requests, bad ones); `dispersion` as in `SingleError`."""
        requests, bad = candidate
        log_e = None
        if requests:
            by = max(dispersion, 1.0)
            log_e = [(bad * worse + (requests - bad) * fine) / by for worse, fine in zip(self.bad, self.good, strict=True)]
        times = (elapsed_s, self.config.deadline_s)
        return (*_advanced(memory, self.fails, len(self.bad), log_e, times), memory[-2] + requests, memory[-1] + bad)

    def evidence(self, memory: Memory) -> tuple[float, float]:
        """Log odds that the rate is above the ceiling, and that it is below."""
        return log_mean(memory[: self.fails]), log_mean(memory[self.fails : len(self.bad)])

    def fits(self, memory: Memory) -> bool:
        """Whether a memory is one of this gate, as far as one can tell."""
        return len(memory) == len(self.bad) + 4 and isfinite(sum(memory))


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleLatency:
    """A latency gate; what it knows of the baseline is kept beside the memory.

    Attributes:
        fails, both: Where in the memory the alternatives of FAIL end, and those of PASS.
    """

    config: LatencyConfig
    fails: int
    both: int

    @classmethod
    def of(cls, config: LatencyConfig) -> "SingleLatency":
        return cls(config=config, fails=config.size[0], both=sum(config.size))

    @property
    def start(self) -> Memory:
        return _start(self.fails, self.both, 0)

    def update(self, memory: Memory, known: Known, baseline: Pairs, candidate: Pairs, *, elapsed_s: float) -> Memory:
        """The memory after one more block of (bin, count) pairs; where an arm has none, or too little is known, it is no evidence."""
        scored = self._table(known) if baseline and candidate else None
        log_e = one_latency_block(scored, candidate, baseline) if scored is not None else None
        return _advanced(memory, self.fails, self.both, log_e, (elapsed_s, self.config.deadline_s))

    def _table(self, known: Known) -> Table | None:
        """The scores, remembered as long as `known` is; None as long as that is too little."""
        tables = _tables(known)
        for test, scored in tables:
            if test is self:
                return scored
        enough = sum([count for _, count in known.bins]) >= MIN_KNOWN
        scored = table(self.config, known.bins) if enough else None
        tables.append((self, scored))
        return scored

    def evidence(self, memory: Memory) -> tuple[float, float]:
        """Log odds that the candidate is slower by the margin, and that it is not."""
        return log_mean(memory[: self.fails]), log_mean(memory[self.fails : self.both])

    def fits(self, memory: Memory, known: Known) -> bool:
        """Whether a memory and what is known are of this gate, as far as one can tell."""
        return len(memory) == self.both + 2 and isfinite(sum(memory)) and _sound(known)


@while_alive
def _tables(known: Known) -> list[tuple[SingleLatency, Table | None]]:
    """Of one distribution, by gate: of one, or of a few where several states began alike."""
    del known
    return []


@while_alive
def _sound(known: Known) -> bool:
    return isfinite(known.until) and all(0 <= place < LATENCY_BINS and count > 0 and isfinite(count) for place, count in known.bins)


def _start(fails: int, both: int, more: int) -> Memory:
    return (*[LOG_NOTHING] * fails, *[0.0] * (both - fails), 1.0, 0.0, *[0.0] * more)


def _advanced(memory: Memory, fails: int, both: int, log_e: Sequence[float] | None, times: tuple[float, float]) -> Memory:
    """`Process.advance` of one run: the first numbers of the memory after a block.

    Args:
        fails, both: Number of alternatives of FAIL, and of FAIL and PASS.
        log_e: Log E of the block per alternative; None = there was none.
        times: Since the end of the block before, and over which starts are expected [s].
    """
    elapsed_s, deadline_s = times
    before, age_s = memory[both], memory[both + 1] + max(elapsed_s, 0.0)
    if log_e is None:
        return (*memory[:both], before, age_s)
    left = min(purse_of(age_s, deadline_s), before)
    stake = max(before - left, 1e-300)
    after = [(log(exp(m) + stake) if m < LOG_MOST else m) + e for m, e in zip(memory[:fails], log_e[:fails], strict=True)]
    after += [m + e for m, e in zip(memory[fails:both], log_e[fails:], strict=True)]
    if min(after) < LOG_NOTHING:
        after = [max(value, LOG_NOTHING) for value in after]
    return (*after, left, age_s)


def log_mean(log_values: Sequence[float]) -> float:
    """`mixture.log_mean` of one run."""
    most = max(log_values)
    return most + log(sum([exp(value - most) for value in log_values]) / len(log_values))
