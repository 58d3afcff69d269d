"""The planner: its simulated gates are the gates that ship, its figures obey the laws they must, and its hints work."""

import math
from dataclasses import replace

import numpy as np
import pytest

from policies import verdicts
from policies.evidence import LATENCY_EDGES_MS, Counts
from policies.gates import Verdict, feed, gate_test, open_gate, read
from policies.planning import sizes, words
from policies.planning.course import POWER, passing, smallest, split, watch
from policies.planning.load import Load
from policies.planning.plan import plan
from policies.planning.runs import ErrorRuns, LatencyRuns
from policies.planning.sentences import budget, sentences
from policies.planning.warnings import decides, warnings
from policies.rollout import Mode
from policies.spec.policy import (
    AbStep,
    ApproveStep,
    CanaryStep,
    Gate,
    Hold,
    Margin,
    Metric,
    ProbeRequest,
    ProbeStep,
    PromoteStep,
    Role,
    SwitchStep,
    When,
)
from policies.statistics.margins import requests_to_pass
from tests.crowd import begun, share
from tests.making import canary, policy, shadow, variant

DEADLINE_S = 3600.0
ERRORS = Gate(name="errors", metric=Metric.ERROR_RATE, statistic="mean", margin=Margin(absolute=0.005))
RATIO = replace(ERRORS, margin=Margin(relative=0.25))
SLOW = Gate(name="latency", metric=Metric.LATENCY, margin=Margin(relative=0.25))
TAIL = replace(SLOW, name="tail", statistic="p95")
PROMOTE = PromoteStep()


def planned(rps=100.0, *, gates=(ERRORS,), steps=None, load=None, **more):
    steps = (canary(1000, hold=Hold(for_s=300.0)), PROMOTE) if steps is None else steps
    return plan(policy(gates=gates, steps=steps, **more), load or Load(rps=rps))


def one(found, stage=0, gate=0):
    return found.courses[0].stages[stage].gates[gate]


def test_the_closed_form_of_pass_is_near_what_the_gate_takes():
    runs = ErrorRuns.start(gate_test(replace(ERRORS, margin=Margin(relative=0.5)), deadline_s=DEADLINE_S), 200)
    good = np.full(200, 0.01)
    through = passing(runs.under((good, good), (10.0, 90.0)), passed=lambda at: at.log_pass >= math.log(20), window_s=1.0, horizon_s=7200.0)
    needed = requests_to_pass(0.5, rate=0.01, share=0.1, beta=0.05)
    assert needed / 2 < through.time_s(0.5) * 10 < needed * 2


# The simulated gates are the ones that ship.


def histogram(random: np.random.Generator, count: int, factor: float, load: Load) -> Counts:
    values = load.latency_ms * factor * np.exp(load.latency_spread * random.standard_normal(count))
    places, counts = np.unique(np.searchsorted(LATENCY_EDGES_MS, values), return_counts=True)
    return Counts(requests=count, latency=tuple((int(place), int(each)) for place, each in zip(places, counts, strict=True)))


def block(gate: Gate, random: np.random.Generator, rate: float, level: float, load: Load) -> Counts:
    count = int(random.poisson(rate * 0.5))
    if gate.metric is Metric.LATENCY:
        return histogram(random, count, level, load)
    return Counts(requests=count, errors=int(random.binomial(count, level)))


def directly(gate: Gate, level: float, base: float, *, rates: tuple[float, float], good_s: float, until_s: float, runs: int) -> np.ndarray:
    """When each rollout fails, fed request by request through `policies.gates`; trouble begins after `good_s`."""
    random, load, found = np.random.default_rng(99), Load(rps=sum(rates)), []
    for _ in range(runs):
        state, seen = open_gate(gate, now=0.0, deadline_s=DEADLINE_S), math.inf
        for index in range(int((good_s + until_s) * 2)):
            now = (index + 1) / 2
            tested = block(gate, random, rates[0], level if now > good_s else base, load)
            state = feed(gate, state, block(gate, random, rates[1], base, load), tested, now=now)
            said = read(gate, state, alpha=0.005, now=now, no_data_after_s=300.0)
            if now > good_s and said.verdict is Verdict.FAIL:
                seen = now - good_s
                break
        found.append(seen)
    return np.array(found)


