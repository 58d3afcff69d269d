"""Access logs and load reports of all proxies -> blocks of evidence per rollout.

Fed from the stream services by plain calls, emptied by the runtime in its rhythm. Nothing an Envoy sends can make it grow: clusters nobody owns
are counted and dropped, request ids are kept in a bounded window, histograms have a fixed grid.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest

from policies.evidence import LATENCY_BINS, SAMPLED, Block, Counts, Halves, latency_bin
from xds_server.evidence.audit import Audit
from xds_server.evidence.classify import Audience, Booked, Failure, Observation, Skip, answered, classify
from xds_server.evidence.halves import PodHalves
from xds_server.resources.names import Owner

IDS_MAX = 16_384
"""Request ids of failed requests remembered, so that a failed attempt and its fallback count once."""


WORD = 2**32 - 1
GOLDEN = 0x9E3779B1
"""Odd and near 2**32 by the golden ratio: multiples of it are spread evenly, so that no round of the load balancer is in step with the sample."""
SAMPLED_BELOW = 2**32 // SAMPLED

_STATUSES = {code: str(code) for code in range(100, 500)}


class _Tally:
    """Counts of one variant in the open block."""

    __slots__ = ("broken", "errors", "fallbacks", "halves", "latency", "no_host", "requests", "statuses", "ttft")

    def __init__(self) -> None:
        self.halves = [0, 0, 0, 0]
        """Requests of either half of the pods, errors of either."""
        self.requests = self.errors = self.fallbacks = self.broken = self.no_host = 0
        self.latency: dict[int, int] = {}
        self.ttft: dict[int, int] = {}
        self.statuses: dict[str, int] = {}

    def add(self, seen: Observation) -> None:
        place = LATENCY_BINS - 1 if seen.latency_ms is None else latency_bin(seen.latency_ms)
        self.latency[place] = self.latency.get(place, 0) + 1
        self.statuses[seen.status] = self.statuses.get(seen.status, 0) + 1
        if seen.cancelled:
            return
        self.requests += 1
        if seen.ttft_ms is not None:
            first = latency_bin(seen.ttft_ms)
            self.ttft[first] = self.ttft.get(first, 0) + 1
        if seen.failure is not None:
            self.errors += 1
            self.fallbacks += seen.failure is Failure.FALLBACK
            self.broken += seen.failure is Failure.BROKEN
            self.no_host += seen.failure is Failure.NO_HOST

    def answered(self, latency_ms: float, ttft_ms: float | None, code: int) -> None:
        """`add` of a request that was answered well."""
        self.requests += 1
        place, latency = latency_bin(latency_ms), self.latency
        latency[place] = latency.get(place, 0) + 1
        if ttft_ms is not None:
            first, ttft = latency_bin(ttft_ms), self.ttft
            ttft[first] = ttft.get(first, 0) + 1
        status = _STATUSES[code]
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def lost(self, requests: int, errors: int) -> None:
        """Requests that only the load report saw: how long they took is not known."""
        self.requests += requests
        self.errors += min(errors, requests)
        self.statuses["lost"] = self.statuses.get("lost", 0) + requests

    def counts(self) -> Counts:
        return Counts(
            requests=self.requests,
            errors=self.errors,
            fallbacks=self.fallbacks,
            broken=self.broken,
            no_host=self.no_host,
            latency=tuple(sorted(self.latency.items())),
            ttft=tuple(sorted(self.ttft.items())),
            statuses=tuple(sorted(self.statuses.items())),
        )


class _Open:
    """The open block of one rollout."""

    __slots__ = ("lost", "start", "tallies")

    def __init__(self, start: float) -> None:
        self.start = start
        self.tallies: dict[Audience, dict[str, _Tally]] = {"users": {}, "pinned": {}, "shadow": {}}
        self.lost = 0

    def counts(self, audience: Audience) -> dict[str, Counts]:
        return {identity: tally.counts() for identity, tally in self.tallies[audience].items()}

    def halves(self) -> dict[str, Halves]:
        found = ((identity, tally.halves) for identity, tally in self.tallies["users"].items())
        return {identity: ((first, bad), (second, worse)) for identity, (first, second, bad, worse) in found if first or second}


class Collector:
    """All evidence that arrived and was not yet judged."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._owners: dict[str, Owner] = {}
        self._clusters: dict[str, frozenset[str]] = {}
        """Clusters of each rollout."""
        self._open: dict[str, _Open] = {}
        self._failed: OrderedDict[str, int] = OrderedDict()
        """Request id -> number of the block that its failure was counted in."""
        self._block = 0
        self._audit = Audit()
        self._halves = PodHalves()
        self.entries_total = 0
        self.dropped: dict[str, int] = {}

    def own(self, rollout: str, owners: Mapping[str, Owner]) -> None:
        """Replaces what is known of a rollout's clusters; none = it is gone."""
        gone = self._clusters.pop(rollout, frozenset()) - owners.keys()
        for name in gone:
            del self._owners[name]
        if owners:
            self._clusters[rollout] = frozenset(owners)
            self._owners.update(owners)
        self._audit.follow(owners, gone)
        self._halves.keep(rollout, frozenset(owner.identity for owner in owners.values()))

    def access_log(self, message: bytes) -> None:
        """One `StreamAccessLogsMessage`. Raises: google.protobuf.message.DecodeError."""
        now, owners = self._clock(), self._owners
        good: dict[str, int] = {}
        last: tuple[Owner, Audience] | None = None
        for entry in StreamAccessLogsMessage.FromString(message).http_logs.log_entry:
            self.entries_total += 1
            plain = answered(entry, owners)
            if plain is None:
                self._classified(entry, now)
                continue
            cluster, owner, audience, latency_ms, ttft_ms, code = plain
            good[cluster] = good.get(cluster, 0) + 1
            if last is None or last[0] is not owner or last[1] != audience:
                last, tally = (owner, audience), self._tally(owner.rollout, owner.identity, audience, now)
            tally.answered(latency_ms, ttft_ms, code)
            if self.entries_total * GOLDEN & WORD < SAMPLED_BELOW:
                self._halve(tally, owner.rollout, owner.identity, entry, requests=SAMPLED)
        for cluster, count in good.items():
            self._audit.logged(cluster, count)

    def _classified(self, entry: Any, now: float) -> None:
        """An entry that is not the common case."""
        seen, booked = classify(entry, self._owners)
        if booked is not Booked.NOT:
            self._audit.logged(entry.common_properties.upstream_cluster, errors=int(booked is Booked.BAD))
        if isinstance(seen, Skip):
            self.dropped[seen.value] = self.dropped.get(seen.value, 0) + 1
            return
        if not seen.once or self._first(seen, now):
            tally = self._tally(seen.rollout, seen.identity, seen.audience, now)
            tally.add(seen)
            if not seen.cancelled:
                self._halve(tally, seen.rollout, seen.identity, entry, errors=int(seen.failure is not None))

    def _halve(self, tally: _Tally, rollout: str, identity: str, entry: Any, *, requests: int = 1, errors: int = 0) -> None:
        half = self._halves.of(rollout, identity, entry.common_properties)
        if half is not None:
            tally.halves[half] += requests
            tally.halves[half + 2] += errors

    def load_report(self, message: bytes) -> None:
        """One `LoadStatsRequest`. Raises: google.protobuf.message.DecodeError."""
        now = self._clock()
        for stats in LoadStatsRequest.FromString(message).cluster_stats:
            if stats.cluster_name in self._owners:
                finished = sum(each.total_successful_requests + each.total_error_requests for each in stats.upstream_locality_stats)
                errors = sum(each.total_error_requests for each in stats.upstream_locality_stats)
                self._audit.reported(stats.cluster_name, finished, errors, now=now)

    def close(self, now: float) -> Iterator[tuple[str, Block]]:
        """Closes the open block of every rollout that something arrived for."""
        for name, requests, errors in self._audit.missing(now):
            owner = self._owners.get(name)
            if owner is not None and not owner.composite:
                self._tally(owner.rollout, owner.identity, owner.audience, now).lost(requests, errors)
                self._open[owner.rollout].lost += requests
        closing, self._open = self._open, {}
        self._block += 1
        for rollout, block in closing.items():
            users, pinned, shadows = block.counts("users"), block.counts("pinned"), block.counts("shadow")
            yield (
                rollout,
                Block(start=block.start, end=now, users=users, shadows=shadows, pinned=pinned, lost=block.lost, halves=block.halves()),
            )

    def take_counts(self) -> tuple[int, dict[str, int]]:
        """Log entries read, and entries dropped by reason, since the last call."""
        taken = self.entries_total, self.dropped
        self.entries_total, self.dropped = 0, {}
        return taken

    def gap(self, rollout: str) -> float:
        """The worst part of a rollout's requests that load reports counted and the access log did not bring, lately."""
        return max((self._audit.gap(name) for name in self._clusters.get(rollout, ())), default=0.0)

    def _tally(self, rollout: str, identity: str, audience: Audience, now: float) -> _Tally:
        block = self._open.get(rollout)
        if block is None:
            block = self._open[rollout] = _Open(now)
        side = block.tallies[audience]
        tally = side.get(identity)
        if tally is None:
            tally = side[identity] = _Tally()
        return tally

    def _first(self, seen: Observation, now: float) -> bool:
        """Whether a failure is the first of its request; a fallback that follows its failed attempt in the same block explains it."""
        block = self._failed.get(seen.once)
        if block is not None:
            if seen.failure is Failure.FALLBACK and block == self._block:
                self._tally(seen.rollout, seen.identity, seen.audience, now).fallbacks += 1
            return False
        self._failed[seen.once] = self._block
        if len(self._failed) > IDS_MAX:
            self._failed.popitem(last=False)
        return True
