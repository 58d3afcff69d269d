"""Laws of the gates that are not of errors or latency: finite for any counts, the same after a restart, monotone, blind to names and cuts.

On cutting: a gate bets anew in every block, so a late regression shows in small blocks and drowns in a large one; no gate could say the same
of both. What holds is that PASS is staked once, at the start: its evidence is the same however the same requests are cut into blocks, and
counts that FAIL as one block PASS in no cut. A late FAIL can therefore never be split or merged into a PASS that the counts do not support.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.statistics import (
    AgreementConfig,
    AgreementGate,
    CeilingConfig,
    CeilingGate,
    DriftConfig,
    DriftGate,
    MeanConfig,
    MeanGate,
    Moments,
    Objective,
    RatioConfig,
    RatioGate,
    ScoreConfig,
    ScoreGate,
    Verdict,
    VoteConfig,
    VoteGate,
    WinnerConfig,
    WinnerGate,
)

MOST = 10**12
QUICK = settings(deadline=None, max_examples=40)

Feed = tuple[Any, tuple[Any, ...], dict[str, Any]]

COUNT = st.integers(0, MOST)
ELAPSED = st.floats(0, 1e5)
BINS = st.lists(COUNT, min_size=4, max_size=4)
SCORES = st.lists(st.floats(0, 1), max_size=8)


@st.composite
def rate(draw: st.DrawFn) -> tuple[int, int]:
    requests = draw(COUNT)
    return requests, draw(st.integers(0, requests))


@st.composite
def values(draw: st.DrawFn) -> Moments:
    requests = draw(COUNT)
    mean = draw(st.floats(0, 1e9)) if requests else 0.0
    return Moments(requests=float(requests), mean=mean, squares=draw(st.floats(0, 1e9)) * requests if requests > 1 else 0.0)


KINDS: dict[str, tuple[Any, Any, st.SearchStrategy[tuple[Any, Any]]]] = {
    "ceiling": (CeilingGate, CeilingConfig(ceiling=0.01), st.tuples(st.none(), rate())),
    "ratio": (RatioGate, RatioConfig(shares=(0.9, 0.1)), st.tuples(COUNT, COUNT)),
    "mean": (MeanGate, MeanConfig(relative=0.05, absolute=1.0), st.tuples(values(), values())),
    "score": (ScoreGate, ScoreConfig(), st.tuples(SCORES, SCORES)),
    "vote": (VoteGate, VoteConfig(), st.tuples(COUNT, COUNT)),
    "drift": (DriftGate, DriftConfig(bins=4), st.tuples(BINS, BINS)),
    "agreement": (AgreementGate, AgreementConfig(), st.tuples(rate(), rate())),
    "floor": (AgreementGate, AgreementConfig(floor=0.9), st.tuples(rate(), rate())),
}


def fed(gate: Any, blocks: list[tuple[tuple[Any, Any], float]]) -> Any:
    for (baseline, candidate), elapsed_s in blocks:
        gate = gate.update(baseline, candidate, elapsed_s=elapsed_s)
    return gate


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data())
def test_evidence_is_finite_and_never_negative_and_a_restart_changes_nothing(kind: str, data: st.DataObject):
    gate_of, config, block = KINDS[kind]
    blocks = st.lists(st.tuples(block, ELAPSED), max_size=5)
    gate = fed(gate_of.start(config), data.draw(blocks))
    assert 0 <= gate.evidence < math.inf
    assert 0 <= gate.evidence_pass < math.inf
    assert gate.verdict(0.01, 0.05) in list(Verdict)
    again = gate_of.restore(config, gate.memory())
    assert again.memory() == gate.memory()
    after = data.draw(blocks)
    assert fed(again, after).memory() == fed(gate, after).memory()


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data())
def test_runs_do_not_touch_each_other(kind: str, data: st.DataObject):
    """Two runs at once, of which the second one is silent in between, are two gates."""
    gate_of, config, block = KINDS[kind]
    if kind == "score":
        block = st.tuples(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.lists(st.floats(0, 1), min_size=2, max_size=2))
    first, second = (data.draw(st.lists(block, min_size=2, max_size=2)) for _ in range(2))
    alone = [fed(gate_of.start(config), [(each, 10.0) for each in run]) for run in (first, second)]
    both = gate_of.start(config)
    for one, other in zip(first, second, strict=True):
        both = both.update(*(together(*arms) for arms in zip(one, other, strict=True)))
    for name in ("evidence", "evidence_pass"):
        expected = np.array([float(getattr(gate, name)) for gate in alone])
        logs = np.log(np.maximum(expected, 1e-300)), np.log(np.maximum(np.broadcast_to(getattr(both, name), (2,)), 1e-300))
        assert logs[1] == pytest.approx(logs[0], rel=1e-6, abs=0.2)


def together(one: Any, other: Any) -> Any:
    """One block of two runs."""
    if one is None:
        return None
    if isinstance(one, Moments):
        parts = {name: np.array([getattr(one, name), getattr(other, name)]) for name in ("requests", "mean", "squares")}
        return Moments(**parts)
    if isinstance(one, tuple):
        return tuple(np.array(pair) for pair in zip(one, other, strict=True))
    return np.array([one, other])


CUTS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2000)).map(lambda pair: (max(pair), min(pair))), min_size=1, max_size=8)


@QUICK
@given(blocks=CUTS, ceiling=st.floats(0.001, 0.9))
def test_cutting_a_ceilings_requests_differently_turns_no_fail_into_a_pass(blocks: list[tuple[int, int]], ceiling: float):
    start = CeilingGate.start(CeilingConfig(ceiling=ceiling))
    whole = start.update(None, (sum(n for n, _ in blocks), sum(bad for _, bad in blocks)), elapsed_s=10.0)
    cut = fed(start, [((None, block), 10.0 / len(blocks)) for block in blocks])
    assert float(cut.log_pass) == pytest.approx(float(whole.log_pass), rel=1e-9, abs=1e-6)
    if whole.verdict(0.05) == Verdict.FAIL:
        assert cut.verdict(0.05) != Verdict.PASS
    if cut.verdict(1e-9, 0.05) == Verdict.PASS:
        assert whole.verdict(0.05) != Verdict.FAIL
    # what is staked in the first block is half the purse at least, so a cut loses no more than that
    assert float(cut.log_fail) >= float(whole.log_fail) - math.log(2) - 1e-6


@QUICK
@given(
    base=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    data=st.data(),
    cut=st.integers(0, 30),
)
def test_cutting_pairs_differently_changes_no_pass(base: list[float], data: st.DataObject, cut: int):
    cand = data.draw(st.lists(st.floats(0, 1), min_size=len(base), max_size=len(base)))
    start = ScoreGate.start(ScoreConfig(paired=True))
    whole = start.update(base, cand)
    halves = start.update(base[:cut], cand[:cut]).update(base[cut:], cand[cut:])
    assert float(halves.log_pass) == pytest.approx(float(whole.log_pass), abs=1e-9)
    if whole.verdict(0.05) == Verdict.FAIL:
        assert halves.verdict(0.05) != Verdict.PASS


@QUICK
@given(blocks=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=1, max_size=6))
def test_cutting_votes_or_counts_differently_changes_nothing(blocks: list[tuple[int, int]]):
    total = tuple(sum(part) for part in zip(*blocks, strict=True))
    votes, ratio = VoteGate.start(VoteConfig()), RatioGate.start(RatioConfig(shares=(0.6, 0.4)))
    cut = [(block, 10.0) for block in blocks]
    assert fed(votes, cut).evidence == votes.update(*total).evidence
    assert float(fed(ratio, cut).log_evidence) == pytest.approx(float(ratio.update(*total).log_evidence), abs=1e-6)


def not_better(worse: Any, better: Any) -> None:
    """The candidate that did worse is nearer to FAIL and further from PASS."""
    for name, sign in (("log_fail", 1.0), ("log_pass", -1.0)):
        one, other = sign * float(getattr(worse, name)), sign * float(getattr(better, name))
        assert one >= other - 1e-7 * (1 + abs(other))


@QUICK
@given(blocks=CUTS, more=st.integers(1, 2000), ceiling=st.floats(0.001, 0.9))
def test_more_bad_requests_never_look_better_to_a_ceiling(blocks: list[tuple[int, int]], more: int, ceiling: float):
    start = CeilingGate.start(CeilingConfig(ceiling=ceiling))
    worse = [((None, (n, min(bad + more, n))), 10.0) for n, bad in blocks]
    not_better(fed(start, worse), fed(start, [((None, block), 10.0) for block in blocks]))


@QUICK
@given(blocks=st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=4), lower=st.floats(0, 1), paired=st.booleans())
def test_lower_scores_never_look_better(blocks: list[tuple[list[float], list[float]]], lower: float, *, paired: bool):
    if paired:
        blocks = [(base[: len(cand)], cand[: len(base)]) for base, cand in blocks]
    start = ScoreGate.start(ScoreConfig(paired=paired))
    worse = [((base, [score * lower for score in cand]), 10.0) for base, cand in blocks]
    not_better(fed(start, worse), fed(start, [(block, 10.0) for block in blocks]))


@QUICK
@given(won=st.integers(0, 10**6), lost=st.integers(0, 10**6), more=st.integers(1, 1000))
def test_more_lost_votes_never_look_better(won: int, lost: int, more: int):
    start = VoteGate.start(VoteConfig())
    not_better(start.update(lost + more, won), start.update(lost, won))


@QUICK
@given(seed=st.integers(0, 2**32), more=st.floats(0, 10), forms=st.sampled_from([(0.05, None), (None, 0.5), (0.05, 0.5)]))
def test_a_higher_mean_never_looks_better(seed: int, more: float, forms: tuple[float | None, float | None]):
    random, start = np.random.default_rng(seed), MeanGate.start(MeanConfig(relative=forms[0], absolute=forms[1]))
    better = worse = start
    for _ in range(5):
        n_c, n_b = (float(count) for count in random.integers(2, 200, 2))
        mean_c, mean_b, spread = random.random(3) * 5
        base = Moments(requests=n_b, mean=mean_b, squares=spread * n_b)
        better = better.update(base, Moments(requests=n_c, mean=mean_c, squares=spread * n_c))
        worse = worse.update(base, Moments(requests=n_c, mean=mean_c + more, squares=spread * n_c))
    not_better(worse, better)


@QUICK
@given(counts=st.lists(st.tuples(COUNT, COUNT, COUNT), min_size=1, max_size=4), order=st.permutations(range(3)))
def test_a_sample_ratio_does_not_know_its_arms_by_name(counts: list[tuple[int, int, int]], order: list[int]):
    shares = (0.5, 0.3, 0.2)
    one = RatioGate.start(RatioConfig(shares=shares))
    other = RatioGate.start(RatioConfig(shares=tuple(shares[place] for place in order)))
    for block in counts:
        one, other = one.update(*block), other.update(*(block[place] for place in order))
    assert float(other.log_stage) == pytest.approx(float(one.log_stage), rel=1e-9, abs=0.5 if max(map(max, counts)) > 10**9 else 1e-4)


@QUICK
@given(won=st.integers(0, 10**6), lost=st.integers(0, 10**6))
def test_that_one_loses_is_that_the_other_wins(won: int, lost: int):
    fair = VoteConfig(fair=0.5, good_enough=0.5)
    one, other = VoteGate.start(fair).update(lost, won), VoteGate.start(fair).update(won, lost)
    assert one.evidence == other.evidence_pass
    assert one.evidence_pass == other.evidence


@QUICK
@given(one=values(), other=values())
def test_the_difference_of_means_turned_round_is_its_negative(one: Moments, other: Moments):
    gate = MeanGate.start(MeanConfig())
    after = gate.update(one, other)
    low, high = after.difference()
    assert 0 <= after.ratio()[0] <= after.ratio()[1]
    back_low, back_high = gate.update(other, one).difference()
    assert (float(low), float(high)) == pytest.approx((-float(back_high), -float(back_low)), rel=1e-9)


@QUICK
@given(base=BINS, cand=BINS, order=st.permutations(range(4)))
def test_drift_does_not_know_its_bins_by_name(base: list[int], cand: list[int], order: list[int]):
    def twice(move: Callable[[list[int]], list[int]]) -> DriftGate:
        return DriftGate.start(DriftConfig(bins=4)).update(move(base), move(cand)).update(move(cand), move(base))

    one, other = twice(list), twice(lambda bins: [bins[place] for place in order])
    assert float(other.log_fail) == pytest.approx(float(one.log_fail), rel=1e-6, abs=1e-6)
    assert float(other.effect) == pytest.approx(float(one.effect), rel=1e-6, abs=1e-9)


@QUICK
@given(data=st.data())
def test_bounds_of_a_comparison_are_ordered_and_antisymmetric_for_any_counts(data: st.DataObject):
    gate = WinnerGate.start(WinnerConfig(arms=3, objectives=(Objective(name="utility", tolerance=0.1),)))
    for _ in range(data.draw(st.integers(1, 3))):
        arms = [data.draw(values()) for _ in range(3)]
        gate = gate.update([arm.requests for arm in arms], [[arm.mean for arm in arms]], [[arm.squares for arm in arms]])
    low, high = gate.bounds(0.05)
    assert not np.isnan(low).any()
    assert (low <= high).all()
    assert (low == -np.swapaxes(high, -1, -2)).all()
    assert WinnerGate.restore(gate.config, gate.memory()).memory() == gate.memory()
