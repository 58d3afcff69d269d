"""The benchmark measures what ships: its rule is fed as the product feeds a gate, and its race counts what it says."""

import numpy as np
import pytest

from bench.gate_latency import assert_aligned, coarse, masses
from bench.gate_race import Outcome, ours, race, shipped, traffic
from bench.gates import acceptance, interval
from bench.peers import Block, Window
from policies.evidence import Counts
from policies.gates import feed, open_gate
from policies.spec.policy import Gate, Metric


@pytest.mark.parametrize(("rps", "weight"), [(100, 0.1), (3, 0.05), (0.5, 0.1)])
def test_our_rule_is_the_gate_of_the_product(rps, weight):
    """Also where requests are so few that they wait for the other arm, or have waited too long."""
    runs, gate = 3, Gate(name="errors", metric=Metric.ERROR_RATE)
    stream = traffic(np.random.default_rng(1), runs=runs, rps=rps, horizon_s=400.0, rates=(0.1, 0.3), weight=weight, tick_s=1.0, twin=False)
    rule = ours(shipped(7200.0), seconds=1.0)
    states = [open_gate(gate, now=0.0, deadline_s=7200.0) for _ in range(runs)]
    now = 0.0
    for block in stream:
        now += 1.0
        rule.see(block)
        for run in range(runs):
            stable = Counts(requests=int(block.n_b[run]), errors=int(block.k_b[run]))
            candidate = Counts(requests=int(block.n_c[run]), errors=int(block.k_c[run]))
            states[run] = feed(gate, states[run], stable, candidate, now=now)
    for run, state in enumerate(states):
        assert rule.gate.log_fail[run] == pytest.approx(state.log_fail, rel=0.02, abs=0.1)
        assert rule.gate.log_pass[run] == pytest.approx(state.log_pass, rel=0.02, abs=0.1)


def test_traffic_has_the_rates_it_is_asked_for():
    total = sum(traffic(np.random.default_rng(2), runs=200, rps=50, horizon_s=200.0, rates=(0.02, 0.1), weight=0.2), start=_nothing(200))
    assert total.seconds == 200.0
    assert total.n_c.mean() == pytest.approx(2000, rel=0.02)
    assert total.n_b.mean() == pytest.approx(8000, rel=0.02)
    assert total.n_t.mean() == pytest.approx(2000, rel=0.02)
    assert total.k_c.sum() / total.n_c.sum() == pytest.approx(0.1, rel=0.05)
    assert total.k_b.sum() / total.n_b.sum() == pytest.approx(0.02, rel=0.05)


def _nothing(runs):
    none = np.zeros(runs)
    return Block(seconds=0.0, n_b=none, k_b=none, n_c=none, k_c=none, n_t=none, k_t=none)


class FiresAt:
    """In run i after i + 1 looks; in the last run never."""

    def __init__(self, runs):
        self.looks, self.runs = 0, runs

    def see(self, _):
        self.looks += 1
        return (np.arange(self.runs) < self.looks) & (np.arange(self.runs) < self.runs - 1)


def test_the_race_counts_time_and_excess_until_the_rule_fires():
    blocks = [
        Block(seconds=5.0, n_b=np.full(3, 50), k_b=np.zeros(3), n_c=np.full(3, 10), k_c=np.zeros(3), n_t=np.zeros(3), k_t=np.zeros(3))
    ] * 8
    found = race({"rule": FiresAt(3)}, iter(blocks), runs=3, worse_by=0.1)["rule"]
    assert found.time_s.tolist() == [10.0, 20.0, np.inf]
    assert found.excess.tolist() == pytest.approx([2.0, 4.0, 8.0])
    assert found.figures() == {
        "share": pytest.approx(2 / 3, abs=1e-3),
        "runs": 3,
        "median_s": 20.0,
        "excess": pytest.approx(4.667),
        "wrong": 0,
    }


def test_a_window_closes_when_it_is_full():
    window, one = Window(2.0), Block(seconds=1.0, **dict.fromkeys(("n_b", "k_b", "n_c", "k_c", "n_t", "k_t"), np.ones(1)))
    assert [window.push(one) is not None for _ in range(5)] == [False, True, False, True, False]


def test_the_latencies_of_the_simulation_are_the_ones_of_the_gate():
    assert_aligned()
    mass = masses(1.25, 0.02)
    assert mass.sum() == pytest.approx(1.0)
    assert coarse(mass[np.newaxis]).sum() == pytest.approx(1.0)


def _row(share, *, p_c=0.01, median=None, rule="ours"):
    cell = {"share": share, "runs": 1000, "median_s": median, "excess": 1.0, "wrong": 0}
    reference = {"share": 1.0, "runs": 1000, "median_s": 100.0, "excess": 1.0, "wrong": 0}
    return {"key": {"table": "T1", "weight": 0.1, "rps": 10, "p_b": 0.01, "p_c": p_c}, "rules": {rule: cell, "reference": reference}}


@pytest.mark.parametrize(("share", "good"), [(0.03, True), (0.05, True), (0.08, False)])
def test_too_many_false_reverts_miss_the_target(share, good, capsys):
    assert [line["ok"] for line in acceptance({"T1": [_row(share)]})] == [good]
    assert ("MISS" in capsys.readouterr().out) is not good


@pytest.mark.parametrize(("median", "good"), [(90.0, True), (110.0, True), (130.0, False), (None, False)])
def test_a_slower_cell_misses_the_target(median, good):
    share = 1.0 if median else 0.4
    assert acceptance({"T1": [_row(share, p_c=0.05, median=median)]})[0]["ok"] is good


def test_an_interval_of_a_share_holds_it():
    low, high = interval(10, 100)
    assert low < 0.1 < high
    assert interval(0, 100)[0] == 0.0
    assert interval(100, 100)[1] == 1.0


def test_the_median_of_rules_that_seldom_fire_is_never():
    assert np.isinf(Outcome(np.array([1.0, np.inf, np.inf]), np.zeros(3)).median_s)
