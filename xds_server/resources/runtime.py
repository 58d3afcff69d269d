"""The leased overlay: shares and mirrors as runtime keys, in layers that a proxy drops when their lifetime passes unrenewed.

All keys of a route are written together and sum to the total the route itself has: a missing key would silently move the total, and with it
sticky users. A mirror's share is written in struct form, because Envoy reads a bare integer as per cent.
Neighbours: `routes` has the same keys and the committed values. Source: Envoy RTDS, `runtime_impl.cc`; lifetimes: xDS "Resource TTL".
"""

from collections.abc import Iterator, Sequence

from envoy.service.runtime.v3 import rtds_pb2
from google.protobuf.struct_pb2 import Struct

from policies.traffic import Traffic
from xds_server.core.snapshot import Resource
from xds_server.resources import names
from xds_server.resources.encoding import resource
from xds_server.resources.routes import lane_weights


def layers(wishes: Sequence[Traffic], *, leased: bool) -> Iterator[Resource]:
    """All layers, always: an Envoy waits for each one its bootstrap names."""
    for name in names.LAYER_NAMES:
        inside = [wish for wish in wishes if leased and names.layer_of(wish.rollout) == name]
        overlay = Struct()
        for wish in inside:
            _write(overlay, wish)
        given = [wish.lease.ttl_s for wish in inside if any(arm.share_bp or arm.shadow_bp for arm in names.arms(wish))]
        yield resource(name, rtds_pb2.Runtime(name=name, layer=overlay), ttl_s=min(given, default=None))


def _write(overlay: Struct, wish: Traffic) -> None:
    arms = names.arms(wish)
    if not arms:
        return
    for cluster, weight in lane_weights(wish).items():
        overlay.fields[names.weight_key(wish, cluster)].number_value = weight
    for arm in arms:
        share = overlay.fields[names.mirror_key(wish, arm.variant)].struct_value
        share.fields["numerator"].number_value = arm.shadow_bp
        share.fields["denominator"].string_value = "TEN_THOUSAND"
