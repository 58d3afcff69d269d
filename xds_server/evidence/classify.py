"""One access-log entry -> whose request it was and how it ended. Pure.

Entries come from the router's upstream log (one per attempt, mirrored ones too; `upstream_cluster` is the cluster that really answered, the tag
`picked` the one the route chose) and, for requests that found no host and so have no attempt, from the connection manager's filtered log.

| picked    | answered by | what it is                                                                                        |
|-----------|-------------|---------------------------------------------------------------------------------------------------|
| stable    | stable      | stable's request                                                                                  |
| composite | candidate   | the candidate's request                                                                           |
| composite | stable      | the candidate's request, failed: stable answered in its place; no sample of stable (not random)   |
| any       | nobody      | UH, NC: the picked variant's request, failed                                                      |
| -         | x.shadow    | a mirrored copy                                                                                   |

A failed first attempt and the fallback's attempt carry one request id and are one request: `Observation.once` asks for that.
Requests the client gave up (DC) are nobody's error; their latency counts as unbounded, so a candidate that hangs is seen.
Source: Envoy 1.40 run by hand, docs/envoy.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from xds_server.resources.names import PICKED_TAG, TTFT_TAG, Owner

DOWNSTREAM_END = 6
UPSTREAM_END = 9


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


@dataclass(frozen=True, slots=True)
class Observation:
    """One request of one variant.

    Attributes:
        failure: None = it was answered well, or the client gave it up (`cancelled`).
        latency_ms: First byte sent to last byte received [ms]; None = it never ended (unbounded).
        once: Request id under which only one failure counts; "" = each counts.
        status: For people: HTTP status or response flag.
    """

    rollout: str
    identity: str
    shadow: bool
    failure: Failure | None
    cancelled: bool
    latency_ms: float | None
    ttft_ms: float | None
    once: str
    status: str


def classify(entry: Any, owners: Mapping[str, Owner]) -> Observation | Skip:
    """Reads a parsed `envoy.data.accesslog.v3.HTTPAccessLogEntry`.

    Args:
        owners: Whose traffic each cluster carries (`xds_server.resources.names.owners`).
    """
    common = entry.common_properties
    tags = common.custom_tags
    picked = owners.get(tags.get(PICKED_TAG, ""))
    if common.access_log_type == DOWNSTREAM_END:
        return _no_host(common, picked)
    if common.access_log_type != UPSTREAM_END:
        return Skip.NOT_AN_END
    real = owners.get(common.upstream_cluster)
    if real is None:
        return Skip.UNKNOWN_CLUSTER
    code = entry.response.response_code.value
    flags = common.response_flags
    failure, word = _failure(code, flags)
    cancelled = bool(flags.downstream_connection_termination or flags.downstream_remote_reset)
    ttft = tags.get(TTFT_TAG, "")
    if real.audience == "shadow":
        # No answer and no flag: its cluster went or the user's request ended first; overflow: our own limit on copies.
        if failure is Failure.OVERFLOW or cancelled or (code == 0 and failure is None):
            return Skip.SHADOW_CUT
        return Observation(
            real.rollout, real.identity, True, failure, False, _latency(common, failure), _milliseconds(ttft), "", word or str(code)
        )
    owner, once = real, ""
    if picked is not None and picked.composite:
        owner = picked
        if real.identity != picked.identity:
            failure, word, cancelled = Failure.FALLBACK, "fallback", False
        if failure is not None:
            once = entry.request.request_id
    if cancelled:
        failure = None
    return Observation(
        owner.rollout,
        owner.identity,
        False,
        failure,
        cancelled,
        None if cancelled else _latency(common, failure),
        None if failure is Failure.FALLBACK else _milliseconds(ttft),
        once,
        "cancelled" if cancelled else word or str(code),
    )


def _no_host(common: Any, picked: Owner | None) -> Observation | Skip:
    flags = common.response_flags
    if picked is None or not (flags.no_healthy_upstream or flags.no_cluster_found):
        return Skip.UNKNOWN_CLUSTER
    word = "UH" if flags.no_healthy_upstream else "NC"
    return Observation(picked.rollout, picked.identity, False, Failure.NO_HOST, False, None, None, "", word)


def _failure(code: int, flags: Any) -> tuple[Failure | None, str]:
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
    if code >= 500:
        return Failure.STATUS, str(code)
    return None, ""


def _latency(common: Any, failure: Failure | None) -> float | None:
    if failure not in {None, Failure.STATUS}:
        return None
    sent, received = common.time_to_first_upstream_tx_byte, common.time_to_last_upstream_rx_byte
    milliseconds: float = max((received.seconds - sent.seconds) * 1e3 + (received.nanos - sent.nanos) / 1e6, 0.0)
    return milliseconds


def _milliseconds(microseconds: str) -> float | None:
    return int(microseconds) / 1e3 if microseconds.isdigit() else None
