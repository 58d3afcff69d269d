"""What an edited policy document means for a rollout that may be running.

A release starts when one of the document's arms differs from what is committed as stable. After a promotion the committed stable is the
promoted version although the document may still name the old one beside it: another version is committed only by an *edit* of the stable
variant, or by a document that names no arm at all (which is what `git revert` leaves). A version chosen by `rollback` stays until the
document's stable is edited.
Whatever else changes never resets a running release.
"""

from collections.abc import Mapping
from dataclasses import replace

from policies import radius, verdicts, wish
from policies.outcome import Outcome, decided, nothing
from policies.release import COMMITTED_MAX, enter, hold, revert, start, without_gates_freeze
from policies.rollout import IN_RELEASE, KEEPING, Decision, Fact, Mode, PolicyChanged, Reason, Rollout
from policies.spec.policy import RolloutPolicy, Shares, Variant
from policies.steps import find, renamed, stages


def changed(state: Rollout, event: PolicyChanged, *, now: float) -> Outcome:
    """Takes a new version of the document in."""
    policy, lane = event.policy, event.lane or replace(state.lane, width_bp=0)
    if state.policy == policy and state.lane == lane and state.mode is not Mode.RETIRED:
        return nothing(state)
    old = state
    stable = _committed(state, policy)
    edited = policy.stable.identity != state.declared_stable
    state = replace(
        state,
        policy=policy,
        lane=lane,
        declared_stable=policy.stable.identity,
        incoming=state.incoming if state.rolled_back and not edited else None,
        rolled_back=state.rolled_back and not edited,
    )
    if state.mode is Mode.RETIRED:
        state = replace(state, mode=Mode.IDLE)
    if state.previous is not None and stable.identity == state.previous.identity:
        return _warm(state, now=now)
    if stable.identity != state.stable.identity:
        return _recommit(state, stable)
    return _edited(consider(nothing(replace(state, stable=stable)), now=now), old, now=now)


def _warm(state: Rollout, *, now: float) -> Outcome:
    """The version before a promotion is stable again while it is still warm: at once, as by `rollback`."""
    reason = Reason(code="recommitting_warm", facts={"previous": state.stable.version})
    back = revert(nothing(state), reason, now=now, decision=Decision.EDITED)
    return back.with_state(replace(back.state, rejected=back.state.rejected if state.policy.arms else ()))


def _recommit(state: Rollout, stable: Variant) -> Outcome:
    """Another stable: whatever was on its way ends at share 0; the new one is delivered before it serves."""
    reason = Reason(code="recommitting", facts={"stable": stable.version, "previous": state.stable.version})
    state = replace(
        without_gates_freeze(state),
        mode=Mode.IDLE,
        incoming=stable,
        arms=(),
        leaving=() if state.mode in wish.AFTER else state.leavers,
        previous=None,
        rejected=state.rejected if state.policy.arms else (),
        freezes=tuple(each for each in state.freezes if each.source != "gate"),
        paused=False,
        holding=False,
        stage_s=0.0,
    )
    return nothing(state).then(state, Decision.EDITED, reason)


def recommitted(state: Rollout, *, now: float) -> Outcome:
    """The proxies know the new stable: it serves from now on, and arms may start against it."""
    assert state.incoming is not None
    code = "rolled_back" if state.rolled_back else "recommitted"
    reason = Reason(code=code, facts={"stable": state.incoming.version, "previous": state.stable.version})
    state = replace(
        state,
        stable=state.incoming,
        incoming=None,
        leaving=(state.stable,),
        committed=(*state.committed, state.stable)[-COMMITTED_MAX:],
    )
    return consider(nothing(state).then(state, Decision.ADOPTED, reason), now=now)


def removed(state: Rollout) -> Outcome:
    """The document is gone: so is the rollout's traffic; what was committed is remembered."""
    if state.mode is Mode.RETIRED:
        return nothing(state)
    gone = replace(
        without_gates_freeze(state), mode=Mode.RETIRED, arms=(), previous=None, leaving=(), incoming=None, paused=False, holding=False
    )
    return decided(gone, Decision.RETIRED, Reason(code="document_removed"))


def wanted(state: Rollout) -> tuple[Variant, ...]:
    """The arms that the document asks for and that are something else than what is stable."""
    return tuple(arm for arm in state.policy.arms if arm.identity != state.stable.identity)


