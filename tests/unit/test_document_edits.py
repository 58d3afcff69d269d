"""What an edit of the document leaves as it is: order, names, arms that are out, the share a release stands in; and what it does not do while frozen."""

from dataclasses import replace

from policies import wish
from policies.rollout import Mode, PolicyChanged, Verb, WindowChanged
from policies.spec.policy import AbStep, Assignment, Compare, HeaderMatch, Hold, PromoteStep, Segment, ShadowStep
from tests.crowd import ARMS, GOAL, begun, serve, several, share
from tests.making import ERRORS, Run, canary, policy, shadow, variant

LONG = Hold(for_s=1e6)
VIP = Segment(name="vip", when=(HeaderMatch(name="x-vip", compare=Compare.PRESENT),), variant="candidate")


def edit(run, **changes):
    return run.on(PolicyChanged(policy=replace(run.state.policy, **changes)))


def test_the_order_of_the_variants_changes_nothing():
    run = begun(several("bc", 1000, hold=LONG))
    serve(run, 2)
    before, wanted = run.state, wish.traffic(run.state)
    edit(run, arms=tuple(reversed(run.state.policy.arms)))
    assert wish.traffic(run.state) == wanted
    assert (run.state.generation, run.state.held_s, run.state.arms) == (before.generation, before.held_s, before.arms)


def test_removing_an_arm_that_was_taken_out_changes_nothing_for_the_others():
    run = begun(several("bc", 1000, hold=LONG))
    serve(run, 5, failing={"v3": 1.0})
    before, wanted = run.state, wish.traffic(run.state)
    edit(run, arms=ARMS[:1])
    assert (run.state.generation, wish.traffic(run.state)) == (before.generation, wanted)


def test_renaming_an_arm_keeps_its_share_and_its_evidence():
    run = begun(several("b", steps=(canary({"b": 1000}, hold=LONG), PromoteStep())))
    serve(run, 3)
    before = run.arm
    edit(run, arms=(replace(ARMS[0], name="new"),), steps=(canary({"new": 1000}, hold=LONG), PromoteStep()))
    assert share(run) == {"new": 1000}
    assert (run.state.generation, run.arm.gates) == (1, before.gates)


def test_renaming_the_winner_of_an_ab_leaves_it_the_winner():
    ab = AbStep(shares=(("b", 3000), ("c", 3000)), goal="goal", at_most_s=60.0, hold=Hold(for_s=1.0))
    run = begun(several("bc", steps=(ab, canary({"b": 4000, "c": 4000}, hold=LONG), PromoteStep()), gates=(ERRORS, GOAL)))
    serve(run, 59, failing={"v1": 0.4, "v3": 0.42}, until=lambda state: state.position == 1)
    assert run.state.winner == "b"
    renamed = replace(ab, shares=(("new", 3000), ("c", 3000)))
    arms = (replace(ARMS[0], name="new"), ARMS[1])
    edit(run, arms=arms, steps=(renamed, canary({"new": 4000, "c": 4000}, hold=LONG), PromoteStep()))
    assert (run.state.winner, share(run), run.state.generation) == ("new", {"new": 4000, "c": 0}, 1)


def test_renaming_an_arm_whose_stage_was_removed_keeps_the_stages_share():
    run = begun(several("b", steps=(canary({"b": 3000}, hold=LONG), PromoteStep())))
    serve(run, 2)
    edit(run, steps=(PromoteStep(),))
    assert share(run) == {"b": 3000}
    edit(run, arms=(replace(ARMS[0], name="new"),))
    assert share(run) == {"new": 3000}
    assert run.state.orphan.share_of("new") == 3000


def test_an_edit_that_removes_an_earlier_share_and_changes_the_hold_keeps_the_share_that_is_reached():
    run = begun(policy(steps=(canary(500, 1000, 5000), PromoteStep())))
    serve(run, 60, until=lambda state: state.position == 1)
    assert share(run) == {"candidate": 1000}
    edit(run, steps=(canary(1000, 5000, hold=LONG), PromoteStep()))
    assert (run.state.position, share(run)) == (0, {"candidate": 1000})


def frozen(*steps, **changes):
    run = begun(policy(steps=(*steps, PromoteStep()), **changes))
    serve(run, 1)
    run.on(WindowChanged(words="night"))
    return run


