"""What evidence costs when it is told and kept: a block of the feed for nobody and for listeners, writing and reading a recording.

CPU time of the process, so that what else runs on the machine counts little; median of the runs.
"""

import contextlib
import random
import statistics
import tempfile
import time
from pathlib import Path

from policies.evidence import Block, Counts
from policies.rollout import Mode
from policies.spec.policy import PromoteStep
from tests.making import HOLD, Run, canary, policy
from xds_server.adapters import recordings
from xds_server.adapters.recording_rows import Row, writer
from xds_server.runtime.feed import Feed

RUNS = 5
BLOCKS = 5000
ROWS = 20_000


def seen(draw, requests):
    """Counts with as many bins as live traffic has."""
    bins = {place: draw.randrange(1, 9) for place in draw.sample(range(60, 110), 25)}
    return Counts(
        requests=requests,
        errors=1,
        latency=tuple(sorted(bins.items())),
        ttft=tuple(sorted(bins.items())),
        statuses=(("200", 9), ("500", 1)),
    )


def canary_state():
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep())))
    for act in (run.ack, run.ready, run.ack):
        act()
    assert run.state.mode is Mode.STEP
    return run.state


def cpu(work):
    """Seconds, median of runs."""
    found = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return statistics.median(found)


def feeding(listeners):
    """us per block, where nobody takes any: the queues are full."""
    state, draw = canary_state(), random.Random(1)
    block = Block(start=1.0, end=1.1, users={state.stable.identity: seen(draw, 90), state.arms[0].variant.identity: seen(draw, 10)})
    feed = Feed()

    def work():
        with contextlib.ExitStack() as stack:
            for _ in range(listeners):
                stack.enter_context(feed.listen("chat"))
            for _ in range(BLOCKS):
                feed.give(block, state)

    return cpu(work) / BLOCKS * 1e6


def filing(folder, form):
    """us per row to write and to read, bytes per row."""
    draw = random.Random(2)
    rows = [
        Row(start=number // 2, end=number // 2 + 1.0, variant=name, version=name, share=0.1, step="canary 10%", counts=seen(draw, 100))
        for number, name in enumerate(("stable", "candidate") * (ROWS // 2))
    ]
    path = folder / f"r{form}"

    def write():
        out = writer(path, form)
        for first in range(0, ROWS, 2):
            out.write(rows[first : first + 2])
        out.close()

    wrote = cpu(write) / ROWS * 1e6
    return wrote, cpu(lambda: recordings.read(path)) / ROWS * 1e6, path.stat().st_size / ROWS


async def run():
    figures = {f"feed_{number}_us": feeding(number) for number in (0, 1, 16)}
    for number in (0, 1, 16):
        print(f"{f'a block of two variants for {number} listeners':<52}{figures[f'feed_{number}_us']:8.2f} us")
    with tempfile.TemporaryDirectory() as folder:
        for form in (".csv", ".parquet"):
            wrote, read, size = filing(Path(folder), form)
            figures |= {f"write{form}_us": wrote, f"read{form}_us": read, f"size{form}_bytes": size}
            print(f"{f'a row of {form[1:]} ({size:.0f} bytes): written, read':<52}{wrote:8.1f} us {read:8.1f} us")
    return figures
