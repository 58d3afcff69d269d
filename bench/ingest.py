"""What telemetry costs to take in: access logs in messages of one entry and of many, and captured requests, each a stream of its own.

Rates are per second of the server's CPU, so that the load beside it counts little. Entries are of a real Envoy; the product's collector parses
and aggregates each.

one, burst    4 proxies under heavy load: many messages of one entry are read at once
one, fleet    500 proxies with a message of one entry each per turn: every message is a read of its own
batch         4 proxies, 50 entries a message
ext_proc      4 proxies, three messages a stream, 64 streams open at a time on each
"""

import asyncio
import json
import statistics
import sys
from contextlib import asynccontextmanager

from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from hpack import Encoder

from bench.fleet import ACK, DATA, END, HEADERS, SETTINGS, WINDOW_UPDATE, frame, greeting, message
from bench.ingest_server import EXT_PROC, recorded

LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
TRANSPORTS = ("wire", "grpcio")
REPEATS = 3
BURSTS = {"one": 40_000, "batch": 2_000}
PROXIES = 4
FLEET = 500
TURNS = 20
BATCH = 50
CAPTURED = 5_000
OPEN = 64
TARGETS = {"one, burst": 60_000, "one, fleet": None, "batch": 200_000, "ext_proc": 5_000}
FIRST_WINDOW = 65_535


class Proxy(asyncio.Protocol):
    """One connection that says as much as the server's windows allow."""

    def __init__(self, opening):
        self._opening = opening
        self._rest = b""
        self._first = FIRST_WINDOW
        self._window = FIRST_WINDOW
        self._stream_window = 0  # what stream 1 was given beyond the first window
        self._sent = 0
        self._wider = asyncio.Event()
        self.ended = 0
        self.freed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self._opening)

    def data_received(self, data):
        data = self._rest + data
        at = 0
        while len(data) - at >= 9 and len(data) - at >= (size := 9 + int.from_bytes(data[at : at + 3], "big")):
            self._frame(data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : at + size])
            at += size
        self._rest = data[at:]

    def _frame(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            self.transport.write(frame(SETTINGS, ACK, 0, b""))
            for place in range(0, len(payload), 6):
                if int.from_bytes(payload[place : place + 2], "big") == 4:
                    self._first = int.from_bytes(payload[place + 2 : place + 6], "big")
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == WINDOW_UPDATE and stream == 1:
            self._stream_window += int.from_bytes(payload, "big")
        elif kind == HEADERS and flags & END:
            self.ended += 1
            self.freed.set()
        self._wider.set()

    def write_counted(self, frames, size):
        """Frames whose DATA is so long."""
        self._sent += size
        self.transport.write(frames)

    async def room(self, size, *, on_stream):
        """Waits until the windows of the connection, and of stream 1 where that is what is written to, let so much through."""
        while self._window - self._sent < size or (on_stream and self._first + self._stream_window - self._sent < size):
            self._wider.clear()
            await self._wider.wait()


class Server:
    def __init__(self, process, port):
        self._process = process
        self.port = port

    async def stats(self):
        self._process.stdin.write(b"\n")
        return json.loads(await self._process.stdout.readline())

    async def counted(self, what, number):
        """Until so many were counted."""
        async with asyncio.timeout(120):
            while (stats := await self.stats())[what] < number:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.02)
        return stats

    async def proxies(self, number, opening):
        loop = asyncio.get_running_loop()
        return [(await loop.create_connection(lambda: Proxy(opening), "127.0.0.1", self.port))[1] for _ in range(number)]


@asynccontextmanager
async def server(transport):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.ingest_server", "--transport", transport),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Server(process, int(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()


def logs(entries):
    """A message of so many entries, as DATA."""
    said = [StreamAccessLogsMessage.FromString(raw) for raw in recorded()[1]]
    found = [entry for each in said for entry in each.http_logs.log_entry]
    made = StreamAccessLogsMessage()
    made.http_logs.log_entry.extend(found[number % len(found)] for number in range(entries))
    return made.SerializeToString()


