"""A policy replayed on what was recorded: each block through the real engine, at the time it had.

A recording has the traffic of the shares that were in force then. Where the policy gives a variant less, its requests are thinned at random to
what it would have got; where the policy gives more there is nothing to add, and the variant is seen as little as it was: a decision comes later
than it would have. That is told (`Replayed.short`). Where the recording knows no shares its counts are taken as they are.
Mirrored copies are taken to be answered as users were, proxies act at once, pods are ready, probes succeed and approvals are given. The release
begins with the first request of an arm; what was seen of stable before is known to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from policies import engine, passing
from policies.evidence import NOTHING, Counts, Halves
from policies.evidence import Block as Seen
from policies.replay.blocks import Block, Recording
from policies.replay.simulate import PODS, START, Ended, Run, why_held
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
    Step,
    Ticked,
    Verb,
)
from policies.spec.policy import FULL_BP, STABLE, RolloutPolicy, Variant
from policies.traffic import Traffic
from policies.wish import stage, traffic

DRAWN_MAX = 10**9
"""Fewer than so many requests can numpy draw without replacement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One run of a policy on a recording.

    Attributes:
        run: How it ended. `ended_s` counts from the start of the recording, `took_s` from the first request of an arm; `met` is False, because
            what was true of a recorded arm is not known; `harmed` are the arms' errors above what as many requests of stable had.
        blocks: Blocks until then.
        short: Of these, those of the release in which the policy would have given an arm more than was
            recorded.
        drawn: Whether chance had a part in it; if not, every run ends alike.
    """

    run: Run
    blocks: int
    short: int
    drawn: bool


class UnfitError(ValueError):
    """A recording that has not all that the policy rolls out."""


def replay(policy: RolloutPolicy, recording: Recording, *, random: np.random.Generator) -> Replayed:
    """A policy on a recording, which has its variants under the same names.

    Args:
        random: Draws the requests where the policy gives less than was in force; else the outcome has nothing to do with chance.

    Raises: UnfitError: If an arm, or stable, is not in the recording.
    """
    seen = {name for block in recording for name in block.arms}
    missing = [variant.name for variant in (policy.stable, *policy.arms) if variant.name not in seen]
    if missing or not policy.arms:
        raise UnfitError(f"it has nothing of {', '.join(missing) or 'an arm'}; it has {', '.join(sorted(seen)) or 'no requests at all'}")
    player = _Player(policy, recording, random)
    for block in recording:
        player.take(block)
        if player.ended is not None:
            break
    return player.told()


class _Player:
    """One run: its engine and what its proxies do."""

    def __init__(self, policy: RolloutPolicy, recording: Recording, random: np.random.Generator) -> None:
        self._policy, self._random = policy, random
        self._variants: tuple[Variant, ...] = (policy.stable, *policy.arms)
        self._in_force = list(recording.in_force)
        self._recorded: Mapping[str, float] = {}
        arms = {arm.name for arm in policy.arms}
        self._begins = next(block.at for block in recording if not arms.isdisjoint(block.arms))
        self._began: float | None = None
        self._now, self._blocks, self._short, self._drawn = 0.0, 0, 0, False
        self._users: Mapping[str, float] = {STABLE: 1.0}
        self._copies: Mapping[str, float] = {}
        self._pending: Traffic | None = None
        self._seen: dict[str, tuple[int, int]] = {}
        """Variant name -> (requests, errors) of users so far."""
        self._because, self._step = Reason(code="idle"), ""
        opening = engine.adopt(policy, now=START)
        self._state = opening.state
        self._absorb(opening)
        for arm in policy.arms:
            self._tell(PodsProbed(identity=arm.identity, pods=Pods(ready=PODS, total=PODS)))

    @property
    def ended(self) -> Ended | None:
        """How it ended; None = it did not yet."""
        ends: dict[Mode, Ended] = {Mode.PROMOTED: "promoted", Mode.REVERTED: "reverted"}
        return ends.get(self._state.mode)

    def take(self, block: Block) -> None:
        """Time passes until the end of the block, and then it is seen."""
        if self._began is None and block.at >= self._begins:
            self._began = self._now
            self._deliver()
        while self._now + passing.MAX_TICK_S < block.at:
            self._now += passing.MAX_TICK_S
            self._tell(Ticked())
            if self.ended is not None:
                return
        start, self._now = self._now, block.at
        while self._in_force and self._in_force[0].at <= block.at:
            arms = {name: share / FULL_BP for name, share in self._in_force.pop(0).shares.items()}
            self._recorded = arms | {STABLE: 1.0 - sum(arms.values())}
        self._blocks += 1
        if self._state.mode is Mode.STEP:  # a new stable has everything
            self._short += any(0.0 < self._recorded.get(arm.name, 0.0) < self._users.get(arm.name, 0.0) for arm in self._policy.arms)
        self._tell(EvidenceArrived(block=self._seen_of(block, start)))
        self._answer()

    def told(self) -> Replayed:
        ended = self.ended or ("promoted" if self._state.mode is Mode.BAKING else "held")
        because = why_held(self._state) if ended == "held" else self._because
        requests, errors = self._seen.get(STABLE, (0, 0))
        usual = errors / requests if requests else 0.0
        arms = [self._seen[arm.name] for arm in self._policy.arms if arm.name in self._seen]
        run = Run(
            ended=ended,
            ended_s=self._now,
            took_s=self._now - (self._began or 0.0),
            met=False,
            code=because.code,
            gate=str(because.facts.get("gate") or ""),
            step=str(because.facts.get("step") or self._step),
            harmed=sum(bad - number * usual for number, bad in arms),
            candidates=sum(number for number, _ in arms),
        )
        return Replayed(run=run, blocks=self._blocks, short=self._short, drawn=self._drawn)

    # What users of this policy would have seen.

    def _seen_of(self, block: Block, start: float) -> Seen:
        users, shadows, halves = dict[str, Counts](), dict[str, Counts](), dict[str, Halves]()
        for variant in self._variants:
            name, seen = variant.name, block.arms.get(variant.name, NOTHING)
            part, copied = (self._part(name, wanted) for wanted in (self._users, self._copies))
            self._drawn |= seen != NOTHING and (0.0 < part < 1.0 or 0.0 < copied < 1.0)
            if part > 0.0 and seen != NOTHING:
                users[variant.identity] = counts = _thinned(seen, part, self._random)
                requests, errors = self._seen.get(name, (0, 0))
                self._seen[name] = requests + counts.requests, errors + counts.errors
            if part == 1.0 and name in block.halves:
                halves[variant.identity] = block.halves[name]
            if copied > 0.0 and seen != NOTHING:
                shadows[variant.identity] = _thinned(seen, copied, self._random)
        return Seen(start=START + start, end=START + block.at, users=users, shadows=shadows, halves=halves)

    def _part(self, name: str, wanted: Mapping[str, float]) -> float:
        """Which part of a variant's recorded requests the policy would have had."""
        want, had = wanted.get(name, 0.0), self._recorded.get(name, 0.0)
        return min(1.0, want / had) if had > 0.0 else float(want > 0.0)

    # The engine and its proxies.

    def _tell(self, event: Event) -> None:
        self._absorb(engine.step(self._state, event, now=START + self._now))

    def _absorb(self, step: Step) -> None:
        self._state = step.state
        for effect in step.effects:
            if isinstance(effect, Publish):
                self._pending = effect.traffic
            elif isinstance(effect, Notify) and effect.record.decision not in {Decision.COMPLETED, Decision.RESUMED}:
                self._because, self._step = effect.record.reason, effect.record.step
        if self._began is not None:
            self._deliver()

    def _deliver(self) -> None:
        """The proxies act on what was published. Nothing new is where the shares stay: they have it already."""
        awaited = self._state.mode is Mode.REVERTING or (self._state.arms and not self._state.delivery.complete)
        wanted = self._pending or (traffic(self._state) if awaited else None)
        if wanted is None:
            return
        self._pending = None
        users = {arm.variant.name: arm.share_bp / FULL_BP for arm in wanted.arms}
        stable = next((each.name for each in self._variants if each.identity == wanted.stable.identity), STABLE)
        self._users = users | {stable: 1.0 - sum(users.values())}
        self._copies = {arm.variant.name: arm.shadow_bp / FULL_BP for arm in wanted.arms if arm.shadow_bp}
        self._tell(Delivered(publication=wanted.publication, delivery=Delivery(selected=1, acked=1)))

    def _answer(self) -> None:
        """Gives what a stage asks of people and probes."""
        at = stage(self._state)
        if at is not None and at.kind == "approve" and not self._state.approved:
            self._tell(Commanded(verb=Verb.APPROVE, actor="the replay", reason="approvals are given at once"))
        elif at is not None and at.probe is not None:
            asked = max(1, round(at.probe.rate_per_s * at.probe.for_s))
            for arm in self._policy.arms:
                found = Probing(asked=asked, good=asked, done=True)
                self._tell(Probed(identity=arm.identity, position=self._state.position, probing=found))


def _thinned(counts: Counts, part: float, random: np.random.Generator) -> Counts:
    """A random part of the requests; which of them were slow and which failed is not known, so errors are drawn apart."""
    if part >= 1.0:
        return counts
    latency = _pairs(counts.latency, part, random)
    good = counts.requests - counts.errors
    if sum(count for _, count in counts.latency) == counts.requests < DRAWN_MAX:
        requests = sum(count for _, count in latency)
        errors = int(random.hypergeometric(counts.errors, good, requests)) if requests else 0
    else:
        errors = int(random.binomial(counts.errors, part))
        requests = errors + int(random.binomial(good, part))
    return Counts(requests=requests, errors=errors, latency=latency, ttft=_pairs(counts.ttft, part, random))


def _pairs(bins: tuple[tuple[int, int], ...], part: float, random: np.random.Generator) -> tuple[tuple[int, int], ...]:
    return tuple((place, int(kept)) for place, count in bins if (kept := random.binomial(count, part)))
