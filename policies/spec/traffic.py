"""Models of which requests a rollout owns and of who among them gets which variant: `traffic` and `assignment` of a Rollout.

Neighbours: `documents` puts them together, `units` has the words, `regex` what the proxies can match.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from policies.spec import policy
from policies.spec.parts import Part
from policies.spec.regex import matchable
from policies.spec.units import (
    COOKIE,
    Chosen,
    CookieName,
    DurationS,
    GrpcService,
    Header,
    HeaderText,
    Host,
    Name,
    OrText,
    Prefix,
    Salt,
    shown,
    wrong,
)

SEGMENTS_MAX = 32

_COMPARISONS = tuple(compare.value for compare in policy.Compare)


class HeaderMatch(Part):
    """A condition on one request header: exactly one comparison."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in _COMPARISONS]})

    header: Header = Field(description="its name, in whatever case", examples=["x-tenant"])
    exact: HeaderText | None = Field(default=None, description="the whole value")
    prefix: HeaderText | None = Field(default=None, description="how the value begins")
    suffix: HeaderText | None = Field(default=None, description="how the value ends")
    contains: HeaderText | None = Field(default=None, description="what stands somewhere in the value")
    regex: Annotated[HeaderText, AfterValidator(matchable)] | None = Field(default=None, description="RE2, of the whole value")
    present: Literal[True] | None = Field(default=None, description="true: the header is there, whatever it says")

    @field_validator("present", mode="before")
    @classmethod
    def _there(cls, value: Any) -> Any:
        if value is not True:
            raise wrong(f"{shown(value)} is no condition", expected="true", hint="a header that must not be there cannot be asked for")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.header.lower() == "host":
            raise wrong("the host is no header here", expected="another header", hint="match by host: chat.example.com", at=("header",))
        said = [name for name in _COMPARISONS if getattr(self, name) is not None]
        if len(said) != 1:
            what = f"{self.header} is compared with nothing" if not said else f"{self.header} has {' and '.join(said)}"
            raise wrong(what, expected=f"exactly one of {', '.join(_COMPARISONS)}", hint="one condition each; several must all fit")
        return self

    def value(self) -> policy.HeaderMatch:
        compare = next(compare for compare in policy.Compare if getattr(self, compare.value) is not None)
        text = "" if compare is policy.Compare.PRESENT else getattr(self, compare.value)
        return policy.HeaderMatch(name=self.header.lower(), compare=compare, value=text)


class Match(Part):
    """Requests by host, start of the path and headers; the most particular match wins."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["path_prefix", "grpc"]}})

    host: Host = Field(
        default="*", description="without port; *.example.com for every host under it; default *", examples=["chat.example.com"]
    )
    path_prefix: Prefix | None = Field(default=None, description="default /", examples=["/v1/"])
    grpc: GrpcService | None = Field(
        default=None, description="a gRPC service, in place of path_prefix", examples=["inference.GRPCInferenceService"]
    )
    headers: list[HeaderMatch] = Field(default=[], max_length=16, description="conditions that must all fit")

    @model_validator(mode="after")
    def _one_path(self) -> Self:
        if self.grpc is not None and self.path_prefix is not None:
            raise wrong("the path is said twice", expected="either grpc or path_prefix", hint="remove path_prefix", at=("path_prefix",))
        return self

    def value(self) -> policy.Match:
        path = f"/{self.grpc}/" if self.grpc else self.path_prefix or "/"
        return policy.Match(host=self.host.lower(), path_prefix=path, headers=tuple(each.value() for each in self.headers))


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

    def value(self) -> policy.TrafficSpec:
        return policy.TrafficSpec(
            proxies=self.proxies,
            listener=self.listener,
            match=tuple(each.value() for each in self.match),
            timeout_s=self.timeout,
            fallback=policy.Fallback(self.fallback),
        )


class Cookie(Part):
    """A cookie that names the user; the proxy sets it with the first answer."""

    name: CookieName | None = Field(default=None, description="default: crossfade- and the salt", examples=["crossfade-chat"])
    ttl: DurationS = Field(default=30 * 86400.0, description="how long a browser keeps it, from 1m; default 30d")

    @field_validator("ttl")
    @classmethod
    def _lasting(cls, value: float) -> float:
        if value < 60:
            raise wrong("the users would change versions all the time", expected="1m or more", hint="ttl: 30d")
        return value


class Sticky(Part):
    """What names the user: exactly one of them."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    header: Header | None = Field(default=None, description="whose value names the user", examples=["x-user-id"])
    cookie: Annotated[Cookie | None, OrText(COOKIE)] = Field(default=None, description="set by the proxy with the first answer")

    @field_validator("cookie", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.cookie is None):
            what = "the user is named twice" if self.header is not None else "nothing names the user"
            raise wrong(what, expected="either header or cookie", hint="sticky: {header: x-user-id}")
        return self


