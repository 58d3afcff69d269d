"""A scenario as a person writes it: pydantic models of the YAML, and its way into `policies.replay.scenario`. Unknown keys are errors.

The words and numbers are those of the policy file (`policies.spec.units`); faults are told in the same form, with file, line and hint.
"""

import re
from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from policies.errors import SpecError
from policies.replay import scenario
from policies.replay.expectations import AMOUNTS, RATES, TIMES, Expectation, Sign
from policies.spec import wording
from policies.spec.faults import Fault
from policies.spec.parts import Part
from policies.spec.policy import STABLE
from policies.spec.reader import Document, Place, read
from policies.spec.units import NAME, Chosen, DurationS, Fraction, Name, OrText, ShareBp, duration_s, fraction, shown, wrong

_RATE = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)/(s|min)")
_EXPECTED = re.compile(r"(<=|>=|<|>)\s*(.+)")


def _load_rate(value: Any) -> float:
    """`50/s` or `30/min` -> requests per second."""
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        expected = "requests per s or min, such as 50/s"
        raise wrong(f"{shown(value)} is no load", expected=expected, hint=f"write {value}/s" if plain else "")
    return float(found[1]) / (60.0 if found[2] == "min" else 1.0)


def _moment(value: Any) -> scenario.Moment:
    """`10m`, or `50%` of the least time the policy takes."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return scenario.Moment(part=fraction(value))
    return scenario.Moment(s=duration_s(value))


def _times(value: Any) -> float:
    """A factor such as 1.25."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1000:
        raise wrong(f"{shown(value)} is no factor", expected="a number from 0 to 1000, such as 1.25")
    return float(value)


LoadRate = Annotated[float, BeforeValidator(_load_rate)]
Moment = Annotated[scenario.Moment, BeforeValidator(_moment)]
Times = Annotated[float, BeforeValidator(_times)]


class Diurnal(Part):
    mean: LoadRate = Field(examples=["50/s"])
    swing: Fraction = Field(default=0.5, description="how far it rises and falls, as a part of the mean")
    period: DurationS = 86_400.0
    peak_at: DurationS = 0.0


class Ramp(Part):
    start: LoadRate = Field(examples=["10/s"])
    end: LoadRate = Field(examples=["100/s"])
    over: DurationS = Field(examples=["1h"])


class Point(Part):
    at: DurationS = Field(examples=["10m"])
    rate: LoadRate = Field(examples=["50/s"])


class Load(Part):
    """Requests over time: one of these."""

    constant: LoadRate | None = None
    diurnal: Diurnal | None = None
    ramp: Ramp | None = None
    points: list[Point] | None = Field(default=None, min_length=1, max_length=10_000)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return data if isinstance(data, dict) else {"constant": data}

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.constant, self.diurnal, self.ramp, self.points)) != 1:
            raise wrong("the load is not one thing", expected="one of constant, diurnal, ramp, points", hint="load: 50/s")
        if self.points is not None and any(one.at >= other.at for one, other in zip(self.points, self.points[1:], strict=False)):
            raise wrong("the points are not in order of time", expected="each later than the one before", at=("points",))
        return self

    def value(self) -> scenario.Load:
        if self.diurnal is not None:
            curve = self.diurnal
            if curve.period <= 0:
                raise wrong("a period has to last", expected="a period such as 24h", at=("diurnal", "period"))
            return scenario.Load(points=((0.0, curve.mean),), swing=min(curve.swing, 1.0), period_s=curve.period, peak_at_s=curve.peak_at)
        if self.ramp is not None:
            return scenario.Load(points=((0.0, self.ramp.start), (max(self.ramp.over, 1.0), self.ramp.end)))
        if self.points is not None:
            return scenario.Load(points=tuple((point.at, point.rate) for point in self.points))
        assert self.constant is not None
        return scenario.Load(points=((0.0, self.constant),))


class Noise(Part):
    shared: Fraction = Field(default=0.0, description="standard deviation of the factor on all error rates at once")
    arms: Fraction = Field(default=0.0, description="the same of a factor of each variant alone")
    every: DurationS = Field(default=60.0, description="how long each draw holds; default 1m")

    @field_validator("every")
    @classmethod
    def _lasts(cls, value: float) -> float:
        if value < 1.0:
            raise wrong("noise changes too often", expected="1s or more", hint="every: 1m")
        return value


class Latency(Part):
    p50: DurationS = 0.12
    p99: DurationS = 0.4

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.p50 < self.p99:
            raise wrong("no latency is spread like this", expected="0 < p50 < p99", hint="latency: {p50: 120ms, p99: 400ms}")
        return self


class Tail(Part):
    share: Fraction = Field(examples=["2%"])
    times: Times = Field(examples=[10])


