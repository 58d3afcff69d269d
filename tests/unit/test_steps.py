"""What the steps mean, and what ends or holds them: probes, evidence that does not come, where an edited list is entered."""

from dataclasses import replace

import pytest

from policies import explain, steps, wish
from policies.lanes import Lane
from policies.rollout import Mode, PolicyChanged, Probed, Probing, Restarted, SourceReported, Verb
from policies.spec.policy import (
    AbStep,
    ApproveStep,
    Assignment,
    Hold,
    ProbeRequest,
    ProbeStep,
    PromoteStep,
    ShadowStep,
    SwitchStep,
    Then,
    When,
)
from tests.crowd import begun, serve, several, share
from tests.making import canary, policy, shadow

LONG = Hold(for_s=1e6)
PROBE = ProbeStep(requests=(ProbeRequest(),))


def test_a_step_without_shares_of_its_own_keeps_what_was_reached():
    document = policy(steps=(PROBE, canary(1000), ApproveStep(), shadow(500), PromoteStep()))
    assert [stage.share_bp for stage in steps.stages(document)] == [0, 1000, 1000, 1000, 1000]
    assert [stage.users for stage in steps.stages(document)] == [False, True, True, True, True]


def test_every_stage_names_itself():
    document = several(
        "bc",
        steps=(
            PROBE,
            canary({"b": 500, "c": 1000}),
            AbStep(shares=(("b", 2500),), goal="g", at_most_s=9),
            SwitchStep(arm="b"),
            PromoteStep(),
        ),
    )
    labels = ["probe", "canary b 5%, c 10%", "ab b 25%, c 10%", "switch to b", "promote"]
    assert [stage.label for stage in steps.stages(document)] == labels


def test_copies_to_one_of_several_arms_say_which():
    copies = ShadowStep(shares=(("b", 1000),))
    assert steps.stages(several("bc", steps=(copies,)))[0].label == "shadow b 10%"
    assert steps.stages(several("b", steps=(copies,)))[0].label == "shadow 10%"


def test_a_switch_takes_from_the_other_arms_what_they_had():
    document = several("bc", steps=(canary({"b": 500, "c": 1000}), SwitchStep(arm="b")))
    assert steps.stages(document)[-1].shares == (("b", 10_000), ("c", 0))


@pytest.mark.parametrize(
    ("names", "layer", "reserved"),
    [("b", "", {"b": 10_000}), ("bc", "", {"b": 500, "c": 1000}), ("bc", "ui", {"b": 10_000, "c": 1000})],
)
def test_a_switch_has_a_home_of_its_own_for_the_only_arm_and_in_a_layer(names, layer, reserved):
    """In a layer what is not its own is somebody else's."""
    shares = {"b": 500, "c": 1000} if names == "bc" else {"b": 500}
    assignment = Assignment(sticky_header="x", layer=layer)
    assert dict(steps.reserves(several(names, steps=(canary(shares), SwitchStep(arm="b")), assignment=assignment))) == reserved


# probe


def probing(**changes):
    run = begun(policy(steps=(PROBE, canary(1000, hold=LONG)), **changes))
    assert wish.stage(run.state).kind == "probe"
    return run


def found(run, **probed):
    return run.on(Probed(identity=run.arm.variant.identity, position=run.state.position, probing=Probing(**probed)))


def test_a_probe_sends_no_user_anywhere_and_waits_until_it_is_done():
    run = probing()
    found(run, asked=3, good=3)
    serve(run, 30)
    assert (wish.stage(run.state).kind, share(run)) == ("probe", {"candidate": 0})


def test_a_probe_that_is_good_goes_on():
    run = probing()
    found(run, asked=60, good=60, done=True)
    assert share(run) == {"candidate": 1000}
    assert "all 60 answers good" in explain.sentence(run.records[-1].reason)


