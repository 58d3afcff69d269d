"""Policies beside each other, policies from git, and a crash in the middle: the whole server, a real Envoy, counted at the backends."""

import asyncio
import time

import grpc
import pytest
import yaml

from tests.repository import QUIET, Repository
from tests.rig import Backend, Client, binomial_band, until
from tests.stage import Stage, endpoints, rollout

pytestmark = pytest.mark.timeout(180)

LONG = {"for": "1h"}
HALF = [{"canary": {"shares": ["50%"], "hold": LONG}}]
METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Inference(grpc.GenericRpcHandler):
    """A gRPC service with one method, answered with the version's name."""

    def __init__(self, version):
        self.version = version
        self.calls = 0
        self.port = 0

    def service(self, details):
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, _request, _context):
        self.calls += 1
        return self.version.encode()

    async def __aenter__(self):
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_):
        await self._server.stop(0)

    @property
    def variant(self):
        return {"version": self.version, "endpoints": {"static": [f"127.0.0.1:{self.port}"]}, "pods": {"protocol": "http2"}}


def traffic(*matches, **more):
    return {"proxies": "edge", "listener": "public", "match": list(matches), "timeout": "30s", **more}


async def test_each_request_reaches_the_rollout_that_owns_it_and_the_rest_the_default_route(tmp_path):
    """Several rollouts on one listener, told apart by host, path, header and gRPC service, each with a release of its own."""
    async with (
        Backend(name="v1") as chat,
        Backend(name="v2") as next_chat,
        Backend(name="beta") as beta,
        Backend(name="search") as search,
        Backend(name="legacy") as legacy,
        Inference("yolo-11") as yolo11,
        Inference("yolo-12") as yolo12,
        Stage(tmp_path) as stage,
    ):
        tester = {"host": "chat.test", "path_prefix": "/v1/", "headers": [{"header": "x-beta", "present": True}]}
        detect = {"stable": yolo11.variant, "candidate": yolo12.variant}
        documents = (
            rollout(chat, next_chat, traffic=traffic({"host": "chat.test", "path_prefix": "/v1/"}), steps=HALF, gates=[]),
            rollout(beta, name="beta", traffic=traffic(tester), steps=[]),
            rollout(search, name="search", traffic=traffic({"host": "*.search.test"}), steps=[]),
            rollout(name="detect", variants=detect, traffic=traffic({"grpc": "inference.GRPCInferenceService"}), steps=HALF, gates=[]),
        )
        stage.write(stage.proxies(default={"endpoints": endpoints(legacy)}), *documents)
        await stage.start_server()
        await stage.add_envoy("edge-0")
        async with Client(stage.port, host="chat.test") as client:
            await asyncio.gather(stage.share(0.5), stage.share(0.5, "detect"))

            async def answered(number=20, **request):
                replies = await client.burst(number, **request)
                assert not [reply for reply in replies if reply.failure]
                return {reply.variant for reply in replies}

            assert await answered(path="/v1/chat") == {"v1", "v2"}
            assert await answered(path="/v1/chat", headers={"x-beta": "yes"}) == {"beta"}
            assert await answered(path="/v2/chat") == {"legacy"}
            assert await answered(path="/v1/chat", host="eu.search.test") == {"search"}
            assert await answered(path="/", host="nobody.test") == {"legacy"}
            async with grpc.aio.insecure_channel(f"127.0.0.1:{stage.port}") as channel:
                call = channel.unary_unary(METHOD)
                names = [await call(b"image", timeout=20) for _ in range(60)]
            assert set(names) == {b"yolo-11", b"yolo-12"}
            assert (yolo11.calls, yolo12.calls) == (names.count(b"yolo-11"), names.count(b"yolo-12"))
            await stage.act("abort", "detect")
            await stage.phase("reverted", name="detect")
            assert await answered(path="/v1/chat") == {"v1", "v2"}


