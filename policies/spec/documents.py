"""The policy file as a person writes it: pydantic models of its three kinds, and their way into `policies.spec.policy`.

Unknown keys are errors; keys and values that are promised and not there yet say so (`LATER`). `parts` has the models of a variant, `traffic` of
whose requests go where, `steps` and `gates` what their names say, `units` the words and numbers; `checks` has what cannot be said of one field;
`schema` and `loader` work with these models.

`loader` makes a value in two steps: a good Rollout says by `mentions` what it needs of other files and documents, and gets it by
`value(companions)`. Every name that it mentions, and every arm that it names, must exist by then.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from policies.spec import policy
from policies.spec.cron import CronText
from policies.spec.gates import Gate, GateEntry, UseBundle
from policies.spec.parts import Endpoints, Part, Variants
from policies.spec.steps import Companions, Mention, Step
from policies.spec.traffic import Assignment, Traffic
from policies.spec.units import DURATION, DurationS, Flag, Fraction, IpAddress, LabelText, Name, OrText, Port, Zone, wrong


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


class DefaultRoute(Part):
    """Where requests go that no rollout owns, untouched."""

    endpoints: Endpoints = Field(examples=["{dns: gateway.internal, port: 8080}"])
    timeout: DurationS = Field(default=0.0, description="of a whole request; 0s (default) = none")

    def value(self) -> policy.DefaultRoute:
        return policy.DefaultRoute(endpoints=self.endpoints.value(), timeout_s=self.timeout)


class ProxiesSpec(Part):
    select: Select = Field(examples=["{cluster: edge}"])
    listeners: list[Listener] = Field(min_length=1, max_length=64)
    default: DefaultRoute | None = Field(default=None, description="where requests go that no rollout owns; default: they are answered 404")


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
            default=self.spec.default.value() if self.spec.default else None,
        )


class Errors(Part):
    false_revert: Fraction = Field(default=0.01, description="odds that an arm as good as stable is ever taken out; default 1%")

    blast_radius: Fraction | None = Field(
        default=None,
        description="part of all requests that an arm may spoil: before its share grows to w it must be shown to be worse by less than this / w",
        examples=["0.1%"],
    )

    @field_validator("blast_radius")
    @classmethod
    def _radius(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value < 1:
            raise wrong("this budget is out of range", expected="more than 0% and less than 100%", hint="blast_radius: 0.1%")
        return value

    @field_validator("false_revert")
    @classmethod
    def _budget(cls, value: float) -> float:
        if not 0 < value <= 0.5:
            raise wrong("this budget is out of range", expected="more than 0% and at most 50%")
        return value


_Then = Literal["revert", "hold", "freeze"]


class After(Part):
    """What happens by itself after a time."""

    after: DurationS = Field(examples=["5m"])
    then: _Then = Field(examples=["hold"])

    @field_validator("after")
    @classmethod
    def _some_time(cls, value: float) -> float:
        if value < 1:
            raise wrong("that is at once", expected="1s or more")
        return value


def _after(after: str, then: str) -> After:
    return After.model_validate({"after": after, "then": then})


class When(Part):
    """What happens by itself: revert, hold (nothing advances until the cause is gone), freeze (until a person unfreezes)."""

    fail: _Then = Field(default="revert", description="a guardrail fails; default revert")
    no_data: After = Field(default=_after("5m", "hold"), description="no request of an arm; default after 5m, then hold")
    source_error: After = Field(
        default=_after("5m", "hold"), description="the numbers cannot be had or are not to be trusted; default after 5m, then hold"
    )
    nack: _Then = Field(default="revert", description="a proxy rejects the configuration; default revert")
    stuck: After = Field(default=_after("2h", "revert"), description="a stage does not end; default after 2h, then revert")

    def value(self) -> policy.When:
        return policy.When(
            fail=policy.Then(self.fail),
            no_data_after_s=self.no_data.after,
            no_data=policy.Then(self.no_data.then),
            source_error_after_s=self.source_error.after,
            source_error=policy.Then(self.source_error.then),
            nack=policy.Then(self.nack),
            stuck_after_s=self.stuck.after,
            stuck=policy.Then(self.stuck.then),
        )


class FreezeWindow(Part):
    """Times in which nothing grows; reverts always go."""

    cron: CronText = Field(description="when it begins: minute hour day month weekday", examples=["0 18 * * FRI"])
    for_: DurationS = Field(alias="for", description="how long it lasts, from 1m", examples=["62h"])
    timezone: Zone = Field(default="UTC", description="IANA name; default UTC", examples=["Europe/Berlin"])

    @field_validator("for_")
    @classmethod
    def _some_time(cls, value: float) -> float:
        if value < 60:
            raise wrong("this window is over before it is seen", expected="1m or more", hint="for: 62h")
        return value

    def value(self) -> policy.FreezeWindow:
        return policy.FreezeWindow(cron=self.cron, for_s=self.for_, timezone=self.timezone)


class Lease(Part):
    """How long the proxies keep the arms' shares without hearing from Crossfade; short form: `lease: 30s`."""

    ttl: DurationS = Field(default=30.0, description="default 30s, from 1s to 1h")
    required: Flag = Field(default=False, description="proxies that cannot hold a lease get no share")

    @field_validator("ttl")
    @classmethod
    def _long_enough(cls, value: float) -> float:
        if not 1 <= value <= 3600:
            raise wrong("this lease is out of range", expected="from 1s to 1h", hint="lease: 30s")
        return value


