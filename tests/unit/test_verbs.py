"""What each verb does, and where it means nothing."""

from dataclasses import replace

import pytest

from policies import explain, wish
from policies.lanes import Lane
from policies.rollout import Mode, PolicyChanged, PolicyRemoved, Verb, WindowChanged
from policies.spec.policy import ApproveStep, Assignment, Hold, PromoteStep, Segment, Then, When
from tests.crowd import GOAL, begun, serve, share
from tests.making import ERRORS, Run, canary, policy, shadow, variant

LONG = Hold(for_s=1e6)
TWO = (canary(1000, 5000, hold=LONG), PromoteStep(keep_stable_for_s=5.0))


def promoted(**changes):
    """A run that has promoted v2 and lets v1 go."""
    run = begun(policy(steps=(canary(1000), PromoteStep(keep_stable_for_s=0.5)), **changes))
    serve(run, 60, until=lambda state: state.mode is Mode.PROMOTED)
    assert run.state.stable.version == "v2"
    return run


def baking():
    run = begun(policy(steps=(canary(1000), PromoteStep(keep_stable_for_s=60))))
    serve(run, 60, until=lambda state: state.mode is Mode.BAKING)
    assert run.state.mode is Mode.BAKING
    return run


# rollback


def test_a_rollback_while_the_old_version_is_warm_goes_back_by_one_change():
    run = baking()
    run.command(Verb.ROLLBACK, actor="ann")
    wanted = wish.traffic(run.state)
    assert (wanted.stable.version, run.state.mode) == ("v1", Mode.REVERTING)
    run.ack()
    assert run.state.mode is Mode.REVERTED


def test_a_rollback_to_an_older_version_delivers_it_first_and_then_it_serves():
    run = promoted()
    run.command(Verb.ROLLBACK)
    wanted = wish.traffic(run.state)
    assert (wanted.stable.version, [kept.version for kept in wanted.kept]) == ("v2", ["v1"])
    run.ack(selected=2, acked=1)
    assert run.state.stable.version == "v2"
    run.ack(selected=2)
    wanted = wish.traffic(run.state)
    assert (wanted.stable.version, [kept.version for kept in wanted.kept]) == ("v1", ["v2"])
    assert "rolled_back" in run.reasons()


def test_the_document_does_not_undo_a_rollback_until_its_stable_is_edited():
    run = promoted()
    run.command(Verb.ROLLBACK)
    run.ack()
    document = run.state.policy
    for edited in (replace(document, labels=(("a", "b"),)), replace(document, arms=()), document):
        run.on(PolicyChanged(policy=edited))
        run.ack()
        assert (run.state.mode, run.state.stable.version) == (Mode.IDLE, "v1")
    run.on(PolicyChanged(policy=replace(document, stable=variant("stable", "v7", 8007))))
    run.ack()
    assert run.state.stable.version == "v7"


def test_a_version_that_was_never_stable_is_refused_with_those_that_were():
    run = promoted()
    refused = run.command(Verb.ROLLBACK, to="v9")
    assert refused.refused
    assert explain.sentence(refused.because) == "there is no earlier version 'v9': known are v1"
    assert run.command(Verb.ROLLBACK, to="v2").because.code == "refused.already_there"
    assert "no earlier version to go back to" in explain.sentence(Run.of(policy(arms=())).command(Verb.ROLLBACK).because)


def test_a_rollback_of_a_release_that_runs_is_an_abort():
    run = begun(policy(steps=TWO))
    run.command(Verb.ROLLBACK, to="v1")
    assert run.state.mode is Mode.REVERTING


def test_a_rollback_asked_again_before_it_is_delivered_changes_nothing():
    run = promoted()
    run.command(Verb.ROLLBACK)
    again = run.command(Verb.ROLLBACK, to="v1")
    assert (again.effects, again.refused) == ((), False)


def test_a_rollback_is_not_stopped_by_a_freeze():
    run = promoted()
    run.command(Verb.FREEZE)
    run.command(Verb.ROLLBACK)
    run.ack()
    assert run.state.stable.version == "v1"


@pytest.mark.parametrize("verb", list(Verb))
def test_a_rollout_without_its_document_is_brought_back_by_no_verb(verb):
    run = promoted()
    run.on(PolicyRemoved())
    run.command(verb)
    assert wish.traffic(run.state) is None


# approve


def approving(**step):
    return begun(policy(steps=(canary(1000, hold=Hold(samples=5)), ApproveStep(who="ops", **step), canary(5000, hold=LONG))))


def waiting():
    run = approving()
    serve(run, 30, until=lambda state: wish.stage(state).kind == "approve")
    run.ack()
    return run


def test_an_approval_is_waited_for_with_the_share_that_was_reached():
    run = waiting()
    serve(run, 30)
    assert (wish.stage(run.state).kind, share(run)) == ("approve", {"candidate": 1000})


