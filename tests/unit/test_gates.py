"""Gates as the engine uses them: blocks are closed, verdicts have an order, state is plain data."""

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from policies.evidence import LATENCY_BINS, NOTHING, Counts, latency_bin
from policies.gates import MAX_PENDING_S, GateState, Reading, Verdict, combined, cut, feed, open_gate, read
from policies.spec.policy import Gate, Margin, Metric, Role
from policies.statistics.latency_gate import RENEW_S

ERRORS = Gate(name="errors", metric=Metric.ERROR_RATE)
POINTS = Gate(name="points", metric=Metric.ERROR_RATE, margin=Margin(absolute=0.1))
LATENCY = Gate(name="slow", metric=Metric.LATENCY, margin=Margin(relative=0.5))
SIGNAL = Gate(name="signal", metric=Metric.ERROR_RATE, role=Role.SIGNAL, margin=Margin(absolute=0.1))


def opened(gate: Gate) -> GateState:
    return open_gate(gate, now=0.0, deadline_s=7200.0)


def say(gate: Gate, state: GateState, *, now: float, weight: float = 0.5) -> Reading:
    return read(gate, state, alpha=0.01, beta=0.05, weight=weight, now=now, no_data_after_s=60.0)


def run(gate: Gate, state: GateState, blocks: int, *, start: float = 0.0, errors: int = 0) -> tuple[GateState, float]:
    """Blocks of nine good requests of stable and one of the candidate, a tenth of a second each."""
    now = start
    for _ in range(blocks):
        now += 0.1
        state = feed(gate, state, Counts(requests=9), Counts(requests=1, errors=errors), now=now)
    return state, now


def took(latencies_ms: np.ndarray) -> Counts:
    places, counts = np.unique([latency_bin(value) for value in latencies_ms], return_counts=True)
    return Counts(requests=len(latencies_ms), latency=tuple(zip(places.tolist(), counts.tolist(), strict=True)))


def test_a_fresh_gate_knows_nothing():
    seen = say(ERRORS, opened(ERRORS), now=1.0)
    assert (seen.verdict, seen.evidence, seen.evidence_pass) == (Verdict.INCONCLUSIVE, 0.0, 1.0)
    assert (seen.needed, seen.needed_pass) == (pytest.approx(200), pytest.approx(20))
    assert (seen.estimate_stable, seen.estimate_candidate, seen.interval, seen.age_s) == (None, None, None, None)


def test_a_candidate_that_breaks_down_fails_within_eight_bad_requests():
    state, now = run(ERRORS, opened(ERRORS), 300)
    assert say(ERRORS, state, now=now).verdict is Verdict.INCONCLUSIVE
    state, now = run(ERRORS, state, 8, start=now, errors=1)
    assert say(ERRORS, state, now=now).verdict is Verdict.FAIL


def test_the_needed_evidence_follows_from_the_weight():
    state, now = run(ERRORS, opened(ERRORS), 300)
    while say(ERRORS, state, now=now, weight=1.0).verdict is not Verdict.FAIL:
        state, now = run(ERRORS, state, 1, start=now, errors=1)
    assert say(ERRORS, state, now=now, weight=1e-9).verdict is Verdict.INCONCLUSIVE


def test_thirty_clean_requests_pass_a_margin_of_ten_points():
    state, now = run(POINTS, opened(POINTS), 35)
    seen = say(POINTS, state, now=now)
    assert (seen.verdict, seen.stable.requests, seen.candidate.requests, seen.unit) == (Verdict.PASS, 315, 35, "ratio")
    assert seen.estimate_candidate == 0
    assert seen.interval is not None
    assert seen.interval[0] < 0 < seen.interval[1]


def test_the_fail_of_a_signal_ends_when_the_trouble_does():
    state, now = run(SIGNAL, opened(SIGNAL), 50)
    state, now = run(SIGNAL, state, 20, start=now, errors=1)
    assert say(SIGNAL, state, now=now).verdict is Verdict.FAIL
    state, now = run(SIGNAL, state, 600, start=now)
    assert say(SIGNAL, state, now=now).verdict is not Verdict.FAIL


def test_a_block_closes_when_both_arms_have_a_request():
    state = feed(ERRORS, opened(ERRORS), Counts(requests=9, errors=1), NOTHING, now=1.0)
    assert (state.blocks, state.pending.stable.requests, state.pending.since) == (0, 9, 1.0)
    state = feed(ERRORS, state, Counts(requests=4), NOTHING, now=2.0)
    assert (state.blocks, state.pending.stable.requests, state.pending.since) == (0, 13, 1.0)
    state = feed(ERRORS, state, NOTHING, Counts(requests=1), now=3.0)
    assert (state.blocks, state.pending.stable, state.pending.since, state.last_block) == (1, NOTHING, None, 3.0)
    assert (state.seen.stable.requests, state.seen.stable.errors, state.seen.candidate.requests) == (13, 1, 1)


