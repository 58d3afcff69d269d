"""`step(state, event, *, now) -> Step`: every decision Crossfade takes, pure and total.

A rollout is idle, on its way (warming, then stage by stage), reverting, reverted, promoting, baking or promoted (`Mode`). One event comes
in, one `Step` goes out: the new state, the effects in their written order (persist, publish, notify) and the reason. What the state wants
from the proxies is `policies.wish.traffic(state)`; whenever that changes, the publication number grows and the proxies must ACK anew.

Laws (each a property test): a share above 0 needs a stage that says so; revert is reachable from every release and needs nothing but
this function; a stage ends by itself only when the proxies ACKed it, its hold is served and every gate says PASS; the same command twice
acts once.
Edits of the policy are in `policies.edits`, gates in `policies.gates`, sentences in `policies.explain`.
"""

from dataclasses import replace
from typing import assert_never

from policies import edits, verdicts, wish
from policies.evidence import NOTHING, Block
from policies.outcome import Outcome, decided, nothing, refused
from policies.release import enter, enter_next, hold, keep_stable_for_s, promote, resume, revert
from policies.rollout import (
    IN_RELEASE,
    Commanded,
    Decision,
    Delivered,
    Delivery,
    Effect,
    Event,
    EvidenceArrived,
    Fact,
    Mode,
    Notify,
    Persist,
    PodsProbed,
    PolicyChanged,
    PolicyRemoved,
    Publish,
    Reason,
    Record,
    Restarted,
    Rollout,
    Step,
    Ticked,
    Verb,
    Withdraw,
)
from policies.spec.policy import RolloutPolicy, Then

MAX_TICK_S = 5.0
"""The longest time one event may add to a running hold [s]: more means that we were away or the clock jumped."""

KEPT_COMMANDS = 64
"""Idempotency keys remembered per rollout."""


def adopt(policy: RolloutPolicy, *, now: float) -> Step:
    """The first step of a rollout never seen before: its stable is committed, its candidate (if any) starts warming."""
    state = Rollout(name=policy.name, policy=policy, stable=policy.stable, declared_stable=policy.stable.identity, clock=now, since=now)
    first = decided(state, Decision.ADOPTED, Reason(code="adopted", facts={"stable": policy.stable.version}))
    return _settle(None, edits.consider(first, now=now), now=now)


def step(state: Rollout, event: Event, *, now: float) -> Step:
    """What one event makes of a rollout.

    Args:
        now: Seconds since the epoch, UTC. May jump: only its small differences are used.
    """
    restarted = isinstance(event, Restarted)
    outcome = _handle(replace(state, clock=now) if restarted else _pass_time(state, now), event, now)
    if not outcome.refused and outcome.state.mode is Mode.STEP:
        outcome = _judge(outcome, now)
    return _settle(state, outcome, now=now, again=restarted)


def _pass_time(state: Rollout, now: float) -> Rollout:
    passed = min(max(now - state.clock, 0.0), MAX_TICK_S)
    state = replace(state, clock=now)
    if state.mode is Mode.STEP and not state.paused:
        state = replace(state, stage_s=state.stage_s + passed)
    if state.mode in {Mode.STEP, Mode.BAKING} and not state.paused and state.delivery.complete:
        state = replace(state, held_s=state.held_s + passed, silent_s=state.silent_s + passed)
    return state


def _handle(state: Rollout, event: Event, now: float) -> Outcome:
    match event:
        case PolicyChanged(policy=policy):
            return edits.changed(state, policy, now=now)
        case PolicyRemoved():
            return edits.removed(state)
        case Restarted():
            return nothing(replace(state, delivery=Delivery(), in_effect_bp=0, shadow_in_effect_bp=0))
        case Delivered():
            return _delivered(state, event, now)
        case PodsProbed(identity=identity, pods=pods):
            if state.candidate is None or state.candidate.identity != identity:
                return nothing(state)
            return _maybe_enter(nothing(replace(state, pods=pods)), now)
        case EvidenceArrived(block=block):
            return nothing(_take_in(state, block, now))
        case Commanded():
            return _commanded(state, event, now)
        case Ticked():
            return _baked(nothing(state), now)
        case _:  # pragma: no cover
            assert_never(event)


