"""What `crossfade test` costs: 1,000 runs of a policy that takes a day, folded and on all processors, beside some fed block by block.

`python -m bench replay`. Processor time is what counts where other programs run beside.
"""

import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from policies.replay.scenario import Scenario, least_s
from policies.replay.simulate import simulate
from policies.spec.policy import Gate, Hold, Margin, Metric, PromoteStep, When
from tests.making import canary, policy
from xds_server.cli.test import CHUNK

RUNS = 1000
EXACT_RUNS = 4
HOURS = 3600.0

ERRORS = Gate(name="errors", metric=Metric.ERROR_RATE, margin=Margin(absolute=0.01))
P95 = Gate(name="p95", metric=Metric.LATENCY, statistic="p95", margin=Margin(relative=0.25))
WHOLE = Gate(name="latency", metric=Metric.LATENCY, margin=Margin(relative=0.5))

GATES = {"errors": (ERRORS,), "errors and p95": (ERRORS, P95), "errors and the whole latency": (ERRORS, WHOLE)}


def day(gates):
    """Five shares of four hours each and four hours of bake."""
    hold = Hold(for_s=4 * HOURS, samples=500)
    steps = (canary(100, 500, 1000, 2500, 5000, hold=hold), PromoteStep(keep_stable_for_s=4 * HOURS))
    made = policy(steps=steps, gates=gates, when=When(stuck_after_s=8 * HOURS))
    assert least_s(made) == 24 * HOURS
    return made


def chunk(document, runs, seed, exact):
    """(runs, runs that were promoted, processor time [s])."""
    began = time.process_time()
    ended = simulate(document, Scenario(name="good"), runs=runs, random=np.random.default_rng(seed), exact=exact)
    return len(ended), sum(run.ended == "promoted" for run in ended), time.process_time() - began


def folded(document):
    """(wall [s], processor time [s], promoted) of all runs."""
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = [pool.submit(chunk, document, min(CHUNK, RUNS - first), (1, first), False) for first in range(0, RUNS, CHUNK)]
        told = [part.result() for part in parts]
    return time.perf_counter() - began, sum(cpu for _, _, cpu in told), sum(promoted for _, promoted, _ in told)


async def run():
    figures = {}
    for name, gates in GATES.items():
        document = day(gates)
        wall, cpu, promoted = folded(document)
        _, _, exact = chunk(document, EXACT_RUNS, 1, True)
        key = name.replace(" ", "_")
        figures |= {f"{key}_wall_s": wall, f"{key}_cpu_s": cpu, f"{key}_exact_cpu_s_per_1000": exact / EXACT_RUNS * 1000}
        what = f"1,000 runs of a day, {name} ({promoted} promoted)"
        print(f"{what:<66}{wall:7.1f} s, {cpu:.1f} s of processors; block by block {exact / EXACT_RUNS * 1000:.0f} s")
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{'memory of a process':<66}{figures['peak_mib']:7.0f} MiB")
    return figures
