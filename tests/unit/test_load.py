"""The requests in flight, estimated from what ended: neither a lucky moment nor a burst of long requests takes the share away for long."""

import random

import pytest

from policies import capacity
from policies.evidence import Block
from policies.spec.policy import Hold, PromoteStep
from tests.crowd import begun, share
from tests.making import canary, counts, policy, variant

LONG = Hold(for_s=1e6)
MINUTE_MS = 60_000.0


@pytest.mark.parametrize("per_s", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("seed", range(5))
def test_random_arrivals_do_not_overstate_the_requests_in_flight_by_more_than_twice(per_s, seed):
    """Three minutes of requests of one second each; nobody is told of a moment in which none ended."""
    run, rng, most = begun(policy(steps=(canary(1000, hold=LONG), PromoteStep()))), random.Random(seed), 0.0
    for _ in range(1800):
        run.now += 0.1
        ended = sum(rng.random() < per_s / 1000 for _ in range(100))
        if ended:
            run.evidence(stable=counts(ended, latency_ms=1000.0))
            most = max(most, run.state.load)
    assert 0.5 * per_s < most < 2 * per_s


def small(share_bp=5000, max_concurrency=4):
    """A run in its first stage whose arm has one pod for few requests at once."""
    arm = variant("candidate", "v2", 8002, max_concurrency=max_concurrency)
    return begun(policy(arms=(arm,), steps=(canary(share_bp, hold=LONG), PromoteStep())))


def quiet(run, seconds):
    """One short request of each version every half second; the shares seen, with their times."""
    seen = []
    for _ in range(round(seconds * 2)):
        run.now += 0.5
        run.evidence(counts(1), counts(1))
        seen.append((run.now, share(run)["candidate"]))
    return seen


def test_a_hundred_long_requests_that_end_together_lower_the_share_for_a_while_only():
    run = small()
    assert {bp for _, bp in quiet(run, 60)} == {5000}
    run.now += 0.5
    run.evidence(counts(100, latency_ms=10 * MINUTE_MS))
    assert 0 < share(run)["candidate"] < 5000
    assert quiet(run, 240)[-1][1] == 5000


def test_the_share_rises_again_ten_seconds_after_it_last_fell():
    run = small()
    quiet(run, 5)
    run.evidence(counts(10, latency_ms=MINUTE_MS))
    fell, low = run.now, share(run)["candidate"]
    assert low < 5000
    rose = next(at for at, bp in quiet(run, 60) if bp > low)
    assert rose - fell == pytest.approx(capacity.RISES_AFTER_S, abs=1.0)


def test_a_share_that_falls_again_waits_again():
    run = small()
    quiet(run, 5)
    run.evidence(counts(5, latency_ms=MINUTE_MS))
    quiet(run, 6)
    before = share(run)["candidate"]
    run.evidence(counts(20, latency_ms=MINUTE_MS))
    fell, low = run.now, share(run)["candidate"]
    assert low < before
    assert {bp for at, bp in quiet(run, 9) if at - fell < capacity.RISES_AFTER_S} == {low}


def test_what_ended_in_one_block_counts_by_the_time_since_the_last_one():
    run = small()
    run.evidence(counts(1, latency_ms=1000.0))
    run.now += 10
    run.evidence(counts(10, latency_ms=1000.0))
    block = Block(start=run.now, end=run.now + 10, users={}, shadows={})
    assert capacity.in_flight(run.state, block, now=run.now + 10) < run.state.load < 1.0
