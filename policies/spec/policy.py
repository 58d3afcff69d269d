"""The policy as the rest of the house sees it: frozen, validated, every number in one unit.

`policies.spec.documents` holds the same thing as a person writes it (pydantic models of the YAML); it builds these values.
Shares are whole hundredths of a per cent ("bp", 10 000 = 100 %), durations are seconds, latencies milliseconds.
The values are plain data: `pydantic.TypeAdapter` turns any of them into JSON and back without loss.
"""

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

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
class Variant:
    """One version of the model with all that makes it that version: what `identity` hashes.

    Attributes:
        health: None = no active health check (then "ready" means that its port accepts connections).
        max_concurrency: Requests one pod may hold at once [requests], >= 1.
    """

    name: str
    version: str
    endpoints: Endpoints
    runtime: str = "http"
    health: HealthCheck | None = None
    max_concurrency: int = 1024

    @property
    def identity(self) -> str:
        """Version plus a hash of what is behind it, e.g. `llama-3-8b-int8.3f9a51c2`; never the role."""
        what = {"version": self.version, "endpoints": _plain(self.endpoints)}
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return f"{self.version}.{digest[:8]}"


def _plain(endpoints: Endpoints) -> dict[str, object]:
    match endpoints:
        case StaticEndpoints():
            return {"static": sorted(endpoints.addresses)}
        case DnsEndpoints():
            return {"dns": endpoints.host, "port": endpoints.port}


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Requests a rollout owns: one host (or `*`) and a path prefix."""

    host: str = "*"
    path_prefix: str = "/"


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
class Assignment:
    """Who gets the candidate. `sticky_header` None = random per request."""

    sticky_header: str | None = None
    salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a step waits for: served time [s] AND samples [requests per variant]; both 0 = nothing."""

    for_s: float = 0.0
    samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowStep:
    share_bp: int
    hold: Hold = Hold()
    kind: Literal["shadow"] = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryStep:
    shares_bp: tuple[int, ...]
    hold: Hold = Hold()
    kind: Literal["canary"] = "canary"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteStep:
    keep_stable_for_s: float = 0.0
    kind: Literal["promote"] = "promote"


Step = ShadowStep | CanaryStep | PromoteStep


class Metric(StrEnum):
    ERROR_RATE = "envoy/error_rate"
    LATENCY = "envoy/latency"


class Role(StrEnum):
    GUARDRAIL = "guardrail"
    """A FAIL reverts."""
    SIGNAL = "signal"
    """A FAIL holds and resumes by itself."""


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
    """One question asked of the evidence. `statistic`: "mean" for rates; "distribution", "p50".."p99.9" for latency."""

    name: str
    metric: Metric
    role: Role = Role.GUARDRAIL
    statistic: str = "distribution"
    margin: Margin = field(default_factory=lambda: Margin(relative=0.25, absolute=0.001))


class Then(StrEnum):
    REVERT = "revert"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """What happens by itself. Times in seconds."""

    fail: Then = Then.REVERT
    no_data_after_s: float = 300.0
    no_data: Then = Then.HOLD
    nack: Then = Then.REVERT
    stuck_after_s: float = 7200.0
    stuck: Then = Then.REVERT


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """How long a proxy keeps the candidate's share without hearing from us [s]."""

    ttl_s: float = 30.0
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """One `kind: Rollout` document.

    Attributes:
        candidate: None = nothing to roll out.
        false_revert: Error budget of the whole rollout, 0 < alpha < 1, split over the guardrails.
    """

    name: str
    traffic: TrafficSpec
    stable: Variant
    candidate: Variant | None
    steps: tuple[Step, ...]
    gates: tuple[Gate, ...] = ()
    assignment: Assignment = Assignment()
    when: When = When()
    lease: Lease = Lease()
    false_revert: float = 0.01
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
class ProxiesPolicy:
    """One `kind: Proxies` document: a group of Envoys and their listeners."""

    name: str
    select: Select
    listeners: tuple[Listener, ...]
