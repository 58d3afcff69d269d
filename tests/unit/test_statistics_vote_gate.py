"""The vote gate against reference figures, exact by enumeration, finite for any counts; discordant pairs on top of it."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from policies.statistics import Verdict, VoteConfig, VoteGate
from policies.statistics.vote_gate import discordant, log_above
from tests.rig import binomial_band

RUNS = 400


@pytest.mark.parametrize(
    ("wins", "losses", "chance", "expected"),
    [(15, 5, 0.5, 1.8493239), (60, 40, 0.5, 0.57889112), (30, 70, 0.5, -3.7446806), (8, 2, 0.5, 1.3867993), (60, 40, 0.45, 3.0147599)],
)
def test_the_formula(wins: int, losses: int, chance: float, expected: float):
    assert float(log_above(np.array(wins), np.array(losses), chance)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("chance", [0.45, 0.5, 0.8])
def test_the_mean_of_the_evidence_is_one_at_the_boundary_and_less_within(chance: float):
    wins = np.arange(31)
    evidence = np.exp(log_above(wins, 30 - wins, chance))
    assert binom.pmf(wins, 30, chance) @ evidence == pytest.approx(1.0)
    assert binom.pmf(wins, 30, chance - 0.1) @ evidence < 1.0


@pytest.mark.parametrize(("wins", "losses"), [(10, 3000), (100, 5000), (0, 4000)])
def test_far_in_the_tail_it_is_bounded_from_above_and_close(wins: int, losses: int):
    def integrand(p: float) -> float:
        return math.exp(wins * math.log(p / 0.5) + losses * math.log((1 - p) / 0.5))

    exact = math.log(quad(integrand, 0.5, 0.51)[0] / 0.5)
    found = float(log_above(np.array(wins), np.array(losses), 0.5))
    assert exact - 1e-6 <= found <= exact + 0.1


@pytest.mark.parametrize("counts", [(10**12, 0), (0, 10**12), (10**12, 10**12), (4 * 10**11, 6 * 10**11)])
def test_huge_counts_are_finite_and_say_what_is_plain(counts: tuple[int, int]):
    gate = VoteGate.start(VoteConfig()).update(*counts)
    assert 0 <= gate.evidence < math.inf
    assert 0 <= gate.evidence_pass < math.inf
    assert (gate.evidence > 1e6) == (counts[0] > counts[1])


def verdicts(chance: float, votes: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random, runs, gate = np.random.default_rng(9), RUNS, VoteGate.start(VoteConfig())
    failed, passed = np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    for _ in range(votes // 4):
        won = random.binomial(4, chance, runs)
        gate = gate.update(4 - won, won, ties=1.0)
        said = gate.verdict(0.05)
        failed |= said == Verdict.FAIL
        passed |= said == Verdict.PASS
    return failed, passed


def test_at_the_boundaries_verdicts_are_rare():
    most = binomial_band(RUNS, 0.05)[1]
    assert verdicts(0.5)[0].sum() <= most
    assert verdicts(0.45)[1].sum() <= most


def test_a_loser_fails_and_a_winner_passes():
    failed, passed = verdicts(0.3)
    assert failed.mean() > 0.95
    assert passed.mean() < 0.01
    failed, passed = verdicts(0.6)
    assert passed.mean() > 0.95
    assert failed.mean() < 0.01


def test_ties_say_nothing():
    gate = VoteGate.start(VoteConfig()).update(3, 5)
    tied = gate.update(0, 0, ties=100)
    assert tied.evidence == gate.evidence
    assert tied.ties == 100


def test_discordant_pairs_are_votes_and_unanswered_ones_are_lost():
    ok_b, ok_c = [True, True, False, False, True], [True, False, True, False, False]
    assert discordant(ok_b, ok_c) == (2.0, 1.0, 2.0)
    assert discordant(ok_b, ok_c, unpaired=4) == (6.0, 1.0, 2.0)
    lost, won, ties = discordant([True] * 30, [False] * 30)
    assert VoteGate.start(VoteConfig()).update(lost, won, ties=ties).verdict(0.01) == Verdict.FAIL


def test_chances_are_checked():
    with pytest.raises(ValueError, match="good_enough"):
        VoteConfig(fair=0.4)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (0, 40), (40, 0), (3, 7), (600, 400), (10**9, 10**9)])
def test_the_interval_is_where_evidence_of_either_side_is_weak(won: int, lost: int):
    low, high = VoteGate.start(VoteConfig()).update(lost, won).interval(0.05)
    assert 0 <= low <= high <= 1
    total = won + lost
    if won:
        mixture = math.lgamma(1 + won) + math.lgamma(1 + lost) - math.lgamma(2 + total)
        at = mixture - won * math.log(low) - lost * math.log1p(-low)
        assert at == pytest.approx(math.log(20), abs=1e-4 if total < 10**6 else 1.0)
    assert low <= (won / total if total else 0.5) <= high
    assert (low == 0) == (won == 0)
    assert (high == 1) == (lost == 0)


def test_the_interval_holds_the_truth_at_every_look():
    random, missed = np.random.default_rng(26), 0
    for _ in range(150):
        won, lost, gone = 0, 0, False
        for _ in range(40):
            new = random.binomial(5, 0.3)
            won, lost = won + new, lost + 5 - new
            low, high = VoteGate.start(VoteConfig()).update(lost, won).interval(0.05)
            gone |= not low <= 0.3 <= high
        missed += gone
    assert missed <= binomial_band(150, 0.05)[1]
