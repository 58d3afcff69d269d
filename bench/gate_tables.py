"""The grid of error scenarios: which rules run in which cell, and the tables T1 to T4 and T6."""

import numpy as np

from bench.gate_race import Reference, any_worse, calibrated, ours, race, shipped, traffic
from bench.peers.argo import Argo
from bench.peers.flagger import Flagger
from bench.peers.kayenta import Kayenta
from bench.peers.sequential import GrowthBook, Multinomial, NaiveZ, Oracle
from policies.statistics import ErrorConfig

HOUR_S = 3600.0
DAY_S = 86_400.0

OURS = ("ours", "ours_1s", "shipped")
"""Ours: worse at all at 5 % in blocks of 10 s and of 1 s, and what ships: +25 % and +0.1 points at 1 %, in blocks of 1 s."""


def rules(*, runs, weight, horizon_s, p_b, p_c, fixed=True, fine=True):
    made = {
        "flagger": Flagger(),
        "argo": Argo(),
        "kayenta": Kayenta(),
        "naive_z": NaiveZ(),
        "growthbook": GrowthBook(),
    }
    if fixed:
        made["netflix"] = Multinomial(weight)
    made["reference"] = Reference(runs, horizon_s=horizon_s)
    made["ours"] = ours(any_worse(horizon_s))
    if fine:
        made["ours_1s"] = ours(any_worse(horizon_s), seconds=1.0)
    made["shipped"] = ours(shipped(horizon_s), alpha=0.01, seconds=1.0 if fine else 10.0)
    if p_c > p_b and fixed:
        made["oracle"] = Oracle(p_b=p_b, p_c=p_c)
    return made


def cell(seed, *, runs, rps, weight, p_b, p_c, horizon_s=HOUR_S, tick_s=1.0):
    """One cell at constant rates and share."""
    random = np.random.default_rng(seed)
    stream = traffic(random, runs=runs, rps=rps, horizon_s=horizon_s, rates=(p_b, p_c), weight=weight, tick_s=tick_s)
    made = rules(runs=runs, weight=weight, horizon_s=horizon_s, p_b=p_b, p_c=p_c, fine=tick_s < 10)
    return race(made, stream, runs=runs, worse_by=p_c - p_b)


def grid(table, *, runs, weights, rates, p_b, seed, **more):
    for weight in weights:
        for rps in (1, 10, 100, 1000):
            for p_c in rates:
                seed += 1
                key = {"table": table, "weight": weight, "rps": rps, "p_b": p_b, "p_c": p_c}
                yield key, cell(seed, runs=runs, rps=rps, weight=weight, p_b=p_b, p_c=p_c, **more)


def t1(runs):
    """S1 at 10 %, an hour."""
    return grid("T1", runs=runs, weights=(0.1,), rates=(0.01, 0.012, 0.02, 0.05, 0.2), p_b=0.01, seed=1000)


def t1b(runs):
    """S1 at 1 % and 50 %."""
    return grid("T1b", runs=runs, weights=(0.01, 0.5), rates=(0.02, 0.05, 0.2), p_b=0.01, seed=1100)


def t2(runs):
    """S3: a day without a regression."""
    for p_b in (0.01, 0.001):
        more = {"horizon_s": DAY_S, "tick_s": 10.0, "seed": 1200 + round(p_b * 10_000)}
        yield from grid("T2", runs=runs, weights=(0.01, 0.1, 0.5), rates=(p_b,), p_b=p_b, **more)


def t3(runs):
    """S2: rare errors, 5 % of traffic, an hour."""
    return grid("T3", runs=runs, weights=(0.05,), rates=(0.001, 0.002, 0.01, 0.05), p_b=0.001, seed=1400)


def t4(runs):
    """S4: what real traffic does."""
    yield from _shared_bursts(runs)
    yield from _arm_bursts(runs)
    yield from _ramp(runs)
    yield from _late(runs)


class _Bursts:
    """p times a Gamma per minute, the same for both arms or one each."""

    def __init__(self, random, runs, p_b, p_c, *, shape, shared):
        self.random, self.runs, self.p_b, self.p_c, self.shape, self.shared = random, runs, p_b, p_c, shape, shared
        self.minute = -1

    def __call__(self, now):
        if now // 60 != self.minute:
            self.minute = now // 60
            self.of_b = self.random.gamma(self.shape, 1 / self.shape, self.runs)
            self.of_c = self.of_b if self.shared else self.random.gamma(self.shape, 1 / self.shape, self.runs)
        return np.minimum(self.p_b * self.of_b, 1.0), np.minimum(self.p_c * self.of_c, 1.0)


