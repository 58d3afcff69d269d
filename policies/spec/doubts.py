"""What a policy may say and probably does not mean: the warnings of `validate`. Pure.

Neighbours: `checks` and `step_checks` (what a policy may not say). What cannot be reached with the traffic there is, `plan` tells.
"""

from collections.abc import Iterator

from policies.spec.cron import longest_gap_s
from policies.spec.faults import Fault
from policies.spec.policy import (
    FULL_BP,
    AbStep,
    CanaryStep,
    Fallback,
    Hold,
    ProbeStep,
    PromoteStep,
    Role,
    RolloutPolicy,
    ShadowStep,
    StaticEndpoints,
    SwitchStep,
    Variant,
)
from policies.spec.reader import Path
from policies.steps import percent, stages

LEASE_LONG_S = 300.0

POOR_NAMES = {
    "referer": "names the page before",
    "origin": "names the page",
    "if-none-match": "names what the browser has cached",
    "range": "names a part of an answer",
    "cookie": "holds all cookies, which change",
    "content-type": "is the same for everybody",
    "accept": "is the same for everybody",
    "accept-encoding": "is the same for everybody",
    "accept-language": "is the same for whole countries",
    "user-agent": "is the same for everybody with one browser",
    "host": "is the same for everybody",
}
"""Headers that name no user."""


def doubts(value: RolloutPolicy) -> Iterator[Fault]:
    """In no order; none for a policy with nothing to roll out."""
    if not value.arms:
        return
    for arm in value.arms:
        yield from _of_arm(value, arm)
    yield from _course(value)
    yield from _protection(value)
    for index, step in enumerate(value.steps):
        path: Path = ("spec", "steps", index, step.kind)
        if isinstance(step, ShadowStep | SwitchStep):
            yield from _of_hold(step.hold, value, (*path, "hold"), path)
        elif isinstance(step, CanaryStep):
            holds = [hold for _, hold in step.stages]
            for place, hold in enumerate(holds if len(set(holds)) > 1 else holds[:1]):
                yield from _of_hold(hold, value, (*path, "hold", place) if len(set(holds)) > 1 else (*path, "hold"), path)
        elif isinstance(step, AbStep) and step.hold.for_s >= step.at_most_s:
            message = f"the hold of {_s(step.hold.for_s)} is not over when the ab ends, after {_s(step.at_most_s)}"
            yield Fault(path=(*path, "hold"), message=message, hint="raise at_most")
        elif isinstance(step, ProbeStep) and step.for_s >= value.when.stuck_after_s:
            message = f"the probe of {_s(step.for_s)} is not over when it counts as stuck, after {_s(value.when.stuck_after_s)}"
            yield Fault(path=(*path, "for"), message=message, hint="raise when.stuck.after")


