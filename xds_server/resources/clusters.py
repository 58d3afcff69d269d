"""Clusters and endpoints of one rollout: each version's pods, their shadow twin, and the candidate with stable behind it.

Neighbours: `names` says what they are called, `routes` points at them. What each setting is for is told in `docs/envoy.md`.
Source: Envoy 1.40 cluster, circuit breaker and health check protos; composite cluster `envoy.extensions.clusters.composite.v3`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

from envoy.config.cluster.v3 import circuit_breaker_pb2 as breaker
from envoy.config.cluster.v3 import cluster_pb2 as pb
from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, health_check_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import http_pb2, percent_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from policies.spec.policy import DnsEndpoints, Endpoints, Fallback, HealthCheck, StaticEndpoints, Variant
from policies.traffic import Traffic
from xds_server.core.snapshot import Reference, Resource
from xds_server.core.types import CDS, EDS
from xds_server.resources import config, names
from xds_server.resources.encoding import delimited, pack, pack_raw, resource, seconds, uint32

CONNECT_TIMEOUT_S = 1.0

UPSTREAM_IDLE_S = 4.0
"""Kept connections are closed before the pods close them (uvicorn and vLLM: 5 s): a request sent into a closing one would fail."""

DNS_PODS = 32
"""Pods assumed behind a DNS name when limits are computed: how many there are only the proxies learn."""

PENDING_MIN = 1024
"""Requests that may wait for a connection, at least: waiting is the model server's business, not the proxy's."""

SHADOW_REQUESTS_MIN = 4
SHADOW_REQUESTS_MAX = 256
"""Copies in flight at most, per proxy: a shadow that does not read must never hold back users or fill memory."""

PANIC_STABLE_PERCENT = 50.0
"""Stable fails open: with fewer healthy pods than this the health checks are not believed (overload looks like death)."""

PANIC_SHADOW_PERCENT = 1.0
"""Copies are sent even when no pod is healthy: each then fails visibly. A copy without a host would leave no trace at all."""

HEALTH_HOST = "localhost"
"""The host that health checks of fixed addresses ask for. Envoy's default, the cluster's name, has a slash: HTTP/2 and Go servers refuse it."""

COMPOSITE_TYPE = "envoy.extensions.clusters.composite.v3.ClusterConfig"

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """All versions of one rollout, warm: what a changed share leaves as it is.

    Attributes:
        cause: What they were made of.
        resources: Clusters and endpoint sets. Names begin with `rollout/`: two rollouts never share one.
    """

    cause: tuple[object, ...]
    resources: Mapping[Reference, Resource]


NO_PODS = Pods(cause=(), resources={})


def pods(wish: Traffic, before: Pods = NO_PODS) -> Pods:
    """Clusters and endpoints of a rollout; those of `before`, the very same objects, if that is what they would be."""
    variants = (wish.stable, tuple(arm.variant for arm in wish.arms), wish.kept)
    cause = (wish.rollout, wish.where.fallback, *variants, names.aliases(wish), config.prefixes(wish))
    if before.cause == cause:
        return before
    return Pods(cause=cause, resources={(type_url, each.name): each for type_url, each in _clusters(wish)})


def _clusters(wish: Traffic) -> Iterator[tuple[str, Resource]]:
    arms = tuple(arm.variant for arm in names.arms(wish))
    yield from _real(wish, wish.stable, panic_percent=PANIC_STABLE_PERCENT)
    for alias in names.aliases(wish):
        yield _alias(alias, wish)
    seen = {wish.stable.identity}
    for variant in (*arms, *wish.kept):
        if variant.identity not in seen:
            seen.add(variant.identity)
            yield from _real(wish, variant, panic_percent=0.0)
    for variant in arms:
        yield from _shadow(wish, variant)
        if wish.where.fallback is not Fallback.NONE:
            yield _composite(wish, variant)


def _real(wish: Traffic, variant: Variant, *, panic_percent: float) -> Iterator[tuple[str, Resource]]:
    limit = requests_max(variant)
    limits = breaker.CircuitBreakers.Thresholds(
        max_connections=uint32(limit),
        max_pending_requests=uint32(max(limit, PENDING_MIN)),
        max_requests=uint32(limit),
        max_retries=uint32(limit),
        track_remaining=True,
    )
    message = _base(names.cluster(wish.rollout, variant), wish, variant, limits, panic_percent=panic_percent)
    if variant.slow_start_s:
        message.least_request_lb_config.slow_start_config.slow_start_window.CopyFrom(seconds(variant.slow_start_s))
    yield from with_endpoints(message, variant.endpoints, config.pod_metadata(variant))


def _shadow(wish: Traffic, variant: Variant) -> Iterator[tuple[str, Resource]]:
    limit = min(max(requests_max(variant) // 2, SHADOW_REQUESTS_MIN), SHADOW_REQUESTS_MAX)
    limits = breaker.CircuitBreakers.Thresholds(
        max_connections=uint32(limit),
        max_pending_requests=uint32(limit),
        max_requests=uint32(limit),
        max_retries=uint32(0),
        track_remaining=True,
    )
    message = _base(names.shadow_cluster(wish.rollout, variant), wish, variant, limits, panic_percent=PANIC_SHADOW_PERCENT)
    yield from with_endpoints(message, variant.endpoints)


def _composite(wish: Traffic, variant: Variant) -> tuple[str, Resource]:
    """First attempt: the candidate; second: stable. The retries are counted here, and a fallback lasts as long as its answer."""
    return _in_turn(names.composite_cluster(wish.rollout, variant), wish, (variant, wish.stable))


def _alias(name: str, wish: Traffic) -> tuple[str, Resource]:
    """Stable under another name, in both attempts."""
    return _in_turn(name, wish, (wish.stable, wish.stable))


def _in_turn(name: str, wish: Traffic, variants: tuple[Variant, ...]) -> tuple[str, Resource]:
    """A cluster whose n-th attempt goes to the n-th variant, with what that one changes about requests."""
    parts = tuple(names.cluster(wish.rollout, variant) for variant in variants)
    limit = uint32(max(PENDING_MIN, *map(requests_max, variants)))
    limits = breaker.CircuitBreakers.Thresholds(max_connections=limit, max_pending_requests=limit, max_requests=limit, max_retries=limit)
    message = pb.Cluster(
        name=name,
        connect_timeout=seconds(CONNECT_TIMEOUT_S),
        lb_policy=pb.Cluster.CLUSTER_PROVIDED,
        cluster_type=pb.Cluster.CustomClusterType(
            name="envoy.clusters.composite",
            typed_config=pack_raw(COMPOSITE_TYPE, b"".join(delimited(1, delimited(1, part.encode())) for part in parts)),
        ),
        circuit_breakers=breaker.CircuitBreakers(thresholds=[limits]),
    )
    message.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(_http_options(wish, *variants))
    return CDS, resource(name, message, references=tuple((CDS, part) for part in dict.fromkeys(parts)))


def requests_max(variant: Variant) -> int:
    """Requests one proxy may have at a version's pods at once."""
    match variant.endpoints:
        case StaticEndpoints(addresses=addresses):
            return variant.max_concurrency * max(1, len(addresses))
        case DnsEndpoints():
            return variant.max_concurrency * DNS_PODS


