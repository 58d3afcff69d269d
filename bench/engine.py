"""What the decision loop costs: events a second of `engine.step`, and of one gate."""

import statistics
import time

from policies import engine, gates
from policies.evidence import Block
from policies.rollout import EvidenceArrived, Ticked
from policies.spec.policy import CanaryStep, Hold, PromoteStep
from tests.making import ERRORS, LATENCY, Run, counts, policy

EVENTS = 3000
RUNS = 5


def running() -> Run:
    run = Run.of(policy(steps=(CanaryStep(shares_bp=(1000,), hold=Hold(for_s=1e9)), PromoteStep()), gates=(ERRORS, LATENCY)))
    run.serve(2)
    return run


def timed(work, times=EVENTS):
    """Microseconds per call, median of runs."""
    seen = []
    for _ in range(RUNS):
        began = time.perf_counter()
        for _ in range(times):
            work()
        seen.append((time.perf_counter() - began) / times * 1e6)
    return statistics.median(seen)


async def run():
    case = running()
    state = case.state
    clock = [case.now]

    def evidence():
        nonlocal state
        clock[0] += 0.1
        users = {state.stable.identity: counts(90, 1), state.candidate.identity: counts(10, 0)}
        state = engine.step(state, EvidenceArrived(block=Block(start=0, end=1, users=users)), now=clock[0]).state

    def tick():
        nonlocal state
        clock[0] += 0.1
        state = engine.step(state, Ticked(), now=clock[0]).state

    gate = gates.open_gate(ERRORS, now=0.0, deadline_s=7200.0)
    feeds = [0]

    def feed():
        nonlocal gate
        feeds[0] += 1
        gate = gates.feed(ERRORS, gate, counts(90, 1), counts(10, 0), now=feeds[0] * 0.1)

    figures = {"evidence_event_us": timed(evidence), "tick_event_us": timed(tick), "error_gate_feed_us": timed(feed)}
    print(
        f"{'engine.step of a block of evidence (2 gates)':<52}{figures['evidence_event_us']:8.0f} us {1e6 / figures['evidence_event_us']:8.0f} events/s"
    )
    print(f"{'engine.step of a tick (2 gates read)':<52}{figures['tick_event_us']:8.0f} us {1e6 / figures['tick_event_us']:8.0f} events/s")
    print(f"{'one error gate fed with one block':<52}{figures['error_gate_feed_us']:8.0f} us")
    return figures
