"""A promotion: what it waits for, who may ask for it, and that the gates stay on until the old version is let go."""

from dataclasses import replace

import pytest

from policies import explain, report, wish
from policies.rollout import Mode, Pods, PodsProbed, Rollout, Verb
from policies.spec.policy import ApproveStep, Hold, PromoteStep, SwitchStep, Then, When
from tests.crowd import begun, serve, several, share
from tests.making import HOLD, Run, canary, counts, policy
from xds_server.runtime.conductor import _safer

KEPT = PromoteStep(keep_stable_for_s=60.0)
LONG = Hold(for_s=1e6)


def promoting(**changes):
    """A run that has just promoted v2; no proxy has ACKed it."""
    run = begun(policy(steps=(canary(1000, hold=HOLD), KEPT), **changes))
    serve(run, 60, until=lambda state: state.mode is Mode.PROMOTING)
    assert run.state.mode is Mode.PROMOTING
    return run


def baking(**changes):
    run = promoting(**changes)
    run.ack()
    assert run.state.mode is Mode.BAKING
    return run


def waits(run):
    """What the stage still waits for, as the status says it."""
    return report.report(run.state, now=run.now, held=True)["step"]["waiting_for"]


def serve_new(run, seconds, *, errors=0, ack=True):
    """Traffic of the promoted version only: 4 requests each 0.1 s, `errors` of them failing; one proxy of two ACKs, or both."""
    for _ in range(round(seconds * 10)):
        run.now += 0.1
        run.ack(selected=2, acked=2 if ack else 1)
        run.evidence(candidate=counts(4, errors))
        if run.state.mode not in {Mode.PROMOTING, Mode.BAKING}:
            return


@pytest.mark.parametrize(("ack", "mode"), [(False, Mode.PROMOTING), (True, Mode.BAKING)])
def test_the_gates_watch_a_promotion_also_while_one_proxy_never_acks_it(ack, mode):
    run = promoting()
    serve_new(run, 1, ack=ack)
    assert run.state.mode is mode
    serve_new(run, 10, errors=4, ack=ack)
    assert run.state.mode is Mode.REVERTING
    assert run.records[-1].reason.code == "gate_failed"
    assert wish.traffic(run.state).stable.version == "v1"


@pytest.mark.parametrize("made", [promoting, baking])
def test_the_way_back_from_a_promotion_goes_out_without_a_store(made):
    aborted, failed = made(), made()
    before: Rollout = aborted.state
    aborted.command(Verb.ABORT)
    assert _safer(before, aborted.state)
    while failed.state.mode in {Mode.PROMOTING, Mode.BAKING} and failed.now < 2000:
        before = failed.state
        failed.now += 0.1
        failed.evidence(candidate=counts(4, 4))
    assert failed.records[-1].reason.code == "gate_failed"
    assert _safer(before, failed.state)


def test_a_promotion_itself_does_not_go_out_without_a_store():
    run = begun(policy(steps=(canary(1000, hold=LONG), KEPT)))
    before = run.state
    run.command(Verb.PROMOTE)
    assert run.state.mode is Mode.PROMOTING
    assert not _safer(before, run.state)


def test_a_switch_at_the_start_waits_until_stable_is_known_and_says_so():
    run = Run.of(policy(steps=(SwitchStep(arm="candidate", hold=HOLD), PromoteStep())))
    run.ack()
    run.ready()
    run.wait(60)
    assert run.state.mode is Mode.WARMING
    assert "stable" in report.report(run.state, now=run.now, held=True)["because"]
    run.evidence(stable=counts(19))
    assert run.state.mode is Mode.WARMING
    run.evidence(stable=counts(1))
    run.wait(0.5)
    assert run.state.mode is Mode.STEP
    assert share(run) == {"candidate": 10_000}