def simulated(gate: Gate, level: float, base: float, *, rates: tuple[float, float], good_s: float, until_s: float, runs: int) -> np.ndarray:
    test, load = gate_test(gate, deadline_s=DEADLINE_S), Load(rps=sum(rates))
    fresh = ErrorRuns.start(test, runs) if gate.metric is Metric.ERROR_RATE else LatencyRuns.start(load, test, runs)
    good, bad = np.full(runs, base), np.full(runs, level)
    before = passing(fresh.under((good, good), rates), passed=lambda at: np.ones(at.size, bool), window_s=good_s, horizon_s=good_s).at(
        good_s
    )
    return watch(before.under((bad, good), rates), needed=200.0, until_s=until_s, seed=5).seen_s


@pytest.mark.parametrize(
    ("gate", "level", "base", "good_s", "within_s"),
    [
        (ERRORS, 0.05, 0.01, 0.0, 30.0),
        (ERRORS, 0.05, 0.01, 60.0, 55.0),
        (RATIO, 0.04, 0.01, 0.0, 40.0),
        (SLOW, 1.6, 1.0, 0.0, 15.0),
        (SLOW, 1.6, 1.0, 30.0, 25.0),
        (TAIL, 2.0, 1.0, 20.0, 9.0),
    ],
)
def test_figures_agree_with_gates_that_are_fed_block_by_block(gate: Gate, level: float, base: float, good_s: float, within_s: float):
    """Neither seed nor blocks nor the way of drawing are the same; the probability to be seen in time is, within binomial bounds."""
    shared = {"rates": (10.0, 90.0), "good_s": good_s, "until_s": within_s}
    real, fast = directly(gate, level, base, runs=50, **shared), simulated(gate, level, base, runs=400, **shared)
    chances = [(times <= within_s).mean() for times in (real, fast)]
    middle = (50 * chances[0] + 400 * chances[1]) / 450
    assert 0.05 < middle < 0.95, "a time at which it is open whether trouble was seen"
    # and 8 % of time, the length of a block of the fast runs
    slack = max(abs((fast <= within_s * factor).mean() - chances[1]) for factor in (0.92, 0.999))
    assert abs(chances[0] - chances[1]) <= 3.5 * (middle * (1 - middle) * (1 / 50 + 1 / 400)) ** 0.5 + slack


@pytest.mark.parametrize("gate", [SLOW, TAIL])
def test_blocks_of_a_latency_gate_are_worth_what_the_gate_says(gate: Gate):
    load, random = Load(rps=100.0), np.random.default_rng(8)
    test = gate_test(gate, deadline_s=DEADLINE_S)
    level = np.ones(1)
    runs = LatencyRuns.start(load, test, 1).under((level, level), (20.0, 60.0))
    known = random.multinomial(500, load.latencies()).astype(float)
    mean = test.update(known, known * 0, elapsed_s=1.0)
    table = replace(runs, mean=mean)._table()
    bins = table.bins
    tested, other = (random.multinomial(count, load.latencies()[bins] / load.latencies()[bins].sum()) for count in (25, 75))
    worth = 100 * (tested @ table.tested[0][table.tested[1]] / 25 + other @ table.other[0][table.other[1]] / 75)
    wide = np.zeros((2, len(known)))
    wide[0, bins], wide[1, bins] = tested, other
    after = mean.update(wide[1], wide[0], elapsed_s=0.0).process
    assert worth[test.process.log_fail.size :] == pytest.approx(after.log_pass, rel=1e-6, abs=1e-6)


def promoted_after(document, load: Load, random: np.random.Generator) -> float:
    """How long one release of a good candidate takes in the real engine."""
    run = begun(document)
    start = run.now
    while run.state.mode is Mode.STEP:
        run.now += 0.25
        if not run.state.delivery.complete:
            run.ack()
        arm_bp = share(run).get("candidate", 0)
        rates = load.rps * (1 - arm_bp / 10_000), load.rps * arm_bp / 10_000
        run.evidence(*(block(ERRORS, random, 0.5 * rate, load.error_rate, load) for rate in rates))
        assert run.now - start < 3600
    return run.now - start


def test_the_schedule_is_that_of_the_real_engine():
    steps = (canary(2000, 5000, hold=Hold(for_s=20.0, samples=300)), PROMOTE)
    document, load, random = policy(gates=(ERRORS,), steps=steps), Load(rps=100.0), np.random.default_rng(12)
    course = plan(document, load).courses[0]
    times = np.array([promoted_after(document, load, random) for _ in range(12)])
    assert (times <= course.least_s * 1.08).sum() >= 2
    assert (times <= course.least_s * 0.92).sum() <= 10
    assert (times <= sum(stage.sure_s for stage in course.stages) * 1.08).sum() >= 6


