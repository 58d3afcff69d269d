"""`python -m tests.simulation --seeds 0-5000`: many lives, the invariants they were held against, and every violation with its seed."""

import argparse
import asyncio
import logging
import sys
import time
import traceback
from collections import Counter

import structlog

from tests.simulation.invariants import INVARIANTS
from tests.simulation.sim import random_life


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0-1000", help="FIRST-LAST, the last not included")
    parser.add_argument("--ticks", type=int, default=60)
    said = parser.parse_args()
    first, last = map(int, said.seeds.split("-"))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print("invariants:")
    for invariant in INVARIANTS:
        print(f"  {invariant.__name__}: {invariant.__doc__}")
    bad, crashes, decided, began = 0, 0, Counter(), time.perf_counter()
    for seed in range(first, last):
        try:
            sim = asyncio.run(random_life(seed, ticks=said.ticks))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told with its seed and the next life begins
            bad += 1
            where = "" if isinstance(error, AssertionError) else traceback.format_exc(limit=-4)
            print(f"VIOLATION seed {seed}: {type(error).__name__}: {str(error)[:700]}\n{where}", flush=True)
            continue
        if seed % 100 == 99:
            print(f"... {seed + 1}", flush=True)
        crashes += sim.crashes
        decided.update(record.decision.value for record in sim.notified)
    took = time.perf_counter() - began
    print(
        f"{last - first} seeds, {(last - first) / took:.1f} seeds/s, {crashes} crashes, {bad} violations; decisions: {dict(decided.most_common())}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
