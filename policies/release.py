"""The moves of a release: start, enter a stage, hold, resume, promote, revert. Each takes an outcome and returns a longer one."""

from dataclasses import replace

from policies import verdicts
from policies.outcome import Outcome
from policies.rollout import Decision, Delivery, Mode, Pods, Reason, Rollout, Samples
from policies.spec.policy import Variant
from policies.steps import stages


def start(outcome: Outcome, candidate: Variant, reason: Reason, *, now: float) -> Outcome:
    """A new release of `candidate`: share 0, no evidence, warming; whatever was on its way before leaves at once."""
    state, leaver = outcome.state, outcome.state.leaver
    state = replace(
        _cleared(state),
        mode=Mode.WARMING,
        generation=state.generation + 1,
        candidate=candidate,
        leaving=leaver if leaver and leaver.identity != candidate.identity else None,
        previous=None,
        rejected="",
        pods=Pods(),
        since=now,
    )
    return outcome.then(verdicts.opened(state, now=now), Decision.STARTED, reason)


def enter(outcome: Outcome, position: int, *, now: float, because: Reason | None = None) -> Outcome:
    """Stands the release in a stage: its share is published now, its hold starts when the proxies have ACKed it."""
    state = outcome.state
    flat = stages(state.policy)
    if position >= len(flat):
        return hold(outcome, Reason(code="steps_over", facts={"steps": len(flat)}))
    if flat[position].kind == "promote":
        return promote(outcome, because or Reason(code="no_steps"), now=now)
    state = replace(
        verdicts.next_stage(state),
        mode=Mode.STEP,
        position=position,
        orphan=None,
        holding=False,
        samples=Samples(),
        held_s=0.0,
        stage_s=0.0,
        silent_s=0.0,
        since=now,
        delivery=Delivery(),
    )
    if because is None:
        return outcome.then(
            state, Decision.ENTERED, Reason(code="entered", facts={"step": flat[position].label, "ready": state.pods.ready})
        )
    facts = because.facts | {"to": flat[position].label}
    return outcome.then(state, Decision.ADVANCED, Reason(code=because.code, facts=facts))


def enter_next(outcome: Outcome, because: Reason, *, now: float) -> Outcome:
    return enter(outcome, outcome.state.position + 1, now=now, because=because)


def hold(outcome: Outcome, reason: Reason) -> Outcome:
    """Stops progress without touching traffic. Recorded when the kind of reason changes, shown with its latest numbers always."""
    state = outcome.state
    again = state.holding and state.because.code == reason.code and state.because.facts.get("gate") == reason.facts.get("gate")
    if again:
        return outcome.with_state(replace(state, because=reason))
    return outcome.then(replace(state, holding=True), Decision.HELD, reason)


def resume(outcome: Outcome, was_holding: bool) -> Outcome:
    if not was_holding:
        return outcome
    state = replace(outcome.state, holding=False)
    return outcome.then(state, Decision.RESUMED, Reason(code="resumed", facts={"step": verdicts.label(state)}))


def revert(outcome: Outcome, reason: Reason, *, now: float, actor: str = "") -> Outcome:
    """100 % stable from the next publication on; after a promotion the old version is stable again. Works from every release."""
    state = outcome.state
    rejected = state.candidate
    if state.candidate is None and state.previous is not None:
        rejected = state.stable
        state = replace(state, stable=state.previous, leaving=rejected)
    facts = reason.facts | {
        "stable": state.stable.version,
        "candidate": rejected.version if rejected else "",
        "step": verdicts.label(state),
    }
    state = replace(
        state,
        mode=Mode.REVERTING,
        previous=None,
        rejected=rejected.identity if rejected else state.rejected,
        paused=False,
        holding=False,
        since=now,
    )
    return outcome.then(state, Decision.REVERTED, Reason(code=reason.code, facts=facts), actor=actor)


def promote(outcome: Outcome, reason: Reason, *, now: float, actor: str = "") -> Outcome:
    """Commits the candidate as stable: one change of the routes; the old version stays warm as long as the policy says."""
    state = outcome.state
    assert state.candidate is not None
    facts = reason.facts | {"stable": state.candidate.version, "previous": state.stable.version, "step": verdicts.label(state)}
    state = replace(
        _cleared(state),
        mode=Mode.PROMOTING,
        stable=replace(state.candidate, name=state.stable.name),
        previous=state.stable,
        candidate=None,
        leaving=None,
        since=now,
    )
    return outcome.then(state, Decision.PROMOTED, Reason(code=reason.code, facts=facts), actor=actor)


def keep_stable_for_s(state: Rollout) -> float:
    """How long the policy keeps the old version warm after a promotion [s]."""
    return max((stage.keep_stable_for_s for stage in stages(state.policy)), default=0.0)


def _cleared(state: Rollout) -> Rollout:
    return replace(
        state,
        position=0,
        orphan=None,
        paused=False,
        holding=False,
        samples=Samples(),
        gates=(),
        shadow_gates=(),
        held_s=0.0,
        stage_s=0.0,
        silent_s=0.0,
        delivery=Delivery(),
    )
