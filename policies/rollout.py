"""The values the engine works on: a rollout's state, what can happen to it, and what it wants done.

All of them are frozen plain data: `pydantic.TypeAdapter` writes a `Rollout` as JSON and reads it back, which is how it is stored.
Times are seconds since the epoch (UTC) given by the caller; durations are summed from small ticks (`held_s` and friends), so that a
jumping clock or a process that was away neither serves a hold nor trips a deadline.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from policies.evidence import NOTHING, Block, Counts
from policies.gates import GateState
from policies.lanes import WHOLE, Lane
from policies.noise import Noise
from policies.ratio import Drawn
from policies.spec.policy import FULL_BP, Assignment, RolloutPolicy, Shares, Variant
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

KEEPING = frozenset({Mode.PROMOTING, Mode.BAKING})
"""Modes in which the new version has everything, the old one is warm and the gates are on."""


class Verb(StrEnum):
    """What a person may say; `engine` has what each does."""

    START = "start"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ABORT = "abort"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    APPROVE = "approve"
    ROLLBACK = "rollback"
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"


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
    """Pods of an arm as probed; `words` says what was wrong with those that are not ready."""

    ready: int = 0
    total: int = 0
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """What a probe of one arm has found so far [requests]; `words` is the first thing that was wrong."""

    asked: int = 0
    good: int = 0
    done: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """The most an arm may have while growth is frozen: shares [hundredths of a per cent], and whether segments may reach it."""

    share_bp: int = 0
    shadow_bp: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A hold or its end that was recorded, so that one that comes and goes does not flood the history. `at`: seconds since the epoch."""

    what: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmState:
    """One arm of a release.

    Attributes:
        ceiling_bp: What its ready pods can carry [hundredths of a per cent]; its share is never more.
        ceiling_s: Time since that was last reduced [s].
        in_effect_bp, shadow_in_effect_bp: Shares the proxies have ACKed.
        gates, shadow_gates: Evidence of users and of mirrored copies, one state per gate, in the policy's order.
        blast: Evidence of this stage that more users would not be too many; None = not asked for.
        silent_s: Time with a share ACKed and no request of it seen [s].
        gone_s: Time with a share due and no pod ready [s].
        cap: What it had when growth was frozen; None = it may grow.
        out: Why it was taken out of the release; None = it is in.
    """

    variant: Variant
    pods: Pods = Pods()
    ceiling_bp: int = FULL_BP
    ceiling_s: float = 0.0
    in_effect_bp: int = 0
    shadow_in_effect_bp: int = 0
    samples: int = 0
    gates: tuple[GateState, ...] = ()
    shadow_gates: tuple[GateState, ...] = ()
    blast: GateState | None = None
    probing: Probing = Probing()
    silent_s: float = 0.0
    gone_s: float = 0.0
    cap: "Cap | None" = None
    out: Reason | None = None

    @property
    def name(self) -> str:
        return self.variant.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """Stable's requests in this release: what an arm is held against once it has all the traffic.

    Attributes:
        seen: Of the time when stable still had some.
        used: How many requests of it were given to the gates since [requests].
    """

    seen: Counts = NOTHING
    used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """Nothing grows.

    Attributes:
        source: "window" (the policy's calendar), "operator" or "gate".
        words: Who or what said so.
        failure: Of a gate: which failure it was.
    """

    source: str
    words: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout's whole state.

    Attributes:
        generation: Counts releases; keys sent to proxies carry it.
        publication: Counts changes of the wish; a `Delivered` for an older one says nothing.
        declared_stable: Identity of `stable` in the document last seen: tells an edit of stable from an old line left in the file.
        committed: Versions that were stable before, newest last: where `rollback` can go.
        previous: The version that was stable before a promotion, while it is kept warm.
        leaving: Arms that were replaced or reverted out of the policy; delivered without traffic until the next change.
        incoming: Another stable that an edit or a rollback committed: delivered first, and stable once the proxies have ACKed it (make before break).
        rejected: Identities of the arms last reverted; they are not started again by themselves.
        lane: The part of all users that the arms are drawn from.
        homes: The most each arm may get in this release: (name, share) [hundredths of a per cent].
        orphan: The stage the release stands in although an edit removed it from the policy: its share stays, nothing advances.
        freezes: Why nothing grows now; () = it may.
        frozen_assignment: Who is assigned how while frozen: an edit of it may reach more users; None = the policy's.
        overruled: Failures that a person has unfrozen: they do not freeze again before they are over.
        winner: Name of the arm that an `ab` decided for; "" = none did.
        approved: Whether a person said go in the `approve` stage the release stands in.
        rolled_back: `stable` was chosen by a `rollback`: the document does not change it before its stable is edited.
        duels: Evidence of every ordered pair of arms by the goal of the `ab` the release stands in.
        held_s: Time served in the stage (or bake) with the share ACKed by every proxy [s].
        stage_s: Time since the stage was entered, pauses left out [s].
        stable_samples: Requests of stable in the current stage.
        source_words: What is wrong with the source of the evidence, "" = it works; `source_s`: for how long [s].
        load: Requests in flight at once, a moving average [requests]; `load_at`: as of when [s since the epoch].
        bake_s: How long the version before the promotion is kept warm, as the policy said then [s].
        noise: How much more than by chance stable's pods differ.
        drawn: Requests of stable and of each arm since the shares in force last changed.
        told: Holds and their ends recorded lately.
        commands: The last commands that had an idempotency key, with their verbs.
    """

    name: str
    policy: RolloutPolicy
    stable: Variant
    declared_stable: str
    committed: tuple[Variant, ...] = ()
    mode: Mode = Mode.IDLE
    arms: tuple[ArmState, ...] = ()
    previous: Variant | None = None
    leaving: tuple[Variant, ...] = ()
    incoming: Variant | None = None
    rejected: tuple[str, ...] = ()
    generation: int = 0
    publication: int = 0
    lane: Lane = WHOLE
    homes: Shares = ()
    position: int = 0
    orphan: Stage | None = None
    paused: bool = False
    holding: bool = False
    freezes: tuple[Freeze, ...] = ()
    frozen_assignment: Assignment | None = None
    overruled: tuple[str, ...] = ()
    winner: str = ""
    approved: bool = False
    rolled_back: bool = False
    duels: tuple[GateState, ...] = ()
    delivery: Delivery = Delivery()
    stable_samples: int = 0
    yardstick: Yardstick = Yardstick()
    held_s: float = 0.0
    stage_s: float = 0.0
    source_words: str = ""
    source_s: float = 0.0
    load: float = 0.0
    load_at: float = 0.0
    bake_s: float = 0.0
    noise: Noise = Noise()
    drawn: Drawn = Drawn()
    told: tuple[Told, ...] = ()
    clock: float = 0.0
    since: float = 0.0
    because: Reason = Reason(code="idle")
    commands: tuple[str, ...] = ()

    @property
    def running(self) -> tuple[ArmState, ...]:
        """The arms that are in the release."""
        for arm in self.arms:
            if arm.out is not None:
                return tuple(arm for arm in self.arms if arm.out is None)
        return self.arms

    @property
    def leavers(self) -> tuple[Variant, ...]:
        """The arms, as they are kept when others take their place: not if proxies reject them and nobody uses them, or they would for ever."""
        used = any(arm.in_effect_bp or arm.shadow_in_effect_bp for arm in self.arms)
        return tuple(arm.variant for arm in self.arms) if used or not self.delivery.rejected else ()


# What can happen.


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged:
    """The document, as it is now. `lane`: of a rollout in a layer; None = there is no room in it."""

    policy: RolloutPolicy
    lane: Lane | None = WHOLE


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
class Probed:
    """What the probe of the stage at `position` has found of one arm so far."""

    identity: str
    position: int
    probing: Probing


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowChanged:
    """A freeze window of the policy began (`words` says which and until when) or ended ("")."""

    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReported:
    """The source of the evidence does not work (`words` says how), or does again ("")."""

    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceArrived:
    block: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Commanded:
    """What a person said. `to`: of a rollback: the version or identity to go to; of a promotion: the arm; "" = the obvious one."""

    verb: Verb
    to: str = ""
    actor: str = ""
    reason: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    pass


Event = (
    PolicyChanged
    | PolicyRemoved
    | Restarted
    | Delivered
    | PodsProbed
    | Probed
    | WindowChanged
    | SourceReported
    | EvidenceArrived
    | Commanded
    | Ticked
)


# What is wanted done, in this order: persist, publish, notify. A crash between any two replays to the same state.


class Decision(StrEnum):
    ADOPTED = "adopted"
    STARTED = "started"
    ENTERED = "entered"
    ADVANCED = "advanced"
    HELD = "held"
    RESUMED = "resumed"
    PAUSED = "paused"
    DROPPED = "dropped"
    REVERTED = "reverted"
    WON = "won"
    APPROVED = "approved"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    FROZEN = "frozen"
    UNFROZEN = "unfrozen"
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
    shares: Shares = ()
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
