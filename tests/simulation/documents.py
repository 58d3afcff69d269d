"""Random policies that would pass the checks of `policies.spec`: every kind of step, one to four arms, gates of all roles, segments, layers."""

from dataclasses import replace

from policies.spec.policy import (
    FULL_BP,
    AbStep,
    ApproveStep,
    Assignment,
    CanaryStep,
    Compare,
    Gate,
    HeaderMatch,
    Hold,
    Lease,
    Margin,
    Metric,
    ProbeRequest,
    ProbeStep,
    PromoteStep,
    Role,
    RolloutPolicy,
    Segment,
    ShadowStep,
    SwitchStep,
    Then,
    TrafficSpec,
    When,
)
from tests.making import ERRORS, LATENCY, variant

SIGNAL = Gate(name="signal", metric=Metric.ERROR_RATE, role=Role.SIGNAL, margin=Margin(absolute=0.2))
GOAL = Gate(name="goal", metric=Metric.ERROR_RATE, role=Role.GOAL, margin=Margin(absolute=0.1), better_by=Margin(absolute=0.0))
LIMIT = Gate(name="limit", metric=Metric.LATENCY, statistic="p95", limit=5000.0)
NAMES = ("candidate", "b", "c", "d")
STAFF = Segment(name="staff", when=(HeaderMatch(name="x-staff", compare=Compare.PRESENT),), variant="candidate")


def document(rng, name="chat", *, layer="", versions=6):
    """One policy. With a layer its arms need half of all users at most, most times less."""
    arms = tuple(
        variant(NAMES[index], f"v{rng.randrange(1, versions)}", 8000 + index, max_concurrency=rng.choice([4, 1024]))
        for index in range(rng.choice([0, 1, 1, 1, 1, 2, 2, 3, 4]))
    )
    gates = gates_of(rng)
    return RolloutPolicy(
        name=name,
        traffic=TrafficSpec(proxies="edge", listener="public"),
        stable=variant("stable", rng.choice(["v0", "v0", "v0", "v1"]), 8009),
        arms=arms,
        steps=steps_of(rng, [arm.name for arm in arms], gates, most_bp=rng.choice([1000, 3000, 5000, 7000]) if layer else FULL_BP),
        gates=gates,
        assignment=assignment_of(rng, layer),
        when=when_of(rng),
        lease=Lease(ttl_s=3.0),
        false_revert=0.05,
        blast_radius=rng.choice([None, None, None, 0.05]),
    )


def gates_of(rng):
    gates = [ERRORS]
    if rng.random() < 0.1:
        gates.append(LATENCY)
    if rng.random() < 0.3:
        gates.append(SIGNAL)
    if rng.random() < 0.5:
        gates.append(GOAL)
    if rng.random() < 0.2:
        gates.append(LIMIT)
    return tuple(gates if rng.random() < 0.9 else gates[1:])


def assignment_of(rng, layer=""):
    segments = (STAFF,) if rng.random() < 0.4 else ()
    if not layer and rng.random() < 0.5:
        return Assignment(segments=segments)
    return Assignment(sticky_header="x-user", layer=layer, segments=segments)


def when_of(rng):
    then = [Then.REVERT, Then.REVERT, Then.HOLD, Then.FREEZE]
    return When(
        fail=rng.choice(then),
        no_data_after_s=rng.choice([5.0, 60.0]),
        no_data=rng.choice(then),
        source_error_after_s=rng.choice([3.0, 60.0]),
        source_error=rng.choice(then),
        nack=rng.choice(then),
        stuck_after_s=rng.choice([30.0, 600.0]),
        stuck=rng.choice(then),
    )


def hold_of(rng):
    return rng.choice([Hold(), Hold(for_s=2.0), Hold(for_s=1.0, samples=5), Hold(samples=10)])


def steps_of(rng, arms, gates, most_bp=FULL_BP):
    """Steps in an order that the checks allow: no share shrinks, all together fit, what ends a rollout stands at its end."""
    if not arms:
        return ()
    steps, reached = [], dict.fromkeys(arms, 0)
    compared = False

    def grown():
        room = most_bp - sum(reached.values())
        for arm in rng.sample(arms, rng.randrange(1, len(arms) + 1)):
            more = rng.choice([0, room // 8, room // 3, room // 2, room])
            reached[arm], room = reached[arm] + more, room - more
        return tuple(reached.items())

    for _ in range(rng.randrange(1, 5)):
        match rng.choice(["probe", "shadow", "canary", "canary", "canary", "ab", "approve"]):
            case "probe":
                steps.append(ProbeStep(requests=(ProbeRequest(),), for_s=1.0))
            case "shadow":
                steps.append(ShadowStep(shares=tuple((arm, 5000) for arm in arms if rng.random() < 0.7), hold=hold_of(rng)))
            case "canary":
                steps.append(CanaryStep(stages=tuple((grown(), hold_of(rng)) for _ in range(rng.randrange(1, 3)))))
            case "ab" if GOAL in gates:
                compared = True
                steps.append(AbStep(shares=grown(), goal="goal", at_most_s=rng.choice([5.0, 30.0]), hold=hold_of(rng)))
            case "approve":
                then = rng.choice([Then.REVERT, Then.HOLD, Then.FREEZE])
                steps.append(ApproveStep(who="ops", within_s=rng.choice([5.0, 60.0]), then=then))
    if most_bp == FULL_BP and rng.random() < 0.2:
        steps.append(SwitchStep(arm=rng.choice(arms), hold=hold_of(rng)))
    if not steps or rng.random() < 0.8:
        named = "" if len(arms) == 1 or compared else rng.choice(arms)
        steps.append(PromoteStep(keep_stable_for_s=rng.choice([0.0, 3.0]), arm=named))
    return tuple(steps)


def edited(rng, policy):
    """The same policy with one thing changed by its author."""
    layer = policy.assignment.layer
    other = document(rng, policy.name, layer=layer)
    match rng.choice(["steps", "steps", "gates", "when", "arms", "stable", "layer", "segments", "all"]):
        case "steps":
            most_bp = 5000 if layer else FULL_BP
            return replace(policy, steps=steps_of(rng, [arm.name for arm in policy.arms], policy.gates, most_bp=most_bp))
        case "gates":
            goals = tuple(gate for gate in policy.gates if gate.role is Role.GOAL)
            return replace(policy, gates=(*(gate for gate in other.gates if gate.role is not Role.GOAL), *goals))
        case "when":
            return replace(policy, when=other.when)
        case "stable":
            return replace(policy, stable=variant("stable", rng.choice(["v0", "v1", "v2"]), 8009))
        case "layer" if layer:
            return replace(policy, assignment=replace(policy.assignment, layer=rng.choice(["left", "right"])))
        case "segments":
            return replace(policy, assignment=assignment_of(rng, layer))
        case "arms" if policy.arms:
            fresh = tuple(replace(arm, version=f"v{rng.randrange(1, 6)}") if rng.random() < 0.5 else arm for arm in policy.arms)
            return replace(policy, arms=fresh)
        case _:
            return other
