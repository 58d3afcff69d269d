"""The agreement gate: what stable disagrees with itself is no reason to fail; without it a floor."""

import numpy as np
import pytest

from policies.statistics import AgreementConfig, AgreementGate, CeilingConfig, CeilingGate, Verdict
from tests.rig import binomial_band

RUNS = 400


def failed(config: AgreementConfig, *, with_stable: float, with_itself: float, blocks: int = 150) -> tuple[np.ndarray, np.ndarray]:
    random, gate = np.random.default_rng(14), AgreementGate.start(config)
    fails, passes = np.zeros(RUNS, dtype=bool), np.zeros(RUNS, dtype=bool)
    for _ in range(blocks):
        pairs, own = random.poisson(18, RUNS), random.poisson(4, RUNS)
        gate = gate.update((own, random.binomial(own, with_itself)), (pairs, random.binomial(pairs, with_stable)))
        said = gate.verdict(0.05)
        fails |= said == Verdict.FAIL
        passes |= said == Verdict.PASS
    return fails, passes


def test_a_candidate_that_differs_as_stable_differs_from_itself_rarely_fails():
    fails, _ = failed(AgreementConfig(margin=0.02), with_stable=0.3, with_itself=0.3)
    assert fails.sum() <= binomial_band(RUNS, 0.05)[1]


def test_one_within_the_margin_rarely_fails_and_one_as_good_passes():
    fails, _ = failed(AgreementConfig(margin=0.2), with_stable=0.5, with_itself=0.3)
    assert fails.sum() <= binomial_band(RUNS, 0.05)[1]
    _, passes = failed(AgreementConfig(margin=0.2), with_stable=0.3, with_itself=0.3)
    assert passes.mean() > 0.9


def test_one_that_differs_by_the_margin_rarely_passes():
    _, passes = failed(AgreementConfig(margin=0.1), with_stable=0.4, with_itself=0.3)
    assert passes.sum() <= binomial_band(RUNS, 0.05)[1]


def test_one_that_differs_much_more_fails():
    fails, passes = failed(AgreementConfig(margin=0.02), with_stable=0.6, with_itself=0.3)
    assert fails.mean() > 0.95
    assert not passes.any()


def test_without_pairs_of_stable_with_itself_a_floor_is_held():
    config = AgreementConfig(floor=0.9)
    fails, _ = failed(config, with_stable=0.1, with_itself=0.0)
    assert fails.sum() <= binomial_band(RUNS, 0.05)[1]
    gate = AgreementGate.start(config).update((0, 0), (100, 40))
    same = CeilingGate.start(CeilingConfig(ceiling=0.1)).update(None, (100, 40))
    assert gate.verdict(0.01) == Verdict.FAIL
    assert gate.evidence == pytest.approx(float(same.evidence))


@pytest.mark.parametrize("config", [AgreementConfig(), AgreementConfig(floor=0.95)])
def test_a_restart_changes_nothing(config: AgreementConfig):
    gate = AgreementGate.start(config).update((10, 1), (100, 9))
    again = AgreementGate.restore(config, gate.memory())
    assert again.memory() == gate.memory()
    assert again.update((9, 1), (70, 9)).memory() == gate.update((9, 1), (70, 9)).memory()


def test_amounts_are_checked():
    with pytest.raises(ValueError, match="floor"):
        AgreementConfig(floor=1.0)
    with pytest.raises(ValueError, match="margin"):
        AgreementConfig(margin=-0.1)
