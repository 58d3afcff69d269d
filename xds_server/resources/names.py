"""Names of what is sent to the proxies, and the way back: whose traffic a cluster is.

Cluster names carry the version (`Variant.identity`), never the role: promoting changes weights, not names, and evidence of two versions
can never meet under one name. `envoy` builds resources under these names; `xds_server.evidence` reads owners to credit log entries.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from policies.lanes import order
from policies.spec.policy import Assignment, Fallback, Variant
from policies.traffic import Arm, Traffic

LAYERS = 16
"""Runtime layers of every bootstrap of ours. Fixed: an Envoy cannot get another one later."""

LAYER_NAMES = tuple(f"crossfade-{number:x}" for number in range(LAYERS))

XDS_CLUSTER = "crossfade_xds"
"""The cluster of a bootstrap that leads to us: xDS, access logs, load reports."""

ACCESS_LOG = "crossfade"
"""`log_name` of our access logs."""

TTFT_TAG = "ttft_us"
"""Access-log tag: microseconds from the request's first byte sent to the answer's first body byte."""

PINNED = "#"
"""In a route's name: before the segment that its requests are pinned by."""

PICKED_TAG = "picked"
"""Access-log tag: the cluster the route picked, the composite one included; the entry's own field names the cluster that answered."""

GRPC_TAG = "grpc"
"""Access-log tag of gRPC requests only: the status that the answer had or, without one, Envoy's translation of its HTTP status."""

GRPC_STATUS = "grpc-status"
"""Header or trailer of an answer that says how a gRPC request ended; the log has it as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose traffic a cluster carries.

    Attributes:
        identity: `Variant.identity`; of a composite cluster the arm's.
        composite: It is an arm with stable behind it: an answer from another real cluster was a fallback.
        timeout_s: When the route gives a request up [s]; 0 = never.
        http2: How its pods are spoken to; without it none of them is a gRPC server.
    """

    rollout: str
    identity: str
    audience: Literal["users", "shadow"]
    composite: bool = False
    timeout_s: float = 0.0
    http2: bool = False


def cluster(rollout: str, variant: Variant) -> str:
    """The real cluster of a variant: its pods, for users' requests."""
    return f"{rollout}/{variant.identity}"


def shadow_cluster(rollout: str, variant: Variant) -> str:
    """The same pods for mirrored copies, with limits and counters of their own."""
    return f"{rollout}/{variant.identity}.shadow"


def composite_cluster(rollout: str, variant: Variant) -> str:
    """The candidate first, stable when it cannot be reached."""
    return f"{rollout}/{variant.identity}+fallback"


def aliases(wish: Traffic) -> tuple[str, ...]:
    """Other names of stable's cluster, one for each of its further slots: Envoy has one runtime key per name."""
    slots = order(len(arms(wish)), wish.lane).count(None)
    return tuple(f"{wish.rollout}/{number}={wish.stable.identity}" for number in range(2, slots + 1))


def routed_cluster(wish: Traffic, variant: Variant) -> str:
    """What a route names for an arm."""
    if wish.where.fallback is Fallback.NONE:
        return cluster(wish.rollout, variant)
    return composite_cluster(wish.rollout, variant)


def route_config(proxies: str, listener: str) -> str:
    """The route configuration of a listener; the listener itself has the same name."""
    return f"{proxies}/{listener}"


def weight_prefix(wish: Traffic) -> str:
    """Runtime key prefix of a release's weights; Envoy appends `.` and the routed cluster's name.

    It carries the release's number, so a key of an older release never acts on a newer route.
    """
    return f"crossfade.weight.{wish.rollout}.{wish.generation}"


def weight_key(wish: Traffic, routed: str) -> str:
    return f"{weight_prefix(wish)}.{routed}"


def pin_prefix(wish: Traffic, variant: Variant) -> str:
    """Runtime key prefix of whether the segments that name an arm are answered by it; completed as that of the weights."""
    return f"crossfade.pin.{wish.rollout}.{wish.generation}.{variant.identity}"


def mirror_key(wish: Traffic, variant: Variant) -> str:
    """Runtime key of the share of requests that an arm gets a copy of."""
    return f"crossfade.mirror.{wish.rollout}.{wish.generation}.{variant.identity}"


def layer_of(rollout: str) -> str:
    """The runtime layer a rollout lives in: the same on every server and for ever."""
    return LAYER_NAMES[hashlib.sha256(rollout.encode()).digest()[0] % LAYERS]


def salt(rollout: str, assignment: Assignment) -> str:
    """What decorrelates this rollout's users from every other's: its name unless the policy has a salt. In a layer all have the layer's."""
    return assignment.layer or assignment.salt or rollout


def salted(value: str, rollout: str, assignment: Assignment) -> str:
    """What Envoy hashes (XXH64, seed 0) for a sticky user; `policies.lanes.pick` of that number names the arm."""
    return f"{value}#{salt(rollout, assignment)}"


def arms(wish: Traffic) -> tuple[Arm, ...]:
    """Arms that differ from stable: a version beside itself is one cluster and nothing to choose."""
    stable = wish.stable.identity
    return tuple([arm for arm in wish.arms if arm.variant.identity != stable])


def pinned_arms(wish: Traffic) -> tuple[Arm, ...]:
    """Arms that segments name."""
    named = {segment.variant for segment in wish.assignment.segments}
    return tuple(arm for arm in arms(wish) if arm.variant.name in named)


def pinned_route(rollout: str, segment: str) -> str:
    """Name of a segment's routes; all others bear the rollout's name alone."""
    return f"{rollout}{PINNED}{segment}"


def is_pinned(route: str) -> bool:
    return PINNED in route


def owners(wishes: Iterable[Traffic]) -> Mapping[str, Owner]:
    """Cluster name -> whose traffic it carries, for all clusters of all rollouts."""
    found: dict[str, Owner] = {}
    for wish in wishes:

        def owner(
            variant: Variant, audience: Literal["users", "shadow"] = "users", *, composite: bool = False, wish: Traffic = wish
        ) -> Owner:
            return Owner(
                rollout=wish.rollout,
                identity=variant.identity,
                audience=audience,
                composite=composite,
                timeout_s=wish.where.timeout_s,
                http2=variant.http2,
            )

        found.update((alias, owner(wish.stable)) for alias in aliases(wish))
        for variant in (wish.stable, *(arm.variant for arm in arms(wish)), *wish.kept):
            found[cluster(wish.rollout, variant)] = owner(variant)
        for variant in (arm.variant for arm in arms(wish)):
            found[shadow_cluster(wish.rollout, variant)] = owner(variant, "shadow")
            if wish.where.fallback is not Fallback.NONE:
                found[composite_cluster(wish.rollout, variant)] = owner(variant, composite=True)
    return found
