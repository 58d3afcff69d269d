"""A plan in sentences: what each gate sees, how long it takes, what a failure costs, how the error budget is split."""

from collections.abc import Iterator

from policies import verdicts
from policies.planning import sizes
from policies.planning.answer import CoursePlan, GatePlan, Plan, StagePlan
from policies.planning.words import about, amount, change, count, percent, whole, written
from policies.spec.policy import Metric, Role, RolloutPolicy


def assumed(plan: Plan) -> str:
    """What was taken for granted, and how to say otherwise is left to the caller."""
    load = plan.load
    return (
        f"{load.rps:g} requests/s; stable: {percent(load.error_rate)} errors, "
        f"latency p50 {count(load.latency_ms)} ms, p99 {count(load.quantile_ms(0.99))} ms"
    )


def sentences(plan: Plan) -> Iterator[str]:
    """All of a plan, without its warnings."""
    several = len(plan.courses) > 1
    for course in plan.courses:
        start = f"{', '.join(course.arms)}: " if several else ""
        for gate_plan, stage in _firsts(course):
            yield start + _of_gate(plan, gate_plan, stage)
        yield from (start + text for text in _schedule(course))
        blasts = [(stage.phase.stage.label, stage.blast) for stage in course.stages]
        told = ", ".join(f"{whole(blast[1])} in {label}" for label, blast in blasts if blast is not None)
        if told:
            yield f"{start}a total failure costs users at most (19 times in 20) so many bad answers: {told}"
    yield _budget(plan.policy)


def _firsts(course: CoursePlan) -> Iterator[tuple[GatePlan, StagePlan]]:
    """Each gate in the first stage that has users; those on copies in their first."""
    told: set[str] = set()
    for stage in course.stages:
        for each in stage.gates:
            if each.name not in told:
                told.add(each.name)
                yield each, stage


def _of_gate(plan: Plan, each: GatePlan, stage: StagePlan) -> str:
    flow = next(flow for flow in stage.flows if flow.copies == each.copies)
    where = f"{each.name}: with {count(flow.arm)} of {plan.load.rps:g} requests/s ({stage.phase.stage.label})"
    if each.radius:
        return f"{where} {_of_radius(each, stage)}"
    wanted = sizes.target(each.gate, plan.load)
    found = next((detection for detection in each.detections if wanted is not None and detection.amount == wanted.amount), None)
    trouble = change(each.gate, each.base, found.amount) if found else ""
    done = {Role.GUARDRAIL: "reverted", Role.SIGNAL: "noticed (and held)", Role.GOAL: "proved"}[each.gate.role]
    if found is None:
        said = f"{where} none of the usual changes is beyond the margin"
    elif found.time_s is None:
        said = f"{where} {trouble} is not {done} within {about(max(stage.phase.horizon_s, each.window_s))}"
    else:
        said = f"{where} {trouble} is {done} after about {about(found.time_s)}"
        if found.harm is not None:
            said += f" and {whole(found.harm)} {'bad ' if each.gate.metric is Metric.ERROR_RATE else ''}{'copies' if each.copies else 'answers'}"
    within = f"within the {about(each.window_s)} it has in any case"
    if each.smallest is None:
        return f"{said}; it sees nothing for sure {within}"
    kind = "improvement" if each.gate.role is Role.GOAL else "trouble"
    return f"{said}; the smallest {kind} it sees {within} is {amount(each.gate, each.smallest)}"


def _of_radius(each: GatePlan, stage: StagePlan) -> str:
    """What has to be shown before the share grows, and when it is."""
    most = f"an error rate less than {(each.gate.margin.absolute or 0.0) * 100:.3g} points above stable's"
    if each.pass_s is None or each.pass_requests is None:
        return f"a candidate as good as stable does not show {most} within {about(max(stage.phase.horizon_s, each.window_s))}"
    return f"a candidate as good as stable shows {most} after about {about(each.pass_s)} and {whole(each.pass_requests)} requests"


def _schedule(course: CoursePlan) -> Iterator[str]:
    approvals = [
        f"{stage.phase.stage.who or 'somebody'} within {about(stage.phase.stage.within_s)}"
        for stage in course.stages
        if stage.phase.stage.kind == "approve"
    ]
    beside = f", and the time that an approval takes ({'; '.join(approvals)})" if approvals else ""
    asked = any(each.gate.role is Role.GOAL for stage in course.stages for each in stage.gates)
    who = "a candidate with the largest usual improvement" if asked else "a candidate as good as stable"
    if course.least_s is None:
        ended = next(stage for stage in course.stages if stage.least_s is None)
        yield f"{who} does not get through {ended.phase.stage.label} in time"
        return
    yield f"{who} is promoted after about {about(course.least_s)}{beside}"
    if course.shortest_s is not None and course.shortest_s < 0.95 * course.least_s:
        holds = ", ".join(
            f"{stage.phase.stage.label} for {written(stage.phase.stage.hold.for_s)}"
            for stage in course.shorter
            if stage.phase.stage.hold.for_s > 0
        )
        skipped = [stage.phase.stage.label for stage in course.stages if stage.skippable]
        without = f"; {', '.join(skipped)} can be left out" if skipped else ""
        yield f"the shortest way that sees the usual trouble in every stage takes about {about(course.shortest_s)}: {holds}{without}"


def _budget(policy: RolloutPolicy) -> str:
    """How `errors.false_revert` is split."""
    shares = budget(policy)
    alpha = policy.false_revert
    if not shares:
        return "no guardrail: nothing is taken back by itself"
    each = f"{percent(alpha * shares[0][1])} each" if len(shares) > 1 or len(policy.arms) > 1 else "all of it"
    arms = " for each arm" if len(policy.arms) > 1 else ""
    names = ", ".join(name for name, _ in shares)
    odds = f"{1 / (alpha * shares[0][1]):,.0f}".replace(",", " ")
    return (
        f"a good candidate is reverted with probability {percent(alpha)} at most; {names} have {each}{arms}: a FAIL needs odds of {odds}:1"
    )


def budget(policy: RolloutPolicy) -> list[tuple[str, float]]:
    """(guardrail, its part of the error budget for each arm)."""
    part = verdicts.weight(policy)
    users = [(gate.name, part) for gate in policy.gates if gate.role is Role.GUARDRAIL]
    return users + [(f"{gate.name} (copies)", part) for gate in verdicts.shadow_gates(policy) if gate.role is Role.GUARDRAIL]
