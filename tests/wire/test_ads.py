"""The discovery services over real gRPC, spoken to by a client that knows only protobuf."""

import asyncio
import socket

import grpc
import grpc.aio
import pytest
from envoy.service.discovery.v3 import discovery_pb2 as wire

from tests.wire.discovery import DELTA, SOTW, connected, node, resource, serving, snapshot, until
from tests.wire.transports import Transport
from xds_server.adapters.grpc_transport import MAX_OUTBOX
from xds_server.core.stream import State
from xds_server.core.transport import Kind, Method, Status
from xds_server.core.types import CDS, EDS, RDS, RTDS
from xds_server.errors import ListenError
from xds_server.services.proxies import Acked, Connected, Disconnected, Nacked, Refused

pytestmark = pytest.mark.usefixtures("each_transport")


def sotw(type_url, *names, nonce="", **more):
    return wire.DiscoveryRequest(type_url=type_url, resource_names=names, response_nonce=nonce, **more)


def delta(type_url, *names, nonce="", **more):
    return wire.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, response_nonce=nonce, **more)


async def test_a_state_of_the_world_client_gets_the_world_and_its_ack_is_seen():
    async with serving() as world, connected(world, SOTW) as client:
        world.hub.publish("all", snapshot(1, CDS=[resource("a"), resource("b")]))
        await client.send(sotw(CDS, node=node()))
        answer = await client.receive()
        assert [each.value for each in answer.resources] == [b"a@1", b"b@1"]
        assert {each.type_url for each in answer.resources} == {CDS}
        assert answer.control_plane.identifier == "crossfade"
        assert world.hub.sync_state("all", 1).acked == 0
        await client.send(sotw(CDS, nonce=answer.nonce, version_info=answer.version_info))
        await until(lambda: world.hub.sync_state("all", 1).acked == 1)
        assert Acked(key="all", world="all", node_id="n1", serial=1) in world.events


async def test_a_delta_client_gets_only_what_changed():
    async with serving() as world, connected(world, DELTA) as client:
        world.hub.publish("all", snapshot(1, CDS=[resource("a"), resource("b")]))
        await client.send(delta(CDS, node=node()))
        first = await client.receive()
        assert {each.name: each.version for each in first.resources} == {"a": "1", "b": "1"}
        world.hub.publish("all", snapshot(2, CDS=[resource("a"), resource("b", "2"), resource("c")]))
        world.hub.publish("all", snapshot(3, CDS=[resource("a"), resource("b", "3")]))
        await client.send(delta(CDS, nonce=first.nonce))
        second = await client.receive()
        assert {each.name: each.version for each in second.resources} == {"b": "3"}, "what came meanwhile coalesces to the newest"
        await client.send(delta(CDS, nonce=second.nonce))
        await until(lambda: world.hub.sync_state("all", 3).acked == 1)


@pytest.mark.rule("P5", "P6")
async def test_a_nack_is_told_with_the_proxys_words_and_stays_until_content_changes():
    async with serving() as world, connected(world, DELTA) as client:
        world.hub.publish("all", snapshot(1, RDS=[resource("r", "bad")]))
        request = delta(RDS, "r", node=node())
        await client.send(request)
        answer = await client.receive()
        nack = delta(RDS, nonce=answer.nonce)
        nack.error_detail.message = "Sum of weights must be greater than 0"
        await client.send(nack)
        await until(lambda: world.hub.sync_state("all", 1).rejected == 1)
        assert "Sum of weights" in world.hub.sync_state("all", 1).words
        nacked = [event for event in world.events if isinstance(event, Nacked)]
        assert nacked == [
            Nacked(key="all", world="all", node_id="n1", type_url=RDS, message="Sum of weights must be greater than 0", resources=("r",))
        ]
        [status] = world.hub.proxies()
        assert status.types[0].state is State.ERROR
        world.hub.publish("all", snapshot(2, RDS=[resource("r", "good")]))
        good = await client.receive()
        assert good.resources[0].version == "good"
        await client.send(delta(RDS, nonce=good.nonce))
        await until(lambda: world.hub.sync_state("all", 2).acked == 1)
        assert world.hub.sync_state("all", 2).rejected == 0


