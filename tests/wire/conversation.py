"""One scenario of the conformance table, as a conversation: a harness that steers the adapter, and a client that answers every response.

Nothing waits for time to pass. The server handles the messages of one stream in order, so a request counts as said once the server has
handled it (it counts them), and "no answer came" is shown by asking for something else and getting that first.
"""

import asyncio
from collections.abc import Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count

import grpc.aio
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2

from tests.wire.discovery import ADS, PATIENCE_S, Client
from tests.xds_adapter import BARE, SERVICE, name_of, running, wire
from xds_server.core.facts import Variant
from xds_server.core.transport import Method, Outlet
from xds_server.core.types import TYPES

NODE = "test-id"
ROWS = {row.short: row for row in TYPES}
PROBE = "probe"


class Ear:
    """Counts what the discovery services have received and handled."""

    def __init__(self) -> None:
        self._heard = 0
        self._news = asyncio.Event()

    def hear(self) -> None:
        self._heard += 1
        self._news.set()

    async def wait_for(self, number: int) -> None:
        """Until so many requests were handled."""
        async with asyncio.timeout(PATIENCE_S):
            while self._heard < number:
                self._news.clear()
                await self._news.wait()

    def watch(self, methods: Iterable[Method]) -> list[Method]:
        return [replace(method, service=lambda outlet, method=method: _Overheard(self, method, outlet)) for method in methods]


