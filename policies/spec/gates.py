"""Models of gates: the questions a rollout asks of its evidence, its own and those it takes from a GateBundle.

Neighbours: `documents` puts them into Rollout and GateBundle; `policies.gates` answers them.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from policies.spec import policy
from policies.spec.parts import Part
from policies.spec.units import Chosen, Fraction, MarginValue, Name, shown, wrong


class Margin(Part):
    """How far from stable still counts as the same; with both, both must be exceeded."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})
    LATER = frozenset({"at_least"})
    NAMED: ClassVar[str] = "margin"

    absolute: MarginValue | None = Field(default=None, description="percentage points for an error rate, a duration for latency")
    relative: Fraction | None = Field(default=None, description="on top of stable's value")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.absolute is None and self.relative is None:
            raise wrong(f"the {self.NAMED} is empty", expected="absolute, relative or both", hint=f"{self.NAMED}: {{relative: 25%}}")
        return self

    def value(self) -> policy.Margin:
        return policy.Margin(absolute=self.absolute[1] if self.absolute else None, relative=self.relative)


class BetterBy(Margin):
    """How much better than stable an arm must be; 0 = better at all."""

    NAMED = "better_by"


class Limit(Part):
    """What an arm must stay below whatever stable does: a promise to users."""

    LATER = frozenset({"above"})

    below: MarginValue = Field(description="an error rate, or a duration that the quantile of latency stays below", examples=["1%"])


_STATISTIC = r"^(mean|distribution|p[1-9](\.[0-9]{1,2})?|p[1-9][0-9](\.[0-9]{1,2})?)$"

_LATER_METRIC = re.compile(r"^(envoy/(ttft|throughput|.*_p\d+)|cost/|shadow/|gpu/|event/)")

_EQUAL = {"envoy/error_rate": policy.Margin(absolute=0.005), "envoy/latency": policy.Margin(relative=0.05)}
"""How far two arms may be apart and count as equal, where a goal does not say it."""


