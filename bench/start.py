"""Process start to the first snapshot served, and resident memory with one rollout.

With bytecode cached, as it is from the second start on anywhere: a first start that is not counted fills a cache of the benchmark's own.
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from tests.rig import Backend
from tests.stage import CLI, Stage, rollout

RUNS = 5
CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


async def first_snapshot(port):
    """Asks for clusters until they come."""
    request = DiscoveryRequest(node=Node(id="bench", cluster="edge"), type_url=CDS)
    while True:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
                request_serializer=DiscoveryRequest.SerializeToString,
                response_deserializer=DiscoveryResponse.FromString,
            )()
            try:
                await call.write(request)
                if (await call.read()).resources:
                    return
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, AttributeError):
                await asyncio.sleep(0.01)


def resident_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


async def started(stage, arguments):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir(), "crossfade-bench-bytecode"))}
    return await asyncio.create_subprocess_exec(*CLI, *arguments, stderr=stage.log_file, stdout=stage.log_file, env=environment)


async def once():
    with tempfile.TemporaryDirectory() as folder:
        async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(Path(folder), envoys=0) as stage:
            stage.write(stage.proxies(), rollout(v1, v2))
            arguments = ("serve", "--policies", str(stage.policies), "--store", f"sqlite:{folder}/state.sqlite")
            arguments += ("--xds", f"127.0.0.1:{stage.xds}", "--api", f"127.0.0.1:{stage.api}")
            began = time.perf_counter()
            stage.server = await started(stage, arguments)
            await first_snapshot(stage.xds)
            took = time.perf_counter() - began
            await asyncio.sleep(2)
            return {"start_s": took, "resident_mib": resident_mib(stage.server.pid)}


MANY = 1000


async def thousand():
    """The same with a thousand rollouts on disk, a file each; all of them are to be in the first snapshot."""
    with tempfile.TemporaryDirectory() as folder:
        async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(Path(folder), envoys=0) as stage:
            stage.write(stage.proxies())
            for number in range(MANY):
                where = {"proxies": "edge", "listener": "public", "match": [{"host": f"r{number}.test"}]}
                stage.write(rollout(v1, v2, name=f"r{number}", traffic=where), file=f"r{number}.yaml")
            arguments = ("serve", "--policies", str(stage.policies), "--store", f"sqlite:{folder}/state.sqlite")
            arguments += ("--xds", f"127.0.0.1:{stage.xds}", "--api", f"127.0.0.1:{stage.api}")
            began = time.perf_counter()
            stage.server = await started(stage, arguments)
            await first_snapshot(stage.xds)
            return {"thousand_s": time.perf_counter() - began, "thousand_mib": resident_mib(stage.server.pid)}


async def run():
    await once()
    runs = [await once() for _ in range(RUNS)]
    for name, unit, target in (("start_s", "s", 1.5), ("resident_mib", "MiB", 130)):
        values = [run[name] for run in runs]
        print(f"{name:<20}{statistics.median(values):8.2f} {unit} median {max(values):8.2f} {unit} worst   target {target}")
    many = [await thousand() for _ in range(3)]
    took = [each["thousand_s"] for each in many]
    print(
        f"{'1,000 rollouts':<20}{statistics.median(took):8.2f} s median {max(took):8.2f} s worst   target 4; "
        f"resident {max(each['thousand_mib'] for each in many):.0f} MiB"
    )
    return {"runs": runs, "many": many}
