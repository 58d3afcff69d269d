"""What many runs of a policy in one scenario say: parts with exact binomial intervals, quantiles with theirs, and whether expectations hold.

An expectation fails only if the runs contradict it: its bound lies outside the interval, on the wrong side. Where the interval reaches over the
bound the runs cannot tell, and more of them are called for; with the usual few hundred runs, chance alone fails nobody's build.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from policies.replay.expectations import RATES, Expectation
from policies.replay.scenario import Scenario
from policies.replay.simulate import Ended, Run

LEVEL = 0.99
"""Confidence of the intervals that expectations are held against."""

SHOWN = 0.95
"""Confidence of the intervals that people see."""

Verdict = Literal["holds", "fails", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of all runs. `low`, `high`: exact binomial interval (Clopper & Pearson 1934)."""

    count: int
    of: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.count / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Quantiles of something; None = no run had it."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The parts of all runs that had ended by `at_s` [s since the start]."""

    at_s: float
    promoted: float
    reverted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one expectation. `value`: what was seen; `low`, `high`: its interval at `LEVEL`."""

    expected: Expectation
    verdict: Verdict
    value: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All runs in one scenario.

    Attributes:
        false_reverts: Runs that took out an arm that is as good as stable; None = there is something to revert for.
        missed: Runs that promoted an arm that was worse while it had traffic; None = there is nothing to miss.
        to_revert, to_promote: Times [s].
        harmed: Bad answers above what stable would have given, per run [requests]; `slowed`: slower ones.
        reasons: Why runs ended as they did: (ended, code, gate, step) and how often, the most frequent first.
    """

    scenario: str
    about: str
    runs: int
    promoted: Part
    reverted: Part
    held: Part
    false_reverts: Part | None
    missed: Part | None
    to_revert: Spread
    to_promote: Spread
    harmed: Spread
    slowed: Spread
    candidates: Spread
    reasons: tuple[tuple[tuple[Ended, str, str, str], int], ...]
    timeline: tuple[Moment, ...]
    answers: tuple[Answer, ...]

    @property
    def fails(self) -> bool:
        return any(answer.verdict == "fails" for answer in self.answers)


def summary(scenario: Scenario, runs: Sequence[Run]) -> Summary:
    """What the runs say."""
    said = Counter((run.ended, run.code, run.gate, run.step) for run in runs)
    wrongly = _wrongly(scenario, runs)
    return Summary(
        scenario=scenario.name,
        about=scenario.about,
        runs=len(runs),
        promoted=_ended(runs, "promoted"),
        reverted=_ended(runs, "reverted"),
        held=_ended(runs, "held"),
        false_reverts=part(wrongly["false_reverts"], len(runs)) if scenario.meant == "promote" else None,
        missed=part(wrongly["missed"], len(runs)) if scenario.meant == "revert" else None,
        to_revert=_spread(_values("time_to_revert", runs)),
        to_promote=_spread(_values("time_to_promote", runs)),
        harmed=_spread(_values("users_harmed", runs)),
        slowed=_spread(_values("users_slowed", runs)),
        candidates=_spread(_values("candidate_requests", runs)),
        reasons=tuple(sorted(said.items(), key=lambda pair: (-pair[1], pair[0]))),
        timeline=timeline(runs),
        answers=tuple(_answer(each, runs, wrongly) for each in scenario.expect),
    )


def timeline(runs: Sequence[Run], points: int = 24) -> tuple[Moment, ...]:
    """How runs end over time, up to the last one's end."""
    last = max((run.ended_s for run in runs), default=0.0)
    ends = {how: np.sort([run.ended_s for run in runs if run.ended == how]) for how in ("promoted", "reverted")}
    moments = [last * (place + 1) / points for place in range(points)]
    return tuple(
        Moment(at_s=at, **{how: float(np.searchsorted(each, at + 1e-9, side="right")) / len(runs) for how, each in ends.items()})
        for at in moments
    )