def consider(outcome: Outcome, *, now: float) -> Outcome:
    """Starts, restarts or ends a release so that it is the one the document asks for."""
    state = outcome.state
    if state.incoming is not None or state.mode in KEEPING:
        return outcome  # when the new stable serves, or is baked, it is considered again
    asked = wanted(state)
    if not asked:
        return _withdrawn(outcome, now=now)
    identities = {arm.identity: arm for arm in asked}
    if identities.keys() <= set(state.rejected):
        return outcome
    known = {arm.variant.identity for arm in state.arms}
    running = {arm.variant.identity for arm in state.running}
    if state.mode in IN_RELEASE and running <= identities.keys() <= known:
        return outcome.with_state(_renewed(state, identities))
    return begin(outcome, now=now)


def _renewed(state: Rollout, asked: Mapping[str, Variant]) -> Rollout:
    """The release under a document that has the same arms: in whatever order, some perhaps renamed, some gone that were taken out already."""
    arms = tuple(replace(arm, variant=asked.get(arm.variant.identity, arm.variant)) for arm in state.arms)
    names = {old.name: new.name for old, new in zip(state.arms, arms, strict=True)}

    def named(shares: Shares) -> Shares:
        return tuple((names.get(arm, arm), share) for arm, share in shares)

    orphan = renamed(state.orphan, names) if state.orphan is not None else None
    return replace(state, arms=arms, winner=names.get(state.winner, state.winner), homes=named(state.homes), orphan=orphan)


def begin(outcome: Outcome, *, now: float, actor: str = "", said: str = "") -> Outcome:
    """A release of what the document asks for; whatever is on its way ends."""
    state, asked = outcome.state, wanted(outcome.state)
    facts: dict[str, Fact] = {"candidate": ", ".join(arm.version for arm in asked), "stable": state.stable.version}
    if said or actor:
        facts |= {"by": actor, "said": said}
    if state.mode in IN_RELEASE and state.arms:
        before = ", ".join(arm.variant.version for arm in state.arms)
        return start(outcome, asked, Reason(code="restarted", facts=facts | {"previous": before}), now=now)
    return start(outcome, asked, Reason(code="started", facts=facts), now=now)


def _committed(state: Rollout, policy: RolloutPolicy) -> Variant:
    """The stable in force under a document (see above). Settings that are no part of the identity follow the document."""
    on_its_way = state.incoming is not None and state.incoming.identity == policy.stable.identity
    edited = policy.stable.identity != state.declared_stable or (on_its_way and not state.rolled_back)
    if state.rolled_back and not edited:
        return policy.stable if policy.stable.identity == state.stable.identity else state.stable
    if edited or not policy.arms or policy.stable.identity == state.stable.identity:
        return policy.stable
    for arm in policy.arms:
        if arm.identity == state.stable.identity:
            return replace(arm, name=policy.stable.name)
    return state.stable


def _withdrawn(outcome: Outcome, *, now: float) -> Outcome:
    state = outcome.state
    if state.mode in IN_RELEASE and state.arms:
        leaving = state.leavers
        reverted = revert(outcome, Reason(code="candidate_withdrawn"), now=now)
        return reverted.with_state(replace(reverted.state, arms=(), leaving=leaving, rejected=()))
    if state.mode in {Mode.REVERTED, Mode.REVERTING}:
        return outcome.with_state(replace(state, arms=(), leaving=state.leavers or state.leaving, rejected=()))
    return outcome


def _edited(outcome: Outcome, old: Rollout, *, now: float) -> Outcome:
    """Keeps a release that goes on in its place of the edited list of steps."""
    state = outcome.state
    if state.generation != old.generation:
        return outcome
    if state.arms:
        state = verdicts.reopened(state, old.policy, now=now)
    if state.mode is not Mode.STEP:
        return outcome.with_state(replace(state, homes=wish.homes(state)))
    placed = _placed(outcome.with_state(state), old, now=now)
    kept = radius.opened(placed.state, now=now, deadline_s=verdicts.deadline_s(placed.state.policy))
    return placed.with_state(replace(kept, homes=wish.homes(kept)))


def _placed(outcome: Outcome, old: Rollout, *, now: float) -> Outcome:
    state = outcome.state
    names = {one.name: other.name for one, other in zip(old.arms, state.arms, strict=True)}
    before = tuple(renamed(each, names) for each in stages(old.policy))
    after = tuple(renamed(each, {}) for each in stages(state.policy))
    if before == after:
        return outcome.with_state(state)
    at = state.orphan or (before[old.position] if old.position < len(before) else None)
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