# Laws.


def test_the_same_question_has_the_same_answer():
    assert planned() == planned()


def test_more_load_never_makes_detection_slower():
    quiet, busy, busier = (one(planned(rps, gates=(ERRORS, SLOW))).detections for rps in (20.0, 80.0, 320.0))
    for some, more in ((quiet, busy), (busy, busier)):
        for slow, fast in zip(some, more, strict=True):
            assert (fast.time_s or math.inf) <= (slow.time_s or math.inf)
            assert fast.chance >= slow.chance - 0.05  # 6 of 120 runs


@pytest.mark.parametrize("gate", [ERRORS, SLOW])
def test_the_smallest_trouble_shrinks_with_a_longer_hold(gate: Gate):
    found = [
        one(planned(50.0, gates=(gate,), steps=(canary(1000, hold=Hold(for_s=hold_s)), PROMOTE))).smallest for hold_s in (60, 300, 1500)
    ]
    assert found[0] > found[1] > found[2] > sizes.allowed(gate, Load(rps=50.0))


def test_trouble_of_the_smallest_size_is_seen_with_the_probability_it_is_named_for():
    found = one(planned())
    test = gate_test(ERRORS, deadline_s=verdicts.deadline_s(policy(gates=(ERRORS,), steps=(canary(1000, hold=Hold(for_s=300.0)), PROMOTE))))
    base, bad = np.full(400, 0.01), np.full(400, found.smallest)
    seen = watch(ErrorRuns.start(test, 400).under((bad, base), (10.0, 90.0)), needed=found.needed, until_s=300.0, seed=17)
    assert seen.chance(300.0) == pytest.approx(POWER, abs=0.12)


def test_the_smallest_amount_is_found_between_known_ones():
    asked: list[float] = []

    def power(amounts):
        asked.extend(amounts)
        return [amount / (amount + 0.25) for amount in amounts]

    assert smallest(power, {0.1: power([0.1])[0], 5.0: power([5.0])[0]}, low=0.01) == pytest.approx(1.0, rel=0.05)
    assert min(asked[2:]) > 0.1
    assert smallest(power, {0.1: 0.3}, low=0.01) is None
    assert 0.01 < smallest(lambda amounts: [1.0 for _ in amounts], {5.0: 1.0}, low=0.01) < 0.02


def test_alarms_are_kept_by_size_and_the_quiet_runs_count():
    runs = ErrorRuns.start(gate_test(ERRORS, deadline_s=DEADLINE_S), 40)
    levels, base = np.repeat([0.01, 1.0], 20), np.full(40, 0.01)
    good, bad = split(watch(runs.under((levels, base), (10.0, 90.0)), needed=200.0, until_s=20.0), 2)
    assert good.time_s(0.5) is None
    assert good.harm_of(0.5) is None
    assert bad.chance(20.0) == 1.0
    assert bad.time_s(0.8) >= bad.time_s(0.5) > 0
    assert bad.harm_of(0.95) >= bad.harm_of(0.5) >= 3


def test_runs_go_on_while_another_gate_is_waited_for():
    test, good = gate_test(ERRORS, deadline_s=DEADLINE_S), np.full(60, 0.01)
    runs = ErrorRuns.start(test, 60).under((good, good), (10.0, 90.0))
    through = passing(runs, passed=lambda at: np.ones(at.size, bool), window_s=10.0, horizon_s=100.0)
    soon, late = through.at(5.0), through.at(500.0)
    assert float(soon.gate.process.age_s) == pytest.approx(5.0, rel=0.1)
    assert float(late.gate.process.age_s) == pytest.approx(500.0)
    assert late.gate.requests.mean() == pytest.approx(5000, rel=0.05)


def test_the_budget_is_split_over_all_that_may_revert():
    document = policy(gates=(ERRORS, SLOW, replace(TAIL, role=Role.SIGNAL)), steps=(shadow(1000), canary(1000), PROMOTE))
    parts = budget(document)
    assert [name for name, _ in parts] == ["errors", "latency", "errors (copies)"]
    assert sum(part for _, part in parts) == pytest.approx(1.0)
    found = plan(document, Load(rps=100.0))
    assert {each.needed for stage in found.courses[0].stages for each in stage.gates} == {3 / document.false_revert}


