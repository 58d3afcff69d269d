"""Who gets which arm, told without a proxy: the same places as those sent to the proxies, in every state of a rollout."""

import random
from dataclasses import replace

import pytest

from policies.assign import Answer, Ground, Layout, Place, answer, fits, intervals, placement, planned, segment_of, share_of
from policies.lanes import TOTAL, Lane, pick, slots
from policies.rollout import PolicyRemoved, Verb
from policies.spec.policy import Assignment, Compare, HeaderMatch, PromoteStep, Segment, SwitchStep
from policies.wish import traffic
from tests.making import Run, canary, policy, variant
from xds_server.resources.routes import homes

STICKY = Assignment(sticky_header="x-user-id")
STAFF = Segment(name="staff", when=(HeaderMatch(name="x-staff", value="1"),), variant="candidate")


def two_arms(**changes):
    return policy(
        arms=(variant("b", "v2", 8002), variant("c", "v3", 8003)),
        steps=(canary({"b": 500, "c": 500}, {"b": 2000, "c": 3000}), PromoteStep(arm="c")),
        assignment=STICKY,
        **changes,
    )


def variants(layout, assignment=STICKY):
    return [answer(assignment, layout, number=number, headers={}).variant for number in range(TOTAL)]


def sent(run):
    """What the proxies were told last, looked up."""
    wish = traffic(run.state)
    arms = ("stable", *(arm.variant.name for arm in wish.arms))
    laid_out = slots(homes(wish), wish.lane)
    return [arms[0 if (arm := pick(number, laid_out)) is None else arm + 1] for number in range(TOTAL)]


def test_every_state_of_a_release_is_what_the_proxies_were_told():
    run = Run.of(two_arms())
    run.ack()
    run.ready(arm=0)
    run.ready(arm=1)
    seen = []
    for _ in range(2):
        run.ack()
        assert variants(placement(run.state).now) == sent(run)
        seen.append([share_of(placement(run.state).now, name) for name in ("stable", "b", "c")])
        run.command(Verb.ADVANCE)
    assert seen[1] == [0.5, 0.2, 0.3]


def test_what_is_not_acked_yet_is_not_told():
    run = Run.of(two_arms())
    run.ack()
    run.ready(arm=0)
    run.ready(arm=1)
    assert traffic(run.state).arms[0].share_bp == 500
    assert set(variants(placement(run.state).now)) == {"stable"}
    run.ack()
    assert set(variants(placement(run.state).now)) == {"stable", "b", "c"}


def test_the_steps_to_come_are_those_behind_the_one_of_now():
    run = Run.of(two_arms())
    run.ack()
    run.ready(arm=0)
    run.ready(arm=1)
    run.ack()
    found = placement(run.state)
    assert [(step.step, step.label) for step in found.steps] == [(2, "canary b 20%, c 30%"), (3, "promote")]
    assert set(variants(found.steps[1])) == {"c"}
    run.command(Verb.ABORT)
    assert placement(run.state).steps == ()


def test_a_user_that_has_an_arm_keeps_it_in_every_step_to_come():
    found = planned(two_arms(), step=1)
    for before, after in zip(variants(found.now), variants(found.steps[0]), strict=True):
        assert before in {"stable", after}


def test_an_arm_that_got_everything_by_a_switch_has_every_user():
    document = policy(arms=(variant("b", "v2", 8002), variant("c", "v3", 8003)), steps=(SwitchStep(arm="c"),), assignment=STICKY)
    assert set(variants(planned(document, step=1).now)) == {"c"}


def test_a_rollout_without_room_in_its_layer_gives_stable():
    found = planned(two_arms(), lane=Lane(start_bp=0, width_bp=0), step=1)
    assert set(variants(found.now)) == {"stable"}


def test_an_arm_that_is_stable_itself_is_no_arm():
    assert planned(policy(arms=(variant("candidate", "v1", 8001),)), step=1).now.places == ()


