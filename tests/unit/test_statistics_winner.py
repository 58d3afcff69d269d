"""The winner rule: rarely wrong, the incumbent in doubt, guardrails first, objectives in order; adaptive traffic that starves nobody."""

import numpy as np
import pytest

from policies.statistics import Objective, Utility, WinnerConfig, WinnerGate
from policies.statistics.winner import top_two
from tests.rig import binomial_band

RUNS = 120
UTILITY = (Objective(name="utility", tolerance=0.05),)


def block(random: np.random.Generator, means: np.ndarray, requests: np.ndarray, runs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal values of deviation 1: per run the requests of each arm, and per objective their means and squares; the day moves all arms."""
    n = np.broadcast_to(requests, (runs, len(requests)))
    day = random.normal(0, 0.3, (runs, 1, 1))
    mean = means + day + random.normal(size=(runs, *means.shape)) / np.sqrt(requests)
    squares = random.chisquare(requests - 1, size=(runs, *means.shape))
    return n, mean, squares


def played(
    means: list[list[float]], config: WinnerConfig, *, blocks: int, requests: int = 100
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each run's first winner (-1: none), its block, and which arms were ever dropped."""
    random, gate, truth = np.random.default_rng(19), WinnerGate.start(config), np.array(means)
    winner, at = np.full(RUNS, -1), np.full(RUNS, -1)
    dropped = np.zeros((RUNS, config.arms), dtype=bool)
    everyone = np.ones(config.arms, dtype=bool)
    for index in range(blocks):
        gate = gate.update(*block(random, truth, np.full(config.arms, requests), RUNS))
        said = gate.verdicts(0.05, eligible=~dropped, passed=everyone)
        dropped |= said.dropped
        new = (winner < 0) & (said.winner >= 0)
        winner[new], at[new] = said.winner[new], index
    return winner, at, dropped


def test_the_best_arm_wins_and_hardly_ever_another():
    config = WinnerConfig(arms=4, objectives=UTILITY)
    winner, _, dropped = played([[0.0, 0.1, 0.1, 0.3]], config, blocks=60)
    assert (winner == 3).mean() > 0.95
    assert ((winner >= 0) & (winner != 3)).sum() <= binomial_band(RUNS, 0.05)[1]
    assert dropped[:, 3].sum() <= binomial_band(RUNS, 0.05)[1]


def test_of_equal_arms_the_incumbent_stays():
    winner, _, dropped = played([[0.0, 0.0, 0.0]], WinnerConfig(arms=3, objectives=UTILITY), blocks=150, requests=200)
    assert (winner == 0).mean() > 0.9
    assert (winner > 0).sum() <= binomial_band(RUNS, 0.05)[1]
    assert dropped.any(axis=1).sum() <= binomial_band(RUNS, 0.1)[1]


def test_an_arm_worse_than_the_incumbent_does_not_win():
    winner, _, _ = played([[0.0, -0.1]], WinnerConfig(arms=2, objectives=UTILITY), blocks=60)
    assert (winner == 0).mean() > 0.9
    assert (winner == 1).sum() <= binomial_band(RUNS, 0.05)[1]


def single(means: list[list[float]], config: WinnerConfig, blocks: int = 60) -> WinnerGate:
    random, gate = np.random.default_rng(20), WinnerGate.start(config)
    for _ in range(blocks):
        n, mean, squares = block(random, np.array(means), np.full(config.arms, 200), 1)
        gate = gate.update(n[0], mean[0], squares[0])
    return gate


def test_guardrails_come_first():
    gate = single([[0.0, 0.2, 0.5]], WinnerConfig(arms=3, objectives=UTILITY))
    assert gate.verdicts(0.05, eligible=[True] * 3, passed=[True] * 3).winner == 2
    assert gate.verdicts(0.05, eligible=[True, True, False], passed=[True] * 3).winner == 1
    # the best has not passed: it stands in the others' way and wins nothing itself
    assert gate.verdicts(0.05, eligible=[True] * 3, passed=[True, True, False]).winner == -1
    assert gate.verdicts(0.05, eligible=[False] * 3, passed=[False] * 3).winner == 0


def test_without_data_nobody_wins_until_the_deadline_gives_it_to_the_incumbent():
    gate = WinnerGate.start(WinnerConfig(arms=3, objectives=UTILITY))
    assert gate.verdicts(0.05, eligible=[True] * 3, passed=[True] * 3).winner == -1
    assert gate.verdicts(0.05, eligible=[True] * 3, passed=[True] * 3, over=True).winner == 0
    low, high = gate.bounds(0.05)
    assert np.isinf(low).all()
    assert np.isinf(high).all()


def test_objectives_in_strict_order():
    """Equal quality within the tolerance: the cheaper wins; worse quality: it does not, however cheap."""
    objectives = (Objective(name="quality", tolerance=0.1), Objective(name="cost", tolerance=0.1, lower_is_better=True))
    config = WinnerConfig(arms=3, objectives=objectives)
    cheap = single([[0.0, 0.02, -0.5], [1.0, 0.3, 0.0]], config)
    said = cheap.verdicts(0.05, eligible=[True] * 3, passed=[True] * 3)
    assert said.winner == 1
    assert said.dropped.tolist() == [False, False, True]
    better = single([[0.0, 0.5, 0.5], [1.0, 1.0, 3.0]], config)
    assert better.verdicts(0.05, eligible=[True] * 3, passed=[True] * 3).winner == 1


def test_the_bounds_hold_for_all_pairs_with_the_best_arm():
    config, truth = WinnerConfig(arms=3, objectives=UTILITY, tightest_at=500.0), np.array([[0.0, 0.1, 0.3]])
    random, gate = np.random.default_rng(21), WinnerGate.start(config)
    missed = np.zeros(RUNS, dtype=bool)
    for _ in range(40):
        gate = gate.update(*block(random, truth, np.full(3, 50), RUNS))
        low, high = (bound[:, 0, 2, :2] for bound in gate.bounds(0.05))
        gap = truth[0, 2] - truth[0, :2]
        missed |= ((low > gap) | (high < gap)).any(axis=-1)
    assert missed.sum() <= binomial_band(RUNS, 0.05)[1]


def test_what_is_still_needed_is_about_what_it_takes():
    """Arm 1 is better by 0.1, tolerance 0.05: 2 ln(2/0.05) / 0.15^2 pairs of variance 1."""
    gate = single([[0.0, 0.1, 0.0]], WinnerConfig(arms=3, objectives=UTILITY), blocks=200)
    needed = gate.needed(0.05)[0]
    assert needed[1, 0] == pytest.approx(2 * np.log(40) / 0.15**2, rel=0.35)
    assert needed[1, 0] < needed[0, 2] < needed[0, 1]
    assert np.isinf(WinnerGate.start(gate.config).needed(0.05)).all()


def test_a_restart_changes_nothing():
    config = WinnerConfig(arms=3, objectives=(*UTILITY, Objective(name="cost", tolerance=1.0)))
    gate = single([[0.0, 0.1, 0.2], [1.0, 2.0, 3.0]], config, blocks=3)
    again = WinnerGate.restore(config, gate.memory())
    assert again.memory() == gate.memory()
    with pytest.raises(ValueError, match="finite numbers"):
        WinnerGate.restore(WinnerConfig(arms=2, objectives=UTILITY), gate.memory())


def test_names_of_arms_mean_nothing():
    random, config = np.random.default_rng(22), WinnerConfig(arms=3, objectives=UTILITY)
    n, mean, squares = block(random, np.array([[0.0, 0.1, 0.2]]), np.array([150, 200, 250]), 1)
    one = WinnerGate.start(config).update(n[0], mean[0], squares[0])
    order = [2, 0, 1]
    other = WinnerGate.start(config).update(n[0][order], mean[0][:, order], squares[0][:, order])
    for before, after in zip(one.bounds(0.05), other.bounds(0.05), strict=True):
        assert after[0] == pytest.approx(before[0][np.ix_(order, order)])


def test_a_utility_says_what_it_is_made_of():
    utility = Utility(rates=(("quality", 20.0), ("cost", -1.5)))
    assert utility.of({"quality": np.array([0.5, 1.0]), "cost": np.array([2.0, 4.0])}) == pytest.approx([7.0, 14.0])
    assert utility.breakdown({"quality": 0.75, "cost": 3.0}) == (("quality", 15.0), ("cost", -4.5))
    assert str(utility) == "U = +20 x quality -1.5 x cost"
    with pytest.raises(ValueError, match="cost"):
        utility.of({"quality": np.ones(2)})


def test_top_two_gives_the_rivals_most_and_starves_nobody():
    normals = np.random.default_rng(23).normal(size=(4000, 4))
    mean, within = np.array([0.0, 1.0, 1.01, 0.2]), np.ones(4, dtype=bool)
    shares = top_two(mean, np.full(4, 0.05), normals, within=within)
    assert shares.sum() == pytest.approx(1.0)
    assert shares.min() >= 0.05
    assert shares[1] + shares[2] > 0.8
    sure = top_two(np.array([0.0, 9.0, 1.0, 0.0]), np.full(4, 0.01), normals, within=within)
    assert sure.sum() == pytest.approx(1.0)
    assert sure[1] < 0.7
    out = top_two(mean, np.full(4, 0.05), normals, within=np.array([True, True, False, False]))
    assert out[2:].tolist() == [0.0, 0.0]
    assert out.sum() == pytest.approx(1.0)
    assert top_two(mean, np.full(4, 0.05), normals, within=np.eye(4, dtype=bool)[2]).tolist() == [0.0, 0.0, 1.0, 0.0]


def test_adaptive_traffic_does_not_make_wrong_winners():
    """Shares follow what was seen, and so does the day's level, which moves all arms."""
    wrong, random = 0, np.random.default_rng(24)
    truth, runs = np.array([0.0, 0.0, 0.3]), 40
    for _ in range(runs):
        gate, shares = WinnerGate.start(WinnerConfig(arms=3, objectives=UTILITY)), np.full(3, 1 / 3)
        for _ in range(60):
            n = random.multinomial(300, shares)
            mean = truth + random.normal(0, 0.3) + random.normal(size=3) / np.sqrt(np.maximum(n, 1))
            gate = gate.update(n, mean[None], random.chisquare(np.maximum(n - 1, 1))[None])
            said = gate.verdicts(0.05, eligible=[True] * 3, passed=[True] * 3)
            if said.winner >= 0:
                wrong += int(said.winner != 2)
                break
            error = 1 / np.sqrt(np.maximum(gate.requests, 1))
            shares = top_two(gate.estimates[0], error, random.normal(size=(200, 3)), within=np.ones(3, dtype=bool))
    assert wrong <= binomial_band(runs, 0.05)[1]


def test_what_is_compared_is_checked():
    with pytest.raises(ValueError, match="tolerance"):
        Objective(name="cost", tolerance=0.0)
    with pytest.raises(ValueError, match="two arms"):
        WinnerConfig(arms=1, objectives=UTILITY)
