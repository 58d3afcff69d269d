"""`step(state, event, *, now) -> Step`: every decision Crossfade takes, pure and total.

A rollout is idle, on its way (warming, then stage by stage), reverting, reverted, promoting, baking or promoted (`Mode`). One event comes
in, one `Step` goes out: the new state, the effects in their written order (persist, publish, notify) and the reason. What the state wants
from the proxies is `policies.wish.traffic(state)`; whenever that changes, the publication number grows and the proxies must ACK anew.

Laws (each a property test): a share above 0 needs a stage that says so; revert is reachable from every release and needs nothing but
this function; a stage ends by itself only when the proxies ACKed it, its hold is served and every gate says PASS; nothing grows while
frozen; the same command twice acts once.
Edits of the policy are in `policies.edits`, verbs in `policies.verbs`, gates in `policies.gates`, sentences in `policies.explain`.
"""

from dataclasses import replace
from typing import assert_never

from policies import capacity, contest, edits, intake, passing, verbs, verdicts, wish
from policies.gates import Reading
from policies.lanes import WHOLE, Lane
from policies.outcome import Outcome, Taken, decided, nothing
from policies.release import act, enter, enter_next, failure_of, freeze, hold, note, resume, revert, unfreeze, win
from policies.rollout import (
    IN_RELEASE,
    KEEPING,
    ArmState,
    Commanded,
    Decision,
    Delivered,
    Delivery,
    Effect,
    Event,
    EvidenceArrived,
    Freeze,
    Mode,
    Notify,
    Persist,
    PodsProbed,
    PolicyChanged,
    PolicyRemoved,
    Probed,
    Probing,
    Publish,
    Reason,
    Record,
    Restarted,
    Rollout,
    SourceReported,
    Step,
    Ticked,
    Verb,
    WindowChanged,
    Withdraw,
)
from policies.spec.policy import RolloutPolicy, Then, Variant
from policies.steps import Stage, stages

ROLLBACK_S = 10.0
"""How long a rollback waits for proxies that do not answer before the earlier version serves all the same [s]."""

KEPT_COMMANDS = 64
"""Idempotency keys remembered per rollout."""

Seen = tuple[tuple[ArmState, tuple[Reading, ...]], ...]


def adopt(policy: RolloutPolicy, *, now: float, lane: Lane | None = WHOLE) -> Step:
    """The first step of a rollout never seen before: its stable is committed, its arms (if any) start warming."""
    state = Rollout(
        name=policy.name,
        policy=policy,
        stable=policy.stable,
        declared_stable=policy.stable.identity,
        lane=lane or Lane(start_bp=0, width_bp=0),
        clock=now,
        since=now,
    )
    first = decided(state, Decision.ADOPTED, Reason(code="adopted", facts={"stable": policy.stable.version}))
    return _settle(None, edits.consider(first, now=now), now=now)


def step(state: Rollout, event: Event, *, now: float) -> Step:
    """What one event makes of a rollout.

    Args:
        now: Seconds since the epoch, UTC. May jump: only its small differences are used.
    """
    restarted = isinstance(event, Restarted)
    outcome = _handled(state, event, now)
    if not outcome.refused:
        if outcome.state.mode is Mode.STEP:
            outcome = _judge(outcome, now)
        elif outcome.state.mode is Mode.WARMING:
            outcome = _judge_warming(outcome, now)
        elif outcome.state.mode in KEEPING:
            outcome = _judge_bake(outcome, now)
    return _settle(state, outcome, now=now, again=restarted)


def _handled(state: Rollout, event: Event, now: float) -> Outcome:
    """The time that has passed, and what has happened; a restart forgets the time in between."""
    if isinstance(event, EvidenceArrived):
        return _onward(nothing(intake.take_in(state, event.block, passing.until(state, now))), now)
    timed = replace(state, clock=now) if isinstance(event, Restarted) else passing.later(state, passing.until(state, now))
    return _handle(timed, event, now)


def _handle(state: Rollout, event: Event, now: float) -> Outcome:
    match event:
        case PolicyChanged():
            return edits.changed(state, event, now=now)
        case PolicyRemoved():
            return edits.removed(state)
        case Restarted():
            return nothing(_woken(state))
        case Delivered():
            return _delivered(state, event, now)
        case PodsProbed(identity=identity, pods=pods):
            return _onward(nothing(capacity.probed(state, identity, pods)), now)
        case Probed():
            return nothing(_probing(state, event))
        case WindowChanged(words=words):
            return _window(state, words, now)
        case SourceReported(words=words):
            return nothing(replace(state, source_words=words))
        case EvidenceArrived():  # pragma: no cover - `_handled` has taken it
            return nothing(state)
        case Commanded():
            return _commanded(state, event, now)
        case Ticked():
            return _onward(nothing(capacity.settled(state)), now)
        case _:  # pragma: no cover
            assert_never(event)


