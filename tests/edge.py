"""A group of proxies without a network: a real world, a real hub, and proxies that answer when a test lets them."""

from collections import deque

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire
from envoy.service.runtime.v3 import rtds_pb2

from policies.spec.policy import FULL_BP, Assignment, Lease, Listener, ProxiesPolicy, Select, TrafficSpec
from policies.traffic import Arm, Traffic
from tests.making import variant
from xds_server.core.staging import WAIT_S
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.resources.names import LAYER_NAMES, LAYERS, mirror_key, weight_key
from xds_server.runtime.world import World
from xds_server.services.ads import AdsHub

DOCUMENT = ProxiesPolicy(name="edge", select=Select(cluster="edge"), listeners=(Listener(name="public", address="127.0.0.1", port=1000),))
V1, V2, V3 = (variant("v", f"v{number}", 8000 + number) for number in (1, 2, 3))


def wish(rollout="chat", publication=1, *, stable=V1, arm=None, share_bp=0, **more):
    return Traffic(
        rollout=rollout,
        publication=publication,
        generation=1,
        where=more.pop("where", TrafficSpec(proxies="edge", listener="public")),
        assignment=Assignment(),
        lease=Lease(ttl_s=30.0),
        stable=stable,
        arms=(Arm(variant=arm, share_bp=share_bp, reserve_bp=FULL_BP),) if arm is not None else (),
        **more,
    )


class Edge:
    """One group, its world and its proxies; time passes when a test says so."""

    def __init__(self, proxies=12, note=b"", first=(), *, defers=False):
        self.now, self.owned, self._next_turn = 100.0, {}, deque()
        defer = self._next_turn.append if defers else None
        self.hub = AdsHub(select=self._select, events=self._heard, clock=lambda: self.now, defer=defer)
        self.world = World(self.hub, own=self.owned.__setitem__)
        self.world.restore(note)
        for each in first:
            self.world.publish(each)
        self.world.set_proxies([DOCUMENT])
        self.world.flush()
        self.hub.ready()
        self.proxies = []
        for number in range(proxies):
            self.join(f"n{number:02}")
        self.pump()

    def _select(self, node):
        return self.world.select(node)

    def _heard(self, event):
        self.world.heard(event)

    def join(self, node_id, **more):
        self.now += 0.001
        self.proxies.append(DeltaProxy(self.hub, node_id, **more))
        return self.proxies[-1]

    def pump(self):
        """Until nobody has anything to say."""
        while sum(proxy.work() for proxy in self.proxies) or self._next_turn:
            while self._next_turn:
                self._next_turn.popleft()()

    def publish(self, *wishes):
        for each in wishes:
            self.world.publish(each)
        self.world.flush()
        self.pump()

    def look(self, passed=0.0):
        self.now += passed
        self.world.advance()
        self.pump()

    def passes_a_stage(self):
        self.look()
        self.look(WAIT_S)

    def finish(self):
        """Until there is nothing on trial."""
        for _ in range(200):
            if not self.world.trying:
                return
            self.look(WAIT_S / 2)
        raise AssertionError("the trial does not end")

    def who_has(self, cluster_of):
        """Proxies with a cluster of a version."""
        return [each.node_id for each in self.proxies if any(f"/{cluster_of.identity}" in name for name in each.has[CDS])]

    def shares(self, asked, arm=V2):
        """The weight of an arm at each proxy that has it."""
        found = {}
        for proxy in self.proxies:
            for raw in proxy.has[RTDS].values():
                fields = rtds_pb2.Runtime.FromString(raw).layer.fields
                key = weight_key(asked, f"{asked.rollout}/{arm.identity}+fallback")
                if key in fields:
                    assert mirror_key(asked, arm) in fields
                    found[proxy.node_id] = fields[key].number_value
        return found


class DeltaProxy:
    """Speaks the delta variant: asks for everything there is; `work` answers what came.

    Args:
        rejects: (type URL, names) of a response -> words, "" to accept it.
    """

    peer = "test"

    def __init__(self, hub, node_id, *, rejects=lambda type_url, names: "", layers=LAYERS):
        self.node_id, self.rejects = node_id, rejects
        self.has = {url: {} for url in (CDS, EDS, LDS, RDS, RTDS)}
        self.got = 0
        self.ended = False
        self._came = deque()
        service = next(each.service for each in hub.methods() if each.path.endswith("DeltaAggregatedResources"))
        self._session = service(self)
        node = Node(id=node_id, cluster="edge")
        if layers:
            node.metadata["crossfade"] = {"layers": layers}
        self._say(wire.DeltaDiscoveryRequest(type_url=CDS, node=node))
        self._say(wire.DeltaDiscoveryRequest(type_url=LDS))
        if layers:
            self._say(wire.DeltaDiscoveryRequest(type_url=RTDS, resource_names_subscribe=LAYER_NAMES))

    def send(self, message):
        self._came.append(message)

    def finish(self, status=None, message=""):
        self.ended = True
        self._session.closed()

    def leave(self):
        self.ended = True
        self._session.closed()

    def work(self):
        """Answers everything that came; says whether there was something."""
        worked = False
        while self._came and not self.ended:
            worked = True
            self._answer(wire.DeltaDiscoveryResponse.FromString(self._came.popleft()))
        return worked

    def _answer(self, came):
        self.got += 1
        url, names = came.type_url, [each.name for each in came.resources]
        words = self.rejects(url, names)
        answer = wire.DeltaDiscoveryRequest(type_url=url, response_nonce=came.nonce)
        if words:
            answer.error_detail.message = words
            self._say(answer)
            return
        known = set(self.has[url])
        self.has[url].update({each.name: each.resource.value for each in came.resources if each.HasField("resource")})
        for name in came.removed_resources:
            self.has[url].pop(name, None)
        self._say(answer)
        child = {CDS: EDS, LDS: RDS}.get(url)
        if child is not None:
            now = set(self.has[url])
            more = wire.DeltaDiscoveryRequest(
                type_url=child, resource_names_subscribe=sorted(now - known), resource_names_unsubscribe=sorted(known - now)
            )
            if more.resource_names_subscribe or more.resource_names_unsubscribe:
                self._say(more)

    def _say(self, request):
        self._session.received(request.SerializeToString())