async def test_two_proxies_of_a_group_get_the_very_same_bytes():
    async with serving() as world, connected(world, DELTA) as one, connected(world, DELTA) as other:
        world.hub.publish("all", snapshot(1, CDS=[resource("a")]))
        await one.send(delta(CDS, node=node("n1")))
        await other.send(delta(CDS, node=node("n2")))
        assert await one.receive_raw() == await other.receive_raw()


@pytest.mark.rule("D6")
async def test_a_leased_resource_is_prolonged_without_its_body_on_delta():
    async with serving() as world, connected(world, DELTA) as client:
        world.hub.publish("all", snapshot(1, RTDS=[resource("layer", ttl_s=3.0)]))
        await client.send(delta(RTDS, "layer", node=node()))
        answer = await client.receive()
        assert answer.resources[0].ttl.seconds == 3
        await client.send(delta(RTDS, nonce=answer.nonce))
        await until(lambda: world.hub.sync_state("all", 1).acked == 1)
        world.hub.heartbeat("all", RTDS, ["layer"])
        beat = await client.receive()
        assert beat.resources[0].name == "layer"
        assert beat.resources[0].version == "1"
        assert beat.resources[0].ttl.seconds == 3
        assert not beat.resources[0].HasField("resource")


@pytest.mark.rule("S6")
async def test_a_leased_resource_is_prolonged_whole_and_wrapped_in_the_state_of_the_world():
    async with serving() as world, connected(world, SOTW) as client:
        world.hub.publish("all", snapshot(1, RTDS=[resource("layer", ttl_s=3.0)]))
        await client.send(sotw(RTDS, "layer", node=node()))
        answer = await client.receive()
        await client.send(sotw(RTDS, "layer", nonce=answer.nonce))
        await until(lambda: world.hub.sync_state("all", 1).acked == 1)
        world.hub.heartbeat("all", RTDS, ["layer"])
        beat = await client.receive()
        wrapped = wire.Resource()
        assert beat.resources[0].Unpack(wrapped)
        assert wrapped.ttl.seconds == 3
        assert wrapped.resource.value == b"layer@1"


@pytest.mark.rule("P22")
async def test_a_stream_waits_for_the_first_world_of_its_group():
    async with serving() as world, connected(world, SOTW) as client:
        await client.send(sotw(CDS, node=node()))
        await until(world.hub.proxies)
        assert world.hub.proxies()[0].types[0].state is State.NOT_SENT
        world.hub.publish("all", snapshot(1, CDS=[resource("a")]))
        assert [each.value for each in (await client.receive()).resources] == [b"a@1"]


@pytest.mark.rule("P22")
async def test_nobody_is_let_in_before_the_state_is_loaded():
    async with serving(ready=False) as world, connected(world, SOTW) as client:
        code, details = await client.status()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "starting" in details


async def test_a_proxy_that_no_group_selects_is_told_so_and_remembered():
    async with serving() as world:
        for _ in range(2):
            async with connected(world, DELTA) as client:
                await client.send(delta(CDS, node=node("stranger", "nobody")))
                code, details = await client.status()
                assert code is grpc.StatusCode.FAILED_PRECONDITION
                assert "hint:" in details
        [refused] = world.hub.refused()
        assert (refused.node_id, refused.times) == ("stranger", 2)
        assert isinstance(world.events[0], Refused)


