"""What a publication costs with 1,000 rollouts of which one changed: from the wish to the first byte handed to the transport.

The real world, hub and stream, and one fake Envoy (delta, subscribed to everything, ACKing) whose outlet takes the time. Rendering, checking,
comparing, encoding and sending are all in it; the network is not. Each view is measured by itself, once with a host for every rollout and
once with all of them on one host, the worst a route configuration can be.
"""

import logging
import statistics
import time
from dataclasses import replace

import structlog
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire

from policies.spec.policy import Assignment, Lease, Listener, Match, ProxiesPolicy, Select, StaticEndpoints, TrafficSpec, Variant
from policies.traffic import Arm, Traffic
from xds_server.core.transport import Status
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.resources.names import LAYER_NAMES, LAYERS
from xds_server.runtime.world import World
from xds_server.services.ads import AdsHub

ROLLOUTS = 1000
RUNS = 40
TARGET_MS = 5.0
EDGE = ProxiesPolicy(name="edge", select=Select(), listeners=(Listener(name="public", address="127.0.0.1", port=8080),))
CHILD = {CDS: EDS, LDS: RDS}
HOSTS = {
    "a host each": lambda name: Match(host=f"{name}.example.com"),
    "one host": lambda name: Match(path_prefix=f"/{name}"),
}


def variant(name, version):
    return Variant(name=name, version=version, endpoints=StaticEndpoints(addresses=("127.0.0.1:8001", "127.0.0.1:8002")))


def wish(name, match):
    return Traffic(
        rollout=name,
        publication=1,
        generation=1,
        where=TrafficSpec(proxies="edge", listener="public", match=(match,)),
        assignment=Assignment(sticky_header="x-user"),
        lease=Lease(),
        stable=variant("stable", "m1"),
        arms=(Arm(variant=variant("candidate", "m2"), share_bp=100, reserve_bp=10_000),),
    )


class Envoy:
    """A proxy that accepts everything and subscribes to the endpoints and routes of what it is given; `first` is when a message came."""

    peer = "bench"

    def __init__(self, hub, *, leased):
        self.first = None
        self.leased = leased
        self._inbox = []
        service = next(each.service for each in hub.methods() if each.path.endswith("DeltaAggregatedResources"))
        self._session = service(self)
        node = Node(id="bench", cluster="edge")
        if leased:
            node.metadata.update({"crossfade": {"layers": LAYERS}})
        self._ask(CDS, node=node)
        self._ask(LDS)
        if leased:
            self._ask(RTDS, resource_names_subscribe=LAYER_NAMES)
        self.answer()

    def send(self, message):
        if self.first is None:
            self.first = time.perf_counter()
        self._inbox.append(message)

    def finish(self, status=Status.OK, message=""):
        raise AssertionError(f"{status.name}: {message}")

    def answer(self):
        """Takes in all messages; returns the types that came."""
        types = set()
        while self._inbox:
            response = wire.DeltaDiscoveryResponse.FromString(self._inbox.pop(0))
            types.add(response.type_url)
            self._ask(response.type_url, response_nonce=response.nonce)
            child = CHILD.get(response.type_url)
            if child:
                names = [each.name for each in response.resources]
                self._ask(child, resource_names_subscribe=names, resource_names_unsubscribe=response.removed_resources)
        return types

    def _ask(self, type_url, **more):
        self._session.received(wire.DeltaDiscoveryRequest(type_url=type_url, **more).SerializeToString())


def shares(before, run):
    [arm] = before.arms
    return replace(before, publication=before.publication + 1, arms=(replace(arm, share_bp=200 + run),))


def candidates(before, run):
    return replace(
        before, publication=before.publication + 1, arms=(Arm(variant=variant("candidate", f"n{run}"), share_bp=100, reserve_bp=10_000),)
    )


def measure(view, match):
    """Milliseconds to the first byte and to the end of the flush, by kind of change."""

    def select(node):
        return world.select(node)

    hub = AdsHub(select=select, events=lambda _: None, clock=time.monotonic)
    world = World(hub, lambda *_: None)
    world.set_proxies([EDGE])
    wishes = [wish(f"r{number}", match(f"r{number}")) for number in range(ROLLOUTS)]
    for each in wishes:
        world.publish(each)
    world.flush()
    hub.ready()
    envoy = Envoy(hub, leased=view == "leased")
    found = {}
    for kind, edit, wanted in (("share", shares, {RTDS} if envoy.leased else {RDS}), ("candidate", candidates, {CDS, EDS, RDS})):
        found[kind] = first, whole = [], []
        for run in range(RUNS):
            number = run * 37 % ROLLOUTS
            wishes[number] = edit(wishes[number], run)
            envoy.first = None
            began = time.perf_counter()
            world.publish(wishes[number])
            world.flush()
            whole.append((time.perf_counter() - began) * 1e3)
            sent = envoy.answer()
            if not wanted <= sent:
                raise AssertionError(f"the new {kind} of {wishes[number].rollout} sent only {sorted(sent)}")
            first.append((envoy.first - began) * 1e3)
    return found


async def run():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    figures = {}
    print(f"{ROLLOUTS} rollouts, one changed, {RUNS} times; target: {TARGET_MS:.0f} ms to the first byte")
    print(f"{'':<36}{'first byte, median':>20}{'worst':>10}{'whole flush, median':>22}{'worst':>10}  [ms]")
    for hosts, match in HOSTS.items():
        for view in ("leased", "plain"):
            for kind, (first, whole) in measure(view, match).items():
                name = f"{view}, {hosts}, new {kind}"
                print(f"{name:<36}{statistics.median(first):20.2f}{max(first):10.2f}{statistics.median(whole):22.2f}{max(whole):10.2f}")
                figures[name] = {"first_byte_ms": first, "flush_ms": whole}
    return figures
