"""Thousands of runs at once, read from a table, are what each is alone; noise of the arms divides the evidence."""

import numpy as np
import pytest

from policies.statistics import ErrorConfig, ErrorGate
from policies.statistics.error_gate import MANY
from policies.statistics.error_table import MANY_REQUESTS, REACH
from policies.statistics.mixture import log_mean, log_means

RUNS = 400
MARGINS = [(0.25, 0.001), (0.0, None), (None, 0.005), (0.5, 0.1)]


def start(margins, **more):
    relative, absolute = margins
    return ErrorGate.start(ErrorConfig(relative=relative, absolute=absolute, **more))


def alone(margins, blocks, run, **more):
    gate = start(margins)
    for n_b, k_b, n_c, k_c in blocks:
        arms = (int(n_b[run]), int(k_b[run])), (int(n_c[run]), int(k_c[run]))
        gate = gate.update(*arms, elapsed_s=5.0, **more)
    return gate


def traffic(random, blocks, *, rate, requests, share):
    for _ in range(blocks):
        n_b, n_c = random.poisson(requests * (1 - share), RUNS), random.poisson(requests * share, RUNS)
        yield n_b, random.binomial(n_b, rate), n_c, random.binomial(n_c, min(3 * rate, 1.0))


@pytest.mark.parametrize("margins", MARGINS)
@pytest.mark.parametrize(("rate", "requests", "share"), [(0.01, 100, 0.1), (0.001, 10_000, 0.01), (0.2, 40, 0.5), (0.3, 4, 0.2)])
def test_many_runs_from_the_table_are_what_each_is_alone(margins, rate, requests, share):
    assert RUNS >= MANY
    blocks = list(traffic(np.random.default_rng(1), 40, rate=rate, requests=requests, share=share))
    together = start(margins)
    for n_b, k_b, n_c, k_c in blocks:
        together = together.update((n_b, k_b), (n_c, k_c), elapsed_s=5.0)
    for run in range(0, RUNS, 50):
        one = alone(margins, blocks, run)
        assert together.log_fail[run] == pytest.approx(float(one.log_fail), rel=1e-4, abs=1e-3)
        assert together.log_pass[run] == pytest.approx(float(one.log_pass), rel=1e-4, abs=1e-3)


def test_shares_and_counts_beyond_the_table_are_computed():
    """One in ten thousand, half of ten million, and ordinary blocks side by side."""
    n_b, n_c = np.full(RUNS, 90), np.full(RUNS, 10)
    n_b[:100], n_c[:100] = 20_000, 2
    n_b[100:200], n_c[100:200] = 5_000_000, 5_000_000
    assert np.log(20_000 / 2) > REACH
    assert n_b[100] + n_c[100] > MANY_REQUESTS
    k_b, k_c = n_b // 100, np.maximum(n_c // 50, 1)
    together = start((0.25, 0.001)).update((n_b, k_b), (n_c, k_c))
    for run in (0, 150, 399):
        one = start((0.25, 0.001)).update((int(n_b[run]), int(k_b[run])), (int(n_c[run]), int(k_c[run])))
        assert together.log_fail[run] == pytest.approx(float(one.log_fail), rel=1e-6)
        assert together.log_pass[run] == pytest.approx(float(one.log_pass), rel=1e-6)


def test_runs_may_have_several_axes():
    random = np.random.default_rng(2)
    n_b, n_c = random.poisson(90, (20, 20)), random.poisson(10, (20, 20))
    k_b, k_c = random.binomial(n_b, 0.02), random.binomial(n_c, 0.1)
    square = start((0.25, 0.001)).update((n_b, k_b), (n_c, k_c))
    flat = start((0.25, 0.001)).update((n_b.ravel(), k_b.ravel()), (n_c.ravel(), k_c.ravel()))
    assert square.log_fail.shape == (20, 20)
    assert (square.log_fail.ravel() == flat.log_fail).all()


@pytest.mark.parametrize("many", [False, True])
def test_dispersion_divides_the_evidence_of_a_block(many):
    size = RUNS if many else 3
    base, cand = (np.full(size, 900), np.full(size, 9)), (np.full(size, 100), np.full(size, 12))
    plain = start((0.25, None)).update(base, cand)
    noisy = start((0.25, None)).update(base, cand, dispersion=np.linspace(1.0, 4.0, size))
    first = noisy.process.log_fail - np.log(1 - plain.process.left)
    whole = plain.process.log_fail - np.log(1 - plain.process.left)
    assert first == pytest.approx(whole / np.linspace(1.0, 4.0, size)[:, np.newaxis])
    assert noisy.process.log_pass == pytest.approx(plain.process.log_pass / np.linspace(1.0, 4.0, size)[:, np.newaxis])


def test_dispersion_of_a_single_run_is_that_of_many():
    blocks = list(traffic(np.random.default_rng(3), 10, rate=0.02, requests=200, share=0.2))
    together = start((0.25, 0.001))
    for n_b, k_b, n_c, k_c in blocks:
        together = together.update((n_b, k_b), (n_c, k_c), elapsed_s=5.0, dispersion=2.5)
    assert together.log_fail[7] == pytest.approx(float(alone((0.25, 0.001), blocks, 7, dispersion=2.5).log_fail), rel=1e-4, abs=1e-4)


def test_a_dispersion_below_one_makes_no_evidence():
    arms = (900, 9), (100, 12)
    assert start((0.25, None)).update(*arms, dispersion=0.1).log_fail == start((0.25, None)).update(*arms).log_fail


def test_means_of_extreme_evidence_are_finite():
    values = np.array([[-1e6] * 5, [900.0, 900.0, -1e6, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0], [1e12, 0.0, 0.0, -1e6, -1e6]])
    found = log_means(values, (3, 2))
    assert np.isfinite(found).all()
    for row, expected in zip(values, found, strict=True):
        assert log_mean(row[:3]) == pytest.approx(expected[0])
        assert log_mean(row[3:]) == pytest.approx(expected[1])