@pytest.mark.rule("P1", "P2")
@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\xff\xff garbage", "is no DiscoveryRequest"),
        (wire.DiscoveryRequest(type_url=CDS).SerializeToString(), "node with an id"),
        (wire.DiscoveryRequest(node=node()).SerializeToString(), "type_url is missing"),
    ],
)
async def test_a_message_that_makes_no_sense_ends_its_stream_and_no_other(message, words):
    async with serving() as world, connected(world, SOTW) as good, connected(world, SOTW) as bad:
        world.hub.publish("all", snapshot(1, CDS=[resource("a")]))
        await good.send(sotw(CDS, node=node()))
        await good.receive()
        await bad.send(message)
        code, details = await bad.status()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert words in details
        world.hub.publish("all", snapshot(2, CDS=[resource("a", "2")]))
        await good.send(sotw(CDS, nonce="1." + "0" * 12))
        assert world.hub.sync_state("all", 1).selected == 1


async def test_garbage_that_is_not_even_http_leaves_the_server_serving():
    async with serving() as world:
        reader, writer = await asyncio.open_connection(*world.address.split(":"))
        writer.write(b"GET / HTTP/1.0\r\n\r\n" + bytes(range(256)) * 64)
        await writer.drain()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        async with connected(world, DELTA) as client:
            world.hub.publish("all", snapshot(1, CDS=[resource("a")]))
            await client.send(delta(CDS, node=node()))
            assert len((await client.receive()).resources) == 1


@pytest.mark.rule("P2", "P20")
async def test_a_node_repeated_in_every_request_is_skipped_and_its_first_kept_small():
    async with serving() as world, connected(world, DELTA) as client:
        big = node(padding=600)
        assert big.ByteSize() > 20_000
        world.hub.publish("all", snapshot(1, CDS=[resource("a")]))
        await client.send(delta(CDS, node=big))
        answer = await client.receive()
        await client.send(delta(CDS, node=big, nonce=answer.nonce))
        await until(lambda: world.hub.sync_state("all", 1).acked == 1)
        [status] = world.hub.proxies()
        assert (status.node_id, status.cluster, status.version) == ("n1", "c", "1.40.0")


@pytest.mark.rule("P2")
async def test_the_node_of_the_first_request_counts_for_the_life_of_the_stream():
    async with serving() as world, connected(world, DELTA) as client:
        world.hub.publish("all", snapshot(1, CDS=[resource("a")]))
        await client.send(delta(CDS, node=node("n1")))
        answer = await client.receive()
        await client.send(delta(CDS, node=node("another", "nobody"), nonce=answer.nonce))
        await until(lambda: world.hub.sync_state("all", 1).acked == 1)
        assert [each.node_id for each in world.hub.proxies()] == ["n1"]


@pytest.mark.rule("P1")
@pytest.mark.parametrize(
    ("method", "first"), [("StreamEndpoints", sotw("", "e", node=node())), ("DeltaEndpoints", delta("", "e", node=node()))]
)
async def test_a_per_type_service_implies_its_type(method, first):
    async with serving() as world, connected(world, f"/envoy.service.endpoint.v3.EndpointDiscoveryService/{method}") as client:
        world.hub.publish("all", snapshot(1, EDS=[resource("e")], CDS=[resource("c")]))
        await client.send(first)
        answer = await client.receive()
        assert answer.type_url == EDS
        assert len(answer.resources) == 1


@pytest.mark.rule("P1")
async def test_a_per_type_service_refuses_another_type():
    async with serving() as world, connected(world, "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints") as client:
        await client.send(sotw(CDS, node=node()))
        code, details = await client.status()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "does not belong to this service" in details


async def test_events_tell_who_came_and_went():
    async with serving() as world:
        async with connected(world, DELTA) as client:
            await client.send(delta(CDS, node=node()))
            await until(world.hub.proxies)
        await until(lambda: not world.hub.proxies())
        assert [type(event) for event in world.events] == [Connected, Disconnected]


