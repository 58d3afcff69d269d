"""The evidence of blocks against numbers computed by independent code, and E[E] <= 1 by counting every outcome."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from policies.statistics import blocks
from policies.statistics.mixture import LOG_NOTHING, Floats, log_mean, restart

GRID = np.array([1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50])
BLOCKS = [(10, 0, 90, 1), (12, 1, 88, 0), (9, 2, 91, 1), (11, 1, 89, 2), (10, 3, 90, 0), (10, 1, 90, 1), (9, 2, 91, 0), (11, 3, 89, 1)]

BISECTED = 5e-7
"""The numbers of the absolute form were computed with a projection 28 times bisected, 4e-9 wide: ours is the nearer one."""

Block = tuple[int, int, int, int]
Arm = tuple[Floats, Floats]


def relative(block: Block, ratio: float | Floats, rho: float) -> Floats:
    n_c, k_c, n_b, k_b = (np.asarray(value, dtype=float) for value in block)
    return blocks.relative((n_c, k_c), (n_b, k_b), ratio=np.atleast_1d(ratio), rho=rho)


def absolute(block: Block, theta_c: float, theta_b: float, delta: float) -> float:
    n_c, k_c, n_b, k_b = (np.asarray(value, dtype=float) for value in block)
    return float(blocks.absolute((n_c, k_c), (n_b, k_b), theta_c=np.array([theta_c]), theta_b=np.array([theta_b]), delta=delta)[0])


def by_bisection(share: float, theta_c: float, theta_b: float, delta: float) -> float:
    """The projection the slow way: where the derivative of the divergence changes its sign."""
    low, high = 0.0, 1 - delta
    for _ in range(200):
        x = (low + high) / 2
        y = x + delta
        slope = share * (y - theta_c) * x * (1 - x) + (1 - share) * (x - theta_b) * y * (1 - y)
        low, high = (x, high) if slope < 0 else (low, x)
    return x


@pytest.mark.parametrize(
    ("block", "ratio", "rho", "expected"),
    [
        ((100, 7, 900, 9), 3, 1.0, 4.7731411),
        ((100, 7, 900, 9), 5, 1.0, 5.8825096),
        ((100, 7, 900, 9), 3, 1.5, 2.7155280),
        ((50, 20, 50, 10), 2, 1.0, 1.6989904),
    ],
)
def test_the_relative_form_agrees_with_independent_code(block: Block, ratio: float, rho: float, expected: float):
    assert relative(block, ratio, rho)[0] == pytest.approx(expected, abs=1e-7)


def test_five_blocks_multiply_up_per_alternative():
    per_ratio = sum(relative(block, GRID, 1.0) for block in BLOCKS[:5])
    expected = [0.55574232, 1.2855378, 2.2921532, 3.7858477, 5.6527925, 7.5117509, 8.9739278, 9.1480804, 7.7267829]
    assert per_ratio == pytest.approx(expected, abs=1e-7)
    assert log_mean(per_ratio) == pytest.approx(7.7893652, abs=1e-7)
    assert log_mean(sum(relative(block, GRID * 1.25, 1.25) for block in BLOCKS[:5])) == pytest.approx(6.5540889, abs=1e-7)


def test_the_restarted_mixture_agrees_with_independent_code():
    log_m, seen = np.full(len(GRID), LOG_NOTHING), []
    for index, block in enumerate(BLOCKS):
        gamma = 0.75 if index == 0 else 0.25 / 60 if index % 6 == 5 else 0.0
        log_m = restart(log_m, relative(block, GRID, 1.0), gamma)
        seen.append(float(log_mean(log_m)))
    expected = [-0.62619991, 0.25756239, 2.5262285, 2.5839788, 7.5016831, 8.3898482, 12.132646, 16.47875]
    assert seen == pytest.approx(expected, abs=2e-7)


@pytest.mark.parametrize(
    ("block", "theta_c", "theta_b", "delta", "expected"),
    [
        ((100, 7, 900, 9), 0.05, 0.01, 0.0, 6.0307256),
        ((1, 1, 1, 0), 0.6, 0.4, 0.0, 0.36464311),
        ((100, 7, 900, 9), 0.05, 0.01, 0.005, 4.4541254),
        ((100, 7, 900, 9), 0.05, 0.01, 0.01, 3.2300858),
        ((500, 40, 500, 10), 0.06, 0.02, 0.01, 6.5901851),
        ((600, 0, 5400, 0), 0.0005, 0.0005, 0.005, 2.7324892),
        ((1000, 10, 9000, 90), 0.01, 0.01, 0.005, 0.89937766),
    ],
)
def test_the_absolute_form_agrees_with_independent_code(block: Block, theta_c: float, theta_b: float, delta: float, expected: float):
    assert absolute(block, theta_c, theta_b, delta) == pytest.approx(expected, abs=BISECTED)


@pytest.mark.parametrize(
    ("share", "theta_c", "theta_b", "delta", "expected"),
    [
        (0.1, 0.05, 0.01, 0.005, 0.012590591),
        (0.1, 0.05, 0.01, 0.01, 0.01171281),
        (0.5, 0.06, 0.02, 0.01, 0.033108623),
        (0.1, 0.0005, 0.0005, 0.005, 0.00045395443),
        (0.1, 0.01, 0.01, 0.005, 0.009657317),
    ],
)
def test_the_projection_agrees_with_independent_code(share: float, theta_c: float, theta_b: float, delta: float, expected: float):
    found = blocks.project(np.array([share]), np.array([theta_c]), np.array([theta_b]), delta)[0]
    assert found == pytest.approx(expected, rel=1e-7)


def test_the_projection_in_closed_form_is_the_one_found_by_bisection():
    random = np.random.default_rng(1)
    for _ in range(2000):
        delta = 0.0 if random.random() < 0.05 else 10 ** random.uniform(-6, -0.1)
        theta_b = 10 ** random.uniform(-7, -0.05) * (1 - delta)
        theta_c = min(10 ** random.uniform(-7, 0), 0.9999)
        share = random.uniform(1e-4, 1 - 1e-4)
        found = blocks.project(np.array([share]), np.array([theta_c]), np.array([theta_b]), delta)[0]
        assert found == pytest.approx(by_bisection(share, theta_c, theta_b, delta), rel=1e-6)


def test_the_histogram_form_agrees_with_independent_code():
    u = np.log([[0.8, 1, 1.2, 1.6, 2.5]])
    candidate, baseline = np.array([40.0, 30, 15, 10, 5]), np.array([450.0, 270, 110, 50, 20])
    share = np.asarray(candidate.sum() / (candidate.sum() + baseline.sum()))
    found = blocks.scores(candidate, baseline, log_u_candidate=u, log_u_baseline=u, share=share)
    assert found[0] == pytest.approx(3.5243864, abs=1e-7)


def expectation(n_c: int, n_b: int, p_c: float, p_b: float, log_e: Callable[[Arm, Arm], Floats]) -> float:
    """E[E] over every outcome of a block."""
    k_c, k_b = (grid.ravel().astype(float) for grid in np.meshgrid(np.arange(n_c + 1), np.arange(n_b + 1)))
    chance = binom.pmf(k_c, n_c, p_c) * binom.pmf(k_b, n_b, p_b)
    evidence = log_e((np.full_like(k_c, n_c), k_c), (np.full_like(k_b, n_b), k_b))[..., 0]
    return float((chance * np.exp(evidence)).sum())


def expected_absolute(n_c: int, n_b: int, p_c: float, p_b: float, delta: float) -> float:
    rates = {"theta_c": np.array([0.05]), "theta_b": np.array([0.01]), "delta": delta}
    return expectation(n_c, n_b, p_c, p_b, lambda candidate, baseline: blocks.absolute(candidate, baseline, **rates))


@pytest.mark.parametrize(
    ("n_c", "n_b", "p_c", "p_b", "ratio", "rho", "expected"),
    [
        (10, 90, 0.01, 0.01, 5, 1.0, 0.99638797),
        (10, 90, 0.2, 0.2, 5, 1.0, 0.31784022),
        (50, 50, 0.2, 0.2, 2, 1.0, 0.80034090),
        (10, 90, 0.015, 0.01, 5, 1.5, 0.99722822),
        (50, 50, 0.045, 0.03, 1, 1.5, 0.99719137),
    ],
)
def test_the_relative_form_never_gains_at_its_margin(n_c, n_b, p_c, p_b, ratio, rho, expected):  # noqa: PLR0917 - a row of a table
    found = expectation(n_c, n_b, p_c, p_b, lambda c, b: blocks.relative(c, b, ratio=np.array([ratio]), rho=rho))
    assert found == pytest.approx(expected, abs=2e-8)
    assert found <= 1


@pytest.mark.parametrize(("p", "expected"), [(0.014, 1.0), (0.0, 0.99245785), (0.1, 0.78059789)])
def test_the_absolute_form_never_gains_without_a_margin(p: float, expected: float):
    assert expected_absolute(10, 90, p, p, 0.0) == pytest.approx(expected, abs=2e-8)


X = 0.012590591


@pytest.mark.parametrize(("p_c", "p_b", "expected"), [(X + 0.005, X, 1.0), (0.015, 0.01, 0.99868558), (0.025, 0.02, 0.98941688)])
def test_the_absolute_form_never_gains_at_its_margin(p_c: float, p_b: float, expected: float):
    assert expected_absolute(100, 900, p_c, p_b, 0.005) == pytest.approx(expected, abs=BISECTED)


def test_the_histogram_form_never_gains_from_equal_arms():
    """Every way two and three requests can fall into three bins."""
    u, chance = np.log(np.array([0.5, 1.5, 6.0])), np.array([0.6, 0.3, 0.1])
    total = 0.0
    for outcome in itertools.product(range(3), repeat=5):
        candidate, baseline = np.bincount(outcome[:2], minlength=3), np.bincount(outcome[2:], minlength=3)
        log_e = blocks.scores(
            candidate.astype(float), baseline.astype(float), log_u_candidate=u[None], log_u_baseline=u[None], share=np.asarray(0.4)
        )
        total += chance[list(outcome)].prod() * np.exp(log_e[0])
    assert 0.5 < total <= 1
