"""The error gate and the latency gate on simulated traffic, one run or many at once."""

import math

import numpy as np
import pytest
from scipy.special import betaln, xlog1py, xlogy

from policies.evidence import LATENCY_BINS, LATENCY_EDGES_MS, latency_bin
from policies.statistics import ErrorConfig, ErrorGate, LatencyConfig, LatencyGate, Verdict
from policies.statistics.intervals import half_width, quantile_difference, quantile_ms, rate, rate_difference
from policies.statistics.latency_gate import moved, quantile
from policies.statistics.mixture import Process, purse

RUNS = 400


def standard_errors(alpha: float, runs: int = RUNS) -> float:
    return 3 * (alpha * (1 - alpha) / runs) ** 0.5


def histogram(values_ms: np.ndarray) -> np.ndarray:
    """Counts per bin; runs on the first axis."""
    places = np.searchsorted(LATENCY_EDGES_MS, values_ms)
    rows = np.broadcast_to(np.arange(len(values_ms))[:, None], places.shape)
    counts = np.zeros((len(values_ms), LATENCY_BINS))
    np.add.at(counts, (rows, places), 1)
    return counts


def ever_failed(gate: ErrorGate, random: np.random.Generator, *, p_c: float, p_b: float, blocks: int) -> np.ndarray:
    """Which of RUNS rollouts failed at any of the looks; the baseline's rate swings by the day and both arms follow."""
    failed = np.zeros(RUNS, dtype=bool)
    for index in range(blocks):
        swing = 1 + 0.8 * np.sin(index / 20)
        n_c, n_b = random.poisson(10, RUNS), random.poisson(90, RUNS)
        k_c, k_b = random.binomial(n_c, p_c * swing), random.binomial(n_b, p_b * swing)
        gate = gate.update((n_b, k_b), (n_c, k_c), elapsed_s=1.0)
        failed |= gate.verdict(0.05) == Verdict.FAIL
    return failed


@pytest.mark.parametrize(
    ("config", "p_c"),
    [
        (ErrorConfig(relative=0.0, absolute=None, deadline_s=300.0), 0.02),
        (ErrorConfig(relative=0.25, absolute=None, deadline_s=300.0), 0.025),
        (ErrorConfig(relative=None, absolute=0.0, deadline_s=300.0), 0.02),
        (ErrorConfig(relative=0.25, absolute=0.001, deadline_s=300.0), 0.02),
    ],
)
def test_a_candidate_within_the_margin_rarely_fails_at_any_look(config: ErrorConfig, p_c: float):
    failed = ever_failed(ErrorGate.start(config), np.random.default_rng(1), p_c=p_c, p_b=0.02, blocks=300)
    assert failed.mean() <= 0.05 + standard_errors(0.05)


def test_a_candidate_five_times_worse_fails():
    failed = ever_failed(ErrorGate.start(ErrorConfig(deadline_s=300.0)), np.random.default_rng(1), p_c=0.1, p_b=0.02, blocks=100)
    assert failed.mean() > 0.95


@pytest.mark.parametrize(
    ("config", "p_c"),
    [
        (ErrorConfig(relative=None, absolute=0.02), 0.03),
        (ErrorConfig(relative=0.5, absolute=None), 0.015),
        (ErrorConfig(absolute=0.02, relative=0.5), 0.03),
    ],
)
def test_a_candidate_at_the_margin_rarely_passes_at_any_look(config: ErrorConfig, p_c: float):
    random, gate = np.random.default_rng(2), ErrorGate.start(config)
    passed = np.zeros(RUNS, dtype=bool)
    for _ in range(300):
        n_c, n_b = random.poisson(20, RUNS), random.poisson(80, RUNS)
        gate = gate.update((n_b, random.binomial(n_b, 0.01)), (n_c, random.binomial(n_c, p_c)))
        passed |= gate.verdict(0.05, 0.05) == Verdict.PASS
    assert passed.mean() <= 0.05 + standard_errors(0.05)


def test_thirty_clean_requests_pass_a_margin_of_ten_points():
    gate, requests = ErrorGate.start(ErrorConfig(relative=None, absolute=0.1)), 0
    while gate.verdict(0.01) != Verdict.PASS:
        gate, requests = gate.update((9, 0), (1, 0), elapsed_s=0.1), requests + 1
    assert 25 <= requests <= 35
    assert gate.evidence_pass >= 20


@pytest.mark.parametrize("margin", [{"relative": 0.25, "absolute": 0.001}, {"relative": None, "absolute": 0.005}])
@pytest.mark.parametrize("healthy", [50, 600])
def test_a_total_failure_after_a_clean_time_is_found_in_eight_bad_requests(margin: dict[str, float | None], healthy: int):
    gate = ErrorGate.start(ErrorConfig(**margin, deadline_s=7200.0))
    for _ in range(healthy):
        gate = gate.update((9, 0), (1, 0), elapsed_s=0.1)
    bad = 0
    while gate.evidence < 200 or gate.verdict(0.005) != Verdict.FAIL:
        gate, bad = gate.update((9, 0), (1, 1), elapsed_s=0.1), bad + 1
    assert 3 <= bad <= 8