@pytest.mark.parametrize(("fail", "mode"), [(Then.REVERT, Mode.REVERTING), (Then.HOLD, Mode.STEP), (Then.FREEZE, Mode.STEP)])
def test_a_probe_that_is_bad_does_what_the_policy_says_and_never_goes_on(fail, mode):
    run = probing(when=When(fail=fail))
    found(run, asked=2, good=1, done=True, words="POST /: status 500")
    run.wait(30)
    assert (run.state.mode, run.state.position, share(run)) == (mode, 0, {"candidate": 0})
    assert "POST /: status 500" in explain.sentence(next(r.reason for r in run.records if r.reason.code == "probe_failed"))


def test_a_probe_that_was_under_way_begins_again_after_a_restart_and_one_that_was_done_does_not():
    run = probing()
    found(run, asked=3, good=3)
    run.on(Restarted())
    assert run.arm.probing == Probing()
    run.state = replace(run.state, arms=(replace(run.arm, probing=Probing(asked=9, good=9, done=True)),))
    run.on(Restarted())
    assert run.arm.probing.done


def test_what_a_probe_of_another_stage_or_version_found_says_nothing():
    run = probing()
    run.on(Probed(identity=run.arm.variant.identity, position=7, probing=Probing(asked=1, good=1, done=True)))
    run.on(Probed(identity="somebody", position=0, probing=Probing(asked=1, good=1, done=True)))
    assert run.arm.probing == Probing()


def test_a_held_probe_is_asked_again_by_retry():
    run = probing(when=When(fail=Then.HOLD))
    found(run, asked=1, good=0, done=True, words="no")
    run.command(Verb.RETRY)
    run.ack()
    found(run, asked=9, good=9, done=True)
    assert share(run) == {"candidate": 1000}


# evidence that does not come


@pytest.mark.parametrize(("then", "mode"), [(Then.REVERT, Mode.REVERTING), (Then.HOLD, Mode.STEP)])
def test_a_source_of_evidence_that_does_not_work_does_what_the_policy_says(then, mode):
    run = begun(policy(steps=(canary(1000, hold=LONG),), when=When(source_error_after_s=20.0, source_error=then)))
    run.on(SourceReported(words="the access log does not connect"))
    run.wait(15)
    assert "source_error" not in run.reasons()
    run.wait(10)
    assert run.state.mode is mode
    assert "the access log does not connect" in explain.sentence(run.records[-1].reason)


def test_a_source_that_works_again_starts_its_time_again():
    run = begun(policy(steps=(canary(1000, hold=LONG),), when=When(source_error_after_s=20.0, source_error=Then.REVERT)))
    for words in ("away", "", "away"):
        run.on(SourceReported(words=words))
        run.wait(15)
    assert run.state.mode is Mode.STEP


# edits


def test_an_edit_of_the_steps_keeps_the_place_by_what_the_stage_is():
    document = several("bc", steps=(canary({"b": 500}, {"b": 1000, "c": 1000}, hold=LONG), PromoteStep(arm="b")))
    run = begun(document)
    run.command(Verb.ADVANCE)
    run.ack()
    edited = (canary({"b": 1000, "c": 1000}, {"b": 2000}, hold=LONG), PromoteStep(arm="b"))
    run.on(PolicyChanged(policy=replace(document, steps=edited)))
    assert (run.state.position, share(run)) == (0, {"b": 1000, "c": 1000})
    assert "step_edited" not in run.reasons()


def test_a_step_put_back_goes_on():
    document = policy(steps=(canary(1000, 2000, hold=LONG), PromoteStep()))
    run = begun(document)
    run.on(PolicyChanged(policy=replace(document, steps=(shadow(500), PromoteStep()))))
    assert run.state.orphan is not None
    run.on(PolicyChanged(policy=document))
    assert (run.state.orphan, run.state.position, share(run)) == (None, 0, {"candidate": 1000})


def test_a_stage_of_another_policy_has_no_room_in_a_narrow_lane():
    """The step was taken out and the rollout moved to a layer with less room than its users need: it gives them back."""
    document = policy(steps=(canary(5000, hold=LONG), PromoteStep()), assignment=Assignment(sticky_header="x", layer="ui"))
    run = begun(document)
    narrow = replace(document, steps=(shadow(500), shadow(600), PromoteStep()))
    run.on(PolicyChanged(policy=narrow, lane=Lane(start_bp=0, width_bp=1000)))
    assert share(run) == {"candidate": 0}
