"""The bootstrap an Envoy of ours is started with: where we are, the runtime layers of the leases, and nothing else.

Built with envoy-data-plane's typed messages, which are checked as they are made; they take 0.7 s to import, which only `bootstrap` pays.
Neighbours: `names` for what bootstrap and rendered resources must agree on.
Source: Envoy `bootstrap.proto`; xDS delta over one aggregated stream.
"""

import warnings
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

from xds_server.resources import names

METADATA_KEY = "crossfade"
LAYERS_KEY = "layers"
"""`node.metadata.crossfade.layers` tells the server that this Envoy has the runtime layers."""

ADMIN_HOST = "127.0.0.1"

LAYER_WAIT = timedelta(seconds=1)
"""How long a starting Envoy waits for each layer: when we are away it starts without, all traffic on stable."""

CONNECT_TIMEOUT = timedelta(seconds=1)

KEEPALIVE_EVERY = timedelta(seconds=10)
KEEPALIVE_WAIT = timedelta(seconds=5)

RECONNECT_FIRST = timedelta(milliseconds=200)
RECONNECT_LAST = timedelta(seconds=2)
"""Envoy's own back-off grows to 30 s: far longer than a lease, so a restarted control plane would find it expired."""

BUILD_TAG = "crossfade.build"
BUILD_OF_NAME = r"^cluster\.[^.]+\.((.*?[0-9a-f]{8}(?:\+fallback|\.shadow)?)\.)"
"""What of our clusters' names follows their first dot: Envoy takes that for the end of a name, and Prometheus would get a metric per version."""

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(
    *, node_id: str, cluster: str, xds_host: str, xds_port: int, admin_port: int = 9901, metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A whole bootstrap as Envoy reads it from JSON or YAML.

    Args:
        node_id: Unique name of the proxy.
        cluster: Its service cluster, what `Proxies` documents usually select by.
        xds_host: IP address or name where our xDS port is reached.
        admin_port: Port of Envoy's admin page, on the loopback only.
        metadata: More of `node.metadata`, for `select.metadata`.
    """
    told = {**(metadata or {}), METADATA_KEY: {LAYERS_KEY: names.LAYERS}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the library's own, at import, with a pydantic newer than itself
        return _bootstrap(node_id, cluster, told, (xds_host, xds_port), admin_port)


def _bootstrap(node_id: str, cluster: str, metadata: dict[str, Any], xds: tuple[str, int], admin_port: int) -> dict[str, Any]:
    from betterproto2 import Casing  # noqa: PLC0415 - loaded when used
    from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap, BootstrapStaticResources, ClusterManager  # noqa: PLC0415 - loaded when used
    from envoy_data_plane.envoy.config.core.v3 import ApiConfigSourceApiType, Node  # noqa: PLC0415 - loaded when used
    from envoy_data_plane.envoy.config.metrics.v3 import StatsConfig, TagSpecifier  # noqa: PLC0415 - loaded when used
    from envoy_data_plane.google.protobuf import Struct  # noqa: PLC0415 - loaded when used

    message = Bootstrap(
        node=Node(id=node_id, cluster=cluster, metadata=Struct.from_dict(metadata)),
        admin=Admin(address=_address(ADMIN_HOST, admin_port)),
        dynamic_resources=_dynamic_resources(),
        static_resources=BootstrapStaticResources(clusters=[_xds_cluster(*xds)]),
        cluster_manager=ClusterManager(load_stats_config=_grpc_source(ApiConfigSourceApiType.GRPC)),
        layered_runtime=_layered_runtime(),
        stats_config=StatsConfig(stats_tags=[TagSpecifier(tag_name=BUILD_TAG, regex=BUILD_OF_NAME)]),
    )
    plain: dict[str, Any] = message.to_dict(casing=Casing.SNAKE)
    plain["node"]["metadata"] = metadata  # whole numbers stay whole: Envoy reads 16.0 in YAML as text
    return plain


def _dynamic_resources() -> Any:
    from envoy_data_plane.envoy.config.bootstrap.v3 import BootstrapDynamicResources  # noqa: PLC0415 - loaded when used
    from envoy_data_plane.envoy.config.core.v3 import ApiConfigSourceApiType  # noqa: PLC0415 - loaded when used

    return BootstrapDynamicResources(
        ads_config=_grpc_source(ApiConfigSourceApiType.DELTA_GRPC), lds_config=_over_ads(), cds_config=_over_ads()
    )


def _layered_runtime() -> Any:
    """Our layers, and over them the one that the admin page can change: an operator at the proxy has the last word."""
    from envoy_data_plane.envoy.config.bootstrap.v3 import (  # noqa: PLC0415 - loaded when used
        LayeredRuntime,
        RuntimeLayer,
        RuntimeLayerAdminLayer,
        RuntimeLayerRtdsLayer,
    )

    ours = [
        RuntimeLayer(name=name, rtds_layer=RuntimeLayerRtdsLayer(name=name, rtds_config=_over_ads(LAYER_WAIT)))
        for name in names.LAYER_NAMES
    ]
    return LayeredRuntime(layers=[*ours, RuntimeLayer(name="admin", admin_layer=RuntimeLayerAdminLayer())])


def _grpc_source(api_type: Any) -> Any:
    from envoy_data_plane.envoy.config.core.v3 import (  # noqa: PLC0415 - loaded when used
        ApiConfigSource,
        ApiVersion,
        BackoffStrategy,
        GrpcService,
        GrpcServiceEnvoyGrpc,
        RetryPolicy,
    )

    retries = RetryPolicy(retry_back_off=BackoffStrategy(base_interval=RECONNECT_FIRST, max_interval=RECONNECT_LAST))
    return ApiConfigSource(
        api_type=api_type,
        transport_api_version=ApiVersion.V3,
        grpc_services=[GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=names.XDS_CLUSTER, retry_policy=retries))],
        set_node_on_first_message_only=True,
    )


def _over_ads(wait: timedelta | None = None) -> Any:
    from envoy_data_plane.envoy.config.core.v3 import AggregatedConfigSource, ApiVersion, ConfigSource  # noqa: PLC0415 - loaded when used

    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3, initial_fetch_timeout=wait)


def _xds_cluster(host: str, port: int) -> Any:
    """HTTP/2 with keepalive: a control plane that is gone without a word is noticed within a lease."""
    from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType  # noqa: PLC0415 - loaded when used
    from envoy_data_plane.envoy.config.core.v3 import Http2ProtocolOptions, KeepaliveSettings  # noqa: PLC0415 - loaded when used
    from envoy_data_plane.envoy.config.endpoint.v3 import (  # noqa: PLC0415 - loaded when used
        ClusterLoadAssignment,
        Endpoint,
        LbEndpoint,
        LocalityLbEndpoints,
    )
    from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (  # noqa: PLC0415 - loaded when used
        HttpProtocolOptions,
        HttpProtocolOptionsExplicitHttpConfig,
    )
    from envoy_data_plane.google.protobuf import Any as AnyMessage  # noqa: PLC0415 - loaded when used

    keepalive = KeepaliveSettings(interval=KEEPALIVE_EVERY, timeout=KEEPALIVE_WAIT)
    http2 = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(connection_keepalive=keepalive)
        )
    )
    endpoint = LbEndpoint(endpoint=Endpoint(address=_address(host, port)))
    return Cluster(
        name=names.XDS_CLUSTER,
        type=ClusterDiscoveryType.STATIC if _is_ip(host) else ClusterDiscoveryType.STRICT_DNS,
        connect_timeout=CONNECT_TIMEOUT,
        load_assignment=ClusterLoadAssignment(cluster_name=names.XDS_CLUSTER, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]),
        typed_extension_protocol_options={HTTP_OPTIONS: AnyMessage.pack(http2)},
    )


def _address(host: str, port: int) -> Any:
    from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress  # noqa: PLC0415 - loaded when used

    return Address(socket_address=SocketAddress(address=host, port_value=port))


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
