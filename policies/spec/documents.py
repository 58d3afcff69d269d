"""The policy file as a person writes it: pydantic models of `kind: Rollout` and `kind: Proxies`, and their way into `policies.spec.policy`.

Unknown keys are errors; keys that are promised and not there yet say so (`LATER`). The JSON Schema is made of these models.
"""

import ipaddress
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, field_validator, model_validator

from policies.presets import NEEDS_PATH, RUNTIMES
from policies.spec import policy
from policies.spec.units import DurationS, Fraction, MarginValue, ShareBp

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$")]
Header = Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/[^\s#]{0,500}$")]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Count = Annotated[int, Field(ge=0, le=10**9, strict=True)]

LATER = frozenset(
    {
        "probe",
        "approve",
        "ab",
        "switch",
        "segments",
        "layer",
        "freeze",
        "notify",
        "kubernetes",
        "cookie",
        "config",
        "tls",
        "access",
        "limit",
    }
    | {"better_by", "goal", "source_error", "gpus", "gpu_hour_usd", "at_least", "who", "within"}
)
"""Keys of the policy language that this version does not know yet."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metadata(Part):
    name: Name
    labels: dict[str, str] = {}


class Select(Part):
    """Which Envoys these are: every given field must match."""

    cluster: str | None = Field(default=None, min_length=1, description="node.cluster")
    node_id: str | None = Field(default=None, min_length=1, description="node.id, a glob")
    metadata: dict[str, str] = Field(default={}, description="node.metadata: dotted path -> value")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.cluster is None and self.node_id is None and not self.metadata:
            raise ValueError("selects every Envoy; expected at least one of cluster, node_id, metadata")
        return self


class Listener(Part):
    name: Name
    address: str = "0.0.0.0"  # noqa: S104 - a proxy's listener is meant to be reached
    port: Port

    @field_validator("address")
    @classmethod
    def _ip(cls, value: str) -> str:
        return str(ipaddress.ip_address(value))


class ProxiesSpec(Part):
    select: Select
    listeners: list[Listener] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key in ("name", "port"):
            values = [getattr(listener, key) for listener in self.listeners]
            if len(set(values)) < len(values):
                raise ValueError(f"two listeners have the same {key}; expected each {key} once")
        return self


class Proxies(Part):
    """A group of Envoys and their listeners."""

    apiVersion: Literal["crossfade/v1"]  # noqa: N815 - the file's own spelling
    kind: Literal["Proxies"]
    metadata: Metadata
    spec: ProxiesSpec

    def value(self) -> policy.ProxiesPolicy:
        select = self.spec.select
        return policy.ProxiesPolicy(
            name=self.metadata.name,
            select=policy.Select(cluster=select.cluster, node_id=select.node_id, metadata=tuple(sorted(select.metadata.items()))),
            listeners=tuple(policy.Listener(name=each.name, address=each.address, port=each.port) for each in self.spec.listeners),
        )


class Endpoints(Part):
    """Either `static` or `dns` and `port`."""

    static: list[str] | None = Field(default=None, min_length=1, max_length=1000, description="IP:port of each pod")
    dns: Host | None = None
    port: Port | None = None

    @field_validator("static")
    @classmethod
    def _addresses(cls, value: list[str] | None) -> list[str] | None:
        for address in value or ():
            host, _, port = address.rpartition(":")
            try:
                ipaddress.ip_address(host.strip("[]"))
            except ValueError:
                raise ValueError(f"{address!r} is no address; expected IP:port such as 10.0.0.7:8000 (a name goes under dns)") from None
            if not port.isdigit() or not 1 <= int(port) <= 65535:
                raise ValueError(f"{address!r} has no port; expected IP:port such as 10.0.0.7:8000")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.static is None) == (self.dns is None):
            raise ValueError("expected exactly one of static and dns")
        if (self.dns is None) != (self.port is None):
            raise ValueError("expected port together with dns (static addresses carry their own)")
        return self

    def value(self) -> policy.Endpoints:
        if self.static is not None:
            return policy.StaticEndpoints(addresses=tuple(self.static))
        assert self.dns is not None
        assert self.port is not None
        return policy.DnsEndpoints(host=self.dns, port=self.port)


class Health(Part):
    path: UrlPath
    interval: DurationS = 1.0
    timeout: DurationS = 1.0


class Pods(Part):
    max_concurrency: Annotated[int, Field(ge=1, le=10**6, strict=True)] = Field(
        default=1024, description="requests one pod may hold at once"
    )


class Variant(Part):
    """One version of the model."""

    version: Version
    endpoints: Endpoints
    runtime: str = Field(default="http", description="serving runtime: " + ", ".join(sorted(RUNTIMES | NEEDS_PATH)))
    health: Health | None = None
    pods: Pods = Pods()

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.runtime in NEEDS_PATH and self.health is None:
            raise ValueError(NEEDS_PATH[self.runtime])
        if self.runtime not in RUNTIMES and self.runtime not in NEEDS_PATH:
            raise ValueError(f"unknown runtime {self.runtime!r}; expected one of {', '.join(sorted(RUNTIMES | NEEDS_PATH))}")
        return self

    def value(self, name: str) -> policy.Variant:
        health = RUNTIMES.get(self.runtime)
        if self.health is not None:
            health = policy.HealthCheck(path=self.health.path, interval_s=self.health.interval, timeout_s=self.health.timeout)
        return policy.Variant(
            name=name,
            version=self.version,
            endpoints=self.endpoints.value(),
            runtime=self.runtime,
            health=health,
            max_concurrency=self.pods.max_concurrency,
        )


class Variants(Part):
    stable: Variant
    candidate: Variant | None = None


class Match(Part):
    host: Host | Literal["*"] = "*"
    path_prefix: UrlPath = "/"


class Traffic(Part):
    """The requests this rollout owns."""

    proxies: Name
    listener: Name
    match: list[Match] = Field(default=[Match()], min_length=1, max_length=100)
    timeout: DurationS = 300.0
    fallback: Literal["connect", "gateway", "none"] = "connect"


class Sticky(Part):
    header: Header


class Assignment(Part):
    sticky: Annotated[Sticky | None, WithJsonSchema({"anyOf": [{"const": "none"}, {"$ref": "#/$defs/Sticky"}]})] = None
    salt: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,60}$")] = ""

    @field_validator("sticky", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "none" else value


class Hold(Part):
    """Both must be served."""

    for_: DurationS = Field(default=0.0, alias="for")
    samples: Count = 0

    def value(self) -> policy.Hold:
        return policy.Hold(for_s=self.for_, samples=self.samples)


class Shadow(Part):
    share: ShareBp
    hold: Hold = Hold()


class Canary(Part):
    shares: list[ShareBp] = Field(min_length=1, max_length=100)
    hold: Hold = Hold()

    @field_validator("shares")
    @classmethod
    def _growing(cls, value: list[int]) -> list[int]:
        if any(after <= before for before, after in zip(value, value[1:], strict=False)):
            raise ValueError("shares must grow; expected a list such as [1%, 5%, 25%]")
        return value


class Promote(Part):
    keep_stable_for: DurationS = 0.0


class Step(Part):
    """Exactly one of them."""

    shadow: Shadow | None = None
    canary: Canary | None = None
    promote: Promote | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or not (self.shadow or self.canary or self.promote):
            raise ValueError("expected exactly one of shadow, canary, promote in a step")
        return self

    def value(self) -> policy.Step:
        if self.shadow is not None:
            return policy.ShadowStep(share_bp=self.shadow.share, hold=self.shadow.hold.value())
        if self.canary is not None:
            return policy.CanaryStep(shares_bp=tuple(self.canary.shares), hold=self.canary.hold.value())
        assert self.promote is not None
        return policy.PromoteStep(keep_stable_for_s=self.promote.keep_stable_for)


class Margin(Part):
    absolute: MarginValue | None = None
    relative: Fraction | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.absolute is None and self.relative is None:
            raise ValueError("expected absolute, relative or both")
        return self


class Gate(Part):
    name: Name
    metric: Literal["envoy/error_rate", "envoy/latency"]
    role: Literal["guardrail", "signal"] = "guardrail"
    statistic: str | None = Field(default=None, description="latency only: distribution, or a quantile such as p95")
    margin: Margin

    @model_validator(mode="after")
    def _fits(self) -> Self:
        rate = self.metric == "envoy/error_rate"
        kind = self.margin.absolute[0] if self.margin.absolute else None
        if kind == ("ms" if rate else "fraction"):
            expected = "a percentage such as 0.5%" if rate else "a duration such as 50ms"
            raise ValueError(f"margin.absolute of {self.metric} is not of its unit; expected {expected}")
        if rate and self.statistic not in {None, "mean"}:
            raise ValueError("an error rate has no statistic; expected none (or mean)")
        if not rate and self.statistic is not None and not re.match(r"^(distribution|p\d{1,2}(\.\d)?)$", self.statistic):
            raise ValueError(f"unknown statistic {self.statistic!r}; expected distribution, or a quantile such as p95 or p99.9")
        return self

    def value(self) -> policy.Gate:
        return policy.Gate(
            name=self.name,
            metric=policy.Metric(self.metric),
            role=policy.Role(self.role),
            statistic=self.statistic or ("mean" if self.metric == "envoy/error_rate" else "distribution"),
            margin=policy.Margin(absolute=self.margin.absolute[1] if self.margin.absolute else None, relative=self.margin.relative),
        )


class Errors(Part):
    false_revert: Fraction = 0.01

    @field_validator("false_revert")
    @classmethod
    def _budget(cls, value: float) -> float:
        if not 0 < value <= 0.5:
            raise ValueError("out of range; expected more than 0% and at most 50%")
        return value


class After(Part):
    after: DurationS
    then: Literal["revert", "hold"]


class When(Part):
    fail: Literal["revert", "hold"] = "revert"
    no_data: After = After.model_validate({"after": "5m", "then": "hold"})
    nack: Literal["revert", "hold"] = "revert"
    stuck: After = After.model_validate({"after": "2h", "then": "revert"})


class Lease(Part):
    ttl: DurationS = 30.0
    required: bool = False


class RolloutSpec(Part):
    traffic: Traffic
    variants: Variants
    assignment: Assignment = Assignment()
    steps: list[Step] = Field(min_length=1, max_length=100)
    gates: list[Gate] = Field(default=[], max_length=50)
    errors: Errors = Errors()
    when: When = When()
    lease: Lease = Lease()

    @field_validator("lease", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"ttl": value} if isinstance(value, str) else value

    @field_validator("lease")
    @classmethod
    def _long_enough(cls, value: Lease) -> Lease:
        if value.ttl < 1:
            raise ValueError("a lease shorter than 1s would end between two heartbeats; expected 1s or more")
        return value

    @field_validator("steps")
    @classmethod
    def _promote_last(cls, value: list[Step]) -> list[Step]:
        if any(step.promote is not None for step in value[:-1]):
            raise ValueError("promote ends a rollout; expected it as the last step only")
        return value

    @field_validator("gates")
    @classmethod
    def _once(cls, value: list[Gate]) -> list[Gate]:
        names = [gate.name for gate in value]
        if len(set(names)) < len(names):
            raise ValueError("two gates have the same name; expected each name once")
        return value


class Rollout(Part):
    """A release policy of one model endpoint."""

    apiVersion: Literal["crossfade/v1"]  # noqa: N815 - the file's own spelling
    kind: Literal["Rollout"]
    metadata: Metadata
    spec: RolloutSpec

    def value(self) -> policy.RolloutPolicy:
        spec, when = self.spec, self.spec.when
        return policy.RolloutPolicy(
            name=self.metadata.name,
            labels=tuple(sorted(self.metadata.labels.items())),
            traffic=policy.TrafficSpec(
                proxies=spec.traffic.proxies,
                listener=spec.traffic.listener,
                match=tuple(policy.Match(host=each.host.lower(), path_prefix=each.path_prefix) for each in spec.traffic.match),
                timeout_s=spec.traffic.timeout,
                fallback=policy.Fallback(spec.traffic.fallback),
            ),
            stable=spec.variants.stable.value("stable"),
            candidate=spec.variants.candidate.value("candidate") if spec.variants.candidate else None,
            assignment=policy.Assignment(
                sticky_header=spec.assignment.sticky.header.lower() if spec.assignment.sticky else None,
                salt=spec.assignment.salt,
            ),
            steps=tuple(step.value() for step in spec.steps),
            gates=tuple(gate.value() for gate in spec.gates),
            false_revert=spec.errors.false_revert,
            when=policy.When(
                fail=policy.Then(when.fail),
                no_data_after_s=when.no_data.after,
                no_data=policy.Then(when.no_data.then),
                nack=policy.Then(when.nack),
                stuck_after_s=when.stuck.after,
                stuck=policy.Then(when.stuck.then),
            ),
            lease=policy.Lease(ttl_s=spec.lease.ttl, required=spec.lease.required),
        )


KINDS: dict[str, type[Rollout] | type[Proxies]] = {"Rollout": Rollout, "Proxies": Proxies}
