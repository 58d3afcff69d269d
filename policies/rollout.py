"""The values the engine works on: a rollout's state, what can happen to it, and what it wants done.

All of them are frozen plain data: `pydantic.TypeAdapter` writes a `Rollout` as JSON and reads it back, which is how it is stored.
Times are seconds since the epoch (UTC) given by the caller; durations are summed from small ticks (`held_s` and friends), so that a
jumping clock or a process that was away neither serves a hold nor trips a deadline.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from policies.evidence import Block
from policies.gates import GateState
from policies.spec.policy import RolloutPolicy, Variant
from policies.steps import Stage
from policies.traffic import Traffic

Fact = str | int | float | bool | None


class Mode(StrEnum):
    """Where a rollout stands; `paused` and `holding` are kept beside it."""

    IDLE = "idle"
    """Nothing to roll out: stable serves."""
    WARMING = "warming"
    """The candidate is delivered at share 0 until the proxies have ACKed it and a pod is ready."""
    STEP = "step"
    """In the stage `position`."""
    REVERTING = "reverting"
    """100 % stable is published and not yet ACKed by every proxy."""
    REVERTED = "reverted"
    PROMOTING = "promoting"
    """The candidate is published as stable and not yet ACKed by every proxy."""
    BAKING = "baking"
    """Promoted; the old version is kept warm."""
    PROMOTED = "promoted"
    RETIRED = "retired"
    """Its document is gone; what was committed is remembered in case it comes back."""


IN_RELEASE = frozenset({Mode.WARMING, Mode.STEP})
"""Modes in which a candidate is on its way."""


class Verb(StrEnum):
    ABORT = "abort"
    PROMOTE = "promote"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why: a code (`policies.explain` has one sentence for each) and the numbers it used."""

    code: str
    facts: dict[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What the proxies of the group have of the current publication.

    Attributes:
        acked: Proxies on which its shares are in force.
        rejected: Proxies that reject something of it; then it is not complete, whoever ACKed.
        words: What a rejecting proxy says; without one, what the proxies wait for.
    """

    selected: int = 0
    acked: int = 0
    rejected: int = 0
    words: str = ""

    @property
    def complete(self) -> bool:
        return self.selected > 0 and self.acked >= self.selected and not self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """Pods of the candidate as probed; `words` says what was wrong with those that are not ready."""

    ready: int = 0
    total: int = 0
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Requests of the current stage [requests]."""

    stable: int = 0
    candidate: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout's whole state.

    Attributes:
        generation: Counts releases; keys sent to proxies carry it.
        publication: Counts changes of the wish; a `Delivered` for an older one says nothing.
        declared_stable: Identity of `stable` in the document last seen: tells an edit of stable from an old line left in the file.
        previous: The version that was stable before a promotion, while it is kept warm.
        leaving: A candidate that was replaced or reverted out of the policy; delivered without traffic until the next change.
        incoming: Another stable that an edit committed: delivered first, and stable once the proxies have ACKed it (make before break).
        rejected: Identity of the version last reverted; it is not started again by itself.
        orphan: The stage the release stands in although an edit removed it from the policy: its share stays, nothing advances.
        held_s: Time served in the stage (or bake) with the share ACKed by every proxy [s].
        stage_s: Time since the stage was entered, pauses left out [s].
        silent_s: Time with the share ACKed and no request of the candidate seen [s].
        in_effect_bp, shadow_in_effect_bp: Shares the proxies have ACKed.
        gates, shadow_gates: Evidence of users and of mirrored copies, one state per gate, in the policy's order.
        commands: Idempotency keys of the last commands.
    """

    name: str
    policy: RolloutPolicy
    stable: Variant
    declared_stable: str
    mode: Mode = Mode.IDLE
    candidate: Variant | None = None
    previous: Variant | None = None
    leaving: Variant | None = None
    incoming: Variant | None = None
    rejected: str = ""
    generation: int = 0
    publication: int = 0
    position: int = 0
    orphan: Stage | None = None
    paused: bool = False
    holding: bool = False
    delivery: Delivery = Delivery()
    pods: Pods = Pods()
    samples: Samples = Samples()
    gates: tuple[GateState, ...] = ()
    shadow_gates: tuple[GateState, ...] = ()
    in_effect_bp: int = 0
    shadow_in_effect_bp: int = 0
    held_s: float = 0.0
    stage_s: float = 0.0
    silent_s: float = 0.0
    clock: float = 0.0
    since: float = 0.0
    because: Reason = Reason(code="idle")
    commands: tuple[str, ...] = ()

    @property
    def leaver(self) -> Variant | None:
        """The candidate, as it is kept when another takes its place: not if proxies reject it and nobody uses it, or they would for ever."""
        unused = not self.in_effect_bp and not self.shadow_in_effect_bp
        return None if unused and self.delivery.rejected else self.candidate


# What can happen.


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged:
    policy: RolloutPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRemoved:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """The control plane came up with this state from its store: leases may have run out, nothing is known of the proxies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    publication: int
    delivery: Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class PodsProbed:
    identity: str
    pods: Pods


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceArrived:
    block: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Commanded:
    verb: Verb
    actor: str = ""
    reason: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    pass


Event = PolicyChanged | PolicyRemoved | Restarted | Delivered | PodsProbed | EvidenceArrived | Commanded | Ticked


# What is wanted done, in this order: persist, publish, notify. A crash between any two replays to the same state.


class Decision(StrEnum):
    ADOPTED = "adopted"
    STARTED = "started"
    ENTERED = "entered"
    ADVANCED = "advanced"
    HELD = "held"
    RESUMED = "resumed"
    PAUSED = "paused"
    REVERTED = "reverted"
    PROMOTED = "promoted"
    COMPLETED = "completed"
    EDITED = "edited"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One decision, kept for good with the numbers it used."""

    at: float
    rollout: str
    generation: int
    publication: int
    decision: Decision
    reason: Reason
    step: str = ""
    share_bp: int = 0
    stable: str = ""
    candidate: str = ""
    actor: str = "crossfade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Persist:
    """Save the step's state (compare-and-set) and append the records, in one transaction, BEFORE what follows."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    traffic: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """The rollout owns no traffic any more."""

    rollout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    record: Record


Effect = Persist | Publish | Withdraw | Notify


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The outcome of one event.

    Without a `Persist` among the effects the new state may be saved later (a checkpoint): losing it loses a moment of evidence and of
    hold, never a decision.

    Attributes:
        refused: A command that cannot be carried out now; the state is unchanged and `because` says why.
    """

    state: Rollout
    effects: tuple[Effect, ...] = ()
    because: Reason
    refused: bool = False
