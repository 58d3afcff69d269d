"""Listeners: where requests come in, and the access logs that become evidence.

Two logs go to the same place: the router's upstream log (one entry per request sent to a pod, mirrored copies included) and the connection
manager's, filtered to requests that found no pod, which the first one never sees. Neighbours: `names` for tags, `docs/envoy.md` for the fields.
Source: Envoy `router.proto` (`upstream_log`), `als.proto`, `accesslog.proto` (response flags).
"""

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import config_source_pb2, grpc_service_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.type.tracing.v3 import custom_tag_pb2

from policies.spec.policy import Listener
from xds_server.core.snapshot import Resource
from xds_server.core.types import RDS
from xds_server.resources import names
from xds_server.resources.clusters import ads, socket_address
from xds_server.resources.encoding import boolean, pack, resource, seconds, uint32

ROUTER = "envoy.filters.http.router"
MANAGER = "envoy.filters.network.http_connection_manager"
GRPC_LOGGER = "envoy.access_loggers.http_grpc"

FLUSH_S = 0.01
"""How long an entry may wait [s]; it arrives about 7 ms after its request ended (p50)."""

BUFFER_BYTES = 256 * 1024
"""Entries kept while we are away: what does not fit is lost, and the load reports say so."""

NO_HOST_FLAGS = ("UH", "NC", "NR", "OM")
"""No healthy host, no such cluster, no route, overload manager: requests that never became an upstream request."""

REQUEST_HEADERS_TIMEOUT_S = 30.0
"""How long a client may take to send its headers."""

TAGS = {
    names.TTFT_TAG: "%COMMON_DURATION(US_TX_BEG:US_RX_BODY_BEG:us)%",
    names.PICKED_TAG: "%UPSTREAM_CLUSTER%",
    names.GRPC_TAG: "%GRPC_STATUS_NUMBER%",
}


def listener(proxies: str, spec: Listener) -> Resource:
    name = names.route_config(proxies, spec.name)
    manager = hcm.HttpConnectionManager(
        codec_type=hcm.HttpConnectionManager.AUTO,
        stat_prefix=f"{proxies}_{spec.name}",
        rds=hcm.Rds(route_config_name=name, config_source=ads()),
        http_filters=[hcm.HttpFilter(name=ROUTER, typed_config=pack(_router()))],
        access_log=[_no_host_log()],
        use_remote_address=boolean(value=True),
        generate_request_id=boolean(value=True),
        normalize_path=boolean(value=True),
        stream_idle_timeout=seconds(0.0),
        request_headers_timeout=seconds(REQUEST_HEADERS_TIMEOUT_S),
        server_header_transformation=hcm.HttpConnectionManager.PASS_THROUGH,
    )
    message = listener_pb2.Listener(
        name=name,
        stat_prefix=f"{proxies}_{spec.name}",
        address=socket_address(spec.address, spec.port),
        filter_chains=[
            listener_components_pb2.FilterChain(filters=[listener_components_pb2.Filter(name=MANAGER, typed_config=pack(manager))])
        ],
    )
    return resource(name, message, references=((RDS, name),))


def _router() -> router_pb2.Router:
    return router_pb2.Router(upstream_log=[accesslog_pb2.AccessLog(name=GRPC_LOGGER, typed_config=pack(_logger()))])


def _no_host_log() -> accesslog_pb2.AccessLog:
    return accesslog_pb2.AccessLog(
        name=GRPC_LOGGER,
        filter=accesslog_pb2.AccessLogFilter(response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=NO_HOST_FLAGS)),
        typed_config=pack(_logger()),
    )


def _logger() -> als_pb2.HttpGrpcAccessLogConfig:
    return als_pb2.HttpGrpcAccessLogConfig(
        common_config=als_pb2.CommonGrpcAccessLogConfig(
            log_name=names.ACCESS_LOG,
            grpc_service=grpc_service_pb2.GrpcService(envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=names.XDS_CLUSTER)),
            transport_api_version=config_source_pb2.ApiVersion.V3,
            buffer_flush_interval=seconds(FLUSH_S),
            buffer_size_bytes=uint32(BUFFER_BYTES),
            custom_tags=[custom_tag_pb2.CustomTag(tag=tag, value=value) for tag, value in TAGS.items()],
        ),
        additional_response_headers_to_log=[names.GRPC_STATUS],
        additional_response_trailers_to_log=[names.GRPC_STATUS],
    )