class Incident(Part):
    """Something that goes wrong with `arm`, which is the candidate unless it says otherwise."""

    kind: Literal["errors", "latency", "silence", "pods"] = Field(examples=["errors"])
    arm: Name = Field(default=scenario.CANDIDATE, description="candidate (the first arm), stable, all, or an arm's name")
    at: Moment = Field(default=scenario.Moment(), description="a time, or a part of the policy's least time such as 50%")
    lasts: DurationS | None = Field(default=None, description="default: for good")
    ramp: DurationS = 0.0
    from_share: ShareBp | None = Field(default=None, description="nothing happens below this share of the arm")
    rate: Fraction | None = Field(default=None, description="of errors: the error rate then")
    times: Times | None = Field(default=None, description="of errors or latency: a factor")
    tail: Tail | None = None
    ready: int | None = Field(default=None, ge=0, le=10_000, strict=True)
    total: int | None = Field(default=None, ge=1, le=10_000, strict=True)

    _USES: ClassVar[Mapping[str, frozenset[str]]] = {
        "errors": frozenset({"rate", "times"}),
        "latency": frozenset({"times", "tail"}),
        "silence": frozenset(),
        "pods": frozenset({"ready", "total"}),
    }

    @model_validator(mode="after")
    def _fits(self) -> Self:
        uses = self._USES[self.kind]
        given = {name for name in ("rate", "times", "tail", "ready", "total") if getattr(self, name) is not None}
        if stray := sorted(given - uses):
            raise wrong(
                f"{self.kind} has no {stray[0]}", expected=f"one of {', '.join(sorted(uses))}" if uses else "nothing more", at=(stray[0],)
            )
        if self.kind == "errors" and len(given) != 1:
            raise wrong("how many errors is not said", expected="rate or times", hint="rate: 5%")
        if self.kind == "latency" and not given:
            raise wrong("how slow is not said", expected="times, tail or both", hint="times: 1.25")
        if (self.rate or 0.0) > 1:
            raise wrong("no error rate is more than 100%", expected="at most 100%", at=("rate",))
        if (self.ready or 0) > (2 if self.total is None else self.total):
            raise wrong("more pods are ready than there are", expected="ready <= total", at=("ready",))
        return self

    def value(self) -> scenario.Incident:
        return scenario.Incident(
            kind=self.kind,
            arm=self.arm,
            at=self.at,
            for_s=inf if self.lasts is None else self.lasts,
            ramp_s=self.ramp,
            from_bp=self.from_share or 0,
            rate=self.rate,
            times=1.0 if self.times is None else self.times,
            tail_share=min(self.tail.share, 1.0) if self.tail else 0.0,
            tail_times=self.tail.times if self.tail else 1.0,
            ready=self.ready or 0,
            total=2 if self.total is None else self.total,
        )


class Approve(Part):
    after: DurationS = 0.0


def _approval(value: Any) -> Any:
    return Literal["never"] if isinstance(value, str) else Approve


class Scenario(Part):
    """One file: a world, and what is expected of a policy in it."""

    name: Name = Field(examples=["errors-1-to-5"])
    about: str = Field(default="", max_length=500)
    load: Annotated[Load, OrText(_RATE.pattern)] = Load(constant="50/s")
    errors: dict[str, Fraction] = Field(default={STABLE: 0.01}, max_length=16, description="variant -> error rate")
    noise: Noise = Noise()
    latency: Latency = Latency()
    incidents: list[Incident] = Field(default=[], max_length=100)
    approve: Annotated[Approve | Literal["never"], Chosen(_approval)] = Approve()
    ack: DurationS = Field(default=0.0, description="how long proxies take; default at once")
    horizon: DurationS | None = Field(default=None, description="when a run is given up; default: when every deadline has passed")
    right: Literal["promote", "revert"] | None = Field(default=None, description="what a good policy does; default: by the incidents")
    expect: dict[str, str | dict[str, str]] = Field(default={}, max_length=32)

    @field_validator("errors")
    @classmethod
    def _rates(cls, value: dict[str, float]) -> dict[str, float]:
        for name, rate in value.items():
            if not re.fullmatch(NAME, name):
                raise wrong(f"{shown(name)} is no variant", expected="stable, candidate or an arm's name", at=(name,))
            if rate > 1:
                raise wrong("no error rate is more than 100%", expected="at most 100%", at=(name,))
        return value

    @field_validator("expect")
    @classmethod
    def _understood(cls, value: dict[str, str | dict[str, str]]) -> dict[str, str | dict[str, str]]:
        expectations(value)
        return value

    def value(self) -> scenario.Scenario:
        return scenario.Scenario(
            name=self.name,
            about=self.about,
            load=self.load.value(),
            errors=tuple(self.errors.items()),
            noise=scenario.Noise(shared=self.noise.shared, arms=self.noise.arms, every_s=self.noise.every),
            latency=scenario.Latency(p50_ms=self.latency.p50 * 1000, p99_ms=self.latency.p99 * 1000),
            incidents=tuple(incident.value() for incident in self.incidents),
            approve_after_s=None if isinstance(self.approve, str) else self.approve.after,
            ack_s=self.ack,
            horizon_s=self.horizon,
            right=self.right,
            expect=expectations(self.expect),
        )


