"""grpcio's own xDS client against our discovery service: a client we did not write, which does what Envoy does not.

It names its listeners and clusters, repeats first requests before it was answered, unsubscribes, and sends its node once. State of the world only.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpConnectionManager
from envoy.service.discovery.v3 import discovery_pb2 as wire
from google.protobuf.json_format import ParseDict

from tests.wire.discovery import until
from tests.wire.transports import Transport
from xds_server.core.facts import Variant
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.stream import State
from xds_server.core.transport import Kind, Method
from xds_server.core.types import CDS, EDS, LDS, RDS
from xds_server.services.ads import AdsHub

pytestmark = pytest.mark.usefixtures("each_transport")

CALLER = """
import sys, grpc
channel = grpc.insecure_channel("xds:///svc")
call = channel.unary_unary("/t.T/Who")
for line in sys.stdin:
    answers = [call(b"?", timeout=15, wait_for_ready=True).decode() for _ in range(int(line))]
    print(*answers, flush=True)
"""
NODE = {"id": "grpc-1", "cluster": "c"}


def packed(url, message, name):
    body = message.SerializeToString(deterministic=True)
    return url, Resource(name=name, version=str(hash(body)), body=body)


def listener():
    manager = HttpConnectionManager()
    manager.rds.route_config_name = "routes"
    manager.rds.config_source.ads.SetInParent()
    manager.rds.config_source.resource_api_version = 2
    router = manager.http_filters.add(name="router")
    router.typed_config.Pack(Router())
    made = Listener(name="svc")
    made.api_listener.api_listener.Pack(manager)
    return packed(LDS, made, "svc")


def routes(weights):
    clusters = [{"name": name, "weight": weight} for name, weight in weights.items()]
    route = {"match": {"prefix": ""}, "route": {"weighted_clusters": {"clusters": clusters}}}
    made = ParseDict({"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}, RouteConfiguration())
    return packed(RDS, made, "routes")


def cluster(name):
    source = {"ads": {}, "resource_api_version": "V3"}
    return packed(CDS, ParseDict({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": source}}, Cluster()), name)


def endpoints(name, port):
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    locality = {"locality": {"region": name}, "load_balancing_weight": 1, "lb_endpoints": [{"endpoint": {"address": address}}]}
    return packed(EDS, ParseDict({"cluster_name": name, "endpoints": [locality]}, ClusterLoadAssignment()), name)


def snapshot(serial, ports, weights, *, late=()):
    """All clusters of `ports`; those in `late` have no endpoints yet."""
    types = {}
    placed = {name: port for name, port in ports.items() if name not in late}
    found = [listener(), routes(weights), *map(cluster, ports), *(endpoints(name, port) for name, port in placed.items())]
    for url, resource in found:
        types.setdefault(url, {})[resource.name] = resource
    return Snapshot(serial=serial, resources=types)


async def backend(name):
    class Session:
        def __init__(self, outlet):
            self.outlet = outlet

        def received(self, _):
            self.outlet.send(name.encode())
            self.outlet.finish()

        def closed(self):
            pass

    transport = Transport([Method(path="/t.T/Who", kind=Kind.UNARY, service=Session)])
    return transport, await transport.serve("127.0.0.1:0")


class Caller:
    """A process of its own, because the client reads its bootstrap once per process."""

    def __init__(self, process):
        self.process = process

    async def call(self, times):
        self.process.stdin.write(f"{times}\n".encode())
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().split()


class Hub(AdsHub):
    """Remembers what its clients said."""

    def __init__(self):
        super().__init__(select=lambda _: "all", events=lambda _: None, clock=time.monotonic)
        self.heard = []
        self.ready()

    def methods(self):
        return [replace(method, service=partial(self._listening, method.service)) for method in super().methods()]

    def _listening(self, service, outlet):
        heard, session = self.heard, service(outlet)

        class Listening:
            closed = session.closed

            def received(self, message):
                heard.append(wire.DiscoveryRequest.FromString(message))
                session.received(message)

        return Listening()

    def asks_for(self, type_url):
        """The names in its latest request of a type."""
        return next((set(request.resource_names) for request in reversed(self.heard) if request.type_url == type_url), set())


@pytest.fixture
async def stage():
    hub = Hub()
    transport = Transport(hub.methods())
    address = f"127.0.0.1:{await transport.serve('127.0.0.1:0')}"
    backends = {name: await backend(name) for name in ("stable", "canary")}
    config = {"xds_servers": [{"server_uri": address, "channel_creds": [{"type": "insecure"}]}], "node": NODE}
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(config)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CALLER, stdin=pipe, stdout=pipe, env=environment)
    try:
        yield hub, Caller(process), {name: port for name, (_, port) in backends.items()}
    finally:
        process.kill()
        await process.wait()
        process._transport.close()
        await transport.stop(0.1)
        for each, _ in backends.values():
            await each.stop(0.1)


async def answers_come_from(caller, wanted):
    """Calls until exactly these backends answer; a client that accepted something acts on it a moment later."""
    async with asyncio.timeout(20):
        while set(await caller.call(40)) != wanted:
            pass


async def test_a_grpc_client_follows_weights(stage):
    hub, caller, ports = stage
    hub.publish("all", snapshot(1, ports, {"stable": 100}))
    assert set(await caller.call(20)) == {"stable"}
    for serial, weights in enumerate([{"stable": 50, "canary": 50}, {"canary": 100}], start=2):
        hub.publish("all", snapshot(serial, ports, weights))
        await until(lambda serial=serial: hub.sync_state("all", serial).acked == 1)
        await answers_come_from(caller, set(weights))
    [status] = hub.proxies()
    assert (status.node_id, status.variant, status.leased) == ("grpc-1", Variant.SOTW, False)
    assert {each.state for each in status.types} == {State.SYNCED}


@pytest.mark.rule("P10", "P14")
async def test_a_weight_of_zero_makes_it_unsubscribe_the_cluster_and_more_brings_it_back_unchanged(stage):
    """What it gives up it has forgotten: the same cluster and endpoints must be sent once more (xDS: a re-subscribed name is re-sent)."""
    hub, caller, ports = stage
    both = {"stable", "canary"}
    hub.publish("all", snapshot(1, ports, {"stable": 50, "canary": 50}))
    await answers_come_from(caller, both)
    assert hub.asks_for(CDS) == hub.asks_for(EDS) == both
    hub.publish("all", snapshot(2, ports, {"stable": 100, "canary": 0}))
    await answers_come_from(caller, {"stable"})
    await until(lambda: hub.asks_for(CDS) == hub.asks_for(EDS) == {"stable"})
    hub.publish("all", snapshot(3, ports, {"stable": 50, "canary": 50}))
    await answers_come_from(caller, both)
    await until(lambda: hub.sync_state("all", 3).acked == 1)
    assert hub.asks_for(CDS) == hub.asks_for(EDS) == both


@pytest.mark.rule("P6")
async def test_weights_that_sum_to_nothing_are_rejected_in_its_own_words_and_it_keeps_the_old_ones(stage):
    hub, caller, ports = stage
    hub.publish("all", snapshot(1, ports, {"stable": 100}))
    assert set(await caller.call(5)) == {"stable"}
    hub.publish("all", snapshot(2, ports, {"stable": 0, "canary": 0}))
    await until(lambda: hub.sync_state("all", 2).rejected == 1)
    assert "grpc-1 rejects RDS" in hub.sync_state("all", 2).words
    told = {each.type_url: each for each in hub.proxies()[0].types}
    assert told[RDS].state is State.ERROR
    assert "weight" in told[RDS].error
    assert {told[url].state for url in (LDS, CDS, EDS)} == {State.SYNCED}, "the other types are worlds of their own"
    assert set(await caller.call(5)) == {"stable"}
    rejections = [request for request in hub.heard if request.HasField("error_detail")]
    assert [each.type_url for each in rejections] == [RDS], "what was rejected is not sent again"
    hub.publish("all", snapshot(3, ports, {"canary": 100}))
    await until(lambda: hub.sync_state("all", 3).acked == 1)
    assert hub.sync_state("all", 3).rejected == 0
    await answers_come_from(caller, {"canary"})


@pytest.mark.rule("P12")
async def test_endpoints_that_come_late_are_sent_when_they_are_there(stage):
    hub, caller, ports = stage
    hub.publish("all", snapshot(1, ports, {"stable": 100}, late={"stable"}))
    calling = asyncio.create_task(caller.call(3))
    await until(lambda: hub.asks_for(EDS) == {"stable"})
    assert not calling.done()
    hub.publish("all", snapshot(2, ports, {"stable": 100}))
    assert await calling == ["stable"] * 3


@pytest.mark.rule("P16")
async def test_a_cluster_that_is_moved_to_other_endpoints_is_followed(stage):
    hub, caller, ports = stage
    hub.publish("all", snapshot(1, ports, {"stable": 100}))
    await answers_come_from(caller, {"stable"})
    hub.publish("all", snapshot(2, {"stable": ports["canary"]}, {"stable": 100}))
    await answers_come_from(caller, {"canary"})
    assert hub.sync_state("all", 2).acked == 1
