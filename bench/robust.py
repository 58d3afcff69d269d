"""Bad peers: a tenth of the fleet stops reading while pushes go on; a fleet that rejects everything and says so over and over.

Neither may delay the others, grow the server or make it send again what was rejected. Server and load share the machine.
"""

import asyncio
import statistics

from bench.sides import load

STREAMS = 1000
STALLED = 100
PUSHES = 120
SIZES = (2_000, 200_000)
ENVOYS = 50
SECONDS = 60
REPEATS_HZ = 10.0
"""How often one hostile peer repeats itself: as often as Envoy's own rate limit of requests would let it."""


async def pushes(sides, count, acked):
    """p99 of the deliveries to those who read, one per push."""
    found = []
    for _ in range(count):
        found.append((await sides.push(STREAMS - STALLED, skip=STALLED))["p99"])
        await sides.settle(acked)
    return found


async def stalled(size):
    """Half of the pushes with all reading, all of them with a tenth stalled, then the other half: the machine drifts."""
    async with load(size=size) as sides:
        await sides.fleet.ask("open", streams=STREAMS)
        await sides.settle(STREAMS)
        without = await pushes(sides, PUSHES // 2, STREAMS)
        await sides.fleet.ask("stall", streams=STALLED)
        before = await sides.mark()
        stalling = await pushes(sides, PUSHES, STREAMS - STALLED)
        after = await sides.stats()
        await sides.fleet.ask("stall", streams=0)
        caught_up = await sides.settle(STREAMS)
        without += await pushes(sides, PUSHES // 2, STREAMS)
        fleet = await sides.fleet.ask("stats")
    assert not fleet["losses"], f"{fleet['losses']} streams were lost"
    p99 = {"without_ms": statistics.median(without), "with_ms": statistics.median(stalling)}
    return {
        "bytes": size,
        "pushes": PUSHES,
        **p99,
        "ratio": p99["with_ms"] / p99["without_ms"],
        "grown_mib": (after["rss_bytes"] - before["rss_bytes"]) / 2**20,
        "peak_grown_mib": (after["rss_peak_bytes"] - before["rss_bytes"]) / 2**20,
        "sent_per_stalled": (caught_up["sent"] - before["sent"] - PUSHES * (STREAMS - STALLED)) / STALLED,
    }


async def rejecting():
    """One push a second is rejected by all; in between each repeats its NACK and its request."""
    async with load(size=SIZES[0]) as sides:
        await sides.fleet.ask("open", streams=ENVOYS)
        await sides.settle(ENVOYS)
        await sides.fleet.ask("reject", hz=REPEATS_HZ)
        before = await sides.mark()
        for _ in range(SECONDS):
            await sides.push(ENVOYS)
            await asyncio.sleep(1.0)
        after = await sides.stats()
        fleet = await sides.fleet.ask("stats")
    assert not fleet["losses"], f"{fleet['losses']} streams were lost"
    return {
        "requests": ENVOYS * SECONDS * (1 + REPEATS_HZ),
        "sent": after["sent"] - before["sent"],
        "needed": ENVOYS * SECONDS,
        "rejected": after["rejected"],
        "lag_ms": after["lag_ms"],
        "cpu_share": (after["cpu_seconds"] - before["cpu_seconds"]) / SECONDS,
        "grown_mib": (after["rss_bytes"] - before["rss_bytes"]) / 2**20,
    }


async def run():
    figures = {"stalled": []}
    print(
        f"{f'{STALLED} of {STREAMS} not reading, {PUSHES} pushes':<34}{'p99 without':>12}{'p99 with':>10}{'ratio':>7}{'grown MiB':>11}{'peak':>7}{'sent each':>11}"
    )
    for size in SIZES:
        row = await stalled(size)
        figures["stalled"].append(row)
        print(
            f"{f'{size // 1000} KB (target ratio 1.3, 5 MiB)':<34}{row['without_ms']:>9.1f} ms{row['with_ms']:>7.1f} ms{row['ratio']:>7.2f}"
            f"{row['grown_mib']:>11.1f}{row['peak_grown_mib']:>7.1f}{row['sent_per_stalled']:>11.2f}",
            flush=True,
        )
    storm = figures["rejecting"] = await rejecting()
    print(f"{ENVOYS} proxies reject everything for {SECONDS} s and say so {REPEATS_HZ:.0f} times a second each")
    print(
        f"  responses sent {storm['sent']} (needed {storm['needed']}), requests taken about {storm['requests']:.0f}, CPU {storm['cpu_share']:.1%}"
    )
    lag = storm["lag_ms"]
    print(
        f"  loop lag p50 {lag['p50']:.2f} ms, p99 {lag['p99']:.2f} ms, worst {lag['worst']:.1f} ms   target p99 20; grown {storm['grown_mib']:.1f} MiB"
    )
    return figures
