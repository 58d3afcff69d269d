"""The score gate: betting against confseq's figures, exact by enumeration, sound on any bounded law."""

from itertools import product

import numpy as np
import pytest

from policies.statistics import ScoreConfig, ScoreGate, Verdict
from policies.statistics.score_gate import BETS, capital, differences
from tests.rig import binomial_band

RUNS = 400
SCORES = np.array([0.9, 0.8, 0.95, 0.4, 1, 0.85, 0.7, 0.9, 0.6, 0.92])


def test_the_betting_capital_of_confseq():
    """betting_mart(x, m=.5) of confseq 0.0.11 with constant bets."""
    found = np.exp(capital(SCORES - 0.5, np.array([0.25, 0.5, 1.0])))
    assert found == pytest.approx(np.array([2.052842832, 3.955808512, 12.62110089]), rel=1e-9)


def test_the_mean_of_the_evidence_is_one_at_the_margin():
    """Scores of 0 or 1, paired, the candidate lower by exactly the margin: every outcome of four pairs."""
    margin, chance_b = 0.25, 0.75
    chance_c = chance_b - margin
    total_fail, total_pass = np.zeros(len(BETS)), np.zeros(len(BETS))
    for outcome in product((0, 1), repeat=8):
        base, cand = np.array(outcome[:4], dtype=float), np.array(outcome[4:], dtype=float)
        chance = np.prod(np.where(base, chance_b, 1 - chance_b)) * np.prod(np.where(cand, chance_c, 1 - chance_c))
        excess = differences(base, cand) - margin
        total_fail = total_fail + chance * np.exp(capital(excess, BETS / (1 + margin)))
        total_pass = total_pass + chance * np.exp(capital(excess, -BETS / (1 - margin)))
    assert total_fail == pytest.approx(np.ones(len(BETS)))
    assert total_pass == pytest.approx(np.ones(len(BETS)))


def test_each_candidate_has_its_own_fresh_scores_of_the_baseline():
    base, cand = np.array([0.1, 0.3, 0.5, 0.7, 0.9]), np.array([0.2, 0.4])
    assert differences(base, cand) == pytest.approx([0.2 - 0.2, 0.6 - 0.4])
    assert differences(cand, base) == pytest.approx([0.2 - 0.1, 0.4 - 0.3])
    assert differences(base, cand[:0]).size == 0


def verdicts(lower: float, *, paired: bool, blocks: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Which runs ever failed and ever passed a margin of 0.05 when the candidate's mean is so much lower; levels drift from block to block."""
    random = np.random.default_rng(8)
    gate = ScoreGate.start(ScoreConfig(margin=0.05, paired=paired, deadline_s=600.0))
    failed, passed = np.zeros(RUNS, dtype=bool), np.zeros(RUNS, dtype=bool)
    for index in range(blocks):
        level = 0.6 + 0.2 * np.sin(index / 7)
        if paired:
            base = random.random((RUNS, 20)) < level
            cand = np.where(random.random((RUNS, 20)) < 0.9, base, random.random((RUNS, 20)) < level)
            cand = cand & (random.random((RUNS, 20)) >= lower / level)
        else:
            base, cand = random.random((RUNS, 40)) < level, random.random((RUNS, 10)) < level - lower
        gate = gate.update(base, cand)
        said = gate.verdict(0.05)
        failed |= said == Verdict.FAIL
        passed |= said == Verdict.PASS
    return failed, passed


@pytest.mark.parametrize("paired", [True, False])
def test_a_candidate_at_the_margin_rarely_gets_either_verdict(*, paired: bool):
    failed, passed = verdicts(0.05, paired=paired)
    most = binomial_band(RUNS, 0.05)[1]
    assert failed.sum() <= most
    assert passed.sum() <= most


@pytest.mark.parametrize("paired", [True, False])
def test_a_candidate_far_lower_fails_and_one_that_is_as_good_passes(*, paired: bool):
    failed, passed = verdicts(0.3, paired=paired)
    assert failed.mean() > 0.95
    assert not passed.any()
    failed, passed = verdicts(0.0, paired=paired, blocks=200)
    assert passed.mean() > 0.8
    assert failed.sum() <= 1


def test_what_people_read_is_how_much_lower():
    gate = ScoreGate.start(ScoreConfig(paired=True)).update([0.5, 0.7], [0.4, 0.5])
    assert gate.estimate == pytest.approx(0.15)


def test_the_interval_holds_the_truth_at_every_look():
    random, gate = np.random.default_rng(27), ScoreGate.start(ScoreConfig())
    assert gate.interval() == (-1.0, 1.0)
    missed = np.zeros(RUNS, dtype=bool)
    for _ in range(60):
        gate = gate.update(random.random((RUNS, 20)) < 0.9, random.random((RUNS, 20)) < 0.8)
        low, high = gate.interval(0.05)
        missed |= (low > 0.1) | (high < 0.1)
    assert missed.sum() <= binomial_band(RUNS, 0.05)[1]
    assert (high - low).max() < 0.2


@pytest.mark.parametrize("wrong", [[1.2], [-0.1], [float("nan")], 0.5])
def test_a_score_lies_between_0_and_1(wrong: object):
    with pytest.raises(ValueError, match="hint"):
        ScoreGate.start(ScoreConfig()).update([0.5], wrong)  # type: ignore[arg-type]  # what is wrong is the point


def test_pairs_must_match():
    with pytest.raises(ValueError, match="paired"):
        ScoreGate.start(ScoreConfig(paired=True)).update([0.5, 0.6], [0.5])