def _shared_bursts(runs):
    for index, rps in enumerate((10, 100, 1000)):
        random = np.random.default_rng(1500 + index)
        rates = _Bursts(random, runs, 0.01, 0.01, shape=0.3, shared=True)
        stream = traffic(random, runs=runs, rps=rps, horizon_s=HOUR_S, rates=rates)
        made = rules(runs=runs, weight=0.1, horizon_s=HOUR_S, p_b=0.01, p_c=0.01, fine=False)
        yield {"table": "T4", "scenario": "shared bursts", "rps": rps, "p_b": 0.01, "p_c": 0.01}, race(made, stream, runs=runs)


def _arm_bursts(runs):
    seed = 1520
    for p_c in (0.01, 0.02, 0.05):
        for rps in (10, 100, 1000):
            seed += 1
            random = np.random.default_rng(seed)
            phi = calibrated(random, runs=runs, rps=rps, weight=0.1, p=0.01)
            rates = _Bursts(random, runs, 0.01, p_c, shape=2.0, shared=False)
            made = rules(runs=runs, weight=0.1, horizon_s=HOUR_S, p_b=0.01, p_c=p_c, fine=False)
            made.pop("oracle", None)
            made["ours_AA"] = ours(any_worse(HOUR_S), phi=phi)
            made["shipped_AA"] = ours(shipped(HOUR_S), alpha=0.01, phi=phi)
            stream = traffic(random, runs=runs, rps=rps, horizon_s=HOUR_S, rates=rates)
            key = {"table": "T4", "scenario": "arm bursts", "rps": rps, "p_b": 0.01, "p_c": p_c}
            yield key, race(made, stream, runs=runs, worse_by=p_c - 0.01)


def _ramp(runs):
    """The error rate follows the day from 0.5 % to 2 %, the share goes 1, 5, 25, 50 %."""

    def rates(now):
        p = 0.0125 - 0.0075 * np.cos(2 * np.pi * now / DAY_S)
        return p, p

    for index, rps in enumerate((10, 100, 1000)):
        random = np.random.default_rng(1540 + index)
        weight = (0.01, 0.05, 0.25, 0.5)
        stream = traffic(random, runs=runs, rps=rps, horizon_s=DAY_S, rates=rates, weight=lambda now: weight[int(now // (6 * HOUR_S))])  # noqa: B023 - used within the turn
        made = rules(runs=runs, weight=0.1, horizon_s=DAY_S, p_b=0.01, p_c=0.01, fixed=False, fine=False)
        yield {"table": "T4", "scenario": "day and ramp", "rps": rps, "p_b": 0.01, "p_c": 0.01}, race(made, stream, runs=runs)


def _late(runs):
    """1 % -> 5 % in the middle."""
    for horizon_s, loads in ((HOUR_S, (10, 100)), (DAY_S, (10, 100, 1000))):
        onset = horizon_s / 2
        for rps in loads:
            random = np.random.default_rng(1560 + rps + round(horizon_s))
            stream = traffic(
                random,
                runs=runs,
                rps=rps,
                horizon_s=horizon_s,
                rates=lambda now: (0.01, 0.05 if now >= onset else 0.01),  # noqa: B023 - used within the turn
            )
            made = rules(runs=runs, weight=0.1, horizon_s=horizon_s, p_b=0.01, p_c=0.01, fine=False)
            key = {"table": "T4", "scenario": f"onset at {onset / 60:.0f} min", "rps": rps, "p_b": 0.01, "p_c": 0.05, "onset_s": onset}
            yield key, race(made, stream, runs=runs, worse_by=lambda now: 0.04 if now >= onset else 0.0)  # noqa: B023 - used within the turn


MARGINS = {
    "rel1.5": ErrorConfig(relative=0.5, absolute=None),
    "rel2": ErrorConfig(relative=1.0, absolute=None),
    "abs0.5pp": ErrorConfig(relative=None, absolute=0.005),
    "abs1pp": ErrorConfig(relative=None, absolute=0.01),
}


def t6(runs):
    """S6: time to PASS a good candidate; how often one at the margin is passed."""
    seed = 1700
    for weight in (0.01, 0.1, 0.5):
        for rps in (1, 10, 100, 1000):
            horizon_s = DAY_S if rps < 100 else 6 * HOUR_S
            for p_c in (0.01, 0.015):
                seed += 1
                wanted = MARGINS if p_c == 0.01 else {name: MARGINS[name] for name in ("rel1.5", "abs0.5pp")}
                made = {name: ours(config, passes=True) for name, config in wanted.items()}
                random = np.random.default_rng(seed)
                stream = traffic(random, runs=runs, rps=rps, horizon_s=horizon_s, rates=(0.01, p_c), weight=weight, twin=False)
                yield {"table": "T6", "weight": weight, "rps": rps, "p_b": 0.01, "p_c": p_c}, race(made, stream, runs=runs)
