"""A whole Crossfade for end-to-end tests and benches: `crossfade serve` as a process of its own, policies in a folder, a real Envoy, backends.

The server is a real process started as a user would start it, so it can be killed with SIGKILL and started again on the same store.
"""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import httpx
import yaml

from tests.real_envoy import Envoy
from tests.rig import Backend, Client, free_port, turn_of, until

BOOTSTRAPS: dict[str, str] = {}
CLI = (sys.executable, "-m", "xds_server.cli")


def endpoints(*backends):
    return {"static": [backend.address for backend in backends]}


HEALTH = {"path": "/health", "interval": "200ms", "timeout": "5s"}
"""Patient, because a busy machine is slow to answer; a pod that was killed refuses at once."""


def variant(version, *backends, **more):
    """A variant of a Rollout document: one pod for each backend."""
    return {"version": version, "endpoints": endpoints(*backends), "health": HEALTH, **more}


def rollout(stable=None, candidate=None, *, name="chat", **spec):
    """A Rollout document as plain data; keywords replace whole parts of `spec`."""
    pods = {"stable": ("v1", stable), "candidate": ("v2", candidate)}
    variants = {role: variant(version, backend) for role, (version, backend) in pods.items() if backend is not None}
    return {
        "apiVersion": "crossfade/v1",
        "kind": "Rollout",
        "metadata": {"name": name},
        "spec": {
            "traffic": {"proxies": "edge", "listener": "public", "match": [{"path_prefix": "/"}], "timeout": "30s"},
            "variants": variants,
            "assignment": {"sticky": "none"},
            "steps": [{"canary": {"shares": ["10%"], "hold": {"for": "1h"}}}, {"promote": {}}],
            "gates": [{"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "5%"}}],
            "lease": "3s",
            **spec,
        },
    }


class Stage:
    """Folder, ports and processes; use as an async context manager, `start` brings the server and Envoy up.

    `source`: what the server follows in place of the folder, such as a branch of a repository.
    """

    def __init__(self, folder: Path, *, envoys: int = 1) -> None:
        self.folder = folder
        self.policies = folder / "policies"
        self.source = ""
        self.policies.mkdir(parents=True, exist_ok=True)
        self.xds, self.api, self.api_grpc, self.port = free_port(), free_port(), free_port(), free_port()
        self.server: asyncio.subprocess.Process | None = None
        self.envoys: list[Envoy] = []
        self.wanted_envoys = envoys
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.api}", timeout=10)
        self.log_file = (folder / "server.log").open("ab")

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for envoy in self.envoys:
            await envoy.stop()
        if self.server is not None and self.server.returncode is None:
            self.server.terminate()
            try:
                await asyncio.wait_for(self.server.wait(), 10)
            except TimeoutError:
                self.server.kill()
                await self.server.wait()
        await self.http.aclose()
        self.log_file.close()

    def write(self, *documents, file="policy.yaml"):
        """Writes a policy file in one move, as git and editors do."""
        draft = self.folder / "draft"
        draft.write_text(yaml.safe_dump_all(documents))
        draft.replace(self.policies / file)

    def proxies(self, **changes):
        listener = {"name": "public", "address": "127.0.0.1", "port": self.port}
        return {
            "apiVersion": "crossfade/v1",
            "kind": "Proxies",
            "metadata": {"name": "edge"},
            "spec": {"select": {"cluster": "edge"}, "listeners": [listener], **changes},
        }

    async def start(self, *documents):
        self.write(self.proxies(), *documents)
        await self.start_server()
        for number in range(self.wanted_envoys):
            await self.add_envoy(f"edge-{number}")

    async def start_server(self):
        arguments = ("serve", "--policies", self.source or str(self.policies), "--store", f"sqlite:{self.folder / 'state.sqlite'}")
        arguments += ("--xds", f"127.0.0.1:{self.xds}", "--api", f"127.0.0.1:{self.api}")
        arguments += ("--api-grpc", f"127.0.0.1:{self.api_grpc}")
        self.server = await asyncio.create_subprocess_exec(*CLI, *arguments, stderr=self.log_file, stdout=self.log_file)
        await until(self._ready, f"the server to be ready; its log:\n{self.log()[-3000:]}")

    async def add_envoy(self, node, cluster="edge"):
        admin = free_port()
        text = await self._bootstrap(cluster)
        for placeholder, value in (("node-to-be", node), ("61001", self.xds), ("9901", admin)):
            assert placeholder in text
            text = text.replace(placeholder, str(value))
        envoy = Envoy(text, self.folder, admin_port=admin, name=node)
        await envoy.start(ready=False)
        self.envoys.append(envoy)
        return envoy

    async def _bootstrap(self, cluster):
        """What `crossfade bootstrap` prints, made once per test run (its typed messages take seconds to import)."""
        if cluster not in BOOTSTRAPS:
            where = ("--node-id", "node-to-be", "--xds", "127.0.0.1:61001", "--policies", str(self.policies))
            code, out, err = await self.cli("bootstrap", "--proxies", cluster, *where)
            assert code == 0, err
            BOOTSTRAPS[cluster] = out
        return BOOTSTRAPS[cluster]

    async def kill_server(self):
        """SIGKILL, as a crash or the kernel would."""
        os.kill(self.server.pid, signal.SIGKILL)
        await self.server.wait()

    async def cli(self, *arguments):
        """Runs the command as a user; returns (exit code, stdout, stderr)."""
        process = await asyncio.create_subprocess_exec(
            *CLI,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "CROSSFADE_SERVER": f"http://127.0.0.1:{self.api}", "NO_COLOR": "1"},
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out.decode(), err.decode()

    def log(self):
        return (self.folder / "server.log").read_text(errors="replace")

    async def status(self, name="chat"):
        answer = await self.http.get(f"/v1/rollouts/{name}")
        return answer.json() if answer.status_code == 200 else {}

    async def history(self, name="chat"):
        return (await self.http.get(f"/v1/rollouts/{name}/history")).json()["history"]

    async def act(self, verb, name="chat", **body):
        answer = await self.http.post(f"/v1/rollouts/{name}:{verb}", json=body)
        return answer.json()

    async def phase(self, *wanted, name="chat", timeout_s=30.0):
        """Waits for one of the phases; what was there instead is in the failure."""
        last = {}

        async def there():
            nonlocal last
            last = await self.status(name)
            return last if last.get("phase") in wanted else None

        try:
            return await until(there, timeout_s=timeout_s, every_s=0.05)
        except AssertionError:
            raise AssertionError(f"not {wanted}: {last}\n{self.log()[-2000:]}") from None

    async def share(self, wanted, name="chat", timeout_s=20.0):
        """Waits until the proxies have ACKed a share of the candidate and act on it."""
        await self.shares(name, timeout_s, candidate=wanted)

    async def shares(self, name="chat", timeout_s=20.0, **wanted):
        """The same for several arms, by name; an arm that is not there has 0."""
        last = {}

        async def there():
            nonlocal last
            last = await self.status(name)
            have = {each["name"]: each["share"] for each in last.get("variants", ())}
            acked = "proxies" in last and last["proxies"]["acked"] == last["proxies"]["selected"] > 0
            return acked and all(abs(have.get(arm, 0.0) - share) < 1e-9 for arm, share in wanted.items())

        try:
            await until(there, timeout_s=timeout_s, every_s=0.03)
        except AssertionError:
            raise AssertionError(f"not {wanted}: {last}\n{self.log()[-1500:]}") from None
        with contextlib.suppress(ConnectionError):  # the listener is not there yet: nobody is answered otherwise
            await turn_of(self.port)

    async def serving(self, client: Client):
        """Waits until the listener answers through to stable."""

        async def there():
            return (await client.request()).variant == "v1"

        await until(there, f"traffic to reach stable; {self.log()[-1500:]}", every_s=0.05)

    async def _ready(self):
        if self.server.returncode is not None:
            raise RuntimeError(f"the server ended with {self.server.returncode}:\n{self.log()[-3000:]}")
        with contextlib.suppress(httpx.HTTPError):
            return (await self.http.get("/readyz")).status_code == 200
        return False


__all__ = ["Backend", "Client", "Stage", "endpoints", "rollout", "until", "variant"]