def test_a_switch_at_the_start_to_a_version_that_fails_everything_is_reverted():
    run = Run.of(policy(steps=(SwitchStep(arm="candidate", hold=HOLD), PromoteStep())))
    serve(run, 60, failing={"v2": 1.0}, until=lambda state: state.mode is Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED
    assert "gate_failed" in run.reasons()
    assert "promoted" not in run.decisions()


def test_a_switch_without_gates_waits_for_nobody():
    run = begun(policy(steps=(SwitchStep(arm="candidate", hold=HOLD), PromoteStep()), gates=()))
    assert share(run) == {"candidate": 10_000}


def half_ready(run):
    return run.on(PodsProbed(identity=run.arm.variant.identity, pods=Pods(ready=1, total=2)))


def test_a_promotion_waits_for_pods_that_carry_everything():
    run = begun(policy(steps=(canary(1000, hold=HOLD), KEPT)))
    half_ready(run)
    serve(run, 60)
    assert (run.state.mode, share(run)) == (Mode.STEP, {"candidate": 1000})
    assert any(item["kind"] == "capacity" and (item["have"], item["need"]) == (5000, 10_000) for item in waits(run))
    run.ready(ready=2, total=2)
    serve(run, 30, until=lambda state: state.mode is Mode.BAKING)
    assert run.state.mode is Mode.BAKING


def test_a_promotion_by_hand_without_pods_for_everything_is_refused_with_the_numbers():
    run = begun(policy(steps=(canary(1000, hold=LONG), KEPT)))
    half_ready(run)
    refused = run.command(Verb.PROMOTE)
    assert refused.refused
    assert refused.because.facts == {"pods": 1, "total": 2, "share_bp": 5000}
    assert "1 of 2" in explain.sentence(refused.because)


APPROVE = ApproveStep(who="ann", within_s=600.0)


def test_a_promotion_by_hand_is_refused_while_an_approval_is_ahead_or_open():
    run = begun(policy(steps=(canary(1000, hold=LONG), APPROVE, KEPT)))
    assert run.command(Verb.PROMOTE).because.code == "refused.needs_approval"
    run.command(Verb.ADVANCE)
    run.ack()
    assert wish.stage(run.state).kind == "approve"
    assert run.command(Verb.PROMOTE).because.code == "refused.needs_approval"
    assert run.state.mode is Mode.STEP


def test_a_promotion_by_hand_is_refused_before_the_proxies_have_acked():
    run = begun(policy(steps=(canary(1000, hold=LONG), KEPT)))
    run.ack(selected=2, acked=1)
    assert run.command(Verb.PROMOTE).refused
    run.ack(selected=2)
    run.command(Verb.PROMOTE)
    assert run.state.mode is Mode.PROMOTING


def test_two_arms_with_a_switch_start():
    run = Run.of(
        several(share_bp=1000, steps=(canary({"b": 1000, "c": 1000}, hold=HOLD), SwitchStep(arm="b", hold=HOLD), PromoteStep(arm="b")))
    )
    serve(run, 1)
    assert share(run) == {"b": 1000, "c": 1000}
    serve(run, 60, until=lambda _: share(run).get("b") == 10_000)
    assert share(run) == {"b": 10_000, "c": 0}


def test_two_arms_of_which_one_is_switched_to_at_once_start():
    run = Run.of(several(steps=(SwitchStep(arm="c", hold=HOLD), PromoteStep(arm="c"))))
    serve(run, 10, until=lambda _: share(run).get("c") == 10_000)
    assert share(run) == {"b": 0, "c": 10_000}


def test_a_failure_in_the_bake_that_only_holds_keeps_the_old_version_warm_until_it_is_over():
    run = baking(when=When(fail=Then.HOLD))
    serve_new(run, 10, errors=4)
    held = [record for record in run.records if record.decision.value == "held"]
    assert held[-1].reason.code == "gate_failed"
    run.wait(200)
    assert run.state.mode is Mode.BAKING
    assert [kept.version for kept in wish.traffic(run.state).kept] == ["v1"]


def test_a_bake_that_was_held_by_missing_pods_goes_on_when_the_failure_is_over():
    run = baking(when=When(fail=Then.HOLD))
    failing = replace(run.arm, gone_s=99.0)
    run.state = replace(run.state, arms=(failing,))
    run.wait(100)
    assert (run.state.mode, run.state.holding) == (Mode.BAKING, True)
    run.state = replace(run.state, arms=(replace(run.arm, gone_s=0.0),))
    run.wait(59)
    assert (run.state.mode, run.state.holding) == (Mode.BAKING, False)
    run.wait(2)
    assert run.state.mode is Mode.PROMOTED


def test_an_arm_that_a_later_promotion_names_reverts_the_release_when_it_fails():
    run = Run.of(several(hold=LONG))
    serve(run, 30, failing={"v2": 1.0}, until=lambda state: state.mode is Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED
    assert "dropped" not in run.decisions()


def test_an_arm_that_a_later_switch_names_reverts_the_release_when_it_fails():
    steps = (canary({"b": 1000, "c": 1000}, hold=LONG), SwitchStep(arm="c", hold=HOLD), PromoteStep())
    run = Run.of(several(steps=steps))
    serve(run, 30, failing={"v3": 1.0}, until=lambda state: state.mode is Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED
    assert "dropped" not in run.decisions()


def test_two_arms_of_which_none_is_named_wait_for_a_winner_and_are_stuck_at_the_deadline():
    run = Run.of(several(steps=(canary({"b": 1000, "c": 1000}, hold=HOLD), PromoteStep()), when=When(stuck_after_s=100)))
    serve(run, 60)
    assert run.state.mode is Mode.STEP
    assert [item["kind"] for item in waits(run)] == ["winner"]
    serve(run, 60, until=lambda state: state.mode is Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED
    assert "stuck" in run.reasons()
