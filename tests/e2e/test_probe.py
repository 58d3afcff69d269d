"""Probe, freeze and the source of the evidence in the whole server with a real Envoy: no user meets an arm that was not asked first."""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass

import yaml

from policies import wish
from policies.rollout import Mode
from tests.real_envoy import Envoy
from tests.rig import Backend, Client, free_port, until
from tests.wire.transports import Transport
from xds_server.adapters.probing import PROBE_HEADER
from xds_server.adapters.store_memory import MemoryStore
from xds_server.config import ServeConfig
from xds_server.resources.bootstrap import bootstrap
from xds_server.runtime import watch
from xds_server.runtime.server import Server

NOWHERE = "127.0.0.1:0"
LONG = {"for": "1h", "samples": 1_000_000}
CHAT = {"path": "/v1/chat", "body": {"model": "m"}}


def rollout(stable, candidate, steps, **spec):
    return {
        "apiVersion": "crossfade/v1",
        "kind": "Rollout",
        "metadata": {"name": "chat"},
        "spec": {
            "traffic": {"proxies": "edge", "listener": "public", "match": [{"host": "chat.test"}]},
            "variants": {
                "stable": {"version": "v1", "endpoints": {"static": [stable.address]}},
                "candidate": {"version": "v2", "endpoints": {"static": [candidate.address]}},
            },
            "steps": steps,
            "gates": [{"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "5%"}}],
            **spec,
        },
    }


@dataclass
class Whole:
    """The whole server in this process; with `start` again on the same store and policies, as after a crash."""

    folder: object
    store: MemoryStore
    port: int = 0
    client_port: int = 0
    deaf: bool = False
    """Takes no access log."""

    def write(self, document):
        (self.folder / "chat.yaml").write_text(yaml.safe_dump(document))

    @contextlib.asynccontextmanager
    async def running(self):
        self.server = server = Server(ServeConfig(policies=self.folder, store="memory:", xds=NOWHERE, api=NOWHERE), self.store)
        transport = Transport(tuple(each for each in server.methods() if not (self.deaf and "accesslog" in each.path)))
        self.port = await transport.serve(f"127.0.0.1:{self.port}")
        await server.start()
        loops = (server.conductor.run, server.tick_loop, server.probe_loop, server.watch_loop, server.lease_loop, server.trial_loop)
        tasks = [asyncio.create_task(work()) for work in (*loops, server.evidence_loop)]
        try:
            yield server
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await transport.stop(0.0)
            await server.conductor.checkpoint()
            assert all(isinstance(each, asyncio.CancelledError) for each in results), results

    @property
    def state(self):
        return self.server.conductor.entries["chat"].state

    async def until(self, condition, what=""):
        try:
            return await until(lambda: condition(self.state), what)
        except AssertionError:
            raise AssertionError(f"{what}: {self.state}") from None


@contextlib.asynccontextmanager
async def whole(tmp_path, document, **more):
    folder = tmp_path / "policies"
    folder.mkdir()
    listener = {"name": "public", "address": "127.0.0.1", "port": free_port()}
    spec = {"select": {"cluster": "edge"}, "listeners": [listener]}
    (folder / "edge.yaml").write_text(
        yaml.safe_dump({"apiVersion": "crossfade/v1", "kind": "Proxies", "metadata": {"name": "edge"}, "spec": spec})
    )
    (folder / "chat.jsonl").write_text(json.dumps(CHAT) + "\n")
    made = Whole(folder=folder, store=MemoryStore(), port=free_port(), client_port=listener["port"], **more)
    made.write(document)
    config = bootstrap(node_id="edge-1", cluster="edge", xds_host="127.0.0.1", xds_port=made.port, admin_port=(admin := free_port()))
    async with made.running(), Envoy(config, tmp_path, admin_port=admin):
        yield made


async def test_every_request_of_the_probe_is_answered_before_a_user_meets_the_arm(tmp_path):
    async with Backend(name="v1") as stable, Backend(name="v2") as candidate:
        steps = [{"probe": {"requests": "chat.jsonl", "rate": "50/s", "for": "2s"}}, {"canary": {"shares": ["50%"], "hold": LONG}}]
        async with whole(tmp_path, rollout(stable, candidate, steps)) as plane, Client(plane.client_port, host="chat.test") as client:
            async with client.load(50.0):
                await plane.until(lambda state: state.position == 1, "the canary")
                await until(lambda: any(PROBE_HEADER not in seen.headers for seen in candidate.seen), "users at the candidate")
            probes = [PROBE_HEADER in seen.headers for seen in candidate.seen]
            assert sum(probes) > 10
            assert probes == sorted(probes, reverse=True), "a user before the last request of the probe"
            assert candidate.seen[0].headers["host"] == "chat.test"
            assert not any(PROBE_HEADER in seen.headers for seen in stable.seen)


async def test_an_arm_that_answers_the_probe_badly_never_meets_a_user(tmp_path):
    async with Backend(name="v1") as stable, Backend(name="v2", status=500) as candidate:
        steps = [{"probe": {"requests": "chat.jsonl", "rate": "20/s", "for": "1h"}}, {"canary": {"shares": ["50%"], "hold": LONG}}]
        async with whole(tmp_path, rollout(stable, candidate, steps)) as plane, Client(plane.client_port, host="chat.test") as client:
            async with client.load(20.0) as load:
                await plane.until(lambda state: state.mode is Mode.REVERTED, "the revert")
            assert plane.state.because.code == "probe_failed"
            assert "answered 500, expected 200" in plane.state.because.facts["words"]
            assert all(PROBE_HEADER in seen.headers for seen in candidate.seen)
            assert not load.failures


async def test_nothing_grows_in_a_window_not_even_over_a_restart_with_an_edit(tmp_path):
    """The document that raises the share brings the window with it, while the server is away."""
    always = [{"cron": "* * * * *", "for": "1h", "timezone": "Europe/Berlin"}]
    async with Backend(name="v1") as stable, Backend(name="v2") as candidate:
        document = rollout(stable, candidate, [{"canary": {"shares": ["1%"], "hold": LONG}}])
        async with whole(tmp_path, document) as plane:
            await plane.until(lambda state: state.mode is Mode.STEP and state.delivery.complete, "the canary")
            await plane.server.conductor.checkpoint()
            store = plane.store
        again = Whole(folder=plane.folder, store=store, port=plane.port)
        again.write(rollout(stable, candidate, [{"canary": {"shares": ["50%"], "hold": LONG}}], freeze=always))
        async with again.running():
            state = again.state
            assert [freeze.source for freeze in state.freezes] == ["window"]
            assert wish.shares(state) == {"candidate": 100}
            again.write(rollout(stable, candidate, [{"canary": {"shares": ["50%"], "hold": LONG}}]))
            await again.server.take_policies(await again.server.source.read())
            await again.until(lambda state: not state.freezes, "the window to end")
            assert wish.shares(again.state) == {"candidate": 5000}


async def test_an_idle_proxy_logs_nothing_and_its_source_of_evidence_works(tmp_path):
    async with Backend(name="v1") as stable, Backend(name="v2") as candidate:
        steps = [{"canary": {"shares": ["50%"], "hold": LONG}}]
        async with whole(tmp_path, rollout(stable, candidate, steps)) as plane, Client(plane.client_port, host="chat.test") as client:
            await plane.until(lambda state: state.mode is Mode.STEP and state.delivery.complete, "the canary")
            assert "edge-1" not in plane.server.logs
            began = time.time()
            while "edge-1" not in plane.server.logs:
                assert (await client.request()).status == 200
                assert time.time() - began < 20.0
            assert plane.state.source_words == ""


async def test_a_proxy_that_serves_requests_and_does_not_log_them_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SETTLED_S", 1.0)
    async with Backend(name="v1") as stable, Backend(name="v2") as candidate:
        document = rollout(stable, candidate, [{"canary": {"shares": ["50%"], "hold": LONG}}])
        async with whole(tmp_path, document, deaf=True) as plane, Client(plane.client_port, host="chat.test") as client:
            await plane.until(lambda state: state.mode is Mode.STEP and state.delivery.complete, "the canary")
            async with client.load(100.0):
                await plane.until(lambda state: state.source_words, "the source to be found broken")
            assert plane.state.source_words == "proxy edge-1 sends no access log"