def test_approved_goes_on_and_says_by_whom():
    run = waiting()
    run.command(Verb.APPROVE, actor="ann", reason="looks good")
    assert share(run) == {"candidate": 5000}
    assert "approved by ann: looks good" in [explain.sentence(record.reason) for record in run.records]
    assert run.command(Verb.APPROVE).because.code == "refused.approve"


@pytest.mark.parametrize(
    ("then", "mode", "frozen"), [(Then.REVERT, Mode.REVERTED, 0), (Then.HOLD, Mode.STEP, 0), (Then.FREEZE, Mode.STEP, 1)]
)
def test_silence_does_what_the_step_says(then, mode, frozen):
    run = approving(within_s=10.0, then=then)
    serve(run, 30)
    assert (run.state.mode, len(run.state.freezes)) == (mode, frozen)
    assert "not_approved" in run.reasons()
    assert run.reasons().count("not_approved") == 1


def test_a_guardrail_reverts_while_an_approval_is_waited_for():
    run = waiting()
    serve(run, 10, failing={"v2": 1.0})
    assert run.state.mode is Mode.REVERTED


def test_an_approval_cannot_be_skipped_by_advance():
    run = waiting()
    assert run.command(Verb.ADVANCE).because.code == "refused.needs_approval"


# start, retry, advance, pause


def test_start_begins_a_reverted_release_again():
    run = begun(policy(steps=TWO))
    run.command(Verb.ABORT)
    run.ack()
    run.command(Verb.START, actor="ann")
    assert (run.state.mode, run.state.generation) == (Mode.WARMING, 2)
    assert run.state.rejected == ()


@pytest.mark.parametrize("verb", [Verb.START, Verb.RETRY])
def test_there_is_nothing_to_start_without_another_version_or_behind_a_running_release(verb):
    assert Run.of(policy(arms=())).command(verb).refused
    assert Run.of(policy()).command(verb).refused


def test_retry_begins_a_stage_anew():
    run = begun(policy(steps=TWO))
    serve(run, 5)
    run.command(Verb.RETRY)
    assert (run.state.held_s, run.arm.samples, run.state.position) == (0.0, 0, 0)


def test_retry_does_not_get_round_a_freeze_of_a_gate():
    run = begun(policy(steps=TWO, when=When(fail=Then.FREEZE)))
    serve(run, 5, failing={"v2": 1.0})
    assert run.command(Verb.RETRY).because.code == "refused.frozen"


def test_advance_ends_a_stage_before_its_time():
    run = begun(policy(steps=TWO))
    run.command(Verb.ADVANCE, actor="ann")
    assert (run.state.position, share(run)) == (1, {"candidate": 5000})


def test_advance_is_refused_where_the_stage_is_not_delivered_or_there_is_none():
    run = begun(policy(steps=TWO))
    run.command(Verb.ADVANCE)
    assert run.command(Verb.ADVANCE).because.code == "refused.not_delivered"
    assert Run.of(policy()).command(Verb.ADVANCE).because.code == "refused.advance"


def test_advance_is_refused_where_a_pod_is_missing():
    run = begun(policy(steps=TWO))
    run.ready(0)
    run.ack()
    assert run.command(Verb.ADVANCE).because.code == "refused.not_delivered"


def test_promote_is_refused_before_a_pod_is_ready():
    run = Run.of(policy())
    assert run.command(Verb.PROMOTE).refused
    run.ack()
    assert run.command(Verb.PROMOTE).refused


def test_the_same_key_acts_once_also_if_it_is_said_much_later():
    run = begun(policy(steps=TWO))
    run.command(Verb.ADVANCE, key="k")
    run.ack()
    serve(run, 1)
    run.command(Verb.RETRY, key="other")
    run.ack()
    assert run.command(Verb.ADVANCE, key="k").effects == ()
    assert run.state.position == 1


# freeze


def test_while_frozen_by_hand_nothing_advances_and_it_goes_on_when_it_is_lifted():
    run = begun(policy(steps=(canary(1000, 5000), PromoteStep())))
    run.command(Verb.FREEZE, actor="ann", reason="launch day")
    serve(run, 60)
    assert share(run) == {"candidate": 1000}
    assert run.state.freezes[0].words == "frozen by ann: launch day"
    run.command(Verb.UNFREEZE)
    serve(run, 60, until=lambda state: state.mode is Mode.PROMOTED)
    assert run.state.stable.version == "v2"


@pytest.mark.parametrize("how", ["abort", "gate"])
def test_while_frozen_reverts_go_out_as_ever(how):
    run = begun(policy(steps=TWO))
    run.on(WindowChanged(words="the weekend"))
    if how == "abort":
        run.command(Verb.ABORT)
    serve(run, 10, failing={"v2": 1.0})
    assert run.state.mode is Mode.REVERTED