def test_both_margins_must_be_exceeded_to_fail():
    """From one error in 100 000 to one in 10 000 is ten times worse and far from a tenth of a point."""
    gate = ErrorGate.start(ErrorConfig(relative=0.25, absolute=0.001))
    relative_only = ErrorGate.start(ErrorConfig(relative=0.25, absolute=None))
    for _ in range(10):
        gate = gate.update((1_000_000, 10), (1_000_000, 100))
        relative_only = relative_only.update((1_000_000, 10), (1_000_000, 100))
    assert relative_only.verdict(0.01) == Verdict.FAIL
    assert gate.verdict(0.01) == Verdict.PASS


def test_two_bad_requests_never_fail():
    gate = ErrorGate.start(ErrorConfig()).update((100_000, 0), (2, 2))
    assert gate.evidence > 20
    assert gate.verdict(0.05) == Verdict.INCONCLUSIVE


def test_many_runs_at_once_are_what_each_is_alone():
    random = np.random.default_rng(3)
    rows = [(random.poisson(1, 6), random.poisson(9, 6)) for _ in range(30)]
    together = ErrorGate.start(ErrorConfig())
    alone = [ErrorGate.start(ErrorConfig()) for _ in range(6)]
    for n_c, n_b in rows:
        k_c = random.binomial(n_c, 0.3)
        together = together.update((n_b, n_b * 0), (n_c, k_c), elapsed_s=0.1)
        alone = [gate.update((int(n_b[i]), 0), (int(n_c[i]), int(k_c[i])), elapsed_s=0.1) for i, gate in enumerate(alone)]
    assert together.log_fail == pytest.approx([float(gate.log_fail) for gate in alone])
    assert together.log_pass == pytest.approx([float(gate.log_pass) for gate in alone])


@pytest.mark.parametrize("silent", [((0, 0), (5, 5)), ((5, 0), (0, 0)), ((0, 0), (0, 0))])
def test_silence_of_an_arm_is_no_evidence(silent: tuple[tuple[int, int], tuple[int, int]]):
    gate = ErrorGate.start(ErrorConfig()).update((9, 0), (1, 0))
    after = gate.update(*silent)
    assert (after.log_fail, after.log_pass) == (gate.log_fail, gate.log_pass)


def test_the_purse_is_never_overdrawn():
    random, deadline_s = np.random.default_rng(4), 600.0
    process, staked = Process.start(1, 1), 0.0
    for elapsed_s in random.exponential(5.0, 3000):
        before = process.left
        process = process.advance((np.zeros(1), np.zeros(1)), update=True, elapsed_s=float(elapsed_s), deadline_s=deadline_s)
        staked += float(before - process.left)
        assert 0 <= process.left <= before
    assert staked <= 1
    assert float(purse(0.0, deadline_s)) == 0.5


@pytest.mark.parametrize(
    "wrong", [{"relative": None, "absolute": None}, {"relative": -0.1}, {"absolute": 1.0}, {"absolute": -0.1}, {"deadline_s": 0.0}]
)
def test_an_error_margin_without_sense_is_refused(wrong: dict[str, float | None]):
    with pytest.raises(ValueError, match=r"margin|deadline"):
        ErrorConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"relative": None},
        {"relative": -0.1},
        {"absolute_ms": float("inf")},
        {"deadline_s": 0.0},
        {"statistic": "mean"},
        {"statistic": "p0"},
    ],
)
def test_a_latency_margin_without_sense_is_refused(wrong: dict[str, float | str | None]):
    with pytest.raises(ValueError, match=r"margin|deadline|statistic"):
        LatencyConfig(**wrong)


def test_quantiles_are_read_from_the_statistic():
    assert [quantile(name) for name in ("distribution", "p50", "p99.9")] == [None, 0.5, pytest.approx(0.999)]


def test_a_margin_moves_whole_bins_so_that_neither_verdict_comes_too_easily():
    fail, good = moved(0.5, None)
    assert (100 - fail[100], 100 - good[100]) == (6, 5)
    fail, good = moved(1.08**3 - 1, None)
    assert (100 - fail[100], 100 - good[100]) == (3, 3)
    fail, good = moved(0.01, None)
    assert (100 - fail[100], 100 - good[100]) == (1, 1)


