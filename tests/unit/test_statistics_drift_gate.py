"""The drift gate: sound without drift, quick with it, silent about drifts that do not matter; its effect sizes and bins."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, ks_2samp, norm

from policies.statistics import DriftConfig, DriftGate, Verdict, bands
from policies.statistics.drift_gate import OTHER, binned, categories, deciles, histogram, js_distance, psi, psi_adjusted
from tests.rig import binomial_band

RUNS = 500
EDGES = norm.ppf(np.arange(1, 10) / 10)


def shifted(by: float) -> np.ndarray:
    """Chances of the ten bins when normal values are moved by so many standard deviations."""
    return np.diff(np.concatenate([[0.0], norm.cdf(EDGES - by), [1.0]]))


def evidence(by: float, *, blocks: int, swing: float = 0.0) -> tuple[np.ndarray, np.ndarray, DriftGate]:
    """Which runs ever had evidence of 20 : 1 and after how many requests of the candidate; both arms swing together."""
    random, gate = np.random.default_rng(10), DriftGate.start(DriftConfig(deadline_s=3000.0))
    seen, after = np.zeros(RUNS, dtype=bool), np.full(RUNS, np.inf)
    for index in range(blocks):
        common = swing * np.sin(index / 10)
        gate = gate.update(random.multinomial(180, shifted(common), RUNS), random.multinomial(20, shifted(common + by), RUNS))
        now = gate.log_fail >= np.log(20)
        after[now & ~seen] = 20 * (index + 1)
        seen |= now
    return seen, after, gate


@pytest.mark.parametrize("swing", [0.0, 0.5])
def test_without_drift_between_the_arms_there_is_rarely_evidence_of_it(swing: float):
    seen, _, gate = evidence(0.0, blocks=200, swing=swing)
    assert seen.sum() <= binomial_band(RUNS, 0.05)[1]
    assert (gate.verdict(0.05) == Verdict.INCONCLUSIVE).all()


def test_a_drift_of_half_a_deviation_is_found_at_once():
    seen, after, gate = evidence(0.5, blocks=100)
    assert seen.all()
    assert np.median(after) <= 140
    assert (gate.verdict(0.05) == Verdict.FAIL).all()


def test_a_drift_that_does_not_matter_is_evident_and_no_failure():
    seen, _, gate = evidence(0.1, blocks=300)
    assert seen.mean() > 0.9
    assert (gate.verdict(0.05) == Verdict.INCONCLUSIVE).all()


def test_the_mean_of_the_evidence_is_one_at_most_whatever_was_learnt():
    """Two bins, five requests of each arm: every outcome of the block that follows a misleading one."""
    gate = DriftGate.start(DriftConfig(bins=2)).update([40, 10], [1, 9])
    outcomes = np.array(list(product(range(6), repeat=2)))
    before = np.exp(gate.process.log_fail[0]) + (float(gate.process.left))
    after = gate.update(np.stack([outcomes[:, 0], 5 - outcomes[:, 0]], -1), np.stack([outcomes[:, 1], 5 - outcomes[:, 1]], -1))
    for chance in (0.1, 0.5, 0.9):
        weights = binom.pmf(outcomes[:, 0], 5, chance) * binom.pmf(outcomes[:, 1], 5, chance)
        assert weights @ (np.exp(after.process.log_fail[:, 0]) + np.asarray(after.process.left)) <= before + 1e-12


def test_what_was_long_ago_is_forgotten():
    """A candidate that drifts after a day: the gate that forgets in an hour sees all of it, the one that forgets nothing a part."""
    effects = []
    for forget_s in (3600.0, 1e9):
        gate = DriftGate.start(DriftConfig(bins=2, forget_s=forget_s))
        for hour in range(30):
            gate = gate.update([500, 500], [500, 500] if hour < 24 else [800, 200], elapsed_s=3600.0)
        effects.append(float(gate.effect))
    assert effects[0] > 0.3
    assert 0 < effects[1] < 0.1
    assert gate.candidate.sum() == pytest.approx(30_000, rel=1e-3)


def test_effect_sizes():
    one, other = np.array([0.1, 0.2, 0.4, 0.2, 0.1]), np.array([0.12, 0.22, 0.36, 0.18, 0.12])
    assert float(psi(one, other)) == pytest.approx(0.015520697, rel=1e-7)
    assert float(js_distance(one, other)) == pytest.approx(0.044026936, rel=1e-7)
    assert float(js_distance(np.array([1.0, 0.0]), np.array([0.0, 5.0]))) == pytest.approx(np.log(2) ** 0.5)


def test_the_adjusted_index_of_equal_samples_is_zero_in_the_mean():
    random = np.random.default_rng(11)
    one, other = random.multinomial(200, np.full(10, 0.1), 4000), random.multinomial(400, np.full(10, 0.1), 4000)
    raw, adjusted = psi(one, other), psi_adjusted(one, other)
    assert abs(adjusted.mean()) < 0.1 * raw.mean()
    assert psi_adjusted(np.zeros(10), one[0]) == 0.0


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    random = np.random.default_rng(12)
    one, other = random.integers(0, 5, 300), random.integers(0, 4, 200)
    gate = DriftGate.start(DriftConfig(bins=5)).update(np.bincount(other, minlength=5), np.bincount(one, minlength=5))
    assert float(gate.distance) == pytest.approx(ks_2samp(one, other).statistic)


def test_the_band_of_the_picture():
    """Howard & Ramdas, theorem 2, A = .85 and t_min = 100, from confseq 0.0.11."""
    assert bands.dkw(np.array([100, 1000, 10000]), 0.05) == pytest.approx([0.2422532709, 0.08204778771, 0.02667213965], rel=1e-9)
    assert bands.dkw(np.array([100, 1000, 10000]), 0.025) == pytest.approx([0.2495969573, 0.08422018076, 0.02734086632], rel=1e-9)
    assert bands.dkw(99, 0.05) == np.inf


def test_bins_are_filled_equally_by_what_was_known():
    values = np.random.default_rng(13).lognormal(0, 1, 1000)
    counts = histogram(values, deciles(values))
    assert counts.sum() == 1000
    assert counts.min() >= 99
    assert deciles(np.ones(50)) == (1.0,)
    with pytest.raises(ValueError, match="hint"):
        deciles([])


def test_categories_are_the_most_frequent_ones_and_the_rest():
    known = {f"c{index:02}": float(100 - index) for index in range(30)}
    names = categories(known)
    assert names == (*(f"c{index:02}" for index in range(20)), OTHER)
    counts = binned({"c03": 5, "never seen": 2, "c29": 1, OTHER: 4}, names)
    assert counts[3] == 5
    assert counts[-1] == 7
    assert counts.sum() == 12


def test_other_bins_are_refused():
    with pytest.raises(ValueError, match="10 bins"):
        DriftGate.start(DriftConfig()).update([1, 2], [3, 4])


def test_silence_of_an_arm_is_no_evidence():
    gate = DriftGate.start(DriftConfig(bins=2)).update([50, 50], [0, 0])
    assert gate.evidence == 0
    assert gate.effect == 0
    assert gate.evidence_pass == 0