class RolloutSpec(Part):
    LATER = frozenset({"notify"})

    traffic: Traffic = Field(examples=["{proxies: edge, listener: public}"])
    variants: Variants
    assignment: Assignment = Assignment()
    steps: list[Step] = Field(default=[], max_length=100, description="needed when there is an arm")
    gates: list[GateEntry] = Field(default=[], max_length=50)
    errors: Errors = Errors()
    when: When = When()
    lease: Annotated[Lease, OrText(DURATION)] = Lease()
    freeze: list[FreezeWindow] = Field(default=[], max_length=32, description="times in which nothing grows")

    @field_validator("lease", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"ttl": value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _grpc_is_http2(self) -> Self:
        if any(match.grpc is not None for match in self.traffic.match):
            for name, variant in {policy.STABLE: self.variants.stable, **self.variants.arms}.items():
                if variant.pods.protocol != "http2":
                    at = ("variants", name, "pods")
                    raise wrong(f"gRPC does not go to {name}", expected="protocol: http2", hint="pods: {protocol: http2}", at=at)
        return self


class Rollout(Part):
    """How one model endpoint goes from a version to the next."""

    apiVersion: Literal["crossfade/v1"] = Field(examples=["crossfade/v1"])  # noqa: N815 - the file's own spelling
    kind: Literal["Rollout"]
    metadata: Metadata
    spec: RolloutSpec

    def mentions(self) -> Iterator[Mention]:
        """What it needs of other files and documents; paths inside the document."""
        for index, step in enumerate(self.spec.steps):
            for each in step.mentions():
                yield Mention(kind=each.kind, name=each.name, path=("spec", "steps", index, *each.path))
        for index, entry in enumerate(self.spec.gates):
            if isinstance(entry, UseBundle):
                yield Mention(kind="bundles", name=entry.use, path=("spec", "gates", index, "use"))

    def value(self, companions: Companions) -> policy.RolloutPolicy:
        """Raises: KeyError: If something is mentioned that `companions` has not."""
        spec, gates = self.spec, list[policy.Gate]()
        for entry in spec.gates:
            gates += companions.bundles[entry.use] if isinstance(entry, UseBundle) else [entry.value()]
        arms = spec.variants.arms
        return policy.RolloutPolicy(
            name=self.metadata.name,
            labels=tuple(sorted(self.metadata.labels.items())),
            traffic=spec.traffic.value(),
            stable=spec.variants.stable.value(policy.STABLE),
            arms=tuple(arm.value(name) for name, arm in arms.items()),
            assignment=spec.assignment.value(self.metadata.name),
            steps=tuple(step.value(tuple(arms), companions) for step in spec.steps) if arms else (),
            gates=tuple(gates),
            false_revert=spec.errors.false_revert,
            blast_radius=spec.errors.blast_radius,
            when=spec.when.value(),
            lease=policy.Lease(ttl_s=spec.lease.ttl, required=spec.lease.required),
            freeze=tuple(window.value() for window in spec.freeze),
        )


class GateBundleSpec(Part):
    gates: list[Gate] = Field(min_length=1, max_length=50)


class GateBundle(Part):
    """Gates that several rollouts use by `- use: NAME`."""

    apiVersion: Literal["crossfade/v1"] = Field(examples=["crossfade/v1"])  # noqa: N815 - the file's own spelling
    kind: Literal["GateBundle"]
    metadata: Metadata
    spec: GateBundleSpec

    def value(self) -> tuple[policy.Gate, ...]:
        return tuple(gate.value() for gate in self.spec.gates)


KINDS: dict[str, type[Rollout] | type[Proxies] | type[GateBundle]] = {"Rollout": Rollout, "Proxies": Proxies, "GateBundle": GateBundle}