def test_taking_milliseconds_off_never_leaves_a_bin_too_high_for_fail_nor_too_low_for_pass():
    fail, good = moved(None, 50.0)
    for value_ms in (1.0, 40.0, 51.0, 60.0, 99.0, 100.0, 250.0, 4000.0):
        place, true = latency_bin(value_ms), latency_bin(max(value_ms - 50.0, 0.0))
        assert fail[place] <= true
        assert good[place] >= min(true, max(place - 1, 0))


def test_with_two_margins_the_larger_one_is_taken_off():
    both, ratio, difference = moved(0.5, 50.0)[0], moved(0.5, None)[0], moved(None, 50.0)[0]
    assert (both == np.minimum(ratio, difference)).all()


def test_no_margin_makes_an_unanswered_request_good():
    for table in moved(10.0, 1e6):
        assert table[-1] == LATENCY_BINS - 1


def latencies(random: np.random.Generator, requests: int, factor: float = 1.0, runs: int = 1) -> np.ndarray:
    return histogram(200 * factor * np.exp(0.3 * random.standard_normal((runs, requests))))


@pytest.mark.parametrize("statistic", ["distribution", "p50", "p90", "p99"])
def test_a_candidate_as_slow_as_the_margin_allows_rarely_fails(statistic: str):
    random, runs = np.random.default_rng(5), 200
    gate = LatencyGate.start(LatencyConfig(statistic=statistic, relative=0.25, deadline_s=100.0))
    failed = np.zeros(runs, dtype=bool)
    for _ in range(60):
        gate = gate.update(latencies(random, 20, runs=runs), latencies(random, 10, 1.25, runs=runs), elapsed_s=1.0)
        failed |= gate.verdict(0.05) == Verdict.FAIL
    assert failed.mean() <= 0.05 + standard_errors(0.05, runs)


@pytest.mark.parametrize("statistic", ["distribution", "p50", "p90"])
def test_a_candidate_slower_than_the_margin_rarely_passes(statistic: str):
    random, runs = np.random.default_rng(6), 200
    gate = LatencyGate.start(LatencyConfig(statistic=statistic, relative=0.25, deadline_s=100.0))
    passed = np.zeros(runs, dtype=bool)
    for _ in range(60):
        gate = gate.update(latencies(random, 20, runs=runs), latencies(random, 10, 1.25, runs=runs), elapsed_s=1.0)
        passed |= gate.verdict(0.05, 0.05) == Verdict.PASS
    assert passed.mean() <= 0.05 + standard_errors(0.05, runs)


@pytest.mark.parametrize(("statistic", "most"), [("distribution", 60), ("p50", 90), ("p90", 250)])
def test_an_equal_candidate_passes_soon(statistic: str, most: int):
    random, gate, requests = np.random.default_rng(7), LatencyGate.start(LatencyConfig(statistic=statistic, relative=0.5)), 0
    while gate.verdict(0.01) != Verdict.PASS:
        gate, requests = gate.update(latencies(random, 6)[0], latencies(random, 2)[0], elapsed_s=0.5), requests + 2
        assert requests <= most


@pytest.mark.parametrize(("statistic", "most"), [("distribution", 30), ("p50", 45), ("p99", 50)])
def test_a_candidate_three_times_slower_fails_soon(statistic: str, most: int):
    random, gate, requests = np.random.default_rng(8), LatencyGate.start(LatencyConfig(statistic=statistic, relative=0.5)), 0
    for _ in range(40):
        gate = gate.update(latencies(random, 6)[0], latencies(random, 2)[0], elapsed_s=0.5)
    while gate.verdict(0.005) != Verdict.FAIL:
        gate, requests = gate.update(latencies(random, 6)[0], latencies(random, 2, 3.0)[0], elapsed_s=0.5), requests + 2
        assert requests <= most


def test_unanswered_requests_of_the_candidate_count_as_slow():
    random, gate = np.random.default_rng(9), LatencyGate.start(LatencyConfig(relative=0.5))
    silence = np.zeros(LATENCY_BINS)
    silence[-1] = 2
    for _ in range(20):
        gate = gate.update(latencies(random, 6)[0], silence, elapsed_s=0.5)
    assert gate.verdict(0.005) == Verdict.FAIL


def test_unanswered_requests_of_both_arms_do_not_fail():
    """Where a third of stable's requests find no answer, its p90 lies in the open bin; as many of the candidate's are as good."""
    gate, block = LatencyGate.start(LatencyConfig(statistic="p90", relative=0.5)), np.zeros(LATENCY_BINS)
    block[100], block[-1] = 8, 4
    for _ in range(50):
        gate = gate.update(block, block / 4, elapsed_s=1.0)
    assert gate.verdict(0.05) != Verdict.FAIL
    for _ in range(10):
        gate = gate.update(block, np.eye(LATENCY_BINS)[-1] * 4, elapsed_s=1.0)
    assert gate.verdict(0.05) == Verdict.FAIL


