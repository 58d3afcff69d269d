"""The rules of other tools on windows made by hand, and against independent code where there is one."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from bench.peers import Block
from bench.peers.argo import Argo
from bench.peers.flagger import Flagger, FlaggerLatency
from bench.peers.kayenta import Judge, high, shift, standardised
from bench.peers.sequential import GrowthBook, Multinomial, NaiveZ, Oracle, half_width


def block(seconds, *, n_c=0, k_c=0, n_b=0, k_b=0):
    counts = {"n_c": n_c, "k_c": k_c, "n_b": n_b, "k_b": k_b, "n_t": n_c, "k_t": 0}
    return Block(seconds=seconds, **{name: np.atleast_1d(value) for name, value in counts.items()})


def fired_at(rule, blocks):
    """Number of the block at which the rule takes the candidate out, from 1; None = never."""
    for number, each in enumerate(blocks, 1):
        fires = rule.see(each)
        if fires is not None and fires.any():
            return number
    return None


def test_flagger_rolls_back_at_the_tick_after_the_tenth_failed_check():
    assert fired_at(Flagger(), [block(60, n_c=100, k_c=2)] * 20) == 11


def test_flagger_takes_a_success_rate_at_the_limit():
    assert fired_at(Flagger(), [block(60, n_c=100, k_c=1)] * 60) is None


def test_flagger_counts_a_window_without_requests_as_failed():
    assert fired_at(Flagger(), [block(60)] * 20) == 11


def test_flagger_never_forgets_a_failed_check():
    good, bad = block(60, n_c=100), block(60, n_c=100, k_c=5)
    assert fired_at(Flagger(), ([good] * 9 + [bad]) * 20) == 101


def test_flagger_looks_at_whole_minutes():
    half = [block(30, n_c=50, k_c=2), block(30, n_c=150, k_c=0)]
    assert fired_at(Flagger(), half * 30) is None


def test_flagger_p99_of_a_minute():
    edges = np.array([100.0, 300.0, 500.0, 900.0])
    slow, fast = np.array([[50, 40, 0, 2]]), np.array([[60, 39, 0, 1]])
    assert not any(FlaggerLatency(edges).see_minute(fast).any() for _ in range(30))
    rule = FlaggerLatency(edges)
    assert [rule.see_minute(slow).any() for _ in range(11)] == [False] * 10 + [True]


def test_argo_aborts_on_the_fourth_failed_measurement():
    assert fired_at(Argo(), [block(300, n_c=100, k_c=6)] * 10) == 4


def test_argo_takes_95_percent():
    assert fired_at(Argo(), [block(300, n_c=100, k_c=5)] * 10) is None


def test_argo_fails_a_measurement_without_a_value():
    assert fired_at(Argo(), [block(300)] * 10) == 4


def test_argo_counts_failures_over_the_whole_run():
    good, bad = block(300, n_c=100), block(300, n_c=100, k_c=9)
    assert fired_at(Argo(), [bad, good, good] * 10) == 10


@pytest.mark.parametrize("seed", range(20))
def test_the_statistic_is_that_of_mann_and_whitney_with_ties_and_continuity(seed):
    random = np.random.default_rng(seed)
    candidate, baseline = random.poisson(4, (3, 60)) / 60, random.poisson(3, (3, 50)) / 60
    moved = np.array([0.0, 0.01, -1 / 60])
    found = standardised(candidate, baseline, moved)
    for run in range(3):
        p = mannwhitneyu(candidate[run] - moved[run], baseline[run], alternative="two-sided", method="asymptotic").pvalue
        from_z = mannwhitneyu(candidate[run] - moved[run], baseline[run], alternative="greater", method="asymptotic").pvalue
        assert found[run] ** 2 == pytest.approx(_squared_normal(p), rel=1e-6, abs=1e-9)
        assert (found[run] > 0) == (from_z < 0.5)


def _squared_normal(p_two_sided):
    from scipy.stats import norm

    return norm.isf(p_two_sided / 2) ** 2


def test_the_shift_is_the_median_of_all_differences():
    candidate, baseline = np.array([[1.0, 5.0, 9.0]]), np.array([[0.0, 2.0]])
    assert shift(candidate, baseline)[0] == np.median([1, -1, 5, 3, 9, 7])


def test_kayenta_calls_high_what_lies_above_a_quarter_of_the_shift():
    baseline = np.linspace(0.0, 1.0, 30)[None]
    assert high(baseline + 2.0, baseline)[0]
    assert not high(baseline - 2.0, baseline)[0]
    assert not high(baseline + 0.05, baseline)[0]


def test_kayenta_passes_where_most_differences_are_none():
    """Twelve bad minutes in sixty against none: significant, but the interval begins at the estimated shift, which is 0."""
    candidate = np.zeros((1, 60))
    candidate[0, :12] = 0.2
    assert standardised(candidate, np.zeros((1, 60)), np.zeros(1))[0] > 2.4
    assert not high(candidate, np.zeros((1, 60)))[0]


def test_kayenta_passes_what_is_equal_throughout():
    assert not high(np.zeros((1, 30)), np.zeros((1, 30)))[0]


def test_kayenta_judges_every_tenth_minute_at_most_an_hour():
    judge = Judge()
    said = [judge.minute(np.array([9.0 if minute < 10 else 0.0]), np.array([1.0 + minute % 3])) for minute in range(80)]
    assert [index for index, value in enumerate(said, 1) if value is not None] == list(range(10, 81, 10))
    assert said[9][0]
    assert not said[79][0]
    assert len(judge.values) == 60


@pytest.mark.parametrize(
    ("n", "two_sided", "one_sided"),
    [
        (500, 0.1724032844, 0.1645330127),
        (1000, 0.1063754701, 0.0996883510),
        (5000, 0.0429243372, 0.0393023276),
        (20000, 0.0221120362, 0.0202812122),
    ],
)
def test_growthbooks_half_width_is_what_its_own_functions_give(n, two_sided, one_sided):
    assert half_width(1.0, n, one_sided=False) == pytest.approx(two_sided, rel=1e-8)
    assert half_width(1.0, n) == pytest.approx(one_sided, rel=1e-8)


@pytest.mark.parametrize(
    ("errors_c", "errors_b", "weight", "expected"),
    [(55, 945, 0.1, 10.8462597), (130, 870, 0.1, 2.909935929), (520, 480, 0.5, -0.4731252337), (5300, 4700, 0.5, 15.52401168)],
)
def test_the_multinomial_test_agrees_with_independent_code(errors_c, errors_b, weight, expected):
    rule = Multinomial(weight)
    rule.see(block(10, n_c=errors_c, k_c=errors_c, n_b=errors_b, k_b=errors_b))
    assert rule.evidence()[0] == pytest.approx(expected, rel=1e-7)


def test_the_multinomial_test_takes_out_only_the_worse_arm():
    fewer = [block(10, n_c=100, k_c=0, n_b=100, k_b=20)] * 10
    assert fired_at(Multinomial(0.5), fewer) is None
    assert fired_at(Multinomial(0.5), [block(10, n_c=100, k_c=20, n_b=100, k_b=0)] * 10) is not None


def test_the_z_test_waits_for_thirty_requests_of_each_arm():
    bad = [block(10, n_c=10, k_c=8, n_b=90, k_b=0)] * 5
    assert fired_at(NaiveZ(), bad) == 3


def test_the_z_test_agrees_with_statsmodels():
    """7 of 100 against 9 of 900: z = 4.536 (statsmodels 0.15 `proportions_ztest`), p = 2.86e-6."""
    counts = block(10, n_c=100, k_c=7, n_b=900, k_b=9)
    assert fired_at(NaiveZ(alpha=2.87e-6), [counts]) == 1
    assert fired_at(NaiveZ(alpha=2.85e-6), [counts]) is None


def test_growthbook_finds_a_large_difference_and_none_in_equal_arms():
    assert fired_at(GrowthBook(), [block(10, n_c=100, k_c=20, n_b=900, k_b=9)] * 10) == 1
    assert fired_at(GrowthBook(), [block(10, n_c=100, k_c=1, n_b=900, k_b=9)] * 200) is None


def test_the_oracle_needs_three_nats():
    rule = Oracle(p_b=0.01, p_c=0.2)  # each bad request is worth ln 20, three nats
    assert fired_at(rule, [block(10, n_c=1, k_c=1)] * 3) == 1
    assert fired_at(Oracle(p_b=0.01, p_c=0.02), [block(10, n_c=100, k_c=1)] * 3) is None
