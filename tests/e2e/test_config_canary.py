"""A change of structure reaches one Envoy of a group first; what that one rejects reaches no other.

The server runs in this process, because a policy file cannot say what Envoy would reject: the checks of the files stand before it.
"""

import asyncio
import contextlib
from dataclasses import replace

import pytest
import yaml

from policies import report
from policies.rollout import Commanded, Verb
from policies.spec.policy import (
    CanaryStep,
    HealthCheck,
    Hold,
    Match,
    PromoteStep,
    RolloutPolicy,
    StaticEndpoints,
    Then,
    TrafficSpec,
    Variant,
    When,
)
from tests.real_envoy import Envoy
from tests.rig import Backend, free_port, until
from tests.wire.transports import Transport
from xds_server.adapters.store_memory import MemoryStore
from xds_server.config import ServeConfig
from xds_server.resources.bootstrap import bootstrap
from xds_server.runtime.server import Server

pytestmark = pytest.mark.timeout(180)

ENVOYS = 3
REJECTED = HealthCheck(path="/no\nheader")
"""Fine for us, wrong for Envoy: a path with a line break."""


def version(name, backend, **more):
    health = more.pop("health", HealthCheck(path="/health", interval_s=0.2))
    return Variant(name="v", version=name, endpoints=StaticEndpoints(addresses=(backend.address,)), health=health, **more)


def policy(name, stable, candidate):
    return RolloutPolicy(
        name=name,
        traffic=TrafficSpec(proxies="edge", listener="public", match=(Match(host=f"{name}.test"),)),
        stable=replace(stable, name="stable"),
        arms=(replace(candidate, name="candidate"),) if candidate else (),
        steps=(CanaryStep(stages=(((("candidate", 1000),), Hold(for_s=3600.0)),)), PromoteStep()),
        when=When(nack=Then.HOLD),
    )


class Fleet:
    """A server and several Envoys of one group, which share the listener's port."""

    def __init__(self, folder, envoys):
        self.folder, self.wanted = folder, envoys
        self.policies = {}
        self.envoys = []

    async def __aenter__(self):
        self._stack = contextlib.AsyncExitStack()
        documents = self.folder / "policies"
        documents.mkdir()
        listener = {"name": "public", "address": "127.0.0.1", "port": free_port()}
        spec = {"select": {"cluster": "edge"}, "listeners": [listener]}
        document = {"apiVersion": "crossfade/v1", "kind": "Proxies", "metadata": {"name": "edge"}, "spec": spec}
        (documents / "edge.yaml").write_text(yaml.safe_dump(document))
        nowhere = "127.0.0.1:0"
        self.server = Server(ServeConfig(policies=documents, store="memory:", xds=nowhere, api=nowhere), MemoryStore())
        transport = Transport(self.server.methods())
        port = await transport.serve(f"127.0.0.1:{free_port()}")
        self._stack.push_async_callback(transport.stop, 0.0)
        await self.server.start()
        loop = asyncio.get_running_loop()
        server = self.server
        for work in (server.conductor.run, server.tick_loop, server.probe_loop, server.lease_loop, server.trial_loop):
            self._stack.callback(loop.create_task(work()).cancel)
        for number in range(self.wanted):
            admin_port, name = free_port(), f"edge-{number}"
            config = bootstrap(node_id=name, cluster="edge", xds_host="127.0.0.1", xds_port=port, admin_port=admin_port)
            envoy = Envoy(config, self.folder, admin_port=admin_port, name=name)
            self.envoys.append(await self._stack.enter_async_context(envoy))
        return self

    async def __aexit__(self, *failure):
        await self._stack.__aexit__(*failure)

    async def apply(self, *policies):
        self.policies |= {each.name: each for each in policies}
        await self.server.conductor.apply_policies(self.policies)

    def status(self, name):
        return report.report(self.server.conductor.entries[name].state, now=0.0, held=True)

    async def until(self, name, condition):
        """Waits for a status."""
        try:
            await until(lambda: condition(self.status(name)), timeout_s=30.0)
        except AssertionError:
            raise AssertionError(f"{name}: {self.status(name)}") from None

    async def having(self, identity):
        """Envoys that have heard of a version, whether they took it or not."""
        dumps = {envoy.config_path.stem: await envoy.admin("/config_dump") for envoy in self.envoys}
        return [name for name, dump in dumps.items() if identity in dump]

    async def rejections(self):
        stats = [await envoy.stats("update_rejected") for envoy in self.envoys]
        return [sum(each.values()) for each in stats]


def stands_at_10_percent(status):
    return status["variants"][0]["share"] == 0.1


ALL = [f"edge-{number}" for number in range(ENVOYS)]


@pytest.mark.rule("P6")
async def test_what_one_envoy_rejects_no_other_ever_sees_and_what_is_good_reaches_all(tmp_path):
    async with Backend(name="v1") as one, Backend(name="v2") as two, Fleet(tmp_path, ENVOYS) as fleet:
        v1, v2 = version("v1", one), version("v2", two)
        await fleet.apply(policy("chat", v1, None), policy("mail", v1, v2))
        await fleet.until("mail", stands_at_10_percent)
        assert await fleet.having(v2.identity) == ALL

        bad = version("v3", two, health=REJECTED)
        await fleet.apply(policy("chat", v1, bad))
        await fleet.until("chat", lambda status: status["proxies"]["rejected"])
        status = fleet.status("chat")
        assert "edge-0 rejects CDS" in status["because"]
        assert bad.identity in status["because"]
        assert await fleet.rejections() == [1, 0, 0]
        assert await fleet.having(bad.identity) in ([], ["edge-0"])
        assert fleet.status("mail")["because"].startswith("canary 10%")

        good = version("v4", two)
        await fleet.apply(policy("chat", v1, good))
        await fleet.until("chat", stands_at_10_percent)
        assert await fleet.having(good.identity) == ALL
        assert await fleet.having(bad.identity) == []
        assert await fleet.rejections() == [1, 0, 0]


async def test_a_revert_during_the_trial_of_another_rollout_is_immediate(tmp_path):
    async with Backend(name="v1") as one, Backend(name="v2") as two, Fleet(tmp_path, ENVOYS) as fleet:
        v1, v2 = version("v1", one), version("v2", two)
        await fleet.apply(policy("chat", v1, None), policy("mail", v1, v2))
        await fleet.until("mail", stands_at_10_percent)
        await fleet.apply(policy("chat", v1, replace(v2, version="v5")))
        await fleet.until("chat", lambda status: "configuration on trial at 1 of 3 proxies" in status["because"])
        await fleet.server.conductor.ask("mail", Commanded(verb=Verb.ABORT))
        await fleet.until("mail", lambda status: status["phase"] == "reverted")
        assert "on trial at 1 of 3" in fleet.status("chat")["because"]
        await fleet.until("chat", stands_at_10_percent)
