"""Names of what is sent to the proxies, and the way back: whose traffic a cluster is.

Cluster names carry the version (`Variant.identity`), never the role: promoting changes weights, not names, and evidence of two versions
can never meet under one name. `envoy` builds resources under these names; `xds_server.evidence` reads owners to credit log entries.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

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

PICKED_TAG = "picked"
"""Access-log tag: the cluster the route picked, the composite one included; the entry's own field names the cluster that answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose traffic a cluster carries.

    Attributes:
        identity: `Variant.identity`; of a composite cluster the candidate's.
        composite: It is the candidate with stable behind it: an answer from another real cluster was a fallback.
        timeout_s: When the route gives a request up [s]; 0 = never.
    """

    rollout: str
    identity: str
    audience: Literal["users", "shadow"]
    composite: bool = False
    timeout_s: float = 0.0


@lru_cache(maxsize=16_384)
def identity(variant: Variant) -> str:
    """`Variant.identity`, remembered: it is asked for dozens of times per rollout and hashes JSON."""
    return variant.identity


def cluster(rollout: str, variant: Variant) -> str:
    """The real cluster of a variant: its pods, for users' requests."""
    return f"{rollout}/{identity(variant)}"


def shadow_cluster(rollout: str, variant: Variant) -> str:
    """The same pods for mirrored copies, with limits and counters of their own."""
    return f"{rollout}/{identity(variant)}.shadow"


def composite_cluster(rollout: str, variant: Variant) -> str:
    """The candidate first, stable when it cannot be reached."""
    return f"{rollout}/{identity(variant)}+fallback"


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


def mirror_key(wish: Traffic, variant: Variant) -> str:
    """Runtime key of the share of requests that an arm gets a copy of."""
    return f"crossfade.mirror.{wish.rollout}.{wish.generation}.{identity(variant)}"


def layer_of(rollout: str) -> str:
    """The runtime layer a rollout lives in: the same on every server and for ever."""
    return LAYER_NAMES[hashlib.sha256(rollout.encode()).digest()[0] % LAYERS]


def salt(rollout: str, assignment: Assignment) -> str:
    """What decorrelates this rollout's users from every other's: the policy's salt, else the rollout's name."""
    return assignment.salt or rollout


def salted(value: str, rollout: str, assignment: Assignment) -> str:
    """What Envoy hashes (XXH64, seed 0) for a sticky user; `policies.weights.pick` of that number names the variant."""
    return f"{value}#{salt(rollout, assignment)}"


def arms(wish: Traffic) -> tuple[Arm, ...]:
    """Arms that differ from stable: a version beside itself is one cluster and nothing to choose."""
    return tuple(arm for arm in wish.arms if identity(arm.variant) != identity(wish.stable))


def owners(wishes: Iterable[Traffic]) -> Mapping[str, Owner]:
    """Cluster name -> whose traffic it carries, for all clusters of all rollouts."""
    found: dict[str, Owner] = {}
    for wish in wishes:
        rollout, timeout_s = wish.rollout, wish.where.timeout_s
        for variant in (wish.stable, *(arm.variant for arm in arms(wish)), *wish.kept):
            found[cluster(rollout, variant)] = Owner(rollout=rollout, identity=identity(variant), audience="users", timeout_s=timeout_s)
        for variant in (arm.variant for arm in arms(wish)):
            name = shadow_cluster(rollout, variant)
            found[name] = Owner(rollout=rollout, identity=identity(variant), audience="shadow", timeout_s=timeout_s)
            if wish.where.fallback is not Fallback.NONE:
                name = composite_cluster(rollout, variant)
                found[name] = Owner(rollout=rollout, identity=identity(variant), audience="users", composite=True, timeout_s=timeout_s)
    return found
