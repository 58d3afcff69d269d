"""The leased overlay: shares and mirrors as runtime keys, in layers that a proxy drops when their lifetime passes unrenewed.

All keys of a route are written together and sum to the total the route itself has: a missing key would silently move the total, and with it
sticky users. Whether segments reach their arm is two keys more, all or nothing. A mirror's share is written in struct form, because Envoy reads a bare integer as per cent.
Neighbours: `routes` has the same keys and the committed values. Source: Envoy RTDS, `runtime_impl.cc`; lifetimes: xDS "Resource TTL".
"""

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.service.runtime.v3 import rtds_pb2
from google.protobuf.struct_pb2 import Struct, Value

from policies.traffic import Traffic
from xds_server.core.snapshot import Resource
from xds_server.resources import names
from xds_server.resources.encoding import Piece, joined, nested, piece, resource
from xds_server.resources.routes import lane_weights, pin_weights

LAYER_FIELD = rtds_pb2.Runtime.LAYER_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class Overlay:
    """What one rollout has in its layer.

    Attributes:
        keys: Runtime key -> the entry as it stands in a serialised layer.
        ttl_s: How long it holds unrenewed [seconds]; None when it holds no share, no copy and no segment.
    """

    keys: tuple[tuple[str, Piece], ...] = ()
    ttl_s: float | None = None


NO_OVERLAY = Overlay()


def overlay(wish: Traffic) -> Overlay:
    arms = names.arms(wish)
    if not arms:
        return NO_OVERLAY
    values = {names.weight_key(wish, cluster): Value(number_value=weight) for cluster, weight in lane_weights(wish).items()}
    for arm in names.pinned_arms(wish):
        prefix = names.pin_prefix(wish, arm.variant)
        values |= {f"{prefix}.{cluster}": Value(number_value=weight) for cluster, weight in pin_weights(wish, arm).items()}
    for arm in arms:
        share = Struct(fields={"numerator": Value(number_value=arm.shadow_bp), "denominator": Value(string_value="TEN_THOUSAND")})
        values[names.mirror_key(wish, arm.variant)] = Value(struct_value=share)
    leased = any(arm.leased for arm in arms)
    keys = tuple((key, piece(Struct(fields={key: value}))) for key, value in values.items())
    return Overlay(keys, wish.lease.ttl_s if leased else None)


def layer(name: str, overlays: Iterable[Overlay]) -> Resource:
    """One layer; its entries stand in the order of their keys, as in any deterministic serialisation."""
    inside = tuple(overlays)
    entries = sorted((entry for each in inside for entry in each.keys), key=lambda entry: entry[0])
    content = joined((piece(rtds_pb2.Runtime(name=name)), nested(LAYER_FIELD, joined(entry for _, entry in entries))))
    return resource(name, content, ttl_s=min((each.ttl_s for each in inside if each.ttl_s is not None), default=None))
