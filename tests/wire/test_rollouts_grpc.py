"""The control API over real gRPC: typed answers, status codes, watching, health and reflection."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.cli.control import FakeControl, record, status
from tests.rig import free_port
from xds_server._pb.crossfade.v1 import rollouts_pb2 as pb
from xds_server.errors import ListenError
from xds_server.runtime.web import GrpcApi
from xds_server.services import rollouts_grpc
from xds_server.services.control import VERBS, ActError, Fault


@pytest.fixture
def control():
    return FakeControl()


@asynccontextmanager
async def serving(control):
    api = GrpcApi(control, f"127.0.0.1:{free_port()}")
    port = api.bind()
    task = asyncio.create_task(api.serve())
    try:
        yield f"127.0.0.1:{port}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def channel(control):
    async with serving(control) as address, grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
        yield channel


def call(channel, method, request, answer):
    made = channel.unary_unary(
        f"/crossfade.v1.Rollouts/{method}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
    )
    return made(request, timeout=20)


async def failed(channel, method, request, answer, code):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, method, request, answer)
    assert error.value.code() is code
    return error.value.details()


async def test_a_rollout_comes_in_types(channel, control):
    control.states["chat"]["policy"] = {"file": "chat.yaml", "source": "file:///repo", "commit": "3f9a"}
    found = await call(channel, "Get", pb.GetRequest(name="chat"), pb.Rollout)
    assert (found.phase, found.generation, found.stable.version) == ("running", 3, "llama-3-8b-fp16")
    assert [(arm.name, arm.share, arm.ready) for arm in found.variants] == [("candidate", 0.05, 2)]
    assert dict(found.weights) == {"stable": 9507, "candidate": 500, "total": 10007}
    assert found.step.since.ToJsonString() == "2026-01-01T00:00:00Z"
    assert found.step.waiting_for[0].need == 500
    (gate,) = found.gates
    assert (gate.verdict, gate.interval.upper, gate.estimate.candidate, gate.samples.stable) == ("INCONCLUSIVE", 0.009, 0.004, 6021)
    assert (found.lease.held, found.proxies.acked, found.policy.commit) == (True, 2, "3f9a")


async def test_what_is_not_known_is_not_set(channel, control):
    gate = control.states["chat"]["gates"][0]
    gate.update(evidence=None, interval=[None, 0.5], reading_age_s=None)
    control.states["chat"].update(step=None, because="half a pair \ud800")
    found = await call(channel, "Get", pb.GetRequest(name="chat"), pb.Rollout)
    assert not found.HasField("step")
    assert not found.gates[0].HasField("evidence")
    assert not found.gates[0].interval.HasField("lower")
    assert found.because == "half a pair ?"


async def test_all_rollouts_come_with_the_faults_of_the_files(channel, control):
    control.states["search"] = status("search", gates=[{"interval": None}])
    control.errors = [{"file": "a.yaml", "line": 3, "column": 1, "path": "", "message": "broken", "expected": "", "hint": ""}]
    found = await call(channel, "List", pb.ListRequest(), pb.ListResponse)
    assert [each.name for each in found.rollouts] == ["chat", "search"]
    assert (found.policy_errors[0].file, found.policy_errors[0].line) == ("a.yaml", 3)


def test_every_verb_has_its_number():
    assert [name.lower() for name, number in pb.Verb.items() if number] == list(VERBS)


async def test_an_act_reaches_the_control_with_all_it_says(channel, control):
    request = pb.ActRequest(name="chat", verb=pb.ROLLBACK, reason=" two\n lines ", idempotency_key="k1", to="v0", dry_run=True)
    done = await call(channel, "Act", request, pb.Record)
    assert (done.decision, done.facts["by"], done.dry_run, dict(done.shares)) == ("reverted", "tester", True, {"candidate": 0.0})
    wanted = {
        "name": "chat",
        "verb": "rollback",
        "reason": "two lines",
        "actor": "api",
        "idempotency_key": "k1",
        "to": "v0",
        "dry_run": True,
    }
    assert control.acts == [wanted]


@pytest.mark.parametrize(
    "request_",
    [
        pb.ActRequest(name="chat"),
        pb.ActRequest(name="chat", verb=99),
        pb.ActRequest(name="Chat", verb=pb.ABORT),
        pb.ActRequest(name="chat", verb=pb.ABORT, actor="a\0b"),
        pb.ActRequest(name="chat", verb=pb.ABORT, reason="x" * 2001),
    ],
)
async def test_an_act_that_makes_no_sense_does_nothing(channel, control, request_):
    await failed(channel, "Act", request_, pb.Record, grpc.StatusCode.INVALID_ARGUMENT)
    assert control.acts == []


def test_no_fault_is_without_a_status():
    assert set(rollouts_grpc.STATUS) == set(Fault)


async def test_a_refusal_says_what_the_engine_says(channel, control):
    control.refuse = ActError(Fault.REFUSED, "nothing to approve", hint="look first")
    words = await failed(channel, "Act", pb.ActRequest(name="chat", verb=pb.APPROVE), pb.Record, grpc.StatusCode.FAILED_PRECONDITION)
    assert words == "nothing to approve; hint: look first"


async def test_what_is_not_there_is_not_found(channel):
    for method, request, answer in (
        ("Get", pb.GetRequest(name="nope"), pb.Rollout),
        ("History", pb.HistoryRequest(name="nope"), pb.HistoryResponse),
        ("Act", pb.ActRequest(name="nope", verb=pb.ABORT), pb.Record),
    ):
        assert "'nope'" in await failed(channel, method, request, answer, grpc.StatusCode.NOT_FOUND)


async def test_history_and_proxies_answer_in_types(channel, control):
    control.records["chat"] = [record("started"), record("advanced", step="canary 5%")]
    control.nodes = [{"node": "edge-1", "types": [{"type": "RDS", "sync": "SYNCED", "acked_age_s": None}], "refused": None, "times": None}]
    told = await call(channel, "History", pb.HistoryRequest(name="chat", last=1), pb.HistoryResponse)
    assert [each.decision for each in told.history] == ["advanced"]
    found = await call(channel, "Proxies", pb.ProxiesRequest(node="edge-*"), pb.ProxiesResponse)
    assert (found.proxies[0].node, found.proxies[0].types[0].sync) == ("edge-1", "SYNCED")
    assert dict(found.groups[0].select.metadata) == {"zone": "a"}
    for last in (-1, 1001):
        await failed(channel, "History", pb.HistoryRequest(name="chat", last=last), pb.HistoryResponse, grpc.StatusCode.INVALID_ARGUMENT)
    await failed(channel, "Proxies", pb.ProxiesRequest(node="*" * 600), pb.ProxiesResponse, grpc.StatusCode.INVALID_ARGUMENT)


def watching(channel):
    return channel.unary_stream(
        "/crossfade.v1.Rollouts/Watch",
        request_serializer=pb.WatchRequest.SerializeToString,
        response_deserializer=pb.ListResponse.FromString,
    )(pb.WatchRequest(), timeout=60)


async def test_a_watch_tells_each_change(channel, control):
    watch = watching(channel)
    assert (await watch.read()).rollouts[0].phase == "running"
    control.change(phase="holding")
    assert (await watch.read()).rollouts[0].phase == "holding"
    watch.cancel()


async def test_watchers_are_bounded_and_let_go_of(channel, monkeypatch):
    monkeypatch.setattr(rollouts_grpc, "WATCHERS_MAX", 1)
    first, second = watching(channel), watching(channel)
    await first.read()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await second.read()
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()
    async with asyncio.timeout(20):
        while True:
            again = watching(channel)
            try:
                await again.read()
                break
            except grpc.aio.AioRpcError:
                continue
    again.cancel()


async def test_health_is_the_control_planes(channel, control):
    stub = health_pb2_grpc.HealthStub(channel)

    async def until(wanted):
        async with asyncio.timeout(20):
            while (await stub.Check(health_pb2.HealthCheckRequest(service=rollouts_grpc.SERVICE))).status != wanted:
                pass

    await until(health_pb2.HealthCheckResponse.SERVING)
    control.waiting_for = ("the store: locked",)
    control.change()
    await until(health_pb2.HealthCheckResponse.NOT_SERVING)


async def test_a_client_without_our_files_learns_the_service_by_reflection(control):
    def describe(address):
        with grpc.insecure_channel(address) as plain:
            database = ProtoReflectionDescriptorDatabase(plain)
            service = DescriptorPool(database).FindServiceByName(rollouts_grpc.SERVICE)
            return set(database.get_services()), [method.name for method in service.methods]

    async with serving(control) as address:
        services, methods = await asyncio.wait_for(asyncio.to_thread(describe, address), 20)
    assert {rollouts_grpc.SERVICE, "grpc.health.v1.Health"} <= services
    assert methods == ["List", "Get", "Watch", "Act", "History", "Proxies"]


async def test_a_port_that_is_taken_is_said_at_the_start(control):
    async with serving(control) as address:
        with pytest.raises(ListenError, match="--api-grpc"):
            GrpcApi(control, address).bind()