def test_closing_a_block_never_looks_at_outcomes():
    good = bad = opened(ERRORS)
    for index, requests in enumerate([0, 1, 0, 0, 2, 1, 0]):
        good = feed(ERRORS, good, Counts(requests=index % 3), Counts(requests=requests), now=float(index))
        bad = feed(ERRORS, bad, Counts(requests=index % 3), Counts(requests=requests, errors=requests), now=float(index))
        assert (good.blocks, good.last_block) == (bad.blocks, bad.last_block)


@pytest.mark.parametrize("gate", [ERRORS, LATENCY])
def test_requests_of_one_arm_grown_old_make_no_block_but_stable_is_learnt_from(gate: Gate):
    before = opened(gate)
    state = feed(gate, before, took(np.full(50, 100.0)), NOTHING, now=1.0)
    state = feed(gate, state, took(np.full(50, 100.0)), NOTHING, now=2.0 + MAX_PENDING_S)
    assert (state.blocks, state.pending.stable) == (0, NOTHING)
    assert state.memory != before.memory
    assert (state.log_fail, state.log_pass) == (pytest.approx(before.log_fail), pytest.approx(before.log_pass, abs=1e-9))


def test_old_requests_of_the_candidate_are_no_evidence():
    state = feed(ERRORS, opened(ERRORS), NOTHING, Counts(requests=50, errors=50), now=1.0)
    state = feed(ERRORS, state, NOTHING, Counts(requests=50, errors=50), now=2.0 + MAX_PENDING_S)
    assert (state.blocks, state.pending.candidate, state.log_fail) == (0, NOTHING, pytest.approx(-1e6))


def test_a_cut_drops_what_is_pending_and_nothing_else():
    state, _ = run(ERRORS, opened(ERRORS), 10)
    pending = feed(ERRORS, state, Counts(requests=9), NOTHING, now=5.0)
    assert replace(cut(pending), seen=state.seen) == state


def test_nothing_changes_nothing():
    state, _ = run(ERRORS, opened(ERRORS), 3)
    assert feed(ERRORS, state, NOTHING, NOTHING, now=99.0) is state


@pytest.mark.parametrize("errors", [0, 1])
def test_silence_is_neither_fail_nor_pass(errors: int):
    state, now = run(POINTS, opened(POINTS), 100, errors=errors)
    assert say(POINTS, state, now=now + 59.0).verdict is (Verdict.FAIL if errors else Verdict.PASS)
    assert say(POINTS, state, now=now + 60.0).verdict is Verdict.NO_DATA
    state = feed(POINTS, state, Counts(requests=100), NOTHING, now=now + 61.0)
    assert say(POINTS, state, now=now + 61.0).verdict is Verdict.NO_DATA, "requests of stable say nothing of the candidate"


def test_a_candidate_never_seen_has_no_data():
    assert say(ERRORS, opened(ERRORS), now=60.0).verdict is Verdict.NO_DATA


def test_errors_of_both_arms_never_pass_as_good():
    state = opened(ERRORS)
    for index in range(100):
        state = feed(ERRORS, state, Counts(requests=9, errors=9), Counts(requests=1, errors=1), now=index * 0.1)
    assert say(ERRORS, state, now=10.0).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("memory", [(), (1.0, 2.0), None])
def test_a_memory_that_is_not_the_gates_is_an_error(memory: tuple[float, ...] | None):
    good, _ = run(ERRORS, opened(ERRORS), 20, errors=1)
    state = replace(good, memory=(math.nan, *good.memory[1:]) if memory is None else memory)
    assert say(ERRORS, state, now=3.0).verdict is Verdict.ERROR
    fed, _ = run(ERRORS, state, 3, start=3.0)
    assert (fed.blocks, fed.log_fail) == (state.blocks, state.log_fail), "nothing is learnt"
    assert fed.seen.candidate.requests == 23
    other = say(LATENCY, good, now=3.0)
    assert (other.verdict, other.estimate_candidate, other.interval) == (Verdict.ERROR, None, None)


@pytest.mark.parametrize("bins", [((-1, 5.0),), ((LATENCY_BINS, 5.0),), ((100, math.nan),), ((100, -3.0),)])
def test_of_a_baseline_that_cannot_be_nothing_is_learnt(bins: tuple[tuple[int, float], ...]):
    hundred, state = took(np.full(20, 100.0)), opened(LATENCY)
    for index in range(3):
        state = feed(LATENCY, state, hundred, hundred, now=float(index))
    odd = replace(state, known=replace(state.known, bins=bins))
    assert say(LATENCY, state, now=3.0).verdict is not Verdict.ERROR
    assert say(LATENCY, odd, now=3.0).verdict is Verdict.ERROR
    assert feed(LATENCY, odd, hundred, hundred, now=4.0).blocks == state.blocks


def test_the_baseline_that_scores_are_made_of_is_taken_anew_when_it_doubled_or_grew_old():
    nine, one, state, now, taken = took(np.full(9, 100.0)), took(np.full(1, 100.0)), opened(LATENCY), 0.0, []
    for _ in range(64):
        now += 0.1
        state = feed(LATENCY, state, nine, one, now=now)
        taken.append(state.known.taken.requests)
    assert sorted(set(taken)) == [9, 18, 36, 72, 144, 288, 576]
    assert feed(LATENCY, state, nine, one, now=now + RENEW_S - 1.0).known is state.known
    old = feed(LATENCY, state, nine, one, now=now + RENEW_S + 1.0)
    assert old.known.taken == old.seen.stable
    assert feed(LATENCY, old, NOTHING, one, now=now + 3 * RENEW_S).known is old.known, "nothing new of stable"


