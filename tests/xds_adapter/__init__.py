"""The real xDS core and services behind the `Adapter` service that a conformance harness steers: `python -m tests.xds_adapter`.

The harness sets what each node should see and is itself the client on the xDS port. Here a node's world is a plain mapping, each change of
it is the next snapshot, and the version of a type is whatever the harness says it is.

Neighbours: `adapter.proto` has the wire names; `tests/wire/test_conformance.py` steers it in our own words.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from xds_server.adapters.grpc_transport import GrpcTransport
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.transport import Kind, Method, Outlet, Status
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.services.ads import AdsHub

wire = grpc.protos("tests/xds_adapter/adapter.proto")

SERVICE = "/adapter.Adapter/"
BARE = {
    CDS: lambda name, mark: Cluster(name=name, alt_stat_name=mark),
    EDS: lambda name, mark: ClusterLoadAssignment(cluster_name=name, named_endpoints={mark: Endpoint()}),
    LDS: lambda name, mark: Listener(name=name, stat_prefix=mark),
    RDS: lambda name, mark: RouteConfiguration(name=name, response_headers_to_remove=[mark]),
    RTDS: lambda name, mark: Runtime(name=name, layer=Struct(fields={"mark": Value(string_value=mark)})),
}
"""The least message of each type that has a name and something that can change."""


def name_of(type_url: str, body: bytes) -> str:
    message = type(BARE[type_url]("", ""))().FromString(body)
    return message.cluster_name if type_url == EDS else message.name


@dataclass(slots=True)
class _Node:
    """What one node should see."""

    resources: dict[str, dict[str, Resource]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


class Adapter:
    """Worlds by node id, each published under the node's id.

    Args:
        delay_s: Every change takes effect this much later: for a harness that does not wait until its request has arrived.
    """

    def __init__(self, hub: AdsHub, *, delay_s: float = 0.0) -> None:
        self._hub = hub
        self._delay_s = delay_s
        self._nodes: dict[str, _Node] = {}
        self._serials = count(1)

    def methods(self) -> tuple[Method, ...]:
        rows = {
            "SetState": (wire.SetStateRequest, self.set_state),
            "ClearState": (wire.clearStateRequest, self.clear_state),
            "UpdateResource": (wire.ResourceRequest, partial(self.put, wire.UpdateResourceResponse)),
            "AddResource": (wire.ResourceRequest, partial(self.put, wire.AddResourceResponse)),
            "RemoveResource": (wire.ResourceRequest, self.remove),
        }
        return tuple(
            Method(path=SERVICE + name, kind=Kind.UNARY, service=partial(_Call, request, act, self._delay_s))
            for name, (request, act) in rows.items()
        )

    def set_state(self, request):
        """The node's world is this and nothing else."""
        node = self._nodes[request.node] = _Node(resources={url: {} for url in BARE}, versions=dict.fromkeys(BARE, request.version))
        for each in request.resources:
            self._put(node, each.type_url, name_of(each.type_url, each.value), each.value)
        self._publish(request.node)
        return wire.SetStateResponse(success=True)

    def clear_state(self, request):
        """The node has no world any more; one that had none is no error."""
        self._nodes.pop(request.node, None)
        self._hub.withdraw(request.node)
        return wire.clearStateResponse(response="cleared")

    def put(self, response, request):
        """One resource is added or changed."""
        body = BARE[request.typeUrl](request.resourceName, f"v{request.version}").SerializeToString(deterministic=True)
        self._put(self._nodes.setdefault(request.node, _Node()), request.typeUrl, request.resourceName, body)
        self._version(request)
        return response(success=True)

    def remove(self, request):
        """One resource is taken away; the version stays if none is given."""
        found = self._nodes.setdefault(request.node, _Node()).resources.get(request.typeUrl, {}).pop(request.resourceName, None)
        self._version(request)
        return wire.RemoveResourceResponse(success=found is not None)

    def _put(self, node: _Node, type_url: str, name: str, body: bytes) -> None:
        node.resources.setdefault(type_url, {})[name] = Resource(name=name, version=hashlib.sha256(body).hexdigest()[:16], body=body)

    def _version(self, request) -> None:
        if request.version:
            self._nodes[request.node].versions[request.typeUrl] = request.version
        self._publish(request.node)

    def _publish(self, node_id: str) -> None:
        node = self._nodes[node_id]
        self._hub.publish(node_id, Snapshot(serial=next(self._serials), resources=node.resources, versions=dict(node.versions)))


class _Call:
    """One unary call."""

    def __init__(self, request, act: Callable, delay_s: float, outlet: Outlet) -> None:
        self._request = request
        self._act = act
        self._delay_s = delay_s
        self._outlet = outlet

    def received(self, message: bytes) -> None:
        asyncio.get_running_loop().call_later(self._delay_s, self._answer, message)

    def _answer(self, message: bytes) -> None:
        try:
            answer = self._act(self._request.FromString(message))
        except (DecodeError, KeyError) as error:
            self._outlet.finish(Status.INVALID_ARGUMENT, f"no such message or type: {error}; hint: known are {', '.join(BARE)}")
            return
        self._outlet.send(answer.SerializeToString())
        self._outlet.finish()

    def closed(self) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    adapter: int
    xds: int


@asynccontextmanager
async def running(
    *,
    adapter: str = "127.0.0.1:0",
    xds: str = "127.0.0.1:0",
    delay_s: float = 0.0,
    watch: Callable[[Iterable[Method]], Iterable[Method]] = lambda methods: methods,
):
    """Both ports open until the end of the block.

    Args:
        watch: May put something between the xDS services and the wire.
    """
    hub = AdsHub(select=lambda node: node.id, events=lambda _: None, clock=asyncio.get_running_loop().time)
    hub.ready()
    transports = [GrpcTransport(Adapter(hub, delay_s=delay_s).methods()), GrpcTransport(watch(hub.methods()))]
    try:
        yield Ports(adapter=await transports[0].serve(adapter), xds=await transports[1].serve(xds))
    finally:
        for transport in transports:
            await transport.stop(0.1)
