"""`python -m bench.ingest_server --transport wire|grpcio`: takes telemetry as the product does, with its collector, and says what it cost.

The first line on standard output is the port; then each line on standard input is answered with one of figures. Captured traffic (ext_proc) has no
service yet: its messages are parsed and counted.
"""

import argparse
import asyncio
import base64
import gc
import json
import sys
import time
from pathlib import Path

import uvloop
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from bench.fanout_server import configure_logging
from xds_server.adapters.grpc_transport import GrpcTransport
from xds_server.adapters.wire_transport import WireTransport
from xds_server.core.transport import Method, Outlet
from xds_server.evidence.collector import Collector
from xds_server.resources.names import Owner
from xds_server.services.telemetry import telemetry_methods

RECORDED = Path(__file__).parents[1] / "tests" / "fixtures" / "access_log" / "answered.json"
EXT_PROC = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
BLOCK_S = 0.1


def recorded() -> tuple[dict[str, Owner], list[bytes]]:
    """Clusters and the access-log messages of a real Envoy whose requests were answered well."""
    case = json.loads(RECORDED.read_text())
    owners = {cluster: Owner(**owner, timeout_s=case["timeout_s"]) for cluster, owner in case["owners"].items()}
    return owners, [base64.b64decode(raw) for kind, raw in case["said"] if kind == "log"]


class Captured:
    """Streams of captured requests: one each, a few messages long."""

    def __init__(self) -> None:
        self.messages = self.streams = 0

    def open(self, _: Outlet) -> "Captured":
        return self

    def received(self, message: bytes) -> None:
        ProcessingRequest.FromString(message)
        self.messages += 1

    def closed(self) -> None:
        self.streams += 1


class Ingest:
    def __init__(self) -> None:
        self.collector = Collector(clock=time.time)
        self.collector.own("chat", recorded()[0])
        self.captured = Captured()
        self.messages = self.counted = 0

    def _take(self, message: bytes) -> None:
        self.messages += 1
        self.collector.access_log(message)

    def methods(self) -> tuple[Method, ...]:
        return (
            *telemetry_methods(access_log=self._take, load_report=self.collector.load_report),
            Method(path=EXT_PROC, service=self.captured.open),
        )

    async def close_blocks(self) -> None:
        while True:
            await asyncio.sleep(BLOCK_S)
            self._close()

    def _close(self) -> None:
        for _, block in self.collector.close(time.time()):
            self.counted += sum(counts.requests for counts in block.users.values())

    def stats(self) -> dict[str, float]:
        self._close()
        return {
            "messages": self.messages,
            "entries": self.counted,
            "captured": self.captured.messages,
            "streams": self.captured.streams,
            "cpu_seconds": time.process_time(),
        }


async def serve(transport: str) -> None:
    ingest = Ingest()
    server = (WireTransport if transport == "wire" else GrpcTransport)(ingest.methods())
    print(await server.serve("127.0.0.1:0"), flush=True)
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    closing = asyncio.create_task(ingest.close_blocks())
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps(ingest.stats()), flush=True)
    closing.cancel()
    await server.stop(0.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.ingest_server")
    parser.add_argument("--transport", choices=("wire", "grpcio"), default="wire")
    configure_logging(sys.stderr)
    uvloop.run(serve(parser.parse_args().transport))


if __name__ == "__main__":
    main()
