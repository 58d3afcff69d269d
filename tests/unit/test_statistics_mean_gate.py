"""The mean gate: its bounds against published software, its guarantees on skewed values."""

import numpy as np
import pytest
from scipy.special import erfcx
from scipy.stats import norm

from policies.statistics import MeanConfig, MeanGate, Moments, Verdict, means, moments, special
from tests.rig import binomial_band

RUNS = 300


@pytest.mark.parametrize(
    ("information", "one_sided", "two_sided"),
    [(10, 11.4926818, 12.19075315), (100, 27.66070883, 30.3520899), (1000, 94.39391617, 102.5122868)],
)
def test_the_bounds_of_confseq(information: float, one_sided: float, two_sided: float):
    """normal_mixture_bound(v, alpha=.05, v_opt=100) of confseq 0.0.11."""
    rho = means.best_rho(100, 0.05, two_sided=True)
    width = means.critical(np.array(float(information)), alpha=0.05, rho=rho) * information**0.5
    assert float(width) == pytest.approx(two_sided, rel=1e-8)
    log_e = means.one_sided(np.array(one_sided), np.array(float(information)), means.best_rho(100, 0.05, two_sided=False))
    assert float(log_e) == pytest.approx(np.log(20), rel=1e-7)


@pytest.mark.parametrize(
    ("score", "information", "one_sided", "two_sided"),
    [(10, 50, 0.6245093468, -0.002801564952), (25, 100, 2.385705035, 1.680244327), (30, 400, 0.06708616432, -0.6537261032)],
)
def test_the_mixtures_of_confseq(score: float, information: float, one_sided: float, two_sided: float):
    s, v = np.array(float(score)), np.array(float(information))
    assert float(means.one_sided(s, v, means.best_rho(100, 0.05, two_sided=False))) == pytest.approx(one_sided, rel=1e-8)
    assert float(means.two_sided(s, v, means.best_rho(100, 0.05, two_sided=True))) == pytest.approx(two_sided, rel=1e-8)


def test_the_best_parameters_of_confseq():
    assert means.best_rho(100, 0.05, two_sided=True) == pytest.approx(12.60056098)
    assert means.best_rho(100, 0.05, two_sided=False) == pytest.approx(15.80063491)


def test_a_difference_of_one_cent():
    """Delta - delta = .01 with v = 1.2e-5, computed by independent code."""
    information = np.array(1 / 1.2e-5)
    assert float(means.one_sided(0.01 * information, information, 15800.63491)) == pytest.approx(3.2734195, rel=1e-7)
    assert float(means.two_sided(0.01 * information, information, 12600.56098)) == pytest.approx(2.6044315, rel=1e-7)


@pytest.mark.parametrize(("requests", "width"), [(500, 0.1724032844), (1000, 0.1063754701), (5000, 0.0429243372), (20000, 0.0221120362)])
def test_the_half_widths_of_growthbook(requests: int, width: float):
    """sequential_interval_halfwidth(1, n) with its tuning for 5000 requests, run from its source."""
    rho = means.best_rho(5000, 0.05, two_sided=True)
    assert float(means.critical(np.array(float(requests)), alpha=0.05, rho=rho)) / requests**0.5 == pytest.approx(width, rel=1e-7)


def skewed(random: np.random.Generator, times: float, requests: int) -> np.ndarray:
    return times * random.lognormal(0, 1, (RUNS, requests))


def verdicts(times: float, *, late: int = 0, blocks: int = 150, requests: tuple[int, int] = (10, 90)) -> tuple[np.ndarray, np.ndarray]:
    """Which runs ever failed and ever passed a margin of 5 %; the candidate costs so many times more from block `late` on, both drift."""
    random, gate = np.random.default_rng(4), MeanGate.start(MeanConfig(relative=0.05, deadline_s=1500.0))
    failed, passed = np.zeros(RUNS, dtype=bool), np.zeros(RUNS, dtype=bool)
    for index in range(blocks):
        swing = 1 + 0.5 * np.sin(index / 20)
        candidate = skewed(random, swing * (times if index >= late else 1.0), requests[0])
        gate = gate.update(moments(skewed(random, swing, requests[1]), cap=25.0), moments(candidate, cap=25.0))
        said = gate.verdict(0.05)
        failed |= said == Verdict.FAIL
        passed |= said == Verdict.PASS
    return failed, passed


@pytest.mark.parametrize("requests", [(3, 27), (30, 270)])
def test_a_candidate_at_the_margin_rarely_gets_either_verdict(requests: tuple[int, int]):
    failed, passed = verdicts(1.05, requests=requests)
    most = binomial_band(RUNS, 0.05)[1]
    assert failed.sum() <= most
    assert passed.sum() <= most


def test_a_candidate_that_costs_half_more_fails_also_when_it_begins_late():
    failed, passed = verdicts(1.5)
    assert failed.mean() > 0.95
    assert not passed.any()
    failed, _ = verdicts(1.5, late=75, requests=(30, 270))
    assert failed.mean() > 0.95


def test_a_candidate_that_costs_less_passes():
    failed, passed = verdicts(0.8)
    assert passed.mean() > 0.95
    assert not failed.any()


