"""Client status discovery over real gRPC: another client's stubs see what every proxy has, and nobody can ask for too much."""

from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2 as wire
from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub

from tests.wire.discovery import DELTA, SOTW, Client, World, node, resource, snapshot, until
from tests.wire.transports import Transport
from xds_server.core.facts import Variant
from xds_server.core.transport import Status
from xds_server.core.types import CDS, EDS, RDS
from xds_server.services import client_status
from xds_server.services.client_status import MAX_CALLS, MAX_MATCHERS, MAX_PROXIES, ClientStatus
from xds_server.services.proxies import ProxyStatus

pytestmark = pytest.mark.usefixtures("each_transport")


def asking(*node_ids, **more):
    return wire.ClientStatusRequest(node_matchers=[{"node_id": matcher} for matcher in node_ids], **more)


@asynccontextmanager
async def stage():
    """A hub and the status service on one port, and a channel to it."""
    world = World()
    world.hub.ready()
    transport = Transport((*world.hub.methods(), *ClientStatus(world.hub.proxies).methods()))
    address = f"127.0.0.1:{await transport.serve('127.0.0.1:0')}"
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield world, channel
    finally:
        await transport.stop(0.1)


def proxy(channel, path=SOTW):
    return Client(
        channel.stream_stream(path)(), discovery_pb2.DeltaDiscoveryResponse if "Delta" in path else discovery_pb2.DiscoveryResponse
    )


def states(config):
    return {
        each.type_url: (wire.ConfigStatus.Name(each.config_status), ClientResourceStatus.Name(each.client_status))
        for each in config.generic_xds_configs
    }


async def test_every_type_of_a_proxy_is_told_with_its_state_versions_and_words():
    async with stage() as (world, channel):
        first = snapshot(1, CDS=[resource("c")], RDS=[resource("r", "bad")], EDS=[resource("e")])
        world.hub.publish("all", first)
        client = proxy(channel)
        await client.send(discovery_pb2.DiscoveryRequest(type_url=CDS, node=node()))
        cds = await client.receive()
        await client.send(discovery_pb2.DiscoveryRequest(type_url=CDS, response_nonce=cds.nonce))
        await client.send(discovery_pb2.DiscoveryRequest(type_url=RDS, resource_names=["r"]))
        rds = await client.receive()
        nack = discovery_pb2.DiscoveryRequest(type_url=RDS, resource_names=["r"], response_nonce=rds.nonce)
        nack.error_detail.message = "no such cluster"
        await client.send(nack)
        await client.send(discovery_pb2.DiscoveryRequest(type_url=EDS, resource_names=["e"]))
        await client.receive()
        answer = await ClientStatusDiscoveryServiceStub(channel).FetchClientStatus(wire.ClientStatusRequest())
        [config] = answer.config
        assert (config.node.id, config.node.cluster, config.node.user_agent_version, config.client_scope) == ("n1", "c", "1.40.0", "ADS")
        assert states(config) == {CDS: ("SYNCED", "ACKED"), RDS: ("ERROR", "NACKED"), EDS: ("STALE", "REQUESTED")}
        told = {each.type_url: each for each in config.generic_xds_configs}
        assert told[CDS].version_info == first.version(CDS) == cds.version_info
        assert told[CDS].last_updated.ToSeconds() == 1000
        assert (told[RDS].error_state.details, told[RDS].error_state.version_info) == ("no such cluster", rds.version_info)
        assert told[RDS].version_info == ""
        assert not told[RDS].HasField("last_updated")
        assert not told[CDS].HasField("error_state")


async def test_a_stream_answers_each_request_with_what_is_true_by_then():
    async with stage() as (world, channel):
        call = ClientStatusDiscoveryServiceStub(channel).StreamClientStatus()
        await call.write(wire.ClientStatusRequest())
        assert not (await call.read()).config
        client = proxy(channel, DELTA)
        await client.send(discovery_pb2.DeltaDiscoveryRequest(type_url=CDS, node=node()))
        await until(world.hub.proxies)
        await call.write(wire.ClientStatusRequest())
        [config] = (await call.read()).config
        assert states(config) == {CDS: ("NOT_SENT", "REQUESTED")}
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


MATCHES = [
    ([{"exact": "edge-1"}], {"edge-1"}),
    ([{"exact": "edge"}], set()),
    ([{"prefix": "edge-"}], {"edge-1", "edge-2"}),
    ([{"suffix": "-1"}], {"edge-1", "Mesh-1"}),
    ([{"contains": "sh"}], {"Mesh-1"}),
    ([{"prefix": "EDGE", "ignore_case": True}], {"edge-1", "edge-2"}),
    ([{"exact": "mesh-1"}], set()),
    ([{"exact": "mesh-1", "ignore_case": True}], {"Mesh-1"}),
    ([{"exact": "edge-1"}, {"exact": "Mesh-1"}], {"edge-1", "Mesh-1"}),
    ([], {"edge-1", "edge-2", "Mesh-1"}),
]