_Conditions = Annotated[list[HeaderMatch], Field(min_length=1, max_length=16)]


def _conditions(value: Any) -> Any:
    return _Conditions if isinstance(value, list) else HeaderMatch


class Segment(Part):
    """Requests that get one variant whatever the shares are, from the first step that gives users an arm."""

    name: Name = Field(examples=["staff"])
    when: Annotated[HeaderMatch | _Conditions, Chosen(_conditions)] = Field(
        description="one condition, or a list that must all fit", examples=['{header: x-staff, exact: "1"}']
    )
    variant: Name = Field(description="stable or an arm", examples=["candidate"])

    def value(self) -> policy.Segment:
        when = self.when if isinstance(self.when, list) else [self.when]
        return policy.Segment(name=self.name, when=tuple(each.value() for each in when), variant=self.variant)


class Assignment(Part):
    """Who gets which variant."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["salt", "layer"]}})

    sticky: Annotated[Sticky | None, OrText("^none$")] = Field(
        default=None, description="a user keeps the version; none (default): every request is drawn anew"
    )
    salt: Salt | None = Field(default=None, description="decorrelates rollouts that see the same users; default: the rollout's name")
    layer: Name | None = Field(default=None, description="rollouts of one layer never get the same user", examples=["chat"])
    segments: list[Segment] = Field(
        default=[], max_length=SEGMENTS_MAX, description="pinned before any share is drawn, the first that fits"
    )

    @field_validator("sticky", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "none":
            hint = f"sticky: {{header: {value[:60]}}}"
            raise wrong(f"{shown(value)} is not a way to be sticky", expected="{header: NAME}, {cookie: NAME}, or none", hint=hint)
        return None if value == "none" else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.layer is not None and self.salt is not None:
            raise wrong("a layer has its own salt", expected="either layer or salt", hint="remove salt", at=("salt",))
        if self.layer is not None and self.sticky is None:
            message = "a layer needs to know who is the same user"
            raise wrong(message, expected="sticky with a header or a cookie", hint="sticky: {header: x-user-id}", at=("layer",))
        names = [segment.name for segment in self.segments]
        for index, name in enumerate(names):
            if name in names[:index]:
                at = ("segments", index, "name")
                raise wrong(f"two segments are called {name!r}", expected="each name once", hint="rename one", at=at)
        return self

    def value(self, rollout: str) -> policy.Assignment:
        """`rollout`: its name, which is the salt if no other is said."""
        cookie = None
        if self.sticky is not None and self.sticky.cookie is not None:
            name = self.sticky.cookie.name or f"crossfade-{self.layer or self.salt or rollout}"
            cookie = policy.Cookie(name=name, ttl_s=self.sticky.cookie.ttl)
        return policy.Assignment(
            sticky_header=self.sticky.header.lower() if self.sticky is not None and self.sticky.header is not None else None,
            cookie=cookie,
            salt=self.salt or "",
            layer=self.layer or "",
            segments=tuple(segment.value() for segment in self.segments),
        )
