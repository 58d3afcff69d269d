"""A made-up world for load tests: one resource `r` per type, of a size and in as many versions as wanted."""

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.runtime.v3.rtds_pb2 import Runtime

from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.types import CDS, EDS, RDS, RTDS

NAME = "r"
TYPES = {"rds": (RDS,), "cds+eds": (CDS, EDS), "rtds": (RTDS,)}


def route(padding: str) -> RouteConfiguration:
    """Valid for a real Envoy, as the others are."""
    made = RouteConfiguration(name=NAME)
    host = made.virtual_hosts.add(name="all", domains=["*"])
    row = host.routes.add(name=padding)
    row.match.prefix = "/"
    row.direct_response.status = 200
    return made


def cluster(padding: str) -> Cluster:
    made = Cluster(name=NAME, type=Cluster.EDS, alt_stat_name=padding)
    made.eds_cluster_config.eds_config.ads.SetInParent()
    return made


def endpoints(padding: str) -> ClusterLoadAssignment:
    made = ClusterLoadAssignment(cluster_name=NAME)
    one = made.endpoints.add().lb_endpoints.add()
    one.metadata.filter_metadata["bench"]["padding"] = padding
    one.endpoint.address.socket_address.address = "127.0.0.1"
    one.endpoint.address.socket_address.port_value = 9
    return made


def layer(padding: str) -> Runtime:
    made = Runtime(name=NAME)
    made.layer["padding"] = padding
    return made


FORMS = {RDS: route, CDS: cluster, EDS: endpoints, RTDS: layer}


def body(type_url: str, version: int, size: int) -> bytes:
    """The resource in one version; `size` bytes where length prefixes allow it, else a byte or two less."""
    padding = f"{version:08d}".ljust(max(8, size), ".")
    while True:
        made = FORMS[type_url](padding).SerializeToString()
        if len(made) <= size or len(padding) <= 8:
            return made
        padding = padding[: max(8, len(padding) - (len(made) - size))]


def world(version: int, types: str, size: int) -> Snapshot:
    """The world in one version; the names of `types` are those of TYPES."""
    made = {url: Resource(name=NAME, version=str(version), body=body(url, version, size)) for url in TYPES[types]}
    return Snapshot(serial=version, resources={url: {NAME: each} for url, each in made.items()})


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p99 and the worst."""
    ordered = sorted(values) or [0.0]
    return {name: ordered[min(len(ordered) - 1, int(len(ordered) * part))] for name, part in (("p50", 0.5), ("p99", 0.99), ("worst", 1.0))}
