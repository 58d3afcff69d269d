"""Several arms at once: each is judged for itself, and what happens to one does not touch the others."""

from dataclasses import replace

from policies import explain, report, verdicts, wish
from policies.lanes import Home, misfit
from policies.rollout import Mode, PolicyChanged, Verb
from policies.spec.policy import Hold, PromoteStep, Role, ShadowStep, Then, When
from tests.crowd import ARMS, GOAL, begun, serve, several, share
from tests.making import ERRORS, canary, counts, variant

LONG = Hold(for_s=1e6)


def test_a_failing_arm_is_taken_out_and_the_shares_of_the_others_stay():
    run = begun(several("bcd", 1000, hold=LONG))
    serve(run, 5, failing={"v3": 1.0})
    assert share(run) == {"b": 1000, "c": 0, "d": 1000}
    assert run.state.mode is Mode.STEP
    assert run.decisions().count("dropped") == 1
    dropped = next(record for record in run.records if record.decision.value == "dropped")
    assert "c (v3) is taken out, its users go to v1" in explain.sentence(dropped.reason)


def test_the_last_arm_that_fails_reverts():
    run = begun(several("bc", 1000, hold=LONG))
    serve(run, 5, failing={"v3": 1.0})
    serve(run, 5, failing={"v2": 1.0})
    assert run.state.mode is Mode.REVERTED
    assert share(run) == {"b": 0, "c": 0}
    assert set(run.state.rejected) == {arm.identity for arm in ARMS[:2]}


