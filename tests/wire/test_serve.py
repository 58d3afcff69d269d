"""`crossfade serve` over either transport, as a process: proxies reach it, and /metrics has what the transport refused."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import httpx
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from tests.rig import free_port, until
from tests.stage import CLI
from tests.wire.discovery import SOTW, node
from xds_server.config import TRANSPORTS
from xds_server.core.types import LDS

POLICIES = """\
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec:
  select: {cluster: edge}
  listeners: [{name: public, address: 127.0.0.1, port: 10000}]
"""


@asynccontextmanager
async def served(folder, transport):
    (folder / "edge.yaml").write_text(POLICIES)
    xds, api, api_grpc = (f"127.0.0.1:{free_port()}" for _ in range(3))
    arguments = (
        "--policies",
        str(folder),
        "--store",
        "memory:",
        "--xds",
        xds,
        "--api",
        api,
        "--api-grpc",
        api_grpc,
        "--transport",
        transport,
    )
    log = (folder / "serve.log").open("wb")
    with log:
        process = await asyncio.create_subprocess_exec(*CLI, "serve", *arguments, stderr=log, stdout=log)
    try:
        async with httpx.AsyncClient(base_url=f"http://{api}") as client, grpc.aio.insecure_channel(xds) as channel:

            async def ready():
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(ready, "the server to be ready")
            yield channel, client
    finally:
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_proxies_are_served_and_what_was_refused_is_in_the_metrics(tmp_path, transport):
    async with served(tmp_path, transport) as (channel, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/no/Such")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        stream = channel.stream_stream(SOTW)()
        await stream.write(DiscoveryRequest(type_url=LDS, node=node(cluster="edge")).SerializeToString())
        assert await stream.read() is not grpc.aio.EOF
        text = (await client.get("/metrics")).text
        assert ('crossfade_dropped_total{what="wire_unknown_path"} 1.0' in text) is (transport == "wire")
        assert 'crossfade_xds_streams{variant="sotw"} 1.0' in text
        stream.cancel()
