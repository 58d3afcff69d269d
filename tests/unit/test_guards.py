"""What else a stage asks before more users get an arm: limits, the blast radius, that requests are drawn as they should be, and the noise of pods."""

from dataclasses import replace

import pytest

from policies import explain, radius, report, verdicts, wish
from policies.evidence import Block
from policies.gates import GateState, Verdict
from policies.rollout import EvidenceArrived, Mode, PolicyChanged
from policies.spec.policy import Assignment, Gate, Hold, Margin, Metric, PromoteStep, Role
from policies.statistics.verdict import MIN_BAD
from tests.making import ERRORS, LATENCY, Run, canary, counts, policy

HOLD = Hold(for_s=1.0, samples=20)
GROW = (canary(1000, 5000, hold=HOLD), PromoteStep())
SLO = Gate(name="slo", metric=Metric.ERROR_RATE, statistic="mean", limit=0.02)
FAST = Gate(name="fast", metric=Metric.LATENCY, statistic="p95", limit=200.0)


def begun(**changes):
    run = Run.of(policy(**{"steps": GROW, **changes}))
    run.serve(0.2)
    assert run.state.mode is Mode.STEP
    return run


def traffic(run, seconds, *, stable=(90, 0), candidate=(10, 0), latency_ms=100.0):
    """Until the stage is over."""
    place = run.state.position
    for _ in range(round(seconds * 10)):
        if run.state.mode is not Mode.STEP or run.state.position != place:
            return
        run.now += 0.1
        if not run.state.delivery.complete:
            run.ack()
        run.evidence(counts(*stable), counts(*candidate, latency_ms))


def said(run, name):
    return next(each for each in verdicts.readings(run.state, run.arm, now=run.now) if each.name == name)


# A limit.


def test_a_limit_fails_an_arm_that_is_no_worse_than_stable():
    run = begun(gates=(SLO,))
    traffic(run, 60, stable=(90, 9), candidate=(10, 1))
    assert run.state.mode in {Mode.REVERTING, Mode.REVERTED}
    reverted = next(record for record in run.records if record.decision.value == "reverted")
    assert "of its requests with an error, less than 2 % is allowed" in explain.sentence(reverted.reason)
    assert "that it is beyond its limit" in explain.sentence(reverted.reason)


def test_a_limit_passes_an_arm_that_keeps_to_it_though_stable_is_better():
    run = begun(gates=(SLO,))
    for turn in range(300):
        if not run.state.position:
            traffic(run, 0.1, candidate=(10, int(turn % 20 == 0)))
    assert run.state.position == 1
    assert said(run, "slo").verdict is Verdict.PASS


@pytest.mark.parametrize(("latency_ms", "end"), [(150.0, (Mode.STEP, 1)), (400.0, (Mode.REVERTING, 0))])
def test_a_limit_of_latency_is_about_the_requests_that_take_longer(latency_ms, end):
    run = begun(gates=(FAST,))
    for turn in range(200):
        if not run.state.position:
            traffic(run, 0.1, candidate=(10, 0), latency_ms=latency_ms if turn % 5 == 0 else 100.0)
    assert (run.state.mode, run.state.position) == end
    if run.state.mode is Mode.REVERTING:
        assert "p95 latency" in explain.sentence(run.state.because)
        assert "less than 200 ms is allowed" in explain.sentence(run.state.because)


def test_a_limit_needs_no_stable_and_no_fewer_bad_requests_than_any_gate():
    run = begun(gates=(SLO,))
    for _ in range(MIN_BAD - 1):
        run.evidence(None, counts(1, 1))
    run.evidence(None, counts(20, 0))
    assert said(run, "slo").verdict is not Verdict.FAIL
    before = run.arm.gates[0].blocks
    run.evidence(None, counts(1, 1))
    assert run.arm.gates[0].blocks == before + 1


# The blast radius.


def asked(**changes):
    document = policy(**{"steps": GROW, "blast_radius": 0.01, **changes})
    return {place: gate for (place, _), gate in radius._gates(document).items()}


def test_more_users_ask_for_a_smaller_margin():
    wide = Gate(name="errors", metric=Metric.ERROR_RATE, statistic="mean", margin=Margin(relative=1.0))
    found = asked(gates=(wide,))
    assert {place: gate.margin.absolute for place, gate in found.items()} == {0: pytest.approx(0.02), 1: pytest.approx(0.01)}


def test_nothing_more_is_asked_where_a_gate_asks_for_as_little_or_the_policy_for_nothing():
    strict = replace(ERRORS, margin=Margin(absolute=0.01))
    assert asked(gates=(strict,)) == {}
    assert asked(gates=(ERRORS,)).keys() == {0, 1}
    assert asked(gates=(replace(strict, role=Role.GOAL, better_by=Margin(relative=0.0)),)).keys() == {0, 1}
    assert asked(blast_radius=None) == {}


