"""The delivering half of the control plane for tests: rendered wishes over the real ADS, and the access log as Envoy sends it."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from policies.spec.policy import (
    FULL_BP,
    Assignment,
    Fallback,
    HealthCheck,
    Lease,
    Listener,
    ProxiesPolicy,
    Select,
    StaticEndpoints,
    TrafficSpec,
    Variant,
)
from policies.traffic import Arm, Traffic
from tests.real_envoy import Envoy
from tests.rig import Backend, Client, free_port, turn_of, until
from tests.wire.transports import Transport
from xds_server.core.snapshot import Snapshot
from xds_server.core.transport import Method
from xds_server.core.types import RTDS
from xds_server.resources.bootstrap import bootstrap
from xds_server.resources.envoy import render
from xds_server.resources.names import LAYER_NAMES
from xds_server.services.ads import AdsHub
from xds_server.services.proxies import Nacked, ProxyEvent

ALS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
LRS = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"
KEY = "edge"


class _Heard:
    """A session that keeps what it hears and never answers."""

    def __init__(self, keep) -> None:
        self._keep = keep

    def received(self, message: bytes) -> None:
        self._keep(message)

    def closed(self) -> None:
        pass


class Plane:
    """A hub behind a real server. It can be stopped and started again on the same port, as a crashed process would be."""

    def __init__(self, proxies: ProxiesPolicy, *, leased: bool = True) -> None:
        self.proxies = proxies
        self.leased = leased
        self.events: list[ProxyEvent] = []
        self.entries: list[accesslog_pb2.HTTPAccessLogEntry] = []
        self.serial = 0
        self.wishes: tuple[Traffic, ...] = ()
        self.port = 0
        self._transport = None
        self._pulse: asyncio.Task[None] | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.hub = AdsHub(select=lambda _: KEY, events=self.events.append, clock=loop.time)
        self.hub.ready()
        methods = (
            *self.hub.methods(),
            Method(path=ALS, service=lambda _: _Heard(self._log)),
            Method(path=LRS, service=lambda _: _Heard(lambda _: None)),
        )
        self._transport = Transport(methods)
        self.port = await self._transport.serve(f"127.0.0.1:{self.port}")
        self._pulse = loop.create_task(self._beat())
        self.publish(*self.wishes)

    async def stop(self) -> None:
        if self._transport is not None and self._pulse is not None:
            self._pulse.cancel()
            await self._transport.stop(0.0)
            self._transport = None

    def publish(self, *wishes: Traffic) -> None:
        self.wishes = wishes
        self.serial += 1
        snapshot = Snapshot(serial=self.serial, resources=render(self.proxies, wishes, leased=self.leased))
        assert snapshot.check() == ()
        self.hub.publish(KEY, snapshot)

    async def delivered(self, *wishes: Traffic) -> None:
        """Publishes and waits until Envoy has accepted it all and its worker acts on it."""
        self.publish(*wishes)
        await until(lambda: self.rejected() or self.hub.sync_state(KEY, self.serial).acked, "every resource to be accepted")
        assert not self.rejected(), self.rejected()
        await turn_of(self.proxies.listeners[0].port)

    def rejected(self) -> list[Nacked]:
        return [event for event in self.events if isinstance(event, Nacked)]

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self.hub.heartbeat(KEY, RTDS, LAYER_NAMES)

    def _log(self, raw: bytes) -> None:
        self.entries.extend(als_pb2.StreamAccessLogsMessage.FromString(raw).http_logs.log_entry)


@dataclass
class World:
    """Two versions behind one real Envoy that hears from a plane."""

    stable: Backend
    candidate: Backend
    plane: Plane
    envoy: Envoy
    client: Client
    wish: Traffic

    def shares(self, share_bp: int = 0, shadow_bp: int = 0, **changes) -> Traffic:
        """The wish with other shares, under the next publication number."""
        arm = replace(self.wish.arms[0], share_bp=share_bp, shadow_bp=shadow_bp)
        self.wish = replace(self.wish, publication=self.wish.publication + 1, arms=(arm,), **changes)
        return self.wish

    async def logged(self, number: int) -> None:
        await until(lambda: len(self.plane.entries) >= number, f"{number} entries of the access log")


def variant(name: str, backend: Backend, *, health: HealthCheck | None = None, **more) -> Variant:
    return Variant(name=name, version=backend.name, endpoints=StaticEndpoints(addresses=(backend.address,)), health=health, **more)


@asynccontextmanager
async def two_versions(
    folder,
    *,
    health: HealthCheck | None = None,
    fallback: Fallback = Fallback.CONNECT,
    sticky: str | None = None,
    lease: Lease | None = None,
    leased: bool = True,
    plane_type: type[Plane] | None = None,
    adjust=None,
):
    """`v1` stable and `v2` candidate at share 0; `adjust` may change the bootstrap before Envoy gets it."""
    lease = lease or Lease(ttl_s=30.0)
    port, admin_port = free_port(), free_port()
    proxies = ProxiesPolicy(name="edge", select=Select(), listeners=(Listener(name="public", address="127.0.0.1", port=port),))
    plane = (plane_type or Plane)(proxies, leased=leased)
    async with Backend(name="v1") as stable, Backend(name="v2") as candidate:
        wish = Traffic(
            rollout="chat",
            publication=1,
            generation=1,
            where=TrafficSpec(proxies="edge", listener="public", fallback=fallback),
            assignment=Assignment(sticky_header=sticky),
            lease=lease,
            stable=variant("stable", stable, health=health),
            arms=(Arm(variant=variant("candidate", candidate, health=health), reserve_bp=FULL_BP),),
        )
        plane.wishes = (wish,)
        await plane.start()
        try:
            config = bootstrap(node_id="envoy-1", cluster="edge", xds_host="127.0.0.1", xds_port=plane.port, admin_port=admin_port)
            if adjust is not None:
                adjust(config)
            async with Envoy(config, folder, admin_port=admin_port) as envoy, Client(port) as client:
                await until(lambda: plane.rejected() or plane.hub.sync_state(KEY, plane.serial).acked, "the first world to be accepted")
                yield World(stable=stable, candidate=candidate, plane=plane, envoy=envoy, client=client, wish=wish)
        finally:
            await plane.stop()
