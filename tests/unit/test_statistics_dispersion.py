"""Dispersion: 1 for plain chance, what it should be for noise of the arms, and enough to keep a gate's promise."""

import numpy as np
import pytest

from policies.statistics import Dispersion, ErrorConfig, ErrorGate, Verdict
from policies.statistics.dispersion import design_effect, divide
from tests.rig import binomial_band

RUNS = 300
MINUTES = 60


def calibrated(noise: float, *, requests: int = 6000, rate: float = 0.01) -> Dispersion:
    """A/A minutes whose arms' error rates are each multiplied by a gamma of mean 1 and this variance."""
    random, seen = np.random.default_rng(15), Dispersion.start()
    for _ in range(MINUTES):
        arms = []
        for part in (0.9, 0.1):
            n = random.poisson(requests * part, RUNS)
            factor = random.gamma(1 / noise, noise, RUNS) if noise else 1.0
            arms.append((n, random.binomial(n, np.minimum(rate * factor, 1.0))))
        seen = seen.update(*arms)
    return seen


def test_plain_chance_is_one():
    phi = np.asarray(calibrated(0.0).phi)
    assert phi.min() >= 1
    assert np.median(phi) < 1.15


def test_noise_of_the_arms_is_seen_for_what_it_is():
    """6 errors a minute of one arm and 54 of the other, each with a gamma of variance 1/2 on top, have a split 6.4 times as noisy.

    Variance of 0.9 k_c - 0.1 k_b: 0.81 (6 + 36/2) + 0.01 (54 + 54^2/2) = 34.6, chance alone: 60 0.1 0.9 = 5.4.
    """
    assert np.median(np.asarray(calibrated(0.5).phi)) == pytest.approx(6.4, rel=0.25)


def test_different_error_rates_of_the_parts_are_no_noise():
    random, seen = np.random.default_rng(16), Dispersion.start()
    for _ in range(300):
        seen = seen.update((5400, random.binomial(5400, 0.01)), (600, random.binomial(600, 0.03)))
    assert seen.phi < 1.3


def test_minutes_without_errors_or_arms_say_nothing():
    seen = Dispersion.start().update((100, 0), (10, 0)).update((100, 5), (0, 0)).update((0, 0), (10, 2))
    assert seen.minutes == 0
    assert seen.phi == 1


def test_divided_evidence_keeps_the_promise_that_undivided_evidence_breaks():
    """Hourly verdicts on a candidate that is as good, while both arms have minutes of their own: block by block through an error gate."""
    random = np.random.default_rng(17)
    phi = np.asarray(calibrated(0.5).phi)
    config = ErrorConfig(relative=0.0, absolute=None, deadline_s=3600.0)
    gate, plain = ErrorGate.start(config), np.zeros(RUNS, dtype=bool)
    total, calm = np.zeros(sum(config.fails)), np.zeros(RUNS, dtype=bool)
    for _ in range(MINUTES):
        arms = []
        for part in (0.9, 0.1):
            n = random.poisson(6000 * part, RUNS)
            arms.append((n, random.binomial(n, 0.01 * random.gamma(2, 0.5, RUNS))))
        gate = gate.update(*arms, elapsed_s=60.0)
        plain |= gate.verdict(0.05) == Verdict.FAIL
        (n_b, k_b), (n_c, k_c) = arms
        share = (n_c / (n_c + n_b))[:, None]
        ratio = np.array([1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50])
        log_e = k_c[:, None] * np.log(ratio) - (k_c + k_b)[:, None] * np.log1p(share * (ratio - 1))
        total = total + divide((log_e, log_e), phi)[0]
        calm |= np.logaddexp.reduce(total, axis=-1) - np.log(len(ratio)) >= np.log(20)
    assert calm.sum() <= binomial_band(RUNS, 0.05)[1]
    assert plain.mean() > 0.2


def test_dividing_by_one_changes_nothing_and_by_less_neither():
    log_e = np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([[0.5], [0.25]])
    for phi in (1.0, 0.5):
        assert all((after == before).all() for after, before in zip(divide(log_e, phi), log_e, strict=True))
    fail, good = divide(log_e, np.array([1.0, 2.0]))
    assert (fail == [[1.0, -2.0], [1.5, 0.25]]).all()
    assert (good == [[0.5], [0.125]]).all()


def test_errors_that_come_in_sessions_make_a_rate_vary_more():
    random = np.random.default_rng(18)
    requests = random.integers(1, 21, 3000)
    assert design_effect(requests, random.binomial(requests, 0.1)) == pytest.approx(1.0, abs=0.1)
    whole = np.full(2000, 10)
    assert design_effect(whole, 10 * (random.random(2000) < 0.1)) == pytest.approx(10, rel=0.02)
    assert design_effect([5], [1]) == 1.0
    assert design_effect([5, 5], [0, 0]) == 1.0


def test_a_restart_changes_nothing():
    seen = Dispersion.start().update((900, 9), (100, 3)).update((800, 9), (90, 0))
    assert Dispersion.restore(seen.memory()) == seen
    with pytest.raises(ValueError, match="finite numbers"):
        Dispersion.restore(seen.memory()[:-1])
