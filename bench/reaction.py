"""How fast bad news travels: real Envoy, 100 requests/s, candidate at 10 %, it turns bad at a random moment. 10 runs; median and worst.

errors   the candidate answers every request with a 500: first bad answer -> last request sent to it, bad answers served
abort    `crossfade abort`'s request to the server -> last request sent to the candidate
kill     `kill -9` of the control plane -> last request sent to the candidate; lease 3 s
"""

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from tests.rig import Backend, Client, until
from tests.stage import Stage, rollout

RUNS = 10
KILLS = 3
RATE = 100
GATES = [
    {"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "0.5%", "relative": "25%"}},
    {"name": "latency", "metric": "envoy/latency", "margin": {"relative": "100%"}},
]
LEASE_S = 3.0


async def staged(body):
    """One fresh stage with a canary at 10 % and load, handed to `body(stage, load, v2)`."""
    with tempfile.TemporaryDirectory() as folder:
        async with Backend(name="v1", delay_s=0.005) as v1, Backend(name="v2", delay_s=0.005) as v2, Stage(Path(folder)) as stage:
            await stage.start(rollout(v1, v2, gates=GATES))
            async with Client(stage.port) as client:
                await stage.serving(client)
                await stage.share(0.1)
                async with client.load(RATE) as load:
                    await asyncio.sleep(random.uniform(3.0, 12.0))
                    return await body(stage, load, v2)


async def errors(stage, load, v2):
    v2.status = 500
    await stage.phase("reverting", "reverted")
    await asyncio.sleep(0.5)
    bad = sorted(reply.at + reply.latency_ms / 1000 for reply in load.replies if reply.status == 500)
    return {"reaction_s": v2.last_at - bad[0], "bad_requests": len(bad)}


async def abort(stage, _load, v2):
    began = time.time()
    await stage.act("abort")
    await asyncio.sleep(0.5)
    return {"last_after_s": v2.last_at - began}


async def kill(stage, load, v2):
    began = time.time()
    await stage.kill_server()
    await asyncio.sleep(LEASE_S + 1.5)
    await until(lambda: load.since(began + LEASE_S + 1.4))
    return {"last_after_s": v2.last_at - began, "failures": len(load.failures)}


def shown(name, values, unit, target):
    print(f"{name:<58}{statistics.median(values):8.3f} {unit} median {max(values):8.3f} {unit} worst   target {target}")


async def run():
    figures = {
        "errors": [await staged(errors) for _ in range(RUNS)],
        "abort": [await staged(abort) for _ in range(KILLS)],
        "kill": [await staged(kill) for _ in range(KILLS)],
    }
    shown("100 % errors: first bad answer -> last request", [run["reaction_s"] for run in figures["errors"]], "s", "0.8 / 1.5")
    shown("100 % errors: bad answers served", [run["bad_requests"] for run in figures["errors"]], " ", "10")
    shown("abort: command at the server -> last request", [run["last_after_s"] for run in figures["abort"]], "s", "0.15")
    shown(f"kill -9, lease {LEASE_S:.0f} s: last request", [run["last_after_s"] for run in figures["kill"]], "s", "4.0")
    shown("kill -9: failed requests", [run["failures"] for run in figures["kill"]], " ", "0")
    return figures