@pytest.mark.parametrize(
    ("places", "assignment", "headers", "wanted"),
    [
        ((), STICKY, {}, Answer(variant="stable", ground=Ground.EVERYBODY)),
        ((Place(name="candidate", share_bp=10_000),), STICKY, {}, Answer(variant="candidate", ground=Ground.EVERYBODY)),
        ((Place(name="candidate", share_bp=10_000),), Assignment(), {}, Answer(variant="candidate", ground=Ground.EVERYBODY)),
        ((Place(name="candidate", share_bp=10),), Assignment(), {}, Answer(variant="stable", ground=Ground.DRAWN)),
        ((Place(name="candidate", share_bp=10),), STICKY, {}, Answer(variant="stable", ground=Ground.SHARE)),
        (
            (Place(name="candidate", pinned=True),),
            Assignment(segments=(STAFF,)),
            {"x-staff": "1"},
            Answer(variant="candidate", ground=Ground.SEGMENT, segment="staff"),
        ),
        (
            (Place(name="candidate", share_bp=10_000, pinned=False),),
            Assignment(segments=(STAFF,)),
            {"x-staff": "1"},
            Answer(variant="stable", ground=Ground.SEGMENT, segment="staff"),
        ),
    ],
)
def test_why_a_user_gets_a_variant(places, assignment, headers, wanted):
    assert answer(assignment, Layout(places=places), number=0, headers=headers) == wanted


@pytest.mark.parametrize(
    ("compare", "value", "good", "bad"),
    [
        (Compare.EXACT, "1", ["1"], ["11", ""]),
        (Compare.PREFIX, "ab", ["ab", "abc"], ["cab"]),
        (Compare.SUFFIX, "ab", ["ab", "cab"], ["abc"]),
        (Compare.CONTAINS, "ab", ["ab", "cabc"], ["a b"]),
        (Compare.PRESENT, "", ["", "x"], [None]),
        (Compare.REGEX, r"\d+|b.*", ["12", "bcd"], ["12b", "٣", "ab"]),
        (Compare.REGEX, "(?i)staff", ["STAFF", "staff"], ["staffs"]),
    ],
)
def test_a_condition_on_a_header_is_the_proxies(compare, value, good, bad):
    wanted = HeaderMatch(name="x", compare=compare, value=value)
    assert [fits(wanted, each) for each in good] == [True] * len(good)
    assert [fits(wanted, each) for each in (*bad, None)] == [False] * (len(bad) + 1)


def test_no_value_of_a_client_makes_an_expression_slow():
    """A backtracking engine would need 2^5000 steps."""
    assert not fits(HeaderMatch(name="x", compare=Compare.REGEX, value="(a+)+b"), "a" * 5000)


def test_the_first_segment_counts_and_all_its_conditions_must_fit():
    both = Segment(name="both", when=(HeaderMatch(name="a", value="1"), HeaderMatch(name="b", value="1")), variant="candidate")
    later = Segment(name="later", when=(HeaderMatch(name="a", value="1"),), variant="candidate")
    assert segment_of((both, later), {"a": "1"}) is later
    assert segment_of((both, later), {"a": "1", "b": "1"}) is both
    assert segment_of((both, later), {}) is None


def test_segments_reach_an_arm_once_the_proxies_have_it():
    run = Run.of(policy(assignment=Assignment(sticky_header="x-user-id", segments=(STAFF,)), steps=(canary(0, 5000), PromoteStep())))
    run.ack()
    run.ready()
    assert not placement(run.state).now.places[0].pinned
    run.ack()
    assert placement(run.state).now.places[0].pinned


def test_after_a_promotion_segments_have_nothing_to_choose():
    staff = Segment(name="staff", when=(HeaderMatch(name="x-staff", value="1"),), variant="b")
    document = two_arms()
    found = planned(replace(document, assignment=replace(STICKY, segments=(staff,))))
    assert answer(STICKY, found.steps[-1], number=0, headers={"x-staff": "1"}) == Answer(variant="c", ground=Ground.EVERYBODY)


def test_a_promotion_of_who_wins_is_not_foretold():
    arms = (variant("b", "v2", 8002), variant("c", "v3", 8003))
    assert [step.label for step in planned(policy(arms=arms, steps=(canary({"b": 500}), PromoteStep()))).steps] == ["canary b 5%"]


def test_any_shares_that_proxies_could_have_can_be_laid_out():
    """Also those of a release whose homes and lane were other ones before an edit."""
    draw = random.Random(7)
    for _ in range(500):
        shares = sorted(draw.randint(0, 10_000) for _ in range(3))
        shares = [shares[0], shares[1] - shares[0], shares[2] - shares[1]]
        places = tuple(Place(name=str(share), share_bp=share, reserve_bp=draw.randint(0, 10_000)) for share in shares)
        layout = Layout(places=places, lane=Lane(start_bp=draw.randint(0, 5000), width_bp=draw.randint(0, 5000)))
        assert sum(slot.weight for slot in intervals(layout)) == TOTAL


def test_a_rollout_that_owns_no_traffic_has_no_placement():
    run = Run.of(policy())
    run.ack()
    run.on(PolicyRemoved())
    assert placement(run.state) is None
