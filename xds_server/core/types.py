"""The resource types this control plane serves, as data: adding a type is one row.

Neighbours: `snapshot` keys its content by these URLs; `stream` takes order and subscription rules from the rows.
Source: Envoy `docs/root/api-docs/xds_protocol.rst` (eventual consistency, wildcard subscriptions, full-world types).
"""

from dataclasses import dataclass
from typing import Final

CDS: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
RTDS: Final = "type.googleapis.com/envoy.service.runtime.v3.Runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceType:
    """One type of resource.

    Attributes:
        short: What people call it, "CDS".
        wildcard: A client may ask for all of it; then, in the state-of-the-world variant, what a response leaves out is deleted.
        parents: Types whose ACK must come before this type's removals are sent: whoever still points at the removed thing.
        child: Type that must be sent again for a resource of this type that changed (a changed cluster warms on its endpoints).
        service: Per-type gRPC service, package and name.
        methods: Its streaming methods, state-of-the-world then delta.
    """

    url: str
    short: str
    service: str
    methods: tuple[str, str]
    wildcard: bool = False
    parents: tuple[str, ...] = ()
    child: str | None = None


TYPES: Final[tuple[ResourceType, ...]] = (
    ResourceType(
        url=CDS,
        short="CDS",
        service="envoy.service.cluster.v3.ClusterDiscoveryService",
        methods=("StreamClusters", "DeltaClusters"),
        wildcard=True,
        parents=(LDS, RDS),
        child=EDS,
    ),
    ResourceType(
        url=EDS,
        short="EDS",
        service="envoy.service.endpoint.v3.EndpointDiscoveryService",
        methods=("StreamEndpoints", "DeltaEndpoints"),
        parents=(LDS, RDS, CDS),
    ),
    ResourceType(
        url=LDS,
        short="LDS",
        service="envoy.service.listener.v3.ListenerDiscoveryService",
        methods=("StreamListeners", "DeltaListeners"),
        wildcard=True,
        child=None,
    ),
    ResourceType(
        url=RDS,
        short="RDS",
        service="envoy.service.route.v3.RouteDiscoveryService",
        methods=("StreamRoutes", "DeltaRoutes"),
        parents=(LDS,),
    ),
    ResourceType(
        url=RTDS,
        short="RTDS",
        service="envoy.service.runtime.v3.RuntimeDiscoveryService",
        methods=("StreamRuntime", "DeltaRuntime"),
    ),
)
"""In the order in which a change is sent (make before break)."""

BY_URL: Final[dict[str, ResourceType]] = {row.url: row for row in TYPES}
ORDER: Final[dict[str, int]] = {row.url: place for place, row in enumerate(TYPES)}


def short(type_url: str) -> str:
    """What people call a type; an unknown one keeps its URL."""
    row = BY_URL.get(type_url)
    return row.short if row else type_url
