"""What simulated runs of one gate say: when trouble is seen, what is the smallest that is seen, when a candidate passes.

Trouble begins with a stage, after stages in which the candidate was good: the test has no evidence for it yet, and the stakes of its start are spent
in part. Trouble that was there from the beginning is seen in the first stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log

import numpy as np

from policies.planning.runs import Runs, block_s
from policies.statistics.mixture import Bools, Floats

POWER = 0.8
"""Probability with which something is seen, where "seen" is said."""

SEED = 20_260_101

DETECTION_RUNS = 120
"""Per size of trouble."""

SEARCH_RUNS = 64

CLOSE = 1.3
"""Amounts this near to each other are near enough to interpolate."""

TINY_S = 1e-9
"""What rounding leaves of a time is no block [s]."""

PATIENCE = 4.0
"""How many times longer than a deadline is looked, to name one that would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Of each run: when the gate raised the alarm, seconds after the stage began (inf = it did not), and what had been done until then.

    Attributes:
        harm: Bad answers of the tested arm; of a latency gate answers [requests].
    """

    seen_s: Floats
    harm: Floats

    def chance(self, within_s: float) -> float:
        """Probability of an alarm in time."""
        return float((self.seen_s <= within_s).mean())

    def time_s(self, part: float) -> float | None:
        """When it was raised in this part of the runs, 0 < part < 1 [s]; None = in fewer."""
        return _quantile(self.seen_s, part)

    def harm_of(self, part: float) -> float | None:
        """What was done until the alarm in this part of the runs at most [requests]; None = not all of them raised it."""
        return _quantile(np.where(np.isfinite(self.seen_s), self.harm, inf), part)


def watch(runs: Runs, *, needed: float, until_s: float, seed: int = SEED) -> Watched:
    """Runs from the start of a stage until each has raised the alarm or the time is over.

    Args:
        runs: As they are at the start, with the levels and rates of the stage.
        needed: Odds that make an alarm.
        until_s: The end [s].
    """
    random, threshold = np.random.default_rng(seed), log(needed)
    seen_s, harm, index, age_s = np.full(runs.size, inf), np.zeros(runs.size), np.arange(runs.size), 0.0
    while until_s - age_s > TINY_S and runs.size:
        step_s = min(block_s(age_s, runs.rate), until_s - age_s)
        runs, age_s = runs.advance(step_s, random), age_s + step_s
        alarm: Bools = runs.enough & (runs.log_fail >= threshold)
        harm[index] = runs.harm
        if alarm.any():
            seen_s[index[alarm]] = age_s
            index, runs = index[~alarm], runs.take(np.flatnonzero(~alarm))
    return Watched(seen_s=seen_s, harm=harm)


def split(seen: Watched, sizes: int) -> list[Watched]:
    """By size of trouble, where runs of several were watched together, one after the other."""
    return [Watched(seen_s=times, harm=harm) for times, harm in zip(np.split(seen.seen_s, sizes), np.split(seen.harm, sizes), strict=True)]


def smallest(power: Callable[[Sequence[float]], Sequence[float]], known: Mapping[float, float], *, low: float) -> float | None:
    """The least amount of trouble that is seen with probability POWER; None = no known amount is.

    Args:
        power: Amounts -> the probability that each is seen.
        known: Amounts > low -> their probability, as far as it is known already.
        low: An amount that is not looked below, > 0.
    """
    seen = [amount for amount, chance in known.items() if chance >= POWER]
    if not seen:
        return None
    high = min(seen)
    chance_low, chance_high = 0.0, known[high]
    for amount, chance in known.items():
        if low < amount < high:
            low, chance_low = amount, chance
    while high > CLOSE * low:
        between = [float(amount) for amount in np.geomspace(low, high, 5)[1:-1]]
        chances = list(power(between))
        first = next((place for place, chance in enumerate(chances) if chance >= POWER), len(chances))
        ends, found = [low, *between, high], [chance_low, *chances, chance_high]
        low, high, chance_low, chance_high = ends[first], ends[first + 1], found[first], found[first + 1]
    return float(low * (high / low) ** ((POWER - chance_low) / (chance_high - chance_low)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Passing:
    """Runs of a good candidate through a stage.

    Attributes:
        pass_s: When each first said PASS, seconds after the stage began; inf = not as long as was looked.
        trail: The runs after each block, by age of the stage [s].
    """

    pass_s: Floats
    trail: tuple[tuple[float, Runs], ...]

    def chance(self, within_s: float) -> float:
        return float((self.pass_s <= within_s).mean())

    def time_s(self, part: float) -> float | None:
        return _quantile(self.pass_s, part)

    def at(self, age_s: float) -> Runs:
        """The runs when the stage was so old: as they were then, or carried on."""
        if age_s <= self.trail[-1][0]:
            return next(runs for age, runs in self.trail if age >= age_s)
        (age, runs), random = self.trail[-1], np.random.default_rng(SEED + 1)
        while age_s - age > TINY_S:
            step_s = min(block_s(age, runs.rate), age_s - age)
            runs, age = runs.advance(step_s, random), age + step_s
        return runs


def passing(runs: Runs, *, passed: Callable[[Runs], Bools], window_s: float, horizon_s: float, seed: int = SEED) -> Passing:
    """Runs until nearly all have passed and the stage's own time is over, or nothing more is to be expected.

    Args:
        passed: Which runs say PASS now.
        window_s: As long as the stage lasts in any case [s].
        horizon_s: Its deadline [s]; if too few pass until then, `PATIENCE` times longer.
    """
    random, pass_s, age_s = np.random.default_rng(seed), np.full(runs.size, inf), 0.0
    trail: list[tuple[float, Runs]] = []
    while True:
        step_s = block_s(age_s, runs.rate)
        runs, age_s = runs.advance(step_s, random), age_s + step_s
        trail.append((age_s, runs))
        pass_s = np.where(np.isinf(pass_s) & passed(runs), age_s, pass_s)
        done = float(np.isfinite(pass_s).mean())
        if age_s >= window_s and (done >= 0.99 or age_s >= (horizon_s if done >= POWER else PATIENCE * horizon_s)):
            return Passing(pass_s=pass_s, trail=tuple(trail))


def _quantile(values: Floats, part: float) -> float | None:
    """The least value that so many are not above; None if that is infinite."""
    found = float(np.sort(values)[min(int(np.ceil(part * len(values))) - 1, len(values) - 1)])
    return None if found == inf else found