def test_trouble_within_the_margin_is_not_looked_for():
    found = one(planned(gates=(replace(ERRORS, margin=Margin(absolute=0.02)),)))
    assert [(each.amount, each.beyond) for each in found.detections] == [(0.02, False), (0.05, True), (1.0, True)]
    assert found.detections[0].time_s is None


def test_a_stage_lasts_as_long_as_its_hold_its_samples_and_its_gates():
    for hold, bottleneck in ((Hold(for_s=3600.0), "hold"), (Hold(for_s=60.0, samples=50_000), "samples"), (Hold(for_s=60.0), "errors")):
        stage = planned(steps=(canary(1000, hold=hold), PROMOTE)).courses[0].stages[0]
        assert stage.bottleneck == bottleneck
        assert stage.least_s >= max(hold.for_s, hold.samples / 10)


def test_what_a_gate_has_proved_it_need_not_prove_again():
    first, second = planned(steps=(canary(1000, 2000, hold=Hold(for_s=60.0)), PROMOTE)).courses[0].stages[:2]
    assert second.gates[0].pass_s < first.gates[0].pass_s / 10


def test_the_schedule_leaves_out_what_takes_as_long_as_it_takes():
    probe = ProbeStep(requests=(ProbeRequest(path="/"),), for_s=120.0)
    steps = (
        probe,
        canary(1000, hold=Hold(for_s=600.0)),
        ApproveStep(who="ops", within_s=86_400.0),
        canary(5000, hold=Hold(for_s=600.0)),
        PROMOTE,
    )
    found = planned(steps=steps)
    course = found.courses[0]
    assert 1320.0 <= course.least_s < 1320.0 * 1.6
    assert course.stages[2].least_s == 0.0
    assert any("ops within 24 h" in text for text in sentences(found))
    assert all(each.fault.path[2] in {1, 3} for each in warnings(found))
    assert course.shortest_s < course.least_s


def test_a_share_is_left_out_where_the_next_one_costs_hardly_more():
    skips = [
        stage.skippable for stage in planned(10.0, steps=(canary(500, 600, 10_000, hold=Hold(for_s=600.0)), PROMOTE)).courses[0].stages
    ]
    assert skips[0]
    assert not any(skips[1:])


def test_a_share_for_segments_alone_is_not_left_out():
    steps = (CanaryStep(stages=tuple(((("candidate", share_bp),), Hold(for_s=60.0)) for share_bp in (0, 1000, 1500))), PROMOTE)
    assert [stage.skippable for stage in planned(steps=steps).courses[0].stages] == [False, True, False, False]


def test_a_share_of_everything_is_held_against_what_stable_was_like():
    found = planned(steps=(shadow(1000, hold=Hold(for_s=60.0)), SwitchStep(arm="candidate", hold=Hold(for_s=600.0)), PROMOTE))
    switched = found.courses[0].stages[1]
    assert switched.flows[0].arm == 100.0
    assert one(found, 1).detections[-1].chance == 1.0


def test_arms_with_the_same_shares_are_planned_once_and_others_apart():
    arms = tuple(variant(name, name) for name in ("b", "c", "d"))
    steps = (canary({"b": 1000, "c": 1000, "d": 3000}, hold=Hold(for_s=60.0)), PromoteStep(arm="b", keep_stable_for_s=60.0))
    found = planned(arms=arms, steps=steps)
    assert [course.arms for course in found.courses] == [("b", "c"), ("d",)]
    assert [course.stages[0].flows[0].arm for course in found.courses] == [10.0, 30.0]
    assert found.courses[0].stages[0].flows[0].against == 50.0


def test_a_goal_is_asked_where_it_decides_and_for_improvements():
    goal = Gate(name="better", metric=Metric.ERROR_RATE, role=Role.GOAL, statistic="mean", better_by=Margin(relative=0.0))
    steps = (canary(1000, hold=Hold(for_s=60.0)), AbStep(shares=(("candidate", 5000),), goal="better", at_most_s=86_400.0), PROMOTE)
    found = planned(gates=(ERRORS, goal), steps=steps)
    assert [each.gate.name for each in found.courses[0].stages[0].gates] == ["errors"]
    asked = one(found, 1, 1)
    assert [each.amount for each in asked.detections] == [0.005, 0.001]
    assert asked.detections[1].time_s < asked.detections[0].time_s
    assert asked.smallest < 0.01
    assert asked.pass_chance > 0.95
    assert any("a fall from 1% to 0.1% is proved after about" in text for text in sentences(found))
    assert any("a candidate with the largest usual improvement is promoted after about" in text for text in sentences(found))