async def test_a_commit_starts_a_release_and_a_broken_push_keeps_the_last_good_one(tmp_path, monkeypatch):
    for name, value in {**QUIET, "CROSSFADE_POLICIES_POLL": "1s"}.items():
        monkeypatch.setenv(name, value)
    repository = Repository(tmp_path / "work")
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path / "stage") as stage:
        stage.write(stage.proxies())
        repository.file("policies/proxies.yaml", yaml.safe_dump(stage.proxies()))
        repository.file("policies/chat.yaml", yaml.safe_dump(rollout(v1)))
        first = repository.commit()
        stage.source = f"{repository.url}#main:policies"
        await stage.start_server()
        await stage.add_envoy("edge-0")
        async with Client(stage.port) as client:
            await stage.serving(client)

            async def at(commit, generation):
                status = await stage.status()
                return status["policy"]["commit"] == commit and status["generation"] == generation

            assert await at(first, 0)
            repository.file("policies/chat.yaml", yaml.safe_dump(rollout(v1, v2, steps=HALF, gates=[])))
            second = repository.commit()
            await stage.share(0.5)
            assert await at(second, 1)

            repository.file("policies/search.yaml", yaml.safe_dump(rollout(v1, name="search", traffic=traffic({"host": "search.test"}))))
            repository.commit()

            async def added():
                return await stage.status("search")

            await until(added, "the other rollout")
            assert await at(second, 1)
            await stage.share(0.5)

            repository.file("policies/chat.yaml", "apiVersion: crossfade/v1\nkind: Rollout\nmetadata: {name: chat}\nspec: {nonsense: 1}\n")
            repository.commit("--amend")

            async def told():
                return (await stage.status())["policy_errors"]

            await until(told, "the error in the status")
            assert await at(second, 1)
            await stage.share(0.5)
            replies = await client.burst(1000)
            assert not [reply for reply in replies if reply.failure]
            low, high = binomial_band(1000, 0.5)
            assert low <= sum(reply.variant == "v2" for reply in replies) <= high

            repository.git("reset", "--quiet", "--hard", first)
            await stage.phase("reverted", "idle")
            await stage.share(0.0)
            assert {reply.variant for reply in await client.burst(200)} == {"v1"}
            assert not await told()


WAITING = {
    "approve": ([{"canary": {"shares": ["30%"]}}, {"approve": {"within": "1h"}}, {"canary": {"shares": ["60%"], "hold": LONG}}], 1),
    "ab": ([{"ab": {"shares": {"candidate": "30%"}, "goal": "faster", "at_most": "1h", "hold": LONG}}], 0),
}
FASTER = {"name": "faster", "metric": "envoy/latency", "statistic": "p50", "role": "goal", "better_by": {"relative": "50%"}}


@pytest.mark.parametrize("kind", WAITING)
async def test_a_server_killed_while_it_waits_goes_on_waiting_where_it_was(tmp_path, kind):
    """Between the two the lease runs out and users are on stable; what was served of the hold is not served again."""
    steps, index = WAITING[kind]
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=steps, gates=[FASTER] if kind == "ab" else []))

        async def waited(least=0.0):
            """The status, once it stands there and has served so much of its hold."""
            status = await stage.status()
            at = status.get("step")
            if at is None or (at["index"], at["kind"]) != (index, kind):
                return None
            held = {item["kind"]: item["have"] for item in at["waiting_for"]}.get("time", 0.0)
            return (status, held) if kind == "approve" or held >= least else None

        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.share(0.3)
            async with client.load(60) as load:
                await until(lambda: load.by_variant()["v2"] >= 10)
                before, held = await until(lambda: waited(2.0), "the stage")
                await stage.kill_server()
                # The lease of 3 s ends, and nobody is sent to the candidate any more.
                await until(lambda: time.time() - v2.last_at > 2.0, "the lease to run out")
                alone = time.time()
                await until(lambda: len(load.since(alone)) > 60)
                assert set(load.by_variant(since=alone)) == {"v1"}
                await stage.start_server()
                after, held_after = await until(waited, "the stage after the restart")
                assert after["generation"] == before["generation"]
                assert held_after >= held - 1.5
                await stage.share(0.3)
                if kind == "approve":
                    assert (await stage.phase("waiting_approval"))["step"]["index"] == index
                    assert "error" not in await stage.act("approve")
                    await stage.share(0.6)
            assert not load.failures
