"""What an edited policy document means for a rollout that may be running.

A release starts when the document's candidate differs from what is committed as stable. After a promotion the committed stable is the
promoted version although the document may still name the old one beside it: another version is committed only by an *edit* of the stable
variant, or by a document that names no candidate at all (which is what `git revert` leaves).
Whatever else changes never resets a running release.
"""

from dataclasses import replace

from policies import verdicts
from policies.outcome import Outcome, decided, nothing
from policies.release import enter, hold, revert, start
from policies.rollout import IN_RELEASE, Decision, Fact, Mode, Reason, Rollout
from policies.spec.policy import RolloutPolicy, Variant
from policies.steps import find, stages


def changed(state: Rollout, policy: RolloutPolicy, *, now: float) -> Outcome:
    """Takes a new version of the document in."""
    if state.policy == policy and state.mode is not Mode.RETIRED:
        return nothing(state)
    old = state
    stable = _committed(state, policy)
    state = replace(state, policy=policy, declared_stable=policy.stable.identity, incoming=None)
    if state.mode is Mode.RETIRED:
        state = replace(state, mode=Mode.IDLE)
    if stable.identity != state.stable.identity:
        return _recommit(state, stable)
    return _edited(consider(nothing(replace(state, stable=stable)), now=now), old, now=now)


def _recommit(state: Rollout, stable: Variant) -> Outcome:
    """Another stable: whatever was on its way ends at share 0; the new one is delivered before it serves."""
    reason = Reason(code="recommitting", facts={"stable": stable.version, "previous": state.stable.version})
    state = replace(
        state,
        mode=Mode.IDLE,
        incoming=stable,
        candidate=None,
        leaving=state.leaver,
        previous=None,
        rejected="",
        paused=False,
        holding=False,
    )
    return nothing(state).then(state, Decision.EDITED, reason)


def recommitted(state: Rollout, *, now: float) -> Outcome:
    """The proxies know the new stable: it serves from now on, and a candidate may start against it."""
    assert state.incoming is not None
    reason = Reason(code="recommitted", facts={"stable": state.incoming.version, "previous": state.stable.version})
    state = replace(state, stable=state.incoming, incoming=None, leaving=state.stable)
    return consider(nothing(state).then(state, Decision.ADOPTED, reason), now=now)


def removed(state: Rollout) -> Outcome:
    """The document is gone: so is the rollout's traffic; what was committed is remembered."""
    if state.mode is Mode.RETIRED:
        return nothing(state)
    gone = replace(state, mode=Mode.RETIRED, candidate=None, previous=None, leaving=None, incoming=None, paused=False, holding=False)
    return decided(gone, Decision.RETIRED, Reason(code="document_removed"))


def consider(outcome: Outcome, *, now: float) -> Outcome:
    """Starts, restarts or ends a release so that it is the one the document asks for."""
    state = outcome.state
    if state.incoming is not None:
        return outcome
    wanted = state.policy.candidate
    if wanted is None or wanted.identity == state.stable.identity:
        return _withdrawn(outcome, now=now)
    if wanted.identity == state.rejected:
        return outcome
    if state.candidate is not None and state.candidate.identity == wanted.identity and state.mode is not Mode.IDLE:
        return outcome.with_state(replace(state, candidate=wanted))
    facts: dict[str, Fact] = {"candidate": wanted.version, "stable": state.stable.version}
    if state.mode in IN_RELEASE and state.candidate is not None:
        return start(outcome, wanted, Reason(code="restarted", facts=facts | {"previous": state.candidate.version}), now=now)
    return start(outcome, wanted, Reason(code="started", facts=facts), now=now)


def _committed(state: Rollout, policy: RolloutPolicy) -> Variant:
    """The stable in force under a document (see above). Settings that are no part of the identity follow the document."""
    on_its_way = state.incoming is not None and state.incoming.identity == policy.stable.identity
    edited = policy.stable.identity != state.declared_stable or on_its_way
    if edited or policy.candidate is None or policy.stable.identity == state.stable.identity:
        return policy.stable
    if policy.candidate.identity == state.stable.identity:
        return replace(policy.candidate, name=policy.stable.name)
    return state.stable


def _withdrawn(outcome: Outcome, *, now: float) -> Outcome:
    state = outcome.state
    if state.mode in IN_RELEASE and state.candidate is not None:
        reverted = revert(outcome, Reason(code="candidate_withdrawn"), now=now)
        return reverted.with_state(replace(reverted.state, candidate=None, leaving=state.leaver, rejected=""))
    if state.mode in {Mode.REVERTED, Mode.REVERTING}:
        return outcome.with_state(replace(state, candidate=None, leaving=state.leaver or state.leaving, rejected=""))
    return outcome


def _edited(outcome: Outcome, old: Rollout, *, now: float) -> Outcome:
    """Keeps a release that goes on in its place of the edited list of steps."""
    state = outcome.state
    if state.generation != old.generation or state.mode not in IN_RELEASE:
        return outcome
    state = verdicts.reopened(state, old.policy, now=now)
    if state.mode is Mode.WARMING:
        return outcome.with_state(state)
    before, after = stages(old.policy), stages(state.policy)
    if before == after:
        return outcome.with_state(state)
    at = old.orphan or (before[old.position] if old.position < len(before) else None)
    if at is None:
        return outcome.with_state(state)
    place = find(at, old.position, after)
    if place is None:
        return hold(outcome.with_state(replace(state, orphan=at)), Reason(code="step_removed", facts={"step": at.label}))
    state = replace(state, orphan=None)
    if after[place] == at:
        return outcome.with_state(replace(state, position=place))
    reason = Reason(code="step_edited", facts={"from": at.label})
    return enter(outcome.with_state(state), place, now=now, because=reason)
