"""Samples of counters -> what was counted between them: restarts, gaps, late births and broken values (statistics.md 1.10 in short below).

No new sample, no increment. A counter that fell began again at 0, and with it the same metric's other counters of that cluster of that proxy, which
may already be higher than before. A counter that is born while its proxy was being scraped began at 0: the first error of a cluster is such a birth.
After a gap nothing is known of the time between, so the first sample only sets the base.
Neighbour: `prometheus_history` fetches the samples.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from policies.evidence import Counts, latency_bin

CODES: Final = ("envoy_response_code", "response_code", "envoy_response_code_class", "response_code_class", "code", "status")
"""Labels that say how a request ended, the first that is there counts; a value that begins with 5 is an error."""

LE: Final = "le"
SCRAPES: Final = 3
GAP_S: Final = 60.0
"""A proxy that was silent for more than `SCRAPES` scrapes and more than this [s] was away."""

VALUE_MAX: Final = 1e15
"""Above it floats no longer count one by one."""

GAP: Final = "gaps between samples of a counter"
BROKEN: Final = "values that are no count (NaN, infinite, negative, huge)"
UNLABELLED: Final = "series without a response code"

Labels = Mapping[str, str]
Target = tuple[str, ...]
"""A proxy as Prometheus names it."""

Counter = tuple[str, str]
"""Response code and `le` of a counter, each "" where it has none."""

Key = tuple[str, ...]
"""Variant name, and the labels that all counters of a group have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One counter. `values`: place in the grid -> value, where there is one."""

    labels: Labels
    values: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What is known of one variant in a stretch of the grid.

    Attributes:
        requests: Counters, each with one of `CODES`.
        times: When the samples of `requests` were taken [s since the epoch], under the same labels but for the name.
        latency: Buckets: cumulative counters, each with `le` [ms].
    """

    requests: tuple[Series, ...]
    times: tuple[Series, ...]
    latency: tuple[Series, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scrape:
    """When a proxy was scraped, and when before [s since the epoch]."""

    at: float
    before: float


@dataclass(slots=True)
class _Group:
    """The counters of one cluster of one proxy, or one histogram: they begin again together."""

    target: Target
    last: dict[Counter, float] = field(default_factory=dict)
    at: float | None = None


class Counters:
    """Increments of all variants, stretch by stretch."""

    def __init__(self, *, step_s: float, dropped: dict[str, int]) -> None:
        self._step_s = step_s
        self._dropped = dropped
        self._gap_s: float | None = None
        self._groups: dict[Key, _Group] = {}
        self._seen: dict[Target, float] = {}
        """When each proxy was last scraped [s since the epoch]."""

    def take(self, arms: Mapping[str, Samples], places: range) -> Iterable[tuple[int, dict[str, Counts]]]:
        """(place, counts per variant) of the places at which something was counted.

        Args:
            arms: Variant name -> its samples.
            places: The stretch of the grid; stretches follow one another.
        """
        fresh = self._fresh(arms, places)
        if self._gap_s is None:
            self._gap_s = max(GAP_S, SCRAPES * _interval(fresh, self._step_s))
        values = {name: self._values(name, samples, fresh) for name, samples in arms.items()}
        for place in places:
            now = {target: scrapes[place].at for target, scrapes in fresh.items() if place in scrapes}
            found = {name: self._count(at_places.get(place, {}), now) for name, at_places in values.items()}
            self._seen |= now
            counted = {name: counts for name, counts in found.items() if counts != Counts()}
            if counted:
                yield place, counted

    def _fresh(self, arms: Mapping[str, Samples], places: range) -> dict[Target, dict[int, _Scrape]]:
        """Proxy -> place -> the newest scrape, where it is a new one: what Prometheus repeats for minutes is none."""
        newest: dict[Target, dict[int, float]] = {}
        for series in (series for samples in arms.values() for series in samples.times):
            times = newest.setdefault(_target(series.labels), {})
            for place, at in series.values.items():
                times[place] = max(at, times.get(place, at))
        fresh: dict[Target, dict[int, _Scrape]] = {}
        for target, times in newest.items():
            before = self._seen.get(target, -math.inf)
            new = fresh.setdefault(target, {})
            for place in places:
                if times.get(place, before) > before:
                    new[place] = _Scrape(at=times[place], before=before)
                    before = times[place]
        return fresh

    def _values(
        self, name: str, samples: Samples, fresh: Mapping[Target, Mapping[int, _Scrape]]
    ) -> dict[int, dict[Key, dict[Counter, float]]]:
        """Place -> group -> counter -> value; what is no count is left out, and what is of an older scrape."""
        found: dict[int, dict[Key, dict[Counter, float]]] = {}
        times = {_but(series.labels, "__name__"): series.values for series in samples.times}
        for series in (*samples.requests, *samples.latency):
            counter, key = _named(name, series.labels)
            if counter == ("", ""):
                self._drop(UNLABELLED, 1)
                continue
            target = _target(series.labels)
            scrapes, own = fresh.get(target, {}), times.get(_but(series.labels, "__name__"), {})
            self._groups.setdefault(key, _Group(target=target))
            for place, value in series.values.items():
                scrape = scrapes.get(place)
                if scrape is None or own.get(place, scrape.at) <= scrape.before:
                    continue
                if not 0.0 <= value <= VALUE_MAX:
                    self._drop(BROKEN, 1)
                    continue
                found.setdefault(place, {}).setdefault(key, {})[counter] = value
        return found

    def _count(self, groups: Mapping[Key, Mapping[Counter, float]], now: Mapping[Target, float]) -> Counts:
        statuses: dict[str, int] = {}
        latency: dict[int, int] = {}
        for key, values in groups.items():
            group = self._groups[key]
            grown = self._grown(group, values, now[group.target])
            buckets: dict[str, int] = {}
            for (code, le), count in grown.items():
                if le:
                    buckets[le] = buckets.get(le, 0) + count
                elif count:
                    statuses[code] = statuses.get(code, 0) + count
            for place, count in _bins(buckets):
                latency[place] = latency.get(place, 0) + count
        return Counts(
            requests=sum(statuses.values()),
            errors=sum(count for status, count in statuses.items() if status.startswith("5")),
            latency=tuple(sorted(latency.items())),
            statuses=tuple(sorted(statuses.items())),
        )

    def _grown(self, group: _Group, values: Mapping[Counter, float], at: float) -> dict[Counter, int]:
        """By how much each counter of a group has grown."""
        assert self._gap_s is not None
        before = group.at if group.at is not None else self._seen.get(group.target)
        known = before is not None and at - before <= self._gap_s
        if before is not None and not known:
            self._drop(GAP, 1)
        again = any(value < group.last.get(counter, 0.0) for counter, value in values.items())
        base = {} if again else group.last
        grown = {counter: round(value - base.get(counter, 0.0)) for counter, value in values.items()} if known else {}
        group.last = dict(values) if again else {**group.last, **values}
        group.at = at
        return grown

    def _drop(self, why: str, number: int) -> None:
        self._dropped[why] = self._dropped.get(why, 0) + number


def _interval(fresh: Mapping[Target, Mapping[int, _Scrape]], step_s: float) -> float:
    """The usual time between two scrapes [s]."""
    between = [each.at - each.before for scrapes in fresh.values() for each in scrapes.values() if each.before > -math.inf]
    return median(between) if between else step_s


def _target(labels: Labels) -> Target:
    return labels.get("job", ""), labels.get("instance", "")


def _named(variant: str, labels: Labels) -> tuple[Counter, Key]:
    """A counter and its group: the codes of a cluster, or one histogram."""
    code = next((name for name in CODES if name in labels), "")
    counter = labels.get(code, ""), labels.get(LE, "")
    return counter, (variant, *_but(labels, LE if LE in labels else code))


def _but(labels: Labels, without: str) -> Key:
    return tuple(f"{name}={value}" for name, value in sorted(labels.items()) if name != without)


def _bins(buckets: Mapping[str, int]) -> Iterable[tuple[int, int]]:
    """(bin, count) of a histogram of cumulative buckets. A request is taken to be as slow as its bucket allows: its upper edge."""
    edges = sorted((_edge(text), count) for text, count in buckets.items())
    below = 0
    for edge, up_to in edges:
        if up_to > below:
            yield latency_bin(edge * 0.99 if edge < math.inf else edge), up_to - below
            below = up_to


def _edge(text: str) -> float:
    """An `le` [ms]; the last is +Inf, and what is no number is taken for it."""
    try:
        edge = float(text)
    except ValueError:
        return math.inf
    return edge if edge >= 0.0 else math.inf
