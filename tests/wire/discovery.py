"""A discovery client of our own over real gRPC, for tests: protobuf in and out, no opinions."""

import asyncio
from collections.abc import Iterable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire

from tests.wire.transports import Transport
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.types import BY_URL
from xds_server.services.ads import AdsHub
from xds_server.services.proxies import ProxyEvent, Refusal

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
SOTW, DELTA = ADS + "StreamAggregatedResources", ADS + "DeltaAggregatedResources"
PATIENCE_S = 10.0
"""A hang becomes a failure after this; nothing is measured by it."""


def resource(name: str, version: str = "1", **more) -> Resource:
    return Resource(name=name, version=version, body=f"{name}@{version}".encode(), **more)


def snapshot(serial: int, **types: Iterable[Resource]) -> Snapshot:
    """`snapshot(3, CDS=[resource("a")])`."""
    urls = {row.short: url for url, row in BY_URL.items()}
    return Snapshot(serial=serial, resources={urls[short]: {each.name: each for each in found} for short, found in types.items()})


class World:
    """A hub behind a real server on a free port of the loopback."""

    def __init__(self) -> None:
        self.events: list[ProxyEvent] = []
        self.now = 1000.0
        self.hub = AdsHub(select=self._select, events=self.events.append, clock=lambda: self.now)
        self.address = ""

    def _select(self, node):
        return "all" if node.cluster != "nobody" else Refusal(message=f"no Proxies document selects node {node.id!r}; hint: add one")


@asynccontextmanager
async def serving(*, ready: bool = True):
    world = World()
    if ready:
        world.hub.ready()
    transport = Transport(world.hub.methods())
    world.address = f"127.0.0.1:{await transport.serve('127.0.0.1:0')}"
    try:
        yield world
    finally:
        await transport.stop(0.1)


class Client:
    """One stream; raw when the test wants to send bytes that are no message."""

    def __init__(self, call, response_type) -> None:
        self.call = call
        self._response_type = response_type

    async def send(self, message) -> None:
        await self.call.write(message if isinstance(message, bytes) else message.SerializeToString())

    async def receive(self):
        async with asyncio.timeout(PATIENCE_S):
            raw = await self.call.read()
        assert raw is not grpc.aio.EOF, "the server ended the stream"
        return self._response_type.FromString(raw)

    async def receive_raw(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.call.read()

    async def status(self) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.call.code(), await self.call.details()


@asynccontextmanager
async def connected(world: World, path: str):
    async with grpc.aio.insecure_channel(world.address) as channel:
        call = channel.stream_stream(path)()
        yield Client(call, wire.DeltaDiscoveryResponse if "Delta" in path else wire.DiscoveryResponse)
        call.cancel()


def node(name: str = "n1", cluster: str = "c", padding: int = 0) -> Node:
    made = Node(id=name, cluster=cluster, user_agent_name="envoy")
    made.user_agent_build_version.version.major_number = 1
    made.user_agent_build_version.version.minor_number = 40
    made.metadata["crossfade"] = {"layers": 16}
    for number in range(padding):
        made.extensions.add(name=f"an.extension.of.some.length.{number}", category="envoy.filters")
    return made


async def until(condition) -> None:
    """Waits for a condition by looking, at most `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition has no event of its own
            await asyncio.sleep(0.005)
