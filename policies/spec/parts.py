"""The base of the policy file's models, and the models of a variant: a version, where its pods are, what it changes about requests.

Neighbours: `documents` puts these into a Rollout; the values they become are in `policies.spec.policy`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from policies.presets import RUNTIMES
from policies.spec import policy
from policies.spec.units import (
    HEADER,
    NAME,
    PATTERN_WORDS,
    DnsName,
    DurationS,
    Endpoint,
    HeaderText,
    LabelText,
    Name,
    Port,
    Prefix,
    UrlPath,
    Version,
    nearest,
    shown,
    wrong,
)

ARMS_MAX = 8
"""Variants beside stable."""


class Part(BaseModel):
    """A mapping of the policy file.

    Attributes:
        LATER: Keys of the language that this version does not know yet.
        LATER_VALUES: The same for values, by key.
        OTHERS: The model of what stands at any key that is no field of this one; None = there are no other keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    LATER: ClassVar[frozenset[str]] = frozenset()
    LATER_VALUES: ClassVar[Mapping[str, frozenset[str]]] = {}
    OTHERS: ClassVar["type[Part] | None"] = None


class Endpoints(Part):
    """Where a version's pods are: either `static`, or `dns` and `port`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["static"]}, {"required": ["dns", "port"]}]})
    LATER = frozenset({"kubernetes"})

    static: list[Endpoint] | None = Field(default=None, min_length=1, max_length=1000, description="IP:port of each pod")
    dns: DnsName | None = Field(default=None, description="a name that the proxies resolve themselves", examples=["chat-v2.models.svc"])
    port: Port | None = Field(default=None, description="with dns", examples=[8000])

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.static is None) == (self.dns is None):
            raise wrong(
                "endpoints are not said" if self.dns is None else "endpoints are said twice", expected="either static, or dns and port"
            )
        if self.dns is not None and self.port is None:
            raise wrong("dns has no port", expected="dns and port", hint="add port: 8000")
        if self.static is not None and self.port is not None:
            raise wrong("static addresses carry their own ports", expected="static alone", hint="remove port")
        if self.static is not None and len(set(self.static)) < len(self.static):
            double = next(address for address in self.static if self.static.count(address) > 1)
            raise wrong(f"{double} stands twice", expected="each address once", hint="remove one")
        return self

    def value(self) -> policy.Endpoints:
        if self.static is not None:
            return policy.StaticEndpoints(addresses=tuple(self.static))
        assert self.dns is not None
        assert self.port is not None
        return policy.DnsEndpoints(host=self.dns.lower(), port=self.port)


class Health(Part):
    """HTTP GET of `path` answers 200 when a pod is ready."""

    path: UrlPath | None = Field(default=None, description="default: the runtime's own", examples=["/health"])
    interval: DurationS = Field(default=1.0, description="default 1s, at least 100ms")
    timeout: DurationS = Field(default=1.0, description="default 1s, at least 10ms")

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if self.interval < 0.1:
            raise wrong("pods would be asked all the time", expected="an interval of 100ms or more", at=("interval",))
        if self.timeout < 0.01:
            raise wrong("no pod answers that fast", expected="a timeout of 10ms or more", at=("timeout",))
        return self


class Pods(Part):
    LATER = frozenset({"gpus", "gpu_hour_usd"})

    max_concurrency: Annotated[int, Field(ge=1, le=10**6, strict=True)] = Field(
        default=1024, description="requests one pod may hold at once (default 1024)"
    )
    slow_start: DurationS = Field(
        default=0.0, description="a pod that just became ready gets less than its part this long; default 0s, at most 1h"
    )
    protocol: Literal["http1", "http2"] = Field(default="http1", description="how the pods are spoken to, without TLS; gRPC needs http2")

    @field_validator("slow_start")
    @classmethod
    def _bounded(cls, value: float) -> float:
        if value > 3600:
            raise wrong("this start is too slow", expected="at most 1h", hint="slow_start: 30s")
        return value


_ENVOYS_OWN = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "x-request-id",
    }
)
_ENVOYS_OWN_PREFIXES = (":", "x-crossfade-", "x-envoy-")


class Config(Part):
    """What the variant changes about the requests it gets."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    headers: dict[str, HeaderText] = Field(
        default={},
        max_length=32,
        description="set on each request, whatever the client sent",
        json_schema_extra={"propertyNames": {"pattern": HEADER}},
    )
    path: Prefix | None = Field(default=None, description="in place of the matched path prefix", examples=["/v2/"])
    model: LabelText | None = Field(default=None, description="in place of `model` in a JSON body", examples=["llama-3-8b-int8"])

    @field_validator("headers", mode="before")
    @classmethod
    def _ours_to_set(cls, value: Any) -> Any:
        seen: set[str] = set()
        for name in value if isinstance(value, dict) else ():
            plain = str(name).lower()
            if not plain.startswith(":") and not re.fullmatch(HEADER, plain):
                raise wrong(f"{shown(name)} does not fit", expected=PATTERN_WORDS[HEADER], at=(str(name),))
            if plain in _ENVOYS_OWN or plain.startswith(_ENVOYS_OWN_PREFIXES):
                raise wrong(f"{shown(name)} belongs to the proxy", expected="another header", hint="remove it", at=(str(name),))
            if plain in seen:
                raise wrong(
                    f"{shown(name)} stands twice", expected="each header once, in whatever case", hint="remove one", at=(str(name),)
                )
            seen.add(plain)
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.headers and self.path is None and self.model is None:
            raise wrong("config changes nothing", expected="headers, path or model", hint="remove config")
        return self

    def value(self) -> policy.Config:
        headers = tuple(sorted((name.lower(), text) for name, text in self.headers.items()))
        return policy.Config(headers=headers, path=self.path, model=self.model)


