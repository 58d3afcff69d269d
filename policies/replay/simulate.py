"""Many runs of a policy in one scenario, each through the real engine.

All runs go ahead together, block by block, each with its own clock: short blocks where something has just begun, longer ones in quiet times
(`pace`), and never across a moment at which anything could happen by itself. Between two decisions the gates of all runs are fed as arrays
(`flock`); a run whose block could make the engine do something gets that block, and whatever else is due, through `policies.engine` as the
server would give it. With `exact=True` every block goes through the engine instead: the outcomes are the same, which is a test.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np

from policies import engine, passing, verdicts
from policies.evidence import Block, Counts
from policies.replay.arrays import Rows
from policies.replay.flock import Flock, Table, can_flock
from policies.replay.scenario import INSTANT, Incident, Scenario, most_s, whole
from policies.replay.truth import Counted, Shares, Traffic, Truth, Wander
from policies.replay.watch import histogram
from policies.rollout import (
    Commanded,
    Decision,
    Delivered,
    Delivery,
    Event,
    EvidenceArrived,
    Mode,
    Notify,
    Pods,
    PodsProbed,
    Probed,
    Probing,
    Publish,
    Reason,
    Rollout,
    Step,
    Ticked,
    Verb,
)
from policies.spec.policy import FULL_BP, Metric, RolloutPolicy
from policies.statistics.mixture import Bools, Floats
from policies.steps import Stage
from policies.traffic import Traffic as Wish
from policies.wish import stage as stage_of
from policies.wish import traffic

START = 1_000_000.0
"""The engine's clock when a run begins [s]; nothing depends on it."""

FINE_S = 1.0
"""Blocks soon after something began [s]."""

COARSE_S = 60.0
"""Blocks at most [s]."""

GROWTH = 1 / 30
"""Length of a block as a part of the time since something began."""

PODS = 2
"""Pods of an arm that a scenario says nothing of."""

