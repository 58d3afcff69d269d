"""Weights are exact for every share of two decimals, order-independent, and walked as Envoy walks them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.spec.policy import FULL_BP, STABLE
from policies.weights import TOTAL, pick, weights

SHARES = st.lists(st.integers(0, FULL_BP), min_size=1, max_size=5).filter(lambda shares: sum(shares) <= FULL_BP)


def test_every_share_of_two_decimals_has_its_own_weight_within_half_a_unit():
    seen = [weights({"candidate": share})["candidate"] for share in range(FULL_BP + 1)]
    assert seen[0] == 0
    assert seen[-1] == TOTAL
    assert all(after > before for before, after in zip(seen, seen[1:], strict=False))
    assert all(abs(weight - share * TOTAL / FULL_BP) <= 0.5 for share, weight in enumerate(seen))


@given(SHARES)
def test_weights_sum_to_the_total_and_zero_stays_zero(shares):
    arms = {f"arm{index}": share for index, share in enumerate(shares)}
    result = weights(arms)
    assert sum(result.values()) == TOTAL
    assert list(result) == [STABLE, *arms]
    assert all((result[name] == 0) == (share == 0) for name, share in arms.items())
    assert (result[STABLE] == 0) == (sum(shares) == FULL_BP)


@given(SHARES, st.randoms(use_true_random=False))
def test_weights_do_not_depend_on_the_order_of_arms(shares, random):
    arms = [(f"arm{index}", share) for index, share in enumerate(shares)]
    shuffled = arms.copy()
    random.shuffle(shuffled)
    assert weights(dict(arms)) == weights(dict(shuffled))


@given(st.integers(0, 2**64 - 1), st.integers(0, FULL_BP - 1), st.integers(1, FULL_BP))
def test_while_a_share_grows_users_only_move_from_stable_to_the_candidate(number, before, growth):
    after = min(FULL_BP, before + growth)
    if pick(number, weights({"candidate": before})) == "candidate":
        assert pick(number, weights({"candidate": after})) == "candidate"


@given(st.integers(0, 2**64 - 1), SHARES)
def test_pick_is_the_interval_that_holds_the_number(number, shares):
    lanes = weights({f"arm{index}": share for index, share in enumerate(shares)})
    walked = [name for name, weight in lanes.items() for _ in range(weight)]
    assert pick(number, lanes) == walked[number % TOTAL]


@pytest.mark.parametrize("bad", [{"a": -1}, {"a": 10_001}, {"a": 6000, "b": 4001}, {"stable": 5000}])
def test_shares_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="share"):
        weights(bad)
