"""What a plan is made of: numbers as people and policies write them, and the load."""

import math

import numpy as np
import pytest

from policies.evidence import LATENCY_EDGES_MS
from policies.planning import words
from policies.planning.load import Load
from policies.spec.policy import (
    Margin,
    Metric,
)


def test_margins_are_written_as_policies_have_them():
    assert words.margin(Margin(absolute=0.0075, relative=0.5), Metric.ERROR_RATE) == "{absolute: 0.75%, relative: 50%}"
    assert words.margin(Margin(absolute=75.0), Metric.LATENCY) == "{absolute: 75ms}"


@pytest.mark.parametrize("wrong", [{"rps": 0.0}, {"error_rate": 1.0}, {"latency_ms": 0.0}, {"latency_spread": math.inf}])
def test_a_load_without_sense_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=r"must be|at least"):
        Load(**{"rps": 1.0, **wrong})


def test_the_latencies_of_a_load_are_its_distribution():
    load = Load(rps=1.0, latency_ms=200.0, latency_spread=0.4)
    for factor in (1.0, 2.0):
        chances = load.latencies(factor)
        assert chances.sum() == pytest.approx(1.0)
        below = chances[: np.searchsorted(LATENCY_EDGES_MS, load.quantile_ms(0.9) * factor)].sum()
        assert below == pytest.approx(0.9, abs=0.04)


def test_times_are_written_as_policies_have_them():
    assert [words.written(words.rounded_up(seconds)) for seconds in (3, 61, 599, 4000, 90_000)] == ["5s", "90s", "10m", "70m", "25h"]
    assert [words.about(seconds) for seconds in (0.7, 33.2, 89, 91, 3600, 86_400 * 2)] == [
        "0.7 s",
        "33 s",
        "89 s",
        "1.5 min",
        "60 min",
        "2 d",
    ]
