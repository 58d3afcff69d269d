"""Models of the steps of a Rollout: what a person writes of how traffic moves.

Shares are of one arm where the policy has one, else by the arms' names; which arms there are is only known to the whole document, so `value` gets
them. Neighbours: `documents` puts the steps together, `checks` sees whether they lead forward, `policies.steps` makes stages of the values.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from policies.spec import policy
from policies.spec.parts import Part
from policies.spec.units import (
    Chosen,
    Count,
    DurationS,
    FileName,
    LabelText,
    Name,
    RatePerS,
    ShareBp,
    ShareOrNothingBp,
    shown,
    wrong,
)

STAGES_MAX = 100

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """What a Rollout names and another document or file holds, by the name it is called by; `loader` finds it.

    Attributes:
        requests: Of probes: file -> its requests.
        schemas: Of probes: file -> its JSON Schema, as text.
        bundles: GateBundle -> its gates.
    """

    requests: Mapping[str, tuple[policy.ProbeRequest, ...]] = field(default_factory=dict)
    schemas: Mapping[str, str] = field(default_factory=dict)
    bundles: Mapping[str, tuple[policy.Gate, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A name that must be found in `Companions`, and where it stands."""

    kind: Literal["requests", "schemas", "bundles"]
    name: str
    path: Path


class Hold(Part):
    """What a step waits for: both."""

    for_: DurationS = Field(default=0.0, alias="for", description="time in which the share is served", examples=["5m"])
    samples: Count = Field(default=0, description="requests per variant", examples=[500])

    def value(self) -> policy.Hold:
        return policy.Hold(for_s=self.for_, samples=self.samples)


_Status = Annotated[int, Field(ge=100, le=599, strict=True)]
_Statuses = Annotated[list[_Status], Field(min_length=1, max_length=20)]
_Schema = Annotated[FileName | dict[str, Any], Chosen(lambda value: dict[str, Any] if isinstance(value, dict) else FileName)]


class Expect(Part):
    """What a good answer to a probe is."""

    status: Annotated[_Status | _Statuses, Chosen(lambda value: _Statuses if isinstance(value, list) else _Status)] = Field(
        default=200, description="an HTTP status or several; default 200"
    )
    within: DurationS = Field(default=30.0, description="to the last byte; default 30s, from 1ms to 10m")
    schema_: _Schema | None = Field(
        default=None, alias="schema", description="JSON Schema of the answer's body: a file of it, or the schema itself"
    )

    @field_validator("within")
    @classmethod
    def _bounded(cls, value: float) -> float:
        if not 0.001 <= value <= 600:
            raise wrong("this time is out of range", expected="from 1ms to 10m", hint="within: 30s")
        return value

    def value(self, companions: Companions) -> policy.Expect:
        schema = self.schema_
        text = "" if schema is None else json.dumps(schema) if isinstance(schema, dict) else companions.schemas[schema]
        statuses = self.status if isinstance(self.status, list) else [self.status]
        return policy.Expect(statuses=tuple(statuses), within_s=self.within, json_schema=text)


class Probe(Part):
    """Requests of our own to the pods of each arm, before any user's: they warm up, and every answer must be good."""

    requests: FileName = Field(description="JSON lines of method, path, headers, body", examples=["samples/chat.jsonl"])
    rate: RatePerS = Field(default=1.0, description="default 1/s")
    for_: DurationS = Field(default=60.0, alias="for", description="the requests are repeated in their order; default 1m, from 1s to 1h")
    expect: Expect = Expect()

    @field_validator("for_")
    @classmethod
    def _bounded(cls, value: float) -> float:
        if not 1 <= value <= 3600:
            raise wrong("this time is out of range", expected="from 1s to 1h", hint="for: 1m")
        return value

    def value(self, companions: Companions) -> policy.ProbeStep:
        return policy.ProbeStep(
            requests=companions.requests[self.requests],
            file=self.requests,
            rate_per_s=self.rate,
            for_s=self.for_,
            expect=self.expect.value(companions),
        )


def _in_order(shares: Mapping[str, int], arms: Sequence[str]) -> policy.Shares:
    return tuple((arm, shares[arm]) for arm in arms if arm in shares)


