"""The policy file as a person writes it: pydantic models of `kind: Rollout` and `kind: Proxies`, and their way into `policies.spec.policy`.

Unknown keys are errors; keys and values that are promised and not there yet say so (`LATER`, `LATER_VALUES`). `parts` has the models of a
variant, `units` the words and numbers, `checks` what cannot be said of one field; `schema` and `loader` work with these models.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from policies.spec import policy
from policies.spec.parts import Part, Variants
from policies.spec.units import (
    DURATION,
    Count,
    DurationS,
    Flag,
    Fraction,
    Header,
    Host,
    IpAddress,
    LabelText,
    MarginValue,
    Name,
    OrText,
    Port,
    Prefix,
    Salt,
    ShareBp,
    shown,
    wrong,
)


class Metadata(Part):
    """What the document is called."""

    name: Name = Field(description="unique per kind", examples=["chat-llm"])
    labels: dict[str, LabelText] = Field(default={}, max_length=64, description="free text for people and filters")


class Select(Part):
    """Which Envoys these are: every given field must match."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    cluster: LabelText | None = Field(default=None, description="node.cluster, exactly", examples=["edge"])
    node_id: LabelText | None = Field(default=None, description="node.id, a glob", examples=["edge-*"])
    metadata: dict[str, LabelText] = Field(default={}, max_length=32, description="node.metadata: dotted path -> text")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.cluster is None and self.node_id is None and not self.metadata:
            raise wrong("this selects every Envoy", expected="at least one of cluster, node_id, metadata", hint="cluster: edge")
        return self


class Listener(Part):
    """A port of the Envoys on which rollouts own traffic."""

    LATER = frozenset({"tls", "access"})

    name: Name = Field(examples=["public"])
    address: IpAddress = Field(default="0.0.0.0", description="IP address to listen on (default every IPv4 address)")  # noqa: S104 - a listener's
    port: Port = Field(examples=[8080])


class ProxiesSpec(Part):
    select: Select = Field(examples=["{cluster: edge}"])
    listeners: list[Listener] = Field(min_length=1, max_length=64)


class Proxies(Part):
    """A group of Envoys and their listeners."""

    apiVersion: Literal["crossfade/v1"] = Field(examples=["crossfade/v1"])  # noqa: N815 - the file's own spelling
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


class Match(Part):
    """Requests by host and start of the path; the most particular match wins."""

    host: Host = Field(
        default="*", description="without port; *.example.com for every host under it; default *", examples=["chat.example.com"]
    )
    path_prefix: Prefix = Field(default="/", description="default /", examples=["/v1/"])


class Traffic(Part):
    """The requests this rollout owns."""

    proxies: Name = Field(description="metadata.name of a Proxies document", examples=["edge"])
    listener: Name = Field(description="one of its listeners", examples=["public"])
    match: list[Match] = Field(default=[Match()], min_length=1, max_length=100, description="default: everything on the listener")
    timeout: DurationS = Field(default=300.0, description="of a whole request, streams included; 0s = none; default 300s")
    fallback: Literal["connect", "gateway", "none"] = Field(
        default="connect",
        description="candidate unreachable: stable answers (connect, default); also on 502-504 and resets before the first byte (gateway); none",
    )


class Sticky(Part):
    LATER = frozenset({"cookie"})

    header: Header = Field(description="whose value names the user", examples=["x-user-id"])


class Assignment(Part):
    """Who gets the candidate."""

    LATER = frozenset({"segments", "layer"})

    sticky: Annotated[Sticky | None, OrText("^none$")] = Field(
        default=None, description="a user keeps the version; none (default): every request is drawn anew"
    )
    salt: Salt | None = Field(default=None, description="decorrelates rollouts that see the same users; default: the rollout's name")

    @field_validator("sticky", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"cookie"}:
            raise wrong("cookie is not supported yet", expected="header, or none", hint="sticky: {header: x-user-id}", at=("cookie",))
        if isinstance(value, str) and value != "none":
            raise wrong(
                f"{shown(value)} is not a way to be sticky", expected="{header: NAME}, or none", hint=f"sticky: {{header: {value[:60]}}}"
            )
        return None if value == "none" else value


class Hold(Part):
    """What a step waits for: both."""

    for_: DurationS = Field(default=0.0, alias="for", description="time in which the share is served", examples=["5m"])
    samples: Count = Field(default=0, description="requests per variant", examples=[500])

    def value(self) -> policy.Hold:
        return policy.Hold(for_s=self.for_, samples=self.samples)


class Shadow(Part):
    """The candidate gets copies; its answers are thrown away."""

    share: ShareBp = Field(description="of the requests that are copied", examples=["10%"])
    hold: Hold = Hold()


