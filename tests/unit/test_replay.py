"""Simulated runs of a policy: what is drawn, how runs end, what is said of them."""

from dataclasses import replace

import numpy as np
import pytest

from policies.replay.flock import can_flock
from policies.replay.scenario import Incident, Load, Moment, Noise, Scenario, at_s, least_s
from policies.replay.simulate import COARSE_S, FINE_S, pace, simulate
from policies.replay.truth import Shares, Truth, poisson, rate
from policies.spec.policy import AbStep, CanaryStep, Gate, Hold, Margin, Metric, PromoteStep, Role, Then, When
from tests.making import canary, policy, variant

HOLD = Hold(for_s=60.0, samples=50)
ERRORS = Gate(name="errors", metric=Metric.ERROR_RATE, margin=Margin(absolute=0.02))
POLICY = policy(steps=(canary(1000, 5000, hold=HOLD), PromoteStep(keep_stable_for_s=30.0)), gates=(ERRORS,))
BAD = (("stable", 0.01), ("candidate", 0.3))


def runs(scenario, document=POLICY, count=20, seed=1):
    return simulate(document, scenario, runs=count, random=np.random.default_rng(seed))


def test_a_candidate_as_good_as_stable_is_promoted():
    found = runs(Scenario(name="good"))
    assert {(run.ended, run.code) for run in found} == {("promoted", "stage_passed")}
    assert all(run.ended_s >= 2 * HOLD.for_s + 30.0 and run.harmed == 0 and not run.met for run in found)


def test_a_candidate_that_fails_is_reverted_by_the_gate_and_costs_users_what_it_failed():
    found = runs(Scenario(name="bad", errors=BAD))
    assert {(run.ended, run.code, run.gate) for run in found} == {("reverted", "gate_failed", "errors")}
    assert all(run.met and run.harmed > 0 for run in found)
    assert all(run.harmed == pytest.approx(run.candidates * 0.29) for run in found)


def test_a_revert_is_timed_from_the_moment_the_trouble_was_met():
    found = runs(Scenario(name="late", incidents=(Incident(kind="errors", at=Moment(s=90.0), rate=1.0),)))
    assert {run.ended for run in found} == {"reverted"}
    assert all(run.ended_s > 90.0 and run.took_s == pytest.approx(run.ended_s - 90.0) for run in found)


def test_the_same_seed_gives_the_same_runs():
    assert runs(Scenario(name="bad", errors=BAD)) == runs(Scenario(name="bad", errors=BAD))
    assert runs(Scenario(name="bad", errors=BAD)) != runs(Scenario(name="bad", errors=BAD), seed=2)


def test_trouble_of_all_variants_is_nobodys_fault():
    outage = Scenario(name="outage", incidents=(Incident(kind="errors", arm="all", at=Moment(s=30.0), for_s=40.0, rate=0.5),))
    assert outage.meant == "promote"
    assert {run.ended for run in runs(outage)} == {"promoted"}


def test_lost_pods_take_the_candidate_out():
    found = runs(Scenario(name="pods", incidents=(Incident(kind="pods", at=Moment(s=70.0)),)))
    assert {run.code for run in found} == {"pods_gone"}
    assert all(9.0 <= run.took_s <= 13.0 for run in found)


def test_nobody_approves_and_the_run_ends_as_the_policy_says():
    from policies.spec.policy import ApproveStep

    steps = (canary(1000, hold=HOLD), ApproveStep(within_s=300.0), PromoteStep())
    never = runs(Scenario(name="never", approve_after_s=None), replace(POLICY, steps=steps))
    assert {run.code for run in never} == {"not_approved"}
    at_once = runs(Scenario(name="ok", approve_after_s=20.0), replace(POLICY, steps=steps))
    assert {run.ended for run in at_once} == {"promoted"}


