"""A server that dies in the middle of a trial: the next one, on the same store, does not ship the change to everybody."""

import asyncio
import contextlib
from types import SimpleNamespace

import yaml

from tests.edge import V1, V2, DeltaProxy
from tests.rig import until
from tests.stage import rollout
from xds_server.adapters.store_memory import MemoryStore
from xds_server.config import ServeConfig
from xds_server.core.types import CDS
from xds_server.runtime.server import STEADY, Server

PROXIES = 4


class Process:
    """A server without ports and its proxies; it ends as a killed one would, without a last word to the store."""

    def __init__(self, folder, store):
        self.server = Server(ServeConfig(policies=folder, store="memory:"), store)
        self.proxies = []

    async def __aenter__(self):
        self._stack = contextlib.ExitStack()
        await self.server.start()
        for work in (self.server.conductor.run, self.server.trial_loop, self._answer):
            self._stack.callback(asyncio.get_running_loop().create_task(work()).cancel)
        return self

    async def __aexit__(self, *failure):
        self._stack.close()

    def connect(self):
        self.proxies = [DeltaProxy(self.server.hub, f"n{number}") for number in range(PROXIES)]

    async def _answer(self):
        while True:
            for proxy in self.proxies:
                proxy.work()
            await asyncio.sleep(0.005)

    def having(self, variant):
        return sum(any(variant.identity in name for name in proxy.has[CDS]) for proxy in self.proxies)


def write(folder, candidate):
    listener = {"name": "public", "address": "127.0.0.1", "port": 1000}
    proxies = {"apiVersion": "crossfade/v1", "kind": "Proxies", "metadata": {"name": "edge"}}
    proxies["spec"] = {"select": {"cluster": "edge"}, "listeners": [listener]}
    backends = [SimpleNamespace(address=address) for each in (V1, candidate) for address in (each.endpoints.addresses if each else ())]
    (folder / "policy.yaml").write_text(yaml.safe_dump_all([proxies, rollout(*backends, *([None] if candidate is None else []))]))


async def test_a_killed_server_goes_on_with_the_trial_and_not_without_it(tmp_path):
    write(tmp_path, None)
    store = MemoryStore()
    async with Process(tmp_path, store) as first:
        first.connect()
        await until(lambda: first.having(V1) == PROXIES)
        write(tmp_path, V2)
        await first.server.take_policies(await first.server.source.read())
        await until(lambda: first.having(V2) == 1)
        assert first.server.conductor.kept[STEADY] != b""

    async with Process(tmp_path, store) as second:
        second.connect()
        await until(lambda: second.having(V1) == PROXIES)
        most = 0

        def all_have_it():
            nonlocal most
            having = second.having(V2)
            most = max(most, having if having < PROXIES else 0)
            return having == PROXIES

        assert second.having(V2) <= 1
        await until(all_have_it)
        assert most == 1
        await until(lambda: second.server.conductor.kept[STEADY] == b"")
