"""An arm never gets more than its ready pods carry."""

from dataclasses import replace

import pytest

from policies import capacity, explain, report, wish
from policies.evidence import Block
from policies.rollout import ArmState, EvidenceArrived, Mode, Pods, PodsProbed
from policies.spec.policy import Hold, PromoteStep, Then, When
from tests.crowd import begun, serve, share
from tests.making import Run, canary, counts, policy, variant

LONG = Hold(for_s=1e6)
STEPS = (canary(8000, hold=LONG), PromoteStep())


def arm(ready, total, max_concurrency=1024):
    return ArmState(variant=variant("b", "v2", max_concurrency=max_concurrency), pods=Pods(ready=ready, total=total))


@pytest.mark.parametrize(
    ("ready", "total", "load", "ceiling_bp"),
    [(2, 2, 0.0, 10_000), (1, 2, 0.0, 5000), (1, 3, 0.0, 3333), (0, 2, 0.0, 0), (0, 0, 0.0, 0), (2, 2, 100.0, 800), (1, 2, 100.0, 400)],
)
def test_the_smaller_of_the_pods_that_are_ready_and_of_what_they_may_hold_counts(ready, total, load, ceiling_bp):
    assert capacity.ceiling_bp(arm(ready, total, max_concurrency=4), load) == ceiling_bp


def held_up(state, block, now):
    return replace(state, load=capacity.in_flight(state, block, now=now), load_at=now)


def test_requests_in_flight_are_what_took_time_over_the_time():
    """20 requests of 0.5 s in each second are 10 at once."""
    state = Run.of(policy()).state
    for second in range(1, 200):
        state = held_up(state, Block(start=second - 1, end=second, users={"a": counts(20, latency_ms=500.0)}), float(second))
    assert state.load == pytest.approx(10, rel=0.1)


def test_mirrored_copies_are_no_load_of_users_and_a_block_without_time_adds_none():
    state = Run.of(policy()).state
    assert held_up(state, Block(start=0, end=1, shadows={"a": counts(20, latency_ms=500.0)}), 1.0).load == 0.0
    assert held_up(replace(state, load=5.0, load_at=9.0), Block(start=9, end=1), 9.0).load <= 5.0


def test_half_of_the_pods_ready_is_half_of_the_users_at_most():
    run = begun(policy(steps=STEPS))
    run.ready(1, 2)
    assert share(run) == {"candidate": 5000}
    status = report.report(run.state, now=run.now, held=True)
    assert status["phase"] == "waiting_capacity"
    assert "can carry 50% of 100% (1 of 2 pods ready)" in status["because"]


def test_pods_that_are_lost_shrink_the_share_at_once_and_it_grows_when_they_have_been_back_for_a_while():
    run = begun(policy(steps=STEPS))
    seen = [share(run)["candidate"]]
    for ready in (3, 1, 4):
        run.ready(ready, 4)
        seen.append(share(run)["candidate"])
    run.wait(capacity.RISES_AFTER_S + 1)
    assert [*seen, share(run)["candidate"]] == [8000, 7500, 2500, 2500, 8000]


def test_more_load_shrinks_the_share():
    run = begun(policy(steps=STEPS, arms=(variant("candidate", "v2", 8002, max_concurrency=4),)))
    for _ in range(60):
        run.now += 1
        block = Block(start=run.now - 1, end=run.now, users={run.state.stable.identity: counts(40, latency_ms=500.0)})
        run.on(EvidenceArrived(block=block))
    assert share(run)["candidate"] == pytest.approx(2000, rel=0.1)


def test_a_stage_below_its_share_serves_no_hold():
    run = begun(policy(steps=(canary(8000, hold=Hold(for_s=5)), PromoteStep())))
    run.ready(1, 2)
    serve(run, 60)
    assert (run.state.mode, run.state.held_s) == (Mode.STEP, 0.0)


def test_no_pod_for_ten_seconds_reverts_and_says_what_the_probe_saw():
    run = begun(policy(steps=STEPS))
    run.on(PodsProbed(identity=run.arm.variant.identity, pods=Pods(ready=0, total=2, words="connection refused")))
    assert share(run) == {"candidate": 0}
    run.wait(9)
    assert run.state.mode is Mode.STEP
    run.wait(2)
    assert run.state.mode is Mode.REVERTING
    assert "connection refused" in explain.sentence(run.records[-1].reason)


def test_a_pod_in_between_starts_the_ten_seconds_again():
    run = begun(policy(steps=STEPS))
    for ready in (0, 1, 0):
        run.ready(ready)
        run.wait(8)
    assert run.state.mode is Mode.STEP


def test_without_pods_a_stage_holds_where_the_policy_says_so():
    run = begun(policy(steps=STEPS, when=When(fail=Then.HOLD)))
    run.ready(0)
    run.wait(60)
    assert (run.state.mode, run.state.holding) == (Mode.STEP, True)
    assert run.decisions().count("held") == 1
    run.ready(1)
    run.ack()
    run.wait(capacity.RISES_AFTER_S)
    assert not run.state.holding
    assert share(run) == {"candidate": 8000}


def test_the_first_share_waits_for_pods():
    run = Run.of(policy(steps=STEPS))
    run.ack()
    run.ready(0, 2)
    run.wait(60)
    assert run.state.mode is Mode.WARMING
    run.ready(1, 2)
    assert (run.state.mode, wish.traffic(run.state).arms[0].share_bp) == (Mode.STEP, 5000)
