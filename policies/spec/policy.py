"""The policy as the rest of the house sees it: frozen, validated, every number in one unit.

`policies.spec.documents` holds the same thing as a person writes it (pydantic models of the YAML); it builds these values.
Shares are whole hundredths of a per cent ("bp", 10 000 = 100 %), durations are seconds, latencies milliseconds.
The values are plain data: `pydantic.TypeAdapter` turns any of them into JSON and back without loss.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal

from policies.memo import by_object

FULL_BP = 10_000
"""100 % in hundredths of a per cent."""

STABLE = "stable"
"""The name of the variant that serves when in doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticEndpoints:
    """Fixed addresses `host:port`; hosts are IP addresses (delivered over EDS)."""

    addresses: tuple[str, ...]
    kind: Literal["static"] = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsEndpoints:
    """One DNS name, resolved by the proxies themselves."""

    host: str
    port: int
    kind: Literal["dns"] = "dns"


Endpoints = StaticEndpoints | DnsEndpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How a pod says that it is ready: HTTP GET `path` answers 200."""

    path: str
    interval_s: float = 1.0
    timeout_s: float = 1.0
    unhealthy_after: int = 2
    healthy_after: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a variant changes about the requests it gets, so that versions on one and the same server can differ.

    Attributes:
        headers: (name, value) pairs set on each request, whatever the client sent; names in lower case.
        path: Takes the place of the matched path prefix; None = the path stays.
        model: Takes the place of the top-level `model` in a JSON body; None = the body stays.
    """

    headers: tuple[tuple[str, str], ...] = ()
    path: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One version of the model with all that makes it that version: what `identity` hashes.

    Attributes:
        name: `stable`, or what the policy calls the arm.
        health: None = no active health check (then "ready" means that its port accepts connections).
        max_concurrency: Requests one pod may hold at once [requests], >= 1.
        slow_start_s: How long a pod that just became ready is given less than its part [s]; 0 = it gets its part at once.
        http2: Whether its pods are spoken to in HTTP/2 without TLS (gRPC needs it).
    """

    name: str
    version: str
    endpoints: Endpoints
    runtime: str = "http"
    health: HealthCheck | None = None
    max_concurrency: int = 1024
    config: Config = Config()
    slow_start_s: float = 0.0
    http2: bool = False

    @property
    def identity(self) -> str:
        """Version plus a hash of what is behind it, e.g. `llama-3-8b-int8.3f9a51c2`; never the role."""
        return _identity(self)


@by_object
def _identity(variant: Variant) -> str:
    what: dict[str, object] = {"version": variant.version, "endpoints": _plain(variant.endpoints)}
    if variant.config != Config():
        what["config"] = asdict(variant.config)
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return f"{variant.version}.{digest[:8]}"


def _plain(endpoints: Endpoints) -> dict[str, object]:
    match endpoints:
        case StaticEndpoints():
            return {"static": sorted(endpoints.addresses)}
        case DnsEndpoints():
            return {"dns": endpoints.host, "port": endpoints.port}


class Compare(StrEnum):
    """How a header's value is looked at."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"
    """RE2, of the whole value."""
    PRESENT = "present"
    """The header is there; `value` is ""."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMatch:
    """A condition on one request header; the name in lower case."""

    name: str
    compare: Compare = Compare.EXACT
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Requests a rollout owns: one host (or `*`), a path prefix (of gRPC: `/package.Service/`) and headers that must all fit."""

    host: str = "*"
    path_prefix: str = "/"
    headers: tuple[HeaderMatch, ...] = ()


