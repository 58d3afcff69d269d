"""Margins, budgets, and the planner's figures against simulated medians."""

import math

import numpy as np
import pytest

from policies.statistics import margins
from policies.statistics.margins import Budget


def test_a_small_step_needs_little_proof_and_a_large_one_more():
    assert margins.before_step(0.01) == pytest.approx(0.1)
    assert margins.before_step(0.5) == pytest.approx(0.002)
    assert margins.before_step(0.5, margin=0.01) == 0.01
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share"):
            margins.before_step(share)


def test_at_its_margin_a_candidate_harms_no_more_than_the_budget():
    for share in (0.01, 0.05, 0.25, 1.0):
        assert margins.before_step(share, budget=0.002) * share == pytest.approx(0.002)


def test_several_candidates_share_the_level():
    assert margins.level(0.06, 3) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="candidate"):
        margins.level(0.05, 0)


def test_a_budget_is_split_and_named():
    budget = Budget.divide(0.05, {"errors": 2, "latency": 1, "cost": 1})
    assert budget.own("errors") == pytest.approx(0.025)
    assert sum(budget.own(name) for name, _ in budget.weights) == pytest.approx(0.05)
    total, parts = budget.joint({"errors": 10.0, "latency": 60.0})
    assert total == pytest.approx(20.0)
    assert [name for name, _ in parts] == ["latency", "errors", "cost"]
    with pytest.raises(ValueError, match="cost"):
        Budget.divide(0.05, {"errors": 1, "cost": 0})


def test_jointly_they_fail_no_later_than_one_alone_would():
    budget = Budget.divide(0.05, {"a": 1, "b": 3})
    for evidence in ({"a": 81.0, "b": 0.0}, {"a": 0.1, "b": 27.0}):
        alone = any(value >= 1 / budget.own(name) for name, value in evidence.items())
        assert alone
        assert budget.joint(evidence)[0] >= 1 / budget.alpha


def test_jointly_the_level_holds_though_the_parts_depend_on_each_other():
    """Evidence of two guardrails that is the same number: fair bets of 20 steps."""
    random, budget = np.random.default_rng(25), Budget.divide(0.05, {"a": 1, "b": 1})
    steps = np.cumprod(np.where(random.random((20000, 20)) < 0.5, 0.5, 1.5), axis=1).max(axis=1)
    assert np.mean([budget.joint({"a": value, "b": value})[0] >= 20 for value in steps[:4000]]) <= 0.05 + 0.01


@pytest.mark.parametrize(("ratio", "expected"), [(2, 1480), (5, 150)])
def test_requests_to_fail(ratio: float, expected: float):
    assert margins.requests_to_fail(ratio, rate=0.01, share=0.1, alpha=0.05) == pytest.approx(expected, rel=0.01)


def test_no_regression_never_fails_and_no_margin_never_passes():
    assert margins.requests_to_fail(1.0, rate=0.01, share=0.1, alpha=0.05) == math.inf
    assert margins.requests_to_pass(0.0, rate=0.01, share=0.1, beta=0.05) == math.inf
    assert margins.requests_to_pass_absolute(0.0, rate=0.01, share=0.1, beta=0.05) == math.inf
    assert margins.requests_to_compare(0.0, deviation=1.0, alpha=0.05) == math.inf


@pytest.mark.parametrize(
    ("margin", "rate", "median"),
    [
        (0.1, 0.001, 30),
        (0.05, 0.01, 90),
        (0.02, 0.01, 290),
        (0.01, 0.01, 880),
        (0.01, 0.05, 3870),
        (0.005, 0.001, 630),
        (0.005, 0.05, 14105),
    ],
)
def test_requests_to_pass_an_absolute_margin_are_near_the_simulated_medians(margin: float, rate: float, median: float):
    """Medians at a share of a tenth, beta = .05, from an independent simulation. Early blocks know the rate less: up to a half more."""
    found = margins.requests_to_pass_absolute(margin, rate=rate, share=0.1, beta=0.05)
    assert median / 1.6 < found < median * 1.6


def test_what_a_plan_shows_is_what_it_asks_for():
    ratio = margins.smallest_ratio(2000, rate=0.01, share=0.2, alpha=0.01)
    assert margins.requests_to_fail(ratio, rate=0.01, share=0.2, alpha=0.01) == pytest.approx(2000, rel=1e-6)
    assert margins.smallest_ratio(3, rate=0.01, share=0.2, alpha=0.01) == math.inf


def test_more_is_sooner():
    few = margins.requests_to_fail(2, rate=0.01, share=0.1, alpha=0.05)
    assert margins.requests_to_fail(3, rate=0.01, share=0.1, alpha=0.05) < few
    assert margins.requests_to_fail(2, rate=0.02, share=0.1, alpha=0.05) < few
    assert margins.requests_to_fail(2, rate=0.01, share=0.1, alpha=0.01) > few
    assert margins.requests_to_pass(1.0, rate=0.01, share=0.1, beta=0.05) < margins.requests_to_pass(0.5, rate=0.01, share=0.1, beta=0.05)
