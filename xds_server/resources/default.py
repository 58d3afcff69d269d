"""What no rollout owns: a group's default cluster and the last route of every host, which leads to it and changes nothing.

Neighbours: `routes` places the route behind all others, `envoy` brings the cluster along. Source: Envoy 1.40 `route_components.proto`.
"""

from collections.abc import Mapping
from functools import lru_cache

from envoy.config.cluster.v3 import circuit_breaker_pb2 as breaker
from envoy.config.route.v3 import route_components_pb2 as pb

from policies.spec.policy import ProxiesPolicy
from xds_server.core.snapshot import Reference, Resource
from xds_server.core.types import CDS
from xds_server.resources.clusters import PANIC_STABLE_PERCENT, base, plain_options, with_endpoints
from xds_server.resources.encoding import nested, piece, seconds, uint32
from xds_server.resources.routes import ANY_HOST, ROUTES_FIELD, RolloutRoutes, Route

NO_ROLLOUT = ""
"""In the place of a rollout's name."""

UNLIMITED = 1 << 31
"""How many is not ours to say: these requests are only let through."""


def default_cluster(proxies: ProxiesPolicy) -> str:
    """No rollout's name begins with `_`."""
    return f"_default/{proxies.name}"


@lru_cache(maxsize=256)
def default_resources(proxies: ProxiesPolicy) -> Mapping[Reference, Resource]:
    """The default cluster with its endpoints; {} if the group has none."""
    if proxies.default is None:
        return {}
    limit = uint32(UNLIMITED)
    limits = breaker.CircuitBreakers.Thresholds(max_connections=limit, max_pending_requests=limit, max_requests=limit)
    message = base(default_cluster(proxies), limits, plain_options(http2=False), panic_percent=PANIC_STABLE_PERCENT)
    return {(type_url, each.name): each for type_url, each in with_endpoints(message, proxies.default.endpoints)}


@lru_cache(maxsize=256)
def default_routes(proxies: ProxiesPolicy) -> RolloutRoutes | None:
    """The route behind every rollout's; None if the group has none. Under `*`, which covers every host."""
    if proxies.default is None:
        return None
    cluster = default_cluster(proxies)
    action = pb.RouteAction(cluster=cluster, timeout=seconds(proxies.default.timeout_s), idle_timeout=seconds(0.0))
    message = pb.Route(name=cluster, match=pb.RouteMatch(prefix="/"), route=action)
    last = Route(NO_ROLLOUT, (1, 0, NO_ROLLOUT, 0, 0), nested(ROUTES_FIELD, piece(message)))
    return RolloutRoutes({ANY_HOST: (last,)}, ((CDS, cluster),))