async def burst(side, number, entries):
    """Messages as fast as they are taken; returns their rate and that of their entries."""
    body = logs(entries)
    one = message(body)
    together, size = max(1, 32_000 // len(one)), len(body) + 5
    proxies = await side.proxies(PROXIES, greeting(LOGS))
    before = await side.stats()

    async def say(proxy):
        for _ in range(number // PROXIES // together):
            await proxy.room(size * together, on_stream=True)
            proxy.write_counted(one * together, size * together)

    async with asyncio.TaskGroup() as tasks:
        for proxy in proxies:
            tasks.create_task(say(proxy))
    sent = number // PROXIES // together * together * PROXIES
    after = await side.counted("messages", before["messages"] + sent)
    assert after["entries"] - before["entries"] == sent * entries, "entries were lost or counted as something else"
    return sent / (after["cpu_seconds"] - before["cpu_seconds"])


async def fleet(side):
    one = message(body := logs(1))
    proxies = await side.proxies(FLEET, greeting(LOGS))
    before = await side.stats()
    for turn in range(1, TURNS + 1):
        for proxy in proxies:
            proxy.write_counted(one, len(body) + 5)
        after = await side.counted("messages", before["messages"] + turn * FLEET)
    return TURNS * FLEET / (after["cpu_seconds"] - before["cpu_seconds"])


async def captured(side):
    """Streams one after the other, so many open at a time; an Envoy sends the same fields for each, so that all but the first are indexed."""
    opening = greeting(EXT_PROC)
    headers = ProcessingRequest(observability_mode=True)
    for name in ("x-request-id", ":path", ":method", "user-agent", "content-type"):
        headers.request_headers.headers.headers.add(key=name, raw_value=b"0123456789abcdef")
    answer = ProcessingRequest(observability_mode=True)
    answer.response_headers.headers.headers.add(key=":status", raw_value=b"200")
    content = ProcessingRequest(observability_mode=True)
    content.response_body.body = bytes(500)
    bodies = [each.SerializeToString() for each in (headers, answer, content)]
    size = sum(len(body) + 5 for body in bodies)
    fields = (
        *((":method", "POST"), (":scheme", "http"), (":path", EXT_PROC), (":authority", "bench")),
        *(("te", "trailers"), ("content-type", "application/grpc")),
    )
    proxies = await side.proxies(PROXIES, opening)
    before = await side.stats()

    async def say(proxy):
        encoder = Encoder()
        for number in range(CAPTURED // PROXIES):
            stream = 3 + 2 * number
            while number - proxy.ended >= OPEN:
                proxy.freed.clear()
                await proxy.freed.wait()
            await proxy.room(size, on_stream=False)
            said = b"".join(frame(DATA, 0, stream, b"\0" + len(body).to_bytes(4, "big") + body) for body in bodies)
            proxy.write_counted(frame(HEADERS, 0x4, stream, encoder.encode(fields)) + said + frame(DATA, END, stream, b""), size)

    async with asyncio.TaskGroup() as tasks:
        for proxy in proxies:
            tasks.create_task(say(proxy))
    after = await side.counted("streams", before["streams"] + CAPTURED)
    assert after["captured"] - before["captured"] == CAPTURED * len(bodies), "messages were lost"
    return CAPTURED / (after["cpu_seconds"] - before["cpu_seconds"])


async def once(transport):
    """One repetition: rates by load."""
    async with server(transport) as side:
        return {
            "one, burst": await burst(side, BURSTS["one"], 1),
            "one, fleet": await fleet(side),
            "batch": await burst(side, BURSTS["batch"], BATCH) * BATCH,
            "ext_proc": await captured(side),
        }


async def run():
    found = {transport: [] for transport in TRANSPORTS}
    for _ in range(REPEATS):
        for transport in TRANSPORTS:
            found[transport].append(await once(transport))
    figures = {}
    print(
        f"{f'per second and core, median of {REPEATS} [least-most]':<48}"
        + "".join(f"{each:>34}" for each in TRANSPORTS)
        + f"{'target':>10}"
    )
    for load, target in TARGETS.items():
        row = figures[load] = {}
        for transport in TRANSPORTS:
            rates = [each[load] for each in found[transport]]
            row[transport] = {"median": statistics.median(rates), "least": min(rates), "most": max(rates)}
        shown = "".join(f"{each['median']:>16,.0f} [{each['least']:,.0f}-{each['most']:,.0f}]".rjust(34) for each in row.values())
        what = {"batch": f"entries in messages of {BATCH}", "ext_proc": "streams of captured requests"}.get(load, f"messages of {load}")
        print(f"{what:<48}{shown}{f'{target:,}' if target else '':>10}", flush=True)
    return figures
