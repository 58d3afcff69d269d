"""A policy and a load -> what each gate sees in each stage, and how long the rollout takes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from policies import radius, verdicts
from policies.evidence import latency_bin
from policies.gates import gate_test
from policies.planning import sizes
from policies.planning.answer import CoursePlan, Detection, GatePlan, Plan, StagePlan
from policies.planning.course import DETECTION_RUNS, POWER, SEARCH_RUNS, Passing, Watched, passing, smallest, split, watch
from policies.planning.load import Load
from policies.planning.phases import Flow, Phase, flows, phases, samples_s
from policies.planning.runs import CeilingRuns, ErrorRuns, LatencyRuns, Runs
from policies.planning.sizes import Size
from policies.planning.words import rounded_up
from policies.spec.policy import FULL_BP, Gate, Hold, Margin, Metric, Role, RolloutPolicy
from policies.statistics import CeilingGate, ErrorGate
from policies.statistics.mixture import Bools, Floats

RUNS = 128
"""Simulated rollouts of a good candidate."""

REACTION_S = 0.2
"""From the end of a request to the moment no more are sent: its log entry, the server's block, the new shares [s]."""


Key = tuple[str, bool]
"""Name of a gate; whether it looks at copies."""


def plan(policy: RolloutPolicy, load: Load) -> Plan:
    """What can be expected; the same for the same arguments on every machine."""
    found = phases(policy)
    groups: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for arm in policy.arms:
        groups.setdefault(tuple((each.stage.share_of(arm.name), each.stage.copies_of(arm.name)) for each in found), []).append(arm.name)
    return Plan(
        policy=policy,
        load=load,
        courses=tuple(replace(_course(policy, load, found, arms[0]), arms=tuple(arms)) for arms in groups.values()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """One gate in one stage, before it is answered.

    Attributes:
        before: Runs of a good candidate as they come into the stage.
        window_s: As long as the stage lasts in any case [s].
        deadline_s: What the test was begun with [s].
        radius: Whether it is the question of the blast radius, of which only the PASS counts.
    """

    gate: Gate
    load: Load
    phase: Phase
    flow: Flow
    needed: float
    before: Runs
    window_s: float
    deadline_s: float
    radius: bool = False

    @property
    def key(self) -> Key:
        return self.gate.name, self.flow.copies

    @property
    def goal(self) -> bool:
        return self.gate.role is Role.GOAL

    def under(self, amounts: Floats) -> Runs:
        """One run for each amount of the candidate, from the start of the stage."""
        stable = np.full(len(amounts), sizes.base(self.gate, self.load))
        runs, flow = self.before.take(np.arange(len(amounts)) % self.before.size), self.flow
        if self.goal:
            return runs.under((stable, amounts), (flow.against, flow.arm))
        return runs.under((amounts, stable), (flow.arm, flow.against))

    def watched(self, amounts: Sequence[float], runs: int, until_s: float) -> list[Watched]:
        """By amount. Of a goal one after the other: the baseline of its test is the candidate, which is one for all runs."""
        if self.goal:
            return [watch(self.under(np.full(runs, amount)), needed=self.needed, until_s=until_s) for amount in amounts]
        together = watch(self.under(np.repeat(np.array(amounts), runs)), needed=self.needed, until_s=until_s)
        return split(together, len(amounts))

    def passed(self, runs: Runs) -> Bools:
        alarm = runs.enough & (runs.log_fail >= math.log(self.needed))
        return alarm if self.goal else (runs.log_pass >= -math.log(verdicts.BETA)) & ~alarm


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """What a stage finds: runs of a good candidate by gate, and the time since the release began [s].

    Attributes:
        late: Gates that did not pass a good candidate in time in an earlier stage.
    """

    runs: Mapping[Key, Runs]
    age_s: float = 0.0
    late: frozenset[Key] = frozenset()


def _course(policy: RolloutPolicy, load: Load, found: Sequence[Phase], arm: str) -> CoursePlan:
    planned, memory = [], _Memory(runs={})
    for phase in found:
        stage, memory = _stage(policy, load, phase, arm, memory, detect=True)
        planned.append(stage)
    stages = _with_skips(planned)
    shorter, memory = [], _Memory(runs={})
    for each in stages:
        if not each.skippable and each.phase.stage.kind != "promote":
            stage, memory = _stage(policy, load, _with_hold(each), arm, memory, detect=False)
            shorter.append(stage)
    return CoursePlan(arms=(arm,), stages=tuple(stages), shorter=tuple(shorter))


def _with_hold(each: StagePlan) -> Phase:
    """The stage with the suggested hold, where one is shorter."""
    stage, hold_s = each.phase.stage, each.suggested_hold_s
    if hold_s is None or hold_s >= stage.hold.for_s:
        return each.phase
    return replace(each.phase, stage=replace(stage, hold=Hold(for_s=hold_s, samples=min(stage.hold.samples, 1))))


def _stage(policy: RolloutPolicy, load: Load, phase: Phase, arm: str, memory: _Memory, *, detect: bool) -> tuple[StagePlan, _Memory]:
    """One stage, and what the next one finds. `detect`: else only how long it lasts."""
    stage, last = phase.stage, phase.stage.kind == "promote"
    found = flows(stage, arm, load.rps)
    wanted_s = max((samples_s(stage.hold, flow, full=stage.share_bp >= FULL_BP) for flow in found), default=0.0)
    at_least_s = stage.keep_stable_for_s if last else stage.probe.for_s if stage.probe is not None else stage.hold.for_s
    hold_s = max(at_least_s, wanted_s)
    asked = [
        question
        for flow in (found if phase.watches else ())
        for question in _questions(policy, load, phase, flow, arm=arm, memory=memory, hold_s=hold_s)
    ]
    passes: dict[Key, Passing] = {} if last else {each.key: _good(each) for each in asked}
    stays = np.full(RUNS, hold_s)
    for through in passes.values():
        stays = np.maximum(stays, through.pass_s)
    least_s, sure_s = (_in_time(float(np.sort(stays)[math.ceil(RUNS * part) - 1]), phase) for part in (0.5, POWER))
    window_s = hold_s or least_s or phase.horizon_s
    late = {key for key, through in passes.items() if through.chance(phase.horizon_s) < POWER}
    plans = [_gate_plan(each, passes.get(each.key), window_s, widen=each.key in late - memory.late) for each in asked if detect]
    slow = max(passes.items(), key=lambda pair: float(np.median(pair[1].pass_s)), default=None)
    waits = slow is not None and float(np.median(slow[1].pass_s)) > hold_s
    end_s = phase.horizon_s if least_s is None else least_s
    planned = StagePlan(
        phase=phase,
        flows=found,
        hold_s=hold_s,
        samples_s=wanted_s,
        least_s=hold_s if last else least_s,
        sure_s=hold_s if last else sure_s,
        bottleneck=slow[0][0] if slow is not None and waits else "samples" if wanted_s > at_least_s else "hold",
        gates=tuple(plans),
        suggested_hold_s=_suggested(plans, load),
    )
    after = {key: through.at(end_s) for key, through in passes.items()}
    age_s = memory.age_s + (0.0 if stage.kind == "approve" else end_s)
    return planned, _Memory(runs={**memory.runs, **after}, age_s=age_s, late=memory.late | late)


def _questions(
    policy: RolloutPolicy, load: Load, phase: Phase, flow: Flow, *, arm: str, memory: _Memory, hold_s: float
) -> Iterator[_Question]:
    """As `verdicts.readings`: on users all gates, on copies those of errors; goals where they decide, and from there on. Last the blast radius."""
    alpha, beta = verdicts.weight(policy) * policy.false_revert, verdicts.BETA / max(1, len(policy.arms))
    wider = None if flow.copies else radius.of_stage(policy, phase.position, arm)
    deadline_s = verdicts.deadline_s(policy)
    for gate in (*(verdicts.shadow_gates(policy) if flow.copies else policy.gates), *([wider] if wider is not None else [])):
        goal = gate.role is Role.GOAL
        if goal and not (phase.last or phase.stage.goal == gate.name):
            continue
        before = None if goal else memory.runs.get((gate.name, flow.copies))
        if before is None:
            before = _fresh(gate, load, deadline_s).idle(0.0 if gate is wider else memory.age_s)
        yield _Question(
            gate=gate,
            load=load,
            phase=phase,
            flow=flow,
            needed=1 / (beta if goal else policy.false_revert if gate is wider else alpha),
            before=before,
            window_s=hold_s,
            deadline_s=deadline_s,
            radius=gate is wider,
        )


def _good(of: _Question) -> Passing:
    """A good candidate: as good as stable, or of a goal better by the largest of the usual improvements."""
    wanted = sizes.target(of.gate, of.load) if of.goal else None
    amount = wanted.amount if wanted is not None else sizes.base(of.gate, of.load)
    runs = of.under(np.full(RUNS, amount))
    return passing(runs, passed=of.passed, window_s=of.window_s, horizon_s=of.phase.horizon_s)


def _gate_plan(of: _Question, through: Passing | None, window_s: float, *, widen: bool) -> GatePlan:
    horizon_s = max(window_s, of.phase.horizon_s) if through is not None else window_s
    takes_s = through.time_s(0.5) if through is not None else None
    detections = () if of.radius else _detections(of, window_s, horizon_s)
    return GatePlan(
        gate=of.gate,
        copies=of.flow.copies,
        needed=of.needed,
        base=sizes.base(of.gate, of.load),
        window_s=window_s,
        smallest=None if of.radius else _smallest(of, window_s, detections),
        detections=detections,
        pass_s=takes_s,
        pass_sure_s=through.time_s(POWER) if through is not None else None,
        pass_requests=takes_s * of.flow.arm if takes_s is not None else None,
        pass_chance=through.chance(of.phase.horizon_s) if through is not None else None,
        radius=of.radius,
        margin=_wider(of) if widen and not of.goal else None,
    )


def _wider(of: _Question) -> Margin | None:
    """The margin, some times as wide, that lets a good candidate pass in this stage before its deadline."""
    if of.gate.limit is not None:
        return None
    for times in (1.5, 2.0, 3.0, 5.0, 10.0):
        margin = Margin(
            absolute=None if of.gate.margin.absolute is None else of.gate.margin.absolute * times,
            relative=None if of.gate.margin.relative is None else of.gate.margin.relative * times,
        )
        if of.gate.metric is Metric.ERROR_RATE and (margin.absolute or 0.0) >= 1:
            return None
        before = _fresh(replace(of.gate, margin=margin), of.load, of.deadline_s)
        if _good(replace(of, before=before)).chance(of.phase.horizon_s) >= POWER:
            return margin
    return None


def _fresh(gate: Gate, load: Load, deadline_s: float) -> Runs:
    """Runs of a gate before any evidence."""
    test = gate_test(gate, deadline_s=deadline_s)
    if isinstance(test, CeilingGate):
        fine = None if gate.limit is None or gate.metric is Metric.ERROR_RATE else latency_bin(gate.limit)
        return CeilingRuns.start(load, test, fine, RUNS)
    return ErrorRuns.start(test, RUNS) if isinstance(test, ErrorGate) else LatencyRuns.start(load, test, RUNS)


def _detections(of: _Question, window_s: float, horizon_s: float) -> tuple[Detection, ...]:
    usual = sizes.sizes(of.gate, of.load)
    beyond = [size for size in usual if size.beyond]
    seen = dict(zip(beyond, of.watched([size.amount for size in beyond], DETECTION_RUNS, horizon_s) if beyond else [], strict=True))
    return tuple(_detection(of, size, seen.get(size), window_s) for size in usual)


def _detection(of: _Question, size: Size, seen: Watched | None, window_s: float) -> Detection:
    if seen is None:
        return Detection(amount=size.amount, beyond=False)
    # what the candidate still does while the news travels
    more = REACTION_S * of.flow.arm * (size.amount if of.gate.metric is Metric.ERROR_RATE else 1.0)
    late, count = (None, None) if of.goal else (REACTION_S, more)
    return Detection(
        amount=size.amount,
        beyond=True,
        chance=seen.chance(window_s),
        time_s=_plus(seen.time_s(0.5), late or 0.0),
        sure_s=_plus(seen.time_s(POWER), late or 0.0),
        harm=None if count is None else _plus(seen.harm_of(0.5), count),
        harm_most=None if count is None else _plus(seen.harm_of(0.95), count),
    )


def _smallest(of: _Question, window_s: float, found: Sequence[Detection]) -> float | None:
    """The least amount that is seen within the window; looked for between the usual ones."""
    limit, (least, most) = sizes.allowed(of.gate, of.load), sizes.span(of.gate, of.load)
    if most <= 0 or window_s <= 0:
        return None
    sign = -1.0 if of.goal else 1.0

    def power(amounts: Sequence[float]) -> list[float]:
        return [seen.chance(window_s) for seen in of.watched([limit + sign * amount for amount in amounts], SEARCH_RUNS, window_s)]

    known = {sign * (each.amount - limit): each.chance for each in found if each.beyond}
    if not known or max(known.values()) < POWER:
        known[most] = power([most])[0]
    beyond = smallest(power, known, low=least)
    return None if beyond is None else limit + sign * beyond


def _suggested(plans: Sequence[GatePlan], load: Load) -> float | None:
    """Until every guardrail has seen the trouble that a stage should not miss, in round numbers [s]."""
    times: list[float | None] = []
    for each in plans:
        wanted = sizes.target(each.gate, load)
        if each.gate.role is Role.GUARDRAIL and wanted is not None:
            times += [found.sure_s for found in each.detections if found.amount == wanted.amount]
    known = [time_s for time_s in times if time_s is not None]
    return rounded_up(max(known)) if known and len(known) == len(times) else None


def _with_skips(planned: Sequence[StagePlan]) -> list[StagePlan]:
    """A share can be skipped where the next one takes back a total failure with hardly more bad answers: half as many more, and five.

    Several in a row are held against the first of them: a chain of small steps would else lead anywhere. A share of 0 is for segments.
    """
    stages: list[StagePlan] = []
    first: StagePlan | None = None
    for each, following in pairwise([*planned, None]):
        assert each is not None, "only the last has none behind it"
        first = each if first is None else first
        canaries = following is not None and each.phase.stage.kind == following.phase.stage.kind == "canary"
        ahead = following.blast if canaries and following is not None else None
        costs = first.blast[1] if first.blast is not None else 0.0
        skippable = bool(each.flows) and ahead is not None and ahead[1] <= 1.5 * costs + 5
        first = first if skippable else None
        stages.append(replace(each, skippable=skippable))
    return stages


def _in_time(seconds: float, phase: Phase) -> float | None:
    return seconds if seconds <= phase.horizon_s else None


def _plus(amount: float | None, more: float) -> float | None:
    return None if amount is None else amount + more