def test_arms_that_all_fail_in_one_block_are_dropped_but_for_the_last_that_reverts():
    run = begun(several("bc", steps=(canary({"b": 1000, "c": 1000}, hold=LONG),)))
    serve(run, 5, failing={"v2": 1.0, "v3": 1.0}, until=lambda state: state.mode is Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED
    assert (run.decisions().count("dropped"), run.decisions().count("reverted")) == (1, 1)


def test_an_arm_that_is_out_comes_back_with_a_new_release_only():
    document = several("bc", 1000, hold=LONG)
    run = begun(document)
    serve(run, 5, failing={"v3": 1.0})
    serve(run, 30)
    assert share(run)["c"] == 0
    run.on(PolicyChanged(policy=replace(document, arms=(ARMS[0], variant("c", "v9", 8009)))))
    assert run.state.generation == 2
    assert all(arm.out is None for arm in run.state.arms)


def test_the_error_budget_is_split_over_the_arms():
    one, two = begun(several("b", steps=(canary({"b": 1000}), PromoteStep()))), begun(several("bc"))
    serve(one, 0.1)
    serve(two, 0.1)
    needed = [verdicts.readings(run.state, run.arm, now=run.now)[0].needed for run in (one, two)]
    assert needed[1] == 2 * needed[0]


def test_a_stage_waits_for_every_arm_that_has_a_share():
    run = begun(several("bc", 1000, hold=Hold(for_s=1, samples=50)))
    for _ in range(100):
        run.now += 0.1
        run.evidence(counts(9), counts(4))
    seen = tuple((arm, verdicts.readings(run.state, arm, now=run.now)) for arm in run.state.running)
    assert run.state.mode is Mode.STEP
    assert {item.variant for item in verdicts.waiting_for(run.state, seen)} == {"c"}


def test_the_arm_that_promote_names_becomes_stable_and_the_others_leave():
    run = begun(several("bc", 1000))
    serve(run, 60, until=lambda state: state.mode is Mode.PROMOTED)
    assert (run.state.mode, run.state.stable.version) == (Mode.PROMOTED, "v2")
    assert run.state.stable.name == "stable"
    assert wish.traffic(run.state).arms == ()


def test_steps_that_end_with_several_arms_and_no_word_which_hold():
    run = begun(several("bc", 1000, steps=(canary({"b": 1000, "c": 1000}), PromoteStep())))
    serve(run, 60)
    assert run.state.mode is Mode.STEP
    assert "say which" in report.report(run.state, now=run.now, held=True)["because"]
    assert run.command(Verb.PROMOTE).because.code == "refused.which_arm"
    run.command(Verb.PROMOTE, to="c")
    assert run.state.stable.version == "v3"


def test_the_arm_that_is_promoted_needs_every_gate_although_it_had_no_share():
    """`b` is named by `promote` and never had a user: there is no evidence, so nothing promotes it."""
    run = begun(several("bc", steps=(canary({"c": 1000}), PromoteStep(arm="b"))))
    serve(run, 60)
    assert run.state.mode is Mode.STEP
    assert run.state.stable.version == "v1"


def test_only_the_arm_that_is_promoted_must_reach_the_goal():
    run = begun(several("bc", 1000, gates=(ERRORS, GOAL)))
    serve(run, 60, failing={"v1": 0.4, "v3": 0.4}, until=lambda state: state.mode is Mode.PROMOTED)
    assert run.state.stable.version == "v2"


def test_a_goal_that_is_not_reached_keeps_a_healthy_arm_from_promotion():
    run = begun(several("b", steps=(canary({"b": 1000}), PromoteStep()), gates=(ERRORS, GOAL)))
    serve(run, 60)
    assert run.state.mode is Mode.STEP
    assert run.state.because.code == "goal_open"
    serve(run, 120, failing={"v1": 0.4}, until=lambda state: state.mode is not Mode.STEP)
    assert run.state.stable.version == "v2"


def test_a_goal_is_asked_before_a_promotion_out_of_the_shadow_too():
    """A `shadow` gives it no user, so the goal cannot have been reached."""
    run = begun(several("b", steps=(ShadowStep(shares=(("b", 5000),)), PromoteStep()), gates=(ERRORS, GOAL)))
    serve(run, 60)
    assert run.state.mode is Mode.STEP
    assert run.state.stable.version == "v1"


def test_a_guardrail_that_fails_holds_where_the_policy_says_so_and_is_recorded_once():
    run = begun(several("bc", 1000, hold=LONG, when=When(fail=Then.HOLD)))
    serve(run, 10, failing={"v3": 1.0})
    assert (run.state.mode, run.state.holding) == (Mode.STEP, True)
    assert share(run) == {"b": 1000, "c": 1000}
    assert run.decisions().count("held") == 1
    assert "resumed" not in run.decisions()


def test_an_arm_without_pods_is_taken_out_and_the_others_go_on():
    run = begun(several("bc", 1000, hold=LONG))
    run.ready(0, arm=1)
    serve(run, 11)
    assert run.state.arms[1].out.code == "pods_gone"
    assert share(run) == {"b": 1000, "c": 0}


def test_shares_of_a_later_stage_are_by_arm_and_an_arm_not_named_keeps_its_own():
    run = begun(several("bc", steps=(canary({"b": 1000, "c": 500}, {"b": 2000}), canary({"c": 4000}), PromoteStep(arm="b"))))
    seen = [share(run)]
    serve(run, 60, until=lambda state: state.mode is Mode.PROMOTED)
    seen += [dict(record.shares) for record in run.records if record.decision.value == "advanced"]
    assert seen == [{"b": 1000, "c": 500}, {"b": 2000, "c": 500}, {"b": 2000, "c": 4000}]


def test_an_edit_that_adds_or_removes_an_arm_starts_the_release_again_at_zero():
    document = several("bc", 1000, hold=LONG)
    run = begun(document)
    serve(run, 2)
    three = several("bcd", 1000, hold=LONG)
    run.on(PolicyChanged(policy=three))
    assert (run.state.generation, share(run)) == (2, {"b": 0, "c": 0, "d": 0})
    serve(run, 2)
    assert share(run) == {"b": 1000, "c": 1000, "d": 1000}
    run.on(PolicyChanged(policy=replace(three, arms=ARMS[:1], steps=(canary({"b": 1000}, hold=LONG), PromoteStep()))))
    assert (run.state.generation, share(run)) == (3, {"b": 0})
    assert {variant.version for variant in wish.traffic(run.state).kept} == {"v3", "v4"}


def test_an_edited_step_changes_the_share_of_the_arm_it_names_and_no_other():
    document = several("bc", 1000, hold=LONG)
    run = begun(document)
    serve(run, 2)
    run.on(PolicyChanged(policy=replace(document, steps=(canary({"b": 1000, "c": 3000}, hold=LONG), PromoteStep(arm="b")))))
    assert share(run) == {"b": 1000, "c": 3000}
    assert (run.state.generation, run.state.held_s) == (1, 0)


def test_an_arm_that_equals_stable_is_no_arm():
    run = begun(several("bc", stable=replace(ARMS[0], name="stable")))
    assert share(run) == {"c": 1000}


def test_arms_of_a_step_taken_out_of_the_policy_still_fit():
    """The share it has is more than any step of the edited policy gives it: it is laid out all the same."""
    document = several("bc", 4000, hold=LONG)
    run = begun(document)
    run.on(PolicyChanged(policy=replace(document, steps=(PromoteStep(arm="b"),))))
    wanted = wish.traffic(run.state)
    assert share(run) == {"b": 4000, "c": 4000}
    assert misfit([Home(share_bp=arm.share_bp, reserve_bp=arm.reserve_bp) for arm in wanted.arms], wanted.lane) == ""


def test_a_signal_of_one_arm_holds_all():
    run = begun(several("bc", 1000, gates=(ERRORS, replace(ERRORS, name="signal", role=Role.SIGNAL)), when=When(fail=Then.HOLD)))
    serve(run, 10, failing={"v3": 1.0})
    assert run.state.mode is Mode.STEP
    assert run.state.position == 0


def test_arms_that_fall_silent_together_are_taken_out_together():
    """One event is enough: what is known is acted on at once, not an arm at a time."""
    steps = (canary({"b": 1000, "c": 1000, "d": 1000}, hold=LONG),)
    run = begun(several("bcd", steps=steps, when=When(no_data=Then.REVERT, no_data_after_s=5.0)))
    run.wait(4.5)
    assert run.state.mode is Mode.STEP
    run.wait(0.5)
    assert run.state.mode is Mode.REVERTING
    assert run.decisions()[-3:] == ["dropped", "dropped", "reverted"]
