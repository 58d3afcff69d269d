"""The moves of a release: start, enter a stage, hold, freeze, drop an arm, promote, revert, go back. Each takes an outcome and returns a longer one."""

from collections.abc import Sequence
from dataclasses import replace

from policies import radius, verdicts, wish
from policies.outcome import Outcome
from policies.rollout import IN_RELEASE, ArmState, Cap, Decision, Delivery, Fact, Freeze, Mode, Reason, Rollout, Told, Yardstick
from policies.spec.policy import Then, Variant
from policies.steps import Stage, reserves, stages

COMMITTED_MAX = 20
"""Earlier versions remembered for `rollback`."""

QUIET_S = 60.0
"""How long the same hold, or the same end of one, is not recorded again [s]."""

TOLD_MAX = 32


def start(outcome: Outcome, arms: Sequence[Variant], reason: Reason, *, now: float) -> Outcome:
    """A new release of `arms`: share 0, no evidence, warming; whatever was on its way before leaves at once."""
    state = outcome.state
    identities = {arm.identity for arm in arms}
    freezes = tuple(each for each in state.freezes if each.source != "gate")
    reserved, fits = reserves(state.policy), wish.fits(replace(state, mode=Mode.WARMING))
    leaving = tuple(variant for variant in state.leavers if variant.identity not in identities)
    state = replace(
        _cleared(state),
        mode=Mode.WARMING,
        generation=state.generation + 1,
        arms=tuple(ArmState(variant=arm, cap=Cap() if freezes else None) for arm in arms),
        homes=tuple((arm.name, reserved.get(arm.name, 0)) for arm in arms) if fits else (),
        freezes=freezes,
        frozen_assignment=None,
        overruled=(),
        source_s=0.0,
        leaving=leaving,
        previous=None,
        rejected=(),
        yardstick=Yardstick(),
        load=0.0,
        load_at=0.0,
        since=now,
    )
    return outcome.then(verdicts.opened(state, now=now), Decision.STARTED, reason)


def enter(outcome: Outcome, position: int, *, now: float, because: Reason | None = None, actor: str = "") -> Outcome:
    """Stands the release in a stage: its shares are published now, its hold starts when the proxies have ACKed them."""
    state = outcome.state
    flat = stages(state.policy)
    if position >= len(flat):
        return hold(outcome, Reason(code="steps_over", facts={"steps": len(flat)}))
    at = flat[position]
    if at.kind == "promote":
        arm = to_promote(state, at)
        if arm is None:
            return hold(outcome, Reason(code="no_winner", facts={"arms": ", ".join(arm.name for arm in state.running)}))
        return promote(outcome, arm, because or Reason(code="no_steps"), now=now, actor=actor)
    state = replace(
        verdicts.next_stage(state),
        mode=Mode.STEP,
        position=position,
        orphan=None,
        holding=False,
        approved=False,
        winner="" if at.kind == "ab" else state.winner,
        stable_samples=0,
        held_s=0.0,
        stage_s=0.0,
        since=now,
        delivery=Delivery(),
    )
    state = radius.opened(state, now=now, deadline_s=verdicts.deadline_s(state.policy))
    if at.kind == "ab":
        state = verdicts.duelling(state, at, now=now)
    if because is None:
        ready = sum(arm.pods.ready for arm in state.running)
        facts: dict[str, Fact] = {"step": at.label, "ready": ready, "arms": len(state.arms)}
        return outcome.then(state, Decision.ENTERED, Reason(code="entered", facts=facts), actor=actor)
    return outcome.then(state, Decision.ADVANCED, Reason(code=because.code, facts=because.facts | {"to": at.label}), actor=actor)


def enter_next(outcome: Outcome, because: Reason, *, now: float, actor: str = "") -> Outcome:
    return enter(outcome, outcome.state.position + 1, now=now, because=because, actor=actor)


def to_promote(state: Rollout, at: Stage | None = None, name: str = "") -> ArmState | None:
    """The arm that is meant: named, the one that won, or the only one left; None if that is nobody."""
    wanted = name or (at.arm if at else "") or state.winner
    running = {arm.name: arm for arm in state.running}
    if not wanted and len(running) == 1:
        return next(iter(running.values()))
    return running.get(wanted)


def hold(outcome: Outcome, reason: Reason) -> Outcome:
    """Stops progress without touching traffic. Recorded when the kind of reason changes, shown with its latest numbers always."""
    state = outcome.state
    if state.holding and failure_of(state.because) == failure_of(reason):
        return outcome.with_state(replace(state, because=reason))
    return _tell(outcome, replace(state, holding=True), Decision.HELD, reason)