def test_an_edit_of_the_share_of_copies_waits_for_the_end_of_the_freeze():
    run = frozen(shadow(1000, hold=LONG))
    edit(run, steps=(shadow(5000, hold=LONG), PromoteStep()))
    assert wish.traffic(run.state).arms[0].shadow_bp == 1000
    run.on(WindowChanged(words=""))
    assert wish.traffic(run.state).arms[0].shadow_bp == 5000


def test_a_canary_that_becomes_a_shadow_while_frozen_gets_no_copies():
    run = frozen(canary(1000, hold=LONG))
    edit(run, steps=(ShadowStep(shares=(("candidate", 9000),), hold=LONG), PromoteStep()))
    assert wish.traffic(run.state).arms[0].shadow_bp == 0


def test_an_edit_of_segments_waits_for_the_end_of_the_freeze():
    run = frozen(canary(1000, hold=LONG))
    edit(run, assignment=Assignment(segments=(VIP,)))
    wanted = wish.traffic(run.state)
    assert (wanted.arms[0].pinned, wanted.assignment) == (False, policy().assignment)
    run.on(WindowChanged(words=""))
    wanted = wish.traffic(run.state)
    assert (wanted.arms[0].pinned, wanted.assignment.segments) == (True, (VIP,))


def test_a_freeze_in_the_shadow_keeps_segments_from_the_arm():
    run = frozen(shadow(1000, hold=LONG), assignment=Assignment(segments=(VIP,)))
    edit(run, steps=(canary(1000, hold=LONG), PromoteStep()))
    wanted = wish.traffic(run.state)
    assert (wanted.arms[0].pinned, wanted.arms[0].share_bp) == (False, 0)


def test_an_edit_of_stable_waits_for_the_end_of_the_freeze():
    run = Run.of(policy(arms=()))
    run.ack()
    run.on(WindowChanged(words="night"))
    edit(run, stable=variant("stable", "v9", 8009))
    run.ack()
    run.wait(20)
    run.ack()
    assert run.state.stable.version == "v1"
    run.on(WindowChanged(words=""))
    run.ack()
    assert run.state.stable.version == "v9"


def test_the_old_version_stays_as_long_as_the_policy_said_at_the_promotion():
    run = begun(policy(steps=(canary(1000), PromoteStep(keep_stable_for_s=60.0))))
    serve(run, 60, until=lambda state: state.mode is Mode.BAKING)
    edit(run, steps=(canary(1000), PromoteStep()))
    run.wait(30)
    assert (run.state.mode, run.state.previous.version) == (Mode.BAKING, "v1")
    run.wait(31)
    assert run.state.mode is Mode.PROMOTED


def test_a_new_candidate_in_the_bake_starts_when_that_is_over():
    run = begun(policy(steps=(canary(1000), PromoteStep(keep_stable_for_s=20.0))))
    serve(run, 60, until=lambda state: state.mode is Mode.BAKING)
    edit(run, arms=(variant("candidate", "v3", 8003),))
    assert (run.state.mode, run.state.previous.version) == (Mode.BAKING, "v1")
    run.ack()
    run.wait(21)
    assert (run.state.mode, share(run)) == (Mode.WARMING, {"candidate": 0})
    assert (run.state.stable.version, run.arm.variant.version) == ("v2", "v3")


def test_a_hotfix_of_stable_does_not_start_a_rejected_candidate_again():
    run = begun(policy(steps=(canary(1000, hold=LONG), PromoteStep())))
    run.command(Verb.ABORT)
    run.ack()
    edit(run, stable=variant("stable", "v1.1", 8009))
    run.ack()
    run.ack()
    assert run.state.stable.version == "v1.1"
    assert (run.state.mode, run.state.arms, run.decisions().count("started")) == (Mode.IDLE, (), 1)


def test_renaming_an_arm_and_removing_its_stage_at_once_keeps_the_share_too():
    run = begun(several("b", steps=(canary({"b": 3000}, hold=LONG), PromoteStep())))
    serve(run, 2)
    edit(run, arms=(replace(ARMS[0], name="new"),), steps=(PromoteStep(),))
    assert share(run) == {"new": 3000}


def test_renaming_an_arm_does_not_start_the_hold_again():
    run = begun(several("b", steps=(canary({"b": 3000}, hold=LONG), PromoteStep())))
    serve(run, 2)
    held_s, entered = run.state.held_s, len(run.records)
    edit(run, arms=(replace(ARMS[0], name="new"),), steps=(canary({"new": 3000}, hold=LONG), PromoteStep()))
    assert (run.state.held_s, len(run.records)) == (held_s, entered)
