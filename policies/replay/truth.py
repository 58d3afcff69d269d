"""What is true in a scenario at given times, for many runs at once, and counts drawn from it.

Every array has one row per run; runs stand at different times. Randomness comes in as a `numpy.random.Generator`, so that a seed is all it takes
to see a run again.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log
from statistics import NormalDist

import numpy as np

from policies.evidence import LATENCY_BINS, LATENCY_EDGES_MS
from policies.replay.arrays import Ints
from policies.replay.scenario import Incident, Load, Noise, Scenario, at_s, whole
from policies.spec.policy import FULL_BP, STABLE, RolloutPolicy
from policies.statistics.mixture import Bools, Floats

LEAST_MASS = 1e-9
"""Bins of latency less likely than this never come."""

MANY = 30.0
"""Expected counts from which a Poisson count is drawn from the normal form of it."""

STRENGTHS = 32
"""Steps in which an incident's strength changes a latency."""


def rate(load: Load, at: Floats) -> Floats:
    """Requests per second at some times [s since the start]."""
    times, rates = zip(*load.points, strict=True)
    straight: Floats = np.interp(at, times, rates)
    if not load.swing:
        return straight
    return straight * (1 + load.swing * np.cos(2 * np.pi * (at - load.peak_at_s) / load.period_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What proxies do now.

    Attributes:
        users: Per run and arm: part of the users' requests, 0 to 1.
        copies: The same of mirrored copies.
    """

    users: Floats
    copies: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Requests of one variant in one block of each run; `latency`: bins from `Truth.bins` on, or None where nobody asks for it."""

    requests: Ints
    errors: Ints
    latency: Ints | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One block of each run.

    Attributes:
        stable: Of users.
        users, copies: Per arm.
        harmed: Expected bad answers above what stable would have given, to users, all arms together [requests].
        slowed: Users' answers that an incident made slower [requests].
        bad: Whether an arm that gets something is worse than stable.
    """

    stable: Counted
    users: tuple[Counted, ...]
    copies: tuple[Counted, ...]
    harmed: Floats
    slowed: Floats
    bad: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Wander:
    """Factors on error rates now: `stretch` is which of the noise's times they are of, `shared` one per run, `own` one per run and variant."""

    stretch: Ints
    shared: Floats
    own: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """One variant's share of the truth: its base rate and the incidents about it, as (incident, begin [s])."""

    error_rate: float
    incidents: tuple[tuple[Incident, float], ...]


class Truth:
    """A scenario under one policy.

    Attributes:
        edges: Times at which something begins or ends, ascending [s].
        bins: First and last bin of latency that can come, the last excluded.
    """

    def __init__(self, scenario: Scenario, policy: RolloutPolicy, *, with_latency: bool) -> None:
        self.scenario = scenario
        self.with_latency = with_latency
        begins = [(each, at_s(each.at, policy)) for each in scenario.incidents]
        names = [STABLE, *(arm.name for arm in policy.arms)]
        self._variants = tuple(
            _Variant(
                error_rate=scenario.error_rate(name, first=index == 1),
                incidents=tuple((each, begin) for each, begin in begins if each.kind != "pods" and each.hits(name, first=index == 1)),
            )
            for index, name in enumerate(names)
        )
        self.pods = tuple(
            (index - 1, each, begin)
            for index, name in enumerate(names)
            for each, begin in begins
            if index and each.kind == "pods" and each.hits(name, first=index == 1)
        )
        edges = {
            edge for each, begin in begins for edge in (begin, begin + whole(each.ramp_s), begin + whole(each.for_s)) if np.isfinite(edge)
        }
        self.edges = np.array([*sorted(edges), np.inf])
        self.bins = self._columns()

    def draw(self, random: np.random.Generator, *, at: Floats, for_s: Floats, shares: Shares, gone: Bools, wander: Wander) -> Traffic:
        """Requests of one block of each run.

        Args:
            at: Middle of the block [s since the start].
            for_s: Its length [s].
            gone: Per run and arm: whether it has no pod at all.
            wander: The noise in force.
        """
        expected = rate(self.scenario.load, at) * for_s
        base = self._error_rate(self._variants[0], at, None)
        stable_share = np.maximum(1.0 - shares.users.sum(axis=1), 0.0)
        stable_share[stable_share < 0.5 / FULL_BP] = 0.0
        stable = self._counted(
            random,
            self._variants[0],
            expected=expected * stable_share,
            error_rate=base * wander.shared * wander.own[:, 0],
            at=at,
            share=None,
        )
        users, copies = [], []
        harmed, slowed, bad = np.zeros(len(at)), np.zeros(len(at)), np.zeros(len(at), dtype=np.bool_)
        for index, variant in enumerate(self._variants[1:]):
            share, copied = shares.users[:, index], shares.copies[:, index]
            rates = np.where(gone[:, index], 1.0, self._error_rate(variant, at, share + copied))
            noisy = np.where(gone[:, index], 1.0, rates * wander.shared * wander.own[:, index + 1])
            silent = self._silent(variant, at)
            sent = expected * share
            seen = self._counted(random, variant, expected=np.where(silent, 0.0, sent), error_rate=noisy, at=at, share=share)
            users.append(seen)
            copies.append(self._copies(random, np.where(silent, 0.0, expected * copied), noisy))
            excess = np.where(
                gone[:, index], 0.0, np.clip(rates - base, 0.0, None) * np.minimum(wander.shared, 1 / np.maximum(rates, 1e-9))
            )
            harmed += np.where(silent, sent, seen.requests * excess)
            slow = self._slow(variant, at, share)
            slowed += seen.requests * slow
            bad |= ((share > 0) | (copied > 0)) & ((excess > 0) | silent | (slow > 0) | gone[:, index])
        return Traffic(stable=stable, users=tuple(users), copies=tuple(copies), harmed=harmed, slowed=slowed, bad=bad)

    def wander(self, random: np.random.Generator, at: Floats, before: Wander | None) -> Wander:
        """The noise of the time that begins at `at`; where its stretch is still that of before, so is the noise."""
        noise: Noise = self.scenario.noise
        variants = len(self._variants)
        if not (noise.shared or noise.arms):
            return before or Wander(stretch=np.zeros(len(at), dtype=np.int64), shared=np.ones(len(at)), own=np.ones((len(at), variants)))
        stretch = np.floor(at / whole(noise.every_s) + 1e-9).astype(np.int64)
        fresh = np.ones(len(at), dtype=np.bool_) if before is None else stretch != before.stretch
        if before is not None and not fresh.any():
            return before
        shared = _gamma(random, noise.shared, (len(at),))
        own = _gamma(random, noise.arms, (len(at), variants))
        if before is not None:
            shared, own = np.where(fresh, shared, before.shared), np.where(fresh[:, np.newaxis], own, before.own)
        return Wander(stretch=stretch, shared=shared, own=own)

    def probe_passes(self, arm: int, at: float) -> bool:
        """Whether an arm answers a probe: it does unless it fails, or is silent, more often than not."""
        variant, times = self._variants[arm + 1], np.array([at])
        return not bool(self._silent(variant, times)[0]) and float(self._error_rate(variant, times, None)[0]) < 0.5

    def _counted(
        self, random: np.random.Generator, variant: _Variant, *, expected: Floats, error_rate: Floats, at: Floats, share: Floats | None
    ) -> Counted:
        latency: Ints | None = None
        if self.with_latency:
            latency = poisson(random, expected[:, np.newaxis] * self._latency(variant, at, share))
            requests: Ints = latency.sum(axis=1)
        else:
            requests = poisson(random, expected)
        return Counted(requests=requests, errors=random.binomial(requests, np.clip(error_rate, 0.0, 1.0)), latency=latency)

    @staticmethod
    def _copies(random: np.random.Generator, expected: Floats, error_rate: Floats) -> Counted:
        if not expected.any():
            nothing = np.zeros(len(expected), dtype=np.int64)
            return Counted(requests=nothing, errors=nothing)
        requests = poisson(random, expected)
        return Counted(requests=requests, errors=random.binomial(requests, np.clip(error_rate, 0.0, 1.0)))

    def _error_rate(self, variant: _Variant, at: Floats, share: Floats | None) -> Floats:
        rates = np.full(len(at), variant.error_rate)
        for incident, begin in variant.incidents:
            if incident.kind == "errors":
                strength = _strength(incident, begin, at, share)
                worst = rates * incident.times if incident.rate is None else np.maximum(rates, incident.rate)
                rates = rates + strength * (worst - rates)
        capped: Floats = np.minimum(rates, 1.0)
        return capped

    def _silent(self, variant: _Variant, at: Floats) -> Bools:
        silent = np.zeros(len(at), dtype=np.bool_)
        for incident, begin in variant.incidents:
            if incident.kind == "silence":
                silent |= _strength(incident, begin, at, None) > 0
        return silent

    def _slow(self, variant: _Variant, at: Floats, share: Floats) -> Floats:
        """Part of the answers that an incident of the arm alone makes slower."""
        slow = np.zeros(len(at))
        for incident, begin in variant.incidents:
            if incident.kind == "latency" and incident.harmful:
                slow = np.maximum(slow, (_strength(incident, begin, at, share) > 0) * (1.0 if incident.times > 1 else incident.tail_share))
        return slow

    def _latency(self, variant: _Variant, at: Floats, share: Floats | None) -> Floats:
        """Probability of each bin, one row per run or one for all."""
        shape = self.scenario.latency
        table = _masses(shape.p50_ms, shape.sigma, 1.0, 0.0, 1.0)[np.newaxis, self.bins[0] : self.bins[1]]
        for incident, begin in variant.incidents:
            if incident.kind != "latency":
                continue
            steps = np.rint(_strength(incident, begin, at, share) * STRENGTHS).astype(np.int64)
            if not steps.any():
                continue
            rows = np.stack([_of(shape.p50_ms, shape.sigma, incident, step / STRENGTHS) for step in range(STRENGTHS + 1)])
            # of several incidents at once the one named last is seen
            table = np.where((steps > 0)[:, np.newaxis], rows[steps][:, self.bins[0] : self.bins[1]], table)
        return table

    def _columns(self) -> tuple[int, int]:
        shape = self.scenario.latency
        seen = [_masses(shape.p50_ms, shape.sigma, 1.0, 0.0, 1.0)]
        seen += [
            _of(shape.p50_ms, shape.sigma, incident, step / STRENGTHS)
            for incident in self.scenario.incidents
            if incident.kind == "latency"
            for step in range(STRENGTHS + 1)
        ]
        columns = np.flatnonzero(np.sum(seen, axis=0) > 0)
        return int(columns[0]), int(columns[-1]) + 1


def poisson(random: np.random.Generator, expected: Floats) -> Ints:
    """Poisson counts.

    Large ones come from the normal distribution with its skewness mended (Cornish & Fisher 1938), which is off by less than 1 / `MANY` of a
    standard deviation.
    """
    if not expected.any():
        return np.zeros(expected.shape, dtype=np.int64)
    many = expected >= MANY
    if not many.any():
        few: Ints = random.poisson(expected)
        return few
    z = random.standard_normal(expected.shape)
    counts: Ints = np.rint(expected + np.sqrt(expected) * z + (z * z - 1) / 6).astype(np.int64)
    rest = ~many
    counts[rest] = random.poisson(expected[rest])
    return counts


def _strength(incident: Incident, begin: float, at: Floats, share: Floats | None) -> Floats:
    """How much of an incident is in force, 0 to 1."""
    on: Bools = (at >= begin) & (at < begin + whole(incident.for_s))
    if incident.from_bp and share is not None:
        on &= share >= incident.from_bp / FULL_BP - 1e-9
    if not incident.ramp_s:
        return on.astype(np.float64)
    return np.where(on, np.clip((at - begin) / incident.ramp_s, 0.0, 1.0), 0.0)


def _gamma(random: np.random.Generator, deviation: float, shape: tuple[int, ...]) -> Floats:
    """Factors of mean 1."""
    if not deviation:
        return np.ones(shape)
    return random.gamma(1 / deviation**2, deviation**2, size=shape)


def _of(p50_ms: float, sigma: float, incident: Incident, strength: float) -> Floats:
    times = 1 + strength * (incident.times - 1)
    return _masses(p50_ms, sigma, times, strength * incident.tail_share, incident.tail_times)


@lru_cache(maxsize=4096)
def _masses(p50_ms: float, sigma: float, times: float, tail_share: float, tail_times: float) -> Floats:
    """Probability of every latency bin."""
    normal = NormalDist(sigma=max(sigma, 1e-3))

    def masses(median_ms: float) -> Floats:
        below = [normal.cdf(log(edge / median_ms)) for edge in LATENCY_EDGES_MS]
        return np.diff(np.array([0.0, *below, 1.0]))

    mixed = (1 - tail_share) * masses(p50_ms * times) + tail_share * masses(p50_ms * times * tail_times)
    mixed[mixed < LEAST_MASS] = 0.0
    assert len(mixed) == LATENCY_BINS
    total: Floats = mixed / mixed.sum()
    return total