def expectations(written: Mapping[str, str | Mapping[str, str]]) -> tuple[Expectation, ...]:
    """`{promoted: ">= 95%", time_to_revert: {p50: "<= 30s"}}` as values. Raises: PydanticCustomError: If it says something else."""
    found: list[Expectation] = []
    for what, said in written.items():
        if what in RATES:
            if not isinstance(said, str):
                raise wrong(f"{what} is a part of all runs", expected='a bound such as ">= 95%"', at=(what,))
            found.append(_expectation(what, None, said))
        elif what in (*TIMES, *AMOUNTS):
            if isinstance(said, str):
                raise wrong(f"of {what} a quantile is meant", expected='such as {p50: "<= 30s"}', at=(what,))
            found += [_expectation(what, level, bound) for level, bound in said.items()]
        else:
            known = (*RATES, *TIMES, *AMOUNTS)
            raise wrong(f"unknown key {shown(what)}", expected=f"one of {', '.join(known)}", near=(what, known), at=(what,))
    return tuple(found)


def _expectation(what: str, level: str | None, text: str) -> Expectation:
    at = (what,) if level is None else (what, level)
    quantile = None if level is None else re.fullmatch(r"p([1-9][0-9]?(?:\.[0-9]{1,2})?)", level)
    if level is not None and quantile is None:
        raise wrong(f"{shown(level)} is no quantile", expected="such as p50 or p95", at=at)
    parts = _EXPECTED.fullmatch(text.strip())
    example = ">= 95%" if what in RATES else "<= 30s" if what in TIMES else "<= 50"
    if parts is None:
        raise wrong(f"{shown(text)} is no bound", expected=f'one of <= >= < > and a value, such as "{example}"', at=at)
    sign: Sign = parts[1]  # type: ignore[assignment]  # the pattern lets only signs through
    value = parts[2].strip()
    try:
        bound = fraction(value) if what in RATES else duration_s(value) if what in TIMES else float(value)
    except ValueError:
        raise wrong(f"{shown(value)} does not fit {what}", expected=f'such as "{example}"', at=at) from None
    return Expectation(what=what, sign=sign, bound=bound, level=float(quantile[1]) / 100 if quantile else None, text=f"{parts[1]} {value}")


# Files.


def load(file: str, text: bytes | str) -> tuple[tuple[scenario.Scenario, ...], tuple[SpecError, ...]]:
    """The scenarios of a file (one per YAML document) and all that is wrong with it."""
    documents, errors = read(file, text)
    found: list[scenario.Scenario] = []
    for document in documents:
        value, faults = _understood(document)
        errors += [_error(file, document.place(fault.path), fault) for fault in faults]
        errors += [_error(file, each.place, Fault(path=each.path, message=each.message, hint=each.hint)) for each in document.faults]
        if value is not None and not document.faults:
            found.append(value)
    if not documents and not errors:
        errors.append(SpecError(file=file, line=1, column=1, path="", message="there is no scenario in it", hint="name: good"))
    return tuple(found), tuple(sorted(errors, key=lambda error: (error.line, error.column)))


def _understood(document: Document) -> tuple[scenario.Scenario | None, list[Fault]]:
    if not isinstance(document.data, dict):
        return None, [Fault(path=(), message="this is no scenario", expected="a mapping of name, load, errors, incidents, expect")]
    lost = {each.path for each in document.faults if each.lost}
    faults = [wording.empty_fault(path) for path in document.empty[: wording.FAULTS_MAX] if path not in lost]
    try:
        model = Scenario.model_validate(document.data)
    except ValidationError as error:
        return None, [*faults, *wording.faults(document, Scenario, error, {*lost, *document.empty})]
    return (None, faults) if faults else (model.value(), [])


def _error(file: str, place: Place, fault: Fault) -> SpecError:
    return SpecError(
        file=file,
        line=place[0],
        column=place[1],
        path=wording.written(fault.path),
        message=fault.message,
        expected=fault.expected,
        hint=fault.hint,
    )


__all__ = ["Scenario", "expectations", "load"]