def part(count: int, of: int, *, level: float = SHOWN) -> Part:
    """A part with its interval."""
    low, high = interval(count, of, level=level)
    return Part(count=count, of=of, low=low, high=high)


def interval(count: int, of: int, *, level: float) -> tuple[float, float]:
    """Exact binomial interval of a rate: beta quantiles (Clopper & Pearson 1934).

    Args:
        count: Successes, 0 <= count <= of.
        of: Trials; 0 gives (0, 1), nothing known.
        level: Confidence, 0 < level < 1.
    """
    from scipy.special import betaincinv  # noqa: PLC0415 - scipy takes long to import

    tail = (1 - level) / 2
    low = float(betaincinv(count, of - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, of - count, 1 - tail)) if count < of else 1.0
    return low, high


def quantile(values: Sequence[float], at: float, *, level: float) -> tuple[float, float, float]:
    """A quantile with an interval that holds whatever the distribution: order statistics, by the binomial number of values below it.

    Returns: (value, low, high); an end that lies outside of all values is infinite.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    if not count:
        return np.nan, -np.inf, np.inf
    below = _binomial(count, at)
    tail = (1 - level) / 2
    low, high = int(np.searchsorted(below, tail, side="right")) - 1, int(np.searchsorted(below, 1 - tail))
    return (
        float(np.quantile(ordered, at, method="inverted_cdf")),
        float(ordered[low]) if low >= 0 else -np.inf,
        float(ordered[high]) if high < count else np.inf,
    )


def _binomial(count: int, at: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """P(X <= k) for k = 0 .. count of a binomial."""
    from scipy.special import bdtr  # noqa: PLC0415 - scipy takes long to import

    found: np.ndarray[tuple[int], np.dtype[np.float64]] = bdtr(np.arange(count + 1, dtype=np.float64), count, at)
    return found


def _ended(runs: Sequence[Run], how: Ended) -> Part:
    return part(sum(run.ended == how for run in runs), len(runs))


def _wrongly(scenario: Scenario, runs: Sequence[Run]) -> dict[str, int]:
    revert = scenario.meant == "revert"
    return {
        "false_reverts": 0 if revert else sum(run.ended == "reverted" and run.code in _FAILED for run in runs),
        "missed": sum(run.ended == "promoted" and run.met for run in runs) if revert else 0,
    }


_FAILED = frozenset({"gate_failed", "gates_failed", "pods_gone", "probe_failed", "no_data"})
"""Reasons of a revert that say that an arm is bad; a deadline says that nobody knows."""


def _values(what: str, runs: Sequence[Run]) -> list[float]:
    match what:
        case "time_to_revert":
            return [run.took_s for run in runs if run.ended == "reverted"]
        case "time_to_promote":
            return [run.took_s for run in runs if run.ended == "promoted"]
        case "users_harmed":
            return [run.harmed for run in runs]
        case "users_slowed":
            return [run.slowed for run in runs]
        case _:
            return [float(run.candidates) for run in runs]


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(p50=None, p95=None)
    p50, p95 = (float(np.quantile(np.asarray(values), at, method="inverted_cdf")) for at in (0.5, 0.95))
    return Spread(p50=p50, p95=p95)


def _answer(expected: Expectation, runs: Sequence[Run], wrongly: dict[str, int]) -> Answer:
    if expected.what in RATES:
        count = wrongly[expected.what] if expected.what in wrongly else sum(run.ended == expected.what for run in runs)
        value, (low, high) = count / len(runs), interval(count, len(runs), level=LEVEL)
    else:
        assert expected.level is not None
        values = _values(expected.what, runs)
        value, low, high = quantile(values, expected.level, level=LEVEL)
        if not values:  # of what never happened nothing is known
            return Answer(expected=expected, verdict="fails", value=None, low=low, high=high)
    best, worst = (low, high) if expected.sign in {"<=", "<"} else (high, low)
    verdict: Verdict = "fails" if not expected.holds(best) else "holds" if expected.holds(value) or expected.holds(worst) else "open"
    return Answer(expected=expected, verdict=verdict, value=value, low=low, high=high)
