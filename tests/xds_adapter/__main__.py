"""`python -m tests.xds_adapter --adapter 127.0.0.1:17000 --xds 127.0.0.1:18000`: serves until it is told to stop."""

import argparse
import asyncio
import signal

from tests.xds_adapter import running


async def main(adapter: str, xds: str, delay_ms: float) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(adapter=adapter, xds=xds, delay_s=delay_ms / 1000) as ports:
        print(f"adapter on port {ports.adapter}, xDS on port {ports.xds}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.xds_adapter", description=__doc__)
    parser.add_argument("--adapter", default="127.0.0.1:17000", metavar="HOST:PORT", help="the Adapter service")
    parser.add_argument("--xds", default="127.0.0.1:18000", metavar="HOST:PORT", help="the discovery services")
    parser.add_argument("--delay", type=float, default=0.0, metavar="MS", help="wait before each change takes effect [ms]")
    given = parser.parse_args()
    asyncio.run(main(given.adapter, given.xds, given.delay))
