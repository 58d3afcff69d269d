"""The real Envoy as a process of a test or a bench: started with a bootstrap, asked over its admin page, drained and ended with its context."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.rig import HEAD_MAX, PATIENCE_S, Got, receive, until
from xds_server.resources.names import XDS_CLUSTER

ENVOY = Path(sys.executable).with_name("envoy")

DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
"""From util-linux. Not `preexec_fn`: that forks by hand, and gRPC's threads do not survive a fork beside a running server."""


class Envoy:
    """The real Envoy with a bootstrap of the test's choosing."""

    def __init__(self, bootstrap: Mapping[str, object] | str, folder: Path, *, admin_port: int, name: str = "envoy") -> None:
        """
        Args:
            bootstrap: As a dictionary or as JSON or YAML text.
            folder: Where its configuration and its log go.
        """
        self.admin_port = admin_port
        self.log_path = folder / f"{name}.log"
        text = bootstrap if isinstance(bootstrap, str) else json.dumps(bootstrap)
        self.config_path = folder / f"{name}.{'json' if text.lstrip().startswith('{') else 'yaml'}"
        self.config_path.write_text(text)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *, ready: bool = True) -> None:
        """Starts the process; `ready` also waits until it says LIVE (with our bootstrap: it has heard from xDS or given up waiting)."""
        command = [*DIE_WITH_PARENT, str(ENVOY), "-c", str(self.config_path), "--use-dynamic-base-id", "--concurrency", "1"]
        command += ["--log-path", str(self.log_path), "-l", "info", "--drain-time-s", "1"]
        output = self.log_path.with_suffix(".out").open("wb")
        with output:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL)
        await until(self._alive, "Envoy's admin to answer")
        if ready:
            await self.wait_ready()

    async def wait_ready(self) -> None:
        await until(self._live, f"Envoy to be ready; its log ends:\n{self.log()[-2000:]}")

    async def stop(self) -> None:
        """Drains first (1.40 crashes on exit while a mirrored copy is in flight), then SIGTERM, then SIGKILL."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(AssertionError, OSError, ValueError):
            await self.post("/drain_listeners?graceful&skip_exit")
            await until(self._quiet, "requests in flight to end", timeout_s=3.0)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(5.0):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def log(self) -> str:
        parts = (path.read_text(errors="replace") for path in (self.log_path, self.log_path.with_suffix(".out")) if path.exists())
        return "".join(parts)

    async def admin(self, path: str, *, method: str = "GET") -> str:
        """Text of an admin page. Raises: OSError: If the admin port does not answer."""
        status, text = await self._admin(path, method)
        assert status == 200, f"{path}: {status} {text[:200]}"
        return text

    async def post(self, path: str) -> str:
        return await self.admin(path, method="POST")

    async def json(self, path: str) -> dict:
        return json.loads(await self.admin(path))

    async def stats(self, pattern: str = "") -> dict[str, int]:
        """Counters and gauges whose name matches a regular expression."""
        text = await self.admin(f"/stats?filter={pattern}" if pattern else "/stats")
        pairs = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdigit()}

    async def runtime(self) -> dict[str, str]:
        """Final value of every runtime key."""
        entries = (await self.json("/runtime")).get("entries", {})
        return {key: entry["final_value"] for key, entry in entries.items()}

    async def _admin(self, path: str, method: str) -> tuple[int, str]:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.admin_port, limit=HEAD_MAX)
            try:
                writer.write(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
                got = Got()
                await receive(reader, got)
                return got.status, b"".join(got.pieces).decode()
            finally:
                writer.transport.abort()

    async def _alive(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, f"Envoy ended with {self._process.returncode}:\n{self.log()[-3000:]}"
        try:
            await self._admin("/ready", "GET")
        except (OSError, ValueError, asyncio.IncompleteReadError):
            return False
        return True

    async def _live(self) -> bool:
        return await self._alive() and (await self._admin("/ready", "GET"))[0] == 200

    async def _quiet(self) -> bool:
        """No request in flight; the admin page's own and the streams to the control plane are always there."""
        active = await self.stats("upstream_rq_active|downstream_rq_active")
        return not any(number for name, number in active.items() if not name.startswith(("http.admin.", f"cluster.{XDS_CLUSTER}.")))


async def validate(bootstrap: Mapping[str, object] | str, folder: Path) -> tuple[int, str]:
    """`envoy --mode validate`: exit code and what it said."""
    path = folder / ("validate.yaml" if isinstance(bootstrap, str) and not bootstrap.lstrip().startswith("{") else "validate.json")
    path.write_text(bootstrap if isinstance(bootstrap, str) else json.dumps(bootstrap))
    process = await asyncio.create_subprocess_exec(
        str(ENVOY), "--mode", "validate", "-c", str(path), "-l", "warn",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if not key.startswith("ENVOY_")},
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")