def _woken(state: Rollout) -> Rollout:
    """After a restart: leases may have run out, and a probe that was under way begins again."""
    arms = tuple(replace(arm, in_effect_bp=0, shadow_in_effect_bp=0, probing=_again(arm.probing)) for arm in state.arms)
    return replace(state, delivery=Delivery(), arms=arms)


def _again(probing: Probing) -> Probing:
    return probing if probing.done else Probing()


def _delivered(state: Rollout, event: Delivered, now: float) -> Outcome:
    if event.publication != state.publication:
        return nothing(state)
    had_rejected = state.delivery.rejected
    state = replace(state, delivery=event.delivery)
    if event.delivery.rejected and not had_rejected:
        return _rejected(state, event.delivery, now)
    if event.delivery.complete:
        state = _in_effect(state)
    if state.incoming is not None and _known(state, event.delivery):
        return edits.recommitted(state, now=now)
    # With no proxy connected there is nobody left who could give an arm a request.
    if state.mode is Mode.REVERTING and event.delivery.acked >= event.delivery.selected:
        arms = tuple(replace(arm, in_effect_bp=0, shadow_in_effect_bp=0) for arm in state.arms)
        state = replace(state, mode=Mode.REVERTED, arms=arms)
        return decided(
            state, Decision.COMPLETED, Reason(code="all_on_stable", facts={"proxies": event.delivery.acked, "stable": state.stable.version})
        )
    if state.mode is Mode.PROMOTING and event.delivery.complete:
        state = replace(state, mode=Mode.BAKING, held_s=0.0, since=now)
    return _onward(nothing(state), now)


def _known(state: Rollout, delivery: Delivery) -> bool:
    """Whether a stable that is on its way may serve: every proxy has it. A rollback asks only those that do not reject what they are sent."""
    if state.rolled_back:
        return delivery.acked + delivery.rejected >= delivery.selected
    return delivery.acked >= delivery.selected and not delivery.rejected and not state.freezes


def _in_effect(state: Rollout) -> Rollout:
    """What was wanted is what the proxies have."""
    wanted = wish.traffic(state)
    have = {arm.variant.name: arm for arm in wanted.arms} if wanted else {}
    arms = tuple(
        replace(arm, in_effect_bp=have[arm.name].share_bp, shadow_in_effect_bp=have[arm.name].shadow_bp) if arm.name in have else arm
        for arm in state.arms
    )
    return replace(state, arms=arms)


def _rejected(state: Rollout, delivery: Delivery, now: float) -> Outcome:
    """A NACK: the proxy's own words stop the release."""
    reason = _nacked(delivery)
    if state.mode in IN_RELEASE or state.mode is Mode.PROMOTING:
        return act(nothing(state), state.policy.when.nack, reason, now=now)
    return note(nothing(state), reason)


def _nacked(delivery: Delivery) -> Reason:
    return Reason(code="nacked", facts={"rejected": delivery.rejected, "selected": delivery.selected, "words": delivery.words})


def _onward(outcome: Outcome, now: float) -> Outcome:
    """What happens by itself as soon as it can, whichever event it was that made it possible."""
    state = outcome.state
    if state.incoming is not None and state.rolled_back and (state.stage_s >= ROLLBACK_S or _is_warm(state, state.incoming)):
        return edits.recommitted(state, now=now)
    return _baked(_maybe_enter(outcome, now), now)


def _is_warm(state: Rollout, variant: Variant) -> bool:
    return variant.identity in {each.identity for each in state.leaving}


def _maybe_enter(outcome: Outcome, now: float) -> Outcome:
    """Warming ends when every proxy has the arms' clusters, each arm has a ready pod, and stable is known where the first stage leaves it nothing."""
    state = outcome.state
    if state.mode is not Mode.WARMING:
        return outcome
    able = state.delivery.complete and not state.paused and not state.freezes and wish.fits(state)
    known = not verdicts.baseline(state, next(iter(stages(state.policy)), None))
    if able and known and all(arm.pods.ready > 0 for arm in state.running):
        return enter(outcome, 0, now=now)
    return outcome


def _baked(outcome: Outcome, now: float) -> Outcome:
    """The old version is let go when it was kept long enough."""
    state = outcome.state
    if state.mode is not Mode.BAKING or state.held_s < state.bake_s:
        return outcome
    state = replace(state, mode=Mode.PROMOTED, previous=None, leaving=(), arms=(), since=now)
    reason = Reason(code="promoted", facts={"stable": state.stable.version})
    return edits.consider(outcome.then(state, Decision.COMPLETED, reason), now=now)


