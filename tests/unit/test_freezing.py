"""Frozen: a freeze that a person lifts stays lifted, and frozen time uses up no deadline."""

from dataclasses import replace

import pytest

from policies.rollout import Mode, SourceReported, Ticked, Verb, WindowChanged
from policies.spec.policy import AbStep, ApproveStep, Hold, PromoteStep, Then, When
from tests.crowd import GOAL, begun, serve, several, share
from tests.making import ERRORS, HOLD, canary, counts, policy

LONG = Hold(for_s=1e6)
FREEZING = When(fail=Then.FREEZE, stuck_after_s=1e6)


def without_pods():
    """A run that the policy froze because its arm lost all its pods."""
    run = begun(policy(steps=(canary(1000, 5000, hold=HOLD), PromoteStep()), when=FREEZING))
    run.ready(ready=0)
    run.wait(15)
    assert [each.source for each in run.state.freezes] == ["gate"]
    return run


def test_a_person_lifts_what_a_failure_froze_and_it_only_holds_while_the_failure_lasts():
    run = without_pods()
    run.command(Verb.UNFREEZE, actor="ann")
    run.wait(60)
    assert run.state.freezes == ()
    assert (run.state.mode, run.state.holding) == (Mode.STEP, True)
    assert run.decisions().count("frozen") == 1


def test_a_failure_that_was_over_freezes_again_when_it_comes_back():
    run = without_pods()
    run.command(Verb.UNFREEZE)
    run.wait(5)
    run.ready(ready=1)
    run.wait(15)
    run.ready(ready=0)
    run.wait(15)
    assert [each.source for each in run.state.freezes] == ["gate"]
    assert run.decisions().count("frozen") == 2


def test_a_frozen_arm_that_fails_does_not_grow_by_itself_nor_after_a_person_unfroze_it():
    run = begun(policy(steps=(canary(1000, 5000, hold=HOLD), PromoteStep()), when=FREEZING))
    serve(run, 20, failing={"v2": 1.0})
    assert [each.source for each in run.state.freezes] == ["gate"]
    assert share(run) == {"candidate": 1000}
    run.command(Verb.UNFREEZE)
    serve(run, 60, failing={"v2": 1.0})
    assert share(run) == {"candidate": 1000}
    assert (run.state.freezes, run.state.holding) == ((), True)


def frozen(run, seconds):
    """A window of that length, in which nobody sends a request."""
    run.on(WindowChanged(words="the weekend"))
    if not run.state.delivery.complete:
        run.ack()
    run.wait(seconds)
    assert run.state.mode is Mode.STEP
    run.on(WindowChanged(words=""))
    if not run.state.delivery.complete:
        run.ack()


def test_a_window_does_not_use_up_the_time_after_which_a_stage_is_stuck():
    run = begun(policy(steps=(canary(1000, hold=LONG), PromoteStep()), when=When(stuck_after_s=100)))
    run.wait(60)
    frozen(run, 1000)
    run.wait(35)
    assert run.state.mode is Mode.STEP
    run.wait(10)
    assert run.records[-1].reason.code == "stuck"


def test_a_window_does_not_use_up_the_time_to_approve():
    steps = (ApproveStep(who="ann", within_s=100.0), canary(1000, hold=HOLD), PromoteStep())
    run = begun(policy(steps=steps))
    run.wait(60)
    frozen(run, 1000)
    run.wait(35)
    assert run.state.mode is Mode.STEP
    run.wait(10)
    assert run.records[-1].reason.code == "not_approved"


def test_a_window_does_not_use_up_the_time_of_an_ab():
    steps = (AbStep(shares=(("b", 1000), ("c", 1000)), goal="goal", at_most_s=100.0, hold=LONG), PromoteStep())
    run = begun(several(steps=steps, gates=(ERRORS, GOAL)))
    run.wait(60)
    frozen(run, 1000)
    run.wait(35)
    assert run.state.mode is Mode.STEP
    run.wait(10)
    assert run.records[-1].reason.code == "tie"


def reverted_by(run):
    return [record.reason.code for record in run.records if record.decision.value == "reverted"]


SILENT = When(no_data_after_s=20, no_data=Then.HOLD, stuck_after_s=100)
SOURCE = When(source_error_after_s=20, source_error=Then.HOLD, stuck_after_s=100)
FAILING = When(fail=Then.HOLD, stuck_after_s=100)


def hindered(run, when):
    """140 s in which something that only holds goes on: silence, a source that does not work, or a failure."""
    if when is SOURCE:
        run.on(SourceReported(words="connection refused"))
    for _ in range(280):
        run.now += 0.5
        if when is not SILENT:
            run.evidence(counts(9), counts(4, 4 if when is FAILING else 0))
        run.on(Ticked())


@pytest.mark.parametrize("when", [SILENT, SOURCE, FAILING])
def test_what_only_holds_does_not_put_off_the_time_after_which_a_stage_is_stuck(when):
    run = begun(policy(steps=(canary(1000, hold=LONG), PromoteStep()), when=when))
    hindered(run, when)
    assert "held" in run.decisions()
    assert reverted_by(run) == ["stuck"]


@pytest.mark.parametrize("when", [SILENT, SOURCE, FAILING])
def test_what_only_holds_does_not_put_off_the_time_to_approve(when):
    steps = (canary(1000, hold=Hold(for_s=1.0)), ApproveStep(who="ann", within_s=100.0), PromoteStep())
    run = begun(policy(steps=steps, when=replace(when, stuck_after_s=1e6)))
    run.command(Verb.ADVANCE)
    run.ack()
    hindered(run, when)
    assert "held" in run.decisions()
    assert reverted_by(run) == ["not_approved"]
