"""What each verb does to a rollout, and where it means nothing (refused, with the state unchanged).

`abort` and `rollback` ask no gate, no approval and no proxy. The others never skip what would put users on an arm that is not delivered and
ready; nothing but they may grow a share without evidence, and each is recorded with who said it and why.
"""

from dataclasses import replace
from typing import assert_never

from policies import edits, verdicts, wish
from policies.outcome import Outcome, refused
from policies.release import call_off, enter, enter_next, freeze, go_back, promote, revert, to_promote, unfreeze
from policies.rollout import IN_RELEASE, KEEPING, Commanded, Decision, Fact, Freeze, Mode, Reason, Rollout, Verb
from policies.spec.policy import FULL_BP, Variant
from policies.steps import stages


def obey(outcome: Outcome, event: Commanded, *, now: float) -> Outcome:
    """Carries one verb out."""
    said: dict[str, Fact] = {"by": event.actor, "said": event.reason}
    match event.verb:
        case Verb.ABORT:
            return _abort(outcome, event, said, now)
        case Verb.ROLLBACK:
            return _rollback(outcome, event, said, now)
        case Verb.PROMOTE:
            return _promote(outcome, event, said, now)
        case Verb.START | Verb.RETRY:
            return _start(outcome, event, said, now)
        case Verb.ADVANCE:
            return _advance(outcome, event, said, now)
        case Verb.APPROVE:
            return _approve(outcome, event, said)
        case Verb.PAUSE | Verb.RESUME:
            return _pause(outcome, event, said)
        case Verb.FREEZE | Verb.UNFREEZE:
            return _freeze(outcome, event, said)
        case _:  # pragma: no cover
            assert_never(event.verb)


def _no(state: Rollout, verb: Verb, why: str = "") -> Outcome:
    return refused(state, f"refused.{why or verb.value}", verb=verb.value, mode=state.mode.value, step=verdicts.label(state))


def _abort(outcome: Outcome, event: Commanded, said: dict[str, Fact], now: float) -> Outcome:
    state = outcome.state
    if state.incoming is not None and not state.rolled_back:
        return call_off(outcome, said, now=now, actor=event.actor)
    if state.mode in IN_RELEASE or state.mode in KEEPING:
        return revert(outcome, Reason(code="aborted", facts=said), now=now, actor=event.actor)
    if state.mode in {Mode.REVERTING, Mode.REVERTED}:
        return outcome
    return _no(state, Verb.ABORT)


def _rollback(outcome: Outcome, event: Commanded, said: dict[str, Fact], now: float) -> Outcome:
    """To the version before, or to any that was stable once."""
    state = outcome.state
    if state.mode is Mode.RETIRED:
        return _no(state, Verb.ROLLBACK, "retired")
    if state.incoming is not None and not state.rolled_back and event.to in {"", state.stable.version, state.stable.identity}:
        return call_off(outcome, said, now=now, actor=event.actor)
    if state.incoming is not None and event.to in {"", state.incoming.version, state.incoming.identity}:
        return outcome
    here = event.to in {state.stable.version, state.stable.identity}
    in_release = state.mode in IN_RELEASE
    if in_release and (not event.to or here):
        return revert(outcome, Reason(code="aborted", facts=said), now=now, actor=event.actor)
    warm = state.previous
    if warm is not None and event.to in {"", warm.version, warm.identity}:
        return revert(outcome, Reason(code="rolled_back_warm", facts=said), now=now, actor=event.actor, decision=Decision.ROLLED_BACK)
    if not event.to and state.mode in {Mode.REVERTING, Mode.REVERTED}:
        return outcome
    if here:
        return _no(state, Verb.ROLLBACK, "already_there")
    target = _earlier(state, event.to)
    if target is None:
        known = ", ".join(dict.fromkeys(variant.version for variant in reversed(state.committed))) or "none"
        return refused(state, "refused.no_such_version", to=event.to, known=known)
    return go_back(outcome, target, said, now=now, actor=event.actor)


def _earlier(state: Rollout, to: str) -> Variant | None:
    """The one named; without a name the last that was not fled from itself."""
    for variant in reversed(state.committed):
        meant = to in {variant.version, variant.identity} if to else variant.identity not in state.rejected
        if meant and variant.identity != state.stable.identity:
            return variant
    return None