class Fallback(StrEnum):
    """What happens to a request whose candidate cannot be reached."""

    CONNECT = "connect"
    """Stable answers when the candidate's connection fails, is refused or is reset before the request was sent."""
    GATEWAY = "gateway"
    """Also on 502-504 and resets before the first byte: the generation runs a second time."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSpec:
    """Where a rollout's requests come in. `timeout_s` 0 = none."""

    proxies: str
    listener: str
    match: tuple[Match, ...] = (Match(),)
    timeout_s: float = 300.0
    fallback: Fallback = Fallback.CONNECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookie:
    """A cookie that names the user; minted on the first answer. `ttl_s`: how long the browser keeps it [s]."""

    name: str
    ttl_s: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Requests that are pinned to a variant before any share is drawn; all of `when` must fit."""

    name: str
    when: tuple[HeaderMatch, ...]
    variant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Who gets which arm.

    Attributes:
        sticky_header: Its value names the user.
        cookie: The same by a cookie; at most one of the two is set. With neither, every request is drawn anew.
        salt: "" = the layer's name, else the rollout's.
        layer: Rollouts of one layer never share a user; "" = alone. Needs a header or a cookie.
        segments: Looked at in their order.
    """

    sticky_header: str | None = None
    cookie: Cookie | None = None
    salt: str = ""
    layer: str = ""
    segments: tuple[Segment, ...] = ()

    @property
    def sticky(self) -> bool:
        return self.sticky_header is not None or self.cookie is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a step waits for: served time [s] AND samples [requests per variant]; both 0 = nothing."""

    for_s: float = 0.0
    samples: int = 0


class Then(StrEnum):
    REVERT = "revert"
    HOLD = "hold"
    """Nothing advances until the cause is gone."""
    FREEZE = "freeze"
    """Nothing advances until a person unfreezes."""


Shares = tuple[tuple[str, int], ...]
"""(arm, share [hundredths of a per cent]) pairs in the order of the policy's arms; an arm that is not named keeps what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """One request of a probe. `body` "" = none."""

    method: str = "POST"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What a good answer is.

    Attributes:
        statuses: HTTP statuses that are good.
        within_s: Time to the last byte, at most [s].
        json_schema: JSON Schema (as text) that the answer's body fits; "" = any body.
    """

    statuses: tuple[int, ...] = (200,)
    within_s: float = 30.0
    json_schema: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeStep:
    """Requests of our own to the pods of each arm, before any user's; every answer must be good.

    Attributes:
        file: Where the requests came from, for people.
        rate_per_s: Requests per second, > 0.
        for_s: How long [s]; the requests are repeated in their order.
    """

    requests: tuple[ProbeRequest, ...]
    file: str = ""
    rate_per_s: float = 1.0
    for_s: float = 60.0
    expect: Expect = Expect()
    kind: Literal["probe"] = "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowStep:
    shares: Shares
    hold: Hold = Hold()
    kind: Literal["shadow"] = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryStep:
    """One stage for each (shares, hold)."""

    stages: tuple[tuple[Shares, Hold], ...]
    kind: Literal["canary"] = "canary"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchStep:
    """Blue-green: everything to one arm by one change; stable stays warm."""

    arm: str
    hold: Hold = Hold()
    kind: Literal["switch"] = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class AbStep:
    """Arms side by side until one has won by the goal; after `at_most_s` without a winner stable has [s]."""

    shares: Shares
    goal: str
    at_most_s: float
    hold: Hold = Hold()
    kind: Literal["ab"] = "ab"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveStep:
    """A person says go. `who` is told to people; without an answer `within_s` [s], `then` is done."""

    who: str = ""
    within_s: float = 86_400.0
    then: Then = Then.REVERT
    kind: Literal["approve"] = "approve"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteStep:
    """`arm` "" = the one that won, or the only one."""

    keep_stable_for_s: float = 0.0
    arm: str = ""
    kind: Literal["promote"] = "promote"


Step = ProbeStep | ShadowStep | CanaryStep | SwitchStep | AbStep | ApproveStep | PromoteStep


class Metric(StrEnum):
    ERROR_RATE = "envoy/error_rate"
    LATENCY = "envoy/latency"


class Role(StrEnum):
    GUARDRAIL = "guardrail"
    """A FAIL reverts."""
    SIGNAL = "signal"
    """A FAIL holds and resumes by itself."""
    GOAL = "goal"
    """Asks whether the candidate is better than stable; must PASS to promote, and decides an `ab`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """How much worse than stable still counts as as good: at least one is set; both = both must be exceeded to fail.

    Attributes:
        absolute: For rates: a fraction, 0.005 = half a percentage point. For latency: milliseconds.
        relative: A fraction on top of stable's value, 0.25 = 25 % worse.
    """

    absolute: float | None = None
    relative: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One question asked of the evidence.

    Attributes:
        statistic: "mean" for rates; "distribution", "p50".."p99.9" for latency.
        margin: Of a guardrail or signal: how much worse is still as good. Of a goal: how far two arms may be apart and count as equal.
        better_by: Of a goal: how much better than stable the candidate must be; None for the other roles.
        limit: What an arm must stay below whatever stable does, in place of `margin`: an error rate (a fraction), or what the quantile
            `statistic` of latency stays below [ms]; None = it is held against stable.
    """

    name: str
    metric: Metric
    role: Role = Role.GUARDRAIL
    statistic: str = "distribution"
    margin: Margin = field(default_factory=lambda: Margin(relative=0.25, absolute=0.001))
    better_by: Margin | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """What happens by itself. Times in seconds."""

    fail: Then = Then.REVERT
    no_data_after_s: float = 300.0
    no_data: Then = Then.HOLD
    source_error_after_s: float = 300.0
    source_error: Then = Then.HOLD
    nack: Then = Then.REVERT
    stuck_after_s: float = 7200.0
    stuck: Then = Then.REVERT


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """How long a proxy keeps the candidate's share without hearing from us [s]."""

    ttl_s: float = 30.0
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeWindow:
    """Times in which nothing grows: from each moment of `cron` (five fields, in `timezone`, an IANA name) for `for_s` [s]."""

    cron: str
    for_s: float
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """One `kind: Rollout` document.

    Attributes:
        arms: The variants beside stable, in the document's order; () = nothing to roll out.
        false_revert: Error budget of the whole rollout, 0 < alpha < 1, split over the guardrails.
        blast_radius: Part of all requests that may be bad because of an arm: before a share grows to w, the arm must be shown to be worse by
            less than blast_radius / w; None = not asked for.
    """

    name: str
    traffic: TrafficSpec
    stable: Variant
    arms: tuple[Variant, ...] = ()
    steps: tuple[Step, ...] = ()
    gates: tuple[Gate, ...] = ()
    assignment: Assignment = Assignment()
    when: When = When()
    lease: Lease = Lease()
    false_revert: float = 0.01
    blast_radius: float | None = None
    freeze: tuple[FreezeWindow, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    name: str
    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """Which Envoys: every given field must match. `node_id` is a glob, `metadata` string equality by dotted path."""

    cluster: str | None = None
    node_id: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRoute:
    """Where requests go that no rollout owns, untouched. `timeout_s` 0 = none."""

    endpoints: Endpoints
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxiesPolicy:
    """One `kind: Proxies` document: a group of Envoys and their listeners. Without `default` what no rollout owns is answered 404."""

    name: str
    select: Select
    listeners: tuple[Listener, ...]
    default: DefaultRoute | None = None