async def test_a_group_that_is_withdrawn_sends_its_proxies_away_to_come_back():
    async with serving() as world, connected(world, DELTA) as client:
        world.hub.publish("all", snapshot(7, CDS=[resource("a")]))
        await client.send(delta(CDS, node=node()))
        await client.receive()
        world.hub.withdraw("all")
        assert (await client.status())[0] is grpc.StatusCode.UNAVAILABLE
        world.hub.publish("all", snapshot(1, CDS=[resource("a")]))


async def test_a_port_in_use_is_a_clear_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"cannot listen on {address}: Address already in use; hint"):
            await Transport(()).serve(address)


@pytest.mark.parametrize("address", ["18000", "127.0.0.1:http", "203.0.113.1:18000", "127.0.0.1:99999"])
async def test_an_address_that_cannot_be_listened_on_is_a_clear_error(address):
    with pytest.raises(ListenError, match=f"cannot listen on {address}: "):
        await Transport(()).serve(address)


class Probe:
    """A service that does what a test tells it."""

    def __init__(self, received):
        self.outlets, self.closed_count, self._received = [], 0, received

    def __call__(self, outlet):
        self.outlets.append(outlet)
        probe = self

        class Session:
            def received(self, message):
                probe._received(outlet, message)

            def closed(self):
                probe.closed_count += 1

        return Session()


async def call(transport, path, messages):
    port = await transport.serve("127.0.0.1:0")
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    stream = channel.stream_stream(path)()
    for message in messages:
        await stream.write(message)
    return channel, stream


async def test_a_peer_that_does_not_read_is_cut_off_without_growing():
    def flood(outlet, _):
        for _ in range(MAX_OUTBOX + 10):
            outlet.send(bytes(1_000_000))

    probe = Probe(flood)
    transport = Transport([Method(path="/t.T/Flood", service=probe)])
    channel, stream = await call(transport, "/t.T/Flood", [b"go"])
    assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await until(lambda: probe.closed_count == 1)
    await channel.close()
    await transport.stop(0.1)


async def test_a_fault_of_a_session_ends_its_stream_alone():
    def fail(outlet, message):
        if message == b"bad":
            raise RuntimeError("a bug")
        outlet.send(b"answer")

    probe = Probe(fail)
    transport = Transport([Method(path="/t.T/M", service=probe)])
    channel, stream = await call(transport, "/t.T/M", [b"bad"])
    assert await stream.code() is grpc.StatusCode.INTERNAL
    other = channel.stream_stream("/t.T/M")()
    await other.write(b"good")
    assert await other.read() == b"answer"
    await channel.close()
    await transport.stop(0.1)
    await until(lambda: probe.closed_count == 2)


async def test_a_unary_method_answers_once_and_an_unknown_path_is_unimplemented():
    def answer(outlet, message):
        outlet.send(message.upper())
        outlet.finish()

    transport = Transport([Method(path="/t.T/One", service=Probe(answer), kind=Kind.UNARY)])
    port = await transport.serve("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary("/t.T/One")(b"hello") == b"HELLO"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/Two")(b"hello")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await transport.stop(0.1)


async def test_what_was_sent_before_the_end_arrives_before_it():
    def end(outlet, _):
        for number in range(5):
            outlet.send(bytes([number]))
        outlet.finish(Status.ABORTED, "enough")
        outlet.send(b"too late")

    transport = Transport([Method(path="/t.T/M", service=Probe(end))])
    channel, stream = await call(transport, "/t.T/M", [b"go"])
    assert [await stream.read() for _ in range(5)] == [bytes([number]) for number in range(5)]
    assert (await stream.code(), await stream.details()) == (grpc.StatusCode.ABORTED, "enough")
    await channel.close()
    await transport.stop(0.1)


async def test_stopping_sends_the_peers_away_as_unavailable():
    probe = Probe(lambda outlet, message: outlet.send(message))
    transport = Transport([Method(path="/t.T/M", service=probe)])
    channel, stream = await call(transport, "/t.T/M", [b"go"])
    assert await stream.read() == b"go"
    await transport.stop()
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    assert probe.closed_count == 1
    await channel.close()