def test_before_the_baseline_is_known_latency_is_no_evidence():
    random = np.random.default_rng(10)
    start = LatencyGate.start(LatencyConfig())
    after = start.update(latencies(random, 20), latencies(random, 20, 5.0))
    assert after.log_fail == start.log_fail
    assert after.update(latencies(random, 20), latencies(random, 20, 5.0)).log_fail > after.log_fail


@pytest.mark.parametrize("statistic", ["distribution", "p95"])
def test_memory_of_a_latency_gate_goes_on_where_it_stopped(statistic: str):
    random, gate = np.random.default_rng(11), LatencyGate.start(LatencyConfig(statistic=statistic))
    blocks = [(latencies(random, 9)[0], latencies(random, 3, 1.5)[0]) for _ in range(10)]
    for stable, candidate in blocks[:6]:
        gate = gate.update(stable, candidate)
    again = LatencyGate.restore(gate.config, gate.memory())
    for stable, candidate in blocks[6:]:
        gate, again = gate.update(stable, candidate), again.update(stable, candidate)
    assert again.memory() == gate.memory()
    assert (again.evidence, again.evidence_pass) == (gate.evidence, gate.evidence_pass)


def test_damaged_memory_is_refused():
    latency, errors = LatencyGate.start(LatencyConfig()), ErrorGate.start(ErrorConfig())
    with pytest.raises(ValueError, match="latency gate"):
        LatencyGate.restore(latency.config, latency.memory()[:-1])
    with pytest.raises(ValueError, match="latency gate"):
        LatencyGate.restore(latency.config, (float("nan"), *latency.memory()[1:]))
    with pytest.raises(ValueError, match="error gate"):
        ErrorGate.restore(ErrorConfig(relative=None), errors.memory())
    with pytest.raises(ValueError, match="error gate"):
        ErrorGate.restore(errors.config, (float("inf"), *errors.memory()[1:]))


def test_the_interval_of_a_rate_difference_holds_at_every_look():
    random = np.random.default_rng(12)
    missed = 0
    for _ in range(100):
        n_c = k_c = n_b = k_b = 0
        outside = False
        for _ in range(60):
            n_c, n_b = n_c + 50, n_b + 200
            k_c, k_b = k_c + random.binomial(50, 0.06), k_b + random.binomial(200, 0.04)
            low, high = rate_difference((n_c, int(k_c)), (n_b, int(k_b)))
            outside |= not low <= 0.02 <= high
        missed += outside
    assert missed <= 0.05 * 100 + 7


@pytest.mark.parametrize("arm", [(112, 6), (2137, 0), (5, 5), (100_000, 3), (1, 0), (10**12, 10**6)])
def test_the_ends_of_a_rates_interval_are_where_the_mixture_is_worth_twenty_times_as_much(arm):
    requests, errors = arm
    low, high = rate(arm, level=0.95)
    assert low <= errors / requests <= high
    for p in {low, high} - {0.0, 1.0}:
        log_odds = betaln(errors + 0.5, requests - errors + 0.5) - betaln(0.5, 0.5) - xlogy(errors, p) - xlog1py(requests - errors, -p)
        assert log_odds == pytest.approx(math.log(20), abs=0.05)  # of 1e12 requests the log gammas know two digits


def test_an_interval_narrows_with_requests():
    narrow, wide = rate_difference((5000, 50), (5000, 50)), rate_difference((50, 0), (50, 0))
    assert wide[0] < narrow[0] < 0 < narrow[1] < wide[1]
    assert half_width(1e4, level=0.95, effect=0.01) > half_width(1e5, level=0.95, effect=0.01)


def test_a_quantile_of_a_histogram_lies_in_its_bin():
    place = latency_bin(100.0)
    assert LATENCY_EDGES_MS[place - 1] < quantile_ms(((place, 10),), 0.5) < LATENCY_EDGES_MS[place]
    assert quantile_ms(((0, 1),), 0.5) < LATENCY_EDGES_MS[0]
    assert quantile_ms(((3, 1), (LATENCY_BINS - 1, 9)), 0.5) == LATENCY_EDGES_MS[-1]
    assert quantile_ms((), 0.5) == LATENCY_EDGES_MS[-1]


def test_the_interval_of_a_quantile_difference_holds_the_true_one():
    random = np.random.default_rng(13)

    def sparse(factor: float) -> tuple[tuple[int, int], ...]:
        counts = latencies(random, 2000, factor)[0]
        return tuple((int(place), int(counts[place])) for place in np.flatnonzero(counts))

    low, high = quantile_difference(sparse(1.5), sparse(1.0), quantile=0.5)
    assert 50 < low < 100 < high < 150
    assert quantile_difference(((100, 1),), ((100, 1),), quantile=0.99)[1] > 1e5
