"""Simulated traffic, the gates that ship in the form of a peer's rule, and the race between rules over the same traffic."""

from dataclasses import dataclass

import numpy as np

from bench.peers import Block, Window
from policies.gates import MAX_PENDING_S, SMALL_BLOCK, SMALL_S
from policies.statistics import ErrorConfig, ErrorGate, Verdict, blocks
from policies.statistics.dispersion import Dispersion
from policies.statistics.mixture import LOG_NOTHING, log_mean, restart
from policies.statistics.verdict import MIN_BAD, MIN_REQUESTS


def traffic(random, *, runs, rps, horizon_s, rates, weight=0.1, tick_s=10.0, twin=True):
    """Blocks of Poisson arrivals with independent errors.

    Args:
        rates: (p_b, p_c), numbers; or a function of the time that gives both, numbers or one per run.
        weight: The candidate's share, or a function of the time.
        twin: Whether a third arm is wanted.
    """
    nothing = np.zeros(runs, dtype=np.int64)
    for index in range(round(horizon_s / tick_s)):
        now = index * tick_s
        p_b, p_c = rates(now) if callable(rates) else rates
        share = weight(now) if callable(weight) else weight
        arms = {}
        for arm, p, part in (("b", p_b, 1 - share), ("c", p_c, share), ("t", p_b, share)):
            if arm == "t" and not twin:
                arms |= {"n_t": nothing, "k_t": nothing}
                continue
            bad = random.poisson(rps * tick_s * part * p, runs)
            arms |= {f"k_{arm}": bad, f"n_{arm}": bad + random.poisson(rps * tick_s * part * (1 - p), runs)}
        yield Block(seconds=tick_s, **arms)


class Ours:
    """The error gate that ships, fed as the product feeds it: a block closes when `seconds` are over and both arms have a request."""

    def __init__(self, config, *, alpha=0.05, seconds=10.0, phi=None):
        self.gate = ErrorGate.start(config)
        self.alpha = alpha
        self.window = Window(seconds)
        self.held = None
        self.age_s = 0.0
        self.noise = phi
        self.minute = Window(60.0)

    def see(self, block):
        if self.noise is not None and (minute := self.minute.push(block)) is not None:
            self.noise = self.noise.update((minute.n_b, minute.k_b), (minute.n_c, minute.k_c))
        block = self.window.push(block)
        if block is None:
            return None
        phi = 1.0 if self.noise is None else self.noise.phi
        counts = np.stack([block.n_b, block.k_b, block.n_c, block.k_c])
        counts = counts if self.held is None else counts + self.held
        both, active = (counts[0] > 0) & (counts[2] > 0), block.n_b + block.n_c > 0
        few = (counts[0] + counts[2] < SMALL_BLOCK) & (self.age_s < SMALL_S) & (block.seconds < SMALL_S)
        whole = both & active & ~few
        closes = whole | (~both & active & (self.age_s > MAX_PENDING_S))
        self.held = np.where(closes, 0, counts)
        self.age_s = np.where(closes | (self.held.sum(axis=0) == 0), 0.0, self.age_s + block.seconds)
        n_b, k_b, n_c, k_c = np.where(closes, counts, 0)
        self.gate = self.gate.update((n_b, k_b), (n_c * whole, k_c * whole), elapsed_s=block.seconds, dispersion=phi)
        return self.fires()

    def fires(self):
        return self.gate.enough & (self.gate.log_fail >= -np.log(self.alpha))


class OursPasses(Ours):
    """The same, watched for its PASS."""

    def fires(self):
        return self.gate.log_pass >= -np.log(self.alpha)


