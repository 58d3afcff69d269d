"""What the public xDS conformance harness asks of a control plane, in our own words and stricter: 98 scenarios over real connections.

Each scenario says exactly what each response holds, where the harness is content if what it looks for is among what came. The four
sections are the variants (state of the world, incremental) over services of one type and over the aggregated one. The harness leaves out
rejections, stale nonces, reconnects, changes between wildcard and names, order and lifetimes: `test_ads.py` and the unit tests have those.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from tests.rig import free_port
from tests.wire.conversation import Conversation, conversation
from tests.xds_adapter import BARE, SERVICE, running, wire
from xds_server.core.facts import Variant
from xds_server.core.types import CDS

ROOT = Path(__file__).parents[2]
SOTW, DELTA = Variant.SOTW, Variant.DELTA


async def a_wildcard_client_gets_everything_at_once(talk: Conversation, one: str):
    await talk.given("A,B,C")
    await talk.subscribe(one)
    await talk.expect(one, "A,B,C", version="1")
    await talk.nothing_more(one)


async def a_wildcard_client_gets_the_whole_world_again_when_one_resource_changes(talk: Conversation, one: str):
    await talk.given("A,B,C")
    await talk.subscribe(one)
    await talk.expect(one, "A,B,C", version="1")
    await talk.update(one, "A", version="2")
    await talk.expect(one, "A,B,C", version="2")
    await talk.nothing_more(one)


async def a_wildcard_client_gets_the_whole_world_again_when_a_resource_is_added(talk: Conversation, one: str):
    await talk.given("A,B,C")
    await talk.subscribe(one)
    await talk.expect(one, "A,B,C", version="1")
    await talk.add(one, "D", version="2")
    await talk.expect(one, "A,B,C,D", version="2")
    await talk.nothing_more(one)


async def a_client_gets_the_resources_it_names_and_no_others(talk: Conversation, one: str):
    await talk.given("A,B,C,D")
    await talk.subscribe(one, "D,B")
    await talk.expect(one, "B,D", version="1")
    await talk.nothing_more(one)


async def all_named_resources_come_in_one_response_when_one_changes(talk: Conversation, one: str):
    await talk.given("A,B,C,D")
    await talk.subscribe(one, "B,D")
    await talk.expect(one, "B,D", version="1")
    await talk.update(one, "B", version="2")
    await talk.expect(one, "B,D", version="2")
    await talk.nothing_more(one)


async def only_the_changed_resource_comes_of_several_that_were_named(talk: Conversation, one: str):
    await talk.given("A,B,C,D")
    await talk.subscribe(one, "B,D")
    await talk.expect(one, "B,D", version="1")
    await talk.update(one, "B", version="2")
    await talk.expect(one, "B", version="2")
    await talk.nothing_more(one)


async def a_missing_resource_comes_with_the_other_named_ones_when_it_is_created(talk: Conversation, one: str):
    await talk.given("A,B,C")
    await talk.subscribe(one, "A,Z")
    await talk.expect(one, "A", version="1")
    await talk.add(one, "Z", version="2")
    await talk.expect(one, "A,Z", version="2")
    await talk.nothing_more(one)


async def a_missing_resource_comes_alone_when_it_is_created(talk: Conversation, one: str):
    await talk.given("A,B,C")
    await talk.subscribe(one, "A,Z")
    await talk.expect(one, "A", version="1")
    await talk.add(one, "Z", version="2")
    await talk.expect(one, "Z", version="2")
    await talk.nothing_more(one)


async def names_left_out_of_a_request_are_not_sent_again(talk: Conversation, one: str):
    await talk.given("A,B,C,D")
    await talk.subscribe(one, "A,B,C")
    await talk.expect(one, "A,B,C", version="1")
    await talk.unsubscribe(one, "B,C")
    await talk.update(one, "B", version="2")
    await talk.update(one, "A", version="3")
    await talk.expect(one, "A", version="3")
    await talk.nothing_more(one)


async def a_client_that_wants_no_name_any_more_is_left_alone(talk: Conversation, one: str):
    await talk.given("A,B,C,D")
    await talk.subscribe(one, "A,B")
    await talk.expect(one, "A,B", version="1")
    await talk.unsubscribe(one, "A,B", blank=True)
    if talk.whole(one):  # the blank is a name like any other, and this is how the state of the world says that it does not exist
        await talk.expect(one, version="1")
    await talk.update(one, "B", version="2")
    await talk.nothing_more(one)


async def two_types_on_one_stream_do_not_touch_each_other(talk: Conversation, one: str, other: str):
    await talk.given("A,B,C")
    await talk.subscribe(one, "B")
    await talk.expect(one, "B", version="1")
    await talk.subscribe(other, "B")
    await talk.expect(other, "B", version="1")
    await talk.update(one, "B", version="2")
    await talk.expect(one, "B", version="2")
    await talk.nothing_more(other)
    await talk.nothing_more(one)


async def names_subscribed_one_after_the_other_are_answered_one_by_one(talk: Conversation, one: str):
    await talk.given("A,B,C")
    await talk.subscribe(one, "A")
    await talk.expect(one, "A", version="1")
    await talk.subscribe(one, "B")
    await talk.expect(one, "B", version="1")
    await talk.nothing_more(one)


async def a_changed_resource_comes_without_those_that_did_not_change(talk: Conversation, one: str):
    await talk.given("A,B,C")
    await talk.subscribe(one, "A,B,C")
    await talk.expect(one, "A,B,C", version="1")
    await talk.update(one, "A", version="2")
    await talk.expect(one, "A", version="2")
    await talk.nothing_more(one)


async def a_client_is_told_what_does_not_exist_and_gets_it_once_it_does_even_at_the_same_version(talk: Conversation, one: str):
    await talk.given("A")
    await talk.subscribe(one, "A,B")
    await talk.expect(one, "A", version="1", removed="B")
    await talk.add(one, "B", version="1")
    await talk.expect(one, "B", version="1")
    await talk.nothing_more(one)


async def a_client_is_told_of_a_removal_and_gets_the_resource_when_it_is_back(talk: Conversation, one: str):
    await talk.given("A,B")
    await talk.subscribe(one, "A,B")
    await talk.expect(one, "A,B", version="1")
    await talk.remove(one, "B")
    await talk.expect(one, version="1", removed="B")
    await talk.add(one, "B", version="2")
    await talk.expect(one, "B", version="2")
    await talk.nothing_more(one)


async def names_unsubscribed_one_after_the_other_are_not_sent_again(talk: Conversation, one: str):
    await talk.given("A,B")
    await talk.subscribe(one, "A,B")
    await talk.expect(one, "A,B", version="1")
    await talk.unsubscribe(one, "B")
    await talk.update(one, "B", version="2")
    await talk.unsubscribe(one, "A")
    await talk.update(one, "A", version="3")
    await talk.nothing_more(one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    story: Callable
    services: tuple[str, ...]
    variant: Variant
    aggregated: bool

    def __str__(self) -> str:
        where = "aggregated" if self.aggregated else "separate"
        return f"{self.variant.value}-{where}-{'+'.join(self.services)}-{self.story.__name__}"


WORLDS, NAMED, ALL, PAIRS = ("CDS", "LDS"), ("RDS", "EDS"), ("CDS", "LDS", "RDS", "EDS"), ("CDS LDS", "RDS EDS")
BOTH_WAYS = (*PAIRS, "LDS CDS", "EDS RDS")
TABLE: tuple[tuple[Variant, Callable, tuple[str, ...]], ...] = (
    (SOTW, a_wildcard_client_gets_everything_at_once, WORLDS),
    (SOTW, a_wildcard_client_gets_the_whole_world_again_when_one_resource_changes, WORLDS),
    (SOTW, a_wildcard_client_gets_the_whole_world_again_when_a_resource_is_added, WORLDS),
    (SOTW, a_client_gets_the_resources_it_names_and_no_others, ("LDS", "RDS")),
    (SOTW, all_named_resources_come_in_one_response_when_one_changes, WORLDS),
    (SOTW, only_the_changed_resource_comes_of_several_that_were_named, NAMED),
    (SOTW, a_missing_resource_comes_with_the_other_named_ones_when_it_is_created, WORLDS),
    (SOTW, a_missing_resource_comes_alone_when_it_is_created, NAMED),
    (SOTW, names_left_out_of_a_request_are_not_sent_again, ALL),
    (SOTW, a_client_that_wants_no_name_any_more_is_left_alone, ALL),
    (SOTW, two_types_on_one_stream_do_not_touch_each_other, PAIRS),
    (DELTA, a_client_gets_the_resources_it_names_and_no_others, ("LDS", "RDS")),
    (DELTA, names_subscribed_one_after_the_other_are_answered_one_by_one, ALL),
    (DELTA, a_changed_resource_comes_without_those_that_did_not_change, ALL),
    (DELTA, a_client_is_told_what_does_not_exist_and_gets_it_once_it_does_even_at_the_same_version, ALL),
    (DELTA, a_client_is_told_of_a_removal_and_gets_the_resource_when_it_is_back, ALL),
    (DELTA, names_unsubscribed_one_after_the_other_are_not_sent_again, ALL),
    (DELTA, two_types_on_one_stream_do_not_touch_each_other, BOTH_WAYS),
)
"""Variant, story, services; a pair needs the aggregated service, everything else runs over both."""

CASES = tuple(
    Case(story=story, services=tuple(services.split()), variant=variant, aggregated=aggregated)
    for variant, story, rows in TABLE
    for services in rows
    for aggregated in (False, True)
    if aggregated or " " not in services
)


def test_the_table_has_the_four_sections_in_full():
    sections = Counter((case.variant, case.aggregated) for case in CASES)
    assert sections == {(SOTW, False): 24, (SOTW, True): 26, (DELTA, False): 22, (DELTA, True): 26}


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_conformance(case: Case):
    async with conversation(variant=case.variant, aggregated=case.aggregated) as talk:
        await case.story(talk, *case.services)


async def test_the_adapter_says_what_it_did_and_refuses_what_it_does_not_know():
    async with running() as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports.adapter}") as channel:

        async def call(verb, answer, **fields):
            request = wire.ResourceRequest(node="test-id", **fields)
            return answer.FromString(await channel.unary_unary(SERVICE + verb)(request.SerializeToString()))

        known = {"typeUrl": CDS, "resourceName": "A", "version": "1"}
        assert (await call("AddResource", wire.AddResourceResponse, **known)).success
        assert (await call("RemoveResource", wire.RemoveResourceResponse, **known)).success
        assert not (await call("RemoveResource", wire.RemoveResourceResponse, **known)).success
        with pytest.raises(grpc.aio.AioRpcError, match="no such message or type") as refused:
            await call("AddResource", wire.AddResourceResponse, typeUrl="nonsense", resourceName="A", version="1")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_adapter_runs_as_a_process_of_its_own():
    ports = [free_port() for _ in range(2)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    command = [sys.executable, "-m", "tests.xds_adapter", "--adapter", addresses[0], "--xds", addresses[1], "--delay", "1"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    try:
        async with asyncio.timeout(30), grpc.aio.insecure_channel(addresses[0]) as adapter, grpc.aio.insecure_channel(addresses[1]) as xds:
            assert await process.stdout.readline() == f"adapter on port {ports[0]}, xDS on port {ports[1]}\n".encode()
            state = wire.SetStateRequest(
                node="n", version="7", resources=[{"type_url": CDS, "value": BARE[CDS]("A", "").SerializeToString()}]
            )
            await adapter.unary_unary(SERVICE + "SetState")(state.SerializeToString())
            call = xds.stream_stream("/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters")()
            await call.write(DiscoveryRequest(node={"id": "n"}).SerializeToString())
            assert DiscoveryResponse.FromString(await call.read()).version_info == "7"
            process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()
