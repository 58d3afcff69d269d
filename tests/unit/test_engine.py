"""The engine's promises, one fact a test."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from policies import explain, report, wish
from policies.rollout import Delivered, Delivery, Mode, Persist, PolicyChanged, PolicyRemoved, Publish, Restarted, Rollout, Verb, Withdraw
from policies.spec.policy import Hold, Lease, Margin, Metric, PromoteStep, Role, Then, When
from tests.making import ERRORS, HOLD, LATENCY, Run, canary, counts, policy, shadow, variant


def share(run):
    return {arm.variant.version: arm.share_bp for arm in wish.traffic(run.state).arms}


def seen_of(run):
    return report.report(run.state, now=run.now, held=True)["gates"][0]["samples"]["candidate"]


def test_a_healthy_candidate_is_shadowed_grows_is_promoted_and_the_old_version_is_let_go():
    run = Run.of(policy())
    run.serve(60, until=Mode.PROMOTED)
    assert [decision for decision in run.decisions() if decision != "held"] == [
        *("adopted", "started", "entered", "advanced", "advanced", "promoted", "completed"),
    ]
    assert run.state.mode is Mode.PROMOTED
    assert run.state.stable.version == "v2"
    assert wish.traffic(run.state).arms == ()
    assert wish.traffic(run.state).kept == ()
    assert [record.shares for record in run.records if record.decision.value == "advanced"] == [
        (("candidate", 1000),),
        (("candidate", 5000),),
    ]


def test_a_candidate_that_fails_every_request_is_reverted_within_a_handful():
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep())))
    run.serve(1.0)
    before = run.arm.samples
    run.serve(5, bad=1.0, until=Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED
    assert share(run) == {"v2": 0}
    failed = next(record for record in run.records if record.decision.value == "reverted")
    assert failed.reason.code == "gate_failed"
    assert failed.reason.facts["candidate_samples"] - before <= 8
    assert "gate errors failed in canary 10%" in explain.sentence(failed.reason)
    assert "all traffic back to v1" in explain.sentence(failed.reason)


def test_a_shadow_that_fails_reverts_before_any_user_was_sent_there():
    run = Run.of(policy())
    run.serve(20, bad=1.0, until=Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED
    assert all(share_bp == 0 for record in run.records for _, share_bp in record.shares)


def test_a_slow_candidate_is_reverted_by_the_latency_gate():
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep()), gates=(ERRORS, LATENCY)))
    run.serve(1.0)
    run.serve(30, latency_ms=300.0, until=Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED
    assert run.records[-2].reason.facts["gate"] == "latency"


def test_the_candidate_has_no_share_before_every_proxy_acked_its_clusters_and_a_pod_is_ready():
    run = Run.of(policy())
    run.ready()
    run.wait(10)
    assert run.state.mode is Mode.WARMING
    run.ack(selected=2, acked=1)
    assert run.state.mode is Mode.WARMING
    run.ack(selected=2)
    assert run.state.mode is Mode.STEP


def test_a_pod_that_never_gets_ready_keeps_the_share_at_zero_and_says_so():
    run = Run.of(policy())
    run.ack()
    run.wait(3600)
    assert run.state.mode is Mode.WARMING
    assert share(run) == {"v2": 0}
    status = report.report(run.state, now=run.now, held=False)
    assert status["phase"] == "waiting_capacity"
    assert "no pod of it is ready" in status["because"]


def test_the_hold_starts_when_the_share_is_acked_and_stops_while_a_proxy_lags():
    run = Run.of(policy())
    run.ack()
    run.ready()
    run.wait(10)
    assert run.state.held_s == 0
    run.ack()
    run.wait(1)
    assert run.state.held_s == pytest.approx(1)
    run.ack(selected=2, acked=1)
    run.wait(5)
    assert run.state.held_s == pytest.approx(1)


def test_no_traffic_never_passes():
    run = Run.of(policy(steps=(canary(1000, hold=Hold(for_s=1)), PromoteStep())))
    run.ack()
    run.ready()
    run.ack()
    run.wait(3600)
    assert run.state.mode is Mode.STEP
    assert "held" in run.decisions()
    assert report.report(run.state, now=run.now, held=True)["phase"] == "holding"


def test_silence_reverts_where_the_policy_says_so():
    run = Run.of(policy(when=When(no_data_after_s=30, no_data=Then.REVERT)))
    run.ack()
    run.ready()
    run.ack()
    run.wait(31)
    assert run.state.mode is Mode.REVERTING
    assert run.records[-1].reason.code == "no_data"


def test_a_stage_that_does_not_end_reverts_at_its_deadline():
    run = Run.of(policy(when=When(stuck_after_s=60)))
    run.ack()
    run.ready()
    run.wait(61)
    assert run.state.mode is Mode.REVERTING
    assert "did not end within 1 min" in explain.sentence(run.records[-1].reason)


def test_a_failing_signal_holds_and_progress_resumes_by_itself():
    signal = replace(ERRORS, name="signal", role=Role.SIGNAL)
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep()), gates=(signal,), when=When(stuck_after_s=1e6)))
    run.serve(1)
    run.serve(1.2, bad=1.0)
    run.serve(0.2)
    assert run.state.mode is Mode.STEP
    assert run.state.holding
    assert "gate_fail" in run.reasons()
    run.serve(300, until=Mode.PROMOTED)
    assert run.state.mode is Mode.PROMOTED


@pytest.mark.parametrize("at", ["warming", "shadow", "canary", "paused", "baking"])
def test_abort_reaches_stable_from_every_release(at):
    run = Run.of(policy(steps=(shadow(1000, hold=HOLD), canary(1000, hold=HOLD), PromoteStep(keep_stable_for_s=9))))
    while at != "warming" and run.now < 2000:
        run.serve(0.1)
        stage = wish.stage(run.state)
        if (stage and stage.kind == at) or (at == "paused" and run.arm.in_effect_bp) or run.state.mode.value == at:
            break
    if at == "paused":
        run.command(Verb.PAUSE)
    step = run.command(Verb.ABORT, actor="ann", reason="smells")
    assert not step.refused
    assert run.state.mode is Mode.REVERTING
    wanted = wish.traffic(run.state)
    assert wanted.stable.version == "v1"
    assert all(arm.share_bp == arm.shadow_bp == 0 for arm in wanted.arms)
    run.ack()
    assert run.state.mode is Mode.REVERTED
    assert "aborted by ann: smells" in explain.sentence(next(r for r in run.records if r.decision.value == "reverted").reason)


def test_abort_twice_is_once_and_abort_of_nothing_is_refused():
    run = Run.of(policy())
    run.command(Verb.ABORT, key="k1")
    count = len(run.records)
    run.command(Verb.ABORT, key="k1")
    run.command(Verb.ABORT)
    assert len(run.records) == count
    idle = Run.of(policy(arms=()))
    step = idle.command(Verb.ABORT)
    assert step.refused
    assert explain.sentence(step.because) == "nothing to abort: the rollout is idle"


def test_a_reverted_version_is_not_started_again_until_the_candidate_changes():
    run = Run.of(policy())
    run.command(Verb.ABORT)
    run.ack()
    run.on(PolicyChanged(policy=policy(lease=Lease(ttl_s=9))))
    assert run.state.mode is Mode.REVERTED
    run.on(PolicyChanged(policy=policy(arms=(variant("candidate", "v3", 8003),))))
    assert run.state.mode is Mode.WARMING
    assert run.state.generation == 2


def test_changing_the_candidate_restarts_at_share_zero_without_the_old_evidence():
    run = Run.of(policy(steps=(canary(1000, 5000, hold=Hold(samples=10**6)), PromoteStep())))
    run.serve(5)
    assert share(run) == {"v2": 1000}
    run.on(PolicyChanged(policy=replace(run.state.policy, arms=(variant("candidate", "v3", 8003),))))
    assert share(run) == {"v3": 0}
    assert seen_of(run) == 0
    assert [kept.version for kept in wish.traffic(run.state).kept] == ["v2"]


def test_an_edit_of_anything_else_keeps_place_hold_and_evidence():
    run = Run.of(policy(steps=(canary(1000, 5000, hold=Hold(for_s=100)), PromoteStep())))
    run.serve(5)
    held, seen = run.state.held_s, seen_of(run)
    run.on(PolicyChanged(policy=replace(run.state.policy, lease=Lease(ttl_s=7), labels=(("team", "x"),))))
    assert (run.state.position, run.state.held_s, seen_of(run)) == (0, pytest.approx(held), seen)
    assert share(run) == {"v2": 1000}


def test_an_edited_current_step_applies_its_share_and_starts_its_hold_again():
    run = Run.of(policy(steps=(canary(1000, 5000, hold=Hold(for_s=100)), PromoteStep())))
    run.serve(5)
    seen = seen_of(run)
    run.on(PolicyChanged(policy=replace(run.state.policy, steps=(canary(2000, 5000, hold=Hold(for_s=100)), PromoteStep()))))
    assert share(run) == {"v2": 2000}
    assert run.state.held_s == 0
    assert seen_of(run) == seen


def test_removing_the_current_step_holds_it_at_its_share():
    run = Run.of(policy(steps=(shadow(1000, hold=Hold(for_s=100)), PromoteStep())))
    run.serve(5)
    run.on(PolicyChanged(policy=replace(run.state.policy, steps=(PromoteStep(),))))
    run.serve(300)
    assert run.state.mode is Mode.STEP
    assert wish.traffic(run.state).arms[0].shadow_bp == 1000
    assert "taken out of the policy" in report.report(run.state, now=run.now, held=True)["because"]


def test_taking_the_candidate_out_reverts():
    run = Run.of(policy(steps=(canary(1000, hold=Hold(for_s=100)), PromoteStep())))
    run.serve(5)
    run.on(PolicyChanged(policy=replace(run.state.policy, arms=())))
    assert run.state.mode is Mode.REVERTING
    assert wish.traffic(run.state).arms == ()


def test_after_a_promotion_the_old_line_in_the_file_changes_nothing_but_an_edit_or_a_git_revert_does():
    run = Run.of(policy())
    run.serve(60, until=Mode.PROMOTED)
    run.on(PolicyChanged(policy=replace(run.state.policy, labels=(("a", "b"),))))
    assert run.state.mode is Mode.PROMOTED
    assert run.state.stable.version == "v2"
    run.on(PolicyChanged(policy=replace(run.state.policy, arms=())))
    assert run.state.stable.version == "v2"
    assert [kept.version for kept in wish.traffic(run.state).kept] == ["v1"]
    run.ack()
    assert run.state.stable.version == "v1"


def test_the_next_candidate_is_judged_against_the_promoted_version():
    run = Run.of(policy())
    run.serve(60, until=Mode.PROMOTED)
    run.on(PolicyChanged(policy=replace(run.state.policy, arms=(variant("candidate", "v3", 8003),))))
    assert run.state.stable.version == "v2"
    assert share(run) == {"v3": 0}


def test_what_a_proxy_rejects_is_not_delivered_however_many_have_its_shares():
    run = Run.of(policy(when=When(nack=Then.HOLD)))
    run.ack(selected=3, acked=3, rejected=1, words="edge-0 rejects CDS: no")
    run.ready()
    assert run.state.mode is Mode.WARMING
    assert "edge-0 rejects CDS: no" in explain.sentence(run.state.because)


def test_a_rejected_candidate_is_reverted_when_its_traffic_is_back_although_it_is_still_rejected():
    run = Run.of(policy())
    for _ in range(2):
        run.ack(selected=3, acked=3, rejected=1, words="no")
    assert run.state.mode is Mode.REVERTED


def test_a_rejected_candidate_that_nobody_uses_is_not_kept_for_its_successor():
    run = Run.of(policy(when=When(nack=Then.HOLD)))
    run.ack(selected=3, acked=3, rejected=1, words="no")
    run.on(PolicyChanged(policy=policy(arms=(variant("candidate", "v3", 8003),))))
    assert [each.version for each in wish.traffic(run.state).kept] == []


def test_a_new_stable_that_proxies_reject_is_not_committed():
    run = Run.of(policy(arms=()))
    run.on(PolicyChanged(policy=policy(arms=(), stable=variant("stable", "v9", 8009))))
    run.ack(selected=3, acked=3, rejected=1, words="no")
    run.ack(selected=3, acked=3, rejected=1, words="no")
    assert run.state.stable.version == "v1"


def test_a_rejected_resource_reverts_with_the_proxys_own_words():
    run = Run.of(policy())
    run.ack(selected=2, acked=1, rejected=1, words="edge-1: bad cluster")
    assert run.state.mode is Mode.REVERTING
    assert "edge-1: bad cluster" in explain.sentence(run.records[-1].reason)


def test_a_late_ack_of_an_older_publication_says_nothing():
    run = Run.of(policy())
    old = run.state.publication
    run.ack()
    run.ready()
    run.on(Delivered(publication=old, delivery=Delivery(selected=1, acked=1)))
    assert not run.state.delivery.complete


def test_a_restart_publishes_again_and_keeps_hold_and_evidence():
    run = Run.of(policy(steps=(canary(1000, hold=Hold(for_s=100)), PromoteStep())))
    run.serve(5)
    held = run.state.held_s
    stored = TypeAdapter(Rollout).validate_json(TypeAdapter(Rollout).dump_json(run.state))
    assert stored == run.state
    run.now += 3600
    step = run.on(Restarted())
    assert run.state.held_s == pytest.approx(held)
    assert run.arm.in_effect_bp == 0
    published = [effect for effect in step.effects if isinstance(effect, Publish)]
    assert published[0].traffic.arms[0].share_bp == 1000


def test_a_jumping_clock_serves_no_hold():
    run = Run.of(policy(steps=(canary(1000, hold=Hold(for_s=100)), PromoteStep())))
    run.serve(2)
    run.now += 86_400
    run.serve(0.1)
    run.now -= 172_800
    run.serve(0.1)
    assert run.state.held_s < 10


def test_pause_keeps_the_share_and_guardrails_stay_on():
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep())))
    run.serve(0.5)
    run.command(Verb.PAUSE)
    run.serve(60)
    assert run.state.mode is Mode.STEP
    assert share(run) == {"v2": 1000}
    run.serve(5, bad=1.0, until=Mode.REVERTED)
    assert run.state.mode is Mode.REVERTED


def test_resume_goes_on_and_promote_skips_the_rest():
    run = Run.of(policy(steps=(canary(1000, 5000, hold=Hold(for_s=1000)), PromoteStep())))
    run.serve(1)
    run.command(Verb.PAUSE)
    assert run.command(Verb.PAUSE).effects == ()
    run.command(Verb.RESUME)
    assert run.command(Verb.RESUME).refused
    run.command(Verb.PROMOTE, actor="ann")
    assert run.state.mode is Mode.PROMOTING
    assert wish.traffic(run.state).stable.version == "v2"


def test_a_removed_document_withdraws_and_a_returning_one_remembers_what_was_committed():
    run = Run.of(policy())
    run.serve(60, until=Mode.PROMOTED)
    step = run.on(PolicyRemoved())
    assert any(isinstance(effect, Withdraw) for effect in step.effects)
    run.on(PolicyChanged(policy=policy()))
    assert run.state.stable.version == "v2"


def test_effects_come_in_their_written_order():
    run = Run.of(policy())
    run.serve(60, bad=0.0, until=Mode.PROMOTED)
    order = {"Persist": 0, "Publish": 1, "Withdraw": 1, "Notify": 2}
    for step in run.steps:
        kinds = [order[type(effect).__name__] for effect in step.effects]
        assert kinds == sorted(kinds)
        if kinds and not (len(kinds) == 1 and kinds[0] == 1):
            assert isinstance(step.effects[0], Persist)


def test_steps_without_promote_hold_at_the_last_share():
    run = Run.of(policy(steps=(canary(1000, hold=HOLD),)))
    run.serve(60)
    assert run.state.mode is Mode.STEP
    assert share(run) == {"v2": 1000}
    assert run.state.holding


def test_latency_and_error_gates_share_one_budget():
    run = Run.of(policy(gates=(ERRORS, LATENCY, replace(ERRORS, name="s", role=Role.SIGNAL)), false_revert=0.01))
    run.serve(10)
    needed = {gate["name"]: gate["needed"] for gate in report.report(run.state, now=run.now, held=True)["gates"]}
    # Three guardrail processes: errors and latency on users, errors on copies.
    assert needed["errors"] == pytest.approx(300)


def test_margin_and_metric_reach_the_gate():
    gate = replace(ERRORS, margin=Margin(absolute=0.5), metric=Metric.ERROR_RATE)
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep()), gates=(gate,)))
    run.serve(20, bad=0.2, until=Mode.PROMOTED)
    assert run.state.mode is not Mode.REVERTED


def test_steps_and_gates_edited_while_the_candidate_warms_up_apply():
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep())))
    run.on(PolicyChanged(policy=policy(gates=(ERRORS, LATENCY))))
    run.serve(60, until=Mode.PROMOTED)
    assert run.state.mode is Mode.PROMOTED
    assert any(record.step == "shadow 10%" for record in run.records)


def test_what_time_ends_ends_under_traffic_too_where_nobody_needs_to_tick():
    run = Run.of(policy())
    run.serve(60, until=Mode.BAKING)
    for _ in range(40):
        run.now += 0.1
        run.evidence(counts(1))
    assert run.state.mode is Mode.PROMOTED