class Gate(Part):
    """One question asked of the evidence: whether an arm is worse than stable (guardrail, signal), or better (goal)."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"role": {"const": "goal"}}, "required": ["role"]},
            "then": {"required": ["better_by"], "properties": {"limit": False}},
            "else": {"oneOf": [{"required": ["margin"]}, {"required": ["limit"]}], "properties": {"better_by": False}},
        }
    )

    name: Name = Field(examples=["errors"])
    metric: Literal["envoy/error_rate", "envoy/latency"] = Field(examples=["envoy/error_rate"])
    role: Literal["guardrail", "signal", "goal"] = Field(
        default="guardrail",
        description="guardrail (default): a FAIL reverts; signal: a FAIL holds; goal: must PASS to promote, and decides an ab",
    )
    statistic: Annotated[str, WithJsonSchema({"type": "string", "pattern": _STATISTIC})] | None = Field(
        default=None, description="of latency: distribution (default) or a quantile such as p95; of an error rate: mean"
    )
    margin: Margin | None = Field(
        default=None, description="how much worse is as good; of a goal: how far apart arms are equal", examples=["{relative: 25%}"]
    )
    limit: Limit | None = Field(
        default=None,
        description="in place of margin: what an arm must stay below whatever stable does",
        examples=["{below: 1%}"],
    )
    better_by: BetterBy | None = Field(
        default=None, description="of a goal: how much better than stable; 0 = at all", examples=["{relative: 0%}"]
    )

    @field_validator("metric", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        if isinstance(value, dict) or (isinstance(value, str) and _LATER_METRIC.match(value)):
            what = value if isinstance(value, str) else f"a metric from {next(iter(value), 'elsewhere')}"
            raise wrong(f"{what[:60]} is not supported yet", expected="envoy/error_rate or envoy/latency")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        rate = self.metric == "envoy/error_rate"
        if self.role == "goal" and self.better_by is None:
            hint = "add better_by: {relative: 0%}"
            raise wrong("better_by is missing", expected="how much better than stable", hint=hint, at=("better_by",))
        if self.role != "goal" and self.better_by is not None:
            message = f"a {self.role} does not ask for something better"
            raise wrong(message, expected="role: goal", hint="make it a goal, or remove better_by", at=("better_by",))
        if self.limit is not None:
            self._limited(self.limit)
        elif self.role != "goal" and self.margin is None:
            hint = "add margin: {relative: 25%}, or limit: {below: 1%}"
            raise wrong("margin is missing", expected="margin with absolute, relative; or limit", hint=hint, at=("margin",))
        for margin in (self.margin, self.better_by):
            self._measured(margin)
        if rate and self.statistic not in {None, "mean"}:
            raise wrong("an error rate has one statistic only", expected="mean, or none", hint="remove statistic", at=("statistic",))
        if not rate and self.statistic is not None and (self.statistic == "mean" or not re.fullmatch(_STATISTIC, self.statistic)):
            expected = "distribution, or a quantile such as p95 or p99.9"
            raise wrong(f"unknown statistic {shown(self.statistic)}", expected=expected, at=("statistic",))
        return self

    def _limited(self, limit: Limit) -> None:
        """A limit stands alone, has the unit of the metric, and is one that something can stay below."""
        rate = self.metric == "envoy/error_rate"
        unit, number = limit.below
        at = ("limit", "below")
        if self.role == "goal":
            hint = "make it a guardrail or a signal, or remove limit"
            raise wrong("a goal compares an arm with stable: it has no limit", expected="better_by alone", hint=hint, at=("limit",))
        if self.margin is not None:
            hint = "remove one of the two; both questions are two gates"
            raise wrong("a gate has a margin or a limit, not both", expected="margin or limit", hint=hint, at=("limit",))
        if unit == ("ms" if rate else "fraction"):
            expected = "a percentage such as 1%" if rate else "a duration such as 800ms"
            raise wrong(f"the limit of {self.metric} has the wrong unit", expected=expected, at=at)
        if not 0 < number < (1 if rate else float("inf")):
            raise wrong("nothing stays below this", expected="more than 0% and less than 100%" if rate else "more than 0ms", at=at)
        if not rate and self.statistic in {None, "distribution"}:
            hint = f"add statistic: p95, so that 5% of the requests may be slower than {number:g}ms"
            raise wrong("a limit of latency is one of a quantile", expected="statistic: a quantile", hint=hint, at=("statistic",))

    def _measured(self, margin: Margin | None) -> None:
        """A margin has the unit of the metric."""
        if margin is None:
            return
        rate = self.metric == "envoy/error_rate"
        unit, number = margin.absolute or ("", 0.0)
        at = (margin.NAMED, "absolute")
        if unit == ("ms" if rate else "fraction"):
            expected = "a percentage such as 0.5%" if rate else "a duration such as 50ms"
            raise wrong(f"the absolute {margin.NAMED} of {self.metric} has the wrong unit", expected=expected, at=at)
        if rate and number >= 1:
            raise wrong("no error rate is more than 100%", expected="less than 100%", at=at)
        if isinstance(margin, BetterBy) and (margin.relative or 0) >= 1:
            raise wrong(
                "nothing is better by 100%", expected="less than 100%", hint="better_by: {relative: 10%}", at=("better_by", "relative")
            )

    def value(self) -> policy.Gate:
        return policy.Gate(
            name=self.name,
            metric=policy.Metric(self.metric),
            role=policy.Role(self.role),
            statistic=self.statistic or ("mean" if self.metric == "envoy/error_rate" else "distribution"),
            margin=self.margin.value() if self.margin else _EQUAL[self.metric],
            better_by=self.better_by.value() if self.better_by else None,
            limit=self.limit.below[1] if self.limit else None,
        )


class UseBundle(Part):
    """All gates of a GateBundle, in this place."""

    use: Name = Field(description="metadata.name of a GateBundle document", examples=["web"])


def _gate_or_bundle(value: Any) -> Any:
    return UseBundle if isinstance(value, dict) and "use" in value else Gate


GateEntry = Annotated[Gate | UseBundle, Chosen(_gate_or_bundle)]
