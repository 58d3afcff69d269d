"""A made-up world for a policy: how much traffic comes, how often and how slowly each variant answers, and what goes wrong when.

All of it is plain values; what they say of many runs at once, each at its own time, is in `policies.replay.truth`. `policies.replay.reader`
makes them of YAML.
"""

from dataclasses import dataclass, replace
from math import ceil, inf, isinf, log
from typing import Literal

from policies.replay.expectations import Expectation
from policies.spec.policy import STABLE, RolloutPolicy
from policies.steps import stages

P99 = 2.3263478740408408
"""Normal score of 99 %."""

INSTANT = 1 / 1024
"""All times of a replay are multiples of this [s]: sums of them are exact, so that a hold ends when it ends."""

Kind = Literal["errors", "latency", "silence", "pods"]
Right = Literal["promote", "revert"]

CANDIDATE = "candidate"
"""What a scenario calls the first arm of a policy, whatever its name."""

ALL = "all"
"""Every variant, stable too: nobody's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests per second over time: straight lines between points, with a daily swing on top.

    Attributes:
        points: (time [s since the start], rate [requests/s]), ascending; before the first and behind the last the rate stays.
        swing: Part of the rate by which it rises and falls in a period, 0 <= swing <= 1.
        peak_at_s: When the swing is highest [s since the start].
    """

    points: tuple[tuple[float, float], ...] = ((0.0, 50.0),)
    swing: float = 0.0
    period_s: float = 86_400.0
    peak_at_s: float = 0.0

    def scaled(self, rps: float) -> "Load":
        """The same curve with its highest point at `rps`; the swing comes on top of it."""
        top = max(rate for _, rate in self.points)
        return replace(self, points=tuple((at, rate / top * rps if top else rps) for at, rate in self.points))


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Error rates that wander: factors of mean 1 from a gamma distribution, drawn anew each `every_s` [s].

    Attributes:
        shared, arms: Standard deviation of the factor that all variants share, and of each variant's own.
    """

    shared: float = 0.0
    arms: float = 0.0
    every_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Log-normal time to the last byte. `p50_ms`, `p99_ms`: its quantiles."""

    p50_ms: float = 120.0
    p99_ms: float = 400.0

    @property
    def sigma(self) -> float:
        return log(self.p99_ms / self.p50_ms) / P99


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A time of a scenario: seconds since the start, or (`part`) a fraction of the least time the policy takes."""

    s: float = 0.0
    part: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that goes wrong.

    Attributes:
        kind: More errors, slower answers, no evidence at all, or pods that are lost.
        arm: `candidate` (the first arm), `stable`, `all`, or the name of an arm.
        at: When it begins.
        for_s: How long it lasts [s].
        ramp_s: How long it takes to come to its full strength [s].
        from_bp: Share of the arm below which nothing happens [hundredths of a per cent].
        rate: Of errors: the error rate then; None = `times` what it is.
        times: Of errors: factor on the rate; of latency: on every answer's time.
        tail_share, tail_times: Of latency: this part of the answers takes so many times as long.
        ready, total: Of pods: how many there are.
    """

    kind: Kind
    arm: str = CANDIDATE
    at: Moment = Moment()
    for_s: float = inf
    ramp_s: float = 0.0
    from_bp: int = 0
    rate: float | None = None
    times: float = 1.0
    tail_share: float = 0.0
    tail_times: float = 1.0
    ready: int = 0
    total: int = 2

    def hits(self, name: str, *, first: bool) -> bool:
        """Whether it is about a variant. `first`: it is the first arm."""
        return self.arm in {ALL, name} or (first and self.arm == CANDIDATE)

    @property
    def harmful(self) -> bool:
        """Whether it makes an arm worse than stable."""
        worse = self.kind in {"silence", "pods"} or self.rate is not None or self.times > 1 or self.tail_share * (self.tail_times - 1) > 0
        return worse and self.arm not in {ALL, STABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One world.

    Attributes:
        errors: (variant, error rate); `candidate` is the first arm; an arm that is not named is as stable is.
        approve_after_s: When a person says go [s after being asked]; None = never.
        ack_s: How long proxies take to act on what they are sent [s].
        horizon_s: When a run is given up as held [s since the start]; None = when every deadline of the policy has passed.
        right: What a good policy does; None = revert if an arm is worse than stable, else promote.
    """

    name: str
    about: str = ""
    load: Load = Load()
    errors: tuple[tuple[str, float], ...] = ((STABLE, 0.01),)
    noise: Noise = Noise()
    latency: Latency = Latency()
    incidents: tuple[Incident, ...] = ()
    approve_after_s: float | None = 0.0
    ack_s: float = 0.0
    horizon_s: float | None = None
    right: Right | None = None
    expect: tuple[Expectation, ...] = ()

    @property
    def meant(self) -> Right:
        """What a good policy does here."""
        if self.right is not None:
            return self.right
        rates = dict(self.errors)
        worse = any(rate > rates.get(STABLE, 0.0) for rate in rates.values())
        return "revert" if worse or any(each.harmful for each in self.incidents) else "promote"

    def error_rate(self, name: str, *, first: bool) -> float:
        """Of a variant, before anything goes wrong."""
        rates = dict(self.errors)
        fallback = rates.get(CANDIDATE, rates.get(STABLE, 0.0)) if first else rates.get(STABLE, 0.0)
        return rates.get(name, fallback)


def at_s(moment: Moment, policy: RolloutPolicy) -> float:
    """When a moment of a scenario is under a policy [s since the start]."""
    return whole(moment.s if moment.part is None else moment.part * least_s(policy))


def whole(seconds: float) -> float:
    """Up to the next `INSTANT`."""
    return seconds if isinf(seconds) else ceil(seconds / INSTANT - 1e-6) * INSTANT


def least_s(policy: RolloutPolicy) -> float:
    """The time a policy takes if nothing is ever waited for but its holds, its probes and its bake [s]."""
    return sum(stage.hold.for_s + (stage.probe.for_s if stage.probe else 0.0) + stage.keep_stable_for_s for stage in stages(policy))


def most_s(policy: RolloutPolicy) -> float:
    """When every deadline of a policy has passed [s]: in each stage the one of the stage, an hour more than all of them together."""
    stuck = policy.when.stuck_after_s
    return sum(max(stage.hold.for_s, stuck) + stage.within_s + stage.keep_stable_for_s for stage in stages(policy)) + stuck + 3600.0
