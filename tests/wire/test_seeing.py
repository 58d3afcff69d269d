"""What operators see of the proxies of a whole control plane: `/v1/proxies`, the metrics and client status say what really happened on the wire."""

import json
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import httpx
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2
from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.wire.discovery import DELTA, SOTW, Client, node, until
from tests.wire.transports import Transport
from xds_server.adapters.store_memory import MemoryStore
from xds_server.config import ServeConfig
from xds_server.core.types import CDS, LDS, RDS
from xds_server.runtime.server import Server
from xds_server.services import http_api

pytestmark = pytest.mark.usefixtures("each_transport")

PROXIES = {
    "apiVersion": "crossfade/v1",
    "kind": "Proxies",
    "metadata": {"name": "edge"},
    "spec": {"select": {"cluster": "edge"}, "listeners": [{"name": "public", "address": "127.0.0.1", "port": 10_000}]},
}


class Plane:
    """A server without its loops, its ports open."""

    def __init__(self, server, channel, http) -> None:
        self.server = server
        self.channel = channel
        self._http = http

    def proxy(self, path=DELTA):
        return Client(
            self.channel.stream_stream(path)(), discovery_pb2.DeltaDiscoveryResponse if "Delta" in path else discovery_pb2.DiscoveryResponse
        )

    async def rows(self, **query):
        return (await self._http.get("/v1/proxies", params=query)).json()["proxies"]

    def metrics(self):
        families = text_string_to_metric_families(self.server.exposition().decode())
        return {
            (each.name.removeprefix("crossfade_"), *sorted(each.labels.values())): each.value
            for family in families
            for each in family.samples
        }


@asynccontextmanager
async def plane(folder):
    (folder / "edge.yaml").write_text(json.dumps(PROXIES))
    server = Server(ServeConfig(policies=folder, store="memory:"), MemoryStore())
    transport = Transport(server.methods())
    await server.start()
    server.world.flush()
    address = f"127.0.0.1:{await transport.serve('127.0.0.1:0')}"
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=http_api.app(server.control)), base_url="http://127.0.0.1")
    try:
        async with grpc.aio.insecure_channel(address) as channel, http:
            yield Plane(server, channel, http)
    finally:
        await transport.stop(0.1)


def ask(type_url, *names, **more):
    return discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, **more)


def answer(response, words=None):
    made = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
    if words is not None:
        made.error_detail.message = words
    return made


async def test_a_proxy_goes_from_not_sent_over_stale_to_synced_and_error(tmp_path):
    async with plane(tmp_path) as seen:
        client = seen.proxy()
        await client.send(ask(LDS, node=node("edge-1", "edge")))
        response = await client.receive()
        [row] = await seen.rows()
        [kind] = row["types"]
        assert (row["node"], row["cluster"], row["group"], row["version"]) == ("edge-1", "edge", "edge", "1.40.0")
        assert (row["variant"], row["service"], row["leased"], row["sync"], row["refused"]) == ("delta", "ADS", True, "STALE", None)
        assert (kind["type"], kind["sync"], kind["sent"], kind["acked"]) == ("LDS", "STALE", response.system_version_info, "")
        assert (kind["acked_age_s"], kind["words"]) == (None, "")
        assert seen.metrics()["xds_outstanding",] == 1
        await client.send(answer(response))
        await until(lambda: seen.metrics()["xds_outstanding",] == 0)
        [kind] = (await seen.rows())[0]["types"]
        assert (kind["sync"], kind["acked"]) == ("SYNCED", response.system_version_info)
        assert 0.0 <= kind["acked_age_s"] < 60.0
        await client.send(ask(RDS, *[each.name for each in response.resources], "public"))
        routes = await client.receive()
        await client.send(answer(routes, "no such\ncluster"))
        await until(lambda: seen.metrics().get(("xds_rejects_total", "RDS")) == 1)
        [row] = await seen.rows()
        told = {each["type"]: (each["sync"], each["words"]) for each in row["types"]}
        assert told == {"LDS": ("SYNCED", ""), "RDS": ("ERROR", "no such\ncluster")}
        assert row["sync"] == "ERROR"


async def test_metrics_follow_streams_and_pushes(tmp_path):
    async with plane(tmp_path) as seen:
        first, second = seen.proxy(), seen.proxy(SOTW)
        await first.send(ask(CDS, node=node("edge-1", "edge")))
        await second.send(discovery_pb2.DiscoveryRequest(type_url=LDS, node=node("edge-2", "edge")))
        await first.receive()
        await second.receive()
        found = seen.metrics()
        assert (found["xds_streams", "delta"], found["xds_streams", "sotw"]) == (1, 1)
        assert (found["xds_pushes_total", "CDS"], found["xds_pushes_total", "LDS"], found["xds_outstanding",]) == (1, 1, 2)
        second.call.cancel()
        await until(lambda: seen.metrics()["xds_streams", "sotw"] == 0)
        found = seen.metrics()
        assert found["xds_streams", "delta"] == 1
        assert found["xds_pushes_total", "LDS"] == 1, "a scrape counts what was pushed once"
        assert found["xds_outstanding",] == 1, "what a gone proxy did not answer is not waited for"


async def test_the_time_from_a_push_to_its_ack_is_measured_once_per_ack(tmp_path):
    async with plane(tmp_path) as seen:
        client = seen.proxy()
        await client.send(ask(CDS, node=node("edge-1", "edge")))
        response = await client.receive()
        assert seen.metrics()["xds_push_ack_seconds_count",] == 0
        await client.send(answer(response))
        await until(lambda: seen.metrics()["xds_push_ack_seconds_count",] == 1)
        await client.send(ask(LDS))
        await client.send(answer(await client.receive(), "no"))
        await until(lambda: seen.metrics().get(("xds_rejects_total", "LDS")) == 1)
        assert seen.metrics()["xds_push_ack_seconds_count",] == 1, "a rejection is no ACK"
        assert 0.0 <= seen.metrics()["xds_push_ack_seconds_sum",] < 60.0


async def test_a_proxy_that_was_turned_away_is_shown_with_what_it_was_told_and_how_often(tmp_path):
    async with plane(tmp_path) as seen:
        for _ in range(2):
            stranger = seen.proxy()
            await stranger.send(ask(CDS, node=node("who", "nobody")))
            await stranger.status()
        friend = seen.proxy()
        await friend.send(ask(CDS, node=node("edge-1", "edge")))
        await friend.receive()
        assert [row["node"] for row in await seen.rows()] == ["edge-1", "who"]
        assert [row["node"] for row in await seen.rows(node="edge-*")] == ["edge-1"]
        [row] = await seen.rows(node="wh?")
        assert (row["node"], row["sync"], row["group"], row["types"], row["times"]) == ("who", "ERROR", None, [], 2)
        assert "no Proxies document selects node 'who'" in row["refused"]
        assert seen.metrics()["xds_refusals_total",] == 2


async def test_client_status_is_served_where_proxies_connect(tmp_path):
    async with plane(tmp_path) as seen:
        client = seen.proxy()
        await client.send(ask(CDS, node=node("edge-1", "edge")))
        await client.receive()
        told = await ClientStatusDiscoveryServiceStub(seen.channel).FetchClientStatus(csds_pb2.ClientStatusRequest())
        assert [(each.node.id, each.node.cluster) for each in told.config] == [("edge-1", "edge")]