def _delivered(state: Rollout, event: Delivered, now: float) -> Outcome:
    if event.publication != state.publication:
        return nothing(state)
    had_rejected = state.delivery.rejected
    state = replace(state, delivery=event.delivery)
    if event.delivery.rejected and not had_rejected:
        return _rejected(state, event.delivery, now)
    if event.delivery.complete:
        at = wish.stage(state)
        state = replace(state, in_effect_bp=at.share_bp if at else 0, shadow_in_effect_bp=at.shadow_bp if at else 0)
    if state.incoming is not None and event.delivery.acked >= event.delivery.selected and not event.delivery.rejected:
        return edits.recommitted(state, now=now)
    # With no proxy connected there is nobody left who could give the candidate a request.
    if state.mode is Mode.REVERTING and event.delivery.acked >= event.delivery.selected:
        state = replace(state, mode=Mode.REVERTED, in_effect_bp=0, shadow_in_effect_bp=0)
        return decided(
            state, Decision.COMPLETED, Reason(code="all_on_stable", facts={"proxies": event.delivery.acked, "stable": state.stable.version})
        )
    if state.mode is Mode.PROMOTING and event.delivery.complete:
        state = replace(state, mode=Mode.BAKING, held_s=0.0, since=now)
    return _baked(_maybe_enter(nothing(state), now), now)


def _rejected(state: Rollout, delivery: Delivery, now: float) -> Outcome:
    """A NACK: the proxy's own words stop the release."""
    reason = _nacked(delivery)
    if state.mode in IN_RELEASE or state.mode is Mode.PROMOTING:
        if state.policy.when.nack is Then.REVERT:
            return revert(nothing(state), reason, now=now)
        return hold(nothing(state), reason)
    return decided(state, Decision.HELD, reason)


def _nacked(delivery: Delivery) -> Reason:
    return Reason(code="nacked", facts={"rejected": delivery.rejected, "selected": delivery.selected, "words": delivery.words})


def _maybe_enter(outcome: Outcome, now: float) -> Outcome:
    """Warming ends when every proxy has the candidate's clusters and one of its pods is ready."""
    state = outcome.state
    if state.mode is Mode.WARMING and not state.paused and state.delivery.complete and state.pods.ready > 0:
        return enter(outcome, 0, now=now)
    return outcome


def _baked(outcome: Outcome, now: float) -> Outcome:
    """The old version is let go when it was kept long enough."""
    state = outcome.state
    if state.mode is not Mode.BAKING or state.held_s < keep_stable_for_s(state):
        return outcome
    state = replace(state, mode=Mode.PROMOTED, previous=None, leaving=None, since=now)
    reason = Reason(code="promoted", facts={"stable": state.stable.version})
    return decided(replace(state, because=reason), Decision.COMPLETED, reason)


def _take_in(state: Rollout, block: Block, now: float) -> Rollout:
    """Adds a block of evidence to the gates that the current stage feeds and to the stage's samples."""
    at = wish.stage(state)
    if at is None or state.candidate is None:
        return state
    seen = block.shadows if at.kind == "shadow" else block.users
    stable = block.users.get(state.stable.identity, NOTHING)
    candidate = seen.get(state.candidate.identity, NOTHING)
    return verdicts.feed(state, at, stable, candidate, now=now)


def _commanded(state: Rollout, event: Commanded, now: float) -> Outcome:
    if event.key and event.key in state.commands:
        return nothing(state)
    outcome = _obey(nothing(state), event, now)
    if outcome.refused or not event.key:
        return outcome
    return outcome.with_state(replace(outcome.state, commands=(*outcome.state.commands, event.key)[-KEPT_COMMANDS:]))


