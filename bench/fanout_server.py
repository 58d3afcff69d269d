"""`python -m bench.fanout_server --xds HOST:PORT --control HOST:PORT --bytes N [--types rds|cds+eds|rtds] [--transport wire|grpcio|floor]`:
one world, pushed on demand.

The real core, services and transport, run as the product runs them, with a synthetic world: every node sees one resource `r` of N bytes
per type. `POST /push` publishes the next version and answers at once; `GET /stats` tells how far it is. Times are of the system's
monotonic clock, so a load generator on the same machine may compare them with its own.
"""

import argparse
import asyncio
import contextlib
import gc
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TextIO, cast

import structlog
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.floor import Floor
from bench.synthetic import TYPES, quantiles, world
from xds_server.adapters.grpc_transport import GrpcTransport
from xds_server.adapters.wire_transport import WireTransport, tls_context
from xds_server.core.transport import Method
from xds_server.services.ads import AdsHub
from xds_server.services.proxies import Acked, Disconnected

GROUP = "bench"
LAG_EVERY_S = 0.01


class Bench:
    """The hub under load and what is known about it."""

    def __init__(self, types: str, size: int, *, is_bare: bool = False) -> None:
        self._types, self._size = types, size
        self.hub = AdsHub(select=lambda _: GROUP, events=self._event, clock=time.time, defer=asyncio.get_running_loop().call_soon)
        self.version = 0
        self.acked = 0
        self.recount = False
        self._wanted = 0
        self._enough = asyncio.Event()
        self.began = self.last_ack = 0.0
        self.sent = 0
        self.lags: deque[float] = deque(maxlen=round(60 / LAG_EVERY_S))
        self.floor = Floor(types, size, self._answered) if is_bare else None
        self.push()
        self.hub.ready()

    def push(self) -> None:
        self.version += 1
        if self.floor is not None:
            send = partial(self.floor.push, self.version)
        else:
            send = partial(self.hub.publish, GROUP, world(self.version, self._types, self._size))
        self.began, self.acked = time.monotonic(), 0
        send()

    async def _push(self) -> None:
        self.push()

    def _answered(self) -> None:
        self.acked += 1
        self.last_ack = time.monotonic()
        if self.acked == self._wanted:
            self._enough.set()

    async def settled(self, acked: int) -> dict[str, object]:
        """The state once so many have answered the newest version."""
        while cast("int", (stats := self.stats())["acked"]) < acked:
            self._wanted = acked
            self._enough.clear()
            with contextlib.suppress(TimeoutError):  # some may have left, and are counted anew
                await asyncio.wait_for(self._enough.wait(), 1.0)
        return stats

    def _event(self, event: object) -> None:
        if isinstance(event, Acked) and event.serial == self.version:
            self._answered()
        elif isinstance(event, Disconnected):
            self.recount = True  # it may have been one of the counted

    async def watch_lag(self) -> None:
        """How late the loop comes to a timer: how long any one turn kept it."""
        while True:
            due = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.lags.append(max(0.0, time.monotonic() - due))

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.hub.tick()

    def mark(self) -> None:
        """Lags and the peak of memory count from now on."""
        self.lags.clear()
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew

    def stats(self) -> dict[str, object]:
        now = self.hub.sync_state(GROUP, self.version)
        if self.recount:
            self.acked, self.recount = now.acked, False
        self.sent += sum(self.hub.take_pushes().values())
        memory = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "version": self.version,
            "streams": (streams := now.selected if self.floor is None else len(self.floor.links)),
            "acked": self.acked,
            "outstanding": streams - self.acked,
            "rss_bytes": int(memory["VmRSS"].split()[0]) * 1024,
            "cpu_seconds": time.process_time(),
            "rss_peak_bytes": int(memory["VmHWM"].split()[0]) * 1024,
            "sent": self.sent,
            "rejected": now.rejected,
            "push_ms": (self.last_ack - self.began) * 1000,
            "lag_ms": quantiles([lag * 1000 for lag in self.lags]),
        }

    def app(self) -> Starlette:
        async def stats(request: Request) -> JSONResponse:
            return JSONResponse(await self.settled(int(request.query_params.get("acked", 0))))

        async def push(_: object) -> JSONResponse:
            return JSONResponse({"version": self.version + 1, "at": time.monotonic()}, background=BackgroundTask(self._push))

        async def mark(_: object) -> JSONResponse:
            self.mark()
            return JSONResponse({})

        return Starlette(routes=[Route("/stats", stats), Route("/push", push, methods=["POST"]), Route("/mark", mark, methods=["POST"])])


def transport_of(arguments: argparse.Namespace, methods: tuple[Method, ...], floor: Floor | None) -> GrpcTransport | WireTransport | Floor:
    """The transport that was asked for; `--tls` names a certificate with its key, in one file."""
    if floor is not None:
        return floor
    if arguments.transport == "grpcio":
        return GrpcTransport(methods)
    return WireTransport(methods, tls=tls_context(Path(arguments.tls), Path(arguments.tls)) if arguments.tls else None)


async def serve(arguments: argparse.Namespace) -> None:
    bench = Bench(arguments.types, arguments.bytes, is_bare=arguments.transport == "floor")
    transport = transport_of(arguments, bench.hub.methods(), bench.floor)
    host, _, port = arguments.control.rpartition(":")
    api = uvicorn.Server(uvicorn.Config(bench.app(), host=host, port=int(port), log_config=None, access_log=False, lifespan="off"))
    await transport.serve(arguments.xds)
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    beside = [asyncio.create_task(bench.watch_lag()), asyncio.create_task(bench.tick())]
    try:
        await api.serve()
    finally:
        for task in beside:
            task.cancel()
        await transport.stop()


def configure_logging(to: TextIO) -> None:
    """As much as the product says by default."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(to),
        cache_logger_on_first_use=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fanout_server")
    parser.add_argument("--xds", required=True, metavar="HOST:PORT")
    parser.add_argument("--control", required=True, metavar="HOST:PORT")
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--types", choices=TYPES, default="rds")
    parser.add_argument("--transport", choices=("wire", "grpcio", "floor"), default="wire")
    parser.add_argument("--tls", metavar="FILE", help="certificate and key in PEM form; over wire only")
    configure_logging(sys.stderr)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