def test_a_policy_that_holds_ends_held_with_its_reason():
    document = replace(POLICY, when=When(fail=Then.HOLD, stuck=Then.HOLD))
    found = runs(Scenario(name="bad", errors=BAD, horizon_s=1800.0), document)
    assert {(run.ended, run.code) for run in found} == {("held", "gate_failed")}
    frozen = runs(Scenario(name="bad", errors=BAD, horizon_s=1800.0), replace(POLICY, when=When(fail=Then.FREEZE)))
    assert {run.ended for run in frozen} == {"held"}
    assert max(run.ended_s for run in frozen) < 600.0


@pytest.mark.parametrize(
    "changes",
    [
        {"gates": (Gate(name="slo", metric=Metric.ERROR_RATE, statistic="mean", limit=0.05),)},
        {"gates": (Gate(name="fast", metric=Metric.LATENCY, statistic="p95", limit=2000.0),)},
        {"blast_radius": 0.05},
    ],
)
def test_what_cannot_be_folded_is_replayed_block_by_block(changes):
    document = replace(policy(steps=(canary(1000, 5000, hold=Hold(for_s=30.0, samples=100)), PromoteStep())), **changes)
    assert not can_flock(document)
    runs = simulate(document, Scenario(name="good"), runs=2, random=np.random.default_rng(1))
    assert [run.ended for run in runs] == ["promoted", "promoted"]


def test_several_arms_are_replayed_block_by_block_and_the_better_one_wins():
    goal = Gate(name="best", metric=Metric.ERROR_RATE, role=Role.GOAL, margin=Margin(absolute=0.02), better_by=Margin(relative=0.0))
    document = policy(
        arms=(variant("b", "v2", 8002), variant("c", "v3", 8003)),
        steps=(
            CanaryStep(stages=(((("b", 1000), ("c", 1000)), HOLD),)),
            AbStep(shares=(("b", 3000), ("c", 3000)), goal="best", at_most_s=3600.0, hold=HOLD),
            PromoteStep(),
        ),
        gates=(ERRORS, goal),
    )
    assert not can_flock(document)
    world = Scenario(name="c-wins", errors=(("stable", 0.1), ("b", 0.1), ("c", 0.01)))
    found = runs(world, document, count=3)
    assert {run.ended for run in found} == {"promoted"}


def test_time_goes_slowly_where_something_began_and_never_across_what_is_due():
    age, never = np.array([0.0, 300.0, 1e6, 1e6]), np.inf
    assert pace(age, np.array([never, never, never, 7.5])).tolist() == [FINE_S, 10.0, COARSE_S, 7.5]


def test_a_part_of_the_policy_is_a_part_of_its_holds_and_its_bake():
    assert least_s(POLICY) == 150.0
    assert at_s(Moment(part=0.5), POLICY) == 75.0


@pytest.mark.parametrize(
    ("load", "at", "wanted"),
    [
        (Load(points=((0.0, 5.0),)), 1e6, 5.0),
        (Load(points=((0.0, 10.0), (100.0, 20.0))), 50.0, 15.0),
        (Load(points=((0.0, 10.0), (100.0, 20.0))), 500.0, 20.0),
        (Load(points=((0.0, 10.0),), swing=0.5, period_s=100.0, peak_at_s=25.0), 25.0, 15.0),
        (Load(points=((0.0, 10.0),), swing=0.5, period_s=100.0, peak_at_s=25.0), 75.0, 5.0),
        (Load(points=((0.0, 10.0), (100.0, 20.0))).scaled(200.0), 0.0, 100.0),
    ],
)
def test_load_curves(load, at, wanted):
    assert rate(load, np.array([at]))[0] == pytest.approx(wanted)


@pytest.mark.parametrize("expected", [0.3, 29.0, 31.0, 400.0])
def test_counts_are_poisson_few_or_many(expected):
    drawn = poisson(np.random.default_rng(3), np.full(200_000, expected)).astype(float)
    assert drawn.min() >= 0
    assert drawn.mean() == pytest.approx(expected, rel=0.01)
    assert drawn.var() == pytest.approx(expected, rel=0.02)
    assert ((drawn - expected) ** 3).mean() == pytest.approx(expected, rel=0.25)


