"""What is said of many runs: exact intervals, and expectations that fail only if the runs contradict them."""

import math

import numpy as np
import pytest

from policies.replay.expectations import Expectation
from policies.replay.judge import interval, quantile, summary, timeline
from policies.replay.scenario import Incident, Scenario
from policies.replay.simulate import Run


def run(ended="promoted", took_s=100.0, *, met=False, code="stage_passed", harmed=0.0):
    return Run(ended=ended, ended_s=took_s, took_s=took_s, met=met, code=code, harmed=harmed)


def below(count, of, rate):
    """P(X <= count) of a binomial, summed."""
    return math.fsum(math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(count + 1))


@pytest.mark.parametrize(("count", "of"), [(0, 20), (1, 20), (7, 50), (49, 50), (50, 50)])
def test_intervals_of_parts_are_exact(count, of):
    low, high = interval(count, of, level=0.95)
    if count:
        assert 1 - below(count - 1, of, low) == pytest.approx(0.025)
    else:
        assert low == 0.0
    if count < of:
        assert below(count, of, high) == pytest.approx(0.025)
    else:
        assert high == 1.0


def test_intervals_of_quantiles_cover():
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        _, low, high = quantile(random.exponential(size=60), 0.9, level=0.95)
        inside += low <= -math.log(0.1) <= high
    assert inside >= 940
    assert quantile([], 0.5, level=0.95)[1:] == (-math.inf, math.inf)
    assert quantile([3.0], 0.5, level=0.99) == (3.0, -math.inf, math.inf)


def answers(runs, *expected, scenario=None):
    world = scenario or Scenario(name="x", expect=expected)
    return [answer.verdict for answer in summary(world, runs).answers]


def rate(what, sign, bound):
    return Expectation(what=what, sign=sign, bound=bound)


def test_an_expectation_fails_only_if_the_runs_contradict_it():
    runs = [run()] * 190 + [run("reverted", code="gate_failed")] * 10
    assert answers(runs, rate("promoted", ">=", 0.9), rate("promoted", ">=", 0.96), rate("promoted", ">=", 0.99)) == [
        "holds",
        "open",
        "fails",
    ]
    assert answers(runs, rate("reverted", "<=", 0.06), rate("reverted", "<=", 0.04), rate("reverted", "<=", 0.01)) == [
        "holds",
        "open",
        "fails",
    ]
    assert answers(runs, rate("false_reverts", "<=", 0.01)) == ["fails"]


def test_times_and_amounts_are_held_against_quantiles():
    runs = [run("reverted", 10.0 + place / 10, met=True, harmed=place) for place in range(200)]
    p50 = Expectation(what="time_to_revert", sign="<=", bound=22.0, level=0.5)
    tight = Expectation(what="time_to_revert", sign="<=", bound=12.0, level=0.5)
    harmed = Expectation(what="users_harmed", sign="<", bound=300.0, level=0.95)
    never = Expectation(what="time_to_promote", sign="<=", bound=1e9, level=0.5)
    assert answers(runs, p50, tight, harmed, never) == ["holds", "fails", "holds", "fails"]


def test_a_revert_by_a_deadline_is_no_false_revert_and_a_trouble_not_met_is_not_missed():
    stuck = summary(Scenario(name="x"), [run("reverted", code="stuck"), run("reverted", code="gate_failed")])
    assert (stuck.false_reverts.count, stuck.missed) == (1, None)
    bad = Scenario(name="x", incidents=(Incident(kind="errors", rate=0.5),))
    told = summary(bad, [run(met=True), run(met=False), run("reverted", met=True, code="gate_failed")])
    assert (told.missed.count, told.false_reverts) == (1, None)


def test_the_timeline_ends_with_everything_that_happened():
    moments = timeline([run(took_s=10.0), run("reverted", 20.0), run("held", 40.0)], points=4)
    assert [moment.at_s for moment in moments] == [10.0, 20.0, 30.0, 40.0]
    assert [moment.promoted for moment in moments] == pytest.approx([1 / 3] * 4)
    assert [moment.reverted for moment in moments] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