def status(node_id, types=()):
    return ProxyStatus(
        key="g", node_id=node_id, cluster="c", version="1", peer="p", variant=Variant.DELTA, service="ADS", connected_since=0.0, leased=False, types=types
    )  # fmt: skip


def listing(*names):
    return lambda wanted, *, at_most: [status(name) for name in names if wanted(name)][:at_most]


@pytest.mark.parametrize(("matchers", "wanted"), MATCHES)
def test_proxies_are_asked_for_by_node_id(matchers, wanted):
    service = ClientStatus(listing("edge-1", "edge-2", "Mesh-1"))
    answer = wire.ClientStatusResponse.FromString(service.answer(asking(*matchers).SerializeToString()))
    assert {config.node.id for config in answer.config} == wanted


UNSUPPORTED = {
    "safe_regex is not supported": asking({"safe_regex": {"regex": "(a+)+"}}),
    "no pattern is not supported": asking({"ignore_case": True}),
    "node_matchers[1].node_metadatas is not supported": wire.ClientStatusRequest(
        node_matchers=[{"node_id": {"exact": "a"}}, {"node_metadatas": [{"path": [{"key": "zone"}]}]}]
    ),
    f"{MAX_MATCHERS + 1} node_matchers": asking(*[{"exact": "a"}] * (MAX_MATCHERS + 1)),
}


@pytest.mark.parametrize("words", UNSUPPORTED)
async def test_what_is_not_supported_is_refused_by_its_name(words):
    async with stage() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ClientStatusDiscoveryServiceStub(channel).FetchClientStatus(UNSUPPORTED[words])
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in refused.value.details()


@pytest.mark.parametrize("garbage", [b"\xff" * 50, b"\x0a\x7f", bytes(client_status.MAX_REQUEST_BYTES + 1)])
async def test_garbage_ends_its_own_call_only(garbage):
    async with stage() as (_, channel):
        good = ClientStatusDiscoveryServiceStub(channel).StreamClientStatus()
        for method in ("StreamClientStatus", "FetchClientStatus"):
            call = channel.stream_stream(f"/envoy.service.status.v3.ClientStatusDiscoveryService/{method}")()
            await call.write(garbage)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        await good.write(wire.ClientStatusRequest())
        assert await good.read() == wire.ClientStatusResponse()
        good.cancel()


async def test_calls_beyond_the_bound_are_sent_away_until_one_ends():
    async with stage() as (_, channel):
        stub = ClientStatusDiscoveryServiceStub(channel)
        calls = [stub.StreamClientStatus() for _ in range(MAX_CALLS)]
        for call in calls:
            await call.write(wire.ClientStatusRequest())
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.FetchClientStatus(wire.ClientStatusRequest())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            await call.done_writing()
            await call.code()
        assert await stub.FetchClientStatus(wire.ClientStatusRequest()) == wire.ClientStatusResponse()


class Outlet:
    peer = "test"

    def __init__(self):
        self.sent, self.end = [], None

    def send(self, message):
        self.sent.append(message)

    def finish(self, status=Status.OK, message=""):
        self.end = self.end or (status, message)


def ask(service, request):
    outlet = Outlet()
    stream = service.methods()[0].service(outlet)
    stream.received(request.SerializeToString())
    stream.received(request.SerializeToString())
    return outlet


def test_more_proxies_than_an_answer_holds_are_refused_and_not_left_out():
    names = [f"n{number:03}" for number in range(MAX_PROXIES + 1)]
    service = ClientStatus(listing(*names))
    refused = ask(service, wire.ClientStatusRequest())
    assert (refused.sent, refused.end[0]) == ([], Status.RESOURCE_EXHAUSTED)
    assert refused.end[1].startswith(f"more than {MAX_PROXIES} proxies match, which is what an answer holds; hint: narrow node_matchers")
    assert len(ask(service, asking({"prefix": "n00"})).sent) == 2


def test_an_answer_of_many_bytes_is_refused(monkeypatch):
    monkeypatch.setattr(client_status, "MAX_ANSWER_BYTES", 100)
    service = ClientStatus(listing("n" * 90))
    assert ask(service, wire.ClientStatusRequest()).end[0] is Status.RESOURCE_EXHAUSTED


def test_an_answer_costs_what_it_holds():
    """With thousands of proxies a status of each would hold up all of them."""
    asked = []
    service = ClientStatus(lambda wanted, *, at_most: asked.append((wanted("a"), wanted("b"), at_most)) or [])
    service.answer(asking({"exact": "b"}).SerializeToString())
    assert asked == [(False, True, MAX_PROXIES + 1)]
