"""Where a policy cannot decide with the traffic it gets, or decides later than it says; each with a value that would work."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from policies import verdicts
from policies.planning import sizes
from policies.planning.answer import CoursePlan, GatePlan, Plan, StagePlan
from policies.planning.course import POWER
from policies.planning.phases import Flow
from policies.planning.words import about, amount, change, count, margin, rounded_up, written
from policies.spec.faults import Fault
from policies.spec.policy import FULL_BP, Metric, Role
from policies.statistics.margins import requests_to_fail, requests_to_pass, requests_to_pass_absolute
from policies.steps import percent

CERTAIN = 2.0
"""How many times what the closed forms say is named: they are rough, and about half of the runs take longer."""

LIKELY = 0.05
"""Number of silences in a stage from which on they are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """One. `blocks`: the policy cannot decide; else it does, and not as one may think."""

    fault: Fault
    blocks: bool


def warnings(plan: Plan) -> tuple[Warned, ...]:
    """In the order of the stages, what blocks first; each once."""
    found = [each for course in plan.courses for stage in course.stages for each in _of_stage(plan, course, stage)]
    return tuple(sorted(dict.fromkeys(found), key=lambda each: not each.blocks))


def decides(found: tuple[Warned, ...]) -> bool:
    """Whether the policy can come to an end by itself."""
    return not any(each.blocks for each in found)


def _told(path: tuple[str | int, ...], message: str, hint: str = "", *, blocks: bool = False) -> Warned:
    return Warned(fault=Fault(path=path, message=message, hint=hint), blocks=blocks)


def _of_stage(plan: Plan, course: CoursePlan, stage: StagePlan) -> Iterator[Warned]:
    if stage.phase.stage.kind in {"probe", "approve"}:
        return
    who = stage.phase.stage.label + (f" ({', '.join(course.arms)})" if len(plan.courses) > 1 else "")
    yield from _silence(plan, stage, who)
    late = [each for each in course.stages if each.samples_s > each.phase.horizon_s and each.phase.path == stage.phase.path]
    if late and late[0] is stage:
        yield _samples(stage, who + _also(late[1:]))
    for each in stage.gates:
        stuck = [other for other in course.stages if _never(other, each.name)]
        if stuck and stuck[0] is stage:
            yield _never_passes(plan, stage, each, who + _also(stuck[1:]))
    if stage.least_s is None and not late and not any(_never(stage, each.name) for each in stage.gates):
        message = f"{who}: fewer than half of the good candidates get through within {_deadline(stage)}"
        yield _told(stage.phase.hold_path, message, _more_time(stage, stage.hold_s * 1.5), blocks=True)
    for each in stage.gates:
        yield from _unseen(plan, stage, each, who)


def _never(stage: StagePlan, gate: str) -> bool:
    """Whether a gate does not say PASS in time often enough."""
    return any(each.name == gate and each.pass_chance is not None and each.pass_chance < POWER for each in stage.gates)


def _also(stages: Sequence[StagePlan]) -> str:
    """Later stages with the same trouble: what mends the first mends most of them."""
    return f" (and {', '.join(each.phase.stage.label for each in stages)})" if stages else ""


def _silence(plan: Plan, stage: StagePlan, who: str) -> Iterator[Warned]:
    """A share so small that no request for a while means nothing."""
    after_s, lasts_s = plan.policy.when.no_data_after_s, stage.least_s or stage.phase.horizon_s
    for flow in stage.flows:
        seldom = flow.arm * after_s < 1
        silences = lasts_s * flow.arm * math.exp(-flow.arm * after_s)
        if not seldom and silences < LIKELY:
            continue
        longer = rounded_up(math.log(max(lasts_s * flow.arm / LIKELY, math.e)) / flow.arm)
        enough_bp = math.ceil(math.log(max(lasts_s / (LIKELY * after_s), math.e)) * 1.5 / after_s / plan.load.rps * 100) * 100
        hint = f"when: {{no_data: {{after: {written(longer)}}}}}"
        hint += f", or a share of {percent(enough_bp)}" if enough_bp < FULL_BP else ""
        often = "most of the time" if seldom else "now and then"
        message = f"{who}: {flow.arm:.2g} requests/s leave {about(after_s)} without one {often}, which counts as no data"
        yield _told(stage.phase.share_path, message, hint, blocks=seldom)


def _samples(stage: StagePlan, who: str) -> Warned:
    hold = stage.phase.stage.hold
    message = f"{who}: {hold.samples} samples take {about(stage.samples_s)}, longer than {_deadline(stage)}"
    fewer = math.floor(hold.samples * stage.phase.horizon_s / stage.samples_s / 2)
    hint = (f"samples: {fewer}, or " if fewer else "") + _more_time(stage, stage.samples_s * 1.25)
    return _told(stage.phase.hold_path, message, hint, blocks=True)