def _promote(outcome: Outcome, event: Commanded, said: dict[str, Fact], now: float) -> Outcome:
    state = outcome.state
    arm = to_promote(state, name=event.to)
    if state.mode not in IN_RELEASE or not state.delivery.complete or (arm is not None and not arm.pods.ready):
        return _no(state, Verb.PROMOTE)
    if arm is None:
        return refused(state, "refused.which_arm", arms=", ".join(each.name for each in state.running), to=event.to)
    if state.freezes:
        return _no(state, Verb.PROMOTE, "frozen")
    if not wish.fits(state):
        return _no(state, Verb.PROMOTE, "no_lane")
    if any(each.kind == "approve" for each in stages(state.policy)[state.position + (1 if state.approved else 0) :]):
        return _no(state, Verb.PROMOTE, "needs_approval")
    if arm.ceiling_bp < FULL_BP:
        return refused(state, "refused.no_capacity", pods=arm.pods.ready, total=arm.pods.total, share_bp=arm.ceiling_bp)
    return promote(outcome, arm, Reason(code="promoted_by_hand", facts=said), now=now, actor=event.actor)


def _start(outcome: Outcome, event: Commanded, said: dict[str, Fact], now: float) -> Outcome:
    """A release of what the document asks for, also after it was reverted; `retry` also begins a held stage anew."""
    state = outcome.state
    if event.verb is Verb.RETRY and state.mode is Mode.STEP and state.orphan is None:
        if any(each.source == "gate" for each in state.freezes):
            return _no(state, event.verb, "frozen")
        reason = Reason(code="retried", facts=said | {"step": verdicts.label(state)})
        return enter(outcome, state.position, now=now, because=reason, actor=event.actor)
    resting = state.mode in {Mode.IDLE, Mode.REVERTING, Mode.REVERTED, Mode.PROMOTED} and state.incoming is None
    if not resting or not edits.wanted(state):
        return _no(state, event.verb)
    return edits.begin(outcome, now=now, actor=event.actor, said=event.reason)


def _advance(outcome: Outcome, event: Commanded, said: dict[str, Fact], now: float) -> Outcome:
    """On to the next stage, whatever hold, samples and gates still miss; what is not delivered, ready or approved is not skipped."""
    state = outcome.state
    at = wish.stage(state)
    if at is None or state.orphan is not None or state.position + 1 >= len(stages(state.policy)):
        return _no(state, Verb.ADVANCE)
    if state.freezes:
        return _no(state, Verb.ADVANCE, "frozen")
    if at.kind == "approve" and not state.approved:
        return _no(state, Verb.ADVANCE, "needs_approval")
    if not state.delivery.complete or any(not arm.pods.ready for arm in state.running) or not wish.fits(state):
        return _no(state, Verb.ADVANCE, "not_delivered")
    reason = Reason(code="advanced_by_hand", facts=said | {"step": at.label})
    return enter_next(outcome.with_state(replace(state, paused=False)), reason, now=now, actor=event.actor)


def _approve(outcome: Outcome, event: Commanded, said: dict[str, Fact]) -> Outcome:
    state = outcome.state
    at = wish.stage(state)
    if at is None or at.kind != "approve":
        return _no(state, Verb.APPROVE)
    if state.approved:
        return outcome
    reason = Reason(code="approved", facts=said | {"step": at.label})
    return outcome.then(replace(state, approved=True), Decision.APPROVED, reason, actor=event.actor)


def _pause(outcome: Outcome, event: Commanded, said: dict[str, Fact]) -> Outcome:
    state = outcome.state
    if event.verb is Verb.RESUME:
        if not state.paused:
            return _no(state, Verb.RESUME)
        return outcome.then(replace(state, paused=False), Decision.RESUMED, Reason(code="resumed_by_hand", facts=said), actor=event.actor)
    if state.mode not in IN_RELEASE:
        return _no(state, Verb.PAUSE)
    if state.paused:
        return outcome
    return outcome.then(replace(state, paused=True), Decision.PAUSED, Reason(code="paused", facts=said), actor=event.actor)


def _freeze(outcome: Outcome, event: Commanded, said: dict[str, Fact]) -> Outcome:
    """By hand, until it is lifted by hand; that lifts what a gate froze too, never a window of the policy."""
    state = outcome.state
    if event.verb is Verb.FREEZE:
        if any(each.source == "operator" for each in state.freezes):
            return outcome
        words = f"frozen by {event.actor or 'an operator'}" + (f": {event.reason}" if event.reason else "")
        return freeze(outcome, Freeze(source="operator", words=words), Reason(code="frozen_by_hand", facts=said), actor=event.actor)
    if not any(each.source in {"operator", "gate"} for each in state.freezes):
        return _no(state, Verb.UNFREEZE)
    return unfreeze(outcome, ("operator", "gate"), Reason(code="unfrozen_by_hand", facts=said), actor=event.actor)
