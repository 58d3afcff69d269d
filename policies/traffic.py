"""What the engine wants the proxies to do for one rollout: the one thing that passes from `policies` to delivery."""

from dataclasses import dataclass

from policies.lanes import WHOLE, Lane
from policies.spec.policy import Assignment, Lease, TrafficSpec, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A variant beside stable.

    Attributes:
        share_bp: Requests it answers [hundredths of a per cent]; a lease.
        shadow_bp: Requests it gets a copy of [hundredths of a per cent]; a lease too.
        reserve_bp: The most it may get in this release: its place among the lanes, the same from the first share to the last.
        pinned: Whether the segments that name it are answered by it (else by stable); a lease too.
    """

    variant: Variant
    share_bp: int = 0
    shadow_bp: int = 0
    reserve_bp: int = 0
    pinned: bool = False

    @property
    def leased(self) -> bool:
        """Whether it has anything that lapses unrenewed."""
        return bool(self.share_bp or self.shadow_bp or self.pinned)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One rollout's wish, complete: applying it twice changes nothing.

    Attributes:
        publication: Number of this wish, growing within the rollout; deliveries are reported by it.
        generation: Number of the rollout's current release; keys of an older one never act on a newer.
        stable: Gets everything that no arm gets; committed (no lease).
        arms: Delivered and warm, also at share 0.
        lane: The part of all users that the arms are drawn from.
        kept: Versions kept delivered and warm without traffic (the way back after a promotion).
    """

    rollout: str
    publication: int
    generation: int
    where: TrafficSpec
    assignment: Assignment
    lease: Lease
    stable: Variant
    arms: tuple[Arm, ...] = ()
    lane: Lane = WHOLE
    kept: tuple[Variant, ...] = ()
