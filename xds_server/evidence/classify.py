"""One access-log entry -> whose request it was and how it ended. Pure.

Entries come from the router's upstream log (one per attempt, mirrored ones too; `upstream_cluster` is the cluster that really answered, the tag
`picked` the one the route chose) and, for requests that found no host and so have no attempt, from the connection manager's filtered log.

| picked    | answered by | what it is                                                                                        |
|-----------|-------------|---------------------------------------------------------------------------------------------------|
| stable    | stable      | stable's request                                                                                  |
| composite | candidate   | the candidate's request                                                                           |
| composite | stable      | the candidate's request, failed: stable answered in its place; no sample of stable (not random)   |
| any       | nobody      | UH, NC, UO: the picked variant's request, failed                                                  |
| -         | x.shadow    | a mirrored copy                                                                                   |

What a segment's route answered (`route_name`) is kept apart as pinned: its users were chosen, not drawn. An alias of stable's cluster is stable.

A failed first attempt and the fallback's attempt carry one request id and are one request: `Observation.once` asks for that.

An attempt that Envoy itself cut off has *no flag* in the upstream log, only no last byte: it was cut by the route's timeout (the pod's failure)
if it lasted that long, else by the client that gave up. A client's impatience is nobody's error; its latency counts as unbounded, so a
candidate that hangs is seen. A copy cut off early says nothing: its user's request ended, or its cluster went.

A gRPC answer is judged by its `grpc-status`; one that ended without is broken. A request that only says it is gRPC, to pods that cannot be
(not HTTP/2), is judged like any other: or a client could make a variant fail by a header.
Source: Envoy 1.40 as recorded in tests/fixtures/access_log; docs/envoy.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from xds_server.evidence.grpc_status import CANCELLED, GrpcStatus, grpc_status
from xds_server.resources.names import GRPC_TAG, PICKED_TAG, TTFT_TAG, Owner, is_pinned

DOWNSTREAM_END: Final = 6
UPSTREAM_END: Final = 9

CONNECTING_MS: Final = 20.0
"""Time before the first byte goes to a pod that is the proxy's own (a connection is made; a small share has colder ones), not the variant's [ms].
What is beyond it is waiting for a pod that has no room, and counts."""

NEARLY: Final = 0.95
SLACK_S: Final = 0.05
"""A cut later than `NEARLY` of the route's timeout less this is taken for it: an attempt begins after the request's clock, up to 25 ms on a busy
machine as recorded [s]."""

TTFT_DIGITS_MAX: Final = 15


Audience = Literal["users", "pinned", "shadow"]


class Failure(Enum):
    STATUS = "status"
    NO_HOST = "no_host"
    FALLBACK = "fallback"
    BROKEN = "broken"
    UNREACHED = "unreached"
    TIMEOUT = "timeout"
    OVERFLOW = "overflow"


class Skip(Enum):
    """Why an entry says nothing about a variant."""

    UNKNOWN_CLUSTER = "unknown_cluster"
    NOT_AN_END = "not_an_end"
    SHADOW_CUT = "shadow_cut"


class Booked(Enum):
    """What Envoy's load report says of the same attempt, on the cluster that really answered: what the log is held against."""

    NOT = "not"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Observation:
    """One request of one variant.

    Attributes:
        failure: None = it was answered well, or it was given up (`cancelled`): by the client, or by a pod that says CANCELLED.
        latency_ms: From the request (less the time of connecting) to the last byte [ms]; None = it never ended well (unbounded).
        ttft_ms: The same to the first body byte [ms]; None = there was none.
        once: Request id under which only one failure counts; "" = each counts.
        status: For people: HTTP status, response flag, or gRPC status ("grpc 13").
    """

    rollout: str
    identity: str
    audience: Audience
    failure: Failure | None
    cancelled: bool
    latency_ms: float | None
    ttft_ms: float | None
    once: str
    status: str


def answered(entry: Any, owners: Mapping[str, Owner]) -> tuple[str, Owner, Audience, float, float | None, int] | None:
    """The common case at a third of the price of `classify`: an answer that came to its end and was not the server's fault, of no gRPC request.

    Returns: The cluster that answered, whose it was, latency and time to the first body byte as in `Observation`, HTTP status; None = `classify` has to look. Load reports
        have it as a good one.
    """
    common = entry.common_properties
    if common.access_log_type != UPSTREAM_END or common.HasField("response_flags") or not common.HasField("time_to_last_upstream_rx_byte"):
        return None
    tags, code, cluster = common.custom_tags, entry.response.response_code.value, common.upstream_cluster
    owner = owners.get(cluster)
    if owner is None or not 100 <= code < 500 or GRPC_TAG in tags:
        return None
    audience: Audience = "shadow"
    if owner.audience != "shadow":
        picked = owners.get(tags.get(PICKED_TAG, ""))
        if picked is not None and picked.composite:
            if picked.identity != owner.identity:
                return None
            owner = picked
        audience = "pinned" if is_pinned(common.route_name) else "users"
    latency, ttft = _whole_times(common, tags.get(TTFT_TAG, ""))
    return cluster, owner, audience, latency, ttft, code


