"""`errors.blast_radius` in the planner: what has to be shown before a share grows, how long that takes, and a radius that would do."""

from dataclasses import replace

import numpy as np
import pytest

from policies import radius, verdicts
from policies.evidence import Counts
from policies.gates import feed, open_gate, read
from policies.planning.load import Load
from policies.planning.plan import plan
from policies.planning.sentences import sentences
from policies.planning.warnings import decides, warnings
from policies.spec.policy import Gate, Hold, Margin, Metric, PromoteStep
from tests.making import canary, policy

ERRORS = Gate(name="errors", metric=Metric.ERROR_RATE, statistic="mean", margin=Margin(absolute=0.01))


def made(blast_radius=0.001, *, gates=(ERRORS,)):
    return policy(gates=gates, steps=(canary(500, 5000, hold=Hold(for_s=60.0)), PromoteStep()), blast_radius=blast_radius)


def asked(found):
    """By stage."""
    return [[gate for gate in stage.gates if gate.radius] for stage in found.courses[0].stages]


def test_each_stage_asks_for_what_the_next_share_needs():
    found = plan(made(), Load(rps=400.0))
    small, half, promote = asked(found)
    assert [each.gate.margin.absolute for each in (*small, *half)] == pytest.approx([0.002, 0.001])
    assert promote == []
    for stage, (each,) in zip(found.courses[0].stages, (small, half), strict=False):
        assert (each.detections, each.smallest) == ((), None), "only its PASS counts"
        assert each.gate == radius.of_stage(found.policy, stage.phase.position, "candidate")
        assert stage.least_s >= each.pass_s
        assert stage.bottleneck == each.name


def test_it_is_not_asked_where_it_is_not_wished_for_or_a_guardrail_asks_for_as_little():
    assert asked(plan(made(None), Load(rps=400.0))) == [[], [], []]
    strict = replace(ERRORS, margin=Margin(absolute=0.0005))
    assert asked(plan(made(gates=(strict,)), Load(rps=400.0))) == [[], [], []]


def test_what_is_planned_is_what_a_server_waits_for():
    found = plan(made(0.01, gates=(replace(ERRORS, margin=Margin(absolute=0.05)),)), Load(rps=100.0))
    (each,) = asked(found)[0]
    random, times = np.random.default_rng(3), []
    for _ in range(60):
        state, now = open_gate(each.gate, now=0.0, deadline_s=verdicts.deadline_s(found.policy)), 0.0
        while now < 3600.0:
            now += 1.0
            stable, arm = (
                Counts(requests=int(number), errors=int(random.binomial(number, 0.01))) for number in random.poisson((95.0, 5.0))
            )
            state = feed(each.gate, state, stable, arm, now=now)
            if read(each.gate, state, alpha=found.policy.false_revert, now=now, no_data_after_s=300.0).verdict == "PASS":
                break
        times.append(now)
    assert each.pass_s == pytest.approx(float(np.median(times)), rel=0.2)


def test_less_room_takes_longer_and_the_schedule_tells():
    tight, wide, none = (plan(made(part), Load(rps=400.0)).courses[0].least_s for part in (0.001, 0.004, None))
    assert tight > wide >= none


def test_people_are_told_how_many_requests_it_takes():
    told = [text for text in sentences(plan(made(), Load(rps=400.0))) if text.startswith("blast radius")]
    assert len(told) == 2
    assert told[0].startswith(
        "blast radius 0.1% at 50%: with 20 of 400 requests/s (canary 5%) a candidate as good as stable shows an error rate"
    )
    assert "less than 0.2 points above stable's after about" in told[0]
    assert told[0].endswith("requests")


def test_the_radius_that_is_named_would_do():
    stuck = plan(made(0.0005), Load(rps=50.0))
    assert not decides(warnings(stuck))
    hints = [each.fault.hint for each in warnings(stuck) if "blast radius" in each.fault.message]
    named = max(float(hint.removeprefix("errors: {blast_radius: ").split("%")[0]) for hint in hints if hint.startswith("errors:"))
    again = plan(made(named / 100), Load(rps=50.0))
    assert all(each.pass_chance >= 0.8 for stage in asked(again) for each in stage)


def test_where_no_radius_helps_the_traffic_is_named():
    stuck = plan(made(0.00001), Load(rps=5.0))
    hints = [each.fault.hint for each in warnings(stuck) if "blast radius" in each.fault.message]
    assert any(hint.startswith("a much larger errors.blast_radius, or about") for hint in hints)