def _base(name: str, wish: Traffic, variant: Variant, limits: breaker.CircuitBreakers.Thresholds, *, panic_percent: float) -> pb.Cluster:
    message = base(name, limits, _http_options(wish, variant), panic_percent=panic_percent)
    if variant.health is not None:
        message.health_checks.append(_health_check(variant, variant.health))
    return message


def base(name: str, limits: breaker.CircuitBreakers.Thresholds, options: AnyMessage, *, panic_percent: float) -> pb.Cluster:
    """A cluster that leads to pods, before it has any."""
    message = pb.Cluster(
        name=name,
        connect_timeout=seconds(CONNECT_TIMEOUT_S),
        lb_policy=pb.Cluster.LEAST_REQUEST,
        circuit_breakers=breaker.CircuitBreakers(thresholds=[limits]),
        common_lb_config=pb.Cluster.CommonLbConfig(healthy_panic_threshold=percent_pb2.Percent(value=panic_percent)),
        ignore_health_on_host_removal=True,
        upstream_connection_options=pb.UpstreamConnectionOptions(
            tcp_keepalive=address_pb2.TcpKeepalive(keepalive_probes=uint32(3), keepalive_time=uint32(10), keepalive_interval=uint32(5))
        ),
    )
    message.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(options)
    return message


