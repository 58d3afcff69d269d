"""S5: latencies, log-normal with a median of 100 ms. Peers see bins of 2 %, ours its own bins of 8 %."""

import numpy as np
from scipy.special import ndtr, ndtri, stdtr

from bench.gate_race import Outcome
from bench.peers.flagger import FlaggerLatency
from bench.peers.kayenta import Judge
from bench.peers.sequential import half_width
from policies.evidence import LATENCY_EDGES_MS
from policies.statistics import LatencyConfig, LatencyGate
from policies.statistics.mixture import LOG_NOTHING, log_mean, restart

MEDIAN_MS, SIGMA = 100.0, 0.6
HOUR_S = 3600.0
FINE = 4
"""Bins of the simulation per bin of ours."""

_LOG_STEP = np.log(LATENCY_EDGES_MS[1] / LATENCY_EDGES_MS[0])
_FIRST, _COUNT = np.searchsorted(LATENCY_EDGES_MS, 5.0), 95
EDGES_MS = LATENCY_EDGES_MS[0] * np.exp(_LOG_STEP * (_FIRST + np.arange(_COUNT * FINE + 1) / FINE))
"""Bounds of the simulation's bins, 5 ms to about 8 s: ours, each cut into four."""

CANARIES = {
    "x1": (1.0, 0.0),
    "x1.05": (1.05, 0.0),
    "x1.1": (1.1, 0.0),
    "x1.25": (1.25, 0.0),
    "x2": (2.0, 0.0),
    "x1 +2% tail x10": (1.0, 0.02),
}
"""Factor, and share of requests that take ten times as long."""


def masses(factor, tail):
    """Share of requests per bin of the simulation."""

    def cdf(median):
        values = ndtr((np.log(EDGES_MS) - np.log(median)) / SIGMA)
        values[0], values[-1] = 0.0, 1.0
        return np.diff(values)

    return (1 - tail) * cdf(MEDIAN_MS * factor) + tail * cdf(MEDIAN_MS * factor * 10)


MIDDLES = np.sqrt(EDGES_MS[1:] * EDGES_MS[:-1])


class NaiveT:
    """Welch's one-sided t-test of mean latencies at every look."""

    def __init__(self, alpha=0.05):
        self.alpha = alpha
        self.moments = 0

    def see(self, candidate, baseline):
        powers = np.stack([np.ones_like(MIDDLES), MIDDLES, MIDDLES**2], axis=-1)
        self.moments = self.moments + np.stack([candidate @ powers, baseline @ powers])
        return self.test(*self.moments)

    def test(self, c, b):
        n = np.stack([c[:, 0], b[:, 0]])
        n = np.maximum(n, 2)
        means = np.stack([c[:, 1], b[:, 1]]) / n
        variances = np.maximum(np.stack([c[:, 2], b[:, 2]]) / n - means**2, 1e-9) / n
        enough = (c[:, 0] >= 30) & (b[:, 0] >= 30)
        return enough & self.rejects(means[0] - means[1], variances, n)

    def rejects(self, gap, variances, n):
        total = variances.sum(axis=0)
        freedom = total**2 / (variances**2 / (n - 1)).sum(axis=0)
        return stdtr(freedom, -gap / np.sqrt(total)) < self.alpha


class GrowthBookMean(NaiveT):
    """The confidence sequence of `GrowthBook` for mean latencies."""

    def rejects(self, gap, variances, n):
        total = n.sum(axis=0)
        return gap > half_width(variances.sum(axis=0) * total, total, alpha=self.alpha)


class Band:
    """Time-uniform bands around both empirical distributions (Howard & Ramdas, arXiv:1906.09712, theorem 2), as Netflix compares them
    (arXiv:2205.14762): fires where the candidate's is surely below stable's at some latency. A = 0.85, from 100 requests on.
    """

    SCALE, LEAST, LEVEL = 0.85, 100, 8.62264928322407
    """The last for 2.5 % per arm."""

    def __init__(self):
        self.counts = 0

    def see(self, candidate, baseline):
        self.counts = self.counts + np.stack([candidate, baseline])
        n = np.maximum(self.counts.sum(axis=-1, keepdims=True), 1)
        cdf = self.counts.cumsum(axis=-1) / n
        n = n[..., 0]
        half = self.SCALE * np.sqrt((np.log1p(np.log(np.maximum(n / self.LEAST, 1))) + self.LEVEL) / n)
        return (n >= self.LEAST).all(axis=0) & ((cdf[1] - cdf[0]).max(axis=-1) > half.sum(axis=0))


class ReferenceLatency:
    """The recommended test before it was tuned: scores of the true distribution of stable, no margin."""

    SHIFTS = np.array([0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
    ODDS = np.array([1.5, 3.0, 10.0])

    def __init__(self, runs, *, alpha=0.05):
        cumulative = np.cumsum(masses(1.0, 0.0))
        middle = np.clip(cumulative - masses(1.0, 0.0) / 2, 1e-9, 1 - 1e-9)
        z = np.clip(ndtri(middle), -3.5, 3.5)
        shifts = self.SHIFTS[:, np.newaxis]
        parts = [shifts * z - shifts**2 / 2]
        for quantile in (0.9, 0.99):
            base = 1 - quantile
            raised = self.ODDS * base / (1 - base + self.ODDS * base)
            above = (cumulative > quantile)[np.newaxis]
            parts.append(np.where(above, np.log(raised / base)[:, np.newaxis], np.log((1 - raised) / (1 - base))[:, np.newaxis]))
        self.log_u = np.concatenate(parts)
        self.log_m = np.full((runs, len(self.log_u)), LOG_NOTHING)
        self.alpha, self.blocks = alpha, 0

    def see(self, candidate, baseline):
        self.blocks += 1
        gamma = 0.75 if self.blocks == 1 else 0.25 / 60 if self.blocks % 6 == 0 else 0.0
        n_c, n_b = candidate.sum(axis=-1), baseline.sum(axis=-1)
        share = n_c / np.maximum(n_c + n_b, 1)
        of_c = self.log_u - np.log1p(share[:, np.newaxis, np.newaxis] * np.expm1(self.log_u))
        of_b = np.log1p(share[:, np.newaxis, np.newaxis] * np.expm1(self.log_u))
        log_e = np.einsum("rjh,rh->rj", of_c, candidate) - np.einsum("rjh,rh->rj", of_b, baseline)
        self.log_m = restart(self.log_m, log_e, gamma)
        body, tail = self.log_m[:, :6], self.log_m[:, 6:]
        return np.logaddexp(log_mean(body), log_mean(tail)) - np.log(2) >= -np.log(self.alpha)


class Ours:
    """The latency gate that ships. It knows ten minutes of stable's traffic from before the rollout."""

    def __init__(self, relative, before, *, alpha):
        gate = LatencyGate.start(LatencyConfig(relative=relative, deadline_s=HOUR_S))
        self.gate = gate.update(coarse(before), np.zeros((len(before), len(LATENCY_EDGES_MS) + 1)), elapsed_s=0.0)
        self.alpha = alpha

    def see(self, candidate, baseline):
        self.gate = self.gate.update(coarse(baseline), coarse(candidate))
        return self.gate.enough & (self.gate.log_fail >= -np.log(self.alpha))


def coarse(fine):
    """The simulation's bins in ours."""
    counts = np.zeros((len(fine), len(LATENCY_EDGES_MS) + 1))
    counts[:, _FIRST + 1 : _FIRST + 1 + _COUNT] = fine.reshape(len(fine), _COUNT, FINE).sum(axis=-1)
    return counts


def assert_aligned():
    """Our bins hold what lies between their edges."""
    inner = EDGES_MS[::FINE][:_COUNT]
    if not np.allclose(inner, LATENCY_EDGES_MS[_FIRST : _FIRST + _COUNT]):
        raise AssertionError("the simulation's bins are not those of the gate, cut")


def cell(seed, *, runs, rps, canary, weight=0.1):
    """One cell of T5."""
    random = np.random.default_rng(seed)
    mass_b, mass_c = masses(1.0, 0.0), masses(*CANARIES[canary])
    used = np.flatnonzero((mass_b > 1e-12) | (mass_c > 1e-12))

    def draw(part, mass):
        counts = np.zeros((runs, len(mass)))
        counts[:, used] = random.poisson(rps * 10 * part * mass[used], (runs, len(used)))
        return counts

    before = draw(60 * (1 - weight), mass_b)
    every_block = {
        "naive_t": NaiveT(),
        "growthbook": GrowthBookMean(),
        "netflix_band": Band(),
        "reference": ReferenceLatency(runs),
        "ours": Ours(0.0, before, alpha=0.05),
        "shipped": Ours(0.25, before, alpha=0.01),
    }
    flagger, judge = FlaggerLatency(EDGES_MS[:-1]), Judge()
    names = ["flagger_p99", "kayenta_p99", *every_block]
    times = {name: np.full(runs, np.inf) for name in names}
    minute = []

    def note(name, fires, now):
        if fires is not None:
            times[name][fires & np.isinf(times[name])] = now

    for index in range(round(HOUR_S / 10)):
        now = (index + 1) * 10.0
        candidate, baseline, twin = draw(weight, mass_c), draw(1 - weight, mass_b), draw(weight, mass_b)
        for name, rule in every_block.items():
            if np.isinf(times[name]).any():
                note(name, rule.see(candidate, baseline), now)
        minute.append((candidate, twin))
        if len(minute) == 6:
            of_c, of_t = (sum(arm) for arm in zip(*minute, strict=True))
            minute = []
            note("flagger_p99", flagger.see_minute(of_c), now)
            note("kayenta_p99", judge.minute(p99(of_c), p99(of_t)), now)
        if not any(np.isinf(seen).any() for seen in times.values()):
            break
    return {name: Outcome(times[name], np.zeros(runs)) for name in names}


def p99(counts):
    """The latency at which 99 % are reached, per run; 0 without requests."""
    total = counts.sum(axis=-1, keepdims=True)
    place = (counts.cumsum(axis=-1) < 0.99 * total).sum(axis=-1)
    return np.where(total[:, 0] > 0, MIDDLES[np.minimum(place, len(MIDDLES) - 1)], 0.0)


def t5(runs):
    """S5 at 10 %, an hour."""
    assert_aligned()
    seed = 1600
    for rps in (10, 100, 1000):
        for canary in CANARIES:
            seed += 1
            yield {"table": "T5", "rps": rps, "canary": canary}, cell(seed, runs=runs, rps=rps, canary=canary)
