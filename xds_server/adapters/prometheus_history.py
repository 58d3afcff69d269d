"""What a Prometheus remembers of two or more variants, as a recording: Envoy's own counters and histograms over `query_range`.

Raw samples are asked for and counted here (`prometheus_counters`): `rate` and `increase` extrapolate, lose the first error of a counter that
did not exist before, and cannot tell silence from a gap. Spoken with httpx and not with `prometheus-api-client`, which reads answers of any
size whole, throws Prometheus's warnings (a partial answer of Thanos is one) away and rounds times to seconds.
"""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from policies.replay.blocks import Block, Recording
from xds_server.adapters.prometheus_counters import Counters, Samples, Series
from xds_server.errors import RecordingError

POINTS: Final = 1000
"""Points of each series asked for at a time; servers refuse more than 11,000."""

POINTS_MAX: Final = 200_000
SERIES_MAX: Final = 20_000
ANSWER_MAX_BYTES: Final = 128 * 1024 * 1024
ANSWER_S: Final = 60.0
"""Longest wait for a part of an answer [s]."""

WATERMARK: Final = 2
"""The newest steps are left alone: not every sample of theirs may be there yet."""

QUERY_MAX: Final = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selectors:
    """Where one variant's counters are, in PromQL.

    Attributes:
        requests: Finished requests, a counter per response code.
        latency: Buckets of a histogram [ms]; "" = none.
    """

    requests: str
    latency: str = ""


def envoy(matchers: str) -> Selectors:
    """Envoy's counters of a cluster.

    Args:
        matchers: Label matchers such as `envoy_cluster_name="chat-v2",job="edge"`, or the cluster's name alone.
    """
    inside = matchers.strip().removeprefix("{").removesuffix("}")
    if not re.match(r'\s*[a-zA-Z_]\w*\s*(=|!=|=~|!~)\s*"', inside):
        inside = f"envoy_cluster_name={json.dumps(matchers, ensure_ascii=False)}"
    return Selectors(requests=f"envoy_cluster_upstream_rq{{{inside}}}", latency=f"envoy_cluster_upstream_rq_time_bucket{{{inside}}}")


def read(
    url: str,
    arms: Mapping[str, Selectors],
    *,
    start: float,
    end: float,
    step: float = 15.0,
    versions: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Recording:
    """The recording of a time.

    Answers without a response of the upstream are in no bucket; requests that stable answered in an arm's place count as good: what
    `crossfade record` brings is better, where it was made.

    Args:
        url: Of the server, such as `http://127.0.0.1:9090`, with a path where it has one.
        arms: Variant name, "stable" among them -> its counters.
        start: [s since the epoch]; what was counted before is the base.
        end: [s since the epoch].
        step: Length of the blocks [s]; no longer than the scrape interval, or a restart between two samples hides requests.
        versions: Variant name -> version, where it is known.
        headers: Sent along, such as an `Authorization`.

    Raises: RecordingError.
    """
    end = min(end, time.time() - WATERMARK * step)
    source = _shown(url)
    points = math.floor((end - start) / step) if step > 0.0 and math.isfinite(end - start) else 0
    if points < 1:
        raise RecordingError("the time is shorter than a step, or not over yet", where=source, hint="an earlier start, or a shorter step")
    if points > POINTS_MAX:
        raise RecordingError(f"the time has more than {POINTS_MAX} steps", where=source, hint="a longer step, or less time")
    dropped: dict[str, int] = {}
    counters = Counters(step_s=step, dropped=dropped)
    blocks: list[Block] = []
    unseen = set(arms)
    with _Prometheus(url, headers or {}) as prometheus:
        for places in _stretches(points):
            samples = {name: prometheus.samples(where, places, start, step) for name, where in arms.items()}
            unseen -= {name for name, found in samples.items() if found.requests}
            blocks += (Block(at=place * step, arms=counted) for place, counted in counters.take(samples, places) if place)
    for name in unseen:
        hint = "are the name of the metric, its labels and the time right? Prometheus's own page shows them"
        raise RecordingError(f"Prometheus has nothing of {name}: {arms[name].requests}", where=source, hint=hint)
    return Recording(blocks=tuple(blocks), started=start, variants=_versions(arms, versions or {}), source=source, dropped=dropped)


def _versions(arms: Mapping[str, Selectors], versions: Mapping[str, str]) -> dict[str, str]:
    return {name: versions.get(name, "") for name in arms}


def _stretches(points: int) -> Iterator[range]:
    """Places 0 (the start) to `points` (the end), some at a time."""
    return (range(first, min(first + POINTS, points + 1)) for first in range(0, points + 1, POINTS))


class _Prometheus:
    """One connection to a server."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._shown = _shown(url)
        self._url = f"{url.rstrip('/')}/api/v1/query_range"
        self._client = httpx.Client(headers=dict(headers), timeout=ANSWER_S, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def samples(self, where: Selectors, places: range, start: float, step: float) -> Samples:
        def ask(query: str) -> tuple[Series, ...]:
            return self._range(query, places, start, step)

        return Samples(
            requests=ask(where.requests), times=ask(f"timestamp({where.requests})"), latency=ask(where.latency) if where.latency else ()
        )

    def _range(self, query: str, places: range, start: float, step: float) -> tuple[Series, ...]:
        if len(query) > QUERY_MAX:
            raise RecordingError(f"the query is longer than {QUERY_MAX} characters", where=f"{query[:80]}…")
        form = {
            "query": query,
            "start": f"{start + places[0] * step:.3f}",
            "end": f"{start + places[-1] * step:.3f}",
            "step": f"{step:.3f}",
        }
        answer = self._post(form)
        try:
            found = answer["data"]["result"]
            series = tuple(
                Series(
                    labels={str(name): str(value) for name, value in each["metric"].items()},
                    values={round((float(at) - start) / step): float(value) for at, value in each.get("values", ())},
                )
                for each in found
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise self._strange("its answer has another form than Prometheus's") from None
        if len(series) > SERIES_MAX:
            raise RecordingError(f"more than {SERIES_MAX} series match", where=query, hint="more label matchers")
        return series

    def _post(self, form: Mapping[str, str]) -> dict[str, Any]:
        try:
            with self._client.stream("POST", self._url, data=dict(form)) as response:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    if len(body) > ANSWER_MAX_BYTES:
                        raise RecordingError(
                            f"the answer is larger than {ANSWER_MAX_BYTES // 2**20} MiB", where=form["query"], hint="more label matchers"
                        )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            words = str(error) or type(error).__name__
            raise RecordingError(
                f"no Prometheus answers: {words}", where=self._shown, hint="is it running, is the address right?"
            ) from None
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._strange(f"HTTP {response.status_code} and no JSON object")
        if found.get("status") != "success":
            words = str(found.get("error", f"HTTP {response.status_code}"))[:500]
            raise RecordingError(f"Prometheus refuses: {words}", where=form["query"])
        if found.get("warnings"):
            words = str(found["warnings"])[:500]
            hint = "a part of the data would be missing: ask when all of its stores answer"
            raise RecordingError(f"Prometheus warns of its answer: {words}", where=form["query"], hint=hint)
        return found

    def _strange(self, words: str) -> RecordingError:
        return RecordingError(f"what answers is no Prometheus: {words}", where=self._shown, hint="such as http://127.0.0.1:9090")


def _shown(url: str) -> str:
    """The address without the password it may have. Raises: RecordingError: If it is none."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise RecordingError("this is not the address of a Prometheus", hint="such as http://127.0.0.1:9090")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