def _of_arm(value: RolloutPolicy, arm: Variant) -> Iterator[Fault]:
    path: Path = ("spec", "variants", arm.name)
    if arm.version == value.stable.version and arm.identity == value.stable.identity:
        message = f"{arm.name} is the same as stable: there is nothing to roll out"
        yield Fault(path=path, message=message, hint="give it a version, endpoints or config of its own")
    elif arm.endpoints == value.stable.endpoints and arm.config == value.stable.config:
        message = f"stable and {arm.name} have the same endpoints: whatever differs between them is not seen here"
        yield Fault(path=(*path, "endpoints"), message=message, hint="give each version pods of its own")
    most = max((dict(stage.shares).get(arm.name, 0) for stage in stages(value)), default=0)
    pinned = any(segment.variant == arm.name for segment in value.assignment.segments)
    if value.steps and not most and not pinned and len(value.arms) > 1:
        yield Fault(path=path, message=f"no step gives {arm.name} a user", hint=f"give {arm.name} a share, or remove it")
    mine, stables = _capacity(arm), _capacity(value.stable)
    if mine is not None and stables is not None and most * stables > FULL_BP * mine:
        able = percent(FULL_BP * mine // stables)
        message = f"{arm.name} gets {percent(most)}, and its pods can hold {mine} requests to stable's {stables}: {able}"
        yield Fault(path=(*path, "pods"), message=message, hint="add pods, or keep the shares lower")


def _capacity(variant: Variant) -> int | None:
    """Requests that all its pods can hold at once; None: they are not counted, or nobody said it."""
    if not isinstance(variant.endpoints, StaticEndpoints) or variant.max_concurrency == _UNSAID:
        return None
    return len(variant.endpoints.addresses) * variant.max_concurrency


_UNSAID = 1024
"""`max_concurrency` of a policy that does not say it."""


def _course(value: RolloutPolicy) -> Iterator[Fault]:
    """Steps that try nothing before everybody has it, or lead nowhere."""
    tried = False
    for index, step in enumerate(value.steps):
        if isinstance(step, PromoteStep) and not tried:
            message = "promote is the first that users see of it: everybody gets it at once"
            yield Fault(path=("spec", "steps", index), message=message, hint="add a canary before it")
        tried = tried or isinstance(step, ProbeStep | ShadowStep)
        if isinstance(step, CanaryStep | SwitchStep | AbStep):
            shares = (
                step.stages[0][0] if isinstance(step, CanaryStep) else step.shares if isinstance(step, AbStep) else ((step.arm, FULL_BP),)
            )
            if not tried and sum(share for _, share in shares) == FULL_BP:
                what = "the candidate" if len(value.arms) == 1 else "an arm" if isinstance(step, SwitchStep) else "the arms"
                message = f"the first step gives {what} everything at once"
                yield Fault(path=("spec", "steps", index), message=message, hint="start with a shadow or a small share")
            tried = True
    last = value.steps[-1] if value.steps else None
    if last is not None and not isinstance(last, PromoteStep):
        message = "the last step is not promote: the rollout stays at its last share until someone promotes by hand"
        yield Fault(path=("spec", "steps"), message=message, hint="end with - promote: {keep_stable_for: 1h}")
    elif isinstance(last, PromoteStep) and last.keep_stable_for_s == 0:
        message = "the old version is gone at once: there is no way back after the promotion"
        yield Fault(path=("spec", "steps", len(value.steps) - 1, "promote"), message=message, hint="promote: {keep_stable_for: 1h}")


def _protection(value: RolloutPolicy) -> Iterator[Fault]:
    users = any(isinstance(step, CanaryStep | SwitchStep | AbStep) for step in value.steps)
    if users and not any(gate.role is Role.GUARDRAIL for gate in value.gates):
        what = "no guardrail" if value.gates else "no gate"
        message = f"{what} is set: nothing takes a bad candidate back by itself"
        hint = "gates: [{name: errors, metric: envoy/error_rate, margin: {absolute: 0.5%}}]"
        yield Fault(path=("spec", "gates"), message=message, hint=hint)
    shadows = next((index for index, step in enumerate(value.steps) if isinstance(step, ShadowStep)), None)
    if shadows is not None and value.traffic.fallback is Fallback.GATEWAY:
        message = "fallback: gateway runs a generation again, and a shadow runs it too: one request may cost three"
        yield Fault(path=("spec", "traffic", "fallback"), message=message, hint="fallback: connect")
    header = value.assignment.sticky_header
    if header in POOR_NAMES:
        message = f"{header} {POOR_NAMES[header]}: it names no user"
        yield Fault(
            path=("spec", "assignment", "sticky", "header"), message=message, hint="a header with the user's id, or sticky: {cookie: NAME}"
        )
    if value.lease.ttl_s > LEASE_LONG_S:
        message = f"without Crossfade the proxies keep the shares for {_s(value.lease.ttl_s)}, whatever happens"
        yield Fault(path=("spec", "lease"), message=message, hint="lease: 30s")
    for index, window in enumerate(value.freeze):
        if longest_gap_s(window.cron) <= window.for_s:
            message = "the next window begins before this one is over: nothing ever grows"
            yield Fault(path=("spec", "freeze", index), message=message, hint="shorten for")


def _of_hold(hold: Hold, value: RolloutPolicy, at: Path, step: Path) -> Iterator[Fault]:
    if hold == Hold():
        yield Fault(path=step, message="no hold: the step ends as soon as its gates allow", hint="hold: {for: 5m, samples: 500}")
    if hold.for_s >= value.when.stuck_after_s:
        message = f"the hold of {_s(hold.for_s)} is not over when the step counts as stuck, after {_s(value.when.stuck_after_s)}"
        yield Fault(path=at, message=message, hint="raise when.stuck.after")


def _s(seconds: float) -> str:
    return f"{seconds:.10g} s"