class Canary(Part):
    """The candidate answers a growing share of users' requests."""

    LATER = frozenset({"share"})

    shares: list[ShareBp] = Field(min_length=1, max_length=100, description="one stage each", examples=[["1%", "5%", "25%"]])
    hold: Hold = Hold()

    @field_validator("shares", mode="before")
    @classmethod
    def _one_arm(cls, value: Any) -> Any:
        if isinstance(value, dict):
            raise wrong(
                "shares per variant are not supported yet", expected="a list of shares of the candidate", hint="shares: [1%, 5%, 25%]"
            )
        if isinstance(value, str):
            raise wrong(f"{shown(value)} is no list", expected="a list of shares", hint=f"shares: [{value[:20]}]")
        return value


class Promote(Part):
    """The candidate becomes stable."""

    keep_stable_for: DurationS = Field(default=0.0, description="the old version stays warm this long; gates stay on", examples=["1h"])


class Step(Part):
    """Exactly one of them."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    LATER = frozenset({"probe", "approve", "ab", "switch"})

    shadow: Shadow | None = None
    canary: Canary | None = None
    promote: Promote | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            what = "a step is empty" if not self.model_fields_set else f"one step has {' and '.join(sorted(self.model_fields_set))}"
            raise wrong(what, expected="exactly one of shadow, canary, promote in a step", hint="start each step with its own dash")
        return self

    def value(self) -> policy.Step:
        if self.shadow is not None:
            return policy.ShadowStep(share_bp=self.shadow.share, hold=self.shadow.hold.value())
        if self.canary is not None:
            return policy.CanaryStep(shares_bp=tuple(self.canary.shares), hold=self.canary.hold.value())
        assert self.promote is not None
        return policy.PromoteStep(keep_stable_for_s=self.promote.keep_stable_for)


class Margin(Part):
    """How much worse than stable still counts as good; with both, both must be exceeded to fail."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})
    LATER = frozenset({"at_least"})

    absolute: MarginValue | None = Field(default=None, description="percentage points for an error rate, a duration for latency")
    relative: Fraction | None = Field(default=None, description="on top of stable's value")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.absolute is None and self.relative is None:
            raise wrong("the margin is empty", expected="absolute, relative or both", hint="margin: {relative: 25%}")
        return self


_STATISTIC = r"^(mean|distribution|p[1-9](\.[0-9]{1,2})?|p[1-9][0-9](\.[0-9]{1,2})?)$"