# Warnings.


def test_a_policy_that_can_decide_has_no_warning():
    assert warnings(planned(steps=(canary(1000, 5000, hold=Hold(for_s=600.0)), PROMOTE))) == ()


def test_a_short_hold_is_told_and_the_hold_of_the_hint_is_long_enough():
    found = planned(20.0, steps=(canary(1000, hold=Hold(for_s=30.0)), PROMOTE), when=When(stuck_after_s=86_400.0))
    (warned,) = warnings(found)
    assert not warned.blocks
    assert warned.fault.path == ("spec", "steps", 0, "canary", "hold")
    hold_s = found.courses[0].stages[0].suggested_hold_s
    assert f"hold: {{for: {words.written(hold_s)}}}" in warned.fault.hint
    assert warnings(planned(20.0, steps=(canary(1000, hold=Hold(for_s=hold_s)), PROMOTE), when=When(stuck_after_s=86_400.0))) == ()


def test_samples_that_do_not_come_in_time_block():
    found = planned(steps=(canary(1000, hold=Hold(for_s=60.0, samples=1_000_000)), PROMOTE))
    (warned,) = warnings(found)
    assert warned.blocks
    assert "1000000 samples take 28 h" in warned.fault.message
    assert decides(warnings(planned(steps=(canary(1000, hold=Hold(for_s=60.0, samples=36_000)), PROMOTE))))
    assert "samples: 36000" in warned.fault.hint


def test_a_gate_that_cannot_pass_in_time_blocks_and_either_hint_mends_it():
    def at(gate=ERRORS, stuck_after_s=3600.0):
        return planned(5.0, gates=(gate,), steps=(canary(2000, hold=Hold(for_s=1800.0)), PROMOTE), when=When(stuck_after_s=stuck_after_s))

    found = at()
    (warned,) = (each for each in warnings(found) if each.blocks)
    assert "errors says PASS" in warned.fault.message
    gate = one(found)
    assert words.margin(gate.margin, Metric.ERROR_RATE) in warned.fault.hint
    assert decides(warnings(at(replace(ERRORS, margin=gate.margin))))
    assert gate.pass_sure_s > 3600.0
    assert decides(warnings(at(stuck_after_s=gate.pass_sure_s * 1.25)))


def test_no_margin_is_named_that_no_error_rate_exceeds():
    gate = replace(ERRORS, margin=Margin(absolute=0.3))
    found = planned(0.002, gates=(gate,), steps=(canary(1000), PROMOTE), when=When(stuck_after_s=3600.0))
    assert one(found).margin is None
    (warned,) = (each for each in warnings(found) if "says PASS" in each.fault.message)
    assert warned.fault.hint.startswith("when: {stuck")


def test_what_is_seen_too_late_is_told_also_where_the_hold_shows_nothing():
    found = planned(steps=(canary(1000, hold=Hold(for_s=0.2)), PROMOTE))
    assert one(found).smallest is None
    assert any("within 0.2 s with a chance of 0% only" in each.fault.message for each in warnings(found))


def test_a_share_without_requests_blocks_and_a_thin_one_is_told():
    def of(share_bp):
        steps = (canary(share_bp, hold=Hold(for_s=600.0)), PROMOTE)
        return [each for each in warnings(planned(1.0, steps=steps)) if "no data" in each.fault.message]

    (thin,) = of(200)
    assert not thin.blocks
    (none,) = of(10)
    assert none.blocks
    assert none.fault.path == ("spec", "steps", 0, "canary", "shares", 0)
    assert not of(2500)


def test_a_goal_that_cannot_be_reached_blocks():
    goal = Gate(name="better", metric=Metric.ERROR_RATE, role=Role.GOAL, statistic="mean", better_by=Margin(relative=0.0))
    found = planned(1.0, gates=(goal,), steps=(AbStep(shares=(("candidate", 5000),), goal="better", at_most_s=600.0), PROMOTE))
    (warned,) = (each for each in warnings(found) if "says PASS" in each.fault.message)
    assert warned.blocks
    assert "10 min (at_most)" in warned.fault.message


