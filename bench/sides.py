"""The two processes of a load test, as seen by the benchmark that runs them: `bench.fanout_server` and `bench.fleet`."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trustme

from tests.rig import free_port


class Fleet:
    """Sends commands to a load generator; `ask("open", streams=100)` calls `Generator.open`."""

    def __init__(self, process):
        self._process = process

    async def ask(self, do, **arguments):
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator died at {do!r}; its words are above")
        return json.loads(line)


class Sides:
    """A server under load."""

    def __init__(self, control, fleet, pid):
        self.fleet = fleet
        self.pid = pid
        self._control = control

    async def stats(self):
        return (await self._control.get("/stats")).json()

    async def mark(self):
        """The server's state; lags and the peak of memory count from now on."""
        await self._control.post("/mark")
        await self.fleet.ask("mark")
        return await self.stats()

    async def push(self, deliveries, *, skip=0):
        """One push; the delays of its deliveries [ms], those of the first `skip` streams left out."""
        await self.fleet.ask("mark", skip=skip)
        pushed = (await self._control.post("/push")).json()
        waited = await self.fleet.ask("wait", count=deliveries, since=pushed["at"])
        if waited["count"] < deliveries:
            raise RuntimeError(f"{waited['count']} of {deliveries} deliveries of push {pushed['version']} in a minute")
        return waited

    async def settle(self, acked):
        """Once the server has counted so many ACKs of its newest version. It is asked once: each look would cost it what many ACKs do."""
        return (await self._control.get("/stats", params={"acked": acked}, timeout=60)).raise_for_status().json()


@asynccontextmanager
async def load(*, size, types="rds", variant="sotw", transport="wire", node_bytes=0, tls=False, environment=None):
    """Both processes, connected to nothing yet."""
    xds, control = (f"127.0.0.1:{free_port()}" for _ in range(2))
    log = Path(__file__).parent / "out" / "fanout_server.log"
    log.parent.mkdir(exist_ok=True)
    arguments = ["--xds", xds, "--control", control, "--bytes", str(size), "--types", types, "--transport", transport]
    loading = ["--xds", xds, "--types", types, "--variant", variant, "--node-bytes", str(node_bytes)]
    if tls:
        secret, authority = _certificates(log.parent)
        arguments += ["--tls", secret]
        loading += ["--tls", authority]
    with log.open("w") as words:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.fanout_server", *arguments, stderr=words, env=environment
        )
    fleet = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.fleet", *loading),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{control}", timeout=60) as client:
            await _answers(client, server, log)
            yield Sides(client, Fleet(fleet), server.pid)
    finally:
        for process in (fleet, server):
            if process.returncode is None:
                process.kill()
            await process.wait()


def _certificates(folder):
    """Files of a throw-away server certificate with its key, and of the authority that vouches for it."""
    authority, secret = trustme.CA(key_type=trustme.KeyType.ECDSA), folder / "server.pem"
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA).private_key_and_cert_chain_pem.write_to_path(secret)
    return str(secret), str(folder / "authority.pem")


async def _answers(client, server, log):
    async with asyncio.timeout(20):
        while server.returncode is None:
            try:
                await client.get("/stats")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
