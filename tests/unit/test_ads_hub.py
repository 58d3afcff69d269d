"""The hub without a network: faults and floods stay with the stream that brought them."""

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire

from tests.xds_peer import res, world
from xds_server.core.transport import Status
from xds_server.core.types import CDS, EDS, RDS, TYPES
from xds_server.services import ads, streams
from xds_server.services.ads import AdsHub, Limits
from xds_server.services.proxies import Acked, Refusal, Sync


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


def limited(limits, **more):
    made = AdsHub(
        select=lambda _: "g", events=more.pop("events", lambda _: None), clock=more.pop("clock", lambda: 1.0), limits=limits, **more
    )
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


@pytest.mark.rule("P19")
def test_a_world_of_equal_content_is_acked_without_a_message(hub, events):
    outlet = Outlet()
    hub.publish("g", world(1, {CDS: [res("a")]}))
    ack(join(hub, outlet), outlet)
    hub.publish("g", world(2, {CDS: [res("a")]}))
    assert len(outlet.sent) == 1
    assert events[-1] == Acked(key="g", node_id="n", serial=2, world="g")


def test_a_listener_may_publish_from_within_an_event(hub, events):
    outlet = Outlet()

    def react(event):
        events.append(event)
        if event == Acked(key="g", node_id="n", serial=1, world="g"):
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


def test_streams_beyond_the_limit_are_refused_and_closed_ones_make_room():
    hub = limited(Limits(streams=1))
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


class Turns:
    """The event loop's next turn, by hand."""

    def __init__(self):
        self.waiting = []

    def __call__(self, callback):
        self.waiting.append(callback)

    def next(self):
        (callback,) = self.waiting
        self.waiting = []
        callback()


def test_a_fleet_that_comes_at_once_is_let_in_some_per_turn_and_those_known_from_before_first():
    turns, opened = Turns(), []
    hub = limited(Limits(admitted=2), defer=turns, events=lambda event: opened.append(event.node_id))
    hub.publish("g", world(1, {CDS: [res("a")]}))
    join(hub, Outlet(), "old")
    turns.next()
    opened.clear()
    outlets = [Outlet() for _ in range(4)]
    for outlet, node_id in zip(outlets, ["new1", "new2", "new3", "old"], strict=True):
        join(hub, outlet, node_id)
    assert opened == []
    turns.next()
    assert opened == ["old", "new1"]
    assert [len(outlet.sent) for outlet in outlets] == [1, 0, 0, 1]
    turns.next()
    assert opened == ["old", "new1", "new2", "new3"]
    assert turns.waiting == []


def test_those_already_served_are_offered_a_publication_before_anybody_else_is_let_in():
    turns, order = Turns(), []

    class Told(Outlet):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def send(self, message):
            super().send(message)
            order.append(self.name)

    hub = limited(Limits(admitted=1, offered=1), defer=turns)
    hub.publish("g", world(1, {CDS: [res("a")]}))
    served = [Told("first"), Told("second")]
    for outlet in served:
        session = join(hub, outlet, outlet.name)
        turns.next()
        ack(session, outlet)
    join(hub, Told("stranger"), "stranger")
    order.clear()
    hub.publish("g", world(2, {CDS: [res("a", "2")]}))
    assert order == ["first"]
    turns.next()
    assert order == ["first", "second", "stranger"]


def test_a_stream_that_floods_while_it_waits_is_ended():
    turns, outlet = Turns(), Outlet()
    session = join(limited(Limits(), defer=turns), outlet)
    for _ in range(streams.MAX_PARKED):
        session.received(wire.DeltaDiscoveryRequest(type_url=CDS).SerializeToString())
    assert outlet.end[0] is Status.INVALID_ARGUMENT
    turns.next()


def test_what_was_said_while_waiting_is_answered_when_let_in():
    turns, outlet = Turns(), Outlet()
    hub = limited(Limits(), defer=turns)
    hub.publish("g", world(1, {CDS: [res("a")], RDS: [res("r")]}))
    session = join(hub, outlet)
    session.received(wire.DeltaDiscoveryRequest(type_url=RDS, resource_names_subscribe=["r"]).SerializeToString())
    turns.next()
    assert [wire.DeltaDiscoveryResponse.FromString(sent).type_url for sent in outlet.sent] == [CDS, RDS]


def test_a_stream_past_its_age_is_ended_when_nothing_is_open_and_not_all_at_one_moment():
    now = [0.0]
    hub = limited(Limits(age_s=100.0), clock=lambda: now[0])
    hub.publish("g", world(1, {CDS: [res("a")]}))
    outlets = [Outlet(), Outlet()]
    ack(join(hub, outlets[0]), outlets[0])
    join(hub, outlets[1])
    now[0] = 80.0
    hub.tick()
    assert [outlet.end for outlet in outlets] == [None, None]
    now[0] = 120.0
    hub.tick()
    assert outlets[0].end[0] is Status.UNAVAILABLE
    assert outlets[1].end is None, "it still owes an answer: another limit's business"


def test_a_stream_that_owes_an_answer_too_long_is_ended_and_one_that_speaks_is_not():
    now = [0.0]
    hub = limited(Limits(answer_s=90.0), clock=lambda: now[0])
    hub.publish("g", world(1, {CDS: [res("a")]}))
    silent, busy = Outlet(), Outlet()
    join(hub, silent, "silent")
    talking = join(hub, busy, "busy")
    for now[0] in (1.0, 60.0, 92.0):
        talking.received(wire.DeltaDiscoveryRequest(type_url=RDS, resource_names_subscribe=["r"]).SerializeToString())
        hub.tick()
    assert silent.end[0] is Status.UNAVAILABLE
    assert busy.end is None