def _never_passes(plan: Plan, stage: StagePlan, each: GatePlan, who: str) -> Warned:
    """A gate that does not say PASS in time often enough."""
    goal, chance = each.gate.role is Role.GOAL, each.pass_chance or 0.0
    if goal:
        wanted = sizes.target(each.gate, plan.load)
        best = f"a candidate with {change(each.gate, each.base, wanted.amount)}" if wanted else "a candidate with any usual improvement"
    else:
        best = "a candidate as good as stable"
    message = f"{who}: {each.name} says PASS of {best} within {_deadline(stage)} with a chance of {chance:.0%} only"
    if each.gate.limit is not None and each.base >= sizes.allowed(each.gate, plan.load):
        message += ": stable itself is beyond the limit"
    hints = []
    if each.margin is not None:
        hints.append(_radius(plan, each) if each.radius else f"margin: {margin(each.margin, each.gate.metric)}")
    if each.pass_sure_s is not None:
        hints.append(_more_time(stage, each.pass_sure_s * 1.25))
    if not hints:
        hints.append("a larger share, or more time" if goal else _traffic_to_pass(plan, stage, each))
    return _told(stage.phase.path, message, ", or ".join(hints), blocks=True)


def _radius(plan: Plan, each: GatePlan) -> str:
    """The blast radius that has a wider margin."""
    wider = each.margin.absolute if each.margin is not None else None
    times = (wider or 0.0) / (each.gate.margin.absolute or 1.0)
    return f"errors: {{blast_radius: {(plan.policy.blast_radius or 0.0) * times * 100:.3g}%}}"


def _unseen(plan: Plan, stage: StagePlan, each: GatePlan, who: str) -> Iterator[Warned]:
    """What a guardrail should not miss in a stage, and does."""
    if each.gate.role is not Role.GUARDRAIL or stage.phase.stage.kind == "promote":
        return
    wanted = sizes.target(each.gate, plan.load)
    if wanted is None:
        largest = sizes.sizes(each.gate, plan.load)[-1]
        message = f"{each.name}: {change(each.gate, each.base, largest.amount)} counts as as good as stable"
        yield _told(("spec", "gates"), message, "a smaller margin")
        return
    found = next(detection for detection in each.detections if detection.amount == wanted.amount)
    if found.chance >= POWER:
        return
    trouble = change(each.gate, each.base, wanted.amount)
    if found.sure_s is None:
        message = f"{who}: {each.name} does not see {trouble} for sure within {about(max(stage.phase.horizon_s, each.window_s))}"
        yield _told(stage.phase.path, message, _traffic_to_fail(plan, stage, each, wanted.amount), blocks=True)
        return
    message = f"{who}: {each.name} sees {trouble} within {about(each.window_s)} with a chance of {found.chance:.0%} only"
    if each.smallest is not None:
        message += f"; from {amount(each.gate, each.smallest)} on with 80%"
    requests = count(found.sure_s * max(flow.arm for flow in stage.flows))
    hint = f"hold: {{for: {written(rounded_up(found.sure_s))}}}, about {requests} requests"
    yield _told(stage.phase.hold_path, message, hint)


def _traffic_to_pass(plan: Plan, stage: StagePlan, each: GatePlan) -> str:
    """By the closed forms: no simulation lasted long enough to tell."""
    rate, flow, margin_ = plan.load.error_rate, _flow(stage, each), each.gate.margin
    if each.gate.limit is not None:
        return "a higher limit" + ("" if each.base >= sizes.allowed(each.gate, plan.load) else ", or more traffic")
    if each.gate.metric is not Metric.ERROR_RATE or not rate:
        return "a much wider margin, or more traffic"
    share = flow.arm / (flow.arm + flow.against)
    by_form = [
        requests_to_pass(margin_.relative or 0.0, rate=rate, share=share, beta=verdicts.BETA),
        requests_to_pass_absolute(margin_.absolute or 0.0, rate=rate, share=share, beta=verdicts.BETA),
    ]
    wider = "a much larger errors.blast_radius" if each.radius else "a much wider margin"
    return f"{wider}, or {_traffic(plan, stage, flow, min(by_form))}"


def _traffic_to_fail(plan: Plan, stage: StagePlan, each: GatePlan, wanted: float) -> str:
    rate, flow = sizes.allowed(each.gate, plan.load), _flow(stage, each)
    if each.gate.metric is not Metric.ERROR_RATE or each.gate.limit is not None or not rate:
        return "a larger share, or more traffic"
    share = flow.arm / (flow.arm + flow.against)
    return _traffic(plan, stage, flow, requests_to_fail(wanted / rate, rate=rate, share=share, alpha=1 / each.needed))


def _traffic(plan: Plan, stage: StagePlan, flow: Flow, requests: float) -> str:
    needed = requests * CERTAIN / stage.phase.horizon_s / flow.arm * plan.load.rps
    return f"about {count(needed)} requests/s" if math.isfinite(needed) else "more traffic"


def _flow(stage: StagePlan, each: GatePlan) -> Flow:
    return next(flow for flow in stage.flows if flow.copies == each.copies)


def _deadline(stage: StagePlan) -> str:
    kind = "at_most" if stage.phase.stage.kind == "ab" else "when.stuck.after"
    return f"{about(stage.phase.horizon_s)} ({kind})"


def _more_time(stage: StagePlan, seconds: float) -> str:
    time = written(rounded_up(seconds))
    return f"at_most: {time}" if stage.phase.stage.kind == "ab" else f"when: {{stuck: {{after: {time}}}}}"
