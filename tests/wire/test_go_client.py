"""grpc-go's own xDS client against our discovery service: a second client that we did not write. Opt-in: `CROSSFADE_GO=1`, and Go.

It is no relative of grpcio's: it names listeners, routes, clusters and endpoints, unsubscribes what it no longer needs, and speaks state of
the world only. `tests/go` is the program; it is built here, which needs the Go module proxy the first time.
"""

import asyncio
import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from tests.wire.discovery import serving, until
from tests.wire.test_ads_grpc_client import Caller, backend, snapshot
from tests.wire.test_telemetry import LOGS, REPORTS
from tests.wire.transports import Transport
from xds_server.core.facts import Variant
from xds_server.core.stream import State
from xds_server.core.types import EDS
from xds_server.services.telemetry import telemetry_methods

__test__ = os.environ.get("CROSSFADE_GO") == "1"

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("each_transport")]

SOURCE = Path(__file__).parents[1] / "go"
NODE = {"id": "go-1", "cluster": "c"}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The built client; grpc-go compiles for a minute on a cold cache."""
    go = shutil.which("go") or "/usr/local/go/bin/go"
    assert Path(go).exists(), "CROSSFADE_GO=1 needs Go; hint: put `go` on PATH"
    built = tmp_path_factory.mktemp("go") / "client"
    made = subprocess.run(
        [go, "build", "-mod=readonly", "-buildvcs=false", "-o", built, "."], check=False, cwd=SOURCE, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    return built


@pytest.fixture
async def stage(program):
    async with serving() as world:
        backends = {name: await backend(name) for name in ("stable", "canary")}
        config = {
            "xds_servers": [{"server_uri": world.address, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
            "node": NODE,
        }
        environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(config)}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(program, stdin=pipe, stdout=pipe, env=environment)
        try:
            yield world.hub, Caller(process), {name: port for name, (_, port) in backends.items()}
        finally:
            process.kill()
            await process.wait()
            process._transport.close()
            for transport, _ in backends.values():
                await transport.stop(0.1)


async def test_a_go_client_follows_weights_and_unsubscribes_what_it_no_longer_needs(stage):
    hub, caller, ports = stage
    hub.publish("all", snapshot(1, ports, {"stable": 100}))
    assert set(await caller.call(20)) == {"stable"}
    hub.publish("all", snapshot(2, ports, {"stable": 50, "canary": 50}))
    await until(lambda: hub.sync_state("all", 2).acked == 1)
    await eventually(caller, {"stable", "canary"})
    hub.publish("all", snapshot(3, ports, {"canary": 100}))
    await until(lambda: hub.sync_state("all", 3).acked == 1)
    await eventually(caller, {"canary"})
    [status] = hub.proxies()
    assert (status.node_id, status.variant, status.leased) == ("go-1", Variant.SOTW, False)
    assert {each.state for each in status.types} == {State.SYNCED}
    await until_not_told(hub, ports)


async def test_a_go_client_rejects_weights_that_sum_to_nothing_and_keeps_the_old_ones(stage):
    hub, caller, ports = stage
    hub.publish("all", snapshot(1, ports, {"stable": 100}))
    assert set(await caller.call(5)) == {"stable"}
    hub.publish("all", snapshot(2, ports, {"stable": 0, "canary": 0}))
    await until(lambda: hub.sync_state("all", 2).rejected == 1)
    assert "go-1 rejects RDS" in hub.sync_state("all", 2).words
    assert set(await caller.call(5)) == {"stable"}
    hub.publish("all", snapshot(3, ports, {"canary": 100}))
    await until(lambda: hub.sync_state("all", 3).acked == 1)
    assert hub.sync_state("all", 3).rejected == 0
    await eventually(caller, {"canary"})


async def test_a_go_client_logs_and_reports(program):
    """On one connection, a stream after the other."""
    seen = []
    transport = Transport(telemetry_methods(access_log=seen.append, load_report=seen.append))
    port = await transport.serve("127.0.0.1:0")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, f"127.0.0.1:{port}", stdin=pipe, stdout=pipe)

    async def say(path, answers, messages):
        words = (path, str(answers), *(base64.b64encode(each).decode() for each in messages))
        process.stdin.write(" ".join(words).encode() + b"\n")
        async with asyncio.timeout(30):
            status, *heard = (await process.stdout.readline()).decode().split()
        return status, [base64.b64decode(each) for each in heard]

    try:
        said = [StreamAccessLogsMessage(identifier={"log_name": "x" * size}).SerializeToString() for size in (1, 40_000, 300_000)]
        assert await say(LOGS, 0, said) == ("OK", [])
        assert seen == said
        report = LoadStatsRequest(node={"id": "go-1"}).SerializeToString()
        status, [answer] = await say(REPORTS, 1, [report])
        assert status == "OK"
        assert LoadStatsResponse.FromString(answer).send_all_clusters
        assert seen[-1] == report
    finally:
        process.kill()
        await process.wait()
        process._transport.close()
        await transport.stop(0.1)


async def eventually(caller: Caller, wanted: set[str]) -> None:
    """Calls until exactly these backends answer a round of forty."""
    async with asyncio.timeout(30):
        answers: set[str] = set()
        while answers != wanted:
            answers = set(await caller.call(40))
            assert answers, "the client has ended; its standard error says why"


async def until_not_told(hub, ports) -> None:
    """Moves the endpoint of the cluster that no route names until nothing is sent for that: the client has unsubscribed it."""
    async with asyncio.timeout(30):
        serial, told = 3, True
        while told:
            serial += 1
            hub.take_pushes()
            hub.publish("all", snapshot(serial, ports | {"stable": serial}, {"canary": 100}))
            await until(lambda serial=serial: hub.sync_state("all", serial).acked == 1)
            told = EDS in hub.take_pushes()
