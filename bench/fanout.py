"""What one push to many proxies costs: CPU, time to the last ACK, memory, and a fleet that connects at once. Server and load share the machine.

push us  CPU of the server per push + ACK and stream       ms     trigger -> last ACK counted by the server, median and worst of the pushes
idle     KiB of memory per stream that is settled          storm  all streams connect, 256 at a time, until each has its first response
"""

import statistics

from bench import core
from bench.sides import load

STREAMS = (100, 1000, 4000)
SIZES = (2_000, 200_000)
PUSHES = 7


async def once(streams, size, *, types="rds", variant="sotw"):
    """One row of the table."""
    deliveries = streams * (2 if types == "cds+eds" else 1)
    async with load(size=size, types=types, variant=variant) as sides:
        await sides.mark()
        before = await sides.stats()
        storm = await sides.fleet.ask("open", streams=streams)
        idle = await sides.settle(streams)
        await sides.push(deliveries)
        await sides.settle(streams)
        began, took, worst = await sides.mark(), [], []
        for _ in range(PUSHES):
            worst.append((await sides.push(deliveries))["p99"])
            ended = await sides.settle(streams)
            took.append(ended["push_ms"])
        fleet = await sides.fleet.ask("stats")
    assert not fleet["losses"], f"{fleet['losses']} streams were lost"
    return {
        "streams": streams,
        "bytes": size,
        "types": types,
        "variant": variant,
        "push_us": (ended["cpu_seconds"] - began["cpu_seconds"]) / streams / PUSHES * 1e6,
        "push_ms": statistics.median(took),
        "push_worst_ms": max(took),
        "delivery_p99_ms": statistics.median(worst),
        "idle_kib": (idle["rss_bytes"] - before["rss_bytes"]) / streams / 1024,
        "storm_ms": storm["ms"],
        "storm_us": (idle["cpu_seconds"] - before["cpu_seconds"]) / streams * 1e6,
        "peak_mib": ended["rss_peak_bytes"] / 2**20,
        "grown_mib": (ended["rss_peak_bytes"] - began["rss_bytes"]) / 2**20,
    }


def shown(row):
    print(
        f"{row['types'] + ' ' + row['variant']:<14}{row['streams']:>6}{row['bytes'] // 1000:>5} KB{row['push_us']:>9.0f}"
        f"{row['push_ms']:>9.0f} /{row['push_worst_ms']:>6.0f}{row['delivery_p99_ms']:>9.0f}{row['idle_kib']:>9.1f}"
        f"{row['storm_ms']:>9.0f}{row['storm_us']:>9.0f}{row['peak_mib']:>9.0f}{row['grown_mib']:>7.1f}",
        flush=True,
    )


async def run():
    figures = {"core": core.measure()}
    print(
        f"{'over grpcio':<14}{'streams':>7}{'bytes':>7}{'push us':>9}{'ms median/worst':>17}{'p99 ms':>9}{'idle KiB':>9}"
        f"{'storm ms':>9}{'storm us':>9}{'peak MiB':>9}{'grown':>7}"
    )
    rows = figures["grpcio"] = []
    for size in SIZES:
        for streams in STREAMS:
            rows.append(await once(streams, size))
            shown(rows[-1])
    for types, variant in (("rds", "delta"), ("rtds", "delta"), ("cds+eds", "sotw")):
        rows.append(await once(1000, 2_000, types=types, variant=variant))
        shown(rows[-1])
    return figures