_NAMES_OF_RUNTIMES = sorted(RUNTIMES)


class Variant(Part):
    """One version of the model."""

    version: Version = Field(description="what people call it; part of cluster and metric names", examples=["llama-3-8b-int8"])
    endpoints: Endpoints = Field(examples=["{dns: chat-int8.models.svc, port: 8000}"])
    runtime: Annotated[str, WithJsonSchema({"type": "string", "enum": _NAMES_OF_RUNTIMES})] = Field(
        default="http", description="serving runtime: gives the health check (default http: none)"
    )
    health: Health | None = Field(default=None, description="overrides the runtime's health check")
    pods: Pods = Pods()
    config: Config | None = Field(default=None, description="what it changes about the requests it gets")

    @field_validator("runtime")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in RUNTIMES:
            raise wrong(
                f"unknown runtime {shown(value)}", expected=f"one of {', '.join(_NAMES_OF_RUNTIMES)}", near=(value, _NAMES_OF_RUNTIMES)
            )
        return value

    @model_validator(mode="after")
    def _asked_somewhere(self) -> Self:
        runtime = RUNTIMES[self.runtime]
        if self.health is not None and self.health.path is None and runtime.health is None:
            raise wrong(
                "health has no path", expected=f"a path such as {runtime.needs_path or '/health'}", hint="add health.path", at=("health",)
            )
        if runtime.needs_path and self.health is None:
            message = f"{self.runtime} answers per model, so its health path is not known"
            raise wrong(
                message, expected=f"health.path: {runtime.needs_path}", hint=f"health: {{path: {runtime.needs_path}}}", at=("runtime",)
            )
        return self

    def value(self, name: str) -> policy.Variant:
        health = RUNTIMES[self.runtime].health
        if self.health is not None:
            path = self.health.path or (health.path if health else "")
            health = policy.HealthCheck(path=path, interval_s=self.health.interval, timeout_s=self.health.timeout)
        return policy.Variant(
            name=name,
            version=self.version,
            endpoints=self.endpoints.value(),
            runtime=self.runtime,
            health=health,
            max_concurrency=self.pods.max_concurrency,
            config=self.config.value() if self.config else policy.Config(),
            slow_start_s=self.pods.slow_start,
            http2=self.pods.protocol == "http2",
        )


class Variants(Part):
    """The versions: stable serves when in doubt, every other name is an arm; without one there is nothing to roll out."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"propertyNames": {"pattern": NAME}, "maxProperties": ARMS_MAX + 1})
    __pydantic_extra__: dict[Name, Variant]
    OTHERS = Variant

    stable: Variant = Field(description="serves when in doubt")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, dict) and policy.STABLE not in value:
            near = nearest(policy.STABLE, [str(name) for name in value])
            if near:
                raise wrong(f"stable is missing, and there is {shown(near)}", expected="stable", hint="call it stable", at=(near,))
        return value

    @model_validator(mode="after")
    def _few(self) -> Self:
        if len(self.arms) > ARMS_MAX:
            raise wrong(f"there are {len(self.arms)} arms", expected=f"at most {ARMS_MAX} variants beside stable")
        return self

    @property
    def arms(self) -> dict[str, Variant]:
        """The variants beside stable, in the document's order."""
        return self.__pydantic_extra__ or {}