def _probing(state: Rollout, event: Probed) -> Rollout:
    at = wish.stage(state)
    if at is None or at.kind != "probe" or event.position != state.position:
        return state
    arms = tuple(
        replace(arm, probing=event.probing) if arm.variant.identity == event.identity and not arm.probing.done else arm
        for arm in state.arms
    )
    return replace(state, arms=arms)


def _window(state: Rollout, words: str, now: float) -> Outcome:
    """A freeze window of the policy begins or ends."""
    known = any(each.source == "window" for each in state.freezes)
    if words:
        return freeze(nothing(state), Freeze(source="window", words=words), Reason(code="window", facts={"window": words}))
    if not known:
        return nothing(state)
    return _maybe_enter(unfreeze(nothing(state), ("window",), Reason(code="window_over")), now)


def _commanded(state: Rollout, event: Commanded, now: float) -> Outcome:
    said = f"{event.verb.value} {event.key}"
    if event.key and said in state.commands and event.verb is not Verb.ABORT:
        return nothing(state)
    outcome = verbs.obey(nothing(state), event, now=now)
    if outcome.refused:
        return outcome
    outcome = _onward(outcome, now)
    if not event.key or said in state.commands:
        return outcome
    return outcome.with_state(replace(outcome.state, commands=(*outcome.state.commands, said)[-KEPT_COMMANDS:]))


def _seen(state: Rollout, now: float) -> Seen:
    return tuple((arm, verdicts.readings(state, arm, now=now)) for arm in state.running)


def _judge(outcome: Outcome, now: float) -> Outcome:
    """Looks at everything that can end or hold the current stage, in order of urgency: failures, deadlines and silence, progress."""
    before, seen, failing = outcome, _seen(outcome.state, now), False
    for arm, said in seen:
        outcome, failed = _judge_arm(outcome, arm.name, said, now)
        failing = failing or failed
    state = outcome.state
    if state.mode is not Mode.STEP:
        return outcome
    if outcome is not before:
        seen = _seen(state, now)
    missing = verdicts.waiting_for(state, seen)
    late = _urgent(_late(state, missing), _silent(state, seen))
    if late is not None and (late[0] is Then.REVERT or not failing):
        then, reason, silent = late
        acted = _once(outcome, then, reason, silent, now)
        # an arm was taken out: the others may be just as silent
        return _judge(acted, now) if len(acted.state.running) < len(state.running) and acted.state.mode is Mode.STEP else acted
    if failing:
        return outcome
    if state.overruled and late is None:
        outcome = outcome.with_state(replace(state, overruled=()))
    return _progress(outcome, seen, missing, now)


def _urgent(late: "Late | None", silent: "Late | None") -> "Late | None":
    """The one to act on: what reverts is never put off by what only holds."""
    return late if late is not None and (late[0] is Then.REVERT or silent is None) else silent or late


def _progress(outcome: Outcome, seen: Seen, missing: tuple[verdicts.Waiting, ...], now: float) -> Outcome:
    """On to the next stage, if nothing is missing and nobody hinders it."""
    state = outcome.state
    at = wish.stage(state)
    if state.delivery.rejected:
        return hold(outcome, _nacked(state.delivery))
    if state.paused or state.freezes or state.orphan is not None or at is None:
        return outcome
    if at.kind == "ab" and not state.winner:
        outcome = _contested(outcome, at, seen, missing)
        return _judge(outcome, now) if outcome.state.winner else resume(outcome, state.holding)
    if not missing:
        return enter_next(outcome, verdicts.passed(state, seen), now=now)
    if all(item.kind in {"gate", "goal", "radius", "ratio"} for item in missing):
        return hold(outcome, verdicts.undecided(state, missing, seen))
    return resume(outcome, state.holding)


def _judge_arm(outcome: Outcome, name: str, said: tuple[Reading, ...], now: float) -> tuple[Outcome, bool]:
    """Whether one arm has failed; True if it has and is still in."""
    state = outcome.state
    arm = next((each for each in state.running if each.name == name), None)
    failed = verdicts.failure(state, arm, said) if arm is not None and state.mode is Mode.STEP else None
    if failed is None:
        return outcome, False
    outcome = _once(outcome, state.policy.when.fail, failed, arm, now)
    return outcome, any(each.name == name for each in outcome.state.running)


def _once(outcome: Outcome, then: Then, reason: Reason, arm: ArmState | None, now: float) -> Outcome:
    """`act`, but a freeze that the policy asked for is asked for once, and not again for what a person has overruled: that only holds."""
    if then is Then.FREEZE and any(each.source == "gate" for each in outcome.state.freezes):
        return outcome
    overruled = then is Then.FREEZE and failure_of(reason) in outcome.state.overruled
    return act(outcome, Then.HOLD if overruled else then, reason, now=now, arm=arm)


