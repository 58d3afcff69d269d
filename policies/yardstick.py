"""What an arm is held against once stable has no traffic (after a switch, while baking): stable's own requests of before.

They are given out again evenly, one of them for each request of the arm up to `PER_BLOCK` a block: neither luckier nor unluckier than stable was.
That compares two times instead of two versions, so a trouble that befalls both counts against the arm; the way back is to the version that is warm.
"""

from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate

from policies.evidence import NOTHING, Counts, add
from policies.rollout import Yardstick

PER_BLOCK = 64
"""Requests given out at most in one block [requests]."""

LEAST = 20
"""Requests of stable below which there is nothing to hold against [requests]."""

MOST = 4_000
"""Requests remembered, about [requests]: older ones fade by half whenever there are more."""

ENOUGH = 1_000
"""Requests from which on one second in `SPARSE` is measured [requests]: which one the clock says, never what was seen."""

SPARSE = 10

GOLDEN = 0.618033988749895


def measure(yardstick: Yardstick, stable: Counts, *, now: float) -> Yardstick:
    """With stable's requests of one more block."""
    if not stable.requests or (yardstick.seen.requests >= ENOUGH and int(now) % SPARSE):
        return yardstick
    seen = add(yardstick.seen, Counts(requests=stable.requests, errors=stable.errors, latency=stable.latency))
    if seen.requests > MOST:
        latency = tuple((place, count // 2) for place, count in seen.latency if count > 1)
        seen = Counts(requests=seen.requests // 2, errors=seen.errors // 2, latency=latency)
    return replace(yardstick, seen=seen)


def give(yardstick: Yardstick, requests: int) -> tuple[Yardstick, Counts]:
    """As many of stable's requests as an arm had, `PER_BLOCK` at most; none if stable was hardly seen."""
    seen, first = yardstick.seen, yardstick.used
    asked = min(requests, PER_BLOCK)
    if seen.requests < LEAST or asked <= 0:
        return yardstick, NOTHING
    last = first + asked
    errors = last * seen.errors // seen.requests - first * seen.errors // seen.requests
    edges = list(accumulate(count for _, count in seen.latency))
    bins: dict[int, int] = {}
    for index in range(first, last) if edges else ():
        place = seen.latency[min(bisect_right(edges, (index * GOLDEN) % 1.0 * edges[-1]), len(edges) - 1)][0]
        bins[place] = bins.get(place, 0) + 1
    return replace(yardstick, used=last), Counts(requests=asked, errors=errors, latency=tuple(sorted(bins.items())))
