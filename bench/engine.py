"""What the decision loop costs: events a second of `engine.step`, and of one gate."""

import asyncio
import gc
import logging
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import structlog

from policies import engine, gates
from policies.evidence import Block, Counts, latency_bin
from policies.rollout import Delivered, Delivery, EvidenceArrived, Pods, PodsProbed, Ticked
from policies.spec.policy import Hold, PromoteStep
from tests.making import ERRORS, LATENCY, Run, canary, counts, policy
from xds_server.adapters.store import open_store
from xds_server.runtime.conductor import Conductor
from xds_server.runtime.server import CHECKPOINTS_MOST

EVENTS = 3000
RUNS = 5


def running() -> Run:
    run = Run.of(policy(steps=(canary(1000, hold=Hold(for_s=1e9)), PromoteStep()), gates=(ERRORS, LATENCY)))
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


ROLLOUTS = 1000
SECONDS = 30


async def fleet(asked):
    """1,000 running rollouts, each with a block of evidence a second, saved as the server does: CPU of a second, memory of a rollout."""
    gc.collect()
    before, clock = rss_kib(), [1e9]
    with tempfile.TemporaryDirectory() as folder:
        store = await open_store(f"sqlite:{folder}/state.db")
        conductor = Conductor(
            store=store,
            world=Nowhere(),
            clock=lambda: clock[0],
            decided=lambda _: None,
            dropped=lambda _: None,
            saved=lambda *_: None,
        )
        document = policy(steps=(canary(1000, hold=Hold(for_s=1e9)), PromoteStep()), gates=asked)
        await conductor.apply_policies({f"r{number}": replace(document, name=f"r{number}") for number in range(ROLLOUTS)})
        worker = asyncio.create_task(conductor.run())
        for entry in conductor.entries.values():
            name = entry.state.name
            conductor.submit(name, Delivered(publication=entry.state.publication, delivery=ACKED))
            conductor.submit(name, PodsProbed(identity=entry.state.arms[0].variant.identity, pods=Pods(ready=1, total=1)))
        await idle(conductor)
        for entry in conductor.entries.values():
            conductor.submit(entry.state.name, Delivered(publication=entry.state.publication, delivery=ACKED))
        await idle(conductor)
        gc.collect()
        gc.freeze()  # as the server does
        gc.set_threshold(100_000, 50, 1000)
        chance = random.Random(1)
        for _ in range(3):
            await second(conductor, clock, chance)
        spent = [await second(conductor, clock, chance) for _ in range(SECONDS)]
        memory = (rss_kib() - before) / ROLLOUTS
        worker.cancel()
        await store.close()
    cpu, names = statistics.median(spent), " and ".join(gate.name for gate in asked)
    what = f"{ROLLOUTS:,} rollouts, a block each a second, {names}"
    print(f"{what:<62}{cpu * 100:6.1f} % of a core (worst {max(spent) * 100:.1f}), {memory:.0f} KiB each")
    return {f"{names} cpu": cpu, f"{names} cpu_worst": max(spent), f"{names} rollout_kib": memory}


ACKED = Delivery(selected=1, acked=1)


async def second(conductor, clock, chance):
    """No two blocks are alike: what the gates remember of equal ones must not flatter them."""
    clock[0] += 1.0
    for name, entry in conductor.entries.items():
        state = entry.state
        stable, candidate = chance.randrange(70, 110), chance.randrange(6, 14)
        users = {
            state.stable.identity: spread(stable, chance),
            state.arms[0].variant.identity: spread(candidate, chance),
        }
        conductor.submit(name, EvidenceArrived(block=Block(start=clock[0] - 0.1, end=clock[0], users=users)))
    began = time.process_time()
    await idle(conductor)
    await conductor.checkpoint(CHECKPOINTS_MOST)
    return time.process_time() - began


def spread(requests, chance):
    """Requests with latencies around 100 ms, one in a hundred bad."""
    bins = Counter(latency_bin(100.0 * chance.lognormvariate(0.0, 0.3)) for _ in range(requests))
    return Counts(requests=requests, errors=chance.randrange(100) // 99, latency=tuple(sorted(bins.items())))


def feeding(gate):
    """Feeds a gate that has run for some minutes with blocks of which no two are alike, as in `second`."""
    chance = random.Random(2)
    some = [(spread(chance.randrange(70, 110), chance), spread(chance.randrange(6, 14), chance)) for _ in range(1000)]
    state, fed = gates.open_gate(gate, now=0.0, deadline_s=7200.0), 0

    def feed():
        nonlocal state, fed
        fed += 1
        state = gates.feed(gate, state, *some[fed % len(some)], now=fed * 1.0)

    for _ in range(300):
        feed()
    return feed


async def idle(conductor):
    """Waits without turning the loop all the time, which would be counted as the conductor's work."""
    while conductor.waiting:  # noqa: ASYNC110 - the conductor has no reason to tell anybody that it is idle
        await asyncio.sleep(0.005)


def rss_kib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


class Nowhere:
    """Takes what is published."""

    def publish(self, wish):
        pass

    def withdraw(self, rollout):
        pass

    def flush(self):
        pass


async def run():
    case = running()
    state = case.state
    clock = [case.now]

    def evidence():
        nonlocal state
        clock[0] += 0.1
        users = {state.stable.identity: counts(90, 1), case.arm.variant.identity: counts(10, 0)}
        state = engine.step(state, EvidenceArrived(block=Block(start=0, end=1, users=users)), now=clock[0]).state

    def tick():
        nonlocal state
        clock[0] += 0.1
        state = engine.step(state, Ticked(), now=clock[0]).state

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    figures = await fleet((ERRORS, LATENCY)) | await fleet((ERRORS,))
    figures |= {"evidence_event_us": timed(evidence), "tick_event_us": timed(tick)}
    figures |= {f"{gate.name}_gate_feed_us": timed(feeding(gate)) for gate in (ERRORS, LATENCY)}
    print(
        f"{'engine.step of a block of evidence (2 gates)':<52}{figures['evidence_event_us']:8.0f} us {1e6 / figures['evidence_event_us']:8.0f} events/s"
    )
    print(f"{'engine.step of a tick (2 gates read)':<52}{figures['tick_event_us']:8.0f} us {1e6 / figures['tick_event_us']:8.0f} events/s")
    for gate in (ERRORS, LATENCY):
        print(f"{f'gate {gate.name} fed with one block':<52}{figures[f'{gate.name}_gate_feed_us']:8.0f} us")
    return figures