Late = tuple[Then, Reason, ArmState | None]
"""What to do, why, and which arm it is about; None = the rollout."""


def _silent(state: Rollout, seen: Seen) -> Late | None:
    """Evidence that should come and does not: of an arm that has a share, or of all."""
    when = state.policy.when
    for arm, _ in seen:
        silent = verdicts.silence(state, arm)
        if silent is not None:
            return when.no_data, silent, arm
    if state.source_s >= when.source_error_after_s:
        return when.source_error, Reason(code="source_error", facts={"words": state.source_words, "step": verdicts.label(state)}), None
    return None


def _late(state: Rollout, missing: tuple[verdicts.Waiting, ...]) -> Late | None:
    """The deadline that has passed, and what it means: of an approval its own, of an `ab` that stable stays, else the policy's."""
    at, when, stage_s = wish.stage(state), state.policy.when, state.stage_s
    if at is not None and at.kind == "approve" and not state.approved:
        told = Reason(code="not_approved", facts={"within_s": at.within_s, "who": at.who, "step": at.label})
        return (at.then, told, None) if stage_s >= at.within_s else None
    if at is not None and at.kind == "ab" and not state.winner:
        tied = Reason(code="tie", facts={"within_s": at.within_s, "goal": at.goal, "step": at.label})
        return (Then.REVERT, tied, None) if stage_s >= at.within_s else None
    if missing and stage_s >= when.stuck_after_s:
        return when.stuck, Reason(code="stuck", facts={"after_s": when.stuck_after_s, "step": verdicts.label(state)}), None
    return None


def _contested(outcome: Outcome, at: Stage, seen: Seen, missing: tuple[verdicts.Waiting, ...]) -> Outcome:
    """Ends an `ab` that has a winner, once its hold is served."""
    if any(item.kind in {"ack", "time", "samples", "lane"} for item in missing):
        return outcome
    found = contest.winner(outcome.state, at, seen)
    return win(outcome, *found) if found is not None else outcome


def _judge_warming(outcome: Outcome, now: float) -> Outcome:
    """A release that cannot begin is stuck as one that cannot go on is."""
    state = outcome.state
    when = state.policy.when
    if state.stage_s < when.stuck_after_s:
        return outcome
    return _once(outcome, when.stuck, Reason(code="stuck", facts={"after_s": when.stuck_after_s, "step": verdicts.label(state)}), None, now)


def _judge_bake(outcome: Outcome, now: float) -> Outcome:
    """After a promotion a guardrail still takes the new version back; where the policy would rather hold, the old one is kept warm meanwhile."""
    state = outcome.state
    if not state.arms or state.previous is None:
        return outcome
    arm = state.arms[0]
    failed = verdicts.failure(state, arm, verdicts.readings(state, arm, now=now))
    if failed is None:
        return resume(outcome, state.holding)
    if state.policy.when.fail is Then.REVERT:
        return revert(outcome, failed, now=now)
    return hold(outcome.with_state(replace(state, held_s=0.0)), failed)


def _settle(before: Rollout | None, outcome: Outcome, *, now: float, again: bool = False) -> Step:
    """Numbers a changed wish and writes the effects in their order."""
    state = outcome.state
    if before is not None and not outcome.decisions and not again and wish.untouched(before, state):
        return Step(state=state, because=outcome.because or state.because, refused=outcome.refused)
    wanted = wish.traffic(state)
    changed = before is None or not wish.same(wish.traffic(before), wanted)
    if changed:
        state = replace(state, publication=state.publication + 1, delivery=Delivery())
        wanted = wish.traffic(state)
    records = tuple(_record(state, taken, now) for taken in outcome.decisions)
    effects: tuple[Effect, ...] = ()
    if changed or records:
        effects += (Persist(records=records),)
    if changed or again:
        effects += (Publish(traffic=wanted) if wanted else Withdraw(rollout=state.name),)
    effects += tuple(Notify(record=record) for record in records)
    because = outcome.because or (records[-1].reason if records else state.because)
    return Step(state=state, effects=effects, because=because, refused=outcome.refused)


def _record(state: Rollout, taken: Taken, now: float) -> Record:
    then = taken.state
    at, wanted = wish.stage(then), wish.traffic(then)
    return Record(
        at=now,
        rollout=state.name,
        generation=state.generation,
        publication=state.publication,
        decision=taken.decision,
        reason=taken.reason,
        step=at.label if at else "",
        shares=tuple((arm.variant.name, arm.share_bp) for arm in wanted.arms) if wanted else (),
        stable=then.stable.version,
        candidate=", ".join(arm.variant.version for arm in then.arms),
        actor=taken.actor or "crossfade",
    )
