"""What one push to many proxies costs: CPU, time to the last ACK, memory, and a fleet that connects at once. Server and load share the machine.

push us  CPU of the server per push + ACK and stream       ms     trigger -> last ACK counted by the server, median and worst of the pushes
idle     KiB of memory per stream that is settled          storm  all streams connect, 256 at a time, until each has its first response

The transports take turns in each repetition, since the machine drifts: figures are medians of the repetitions, [least-most] for the CPU. The
floor is no server but what is below any (`bench.floor`): bars are for a machine where it takes 13 us at 2 KB, and mean as much more where it takes more.
"""

import statistics
from dataclasses import dataclass

from bench import core
from bench.sides import load

OPTIONS = ("--repeats=",)
REPEATS = 3
PUSHES = 7
ENVOY_NODE = 61_000
"""Envoy 1.40 sends so much of itself [bytes], in each request unless `set_node_on_first_message_only` is set."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A row of the table, and what `wire` is to hold in it; None for no bar."""

    name: str
    streams: int
    size: int = 2_000
    types: str = "rds"
    variant: str = "sotw"
    node_bytes: int = 0
    tls: bool = False
    push_us: float | None = None
    push_ms: float | None = None
    idle_kib: float | None = None
    storm_us: float | None = None


LOADS = (
    Load(name="2 KB", streams=1000, push_us=20, idle_kib=8, storm_us=120),
    Load(name="2 KB", streams=4000, push_us=20, push_ms=150, idle_kib=8, storm_us=120),
    Load(name="200 KB", streams=1000, size=200_000, push_us=50, idle_kib=8),
    Load(name="200 KB", streams=4000, size=200_000, push_us=50, idle_kib=8),
    Load(name="2 KB, delta", streams=1000, variant="delta"),
    Load(name="runtime, delta", streams=1000, types="rtds", variant="delta"),
    Load(name="two types", streams=1000, types="cds+eds"),
    Load(name="node in all requests", streams=1000, node_bytes=ENVOY_NODE, push_us=35),
    Load(name="2 KB, TLS", streams=1000, tls=True, idle_kib=48),
    Load(name="200 KB, TLS", streams=1000, size=200_000, tls=True, idle_kib=48),
)


async def once(transport, load_):
    """One repetition of a row."""
    streams = load_.streams
    deliveries = streams * (2 if load_.types == "cds+eds" else 1)
    how = {"types": load_.types, "variant": load_.variant, "node_bytes": load_.node_bytes, "tls": load_.tls}
    async with load(size=load_.size, transport=transport, **how) as sides:
        await sides.mark()
        before = await sides.stats()
        storm = await sides.fleet.ask("open", streams=streams)
        idle = await sides.settle(streams)
        await sides.push(deliveries)
        await sides.settle(streams)
        began, took, late = await sides.mark(), [], []
        for _ in range(PUSHES):
            late.append((await sides.push(deliveries))["p99"])
            ended = await sides.settle(streams)
            took.append(ended["push_ms"])
        fleet = await sides.fleet.ask("stats")
    assert not fleet["losses"], f"{fleet['losses']} streams were lost"
    return {
        "push_us": (ended["cpu_seconds"] - began["cpu_seconds"]) / streams / PUSHES * 1e6,
        "push_ms": statistics.median(took),
        "push_worst_ms": max(took),
        "delivery_p99_ms": statistics.median(late),
        "idle_kib": (idle["rss_bytes"] - before["rss_bytes"]) / streams / 1024,
        "storm_ms": storm["ms"],
        "storm_us": (idle["cpu_seconds"] - before["cpu_seconds"]) / streams * 1e6,
        "peak_mib": ended["rss_peak_bytes"] / 2**20,
        "grown_mib": (ended["rss_peak_bytes"] - began["rss_bytes"]) / 2**20,
    }


def transports(load_):
    """Who can carry a row; the floor knows one variant and one type."""
    if load_.tls:
        return ("wire",)
    return ("wire", "grpcio", "floor") if load_.variant == "sotw" and load_.types == "rds" else ("wire", "grpcio")


def summary(runs):
    """Medians; what an undisturbed machine takes is the least."""
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    least = {f"{key}_least": min(run[key] for run in runs) for key in runs[0]}
    return {**medians, **least, "push_us_most": max(run["push_us"] for run in runs)}


def shown(load_, transport, row):
    print(
        f"{load_.name:<22}{load_.streams:>6}  {transport:<8}{row['push_us']:>7.1f} [{row['push_us_least']:.0f}-{row['push_us_most']:.0f}]".ljust(
            58
        )
        + f"{row['push_ms']:>8.0f} /{row['push_worst_ms']:>6.0f}{row['delivery_p99_ms']:>8.0f}{row['idle_kib']:>8.1f}"
        f"{row['storm_ms']:>8.0f}{row['storm_us']:>8.0f} [{row['storm_us_least']:.0f}]{row['peak_mib']:>7.0f}{row['grown_mib']:>7.1f}",
        flush=True,
    )


def bars(load_):
    """The row's bars, where they stand in the table."""
    held = {key: getattr(load_, key) for key in ("push_us", "push_ms", "idle_kib", "storm_us")}
    if any(held.values()):
        text = {key: f"{value:g}" if value else "" for key, value in held.items()}
        print(
            f"{'':<28}  {'bar':<8}{text['push_us']:>7}".ljust(58)
            + f"{text['push_ms']:>8}{'':>16}{text['idle_kib']:>8}{'':>8}{text['storm_us']:>8}"
        )


async def run(*options):
    """`--repeats=9` for figures that a noisy machine does not decide: the least of each is in `out/fanout.json` and, of CPU, in the table."""
    repeats = int(options[-1].partition("=")[2]) if options else REPEATS
    figures = {"core": core.measure(), "rows": []}
    print(
        f"{f'medians of {repeats}':<22}{'streams':>6}  {'':<7}{'push + ACK us':>14}".ljust(58)
        + f"{'ms median/worst':>16}{'p99 ms':>8}{'idle KiB':>8}{'storm ms':>8}{'us [least]':>14}{'MiB':>7}{'grown':>7}"
    )
    for each in LOADS:
        runs = {transport: [] for transport in transports(each)}
        for _ in range(repeats):
            for transport, found in runs.items():
                found.append(await once(transport, each))
        for transport, found in runs.items():
            row = summary(found)
            figures["rows"].append({"load": each.name, "streams": each.streams, "transport": transport, **row})
            shown(each, transport, row)
        bars(each)
    return figures
