"""What each step of a policy means: the flat list of stages a release walks through.

A `canary` step with four shares is four stages; the engine only knows stages.
"""

from dataclasses import dataclass
from typing import Literal

from policies.spec.policy import CanaryStep, Hold, PromoteStep, RolloutPolicy, ShadowStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One share to hold.

    Attributes:
        share_bp: Users' requests the candidate answers [hundredths of a per cent].
        shadow_bp: Requests it gets a copy of [hundredths of a per cent].
    """

    kind: Literal["shadow", "canary", "promote"]
    share_bp: int = 0
    shadow_bp: int = 0
    hold: Hold = Hold()
    keep_stable_for_s: float = 0.0

    @property
    def label(self) -> str:
        match self.kind:
            case "shadow":
                return f"shadow {percent(self.shadow_bp)}"
            case "canary":
                return f"canary {percent(self.share_bp)}"
            case "promote":
                return "promote"


def percent(share_bp: int) -> str:
    """Hundredths of a per cent as a person writes them: 500 is "5%", 25 is "0.25%"."""
    return f"{share_bp / 100:.2f}".rstrip("0").rstrip(".") + "%"


def stages(policy: RolloutPolicy) -> tuple[Stage, ...]:
    """All stages in order; always ends with `promote` only where the policy says so."""
    flat: list[Stage] = []
    for step in policy.steps:
        match step:
            case ShadowStep():
                flat.append(Stage(kind="shadow", shadow_bp=step.share_bp, hold=step.hold))
            case CanaryStep():
                flat.extend(Stage(kind="canary", share_bp=share, hold=step.hold) for share in step.shares_bp)
            case PromoteStep():
                flat.append(Stage(kind="promote", keep_stable_for_s=step.keep_stable_for_s))
    return tuple(flat)


def find(stage: Stage, position: int, edited: tuple[Stage, ...]) -> int | None:
    """Where a release that stands in `stage` at `position` stands in an edited list.

    Returns: The nearest equal stage; else the same place if it still has the same kind (its share or hold changed); else None: removed.
    """
    equal = [index for index, other in enumerate(edited) if other == stage]
    if equal:
        return min(equal, key=lambda index: (abs(index - position), index))
    if position < len(edited) and edited[position].kind == stage.kind:
        return position
    return None
