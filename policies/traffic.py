"""What the engine wants the proxies to do for one rollout: the one thing that passes from `policies` to delivery."""

from dataclasses import dataclass

from policies.spec.policy import Assignment, Lease, TrafficSpec, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A variant beside stable.

    Attributes:
        share_bp: Requests it answers [hundredths of a per cent]; a lease.
        shadow_bp: Requests it gets a copy of [hundredths of a per cent]; a lease too.
    """

    variant: Variant
    share_bp: int = 0
    shadow_bp: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One rollout's wish, complete: applying it twice changes nothing.

    Attributes:
        publication: Number of this wish, growing within the rollout; deliveries are reported by it.
        generation: Number of the rollout's current release; keys of an older one never act on a newer.
        stable: Gets everything that no arm gets; committed (no lease).
        arms: Delivered and warm, also at share 0.
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
    kept: tuple[Variant, ...] = ()