def test_a_proxy_is_shown_another_world_on_its_stream_and_led_back(events):
    hub = limited(Limits(), events=events.append)
    hub.publish("g", world(1, {CDS: [res("a")]}))
    tries, stays = Outlet(), Outlet()
    trying, staying = join(hub, tries, "tries"), join(hub, stays, "stays")
    ack(trying, tries)
    ack(staying, stays)
    hub.publish("trial", world(2, {CDS: [res("a", "2")]}))
    hub.assign("g", {"tries"}, "trial")
    assert [len(outlet.sent) for outlet in (tries, stays)] == [2, 1]
    assert [(each.node_id, each.world, each.settled) for each in hub.members("g")] == [("stays", "g", True), ("tries", "trial", False)]
    ack(trying, tries)
    assert events[-1] == Acked(key="g", world="trial", node_id="tries", serial=2)
    assert hub.sync_state("trial", 2) == Sync(selected=1, acked=1, rejected=0, words="")
    assert hub.sync_state("g", 1) == Sync(selected=1, acked=1, rejected=0, words="")
    hub.publish("g", world(3, {CDS: [res("a")]}))
    hub.assign("g", {"tries"}, "g")
    assert len(tries.sent) == 3
    assert hub.sync_state("g", 1).selected == 2
    assert tries.end is None


def test_a_group_counts_who_has_accepted_a_snapshot_and_quotes_who_rejects_it(hub):
    outlets = [Outlet(), Outlet()]
    hub.publish("g", world(1, {CDS: [res("a")]}))
    sessions = [join(hub, outlet, f"n{number}") for number, outlet in enumerate(outlets)]
    ack(sessions[0], outlets[0])
    nonce = wire.DeltaDiscoveryResponse.FromString(outlets[1].sent[-1]).nonce
    rejection = wire.DeltaDiscoveryRequest(type_url=CDS, response_nonce=nonce)
    rejection.error_detail.message = "no such thing"
    sessions[1].received(rejection.SerializeToString())
    assert hub.sync_state("g", 1) == Sync(selected=2, acked=1, rejected=1, words="n1 rejects CDS: no such thing")
    hub.publish("g", world(2, {CDS: [res("a", "2")]}))
    ack(sessions[1], outlets[1])
    assert hub.sync_state("g", 2) == Sync(selected=2, acked=1, rejected=0, words="")
    sessions[1].closed()
    assert hub.sync_state("g", 2).selected == 1


def test_a_proxy_that_rejects_something_takes_that_along_to_another_world_and_back(hub):
    outlet = Outlet()
    hub.publish("g", world(1, {CDS: [res("a")]}))
    session = join(hub, outlet)
    nonce = wire.DeltaDiscoveryResponse.FromString(outlet.sent[-1]).nonce
    rejection = wire.DeltaDiscoveryRequest(type_url=CDS, response_nonce=nonce)
    rejection.error_detail.message = "no such thing"
    session.received(rejection.SerializeToString())
    hub.publish("trial", world(2, {CDS: [res("a")]}))  # what it rejects already: nothing is sent, and nothing is answered
    hub.assign("g", {"n"}, "trial")
    assert len(outlet.sent) == 1
    assert hub.sync_state("trial", 2) == Sync(selected=1, acked=0, rejected=1, words="n rejects CDS: no such thing")
    assert hub.sync_state("g", 1) == Sync(selected=0, acked=0, rejected=0, words="")


def test_heartbeats_of_two_worlds_never_have_the_same_nonce_on_a_stream(hub):
    outlet, leased = Outlet(), [res("a", ttl_s=3.0)]
    hub.publish("g", world(1, {CDS: leased}))
    session = join(hub, outlet)
    ack(session, outlet)
    hub.heartbeat("g", CDS, ["a"])
    ack(session, outlet)
    hub.publish("trial", world(2, {CDS: leased}))
    hub.assign("g", {"n"}, "trial")
    hub.heartbeat("trial", CDS, ["a"])
    nonces = [wire.DeltaDiscoveryResponse.FromString(sent).nonce for sent in outlet.sent]
    assert len(nonces) == len(set(nonces)) == 3


def test_proxies_of_different_zones_see_worlds_that_share_all_but_the_difference():
    hub = AdsHub(select=lambda node: f"g/{node.cluster}", events=lambda _: None, clock=lambda: 1.0)
    hub.ready()
    base = world(1, {CDS: [res("a")], EDS: [res("a", "near-east")]})
    zones = {"east": base, "west": base.replace(serial=1, changed={EDS: {"a": res("a", "near-west")}})}
    assert zones["west"].of(CDS) is base.of(CDS), "no copy of what is the same"
    for zone, snapshot in zones.items():
        hub.publish(f"g/{zone}", snapshot)
    told = {}
    for zone in zones:
        outlets = [Outlet(), Outlet()]
        for outlet in outlets:
            session = join(hub, outlet, f"{zone}-1", cluster=zone)
            session.received(wire.DeltaDiscoveryRequest(type_url=EDS, resource_names_subscribe=["a"]).SerializeToString())
        assert outlets[0].sent[1] is outlets[1].sent[1], "one encoding for a zone, not for a node"
        told[zone] = wire.DeltaDiscoveryResponse.FromString(outlets[0].sent[1]).resources[0].version
    assert told == {"east": "near-east", "west": "near-west"}
