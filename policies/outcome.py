"""What a handler of the engine answers: a state and the decisions taken on the way; `engine.step` turns it into effects."""

from dataclasses import dataclass, replace

from policies.rollout import Decision, Fact, Reason, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One decision; `state` is what it was taken into (one event may take several, one after the other)."""

    decision: Decision
    reason: Reason
    actor: str
    state: Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    state: Rollout
    decisions: tuple[Taken, ...] = ()
    because: Reason | None = None
    refused: bool = False

    def with_state(self, state: Rollout) -> "Outcome":
        return replace(self, state=state)

    def then(self, state: Rollout, decision: Decision, reason: Reason, *, actor: str = "") -> "Outcome":
        """The same, with one more decision taken; its reason becomes the rollout's."""
        return self.noted(replace(state, because=reason), decision, reason, actor=actor)

    def noted(self, state: Rollout, decision: Decision, reason: Reason, *, actor: str = "") -> "Outcome":
        """The same, but the rollout's own reason stays what it is in `state`."""
        taken = Taken(decision=decision, reason=reason, actor=actor, state=state)
        return replace(self, state=state, decisions=(*self.decisions, taken))


def nothing(state: Rollout) -> Outcome:
    return Outcome(state=state)


def decided(state: Rollout, decision: Decision, reason: Reason, *, actor: str = "") -> Outcome:
    """A decision that is recorded and leaves the rollout's own reason as it is."""
    return nothing(state).noted(state, decision, reason, actor=actor)


def refused(state: Rollout, code: str, **facts: Fact) -> Outcome:
    return Outcome(state=state, because=Reason(code=code, facts=facts), refused=True)
