"""The lanes against a naive oracle: an array of all 10 007 users, into which every arm moves step by step."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.lanes import TOTAL, WHOLE, Home, Lane, Slot, allocate, misfit, order, pick, slots, weight
from policies.spec.policy import FULL_BP


@st.composite
def layouts(draw, arms_max=8):
    """(reserves, lane): 1 to 8 arms that fit."""
    start_bp = draw(st.sampled_from((0, 0, 1, 2500)) | st.integers(0, FULL_BP - 100))
    lane = Lane(start_bp=start_bp, width_bp=draw(st.just(FULL_BP - start_bp) | st.integers(50, FULL_BP - start_bp)))
    arms = draw(st.integers(1, arms_max))
    cuts = sorted(draw(st.lists(st.integers(0, lane.width_bp), min_size=arms, max_size=arms)))
    return [after - before for before, after in zip((0, *cuts), cuts, strict=False)], lane


def laid_out(shares, reserves, lane=WHOLE):
    return slots([Home(share_bp=share, reserve_bp=reserve) for share, reserve in zip(shares, reserves, strict=True)], lane)


def users(shares, reserves, lane=WHOLE):
    """What everybody has, by place."""
    return [slot.arm for slot in laid_out(shares, reserves, lane) for _ in range(slot.weight)]


def oracle(shares, reserves, lane):
    """The same by cutting homes out of the lane one after the other and filling each from its own end."""
    crowd = [None] * TOTAL
    rest = list(range(weight(lane.start_bp), weight(lane.end_bp)))
    edges, at = [], lane.start_bp
    slack = lane.width_bp - sum(reserves)
    pairs = [range(first, min(first + 2, len(reserves))) for first in range(0, len(reserves), 2)]
    for pair in pairs:
        width = sum(reserves[arm] for arm in pair) + (slack if pair is pairs[0] else 0)
        edges.append((weight(at), weight(at + width)))
        at += width
    assert [edge for pair in edges for edge in pair][-1] == weight(lane.end_bp)
    for pair, (begin, end) in zip(pairs, edges, strict=True):
        home = [place for place in rest if begin <= place < end]
        for arm in pair:
            grows_right = arm % 2 == 0 and len(pair) == 2
            for place in (home if grows_right else home[::-1])[: weight(shares[arm])]:
                assert crowd[place] is None, "nobody is in two arms"
                crowd[place] = arm
    return crowd


@settings(deadline=None)
@given(layouts(), st.data())
def test_users_only_move_from_stable_to_an_arm_while_shares_grow_in_any_order(layout, data):
    reserves, lane = layout
    shares = [0] * len(reserves)
    before = users(shares, reserves, lane)
    assert before == [None] * TOTAL
    for arm in data.draw(st.lists(st.integers(0, len(reserves) - 1), min_size=1, max_size=6)):
        shares[arm] = data.draw(st.integers(shares[arm], reserves[arm]))
        now = users(shares, reserves, lane)
        assert now == oracle(shares, reserves, lane)
        assert all(was is None or was == has for was, has in zip(before, now, strict=True))
        before = now
    gone = data.draw(st.integers(0, len(reserves) - 1))
    without = users([0 if arm == gone else share for arm, share in enumerate(shares)], reserves, lane)
    assert without == [None if has == gone else has for has in before], "a dropped arm's users go to stable, all others stay"


@settings(deadline=None)
@given(layouts(), st.data())
def test_shares_are_exact_and_nobody_outside_the_lane_has_an_arm(layout, data):
    reserves, lane = layout
    shares = [data.draw(st.integers(0, reserve)) for reserve in reserves]
    crowd = users(shares, reserves, lane)
    assert len(crowd) == TOTAL
    assert [crowd.count(arm) for arm in range(len(shares))] == [weight(share) for share in shares]
    outside = crowd[: weight(lane.start_bp)] + crowd[weight(lane.end_bp) :]
    assert set(outside) <= {None}


@given(layouts(), st.data())
def test_which_slots_there_are_does_not_depend_on_shares_and_reserves(layout, data):
    reserves, lane = layout
    shares = [data.draw(st.integers(0, reserve)) for reserve in reserves]
    found = tuple(slot.arm for slot in laid_out(shares, reserves, lane))
    assert found == order(len(reserves), lane)
    assert all(one is not None or other is not None for one, other in zip(found, found[1:], strict=False)), "stable's neighbours are one"
    assert sorted(arm for arm in found if arm is not None) == list(range(len(reserves)))


@given(layouts(), st.integers(0, 2**64 - 1), st.data())
def test_pick_is_the_interval_that_holds_the_number(layout, number, data):
    reserves, lane = layout
    shares = [data.draw(st.integers(0, reserve)) for reserve in reserves]
    assert pick(number, laid_out(shares, reserves, lane)) == users(shares, reserves, lane)[number % TOTAL]


def test_every_share_of_two_decimals_has_its_own_weight_within_one_unit():
    seen = [weight(share) for share in range(FULL_BP + 1)]
    assert seen[0] == 0
    assert seen[-1] == TOTAL
    assert all(after > before for before, after in zip(seen, seen[1:], strict=False))
    assert all(0 <= share * TOTAL / FULL_BP - each < 1 for share, each in enumerate(seen))


def test_layouts_as_they_are_drawn():
    half = [5000]
    assert laid_out([100], [FULL_BP]) == (Slot(None, 9907), Slot(0, 100))
    assert [slot.arm for slot in laid_out([0, 0], half * 2)] == [0, None, 1]
    assert [slot.arm for slot in laid_out([0] * 3, [3000] * 3)] == [0, None, 1, None, 2]
    assert [slot.arm for slot in laid_out([0], half, Lane(start_bp=5000, width_bp=5000))] == [None, 0]
    assert [slot.arm for slot in laid_out([0, 0], [100] * 2, Lane(start_bp=5000, width_bp=500))] == [None, 0, None, 1, None]
    assert laid_out([], []) == laid_out([], [], Lane(start_bp=10, width_bp=20)) == (Slot(None, TOTAL),)


@pytest.mark.parametrize(
    ("homes", "lane", "words"),
    [
        ([(-1, 10)], WHOLE, "within its reserve"),
        ([(11, 10)], WHOLE, "within its reserve"),
        ([(0, 6000), (0, 4001)], WHOLE, "do not fit"),
        ([(0, 101)], Lane(start_bp=0, width_bp=100), "do not fit"),
        ([], Lane(start_bp=1, width_bp=FULL_BP), "do not fit"),
        ([], Lane(start_bp=-1, width_bp=10), "do not fit"),
    ],
)
def test_what_cannot_be_is_refused(homes, lane, words):
    wrong = [Home(share_bp=share, reserve_bp=reserve) for share, reserve in homes]
    assert words in misfit(wrong, lane)
    with pytest.raises(ValueError, match=words):
        slots(wrong, lane)


NAMES = st.sampled_from(("a", "b", "c", "d", "e"))


@given(st.lists(st.dictionaries(NAMES, st.integers(0, FULL_BP), max_size=5), min_size=1, max_size=6))
def test_lanes_of_a_layer_never_overlap_and_who_has_one_keeps_it(rounds):
    held = {}
    for wanted in rounds:
        given_ = allocate(wanted, held)
        crowd = [name for name, lane in given_.items() for _ in range(lane.width_bp)]
        covered = sorted(place for lane in given_.values() for place in range(lane.start_bp, lane.end_bp))
        assert len(covered) == len(set(covered)) == len(crowd)
        assert all(0 <= lane.start_bp <= lane.end_bp <= FULL_BP and lane.width_bp >= wanted[name] for name, lane in given_.items())
        assert all(given_[name] == lane for name, lane in held.items() if name in wanted and wanted[name] <= lane.width_bp)
        for name in wanted.keys() - given_.keys():
            free = _gaps(given_)
            assert all(gap < wanted[name] for gap in free), "left out only if there is no gap"
        held = given_


def _gaps(lanes):
    taken = {place for lane in lanes.values() for place in range(lane.start_bp, lane.end_bp)}
    gaps, run = [], 0
    for place in range(FULL_BP + 1):
        if place < FULL_BP and place not in taken:
            run += 1
        else:
            gaps.append(run)
            run = 0
    return gaps