def classify(entry: Any, owners: Mapping[str, Owner]) -> tuple[Observation | Skip, Booked]:
    """Reads a parsed `envoy.data.accesslog.v3.HTTPAccessLogEntry`.

    Args:
        owners: Whose traffic each cluster carries (`xds_server.resources.names.owners`).
    """
    common = entry.common_properties
    tags = common.custom_tags
    picked = owners.get(tags.get(PICKED_TAG, ""))
    if common.access_log_type == DOWNSTREAM_END:
        return _no_host(common, picked), Booked.NOT
    if common.access_log_type != UPSTREAM_END:
        return Skip.NOT_AN_END, Booked.NOT
    # An attempt over a circuit breaker's limit has no cluster of its own.
    real = owners.get(common.upstream_cluster) if common.upstream_cluster else picked
    if real is None:
        return Skip.UNKNOWN_CLUSTER, Booked.NOT
    code = entry.response.response_code.value
    grpc = grpc_status(entry)
    failure, status = _end(common, code, real, grpc)
    cancelled = status == "cancelled"
    booked = _booked(common, code, failure, grpc)
    if real.audience == "shadow":
        if cancelled or failure is Failure.OVERFLOW:
            return Skip.SHADOW_CUT, booked
        latency, ttft = _times(common, tags.get(TTFT_TAG, ""), ended_well=failure in {None, Failure.STATUS})
        return Observation(real.rollout, real.identity, "shadow", failure, False, latency, ttft, "", status), booked
    owner, once = real, ""
    if picked is not None and picked.composite:
        owner = picked
        if real.identity != picked.identity:
            failure, status, cancelled = Failure.FALLBACK, "fallback", False
        if failure is not None:
            once = entry.request.request_id
    latency, ttft = _times(common, tags.get(TTFT_TAG, ""), ended_well=failure in {None, Failure.STATUS} and not cancelled)
    if failure is Failure.FALLBACK:
        ttft = None
    return Observation(owner.rollout, owner.identity, _audience(common), failure, cancelled, latency, ttft, once, status), booked


def _no_host(common: Any, picked: Owner | None) -> Observation | Skip:
    flags = common.response_flags
    if picked is None or not (flags.no_healthy_upstream or flags.no_cluster_found):
        return Skip.UNKNOWN_CLUSTER
    word = "UH" if flags.no_healthy_upstream else "NC"
    return Observation(picked.rollout, picked.identity, _audience(common), Failure.NO_HOST, False, None, None, "", word)


def _audience(common: Any) -> Audience:
    return "pinned" if is_pinned(common.route_name) else "users"


def _end(common: Any, code: int, real: Owner, grpc: GrpcStatus | None) -> tuple[Failure | None, str]:
    """How an attempt ended: (what failed, words for people)."""
    if common.HasField("response_flags"):
        flags = common.response_flags
        if flags.upstream_overflow:
            return Failure.OVERFLOW, "UO"
        if flags.upstream_request_timeout or flags.duration_timeout or flags.stream_idle_timeout:
            return Failure.TIMEOUT, "UT"
        for flag, word in (
            (flags.upstream_connection_termination, "UC"),
            (flags.upstream_protocol_error, "UPE"),
            (flags.upstream_remote_reset, "UR"),
            (flags.upstream_connection_failure, "UF"),
        ):
            if flag:
                return (Failure.BROKEN if 200 <= code < 500 else Failure.UNREACHED), word
        if flags.downstream_connection_termination or flags.downstream_remote_reset:
            return None, "cancelled"
    status = str(code) if 100 <= code < 600 else "other"
    if code >= 500:
        return Failure.STATUS, status
    if not _whole(common):
        took_s = common.duration.seconds + common.duration.nanos / 1e9
        if real.timeout_s and took_s >= NEARLY * real.timeout_s - SLACK_S:
            return Failure.TIMEOUT, "UT"
        return None, "cancelled"
    if grpc is None or not (grpc.said or real.http2):
        return None, status
    if not grpc.said and code == 200:
        return Failure.BROKEN, "no grpc-status"
    if grpc.number == CANCELLED:
        return None, "cancelled"
    return (Failure.STATUS if grpc.fault else None), f"grpc {grpc.number}"


def _whole(common: Any) -> bool:
    """Whether the answer came to its end."""
    return bool(common.HasField("time_to_last_upstream_rx_byte"))


def _booked(common: Any, code: int, failure: Failure | None, grpc: GrpcStatus | None) -> Booked:
    """A gRPC request is booked by its end, any other by its answer's head."""
    if failure is Failure.OVERFLOW or (failure is None and code == 0):
        return Booked.NOT
    if code >= 500 or code == 0:
        return Booked.BAD
    if grpc is None:
        return Booked.GOOD
    if not _whole(common):
        return Booked.BAD if failure is Failure.BROKEN else Booked.NOT
    return Booked.BAD if grpc.reported_bad else Booked.GOOD


def _times(common: Any, ttft_us: str, *, ended_well: bool) -> tuple[float | None, float | None]:
    """(latency, time to first token) [ms]."""
    if ended_well and common.HasField("time_to_last_upstream_rx_byte"):
        return _whole_times(common, ttft_us)
    sent = common.time_to_first_upstream_tx_byte
    return None, _first_byte_ms(ttft_us, max(sent.seconds * 1e3 + sent.nanos / 1e6 - CONNECTING_MS, 0.0))


def _whole_times(common: Any, ttft_us: str) -> tuple[float, float | None]:
    """The same of an answer that came to its end."""
    sent, received = common.time_to_first_upstream_tx_byte, common.time_to_last_upstream_rx_byte
    sent_ms = sent.seconds * 1e3 + sent.nanos / 1e6
    took_ms = received.seconds * 1e3 + received.nanos / 1e6 - sent_ms
    waited_ms = sent_ms - CONNECTING_MS if sent_ms > CONNECTING_MS else 0.0
    return (took_ms + waited_ms if took_ms > 0 else waited_ms), _first_byte_ms(ttft_us, waited_ms)


def _first_byte_ms(ttft_us: str, waited_ms: float) -> float | None:
    if len(ttft_us) <= TTFT_DIGITS_MAX and ttft_us.isdecimal() and ttft_us.isascii():
        return int(ttft_us) / 1e3 + waited_ms
    return None