def drawn(scenario, *, share=0.1, at=100.0, for_s=10.0, count=4000, with_latency=False, gone=False):
    truth, random = Truth(scenario, POLICY, with_latency=with_latency), np.random.default_rng(5)
    times = np.full(count, at)
    shares = Shares(users=np.full((count, 1), share), copies=np.zeros((count, 1)))
    gone_by_arm = np.full((count, 1), gone)
    wander = truth.wander(random, times, None)
    return truth, truth.draw(random, at=times, for_s=np.full(count, for_s), shares=shares, gone=gone_by_arm, wander=wander)


def test_requests_and_errors_are_what_the_scenario_says():
    _, block = drawn(Scenario(name="x", load=Load(points=((0.0, 50.0),)), errors=BAD))
    user = block.users[0]
    assert user.requests.mean() == pytest.approx(50.0, rel=0.02)
    assert block.stable.requests.mean() == pytest.approx(450.0, rel=0.01)
    assert user.errors.sum() / user.requests.sum() == pytest.approx(0.3, rel=0.03)
    assert block.stable.errors.sum() / block.stable.requests.sum() == pytest.approx(0.01, rel=0.05)
    assert block.harmed.mean() == pytest.approx(50.0 * 0.29, rel=0.02)


def test_latency_incidents_move_the_candidates_histogram_alone():
    _, quiet = drawn(Scenario(name="x"), with_latency=True)
    _, slow = drawn(Scenario(name="x", incidents=(Incident(kind="latency", times=2.0),)), with_latency=True)

    def middle(counted):
        totals = counted.latency.sum(axis=0)
        return np.searchsorted(totals.cumsum(), totals.sum() / 2)

    assert middle(quiet.users[0]) == middle(quiet.stable)
    # the bins of the two scenarios begin at the same place: the slower one only adds bins at the end
    assert middle(slow.users[0]) - middle(slow.stable) == pytest.approx(np.log(2) / np.log(1.08), abs=1)


def test_silence_leaves_no_evidence_and_harms_everybody_who_was_sent_there():
    _, block = drawn(Scenario(name="x", incidents=(Incident(kind="silence", at=Moment(s=50.0)),)))
    assert not block.users[0].requests.any()
    assert block.harmed.mean() == pytest.approx(50.0, rel=0.01)
    assert block.bad.all()


def test_noise_has_mean_one_and_changes_with_its_stretch():
    truth, random = Truth(Scenario(name="x", noise=Noise(shared=0.5, arms=0.3)), POLICY, with_latency=False), np.random.default_rng(1)
    first = truth.wander(random, np.full(50_000, 10.0), None)
    assert first.shared.mean() == pytest.approx(1.0, abs=0.01)
    assert first.shared.std() == pytest.approx(0.5, rel=0.03)
    assert first.own.mean() == pytest.approx(1.0, abs=0.01)
    assert truth.wander(random, np.full(50_000, 59.0), first) is first
    later = truth.wander(random, np.concatenate([np.full(25_000, 59.0), np.full(25_000, 61.0)]), first)
    assert np.array_equal(later.shared[:25_000], first.shared[:25_000])
    assert not np.array_equal(later.shared[25_000:], first.shared[25_000:])


@pytest.mark.parametrize(
    ("incident", "right"),
    [
        (Incident(kind="errors", rate=0.5), "revert"),
        (Incident(kind="errors", arm="all", rate=0.5), "promote"),
        (Incident(kind="errors", arm="stable", rate=0.5), "promote"),
        (Incident(kind="latency", times=0.5), "promote"),
        (Incident(kind="latency", tail_share=0.1, tail_times=2.0), "revert"),
        (Incident(kind="silence"), "revert"),
    ],
)
def test_what_is_right_follows_from_the_incidents(incident, right):
    assert Scenario(name="x", incidents=(incident,)).meant == right
    assert Scenario(name="x", incidents=(incident,), right="promote").meant == "promote"