def test_the_intervals_hold_the_truth_at_every_look():
    random, gate = np.random.default_rng(5), MeanGate.start(MeanConfig(relative=0.05, tightest_at=500.0))
    outside = np.zeros((2, RUNS), dtype=bool)
    mean = np.exp(0.5)
    for _ in range(100):
        gate = gate.update(moments(skewed(random, 1.0, 60)), moments(skewed(random, 1.3, 20)))
        if gate.enough.all():
            low, high = gate.difference(0.05)
            outside[0] |= (low > 0.3 * mean) | (high < 0.3 * mean)
            low, high = gate.ratio(0.05)
            outside[1] |= (low > 1.3) | (high < 1.3)
    assert outside.sum(axis=1).max() <= binomial_band(RUNS, 0.05)[1]
    low, high = gate.ratio(0.05)
    assert (high - low).max() < 1.0


def test_with_both_margins_both_must_be_exceeded():
    random = np.random.default_rng(6)
    blocks = [(moments(skewed(random, 1.0, 90)[0]), moments(skewed(random, 2.0, 90)[0])) for _ in range(40)]

    def fed(config: MeanConfig) -> MeanGate:
        gate = MeanGate.start(config)
        for base, cand in blocks:
            gate = gate.update(base, cand)
        return gate

    relative, absolute, both = (
        fed(MeanConfig(relative=rel, absolute=amount)) for rel, amount in ((0.1, None), (None, 100.0), (0.1, 100.0))
    )
    assert relative.verdict(0.05) == Verdict.FAIL
    assert absolute.verdict(0.05) == Verdict.PASS
    assert both.verdict(0.05) == Verdict.PASS
    assert both.evidence == pytest.approx(min(relative.evidence, absolute.evidence))


def test_one_run_and_many_say_the_same():
    random = np.random.default_rng(7)
    one = many = MeanGate.start(MeanConfig(relative=0.05, absolute=0.1))
    for _ in range(6):
        base, cand = random.lognormal(0, 1, 90), random.lognormal(0, 1, 40)
        one = one.update(moments(base), moments(cand))
        many = many.update(moments(np.stack([base, base])), moments(np.stack([cand, cand])))
    assert many.evidence == pytest.approx(float(one.evidence))
    assert many.evidence_pass == pytest.approx(float(one.evidence_pass))


def test_a_candidate_that_happens_to_vary_little_does_not_pass_for_it():
    """Of skewed values a small sample looks calm and cheap at once; 8.7 % of bad candidates passed by that (lognormal, sigma 1.5)."""
    base = Moments(requests=900.0, mean=1.0, squares=900.0)
    likewise, calm, wild = (
        MeanGate.start(MeanConfig()).update(base, Moments(requests=300.0, mean=0.9, squares=squares)) for squares in (330.0, 3.0, 900.0)
    )
    assert float(calm.evidence_pass) == pytest.approx(float(likewise.evidence_pass), rel=0.05)
    assert wild.evidence_pass < likewise.evidence_pass
    low, high = calm.difference()
    assert high - low < likewise.difference()[1] - likewise.difference()[0]


@pytest.mark.parametrize("value", [1e6, 5.0, 0.0, -1.0, -8.0, -29.9, -30.1, -1e5, -1e12])
def test_the_tail_of_the_normal_law_does_not_cancel_to_noise(value: float):
    """x^2/2 + ln Phi(x) is ln of the scaled complementary error function, half of it at -x / sqrt 2."""
    one, many = special.log_tilted_normal_one(value), float(special.log_tilted_normal(np.array([value]))[0])
    exact = float(np.log(erfcx(-value / 2**0.5) / 2)) if value < 5 else value**2 / 2 + float(norm.logcdf(value))
    for found in (one, many):
        assert exact - 1e-9 * abs(exact) - 1e-9 <= found <= exact + 2e-3


def test_few_requests_and_equal_values_say_nothing():
    gate = MeanGate.start(MeanConfig())
    few = gate.update(moments(np.arange(1000.0)), moments(np.arange(1000.0)[:50] * 100))
    assert few.verdict(0.05) == Verdict.INCONCLUSIVE
    single = gate.update(moments(np.arange(1000.0)), moments(np.array([1e9])))
    assert single.sums.sum() == 0
    flat = gate.update(moments(np.ones(500)), moments(np.ones(500)))
    assert flat.verdict(0.05) == Verdict.INCONCLUSIVE
    assert flat.difference() == (-np.inf, np.inf)
    assert gate.ratio() == (0.0, np.inf)


def test_moments_are_winsorised_and_count_what_was_cut():
    found = moments(np.array([1.0, 2.0, 3.0, 1000.0]), cap=4.0)
    assert (found.requests, found.mean, found.squares, found.clipped) == (4.0, 2.5, 5.0, 1.0)
    with pytest.raises(ValueError, match="hint"):
        moments(np.array([1.0, np.nan]))


def test_a_margin_is_needed():
    with pytest.raises(ValueError, match="margin"):
        MeanConfig(relative=None)
    with pytest.raises(ValueError, match="relative margin"):
        MeanConfig(relative=-0.1)
