"""What each step of a policy means: the flat list of stages a release walks through.

A `canary` step with four shares is four stages; the engine only knows stages. Every stage says the whole of what users get in it: a step that
takes no share of its own (`probe`, `shadow`, `approve`) keeps the one that was reached.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from policies.memo import by_object
from policies.spec.policy import (
    FULL_BP,
    AbStep,
    ApproveStep,
    CanaryStep,
    Hold,
    ProbeStep,
    PromoteStep,
    RolloutPolicy,
    ShadowStep,
    Shares,
    SwitchStep,
    Then,
)

Kind = Literal["probe", "shadow", "canary", "switch", "ab", "approve", "promote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One distribution of traffic to hold.

    Attributes:
        shares: Users' requests by arm, all arms of the policy by name: their order in the document means nothing [hundredths of a per cent].
        shadows: Requests copied, by arm; arms without are left out [hundredths of a per cent].
        users: Whether users may get an arm: from the first `canary`, `switch` or `ab` on, also at a share of 0 (segments).
        probe: Of a probe: what is asked.
        goal: Of an ab: name of the gate that decides.
        within_s: Of an ab: its end without a winner [s]; of an approve: the time to answer [s].
        then: Of an approve: what silence means.
        who: Of an approve: who is asked.
        arm: Of a switch or promote: the one meant; "" = the one that won, or the only one.
    """

    kind: Kind
    shares: Shares = ()
    shadows: Shares = ()
    users: bool = False
    hold: Hold = Hold()
    probe: ProbeStep | None = None
    goal: str = ""
    within_s: float = 0.0
    then: Then = Then.REVERT
    who: str = ""
    arm: str = ""
    keep_stable_for_s: float = 0.0

    @property
    def label(self) -> str:
        alone = len(self.shares) <= 1  # all arms have their share there
        match self.kind:
            case "probe":
                return "probe"
            case "approve":
                return "approval"
            case "promote":
                return "promote"
            case "switch":
                return f"switch to {self.arm}"
            case "shadow":
                return f"shadow {_told(self.shadows, alone=alone)}"
            case "canary" | "ab":
                return f"{self.kind} {_told(self.shares, alone=alone)}"

    @property
    def share_bp(self) -> int:
        """Of all arms together [hundredths of a per cent]."""
        return sum(share for _, share in self.shares)

    def share_of(self, arm: str) -> int:
        """Of one arm [hundredths of a per cent]; 0 if it is not named."""
        return _of(self.shares, arm)

    def copies_of(self, arm: str) -> int:
        """Requests copied to one arm [hundredths of a per cent]."""
        return _of(self.shadows, arm)

    @property
    def waits_for_evidence(self) -> bool:
        """Whether gates and samples must have been asked before it ends."""
        return self.kind in {"shadow", "canary", "switch", "ab"}


def _of(shares: Shares, arm: str) -> int:
    for name, share in shares:
        if name == arm:
            return share
    return 0


def percent(share_bp: int) -> str:
    """Hundredths of a per cent as a person writes them: 500 is "5%", 25 is "0.25%"."""
    return f"{share_bp / 100:.2f}".rstrip("0").rstrip(".") + "%"


def _told(shares: Shares, *, alone: bool) -> str:
    """The only arm's share, or each arm's with its name: "5%", "b 5%, c 10%"."""
    if alone and shares:
        return percent(shares[0][1])
    return ", ".join(f"{arm} {percent(share)}" for arm, share in shares if share) or "0%"


@by_object
def stages(policy: RolloutPolicy) -> tuple[Stage, ...]:
    """All stages in order; ends with `promote` only where the policy says so."""
    flat: list[Stage] = []
    reached = dict.fromkeys(sorted(arm.name for arm in policy.arms), 0) or {"candidate": 0}
    users = False
    for step in policy.steps:
        match step:
            case ProbeStep():
                flat.append(Stage(kind="probe", shares=tuple(reached.items()), users=users, probe=step))
            case ShadowStep():
                flat.append(
                    Stage(kind="shadow", shares=tuple(reached.items()), users=users, shadows=tuple(sorted(step.shares)), hold=step.hold)
                )
            case CanaryStep():
                users = True
                for shares, hold in step.stages:
                    reached |= dict(shares)
                    flat.append(Stage(kind="canary", shares=tuple(reached.items()), users=True, hold=hold))
            case SwitchStep():
                users, reached = True, dict.fromkeys(reached, 0) | {step.arm: FULL_BP}
                flat.append(Stage(kind="switch", shares=tuple(reached.items()), users=True, hold=step.hold, arm=step.arm))
            case AbStep():
                users = True
                reached |= dict(step.shares)
                at = Stage(kind="ab", shares=tuple(reached.items()), users=True, hold=step.hold, goal=step.goal, within_s=step.at_most_s)
                flat.append(at)
            case ApproveStep():
                at = Stage(kind="approve", shares=tuple(reached.items()), users=users, within_s=step.within_s, then=step.then, who=step.who)
                flat.append(at)
            case PromoteStep():
                flat.append(
                    Stage(
                        kind="promote", shares=tuple(reached.items()), users=users, arm=step.arm, keep_stable_for_s=step.keep_stable_for_s
                    )
                )
    return tuple(flat)


@by_object
def reserves(policy: RolloutPolicy) -> Mapping[str, int]:
    """The most each arm may get in a release [hundredths of a per cent]: its part of the lanes.

    An arm that gets everything by a `switch` alone has no need of a home of its own: it takes what is there at once. In a layer it has: what
    is there may be others'.
    """
    most = {arm.name: 0 for arm in policy.arms}
    at_once = len(most) > 1 and not policy.assignment.layer
    for stage in stages(policy):
        if stage.kind == "switch" and at_once:
            break  # from here on one arm has it all
        for arm, share_bp in stage.shares:
            if arm in most:
                most[arm] = max(most[arm], share_bp)
    return most


def renamed(stage: Stage, names: Mapping[str, str]) -> Stage:
    """The same stage with other names for some arms, in the order of the names: in which order a document has its variants says nothing."""

    def pairs(shares: Shares) -> Shares:
        return tuple(sorted((names.get(arm, arm), share) for arm, share in shares))

    return replace(stage, shares=pairs(stage.shares), shadows=pairs(stage.shadows), arm=names.get(stage.arm, stage.arm))


def find(stage: Stage, position: int, edited: tuple[Stage, ...]) -> int | None:
    """Where a release that stands in `stage` at `position` stands in an edited list.

    Returns: The nearest equal stage; else the nearest of the same kind and shares; else the same place if it still has the same kind (its
        share changed); else None: removed.
    """
    equal = [index for index, other in enumerate(edited) if other == stage]
    what = (stage.kind, stage.shares, stage.shadows, stage.arm)
    alike = [index for index, other in enumerate(edited) if (other.kind, other.shares, other.shadows, other.arm) == what]
    if equal or alike:
        return min(equal or alike, key=lambda index: (abs(index - position), index))
    if position < len(edited) and edited[position].kind == stage.kind:
        return position
    return None