def test_an_edit_that_raises_the_share_of_the_stage_waits_for_the_end_of_a_window():
    document = policy(steps=TWO)
    run = begun(document)
    run.on(WindowChanged(words="the weekend"))
    run.on(PolicyChanged(policy=replace(document, steps=(canary(3000, 5000, hold=LONG), PromoteStep()))))
    assert share(run) == {"candidate": 1000}
    run.on(WindowChanged(words=""))
    assert share(run) == {"candidate": 3000}


def test_an_edit_that_lowers_the_share_applies_at_once():
    document = policy(steps=TWO)
    run = begun(document)
    run.on(WindowChanged(words="the weekend"))
    run.on(PolicyChanged(policy=replace(document, steps=(canary(500, 5000, hold=LONG), PromoteStep()))))
    assert share(run) == {"candidate": 500}


def test_a_release_that_starts_while_frozen_waits_at_zero():
    run = Run.of(policy(arms=()))
    run.on(WindowChanged(words="the weekend"))
    run.on(PolicyChanged(policy=policy(steps=TWO)))
    serve(run, 30)
    assert (run.state.mode, share(run)) == (Mode.WARMING, {"candidate": 0})
    run.on(WindowChanged(words=""))
    assert share(run) == {"candidate": 1000}


def test_pods_that_come_back_while_frozen_give_no_more_than_there_was():
    run = begun(policy(steps=TWO))
    run.ready(1, 20)
    assert share(run) == {"candidate": 500}
    run.command(Verb.FREEZE)
    run.ready(20, 20)
    assert share(run) == {"candidate": 500}


def test_two_freezes_end_each_for_itself():
    run = begun(policy(steps=TWO))
    run.on(WindowChanged(words="the weekend"))
    run.command(Verb.FREEZE)
    run.on(WindowChanged(words=""))
    assert [each.source for each in run.state.freezes] == ["operator"]
    run.command(Verb.UNFREEZE)
    assert run.state.freezes == ()
    assert run.command(Verb.UNFREEZE).because.code == "refused.unfreeze"


def test_a_window_is_not_lifted_by_hand():
    run = begun(policy(steps=TWO))
    run.on(WindowChanged(words="the weekend"))
    assert run.command(Verb.UNFREEZE).because.code == "refused.unfreeze"


def test_a_gate_freezes_where_the_policy_says_so_until_a_person_unfreezes():
    run = begun(policy(steps=TWO, when=When(fail=Then.FREEZE)))
    serve(run, 10, failing={"v2": 1.0})
    assert (run.state.mode, share(run)) == (Mode.STEP, {"candidate": 1000})
    assert [each.source for each in run.state.freezes] == ["gate"]
    assert run.decisions().count("frozen") == 1
    assert not run.command(Verb.UNFREEZE).refused


@pytest.mark.parametrize("verb", [Verb.PROMOTE, Verb.ADVANCE])
def test_nothing_is_pushed_on_by_hand_while_frozen(verb):
    run = begun(policy(steps=TWO))
    run.command(Verb.FREEZE)
    assert run.command(verb).because.code == "refused.frozen"


# layers


def test_without_room_in_its_layer_a_release_has_no_share_and_says_so():
    layered = policy(steps=TWO, assignment=Assignment(sticky_header="x-user", layer="ui"))
    run = Run.of(layered)
    run.on(PolicyChanged(policy=layered, lane=None))
    serve(run, 10)
    assert share(run) == {"candidate": 0}
    run.on(PolicyChanged(policy=layered, lane=Lane(start_bp=5000, width_bp=5000)))
    serve(run, 1)
    assert share(run) == {"candidate": 1000}
    run.on(PolicyChanged(policy=layered, lane=None))
    assert share(run) == {"candidate": 0}
    run.ack()
    assert run.command(Verb.PROMOTE).because.code == "refused.no_lane"


# segments


def test_a_segment_reaches_its_arm_from_the_first_stage_with_users_on_also_at_zero():
    staff = Assignment(segments=(Segment(name="staff", when=(), variant="candidate"),))
    run = begun(policy(steps=(shadow(1000, hold=Hold(for_s=1)), canary(0, hold=Hold(for_s=1)), canary(1000, hold=LONG)), assignment=staff))
    pinned = [wish.traffic(run.state).arms[0].pinned]
    for _ in range(2):
        run.command(Verb.ADVANCE)
        run.ack()
        pinned.append(wish.traffic(run.state).arms[0].pinned)
    assert pinned == [False, True, True]
    run.ready(0)
    assert not wish.traffic(run.state).arms[0].pinned
    run.ready(1)
    run.command(Verb.ABORT)
    assert not wish.traffic(run.state).arms[0].pinned


def test_a_person_may_promote_without_the_goal():
    run = begun(policy(steps=(canary(1000), PromoteStep()), gates=(ERRORS, GOAL)))
    serve(run, 30)
    assert run.state.mode is Mode.STEP
    run.command(Verb.PROMOTE, actor="ann")
    assert run.state.stable.version == "v2"
