"""Real language models behind a real Envoy: who answers, what is counted, what a fault looks like from outside.

Envoy has a fixed configuration here (weighted clusters, a mirror, a fallback is not needed): these are facts about the demo's world, not about the
control plane.
"""

import asyncio
import sys
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.real_envoy import Envoy
from tests.rig import free_port
from xds_server.cli.demo.backstage import Model, _stats, requests_under_way
from xds_server.cli.demo.children import Child, free_ports, until
from xds_server.cli.demo.load import Load, Plan

PATIENCE_S = 60.0
WEIGHTS = {"v1": 60, "v2": 40}


def bootstrap(port: int, admin_port: int, models: dict[str, Model]) -> dict:
    def cluster(name: str, model: Model) -> dict:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": model.port}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        return {"name": name, "connect_timeout": "1s", "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}

    route = {
        "weighted_clusters": {"clusters": [{"name": f"chat/{name}", "weight": weight} for name, weight in WEIGHTS.items()]},
        "request_mirror_policies": [{"cluster": "chat/v2.shadow", "runtime_fraction": {"default_value": {"numerator": 50}}}],
        "timeout": "30s",
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}
        ],
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [cluster(f"chat/{name}", model) for name, model in models.items()] + [cluster("chat/v2.shadow", models["v2"])]
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


class World:
    """Two real models, a real Envoy and a way to look at them."""

    def __init__(self, models: dict[str, Model], envoy: Envoy, port: int, http: httpx.AsyncClient) -> None:
        self.models = models
        self.envoy = envoy
        self.port = port
        self.http = http

    async def look(self) -> None:
        """Waits until nothing is under way, then reads every living model's counts."""

        async def quiet() -> bool:
            for model in self.models.values():
                if model.child.code is None:
                    model.stats = _stats((await self.http.get(f"http://127.0.0.1:{model.control_port}/stats")).json())
            return all(
                not model.stats.users.active + model.stats.shadows.active for model in self.models.values() if model.child.code is None
            )

        await until(quiet, timeout_s=PATIENCE_S, what="models quiet")

    def load(self, rate_per_s: float = 10.0, **more) -> Load:
        return Load(
            Plan(
                host="127.0.0.1",
                port=self.port,
                authority="chat.demo",
                rate_per_s=rate_per_s,
                timeout_s=PATIENCE_S,
                in_flight_max=48,
                **more,
            )
        )


@pytest.fixture
async def world(tmp_path):
    ports = iter(free_ports(4))
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False))
        models = {}
        for name in WEIGHTS:
            port, control_port = next(ports), next(ports)
            words = ("--name", name, "--port", str(port), "--control-port", str(control_port))
            child = await Child.start(f"model-{name}", (sys.executable, "-m", "xds_server.cli.demo.model_server", *words), folder=tmp_path)
            stack.push_async_callback(child.stop)
            models[name] = Model(name=name, port=port, control_port=control_port, child=child)

        async def ready() -> bool:
            try:
                answers = [await http.get(f"http://127.0.0.1:{model.port}/health") for model in models.values()]
            except httpx.TransportError:
                return False
            return all(answer.status_code == 200 for answer in answers)

        await until(ready, timeout_s=PATIENCE_S, what="models ready", children=[model.child for model in models.values()])
        port, admin_port = free_port(), free_port()
        envoy = await stack.enter_async_context(Envoy(bootstrap(port, admin_port, models), tmp_path, admin_port=admin_port))
        yield World(models, envoy, port, http)


async def test_real_models_answer_and_every_count_agrees(world):
    """Users, the models' own counts and Envoy's choice tell one story; copies are apart and never reach a user; then faults are seen from outside."""
    load = world.load()
    await load.run(40)
    await world.look()
    tally, stats = load.tally, {name: model.stats for name, model in world.models.items()}
    assert (tally.sent, dict(tally.outcomes)) == (40, {"ok": 40})
    assert set(tally.models) == {"v1", "v2"}, "both versions answered"
    assert {name: one.users.requests for name, one in stats.items()} == dict(tally.models)
    assert stats["v1"].shadows.requests == 0
    assert 0 < stats["v2"].shadows.requests < 40
    assert stats["v2"].shadows.good == stats["v2"].shadows.requests
    assert len(tally.firsts_ms) == 40

    await world.http.post(f"http://127.0.0.1:{world.models['v2'].control_port}/mode", content="errors")
    bad = world.load()
    await bad.run(20)
    await world.look()
    failed = world.models["v2"].stats.users.since_fault
    assert bad.tally.outcomes == {"ok": 20 - failed, "status 500": failed}
    assert failed > 0
    assert dict(bad.tally.models) == {"v1": 20 - failed}, "only v2 fails"
    assert (await world.http.get(f"http://127.0.0.1:{world.models['v2'].port}/health")).status_code == 200

    await world.envoy.post("/drain_listeners?graceful&skip_exit")
    assert requests_under_way(await world.envoy.admin("/stats?filter=upstream_rq_active")) == 0


async def test_a_model_killed_within_a_stream_breaks_only_what_it_had_begun(world):
    model = world.models["v2"]
    load = world.load(rate_per_s=8.0, max_tokens=24)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())

        async def streaming() -> bool:
            model.stats = _stats((await world.http.get(f"http://127.0.0.1:{model.control_port}/stats")).json())
            return model.stats.users.active > 0 and load.tally.outcomes["ok"] > 0

        await until(streaming, timeout_s=PATIENCE_S, what="a stream of v2", every_s=0.01)
        model.child.kill()
        await model.child.end(PATIENCE_S)
        before = load.tally.models["v1"]

        async def stable_goes_on() -> bool:
            return load.tally.models["v1"] >= before + 5

        await until(stable_goes_on, timeout_s=PATIENCE_S, what="v1 answers", children=[world.models["v1"].child])
        load.stop()
    assert model.child.code == -9
    assert set(load.tally.outcomes) <= {"ok", "broken", "status 503"}
    assert load.tally.failed > 0