class Reference:
    """The recommended test before it was tuned: (R) without a margin on nine alternatives; three quarters of the purse on the first block,
    the rest spread evenly over the minutes to the deadline. The line the shipped gate is held against.
    """

    RATIOS = np.array([1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50])

    def __init__(self, runs, *, horizon_s, alpha=0.05):
        self.window = Window(10.0)
        self.log_m = np.full((runs, len(self.RATIOS)), LOG_NOTHING)
        self.later = 0.25 / (horizon_s / 60)
        self.alpha = alpha
        self.blocks = 0
        self.requests = self.errors = 0

    def see(self, block):
        block = self.window.push(block)
        if block is None:
            return None
        self.requests, self.errors = self.requests + block.n_c, self.errors + block.k_c
        self.blocks += 1
        gamma = 0.75 if self.blocks == 1 else self.later if self.blocks % 6 == 0 else 0.0
        both = (block.n_c > 0) & (block.n_b > 0)
        arms = (np.maximum(block.n_c, 1.0), block.k_c * both), (np.maximum(block.n_b, 1.0), block.k_b * both)
        self.log_m = restart(self.log_m, blocks.relative(*arms, ratio=self.RATIOS, rho=1.0), gamma)
        return (log_mean(self.log_m) >= -np.log(self.alpha)) & (self.errors >= MIN_BAD) & (self.requests >= MIN_REQUESTS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One rule in one cell.

    Attributes:
        time_s: When it took the candidate out, per run; inf = never.
        excess: Bad requests that stable would have answered well, until then.
        wrong: Runs with an answer that is not true, where there is such a thing.
    """

    time_s: np.ndarray
    excess: np.ndarray
    wrong: int = 0

    @property
    def share(self):
        return float(np.isfinite(self.time_s).mean())

    @property
    def count(self):
        return int(np.isfinite(self.time_s).sum())

    @property
    def median_s(self):
        """Over all runs; inf where fewer than half were taken out."""
        return float(np.median(self.time_s))

    @property
    def mean_excess(self):
        return float(self.excess.mean())

    def figures(self):
        median = self.median_s
        return {
            "share": round(self.share, 4),
            "runs": len(self.time_s),
            "median_s": None if np.isinf(median) else median,
            "excess": round(self.mean_excess, 3),
            "wrong": self.wrong,
        }


def race(rules, stream, *, runs, worse_by=0.0, coarse_s=10.0):
    """What each rule did, all of them on the same traffic. Rules with an attribute `fine` get blocks as they come, the others of 10 s.

    Args:
        rules: By name.
        stream: Blocks.
        worse_by: p_c - p_b, for the excess; a number or a function of the time.
    """
    times = {name: np.full(runs, np.inf) for name in rules}
    harm = {name: np.zeros(runs) for name in rules}
    excess, now = np.zeros(runs), 0.0
    window = Window(coarse_s)
    going = dict(rules)
    for block in stream:
        excess = excess + block.n_c * (worse_by(now) if callable(worse_by) else worse_by)
        now += block.seconds
        coarse = window.push(block)
        for name, rule in tuple(going.items()):
            part = block if getattr(rule, "fine", False) else coarse
            fires = None if part is None else rule.see(part)
            if fires is None:
                continue
            new = fires & np.isinf(times[name])
            if new.any():
                times[name][new] = now
                harm[name][new] = excess[new]
                if np.isfinite(times[name]).all():
                    del going[name]
        if not going:
            break
    for name in going:
        never = np.isinf(times[name])
        harm[name][never] = excess[never]
    return {name: Outcome(times[name], harm[name]) for name in rules}


def ours(config, *, alpha=0.05, seconds=10.0, phi=None, passes=False):
    rule = (OursPasses if passes else Ours)(config, alpha=alpha, seconds=seconds, phi=phi)
    rule.fine = seconds < 10
    return rule


def any_worse(deadline_s, **more):
    """Without a margin: "worse at all", what the sequential peers test."""
    return ErrorConfig(relative=0.0, absolute=None, deadline_s=deadline_s, **more)


def shipped(deadline_s):
    """The margins a gate has that says nothing of them."""
    return ErrorConfig(deadline_s=deadline_s)


def calibrated(random, *, runs, rps, weight, p, minutes=60, shape=2.0):
    """Dispersion after an hour of A/A traffic with the noise of arms: p times a Gamma of its own per arm and minute."""
    noise = Dispersion.start()
    for _ in range(minutes):
        counts = []
        for part in (1 - weight, weight):
            n = random.poisson(rps * 60 * part, runs)
            counts.append((n, random.binomial(n, np.minimum(p * random.gamma(shape, 1 / shape, runs), 1.0))))
        noise = noise.update(*counts)
    return noise


__all__ = ["Ours", "Outcome", "Reference", "Verdict", "any_worse", "calibrated", "ours", "race", "shipped", "traffic"]
