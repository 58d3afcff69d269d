"""What was seen of each variant in a short block of time: counts and histograms, nothing else.

Made by `xds_server.evidence` out of access logs and load reports, consumed by `policies.engine` and `policies.gates`.
Users and shadows are kept apart: mirrored answers reach nobody and are not a random sample of users.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TypeVar

LATENCY_EDGES_MS: tuple[float, ...] = tuple(1.08**i for i in range(-30, 181))
"""Upper edges of the latency bins [ms], a log grid with steps of 8 % (about 0.1 ms to 17 min); the last bin is open (+inf)."""

LATENCY_BINS = len(LATENCY_EDGES_MS) + 1


def latency_bin(latency_ms: float) -> int:
    """Index of the bin that holds a latency: the first whose edge is >= it; +inf goes to the last."""
    return bisect_left(LATENCY_EDGES_MS, latency_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """One variant, one block.

    Attributes:
        requests: Finished requests that were sent to this variant by the random or sticky pick [requests].
        errors: Of these, bad ones: 5xx, no healthy host, answered by stable instead (fallback), broken half-way [requests].
        fallbacks: Of the errors, those stable answered in the variant's place.
        broken: Of the errors, answers that began and did not end.
        no_host: Of the errors, requests that found no healthy host.
        latency: (bin, count) pairs of the time from request to last byte; errors without an answer sit in the last bin.
        ttft: The same for the time to the first body byte; requests without a body are left out.
        statuses: (what, count) pairs for explanations: HTTP status or response flag, e.g. ("500", 3), ("UC", 1).
    """

    requests: int = 0
    errors: int = 0
    fallbacks: int = 0
    broken: int = 0
    no_host: int = 0
    latency: tuple[tuple[int, int], ...] = ()
    ttft: tuple[tuple[int, int], ...] = ()
    statuses: tuple[tuple[str, int], ...] = ()


NOTHING = Counts()


Halves = tuple[tuple[int, int], tuple[int, int]]
"""(requests, errors) of one half of a version's pods, and of the other [requests]. Good answers are counted by one in `SAMPLED`."""

SAMPLED = 8
"""Of so many good answers one is looked at for its pod: errors are few and tell, good answers only say how the halves share the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """All variants of one rollout over [start, end) [s since the epoch, UTC], by arrival of the log entry.

    Keys are variant identities (`Variant.identity`), so evidence of two versions can never meet under one name.

    Attributes:
        users: Randomly or stickily assigned requests.
        shadows: Mirrored copies.
        pinned: Requests of segments: chosen users, shown to people and never given to a gate.
        lost: Requests that load reports counted and the access log did not bring [requests].
        halves: Of `users`, by identity: (requests, errors) of the pods in either half of those it has [requests].
    """

    start: float
    end: float
    users: dict[str, Counts] = field(default_factory=dict)
    shadows: dict[str, Counts] = field(default_factory=dict)
    pinned: dict[str, Counts] = field(default_factory=dict)
    lost: int = 0
    halves: dict[str, Halves] = field(default_factory=dict)


def add(a: Counts, b: Counts) -> Counts:
    """The sum of two counts (order of bins and statuses: ascending)."""
    if a is NOTHING:
        return b
    if b is NOTHING:
        return a
    return Counts(
        requests=a.requests + b.requests,
        errors=a.errors + b.errors,
        fallbacks=a.fallbacks + b.fallbacks,
        broken=a.broken + b.broken,
        no_host=a.no_host + b.no_host,
        latency=merge(a.latency, b.latency),
        ttft=merge(a.ttft, b.ttft),
        statuses=merge(a.statuses, b.statuses),
    )


K = TypeVar("K", int, str)


def merge(a: tuple[tuple[K, int], ...], b: tuple[tuple[K, int], ...]) -> tuple[tuple[K, int], ...]:
    """The sum of two histograms, ascending as they are."""
    if not a or not b:
        return a or b
    total = dict(a)
    for key, count in b:
        total[key] = total.get(key, 0) + count
    return tuple(total.items() if len(total) == len(a) else sorted(total.items()))