def test_a_share_grows_when_its_users_are_shown_not_to_suffer_and_says_so_meanwhile():
    run = begun(blast_radius=0.002)
    traffic(run, 2)
    assert run.state.position == 0
    assert run.state.because.code == "radius_open"
    assert "asks that the candidate is worse by less than 0.4 %" in explain.sentence(run.state.because)
    traffic(run, 60)
    assert run.state.position == 1


def test_an_arm_that_is_worse_than_the_radius_and_better_than_its_gate_stays():
    run = begun(blast_radius=0.002, gates=(replace(ERRORS, margin=Margin(absolute=0.2)),))
    for turn in range(900):
        traffic(run, 0.1, candidate=(10, int(turn % 2 == 0)))  # 5 % where 0.4 % are allowed
    assert (run.state.mode, run.state.position) == (Mode.STEP, 0)


def test_the_evidence_is_of_the_stage_and_an_edit_of_the_radius_starts_it_anew():
    run = begun(blast_radius=0.002)
    traffic(run, 1)
    before = run.arm.blast
    assert isinstance(before, GateState)
    assert before.seen.candidate.requests > 50
    run.on(PolicyChanged(policy=replace(run.state.policy, when=replace(run.state.policy.when, stuck_after_s=9000.0))))
    assert run.arm.blast == before
    run.on(PolicyChanged(policy=replace(run.state.policy, blast_radius=None)))
    assert run.arm.blast is None
    run.on(PolicyChanged(policy=replace(run.state.policy, blast_radius=0.004)))
    assert run.arm.blast.seen.candidate.requests == 0


def test_another_radius_is_another_question_and_another_stage_needs_evidence_of_its_own():
    run = begun(blast_radius=0.004, steps=(canary(1000, 1000, 5000, hold=HOLD), PromoteStep()))
    traffic(run, 1)
    assert run.arm.blast.seen.candidate.requests > 50
    run.on(PolicyChanged(policy=replace(run.state.policy, blast_radius=0.002)))
    assert run.arm.blast.seen.candidate.requests == 0
    traffic(run, 120)
    assert run.state.position == 1
    assert run.arm.blast.seen.candidate.requests == 0


# Drawn as the shares say.


def test_requests_that_go_astray_hold_the_stage_and_revert_nothing():
    run = begun(assignment=Assignment(), gates=(ERRORS,))
    traffic(run, 30, stable=(99, 0), candidate=(1, 0))
    assert (run.state.mode, run.state.position) == (Mode.STEP, 0)
    assert run.state.because.code == "ratio_off"
    words = explain.sentence(run.state.because)
    assert "candidate got 1% of" in words
    assert "10% are due" in words
    waiting = report.report(run.state, now=run.now, held=True)["step"]["waiting_for"]
    assert "ratio" in [item["kind"] for item in waiting]


def test_it_goes_on_when_they_are_drawn_right_again():
    run = begun(assignment=Assignment(), gates=(ERRORS,))
    traffic(run, 10, stable=(99, 0), candidate=(1, 0))
    traffic(run, 60)
    assert run.state.position == 1


def test_the_requests_of_sticky_users_are_no_draws():
    run = begun(gates=(ERRORS,))
    traffic(run, 30, stable=(99, 0), candidate=(1, 0))
    assert run.state.position == 1


# The noise of stable's pods.


def halves(run, *pairs):
    block = Block(start=run.now - 0.1, end=run.now, users={run.state.stable.identity: counts(9)}, halves={run.state.stable.identity: pairs})
    run.on(EvidenceArrived(block=block))


def noisy(minutes=90):
    run = Run.of(policy(arms=()))
    for minute in range(minutes):
        run.now += 60.0
        bad = (40, 2) if minute % 2 else (2, 40)
        halves(run, (3000, bad[0]), (3000, bad[1]))
    return run


def test_noise_is_learnt_while_nothing_is_rolled_out():
    run = noisy()
    assert run.state.noise.known
    assert run.state.noise.phi > 5


def test_noisy_pods_make_the_gates_slower_and_quiet_ones_do_not():
    found = {}
    for name, run in (("noisy", noisy()), ("quiet", Run.of(policy(arms=())))):
        run.on(PolicyChanged(policy=policy(steps=GROW, gates=(ERRORS, LATENCY))))
        run.serve(0.2)
        traffic(run, 0.5, candidate=(10, 6))
        found[name] = run.arm.gates[0].log_fail
    assert 0 < found["noisy"] < found["quiet"] / 2


def test_the_wish_is_not_touched_by_any_of_it():
    run = noisy()
    before = wish.traffic(run.state)
    halves(run, (3000, 1), (3000, 1))
    assert wish.traffic(run.state) is not None
    assert wish.same(wish.traffic(run.state), before)
