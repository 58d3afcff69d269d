"""Whether requests are drawn as the shares say."""

import numpy as np
import pytest

from policies.evidence import Counts
from policies.ratio import ALPHA, LEAST, Drawn, drawn, mismatch
from policies.statistics.ratio_gate import log_ratio

IDENTITIES = ("v1", "v2")


def after(*blocks, share_bp=1000):
    state = Drawn()
    for stable, candidate in ((0, 0), *blocks):
        state = drawn(state, (share_bp,), IDENTITIES, {"v1": Counts(requests=stable), "v2": Counts(requests=candidate)})
    return state


def test_the_evidence_of_a_stage_is_that_of_the_reference():
    assert log_ratio((945, 55), (0.9, 0.1)) == pytest.approx(10.8462597, rel=1e-8)
    assert log_ratio((870, 130), (0.9, 0.1)) == pytest.approx(2.909935929, rel=1e-8)
    assert log_ratio((40, 35, 60), (1 / 3, 1 / 3, 1 / 3)) == pytest.approx(1.338279484, rel=1e-8)


def test_an_arm_that_swallows_its_requests_is_seen():
    found = mismatch(after((900, 0), (900, 10)), stages=3)
    assert found is not None
    assert (found.arm, found.due) == (1, 0.1)
    assert found.seen == pytest.approx(10 / 1810)


def test_an_arm_that_gets_too_much_is_seen():
    found = mismatch(after((500, 500)), stages=3)
    assert found is not None
    assert found.arm == 1


def test_a_small_mismatch_is_the_matter_of_late_answers():
    assert mismatch(after((92_000, 8_000)), stages=1) is None
    assert log_ratio((92_000, 8_000), (0.9, 0.1)) > 100


def test_few_requests_and_whole_shares_say_nothing():
    assert mismatch(after((LEAST - 1, 0)), stages=1) is None
    assert mismatch(after((10_000, 0), share_bp=10_000), stages=1) is None
    assert mismatch(Drawn(), stages=1) is None


def test_new_shares_begin_anew():
    state = after((900, 0))
    grown = drawn(state, (5000,), IDENTITIES, {"v1": Counts(requests=500)})
    assert grown == Drawn(shares=(5000, 5000), requests=(0, 0))


def test_an_arm_without_a_share_that_is_seen_is_not_asked_about():
    state = drawn(drawn(Drawn(), (1000, 0), ("v1", "v2", "v3"), {}), (1000, 0), ("v1", "v2", "v3"), {"v1": Counts(requests=9_000)})
    found = mismatch(state, stages=1)
    assert found is not None
    assert found.arm == 1


def test_a_right_ratio_is_hardly_ever_called_wrong():
    chance = np.random.default_rng(3)
    wrong = 0
    for _ in range(2000):
        state = after()
        called = False
        for _ in range(40):
            candidate = int(chance.binomial(20, 0.1))
            state = drawn(state, (1000,), IDENTITIES, {"v1": Counts(requests=20 - candidate), "v2": Counts(requests=candidate)})
            called |= mismatch(state, stages=1) is not None
        wrong += called
    assert wrong <= 2000 * ALPHA + 6