def _http_options(wish: Traffic, *variants: Variant) -> AnyMessage:
    """The protocol is the first variant's; a composite cluster's parts have their own, whatever it says."""
    filters = config.filters(variants, config.prefixes(wish))
    if not filters:
        return plain_options(http2=variants[0].http2)
    message = http_protocol_options_pb2.HttpProtocolOptions()
    plain_options(http2=variants[0].http2).Unpack(message)
    message.http_filters.extend(filters)
    return pack(message)


@cache
def plain_options(*, http2: bool) -> AnyMessage:
    explicit = http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig()
    (explicit.http2_protocol_options if http2 else explicit.http_protocol_options).SetInParent()
    return pack(
        http_protocol_options_pb2.HttpProtocolOptions(
            common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=seconds(UPSTREAM_IDLE_S)),
            explicit_http_config=explicit,
        )
    )


def _health_check(variant: Variant, health: HealthCheck) -> health_check_pb2.HealthCheck:
    """One rhythm whatever the traffic: Envoy's default of 60 s without traffic would miss a pod that dies before its first request."""
    interval = seconds(health.interval_s)
    asked = health_check_pb2.HealthCheck.HttpHealthCheck(
        host=variant.endpoints.host if isinstance(variant.endpoints, DnsEndpoints) else HEALTH_HOST,
        path=health.path,
        codec_client_type=http_pb2.HTTP2 if variant.http2 else http_pb2.HTTP1,
    )
    return health_check_pb2.HealthCheck(
        timeout=seconds(health.timeout_s),
        interval=interval,
        no_traffic_interval=interval,
        no_traffic_healthy_interval=interval,
        unhealthy_interval=seconds(min(health.interval_s, 1.0)),
        unhealthy_threshold=uint32(health.unhealthy_after),
        healthy_threshold=uint32(health.healthy_after),
        http_health_check=asked,
    )


def with_endpoints(message: pb.Cluster, endpoints: Endpoints, metadata: base_pb2.Metadata | None = None) -> Iterator[tuple[str, Resource]]:
    """The cluster with its pods, and what delivers them. `metadata`: what each pod says of itself."""
    name = message.name
    match endpoints:
        case StaticEndpoints(addresses=addresses):
            message.type = pb.Cluster.EDS
            message.eds_cluster_config.eds_config.CopyFrom(ads())
            yield CDS, resource(name, message, references=((EDS, name),))
            yield EDS, resource(name, _assignment(name, [_split(address) for address in sorted(addresses)], metadata))
        case DnsEndpoints(host=host, port=port):
            message.type = pb.Cluster.STRICT_DNS
            message.dns_refresh_rate.CopyFrom(seconds(5.0))
            message.load_assignment.CopyFrom(_assignment(name, [(host, port)], metadata))
            yield CDS, resource(name, message)


def _assignment(name: str, addresses: list[tuple[str, int]], metadata: base_pb2.Metadata | None) -> endpoint_pb2.ClusterLoadAssignment:
    pods = (endpoint_components_pb2.Endpoint(address=socket_address(host, port)) for host, port in addresses)
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            endpoint_components_pb2.LocalityLbEndpoints(
                locality=base_pb2.Locality(zone="all"),
                load_balancing_weight=uint32(1),
                lb_endpoints=[endpoint_components_pb2.LbEndpoint(endpoint=pod, metadata=metadata) for pod in pods],
            )
        ],
    )


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return str(ip_address(host.strip("[]"))), int(port)


def socket_address(host: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


@cache
def ads() -> config_source_pb2.ConfigSource:
    """A resource that is fetched over the one aggregated stream."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )
