"""S7: drift, paired scores, a winner of several arms; and how soon a total failure is seen, how fast the error gate is."""

import time

import numpy as np
from scipy.special import chdtrc, stdtr

from bench.gate_race import Outcome, any_worse, ours, race, shipped, traffic
from policies.statistics import ErrorGate
from policies.statistics.drift_gate import DriftConfig, DriftGate, psi
from policies.statistics.score_gate import ScoreConfig, ScoreGate
from policies.statistics.winner import FLOOR, Objective, WinnerConfig, WinnerGate, top_two

ALPHA = 0.05


def _outcome(first):
    return Outcome(first, np.zeros(len(first)))


def drift(runs):
    """20 requests of the candidate and 180 of stable per block, ten bins; units are the candidate's requests."""
    seed = 1800
    for shift in (0.0, 0.1, 0.2, 0.3, 0.5):
        seed += 1
        random = np.random.default_rng(seed)
        edges = np.array([-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816])
        gate = DriftGate.start(DriftConfig(deadline_s=5000.0))
        names = ("chi2_each_block", "chi2_window_1000", "psi_window_200", "psi_window_1000", "ours")
        first = {name: np.full(runs, np.inf) for name in names}
        total = window_200 = window_1000 = 0.0
        for block in range(1, 501):
            candidate, baseline = _binned(random, (runs, 20), shift, edges), _binned(random, (runs, 180), 0.0, edges)
            gate = gate.update(baseline, candidate)
            both = np.stack([candidate, baseline])
            total, window_200, window_1000 = total + both, window_200 + both, window_1000 + both
            fires = {"ours": gate.log_fail >= -np.log(ALPHA), "chi2_each_block": _chi2(total) < ALPHA}
            if block % 10 == 0:
                fires["psi_window_200"] = psi(*window_200) > 0.1
                window_200 = 0.0
            if block % 50 == 0:
                fires |= {"psi_window_1000": psi(*window_1000) > 0.1, "chi2_window_1000": _chi2(window_1000) < ALPHA}
                window_1000 = 0.0
            for name, fire in fires.items():
                first[name][fire & np.isinf(first[name])] = block * 20
        yield {"table": "T7", "what": "drift", "shift_sd": shift}, {name: _outcome(seen) for name, seen in first.items()}


def _binned(random, shape, shift, edges):
    places = np.searchsorted(edges, random.standard_normal(shape) + shift)
    return np.stack([(places == place).sum(axis=-1) for place in range(len(edges) + 1)], axis=-1)


def _chi2(both):
    """p of Pearson's test of two histograms; axes arms, runs, bins."""
    expected = both.sum(axis=-1, keepdims=True) * both.sum(axis=0) / both.sum(axis=(0, 2))[:, np.newaxis]
    statistic = np.where(expected > 0, (both - expected) ** 2 / np.maximum(expected, 1e-9), 0.0).sum(axis=(0, 2))
    return chdtrc(both.shape[-1] - 1, statistic)


def paired(runs, pairs=4000):
    """Scores of both arms to the same request, differences with heavy tails; units are pairs."""
    seed = 1820
    for mean in (0.0, -0.02, -0.05, -0.1):
        seed += 1
        random = np.random.default_rng(seed)
        gate = ScoreGate.start(ScoreConfig(margin=0.02, paired=True, deadline_s=float(pairs)))
        first = {name: np.full(runs, np.inf) for name in ("t_each_pair", "ours")}
        sums = squares = np.zeros(runs)
        for pair in range(1, pairs + 1):
            # one in five answers is another one altogether, up or down; the rest differ a little; the mean is as wanted
            far = np.where(random.random(runs) < 0.2, random.choice([-1.0, 1.0], runs) * 0.5, random.normal(0.0, 0.05, runs))
            difference = np.clip(far, -0.85, 0.85) + mean
            middle = 0.5
            gate = gate.update((middle - difference / 2)[:, np.newaxis], (middle + difference / 2)[:, np.newaxis], elapsed_s=1.0)
            sums, squares = sums + difference, squares + difference**2
            average = sums / pair
            error = np.sqrt(np.maximum(squares / pair - average**2, 1e-12) / max(pair - 1, 1))
            fires = {"ours": gate.log_fail >= -np.log(ALPHA)}
            if pair >= 20:
                fires["t_each_pair"] = stdtr(pair - 1, (average + 0.02) / error) < ALPHA
            for name, fire in fires.items():
                first[name][fire & np.isinf(first[name])] = pair
        yield {"table": "T7", "what": "paired scores", "mean": mean}, {name: _outcome(seen) for name, seen in first.items()}


