"""Who wins an `ab`."""

from policies import explain
from policies.rollout import Mode
from policies.spec.policy import AbStep, Hold, PromoteStep
from tests.crowd import GOAL, begun, serve, several
from tests.making import ERRORS

SECOND = Hold(for_s=1.0)


def contest(names="bc", *, at_most_s=60.0, share_bp=3000, hold=SECOND):
    ab = AbStep(shares=tuple((name, share_bp) for name in names), goal="goal", at_most_s=at_most_s, hold=hold)
    return begun(several(names, steps=(ab, PromoteStep()), gates=(ERRORS, GOAL)))


def over(state):
    return state.mode is not Mode.STEP


def test_the_arm_that_reaches_the_goal_wins_and_is_promoted():
    run = contest()
    serve(run, 59, failing={"v1": 0.4, "v3": 0.42}, until=over)
    assert run.state.stable.version == "v2"
    won = next(record for record in run.records if record.decision.value == "won")
    assert "b (v2) wins" in explain.sentence(won.reason)


def test_without_a_difference_stable_has_it_when_the_time_is_over():
    run = contest(at_most_s=20)
    serve(run, 19)
    assert run.state.mode is Mode.STEP
    serve(run, 2)
    assert run.state.mode is Mode.REVERTED
    assert run.state.stable.version == "v1"
    assert "tie" in run.reasons()


def test_of_two_arms_that_are_equally_good_one_wins():
    """Equal within the goal's margin and both better than stable: which one is no matter, waiting would be."""
    run = contest(share_bp=4000)
    serve(run, 59, failing={"v1": 0.5}, until=over)
    assert run.state.stable.version in {"v2", "v3"}
    assert run.decisions().count("won") == 1


def test_an_arm_that_failed_a_guardrail_cannot_win():
    """`b` is better than stable but fails; it is taken out and `c` goes on alone."""
    run = contest(at_most_s=30)
    serve(run, 4, failing={"v2": 1.0})
    assert run.state.arms[0].out is not None
    serve(run, 25, failing={"v1": 0.5}, until=over)
    assert run.state.stable.version == "v3"


def test_nobody_wins_before_the_hold_is_served():
    run = contest(hold=Hold(for_s=30.0), at_most_s=100)
    serve(run, 29, failing={"v1": 0.5})
    assert run.state.winner == ""
    serve(run, 5, failing={"v1": 0.5}, until=over)
    assert run.state.stable.version in {"v2", "v3"}


def test_the_only_arm_of_an_ab_is_held_against_stable_alone():
    run = contest("b")
    serve(run, 59, failing={"v1": 0.5}, until=over)
    assert run.state.stable.version == "v2"


def test_the_best_of_three_wins():
    run = contest("bcd", share_bp=2500, at_most_s=200)
    serve(run, 199, failing={"v1": 0.5, "v2": 0.45, "v3": 0.45}, until=over)
    assert run.state.stable.version == "v4"


def test_an_arm_without_pods_does_not_win():
    run = contest()
    run.ready(0, arm=0)
    serve(run, 20, failing={"v1": 0.5}, until=over)
    assert run.state.stable.version != "v2"