def resume(outcome: Outcome, was_holding: bool) -> Outcome:
    if not was_holding:
        return outcome
    reason = Reason(code="resumed", facts={"step": verdicts.label(outcome.state)})
    return _tell(outcome, replace(outcome.state, holding=False), Decision.RESUMED, reason)


def failure_of(reason: Reason) -> str:
    """What a reason is about, whatever its numbers: its kind, the gate and the arm."""
    return "/".join(str(part) for part in (reason.code, reason.facts.get("gate"), reason.facts.get("variant")) if part)


def note(outcome: Outcome, reason: Reason) -> Outcome:
    """Records something held outside a release, where the rollout's own reason stays."""
    told = _tell(outcome, outcome.state, Decision.HELD, reason)
    return told.with_state(replace(told.state, because=outcome.state.because))


def _tell(outcome: Outcome, state: Rollout, decision: Decision, reason: Reason) -> Outcome:
    """Records a hold or its end, unless the same was recorded lately: what comes and goes all the time is told once in a while."""
    what, now = f"{decision.value} {failure_of(reason)}", state.clock
    lately = tuple(each for each in state.told if abs(now - each.at) < QUIET_S)
    if any(each.what == what for each in lately):
        return outcome.with_state(replace(state, because=reason))
    return outcome.then(replace(state, told=(*lately, Told(what=what, at=now))[-TOLD_MAX:]), decision, reason)


def freeze(outcome: Outcome, freeze: Freeze, reason: Reason, *, actor: str = "") -> Outcome:
    """Nothing grows from now on; every arm keeps what it has at most. The same source again changes its words only."""
    state = outcome.state
    others = tuple(each for each in state.freezes if each.source != freeze.source)
    known = len(others) < len(state.freezes)
    users, at = wish.shares(state), wish.stage(state)
    capped = tuple(
        arm
        if arm.cap is not None
        else replace(arm, cap=Cap(share_bp=users[arm.name], shadow_bp=wish.copies(at, arm), pinned=wish.pinned(state, arm)))
        for arm in state.arms
    )
    on_its_way = state.mode in IN_RELEASE
    kept = state.frozen_assignment or (state.policy.assignment if on_its_way else None)
    state = replace(state, freezes=(*others, freeze), arms=capped, frozen_assignment=kept)
    if known:
        return outcome.with_state(state)
    return (outcome.then if on_its_way else outcome.noted)(state, Decision.FROZEN, reason, actor=actor)


def unfreeze(outcome: Outcome, sources: Sequence[str], reason: Reason, *, actor: str = "") -> Outcome:
    """Lifts freezes; a failure that a person unfroze does not freeze again before it is over."""
    state = outcome.state
    left = tuple(each for each in state.freezes if each.source not in sources)
    overruled = tuple(each.failure for each in state.freezes if each.source == "gate" and each not in left)
    state = replace(state, freezes=left, overruled=(*state.overruled, *overruled))
    if not left:
        state = replace(state, arms=tuple(replace(arm, cap=None) for arm in state.arms), frozen_assignment=None)
    return (outcome.then if state.mode in IN_RELEASE else outcome.noted)(state, Decision.UNFROZEN, reason, actor=actor)


def act(outcome: Outcome, then: Then, reason: Reason, *, now: float, arm: ArmState | None = None) -> Outcome:
    """Does what the policy says about something bad. One arm among several is taken out and the others go on."""
    state = outcome.state
    if then is Then.HOLD:
        return hold(outcome, reason)
    if then is Then.FREEZE:
        words = f"the policy froze it: {reason.code.replace('_', ' ')}"
        return freeze(outcome, Freeze(source="gate", words=words, failure=failure_of(reason)), reason)
    if arm is not None and len(state.running) > 1 and not _needed(state, arm):
        return drop(outcome, arm, reason)
    return revert(outcome, reason, now=now)


def _needed(state: Rollout, arm: ArmState) -> bool:
    """Whether a step ahead gives everything to this arm: without it the release has no end."""
    return any(stage.arm == arm.name for stage in stages(state.policy)[state.position :])


def drop(outcome: Outcome, arm: ArmState, reason: Reason) -> Outcome:
    """Takes one arm out of the release: its users go to stable, and the others' stay where they are."""
    facts = reason.facts | {"stable": outcome.state.stable.version, "variant": arm.name, "version": arm.variant.version}
    reason = Reason(code=reason.code, facts=facts)
    arms = tuple(replace(each, out=reason) if each.name == arm.name else each for each in outcome.state.arms)
    state = replace(outcome.state, arms=arms, winner="" if outcome.state.winner == arm.name else outcome.state.winner)
    return outcome.then(state, Decision.DROPPED, reason)