class _Overheard:
    def __init__(self, ear: Ear, method: Method, outlet: Outlet) -> None:
        self._ear = ear
        self._session = method.service(outlet)
        self.closed = self._session.closed

    def received(self, message: bytes) -> None:
        self._session.received(message)
        self._ear.hear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A response as far as the scenarios look at it."""

    resources: tuple[str, ...]
    removed: tuple[str, ...]
    version: str


class Conversation:
    """The verbs of the scenarios. Names are written "A,B". Every response that is expected is also ACKed, without the node.

    Args:
        steer: Calls the adapter.
        channel: To the discovery services.
        ear: Of their side.
    """

    def __init__(self, steer, channel, ear: Ear, *, variant: Variant, aggregated: bool) -> None:
        self._steer = steer
        self._channel = channel
        self._ear = ear
        self._variant = variant
        self._aggregated = aggregated
        self._client: Client | None = None
        self._said = 0
        self._names: dict[str, list[str]] = {}
        self._wild: set[str] = set()
        self._last: dict[str, tuple[str, str]] = {}
        self._nonces: set[tuple[str, str]] = set()
        self._exists: dict[str, set[str]] = {}
        self._probes = count()

    # What the harness does to the target.

    async def given(self, names: str, *, version: str = "1") -> None:
        """Every type has resources of these names."""
        made = [(url, make(name, f"v{version}")) for url, make in BARE.items() for name in names.split(",")]
        resources = [{"type_url": url, "value": message.SerializeToString()} for url, message in made]
        self._exists = {service: set(names.split(",")) for service in ROWS}
        await self._steer("SetState", wire.SetStateRequest(node=NODE, version=version, resources=resources))

    async def update(self, service: str, name: str, *, version: str = "2") -> None:
        await self._change("UpdateResource", service, name, version)

    async def add(self, service: str, name: str, *, version: str = "2") -> None:
        self._exists[service].add(name)
        await self._change("AddResource", service, name, version)

    async def remove(self, service: str, name: str, *, version: str = "") -> None:
        self._exists[service].discard(name)
        await self._change("RemoveResource", service, name, version)

    async def _change(self, verb: str, service: str, name: str, version: str) -> None:
        request = wire.ResourceRequest(node=NODE, typeUrl=ROWS[service].url, resourceName=name, version=version)
        await self._steer(verb, request)

    # What the client says.

    async def subscribe(self, service: str, names: str = "") -> None:
        """To these names as well; "" is the wildcard of a client that never named anything."""
        added = names.split(",") if names else []
        if not added:
            self._wild.add(service)
        self._names.setdefault(service, []).extend(added)
        await self._say(service, subscribe=added)

    async def unsubscribe(self, service: str, names: str, *, blank: bool = False) -> None:
        """From these names.

        Args:
            blank: State of the world: wants one name that is the empty string, and not no names.
        """
        dropped = names.split(",")
        self._names[service] = [name for name in self._names[service] if name not in dropped] or ([""] if blank else [])
        await self._say(service, unsubscribe=dropped)

    async def _say(self, service: str, *, subscribe: Iterable[str] = (), unsubscribe: Iterable[str] = (), answer: bool = False) -> None:
        """State of the world: always all names, the last version and nonce. Delta: the changes, and a nonce only when it answers."""
        url = ROWS[service].url
        node = None
        if self._client is None:
            node = Node(id=NODE)
            response = discovery_pb2.DeltaDiscoveryResponse if self._variant is Variant.DELTA else discovery_pb2.DiscoveryResponse
            self._client = Client(self._channel.stream_stream(self._path(service))(), response)
        version, nonce = self._last.get(service, ("", ""))
        if self._variant is Variant.SOTW:
            request = discovery_pb2.DiscoveryRequest(
                node=node, type_url=url, version_info=version, response_nonce=nonce, resource_names=self._names[service]
            )
        else:
            request = discovery_pb2.DeltaDiscoveryRequest(
                node=node,
                type_url=url,
                response_nonce=nonce if answer else "",
                resource_names_subscribe=subscribe,
                resource_names_unsubscribe=unsubscribe,
            )
        await self._client.send(request)
        self._said += 1
        await self._ear.wait_for(self._said)

    def _path(self, service: str) -> str:
        delta = self._variant is Variant.DELTA
        if self._aggregated:
            return ADS + ("DeltaAggregatedResources" if delta else "StreamAggregatedResources")
        return f"/{ROWS[service].service}/{ROWS[service].methods[delta]}"

    # What must be so.

    async def expect(self, service: str, names: str = "", *, version: str, removed: str = "") -> None:
        """The next response is of this type and has exactly this, with a new nonce; the client accepts it."""
        response = await self._client.receive()
        assert response.type_url == ROWS[service].url
        assert response.nonce
        assert (service, response.nonce) not in self._nonces, "a nonce is used once; each type has its own"
        self._nonces.add((service, response.nonce))
        wanted = Received(resources=_names(names), removed=_names(removed), version=version)
        assert self._read(response) == wanted
        self._last[service] = (version, response.nonce)
        await self._say(service, answer=True)

    def _read(self, response) -> Received:
        if self._variant is Variant.SOTW:
            found = sorted(name_of(each.type_url, each.value) for each in response.resources)
            return Received(resources=tuple(found), removed=(), version=response.version_info)
        for each in response.resources:
            assert each.name == name_of(each.resource.type_url, each.resource.value)
        found = sorted(each.name for each in response.resources)
        return Received(resources=tuple(found), removed=tuple(sorted(response.removed_resources)), version=response.system_version_info)

    async def nothing_more(self, service: str) -> None:
        """All that was said is handled and no answer to it is on its way: what answers one more wish is the next thing that comes."""
        version, name = f"{PROBE} {next(self._probes)}", PROBE
        known = self._exists[service] if self._wildcard(service) else self._exists[service].intersection(self._names[service])
        await self.add(service, name, version=version)
        if not self._wildcard(service):
            await self.subscribe(service, name)
        await self.expect(service, ",".join({*known, name} if self.whole(service) else {name}), version=version)

    def _wildcard(self, service: str) -> bool:
        return service in self._wild

    def whole(self, service: str) -> bool:
        """Each response is all that the client wants of the type: what it leaves out does not exist."""
        return self._variant is Variant.SOTW and ROWS[service].wildcard


def _names(names: str) -> tuple[str, ...]:
    return tuple(sorted(names.split(","))) if names else ()


@asynccontextmanager
async def conversation(*, variant: Variant, aggregated: bool):
    """A target, its harness and one client, all over real connections."""
    ear = Ear()
    async with running(watch=ear.watch) as ports:
        adapter = grpc.aio.insecure_channel(f"127.0.0.1:{ports.adapter}")
        xds = grpc.aio.insecure_channel(f"127.0.0.1:{ports.xds}")

        async def steer(verb, request):
            async with asyncio.timeout(PATIENCE_S):
                await adapter.unary_unary(SERVICE + verb)(request.SerializeToString())

        async with adapter, xds:
            yield Conversation(steer, xds, ear, variant=variant, aggregated=aggregated)
            for _ in range(2):  # what is clear already can be cleared
                await steer("ClearState", wire.clearStateRequest(node=NODE))