class Shadow(Part):
    """Arms get copies of requests; their answers are thrown away."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["share"]}, {"required": ["shares"]}]})

    share: ShareBp | None = Field(default=None, description="of the requests that are copied, for every arm", examples=["10%"])
    shares: dict[str, ShareBp] | None = Field(default=None, min_length=1, description="the same by arm", examples=["{candidate: 10%}"])
    hold: Hold = Hold()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.share is None) == (self.shares is None):
            what = "a shadow has no share" if self.share is None else "the shares are said twice"
            raise wrong(what, expected="either share (of every arm), or shares by arm", hint="shadow: {share: 10%}")
        return self

    def value(self, arms: Sequence[str]) -> policy.ShadowStep:
        shares = dict.fromkeys(arms, self.share) if self.share is not None else self.shares or {}
        return policy.ShadowStep(shares=_in_order(shares, arms), hold=self.hold.value())


_ByArm = Annotated[dict[str, ShareOrNothingBp], Field(min_length=1)]


def _stage_shares(value: Any) -> Any:
    return _ByArm if isinstance(value, dict) else ShareOrNothingBp


_StageShares = Annotated[ShareOrNothingBp | _ByArm, Chosen(_stage_shares)]
_Stages = Annotated[list[_StageShares], Field(min_length=1, max_length=STAGES_MAX)]


def _canary_shares(value: Any) -> Any:
    if isinstance(value, list):
        return _Stages
    if isinstance(value, dict):
        return _ByArm
    raise wrong(f"{shown(value)} is no list", expected="a list of shares", hint=f"shares: [{shown(value)[:20]}]".replace("'", ""))


_Holds = Annotated[list[Hold], Field(min_length=1, max_length=STAGES_MAX)]


class Canary(Part):
    """Arms answer a growing share of users' requests: one stage for each entry of `shares`."""

    shares: Annotated[_Stages | _ByArm, Chosen(_canary_shares)] = Field(
        description="of the only arm, or by arm, one stage each; 0% = the users of segments only", examples=[["1%", "5%", "25%"]]
    )
    hold: Annotated[Hold | _Holds, Chosen(lambda value: _Holds if isinstance(value, list) else Hold)] = Field(
        default=Hold(), description="of every stage, or a list with one for each"
    )

    @model_validator(mode="after")
    def _parallel(self) -> Self:
        count = len(self.shares) if isinstance(self.shares, list) else 1
        if isinstance(self.hold, list) and len(self.hold) != count:
            message = f"there are {len(self.hold)} holds for {count} stages"
            raise wrong(message, expected="one hold for all, or one for each stage", at=("hold",))
        return self

    def stages(self) -> Iterator[tuple[Path, int | dict[str, int], Hold]]:
        """Where each stage's shares stand below the canary, what they are (a number = of the only arm), and its hold."""
        listed = self.shares if isinstance(self.shares, list) else [self.shares]
        for index, shares in enumerate(listed):
            path: Path = ("shares", index) if isinstance(self.shares, list) else ("shares",)
            yield path, shares, self.hold[index] if isinstance(self.hold, list) else self.hold

    def value(self, arms: Sequence[str]) -> policy.CanaryStep:
        return policy.CanaryStep(
            stages=tuple(
                (_in_order(shares if isinstance(shares, dict) else dict.fromkeys(arms, shares), arms), hold.value())
                for _, shares, hold in self.stages()
            )
        )


class Switch(Part):
    """Blue-green: everything to one arm by one change; stable stays warm."""

    to: Name | None = Field(default=None, description="the arm; default: the only one", examples=["candidate"])
    hold: Hold = Hold()

    def value(self, arms: Sequence[str]) -> policy.SwitchStep:
        return policy.SwitchStep(arm=self.to or arms[0], hold=self.hold.value())


class Ab(Part):
    """Arms side by side until one has won by the goal; after `at_most` without a winner stable has."""

    shares: dict[str, ShareBp] = Field(min_length=1, description="of users' requests, by arm", examples=["{candidate: 50%}"])
    goal: Name = Field(description="name of a gate with role goal", examples=["faster"])
    at_most: DurationS = Field(description="without a winner the rollout is reverted then; from 1m", examples=["7d"])
    hold: Hold = Hold()

    @field_validator("at_most")
    @classmethod
    def _some_time(cls, value: float) -> float:
        if value < 60:
            raise wrong("nobody wins that fast", expected="1m or more", hint="at_most: 7d")
        return value

    def value(self, arms: Sequence[str]) -> policy.AbStep:
        return policy.AbStep(shares=_in_order(self.shares, arms), goal=self.goal, at_most_s=self.at_most, hold=self.hold.value())


class Approve(Part):
    """A person says go: `crossfade approve ROLLOUT`."""

    who: LabelText = Field(default="", description="who is asked, for people", examples=["operator"])
    within: DurationS = Field(default=86400.0, description="the time to answer; default 24h, from 1s")
    then: Literal["revert", "hold", "freeze"] = Field(default="revert", description="what silence means; default revert")

    @field_validator("within")
    @classmethod
    def _some_time(cls, value: float) -> float:
        if value < 1:
            raise wrong("nobody answers that fast", expected="1s or more", hint="within: 24h")
        return value

    def value(self) -> policy.ApproveStep:
        return policy.ApproveStep(who=self.who, within_s=self.within, then=policy.Then(self.then))


class Promote(Part):
    """An arm becomes stable."""

    keep_stable_for: DurationS = Field(default=0.0, description="the old version stays warm this long; gates stay on", examples=["1h"])
    variant: Name | None = Field(default=None, description="the arm; default: the one that won its ab, or the only one")

    def value(self) -> policy.PromoteStep:
        return policy.PromoteStep(keep_stable_for_s=self.keep_stable_for, arm=self.variant or "")


class Step(Part):
    """Exactly one of them."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    probe: Probe | None = None
    shadow: Shadow | None = None
    canary: Canary | None = None
    switch: Switch | None = None
    ab: Ab | None = None
    approve: Approve | None = None
    promote: Promote | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            what = "a step is empty" if not self.model_fields_set else f"one step has {' and '.join(sorted(self.model_fields_set))}"
            expected = f"exactly one of {', '.join(type(self).model_fields)} in a step"
            raise wrong(what, expected=expected, hint="start each step with its own dash")
        return self

    def mentions(self) -> Iterator[Mention]:
        """What it names that another file holds; paths below the step."""
        if self.probe is not None:
            yield Mention(kind="requests", name=self.probe.requests, path=("probe", "requests"))
            if isinstance(self.probe.expect.schema_, str):
                yield Mention(kind="schemas", name=self.probe.expect.schema_, path=("probe", "expect", "schema"))

    def value(self, arms: Sequence[str], companions: Companions) -> policy.Step:
        """`arms`: names of the variants beside stable, in their order; every name the step uses is one of them."""
        if self.probe is not None:
            return self.probe.value(companions)
        if self.approve is not None:
            return self.approve.value()
        if self.promote is not None:
            return self.promote.value()
        by_arm = self.shadow or self.canary or self.switch or self.ab
        assert by_arm is not None
        return by_arm.value(arms)
