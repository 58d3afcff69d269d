"""The sample ratio gate against the figures of the published formula, by enumeration and by simulation."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, hypergeom, multinomial

from policies.statistics import RatioConfig, RatioGate, Verdict, invalid
from policies.statistics.ratio_gate import log_ratio
from tests.rig import binomial_band

REFERENCE = [
    ((0.1, 0.9), (55, 945), 10.8462597),
    ((0.1, 0.9), (130, 870), 2.909935928),
    ((0.1, 0.9), (1300, 8700), 43.27731229),
    ((0.5, 0.5), (520, 480), -0.4731252337),
    ((0.5, 0.5), (5300, 4700), 15.52401168),
    ((1, 1, 1), (40, 35, 60), 1.338279484),
]
"""(shares, counts, ln E) of Lindon & Malek's formula with k = 100, computed elsewhere."""


@pytest.mark.parametrize(("shares", "counts", "expected"), REFERENCE)
def test_the_formula(shares: tuple[float, ...], counts: tuple[int, ...], expected: float):
    gate = RatioGate.start(RatioConfig(shares=shares)).update(*counts)
    assert float(gate.log_stage) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("shares", "counts", "expected"), REFERENCE)
def test_how_requests_are_cut_into_blocks_does_not_matter(shares: tuple[float, ...], counts: tuple[int, ...], expected: float):
    gate = RatioGate.start(RatioConfig(shares=shares))
    for part in (0.5, 0.3, 0.15, 0.05):
        gate = gate.update(*(part * count for count in counts))
    assert float(gate.log_stage) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.5, 0.3, 0.2)])
def test_the_mean_of_the_evidence_is_one_when_the_ratio_is_right(shares: tuple[float, ...]):
    outcomes = np.array([each for each in product(range(13), repeat=len(shares)) if sum(each) == 12])
    gate = RatioGate.start(RatioConfig(shares=shares, concentration=5.0)).update(*(3.0 for _ in shares))
    before = float(gate.log_stage)
    after = gate.update(*outcomes.T)
    chance = multinomial.pmf(outcomes, 12, shares)
    assert chance @ np.exp(after.log_stage - before) == pytest.approx(1.0)


def test_the_mean_is_at_most_one_for_completed_of_started():
    started = (20, 6)
    lost = np.arange(9)
    for total_lost in lost:
        done_c = 6 - lost
        chance = hypergeom.pmf(lost, 26, 6, total_lost)
        known = RatioGate.start(RatioConfig(shares=(0.8, 0.2), concentration=5.0)).update(30, 2, of=(30, 8))
        done = known.update(26 - total_lost - np.maximum(done_c, 0), np.maximum(done_c, 0), of=started)
        assert chance @ np.exp(done.log_stage - float(known.log_stage)) <= 1 + 1e-9


def test_a_candidate_that_swallows_requests_is_seen_though_it_starts_its_share():
    started = RatioGate.start(RatioConfig(shares=(0.9, 0.1)))
    completed = RatioGate.start(RatioConfig(shares=(0.9, 0.1)))
    for _ in range(10):
        started, completed = started.update(90, 10), completed.update(90, 0, of=(90, 10))
    assert not invalid(started)
    assert invalid(completed)
    assert completed.verdict() == Verdict.ERROR


def test_no_request_of_an_arm_that_is_due_some_is_a_wrong_ratio():
    assert invalid(RatioGate.start(RatioConfig(shares=(0.95, 0.05))).update(1000, 0))


def test_an_arm_without_a_share_is_not_looked_at():
    gate = RatioGate.start(RatioConfig(shares=(1.0, 0.0))).update(100, 3)
    assert gate.evidence == pytest.approx(0.5)
    after = gate.reweigh((0.5, 0.5)).update(500, 500)
    assert not invalid(after)


def test_a_stage_by_its_sums_is_the_same():
    assert log_ratio((870, 130, 7), (0.9, 0.1, 0.0)) == pytest.approx(2.909935928, rel=1e-8)


def test_the_level_holds_over_many_changes_of_weights():
    random, runs, alpha = np.random.default_rng(3), 1000, 0.05
    gate = RatioGate.start(RatioConfig(shares=(0.99, 0.01), stages=4))
    wrong = np.zeros(runs, dtype=bool)
    for share in (0.01, 0.05, 0.25, 0.5, 0.3, 0.1):
        gate = gate.reweigh((1 - share, share))
        for _ in range(40):
            n = random.poisson(50, runs)
            to_candidate = random.binomial(n, share)
            gate = gate.update(n - to_candidate, to_candidate)
            wrong |= invalid(gate, alpha)
    assert wrong.sum() <= binomial_band(runs, alpha)[1]


def test_a_mismatch_that_comes_with_the_last_stage_is_seen():
    gate = RatioGate.start(RatioConfig(shares=(0.9, 0.1), stages=3)).update(90_000, 10_000)
    gate = gate.reweigh((0.75, 0.25)).update(75_000, 25_000).reweigh((0.5, 0.5))
    assert not invalid(gate)
    assert invalid(gate.update(600, 400))


def test_evidence_of_an_earlier_stage_stays():
    gate = RatioGate.start(RatioConfig(shares=(0.5, 0.5), stages=2)).update(700, 300)
    assert invalid(gate)
    assert invalid(gate.reweigh((0.4, 0.6)).update(400, 600))


def test_the_same_shares_are_no_new_stage():
    gate = RatioGate.start(RatioConfig(shares=(9, 1))).update(90, 10)
    assert gate.reweigh((0.9, 0.1)) is gate


def test_one_run_and_many_say_the_same():
    shares = (0.7, 0.2, 0.1)
    one = RatioGate.start(RatioConfig(shares=shares)).update(70, 25, 5).update(60, 30, 5, of=(61, 31, 9))
    pair = np.ones(2)
    many = RatioGate.start(RatioConfig(shares=shares)).update(70 * pair, 25 * pair, 5 * pair)
    many = many.update(60 * pair, 30 * pair, 5 * pair, of=(61 * pair, 31 * pair, 9 * pair))
    assert np.asarray(many.evidence) == pytest.approx(float(one.evidence))


def test_it_never_passes_nor_fails_an_arm():
    gate = RatioGate.start(RatioConfig(shares=(0.5, 0.5))).update(500, 500)
    assert gate.evidence_pass == 0
    assert gate.verdict() == Verdict.INCONCLUSIVE


@pytest.mark.parametrize("shares", [(1.0,), (0.0, 0.0), (-1.0, 2.0), (float("inf"), 1.0)])
def test_shares_are_checked(shares: tuple[float, ...]):
    with pytest.raises(ValueError, match="shares"):
        RatioConfig(shares=shares)


def test_counts_of_other_arms_are_refused():
    gate = RatioGate.start(RatioConfig(shares=(0.5, 0.5)))
    with pytest.raises(ValueError, match="2 arms"):
        gate.update(1, 2, 3)
    with pytest.raises(ValueError, match="2 arms"):
        gate.reweigh((1, 1, 1))


def test_chances_of_the_enumeration_are_what_they_should_be():
    """A guard for the tests above: a binomial is a multinomial of two arms."""
    assert multinomial.pmf([10, 2], 12, [0.9, 0.1]) == pytest.approx(binom.pmf(2, 12, 0.1))