def winner(runs, most=600_000, block=400):
    """Four arms, utility with a deviation of 1, tolerance 0.02; units are requests of all arms. Excess is the regret."""
    seed = 1840
    for means in ((0.0, 0.05, 0.05, 0.1), (0.0, 0.02, 0.05, 0.2), (0.0, 0.0, 0.0, 0.0)):
        out = {}
        for name in ("equal split", "top-two"):
            seed += 1
            out[name] = _contest(np.random.default_rng(seed), np.array(means), runs, most, block, adaptive=name == "top-two")
        yield {"table": "T7", "what": "winner", "means": list(means)}, out


def _contest(random, means, runs, most, block, *, adaptive):
    arms = len(means)
    config = WinnerConfig(arms=arms, objectives=(Objective(name="utility", tolerance=0.02),))
    gate = WinnerGate.start(config)
    time_to, regret, winners = np.full(runs, np.inf), np.zeros(runs), np.full(runs, -1)
    able = np.ones((runs, arms), dtype=bool)
    shares = np.full((runs, arms), 1 / arms)
    total = 0
    while total < most and (winners < 0).any():
        total += block
        n = random.multinomial(block, shares)
        mean = means + random.standard_normal((runs, arms)) / np.sqrt(np.maximum(n, 1))
        squares = random.chisquare(np.maximum(n - 1, 1))
        gate = gate.update(n, mean[:, np.newaxis], squares[:, np.newaxis])
        verdicts = gate.verdicts(ALPHA, eligible=able, passed=able)
        regret += np.where(winners < 0, (n * (means.max() - means)).sum(axis=1), 0.0)
        new = (winners < 0) & (verdicts.winner >= 0)
        winners[new], time_to[new] = verdicts.winner[new], total
        if adaptive:
            seen = np.maximum(gate.requests, 1.0)
            within = ~verdicts.dropped
            for run in np.flatnonzero(winners < 0):
                draws = random.standard_normal((64, arms))
                shares[run] = top_two(gate.estimates[run, 0], 1 / np.sqrt(seen[run]), draws, within=within[run], floor=FLOOR)
    wrong = (winners >= 0) & (means[winners] < means.max() - 0.02 - 1e-12)
    return Outcome(time_to, regret, wrong=int(wrong.sum()))


def t7(runs):
    yield from drift(runs)
    yield from paired(runs)
    yield from winner(max(runs // 2, 20))


def reaction(runs):
    """What issue and product are about: failures soon after a clean minute, 10 % of 100 requests a second, in blocks of 0.1 s as shipped.

    Times count from the onset.
    """
    yield _reacts(runs, "1 % -> 100 % after a minute", 1.0, 60.0, seed=2060)
    yield _reacts(runs, "1 % -> 5 % from the start", 0.05, 0.0, seed=1905)
    yield _reacts(runs, "1 % -> 5 % after a minute", 0.05, 60.0, seed=1965)


def _reacts(runs, name, p_c, onset, *, seed):
    def begun(now):
        return now >= onset - 1e-6

    stream = traffic(
        np.random.default_rng(seed),
        runs=runs,
        rps=100,
        horizon_s=onset + 240.0,
        rates=lambda now: (0.01, p_c if begun(now) else 0.01),
        tick_s=0.1,
        twin=False,
    )
    made = {
        "ours": ours(any_worse(7200.0), seconds=0.1),
        "shipped_5%": ours(shipped(7200.0), seconds=0.1),
        "shipped": ours(shipped(7200.0), alpha=0.01, seconds=0.1),
    }
    found = race(made, stream, runs=runs, worse_by=lambda now: p_c - 0.01 if begun(now) else 0.0)
    return {"table": "reaction", "scenario": name}, {rule: Outcome(seen.time_s - onset, seen.excess) for rule, seen in found.items()}


def speed(runs=10_000, part=2000, hours=24.0):
    """CPU seconds of a day of `runs` rollouts, in blocks of 10 s, judged at every one: with and without making the traffic."""
    random = np.random.default_rng(7)
    of_gate = of_traffic = 0.0
    failed = 0
    for _ in range(runs // part):
        gate = ErrorGate.start(shipped(hours * 3600))
        fails = np.zeros(part, dtype=bool)
        stream = traffic(random, runs=part, rps=10, horizon_s=hours * 3600, rates=(0.01, 0.01), twin=False)
        while True:
            began = time.process_time()
            block = next(stream, None)
            between = time.process_time()
            of_traffic += between - began
            if block is None:
                break
            gate = gate.update((block.n_b, block.k_b), (block.n_c, block.k_c), elapsed_s=10.0)
            fails |= gate.enough & (gate.log_fail >= -np.log(0.01))
            of_gate += time.process_time() - between
        failed += int(fails.sum())
    return {"runs": runs, "hours": hours, "gate_s": of_gate, "traffic_s": of_traffic, "total_s": of_gate + of_traffic, "failed": failed}
