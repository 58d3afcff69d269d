"""The hub without a network: faults and floods stay with the stream that brought them."""

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire

from tests.xds_peer import res, world
from xds_server.core.transport import Status
from xds_server.core.types import CDS, TYPES
from xds_server.services import ads
from xds_server.services.ads import Acked, AdsHub, Refusal


class Outlet:
    peer = "test"

    def __init__(self, *, broken=False):
        self.sent, self.end, self._broken = [], None, broken

    def send(self, message):
        if self._broken and self.sent:
            raise RuntimeError("a bug")
        self.sent.append(message)

    def finish(self, status=Status.OK, message=""):
        self.end = (status, message)


@pytest.fixture
def events():
    return []


@pytest.fixture
def hub(events):
    made = AdsHub(select=lambda node: "g" if node.cluster == "c" else Refusal(message="no group"), events=events.append, clock=lambda: 1.0)
    made.ready()
    return made


def join(hub, outlet, node_id="n", cluster="c"):
    service = next(each.service for each in hub.methods() if each.path.endswith("DeltaAggregatedResources"))
    session = service(outlet)
    session.received(wire.DeltaDiscoveryRequest(type_url=CDS, node=Node(id=node_id, cluster=cluster)).SerializeToString())
    return session


def ack(session, outlet):
    nonce = wire.DeltaDiscoveryResponse.FromString(outlet.sent[-1]).nonce
    session.received(wire.DeltaDiscoveryRequest(type_url=CDS, response_nonce=nonce).SerializeToString())


def test_a_fault_while_publishing_to_one_proxy_does_not_keep_the_world_from_the_others(hub):
    outlets = [Outlet(), Outlet(broken=True), Outlet()]
    hub.publish("g", world(1, {CDS: [res("a")]}))
    for outlet in outlets:
        ack(join(hub, outlet), outlet)
    hub.publish("g", world(2, {CDS: [res("a", "2")]}))
    assert [len(outlet.sent) for outlet in outlets] == [2, 1, 2]
    assert outlets[1].end[0] is Status.INTERNAL
    assert hub.sync_state("g", 2).selected == 2


def test_one_encoding_is_shared_by_all_proxies_of_a_push(hub):
    outlets = [Outlet(), Outlet()]
    hub.publish("g", world(1, {CDS: [res("a")]}))
    for outlet in outlets:
        ack(join(hub, outlet), outlet)
    hub.publish("g", world(2, {CDS: [res("a", "2")]}))
    assert outlets[0].sent[1] is outlets[1].sent[1]


def test_a_world_of_equal_content_is_acked_without_a_message(hub, events):
    outlet = Outlet()
    hub.publish("g", world(1, {CDS: [res("a")]}))
    ack(join(hub, outlet), outlet)
    hub.publish("g", world(2, {CDS: [res("a")]}))
    assert len(outlet.sent) == 1
    assert events[-1] == Acked(key="g", node_id="n", serial=2)


def test_a_listener_may_publish_from_within_an_event(hub, events):
    outlet = Outlet()

    def react(event):
        events.append(event)
        if event == Acked(key="g", node_id="n", serial=1):
            hub.publish("g", world(2, {CDS: [res("a", "2")]}))

    hub._events = react
    hub.publish("g", world(1, {CDS: [res("a")]}))
    session = join(hub, outlet)
    ack(session, outlet)
    ack(session, outlet)
    assert [event.serial for event in events if isinstance(event, Acked)] == [1, 2]


def test_a_serial_that_does_not_grow_is_a_fault_of_the_caller(hub):
    hub.publish("g", world(1, {}))
    with pytest.raises(ValueError, match="does not follow snapshot 1"):
        hub.publish("g", world(1, {}))


def test_refused_proxies_are_remembered_up_to_a_limit(hub):
    for number in range(ads._MAX_REFUSED + 10):
        join(hub, Outlet(), node_id=f"n{number}", cluster="x").closed()
    remembered = [each.node_id for each in hub.refused()]
    assert len(remembered) == ads._MAX_REFUSED
    assert remembered[-1] == f"n{ads._MAX_REFUSED + 9}"


def test_a_proxy_that_belongs_elsewhere_now_is_sent_away(hub):
    outlet = Outlet()
    join(hub, outlet)
    hub._select = lambda _: "other"
    hub.reselect()
    assert outlet.end[0] is Status.UNAVAILABLE
    assert hub.proxies() == []


def test_a_finished_stream_is_sent_nothing_more_and_counts_no_more(hub):
    outlet = Outlet()
    hub.publish("g", world(1, {CDS: [res("a")]}))
    session = join(hub, outlet)
    session.received(b"\xff")
    assert outlet.end[0] is Status.INVALID_ARGUMENT
    hub.publish("g", world(2, {CDS: [res("a", "2")]}))
    session.received(b"more")
    session.closed()
    assert len(outlet.sent) == 1
    assert hub.sync_state("g", 1).selected == 0


def test_streams_beyond_the_limit_are_refused_and_closed_ones_make_room(hub, monkeypatch):
    monkeypatch.setattr(ads, "_MAX_STREAMS", 1)
    session = join(hub, Outlet())
    over = Outlet()
    join(hub, over).closed()
    assert over.end[0] is Status.RESOURCE_EXHAUSTED
    session.closed()
    room = Outlet()
    join(hub, room)
    assert room.end is None


def test_every_type_has_a_service_of_its_own_in_both_variants(hub):
    paths = {method.path for method in hub.methods()}
    assert len(paths) == 2 + 2 * len(TYPES)
    assert "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime" in paths