def _obey(outcome: Outcome, event: Commanded, now: float) -> Outcome:
    state = outcome.state
    said: dict[str, Fact] = {"by": event.actor, "said": event.reason}
    match event.verb:
        case Verb.ABORT:
            if state.mode in IN_RELEASE or state.mode in {Mode.PROMOTING, Mode.BAKING}:
                return revert(outcome, Reason(code="aborted", facts=said), now=now, actor=event.actor)
            if state.mode in {Mode.REVERTING, Mode.REVERTED}:
                return outcome
            return refused(state, "refused.nothing_to_abort", mode=state.mode.value)
        case Verb.PROMOTE:
            if state.mode is Mode.STEP or (state.mode is Mode.WARMING and state.delivery.complete and state.pods.ready > 0):
                return promote(outcome, Reason(code="promoted_by_hand", facts=said), now=now, actor=event.actor)
            return refused(state, "refused.nothing_to_promote", mode=state.mode.value)
        case Verb.PAUSE:
            if state.mode not in IN_RELEASE:
                return refused(state, "refused.nothing_to_pause", mode=state.mode.value)
            if state.paused:
                return outcome
            reason = Reason(code="paused", facts=said)
            return outcome.then(replace(state, paused=True, because=reason), Decision.PAUSED, reason, actor=event.actor)
        case Verb.RESUME:
            if not state.paused:
                return refused(state, "refused.not_paused", mode=state.mode.value)
            reason = Reason(code="resumed_by_hand", facts=said)
            resumed = outcome.then(replace(state, paused=False, because=reason), Decision.RESUMED, reason, actor=event.actor)
            return _maybe_enter(resumed, now)
        case _:  # pragma: no cover
            assert_never(event.verb)


def _judge(outcome: Outcome, now: float) -> Outcome:
    """Looks at everything that can end or hold the current stage, in order of urgency."""
    state = outcome.state
    when = state.policy.when
    readings = verdicts.readings(state, now=now)
    failure = verdicts.failure(state, readings)
    if failure is not None:
        return revert(outcome, failure, now=now) if when.fail is Then.REVERT else hold(outcome, failure)
    silence = verdicts.silence(state)
    if silence is not None:
        return revert(outcome, silence, now=now) if when.no_data is Then.REVERT else hold(outcome, silence)
    missing = verdicts.waiting_for(state, readings)
    if missing and state.stage_s >= when.stuck_after_s:
        stuck = Reason(code="stuck", facts={"after_s": when.stuck_after_s, "step": verdicts.label(state)})
        return revert(outcome, stuck, now=now) if when.stuck is Then.REVERT else hold(outcome, stuck)
    if state.delivery.rejected:
        return hold(outcome, _nacked(state.delivery))
    if state.paused or state.orphan is not None:
        return outcome
    if not missing:
        return enter_next(outcome, verdicts.passed(state, readings), now=now)
    if all(item.kind == "gate" for item in missing):
        return hold(outcome, verdicts.undecided(state, missing, readings))
    return resume(outcome, state.holding)


def _settle(before: Rollout | None, outcome: Outcome, *, now: float, again: bool = False) -> Step:
    """Numbers a changed wish and writes the effects in their order."""
    state = outcome.state
    wanted = wish.traffic(state)
    changed = before is None or not wish.same(wish.traffic(before), wanted)
    if changed:
        state = replace(state, publication=state.publication + 1, delivery=Delivery())
        wanted = wish.traffic(state)
    records = tuple(_record(state, decision, reason, actor, now) for decision, reason, actor in outcome.decisions)
    effects: tuple[Effect, ...] = ()
    if changed or records:
        effects += (Persist(records=records),)
    if changed or again:
        effects += (Publish(traffic=wanted) if wanted else Withdraw(rollout=state.name),)
    effects += tuple(Notify(record=record) for record in records)
    because = outcome.because or (records[-1].reason if records else state.because)
    return Step(state=state, effects=effects, because=because, refused=outcome.refused)


def _record(state: Rollout, decision: Decision, reason: Reason, actor: str, now: float) -> Record:
    at = wish.stage(state)
    return Record(
        at=now,
        rollout=state.name,
        generation=state.generation,
        publication=state.publication,
        decision=decision,
        reason=reason,
        step=at.label if at else "",
        share_bp=at.share_bp if at else 0,
        stable=state.stable.version,
        candidate=state.candidate.version if state.candidate else "",
        actor=actor or "crossfade",
    )