def win(outcome: Outcome, arm: ArmState, reason: Reason) -> Outcome:
    """The `ab` is decided: the others leave the release, their users go to stable."""
    lost = Reason(code="lost", facts={"winner": arm.name})
    arms = tuple(each if each.out or each.name == arm.name else replace(each, out=lost) for each in outcome.state.arms)
    return outcome.then(replace(outcome.state, arms=arms, winner=arm.name), Decision.WON, reason)


def revert(outcome: Outcome, reason: Reason, *, now: float, actor: str = "", decision: Decision = Decision.REVERTED) -> Outcome:
    """100 % stable from the next publication on; after a promotion the old version is stable again. Works from every release."""
    state = outcome.state
    gone = tuple(arm.variant for arm in state.arms)
    step = verdicts.label(state)
    if state.mode in wish.AFTER and state.previous is not None:
        gone = (state.stable,)
        state = replace(state, stable=state.previous, arms=(), leaving=gone, committed=state.committed[:-1], rolled_back=True)
    facts = reason.facts | {
        "stable": state.stable.version,
        "candidate": ", ".join(variant.version for variant in gone),
        "step": step,
    }
    state = replace(
        without_gates_freeze(state),
        mode=Mode.REVERTING,
        previous=None,
        rejected=tuple(dict.fromkeys((*state.rejected, *(variant.identity for variant in gone)))),
        paused=False,
        holding=False,
        since=now,
    )
    return outcome.then(state, decision, Reason(code=reason.code, facts=facts), actor=actor)


def promote(outcome: Outcome, arm: ArmState, reason: Reason, *, now: float, actor: str = "") -> Outcome:
    """Commits an arm as stable: one change of the routes; the old version stays warm as long as the policy says, the gates stay on."""
    state = outcome.state
    facts = reason.facts | {"stable": arm.variant.version, "previous": state.stable.version, "step": verdicts.label(state)}
    others = tuple(each.variant for each in state.arms if each.name != arm.name)
    state = replace(
        _cleared(state),
        mode=Mode.PROMOTING,
        stable=replace(arm.variant, name=state.stable.name),
        committed=(*state.committed, state.stable)[-COMMITTED_MAX:],
        previous=state.stable,
        arms=(replace(arm, in_effect_bp=0, shadow_in_effect_bp=0, cap=None),),
        bake_s=max((stage.keep_stable_for_s for stage in stages(state.policy)), default=0.0),
        leaving=others,
        rejected=tuple(variant.identity for variant in others),
        rolled_back=False,
        since=now,
    )
    return outcome.then(state, Decision.PROMOTED, Reason(code=reason.code, facts=facts), actor=actor)


def go_back(outcome: Outcome, target: Variant, facts: dict[str, Fact], *, now: float, actor: str = "") -> Outcome:
    """To a version that was stable before; asks no gate and no approval. One that is not warm is delivered first, see `engine`."""
    state = outcome.state
    rejected = dict.fromkeys((*state.rejected, state.stable.identity, *(arm.variant.identity for arm in state.arms)))
    rejected.pop(target.identity, None)
    warm = tuple(variant for variant in state.leaving if variant.identity == target.identity)
    reason = Reason(code="rolling_back", facts=facts | {"stable": target.version, "previous": state.stable.version})
    state = replace(
        _cleared(without_gates_freeze(state)),
        mode=Mode.IDLE,
        incoming=replace(target, name=state.stable.name),
        leaving=(*(state.leavers if state.mode not in wish.AFTER else ()), *warm),
        arms=(),
        previous=None,
        rejected=tuple(rejected),
        rolled_back=True,
        since=now,
    )
    return outcome.then(state, Decision.ROLLED_BACK, reason, actor=actor)


def call_off(outcome: Outcome, facts: dict[str, Fact], *, now: float, actor: str = "") -> Outcome:
    """Keeps the stable that serves, although an edit committed another that is on its way."""
    state = outcome.state
    assert state.incoming is not None
    reason = Reason(code="called_off", facts=facts | {"stable": state.stable.version, "candidate": state.incoming.version})
    state = replace(state, incoming=None, leaving=(state.incoming,), rolled_back=True, since=now)
    return outcome.then(state, Decision.REVERTED, reason, actor=actor)


def without_gates_freeze(state: Rollout) -> Rollout:
    """What a gate froze thaws with the release it was about; a window's and a person's freeze stay."""
    freezes = tuple(each for each in state.freezes if each.source != "gate")
    return replace(state, freezes=freezes, frozen_assignment=state.frozen_assignment if freezes else None)


def _cleared(state: Rollout) -> Rollout:
    return replace(
        state,
        position=0,
        orphan=None,
        paused=False,
        holding=False,
        winner="",
        approved=False,
        duels=(),
        stable_samples=0,
        held_s=0.0,
        stage_s=0.0,
        delivery=Delivery(),
    )