Ended = Literal["promoted", "reverted", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How one run ended.

    Attributes:
        ended_s: When [s since the start].
        took_s: Of a revert: from the moment an arm that is worse got something; if none is, and of a promotion: from the start [s].
        met: Whether an arm that is worse than stable got anything.
        code, gate, step: Why: the reason's code, the gate it names, the step it was in; "" = none.
        harmed: Expected bad answers to users above what stable would have given [requests].
        slowed: Users' answers that an incident made slower [requests].
        candidates: Requests of users that the arms got [requests].
    """

    ended: Ended
    ended_s: float
    took_s: float
    met: bool
    code: str = ""
    gate: str = ""
    step: str = ""
    harmed: float = 0.0
    slowed: float = 0.0
    candidates: int = 0


def simulate(policy: RolloutPolicy, scenario: Scenario, *, runs: int, random: np.random.Generator, exact: bool = False) -> tuple[Run, ...]:
    """Runs of a policy in a scenario, in no order that means anything.

    Args:
        policy: One that has something to roll out.
        runs: How many, > 0.
        random: Where all chance comes from; the same gives the same.
        exact: Every block of every run goes through the engine, and ticks between: what the quick way is held against.
    """
    crowd = _Crowd(policy, scenario, runs, random, exact=exact)
    while crowd.ones:
        crowd.advance()
    return tuple(crowd.ended)


def pace(age_s: Floats, left_s: Floats) -> Floats:
    """How long the next block of each run is [s].

    Args:
        age_s: Time since something began: a stage, an incident [s].
        left_s: Time until something can happen by itself [s].
    """
    length = np.minimum(np.clip(age_s * GROWTH, FINE_S, COARSE_S), left_s)
    return np.maximum(np.ceil(length / INSTANT - 1e-6), 1.0) * INSTANT


@dataclass(slots=True)
class _One:
    """One run's engine, and what is due to it.

    Attributes:
        state: As of its last block, or, while the flock has taken it along, as of when it was.
        users, copies: What its proxies do: part of the requests, per arm.
        pending, ack_at: What was published and is not acted on yet, and when it will be [s since the start].
        due_at: When a person or a probe answers [s since the start].
        at, changed_at: The stage it is in, and since when [s since the start].
        because, step: The last decision's reason, and the step it was taken in.
    """

    state: Rollout
    users: tuple[float, ...]
    copies: tuple[float, ...]
    pods: tuple[Pods, ...]
    pending: Wish | None = None
    ack_at: float = np.inf
    due_at: float = np.inf
    at: Stage | None = None
    changed_at: float = 0.0
    because: Reason = field(default_factory=lambda: Reason(code="idle"))
    step: str = ""


@dataclass(slots=True, kw_only=True)
class _Marks:
    """The same as arrays, as far as the next block depends on it; times in seconds since the start.

    Attributes:
        direct: Every block of it goes through the engine.
        events_at: When something is due to it.
        hold_s, limit_s: What its hold, its stage must last at least, at most [s].
        hurried: Its pods are gone, so that seconds count.
    """

    now: Floats
    users: Floats
    copies: Floats
    gone: Bools
    direct: Bools
    events_at: Floats
    changed_at: Floats
    hold_s: Floats
    limit_s: Floats
    held_s: Floats
    stage_s: Floats
    silent_s: Floats
    hurried: Bools
    met_at: Floats
    harmed: Floats
    slowed: Floats
    candidates: Floats

    @classmethod
    def of(cls, runs: int, arms: int) -> "_Marks":
        none, flags = np.zeros(runs), np.zeros(runs, dtype=np.bool_)
        made = {each.name: none.copy() for each in fields(cls)} | {name: flags.copy() for name in ("direct", "hurried")}
        per_arm = {"users": np.zeros((runs, arms)), "copies": np.zeros((runs, arms)), "gone": np.zeros((runs, arms), dtype=np.bool_)}
        return cls(**made | per_arm | {"met_at": np.full(runs, np.nan)})

    def only(self, rows: Rows) -> "_Marks":
        return _Marks(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


class _Crowd:
    """All runs that have not ended yet."""

    def __init__(self, policy: RolloutPolicy, scenario: Scenario, runs: int, random: np.random.Generator, *, exact: bool) -> None:
        self.policy, self.scenario, self.random, self.exact = policy, scenario, random, exact
        self.fold = not exact and can_flock(policy)
        self.truth = Truth(scenario, policy, with_latency=any(gate.metric is Metric.LATENCY for gate in policy.gates))
        self.table = Table.of(policy)
        self.horizon_s = whole(most_s(policy) if scenario.horizon_s is None else scenario.horizon_s)
        first = self._first()
        self.ones = [replace(first) for _ in range(runs)]
        self.marks = _Marks.of(runs, len(policy.arms))
        self.flock = Flock.start(policy, runs, self.truth.bins)
        self.wander: Wander | None = None
        self.ended: list[Run] = []
        self._take_up(range(runs))

    def advance(self) -> None:
        """One block of every run."""
        marks = self.marks
        self.wander = self.truth.wander(self.random, marks.now, self.wander)
        length = self._length()
        end = marks.now + length
        drawn = self.truth.draw(
            self.random,
            at=marks.now + length / 2,
            for_s=length,
            shares=Shares(users=marks.users, copies=marks.copies),
            gone=marks.gone,
            wander=self.wander,
        )
        self._account(drawn)
        hit = marks.direct | (marks.events_at <= end + 1e-9) | (end >= self.horizon_s - 1e-9)
        before, after = self.flock, self.flock
        if self.fold:
            after = before.fed(drawn, START + end, length, self.table)
            hit |= after.eventful(self.policy, START + end, self.table)
            marks.held_s, marks.stage_s, marks.silent_s = after.held_s.copy(), after.stage_s.copy(), after.silent_s.copy()
        rows = np.flatnonzero(hit).tolist()
        for row in rows:
            self._play(row, before, drawn, float(end[row]))
        marks.now, self.flock = end, after
        if rows:
            self._take_up(rows)

    def _length(self) -> Floats:
        """How long the next block of each run is [s]."""
        marks, edges, noise = self.marks, self.truth.edges, self.scenario.noise
        place = np.searchsorted(edges, marks.now + 1e-9, side="right")
        left = np.minimum(np.minimum(edges[place], marks.events_at), self.horizon_s) - marks.now
        if noise.shared or noise.arms:
            left = np.minimum(left, whole(noise.every_s) - (marks.now + 1e-9) % whole(noise.every_s))
        for have, need in (
            (marks.held_s, marks.hold_s),
            (marks.stage_s, marks.limit_s),
            (marks.silent_s, self.policy.when.no_data_after_s),
        ):
            rest = need - have
            left = np.minimum(left, np.where(rest > 1e-9, rest, np.inf))
        left = np.where(marks.hurried, np.minimum(left, FINE_S), left)
        began = np.maximum(marks.changed_at, np.where(place > 0, edges[np.maximum(place - 1, 0)], 0.0))
        return pace(marks.now - began, left)

    def _account(self, drawn: Traffic) -> None:
        """What users meet in the block that begins now."""
        marks = self.marks
        for each in drawn.users:
            marks.candidates += each.requests
        marks.harmed += drawn.harmed
        marks.slowed += drawn.slowed
        marks.met_at = np.where(np.isnan(marks.met_at) & drawn.bad, marks.now, marks.met_at)

    # One run and its engine.

    def _first(self) -> _One:
        """A run as it begins: its pods are ready, unless the scenario says otherwise."""
        arms = self.policy.arms
        opening = engine.adopt(self.policy, now=START)
        none = (0.0,) * len(arms)
        one = _One(state=opening.state, users=none, copies=none, pods=(Pods(ready=PODS, total=PODS),) * len(arms))
        self._absorb(one, opening, 0.0)
        for index, arm in enumerate(arms):
            pods = next((_pods(each) for place, each, begin in self.truth.pods if place == index and begin <= 0), one.pods[index])
            one.pods = (*one.pods[:index], pods, *one.pods[index + 1 :])
            self._tell(one, PodsProbed(identity=arm.identity, pods=pods), 0.0)
        return one

    def _play(self, row: int, before: Flock, drawn: Traffic, end: float) -> None:
        """One block of one run through the engine, and what is due at its end."""
        one, now = self.ones[row], float(self.marks.now[row])
        if not self.marks.direct[row]:
            one.state = before.state(row, one.state, START + now)
        while now + passing.MAX_TICK_S < end - 1e-9:
            now += passing.MAX_TICK_S
            if self.exact or (one.state.mode is Mode.BAKING and one.state.holding):
                self._tell(one, Ticked(), now)
            else:  # nothing can happen in between: see `_length`
                one.state = passing.later(one.state, passing.until(one.state, START + now))
        self._tell(one, EvidenceArrived(block=self._block(row, drawn, now, end)), end)
        for event in self._due_events(one, end):
            if isinstance(event, PodsProbed) and not event.pods.ready and any(one.users) and np.isnan(self.marks.met_at[row]):
                self.marks.met_at[row] = end
            self._tell(one, event, end)
        if one.ack_at <= end + 1e-9:
            self._deliver(one, end)

    def _block(self, row: int, drawn: Traffic, start: float, end: float) -> Block:
        users, shadows, first = {}, {}, self.truth.bins[0]
        for variant, user in zip((self.policy.stable, *self.policy.arms), (drawn.stable, *drawn.users), strict=True):
            if user.requests[row]:
                users[variant.identity] = _counts(user, row, first)
        for variant, copy in zip(self.policy.arms, drawn.copies, strict=True):
            if copy.requests[row]:
                shadows[variant.identity] = _counts(copy, row, first)
        return Block(start=START + start, end=START + end, users=users, shadows=shadows)

    def _due_events(self, one: _One, now: float) -> Iterator[Event]:
        """What happens to a run at a moment, the proxies' answer apart."""
        for index, each, begin in self.truth.pods:
            for edge, pods in ((begin, _pods(each)), (begin + whole(each.for_s), Pods(ready=PODS, total=PODS))):
                if edge > 0 and abs(edge - now) <= 1e-6:
                    one.pods = (*one.pods[:index], pods, *one.pods[index + 1 :])
                    yield PodsProbed(identity=self.policy.arms[index].identity, pods=pods)
        if one.due_at <= now + 1e-9 and one.at is not None:
            one.due_at = np.inf
            if one.at.kind == "approve":
                yield Commanded(verb=Verb.APPROVE, actor="the scenario", reason="approved by the scenario")
            elif one.at.probe is not None:
                asked = max(1, round(one.at.probe.rate_per_s * one.at.probe.for_s))
                for index, arm in enumerate(self.policy.arms):
                    good = self.truth.probe_passes(index, now)
                    found = Probing(asked=asked, good=asked if good else 0, done=True, words="" if good else "it does not answer well")
                    yield Probed(identity=arm.identity, position=one.state.position, probing=found)

    def _tell(self, one: _One, event: Event, now: float) -> None:
        self._absorb(one, engine.step(one.state, event, now=START + now), now)

    def _absorb(self, one: _One, step: Step, now: float) -> None:
        """Does what a step wants done; proxies that are quick act on it at once."""
        one.state = step.state
        for effect in step.effects:
            if isinstance(effect, Publish):
                one.pending, one.ack_at = effect.traffic, now + whole(self.scenario.ack_s)
            elif isinstance(effect, Notify) and effect.record.decision not in {Decision.COMPLETED, Decision.RESUMED}:
                one.because, one.step = effect.record.reason, effect.record.step
        awaited = one.state.mode is Mode.REVERTING or (one.state.arms and not one.state.delivery.complete)
        if one.pending is None and awaited:
            # nothing new is published where the shares stay what they were: the proxies have it already
            one.pending, one.ack_at = traffic(one.state), now + whole(self.scenario.ack_s)
        if one.ack_at <= now:
            self._deliver(one, now)

    def _deliver(self, one: _One, now: float) -> None:
        """The proxies act on what was published, and say so."""
        wanted, one.pending, one.ack_at = one.pending, None, np.inf
        if wanted is None:
            return
        given = {arm.variant.identity: (arm.share_bp, arm.shadow_bp) for arm in wanted.arms} | {wanted.stable.identity: (FULL_BP, 0)}
        shares = [given.get(arm.identity, (0, 0)) for arm in self.policy.arms]
        one.users, one.copies = tuple(share / FULL_BP for share, _ in shares), tuple(copied / FULL_BP for _, copied in shares)
        self._tell(one, Delivered(publication=wanted.publication, delivery=Delivery(selected=1, acked=1)), now)

    # Between two blocks.

    def _take_up(self, rows: Iterable[int]) -> None:
        """Reads what the engine says of some runs; those that have ended leave."""
        rows = list(rows)
        for row in rows:
            self._mark(row)
        if self.fold:
            self.flock = self.flock.put(rows, [self.ones[row].state for row in rows], self.table)
            self.marks.direct = ~self.flock.taken
        else:
            self.marks.direct[:] = True
        over = {row: ended for row in rows if (ended := self._over(row)) is not None}
        self.ended += [self._told(row, ended) for row, ended in over.items()]
        if over:
            left = np.array([row for row in range(len(self.ones)) if row not in over], dtype=np.intp)
            self.ones, self.marks, self.flock = [self.ones[row] for row in left], self.marks.only(left), self.flock.only(left)
            if self.wander is not None:
                self.wander = Wander(stretch=self.wander.stretch[left], shared=self.wander.shared[left], own=self.wander.own[left])

    def _mark(self, row: int) -> None:
        one, marks = self.ones[row], self.marks
        state, now, at = one.state, float(marks.now[row]), stage_of(one.state)
        if at is not one.at or state.mode is Mode.BAKING:
            one.changed_at = now if at is not one.at else one.changed_at
            one.at = at
            one.due_at = self._due_at(at, now) if at is not None and one.changed_at == now else one.due_at
        edges = [edge for _, each, begin in self.truth.pods for edge in (begin, begin + whole(each.for_s)) if edge > now + 1e-6]
        marks.users[row], marks.copies[row] = one.users, one.copies
        marks.gone[row] = [not pods.ready for pods in one.pods]
        marks.events_at[row] = min([one.ack_at, one.due_at, *edges])
        marks.changed_at[row] = one.changed_at
        marks.hold_s[row] = state.bake_s if state.mode is Mode.BAKING else at.hold.for_s if at is not None else np.inf
        marks.limit_s[row] = _limit_s(self.policy, at, approved=state.approved)
        marks.held_s[row], marks.stage_s[row] = state.held_s, state.stage_s
        marks.silent_s[row] = max((arm.silent_s for arm in state.running), default=0.0)
        marks.hurried[row] = any(0 < arm.gone_s < verdicts.GONE_S for arm in state.running) or (
            marks.gone[row].any() and now == one.changed_at
        )

    def _due_at(self, at: Stage, now: float) -> float:
        """When a stage's own question is answered [s since the start]."""
        if at.kind == "approve" and self.scenario.approve_after_s is not None:
            return now + max(whole(self.scenario.approve_after_s), INSTANT)
        return now + whole(at.probe.for_s) if at.probe is not None else np.inf

    def _over(self, row: int) -> Ended | None:
        state = self.ones[row].state
        if state.mode is Mode.PROMOTED:
            return "promoted"
        if state.mode is Mode.REVERTED:
            return "reverted"
        frozen = any(each.source == "gate" for each in state.freezes)  # nobody thaws it
        return "held" if frozen or self.marks.now[row] >= self.horizon_s - 1e-6 else None

    def _told(self, row: int, ended: Ended) -> Run:
        one, marks = self.ones[row], self.marks
        met, now = not np.isnan(marks.met_at[row]), float(marks.now[row])
        because = why_held(one.state) if ended == "held" else one.because
        return Run(
            ended=ended,
            ended_s=now,
            took_s=now - float(marks.met_at[row]) if met and ended == "reverted" else now,
            met=bool(met),
            code=because.code,
            gate=str(because.facts.get("gate") or ""),
            step=str(because.facts.get("step") or one.step),
            harmed=float(marks.harmed[row]),
            slowed=float(marks.slowed[row]),
            candidates=int(marks.candidates[row]),
        )


def _limit_s(policy: RolloutPolicy, at: Stage | None, *, approved: bool) -> float:
    """How long a stage may last before its deadline does something [s]."""
    if at is not None and (at.kind == "ab" or (at.kind == "approve" and not approved)):
        return at.within_s
    return policy.when.stuck_after_s


def _pods(incident: Incident) -> Pods:
    return Pods(ready=incident.ready, total=incident.total, words="" if incident.ready else "the scenario took them away")


def _counts(counted: Counted, row: int, first: int) -> Counts:
    latency = histogram(counted.latency[row], first).latency if counted.latency is not None else ()
    return Counts(requests=int(counted.requests[row]), errors=int(counted.errors[row]), latency=latency)


def why_held(state: Rollout) -> Reason:
    """What keeps a run that is given up: its hold or freeze, else that its step waits; what was told last may be over long since."""
    if state.holding or state.freezes:
        return state.because
    return Reason(code="waiting", facts={"step": verdicts.label(state)})
