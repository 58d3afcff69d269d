"""The bootstrap an Envoy of ours is started with: where we are, the runtime layers of the leases, and nothing else.

Built with envoy-data-plane's typed messages, which are checked as they are made; its weight does not matter here, so it is imported only when
a bootstrap is asked for. Neighbours: `names` for what bootstrap and rendered resources must agree on.
Source: Envoy `bootstrap.proto`; xDS delta over one aggregated stream.
"""

import ipaddress
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from xds_server.resources import names

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap, LayeredRuntime
    from envoy_data_plane.envoy.config.cluster.v3 import Cluster
    from envoy_data_plane.envoy.config.core.v3 import Address, ConfigSource, GrpcService

LAYERS_KEY = "layers"
METADATA_KEY = "crossfade"
"""`node.metadata.crossfade.layers` tells the server that this Envoy has the runtime layers."""

LAYER_WAIT_S = 1.0
"""How long a starting Envoy waits for each layer [s]: when we are away it starts without, all traffic on stable."""

KEEPALIVE_EVERY_S = 10.0
KEEPALIVE_WAIT_S = 5.0
CONNECT_TIMEOUT_S = 1.0

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(
    *, node_id: str, cluster: str, xds_host: str, xds_port: int, admin_port: int = 9901, metadata: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A whole bootstrap as Envoy reads it from JSON or YAML.

    Args:
        node_id: Unique name of the proxy.
        cluster: Its service cluster, what `Proxies` documents usually select by.
        xds_host: Address or name where our xDS port is reached.
        admin_port: Port of Envoy's admin page, on the loopback only.
        metadata: More of `node.metadata`, for `select.metadata`.
    """
    from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap  # noqa: PLC0415  0.7 s, only here
    from envoy_data_plane.envoy.config.core.v3 import Node  # noqa: PLC0415
    from envoy_data_plane.google.protobuf import Struct  # noqa: PLC0415

    told = {**(metadata or {}), METADATA_KEY: {LAYERS_KEY: names.LAYERS}}
    message = Bootstrap(
        node=Node(id=node_id, cluster=cluster, metadata=Struct.from_dict(told)),
        admin=Admin(address=_address("127.0.0.1", admin_port)),
        dynamic_resources=_dynamic_resources(),
        static_resources=_static_resources(xds_host, xds_port),
        cluster_manager=_load_reports(),
        layered_runtime=_layered_runtime(),
    )
    return _plain(message)
