"""Gates with a limit in the planner: the same test as in a server, troubles as multiples of the limit, and a stable that breaks it itself."""

import math
from dataclasses import replace

import numpy as np
import pytest

from policies import verdicts
from policies.evidence import LATENCY_EDGES_MS, Counts, latency_bin
from policies.gates import feed, open_gate, read
from policies.planning import sizes
from policies.planning.load import Load
from policies.planning.plan import REACTION_S, plan
from policies.planning.sentences import sentences
from policies.planning.warnings import decides, warnings
from policies.spec.policy import Gate, Hold, Margin, Metric, PromoteStep
from tests.making import canary, policy

SLO = Gate(name="slo", metric=Metric.ERROR_RATE, statistic="mean", margin=Margin(), limit=0.02)
TAIL = Gate(name="tail", metric=Metric.LATENCY, statistic="p95", margin=Margin(), limit=600.0)
LOAD = Load(rps=100.0)


def planned(gate, *, load=LOAD, hold_s=300.0):
    return plan(policy(gates=(gate,), steps=(canary(1000, hold=Hold(for_s=hold_s)), PromoteStep())), load)


def first(found):
    return found.courses[0].stages[0].gates[0]


def one_by_one(gate, *, chance, rate, odds, runs=160):
    """Half of the times after which a server's gate fails an arm whose answers are bad with this chance [s]."""
    random, times = np.random.default_rng(5), []
    slow = latency_bin(gate.limit) + 1 if gate.metric is Metric.LATENCY else 0
    for _ in range(runs):
        state, now = open_gate(gate, now=0.0, deadline_s=verdicts.deadline_s(policy(gates=(gate,)))), 0.0
        while now < 600.0:
            now += float(random.exponential(1 / rate))
            bad = bool(random.random() < chance)
            counts = Counts(requests=1, errors=int(bad and not slow), latency=((slow if bad and slow else 0, 1),))
            state = feed(gate, state, Counts(requests=0, errors=0), counts, now=now)
            if read(gate, state, alpha=1 / odds, now=now, no_data_after_s=300.0).verdict == "FAIL":
                break
        times.append(now)
    return float(np.median(times))


@pytest.mark.parametrize("gate", [SLO, TAIL], ids=lambda gate: gate.name)
def test_what_is_planned_is_what_a_server_does(gate):
    each = first(planned(gate))
    found = each.detections[0]
    chance = found.amount
    if gate.metric is Metric.LATENCY:
        chance = float(LOAD.latencies(found.amount)[latency_bin(gate.limit) + 1 :].sum())
    alone = one_by_one(gate, chance=chance, rate=10.0, odds=each.needed)
    assert found.time_s - REACTION_S == pytest.approx(alone, rel=0.25)


def test_troubles_are_some_times_what_the_limit_allows_and_smaller_ones_take_longer():
    errors, latency = first(planned(SLO)), first(planned(TAIL))
    assert [each.amount for each in errors.detections] == pytest.approx([0.04, 0.1, 1.0])
    at_limit = 600.0 / LOAD.quantile_ms(0.95)
    assert [each.amount for each in latency.detections] == pytest.approx([at_limit * 1.25, at_limit * 2])
    for gate in (errors, latency):
        times = [each.sure_s for each in gate.detections if each.sure_s is not None]
        assert times == sorted(times, reverse=True)
        assert all(each.beyond for each in gate.detections)
        assert gate.smallest is not None
        assert gate.pass_chance > 0.95, "stable is well within"
    assert sizes.allowed(SLO, LOAD) < errors.smallest <= 0.1


def test_bad_answers_are_counted_of_errors_and_answers_of_latency():
    errors, latency = first(planned(SLO)), first(planned(TAIL))
    total = errors.detections[-1]
    assert total.harm == pytest.approx(10.0 * total.time_s, rel=0.3), "all of 10 requests/s are bad"
    twice = latency.detections[-1]
    assert twice.harm == pytest.approx(10.0 * twice.time_s, rel=0.3)


def test_stable_says_nothing_to_a_limit():
    quiet, busy = (
        first(plan(policy(gates=(SLO,), steps=(canary(share), PromoteStep())), Load(rps=rps))) for share, rps in ((5000, 20), (100, 1000))
    )
    for one, other in zip(quiet.detections, busy.detections, strict=True):
        assert one.time_s == other.time_s


@pytest.mark.parametrize(
    ("gate", "load"),
    [(SLO, Load(rps=100.0, error_rate=0.03)), (TAIL, Load(rps=100.0, latency_ms=400.0))],
    ids=("errors", "latency"),
)
def test_a_stable_beyond_the_limit_is_told(gate, load):
    found = warnings(planned(gate, load=load))
    assert not decides(found)
    (told,) = [each.fault for each in found if "stable itself is beyond the limit" in each.fault.message]
    assert told.hint == "a higher limit"


def test_a_limit_far_above_stable_is_no_reason_to_warn():
    found = planned(replace(SLO, limit=0.2))
    assert decides(warnings(found))
    assert not [each for each in warnings(found) if "counts as as good" in each.fault.message]
    assert any("slo: with 10 of 100 requests/s (canary 10%) a rise from 1% to 100% is reverted" in text for text in sentences(found))
    assert math.isclose(first(found).needed, 1 / (verdicts.weight(found.policy) * found.policy.false_revert))


def test_the_edge_of_the_grid_that_a_limit_stands_for_is_the_one_a_server_takes():
    """A latency below the next edge above the limit is fine in both."""
    edge = latency_bin(TAIL.limit)
    assert LATENCY_EDGES_MS[edge] >= TAIL.limit > LATENCY_EDGES_MS[edge - 1]
