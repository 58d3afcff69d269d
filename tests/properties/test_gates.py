"""Laws of the gates over any counts: finite, monotone, silent without data, the same after a restart."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from policies.evidence import LATENCY_BINS, Counts
from policies.gates import GateState, Verdict, feed, gate_test, open_gate, read
from policies.spec.policy import Gate, Margin, Metric
from policies.statistics import ErrorGate

MOST = 10**12

MARGINS = st.builds(
    Margin,
    relative=st.one_of(st.none(), st.floats(0, 10)),
    absolute=st.one_of(st.none(), st.floats(0, 0.9)),
).filter(lambda margin: margin.relative is not None or margin.absolute is not None)
STATISTICS = st.sampled_from(["distribution", "p50", "p95", "p99.9"])


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    metric = draw(st.sampled_from(Metric))
    return Gate(name="gate", metric=metric, statistic=draw(STATISTICS), margin=draw(MARGINS))


@st.composite
def counts(draw: st.DrawFn, most: int = MOST) -> Counts:
    requests = draw(st.integers(0, most))
    bins = draw(st.dictionaries(st.integers(0, LATENCY_BINS - 1), st.integers(1, most), max_size=6))
    return Counts(requests=requests, errors=draw(st.integers(0, requests)), latency=tuple(sorted(bins.items())))


BLOCKS = st.lists(st.tuples(counts(), counts(), st.floats(0, 1e5)), max_size=6)


def fed(gate: Gate, state: GateState, blocks: list[tuple[Counts, Counts, float]], now: float = 0.0) -> tuple[GateState, float]:
    for stable, candidate, elapsed_s in blocks:
        now += elapsed_s
        state = feed(gate, state, stable, candidate, now=now)
    return state, now


@settings(deadline=None)
@given(gate=gates(), blocks=BLOCKS)
def test_evidence_is_finite_and_never_negative(gate: Gate, blocks: list[tuple[Counts, Counts, float]]):
    state, now = fed(gate, open_gate(gate, now=0.0, deadline_s=600.0), blocks)
    seen = read(gate, state, alpha=0.01, now=now, no_data_after_s=300.0)
    assert 0 <= seen.evidence < math.inf
    assert 0 <= seen.evidence_pass < math.inf
    assert seen.verdict is not Verdict.ERROR
    assert all(math.isfinite(value) for value in state.memory)
    assert seen.interval is None or all(math.isfinite(bound) for bound in seen.interval)


@settings(deadline=None)
@given(gate=gates(), before=BLOCKS, after=BLOCKS)
def test_a_restart_in_between_changes_nothing(
    gate: Gate, before: list[tuple[Counts, Counts, float]], after: list[tuple[Counts, Counts, float]]
):
    adapter = TypeAdapter(GateState)
    state, now = fed(gate, open_gate(gate, now=0.0, deadline_s=600.0), before)
    again = adapter.validate_json(adapter.dump_json(state))
    assert again == state
    assert fed(gate, again, after, now) == fed(gate, state, after, now)


@settings(deadline=None)
@given(
    margin=MARGINS,
    blocks=st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 10_000), st.integers(0, 10_000)), min_size=1),
    more=st.integers(1, 10_000),
)
def test_more_errors_of_the_candidate_never_make_it_look_better(margin: Margin, blocks: list[tuple[int, int, int, int]], more: int):
    gate = Gate(name="gate", metric=Metric.ERROR_RATE, margin=margin)
    good = bad = open_gate(gate, now=0.0, deadline_s=600.0)
    for index, (n_b, k_b, n_c, k_c) in enumerate(blocks):
        stable, errors = Counts(requests=n_b, errors=min(k_b, n_b)), min(k_c, n_c)
        good = feed(gate, good, stable, Counts(requests=n_c, errors=errors), now=float(index))
        bad = feed(gate, bad, stable, Counts(requests=n_c, errors=min(errors + more, n_c)), now=float(index))
    slack = 1e-9 * (1 + abs(good.log_fail) + abs(good.log_pass))
    assert bad.log_fail >= good.log_fail - slack
    assert bad.log_pass <= good.log_pass + slack


@settings(max_examples=50, deadline=None)
@given(
    statistic=STATISTICS,
    places=st.lists(st.tuples(st.integers(60, 120), st.integers(60, 120)), min_size=3, max_size=30),
    slower=st.integers(1, 60),
)
def test_slower_requests_of_the_candidate_never_make_it_look_better(statistic: str, places: list[tuple[int, int]], slower: int):
    gate = Gate(name="gate", metric=Metric.LATENCY, statistic=statistic, margin=Margin(relative=0.25))
    known = Counts(requests=40, latency=tuple((place, 1) for place in range(70, 110)))
    start = feed(gate, open_gate(gate, now=0.0, deadline_s=600.0), known, Counts(requests=1, latency=((90, 1),)), now=0.5)
    good = bad = start
    for index, (stable, candidate) in enumerate(places):
        now = 1.0 + index
        one = Counts(requests=1, latency=((stable, 1),))
        good = feed(gate, good, one, Counts(requests=1, latency=((candidate, 1),)), now=now)
        bad = feed(gate, bad, one, Counts(requests=1, latency=((candidate + slower, 1),)), now=now)
    assert bad.log_fail >= good.log_fail - 1e-9
    assert bad.log_pass <= good.log_pass + 1e-9


@settings(deadline=None)
@given(gate=gates(), stable=st.lists(counts(), max_size=5), silent_s=st.floats(0, 1e5))
def test_without_a_request_of_the_candidate_a_gate_never_passes_nor_fails(gate: Gate, stable: list[Counts], silent_s: float):
    state = open_gate(gate, now=0.0, deadline_s=600.0)
    for index, seen in enumerate(stable):
        state = feed(gate, state, seen, Counts(), now=index * 100.0)
    reading = read(gate, state, alpha=0.01, now=500.0 + silent_s, no_data_after_s=300.0)
    assert reading.verdict is Verdict.NO_DATA


@settings(deadline=None)
@given(gate=gates(), blocks=BLOCKS, silent_s=st.floats(300.001, 1e9))
def test_no_data_is_never_a_verdict_on_the_candidate(gate: Gate, blocks: list[tuple[Counts, Counts, float]], silent_s: float):
    state, now = fed(gate, open_gate(gate, now=0.0, deadline_s=600.0), blocks)
    assert read(gate, state, alpha=0.01, now=now + silent_s, no_data_after_s=300.0).verdict is Verdict.NO_DATA


def dense(counts: Counts) -> np.ndarray:
    histogram = np.zeros(LATENCY_BINS)
    for place, count in counts.latency:
        histogram[place] += count
    return histogram


SOME = st.lists(st.tuples(counts(10_000), counts(10_000), st.floats(0, 100)), min_size=1, max_size=12)


@settings(deadline=None)
@given(gate=gates(), blocks=SOME)
def test_a_server_and_a_simulation_of_many_runs_find_the_same_evidence(gate: Gate, blocks: list[tuple[Counts, Counts, float]]):
    """`policies.statistics.single` against the forms for many runs at once, whose first run is this one."""
    state, now = open_gate(gate, now=0.0, deadline_s=600.0), 0.0
    many = gate_test(gate, deadline_s=600.0)
    for stable, candidate, elapsed_s in blocks:
        if not (stable.requests and candidate.requests and stable.latency and candidate.latency):
            continue
        now += elapsed_s
        state = feed(gate, state, stable, candidate, now=now)
        arms = [np.array([dense(arm), dense(arm)[::-1]]) for arm in (stable, candidate)]
        if isinstance(many, ErrorGate):
            arms = [(np.array([arm.requests, 5]), np.array([arm.errors, 1])) for arm in (stable, candidate)]
        many = many.update(*arms, elapsed_s=elapsed_s)
        slack = 1e-6 * (1 + abs(state.log_fail) + abs(state.log_pass))
        assert math.isclose(state.log_fail, float(many.log_fail.flat[0]), abs_tol=slack)
        assert math.isclose(state.log_pass, float(many.log_pass.flat[0]), abs_tol=slack)