def test_a_baseline_that_changed_for_good_is_what_counts_half_an_hour_later():
    state, now = opened(LATENCY), 0.0
    for latency_ms in (100.0, 400.0):
        for _ in range(60):
            now += 60.0
            state = feed(LATENCY, state, took(np.full(90, latency_ms)), took(np.full(10, latency_ms)), now=now)
    known = dict(state.known.bins)
    assert known[latency_bin(400.0)] > 4 * known[latency_bin(100.0)]
    assert state.seen.stable.requests == 120 * 90


def test_a_margin_without_sense_is_refused_when_the_gate_is_opened():
    with pytest.raises(ValueError, match="margin"):
        opened(Gate(name="none", metric=Metric.ERROR_RATE, margin=Margin()))
    with pytest.raises(ValueError, match="statistic"):
        opened(Gate(name="mean", metric=Metric.LATENCY, statistic="mean", margin=Margin(relative=0.5)))


def test_an_equal_latency_passes_and_a_tripled_one_fails():
    random, state, now = np.random.default_rng(1), opened(LATENCY), 0.0

    def some(requests: int, factor: float = 1.0) -> Counts:
        return took(200 * factor * np.exp(0.3 * random.standard_normal(requests)))

    for _ in range(50):
        now += 0.5
        state = feed(LATENCY, state, some(6), some(2), now=now)
    seen = say(LATENCY, state, now=now)
    assert (seen.verdict, seen.unit) == (Verdict.PASS, "ms")
    assert seen.estimate_stable == pytest.approx(200, rel=0.2)
    assert seen.interval is not None
    assert seen.interval[0] < 0 < seen.interval[1]
    for _ in range(15):
        now += 0.5
        state = feed(LATENCY, state, some(6), some(2, 3.0), now=now)
    assert say(LATENCY, state, now=now).verdict is Verdict.FAIL


@pytest.mark.parametrize("counts", [Counts(requests=5, errors=9), Counts(requests=-3, errors=-3), Counts(requests=5, errors=-2)])
def test_impossible_counts_are_brought_into_range(counts: Counts):
    state = feed(ERRORS, opened(ERRORS), Counts(requests=9), counts, now=1.0)
    assert 0 <= state.seen.candidate.errors <= state.seen.candidate.requests
    assert math.isfinite(sum(state.memory))


def test_bins_that_do_not_exist_are_left_out():
    odd = Counts(requests=4, latency=((-1, 1), (LATENCY_BINS, 1), (5, -1), (100, 1)))
    state = feed(LATENCY, opened(LATENCY), Counts(requests=1, latency=((100, 1),)), odd, now=1.0)
    assert (state.seen.candidate.requests, state.seen.candidate.latency) == (1, ((100, 1),))


def test_a_clock_that_jumps_back_costs_nothing():
    state, now = run(ERRORS, opened(ERRORS), 20)
    state = feed(ERRORS, state, Counts(requests=9), Counts(requests=1), now=now - 1e6)
    seen = say(ERRORS, state, now=now - 2e6)
    assert (seen.age_s, seen.verdict) == (0.0, Verdict.INCONCLUSIVE)


def test_guardrails_that_are_both_suspicious_fail_together():
    """Each alone needs 200; 120 and 100 with half the budget each are 110, more than the 100 of all together."""
    state, now = run(ERRORS, opened(ERRORS), 20, errors=1)
    reading = say(ERRORS, state, now=now)
    both = [replace(reading, evidence=120.0, verdict=Verdict.INCONCLUSIVE), replace(reading, evidence=100.0, verdict=Verdict.INCONCLUSIVE)]
    assert combined(both) == pytest.approx(math.log(110))
    assert combined([both[0], replace(both[1], verdict=Verdict.NO_DATA)]) == pytest.approx(math.log(60))
    assert combined([replace(both[0], gate=replace(both[0].gate, role=Role.SIGNAL)), replace(both[1], enough=False)]) == -math.inf
    assert math.isfinite(combined([replace(reading, evidence=1e299)] * 2))


def test_the_state_survives_json_in_the_middle_of_a_block():
    adapter = TypeAdapter(GateState)
    state, _ = run(ERRORS, opened(ERRORS), 5, errors=1)
    state = feed(ERRORS, state, Counts(requests=9), NOTHING, now=5.0)
    assert adapter.validate_json(adapter.dump_json(state)) == state
    latency = feed(LATENCY, opened(LATENCY), took(np.array([50.0, math.inf])), took(np.array([60.0])), now=1.0)
    assert adapter.validate_json(adapter.dump_json(latency)) == latency


def test_a_reading_is_plain_data():
    state, now = run(POINTS, opened(POINTS), 35)
    adapter = TypeAdapter(Reading)
    assert adapter.validate_json(adapter.dump_json(say(POINTS, state, now=now))) == say(POINTS, state, now=now)