class Gate(Part):
    """One question asked of the evidence: whether the candidate is worse than stable by more than the margin."""

    LATER = frozenset({"limit", "better_by"})
    LATER_VALUES: ClassVar = {"role": frozenset({"goal"})}

    name: Name = Field(examples=["errors"])
    metric: Literal["envoy/error_rate", "envoy/latency"] = Field(examples=["envoy/error_rate"])
    role: Literal["guardrail", "signal"] = Field(
        default="guardrail", description="guardrail (default): a FAIL reverts; signal: a FAIL holds"
    )
    statistic: Annotated[str, WithJsonSchema({"type": "string", "pattern": _STATISTIC})] | None = Field(
        default=None, description="of latency: distribution (default) or a quantile such as p95; of an error rate: mean"
    )
    margin: Margin = Field(examples=["{relative: 25%}"])

    @field_validator("metric", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        if isinstance(value, dict) or (
            isinstance(value, str) and re.match(r"^(envoy/(ttft|throughput|.*_p\d+)|cost/|shadow/|gpu/|event/)", value)
        ):
            what = value if isinstance(value, str) else f"a metric from {next(iter(value), 'elsewhere')}"
            raise wrong(f"{what[:60]} is not supported yet", expected="envoy/error_rate or envoy/latency")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        rate = self.metric == "envoy/error_rate"
        unit = self.margin.absolute[0] if self.margin.absolute else None
        if unit == ("ms" if rate else "fraction"):
            expected = "a percentage such as 0.5%" if rate else "a duration such as 50ms"
            raise wrong(f"the absolute margin of {self.metric} has the wrong unit", expected=expected, at=("margin", "absolute"))
        if rate and self.margin.absolute is not None and self.margin.absolute[1] >= 1:
            raise wrong("no error rate is more than 100%", expected="less than 100%", at=("margin", "absolute"))
        if rate and self.statistic not in {None, "mean"}:
            raise wrong("an error rate has one statistic only", expected="mean, or none", hint="remove statistic", at=("statistic",))
        if not rate and self.statistic is not None and (self.statistic == "mean" or not re.fullmatch(_STATISTIC, self.statistic)):
            expected = "distribution, or a quantile such as p95 or p99.9"
            raise wrong(f"unknown statistic {shown(self.statistic)}", expected=expected, at=("statistic",))
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
    false_revert: Fraction = Field(default=0.01, description="odds that a candidate as good as stable is ever reverted; default 1%")

    @field_validator("false_revert")
    @classmethod
    def _budget(cls, value: float) -> float:
        if not 0 < value <= 0.5:
            raise wrong("this budget is out of range", expected="more than 0% and at most 50%")
        return value


class After(Part):
    """What happens by itself after a time."""

    after: DurationS = Field(examples=["5m"])
    then: Literal["revert", "hold"] = Field(examples=["hold"])

    @field_validator("after")
    @classmethod
    def _some_time(cls, value: float) -> float:
        if value < 1:
            raise wrong("that is at once", expected="1s or more")
        return value


class When(Part):
    """What happens by itself."""

    LATER = frozenset({"source_error"})
    LATER_VALUES: ClassVar = {"fail": frozenset({"freeze"}), "nack": frozenset({"freeze"})}

    fail: Literal["revert", "hold"] = Field(default="revert", description="a guardrail fails; default revert")
    no_data: After = Field(
        default=After.model_validate({"after": "5m", "then": "hold"}),
        description="no request of the candidate; default after 5m, then hold",
    )
    nack: Literal["revert", "hold"] = Field(default="revert", description="a proxy rejects the configuration; default revert")
    stuck: After = Field(
        default=After.model_validate({"after": "2h", "then": "revert"}), description="a stage does not end; default after 2h, then revert"
    )

    def value(self) -> policy.When:
        return policy.When(
            fail=policy.Then(self.fail),
            no_data_after_s=self.no_data.after,
            no_data=policy.Then(self.no_data.then),
            nack=policy.Then(self.nack),
            stuck_after_s=self.stuck.after,
            stuck=policy.Then(self.stuck.then),
        )


class Lease(Part):
    """How long the proxies keep the candidate's share without hearing from Crossfade; short form: `lease: 30s`."""

    ttl: DurationS = Field(default=30.0, description="default 30s, from 1s to 1h")
    required: Flag = Field(default=False, description="proxies that cannot hold a lease get no share")

    @field_validator("ttl")
    @classmethod
    def _long_enough(cls, value: float) -> float:
        if not 1 <= value <= 3600:
            raise wrong("this lease is out of range", expected="from 1s to 1h", hint="lease: 30s")
        return value


class RolloutSpec(Part):
    LATER = frozenset({"freeze", "notify"})

    traffic: Traffic = Field(examples=["{proxies: edge, listener: public}"])
    variants: Variants
    assignment: Assignment = Assignment()
    steps: list[Step] = Field(default=[], max_length=100, description="needed when there is a candidate")
    gates: list[Gate] = Field(default=[], max_length=50)
    errors: Errors = Errors()
    when: When = When()
    lease: Annotated[Lease, OrText(DURATION)] = Lease()

    @field_validator("lease", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"ttl": value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value


class Rollout(Part):
    """How one model endpoint goes from a version to the next."""

    apiVersion: Literal["crossfade/v1"] = Field(examples=["crossfade/v1"])  # noqa: N815 - the file's own spelling
    kind: Literal["Rollout"]
    metadata: Metadata
    spec: RolloutSpec

    def value(self) -> policy.RolloutPolicy:
        spec, traffic, sticky = self.spec, self.spec.traffic, self.spec.assignment.sticky
        return policy.RolloutPolicy(
            name=self.metadata.name,
            labels=tuple(sorted(self.metadata.labels.items())),
            traffic=policy.TrafficSpec(
                proxies=traffic.proxies,
                listener=traffic.listener,
                match=tuple(policy.Match(host=each.host.lower(), path_prefix=each.path_prefix) for each in traffic.match),
                timeout_s=traffic.timeout,
                fallback=policy.Fallback(traffic.fallback),
            ),
            stable=spec.variants.stable.value("stable"),
            candidate=spec.variants.candidate.value("candidate") if spec.variants.candidate else None,
            assignment=policy.Assignment(sticky_header=sticky.header.lower() if sticky else None, salt=spec.assignment.salt or ""),
            steps=tuple(step.value() for step in spec.steps),
            gates=tuple(gate.value() for gate in spec.gates),
            false_revert=spec.errors.false_revert,
            when=spec.when.value(),
            lease=policy.Lease(ttl_s=spec.lease.ttl, required=spec.lease.required),
        )


KINDS: dict[str, type[Rollout] | type[Proxies]] = {"Rollout": Rollout, "Proxies": Proxies}
KINDS_LATER = frozenset({"GateBundle"})
