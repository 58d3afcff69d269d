"""The ceiling gate: exact by enumeration, sound by simulation, quick where it should be."""

import numpy as np
import pytest
from scipy.stats import binom

from policies.statistics import CeilingConfig, CeilingGate, Verdict
from policies.statistics.ceiling_gate import GOOD_RATES, WORSE_ODDS
from tests.rig import binomial_band

RUNS = 500


@pytest.mark.parametrize("ceiling", [0.001, 0.05, 0.5, 0.9])
def test_the_mean_of_the_evidence_is_one_at_the_ceiling_and_less_within_it(ceiling: float):
    requests = 30
    bad = np.arange(requests + 1)
    gate = CeilingGate.start(CeilingConfig(ceiling=ceiling)).update(None, (np.full_like(bad, requests), bad))
    staked = 1.0 - np.asarray(gate.process.left)[..., None]
    fail, good = np.exp(gate.process.log_fail) / staked, np.exp(gate.process.log_pass)
    at, below, above = (binom.pmf(bad, requests, rate)[:, None] for rate in (ceiling, ceiling * 0.8, ceiling + (1 - ceiling) * 0.2))
    assert (at * fail).sum(axis=0) == pytest.approx(np.ones(len(WORSE_ODDS)))
    assert (at * good).sum(axis=0) == pytest.approx(np.ones(len(GOOD_RATES)))
    assert ((below * fail).sum(axis=0) < 1).all()
    assert ((above * good).sum(axis=0) < 1).all()


def test_an_alternative_is_a_likelihood_ratio():
    """Seven bad of a hundred under odds three times those of the ceiling, and under half of its rate, against the ceiling."""
    gate = CeilingGate.start(CeilingConfig(ceiling=0.02)).update(None, (100, 7))
    odds = 3 * 0.02 / 0.98
    worse, half = odds / (1 + odds), 0.01
    staked = np.log(1 - float(gate.process.left))
    at = binom.logpmf(7, 100, [worse, half]) - binom.logpmf(7, 100, 0.02)
    assert gate.process.log_fail[list(WORSE_ODDS).index(3)] - staked == pytest.approx(at[0])
    assert gate.process.log_pass[list(GOOD_RATES).index(0.5)] == pytest.approx(at[1])


def verdicts(rate: float, *, blocks: int, requests: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Which runs ever failed and ever passed a ceiling of 2 %."""
    random, gate = np.random.default_rng(2), CeilingGate.start(CeilingConfig(ceiling=0.02, deadline_s=1000.0))
    failed, passed = np.zeros(RUNS, dtype=bool), np.zeros(RUNS, dtype=bool)
    for _ in range(blocks):
        n = random.poisson(requests, RUNS)
        gate = gate.update(None, (n, random.binomial(n, rate)))
        said = gate.verdict(0.05)
        failed |= said == Verdict.FAIL
        passed |= said == Verdict.PASS
    return failed, passed


def test_a_rate_at_the_ceiling_rarely_gets_either_verdict():
    failed, passed = verdicts(0.02, blocks=300)
    most = binomial_band(RUNS, 0.05)[1]
    assert failed.sum() <= most
    assert passed.sum() <= most


def test_a_rate_far_above_fails_and_one_far_below_passes():
    failed, passed = verdicts(0.08, blocks=60)
    assert failed.mean() > 0.95
    assert not passed.any()
    failed, passed = verdicts(0.005, blocks=60)
    assert passed.mean() > 0.95
    assert not failed.any()


def test_silence_is_no_evidence():
    gate = CeilingGate.start(CeilingConfig(ceiling=0.01)).update(None, (0, 0), elapsed_s=1e6)
    assert gate.evidence == 0.0
    assert gate.verdict(0.05) == Verdict.INCONCLUSIVE


def test_two_bad_requests_are_too_few_to_fail():
    gate = CeilingGate.start(CeilingConfig(ceiling=1e-6)).update(None, (2, 2))
    assert gate.evidence > 1e4
    assert gate.verdict(0.05) == Verdict.INCONCLUSIVE
    assert gate.update(None, (4, 4)).verdict(0.05) == Verdict.FAIL


@pytest.mark.parametrize("ceiling", [0.0, 1.0, -1.0, float("nan")])
def test_a_ceiling_is_a_rate(ceiling: float):
    with pytest.raises(ValueError, match="hint"):
        CeilingConfig(ceiling=ceiling)


def test_a_damaged_memory_is_refused():
    config = CeilingConfig(ceiling=0.01)
    with pytest.raises(ValueError, match="finite numbers"):
        CeilingGate.restore(config, CeilingGate.start(config).memory()[1:])
    with pytest.raises(ValueError, match="finite numbers"):
        CeilingGate.restore(config, (float("nan"), *CeilingGate.start(config).memory()[1:]))


def test_the_interval_is_that_of_the_rate():
    low, high = CeilingGate.start(CeilingConfig(ceiling=0.01)).update(None, (1000, 30)).interval(0.05)
    assert 0.01 < low < 0.03 < high < 0.06