def test_a_margin_that_lets_everything_pass_is_told():
    (warned,) = warnings(planned(gates=(replace(SLOW, margin=Margin(relative=2.0)),)))
    assert "counts as as good as stable" in warned.fault.message


def test_with_hardly_any_traffic_everything_is_said_that_is_missing():
    steps = (canary(1000, hold=Hold(for_s=60.0)), PROMOTE)
    found = planned(0.02, gates=(ERRORS, SLOW, replace(TAIL, margin=Margin(absolute=50.0))), steps=steps)
    told = warnings(found)
    assert not decides(told)
    assert all(each.fault.hint for each in told)
    assert any("requests/s" in each.fault.hint for each in told)
    assert any("more traffic" in each.fault.hint for each in told)
    assert any("is not reverted within" in text for text in sentences(found))
    assert any("it sees nothing for sure" in text for text in sentences(found))
    assert any("does not get through canary 10% in time" in text for text in sentences(found))


def test_a_hold_longer_than_the_deadline_blocks():
    (warned,) = warnings(planned(steps=(canary(1000, hold=Hold(for_s=7800.0)), PROMOTE)))
    assert (warned.blocks, warned.fault.hint) == (
        True,
        "when: {stuck: {after: 12000s}}".replace("12000s", words.written(words.rounded_up(11_700))),
    )


def test_stages_of_several_groups_of_arms_are_told_apart():
    arms = tuple(variant(name, name) for name in ("b", "c"))
    steps = (canary({"b": 1000, "c": 2000}, hold=Hold(for_s=60.0, samples=1_000_000)), PromoteStep(arm="b"))
    found = planned(arms=arms, steps=steps)
    assert {each.fault.message.split(":")[0] for each in warnings(found) if "samples take" in each.fault.message} == {
        "canary b 10%, c 20% (b)",
        "canary b 10%, c 20% (c)",
    }
    assert any(text.startswith("c: errors: with 20 of 100 requests/s") for text in sentences(found))
    assert any("have 0.5% each for each arm: a FAIL needs odds of 200:1" in text for text in sentences(found))


def test_without_a_guardrail_nothing_is_taken_back():
    found = planned(gates=(replace(ERRORS, role=Role.SIGNAL),))
    assert any("no guardrail" in text for text in sentences(found))
    assert found.courses[0].stages[0].blast is None
    assert not any("total failure" in text for text in sentences(found))


@pytest.mark.parametrize(("rate", "amounts"), [(0.0, [0.002, 0.005, 1.0]), (0.3, [0.6, 1.0])])
def test_a_stable_without_errors_or_with_many_can_be_planned_for(rate: float, amounts: list[float]):
    found = planned(load=Load(rps=100.0, error_rate=rate))
    assert [each.amount for each in one(found).detections] == pytest.approx(amounts)
    assert one(found).detections[-1].chance == 1.0
    assert sizes.target(ERRORS, found.load).amount == amounts[-1] if rate else 0.005


@pytest.mark.parametrize(
    ("gate", "limit"),
    [
        (replace(ERRORS, margin=Margin(relative=1.0, absolute=0.005)), 0.02),
        (replace(ERRORS, role=Role.GOAL, better_by=Margin(absolute=0.004)), 0.006),
        (replace(SLOW, margin=Margin(absolute=50.0)), 1.5),
        (replace(SLOW, role=Role.GOAL, better_by=Margin(relative=0.25)), 0.8),
        (replace(SLOW, role=Role.GOAL, better_by=Margin(absolute=40.0)), 0.6),
    ],
)
def test_the_margin_in_the_unit_of_what_is_looked_for(gate: Gate, limit: float):
    assert sizes.allowed(gate, Load(rps=1.0)) == pytest.approx(limit)


def test_a_margin_beyond_everything_leaves_nothing_to_see():
    found = planned(gates=(replace(ERRORS, margin=Margin(absolute=0.99)),))
    assert one(found).smallest is None
    assert any("none of the usual changes is beyond the margin" in text for text in sentences(found))


def test_a_goal_beyond_all_usual_improvements_is_told():
    goal = replace(SLOW, role=Role.GOAL, better_by=Margin(relative=0.9))
    steps = (AbStep(shares=(("candidate", 5000),), goal="latency", at_most_s=600.0), PROMOTE)
    told = [each.fault.message for each in warnings(planned(gates=(goal,), steps=steps))]
    assert any("a candidate with any usual improvement" in each for each in told)
