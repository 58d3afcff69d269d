"""A fleet of discovery clients as cheap as can be, in a process of its own: bare HTTP/2 on asyncio, one stream per connection.

It reads a response's version, type and nonce and skips the rest, so that it takes little of a machine it shares with the server it loads.
Commands come as JSON lines on standard input, one answer line each; `bench.sides.Fleet` is the other end. Sources: RFC 9113 (frames),
RFC 7541 section 6.2.2 (literal fields), grpc `PROTOCOL-HTTP2.md`.
"""

import argparse
import asyncio
import json
import resource
import ssl
import sys
import time
from collections.abc import Callable

import uvloop
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from bench.synthetic import NAME, TYPES, quantiles
from xds_server.core.types import CDS

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
PATHS = {"sotw": f"{ADS}StreamAggregatedResources", "delta": f"{ADS}DeltaAggregatedResources"}
EXTENSION_BYTES = 100
WINDOW = 16 * 1024 * 1024
"""As Envoy's default."""
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END, ACK = 0x1, 0x1
VERSION, TYPE, NONCE = 1, 4, 5
"""Field numbers, the same in both variants' responses."""


BUFFER = memoryview(bytearray(256 * 1024))
"""What is read is used up before the next read, so all connections share it."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(body: bytes) -> bytes:
    """One gRPC message in DATA frames of at most 16 KiB."""
    body = b"\0" + len(body).to_bytes(4, "big") + body
    return b"".join(frame(DATA, 0, 1, body[start : start + 16_384]) for start in range(0, len(body), 16_384))


def greeting(path: str) -> bytes:
    """Preface, wide windows, and the headers of stream 1."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "bench",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode() for name, value in headers.items())
    settings = frame(SETTINGS, 0, 0, (4).to_bytes(2, "big") + WINDOW.to_bytes(4, "big"))
    update = frame(WINDOW_UPDATE, 0, 0, (WINDOW - 65_535).to_bytes(4, "big"))
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + update + frame(HEADERS, 0x4, 1, block)


def fields(data: bytes, at: int) -> tuple[int, int, int]:
    """Number of the field at a place, the length of its value, and where the value begins. Raises: IndexError: If more must be read."""
    values = []
    for _ in range(2):
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        values.append(value)
    assert values[0] & 7 == 2, "a response has length-delimited fields only"
    return values[0] >> 3, values[1], at


class Peer(asyncio.BufferedProtocol):
    """One connection with its one stream."""

    def __init__(self, fleet: "Generator", number: int, opening: bytes) -> None:
        self.fleet = fleet
        self.number = number
        self._opening = opening
        self.heard: set[str] = set()
        self.ready = asyncio.get_running_loop().create_future()
        self.last: tuple[str, str, str] = ("", "", "")
        self.transport: asyncio.Transport
        self._head = self._control = self._kept = b""
        self._left = self._skip = self._message_left = self._unacknowledged = 0
        self._values: dict[int, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self._opening)  # here, because the server's first frame may come before the connection's creator runs again

    def connection_lost(self, _: Exception | None) -> None:
        self.fleet.lost(self)

    def get_buffer(self, _: int) -> memoryview:
        return BUFFER

    def buffer_updated(self, count: int) -> None:
        data = BUFFER[:count]
        while data:
            if len(self._head) < 9:
                wanted = 9 - len(self._head)
                self._head += bytes(data[:wanted])
                data = data[wanted:]
                if len(self._head) < 9:
                    return
                self._left = int.from_bytes(self._head[:3], "big")
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            if self._head[3] == DATA:
                self._read(part)
            else:
                self._control += bytes(part)
            if not self._left:
                self._end_frame(self._head[3], self._head[4], self._control)
                self._head = self._control = b""

    def _end_frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, payload))
        elif kind in {RST_STREAM, GOAWAY} or (kind == HEADERS and flags & END):
            self.transport.close()

    def _read(self, data: memoryview) -> None:
        self._unacknowledged += len(data)
        if self._unacknowledged > WINDOW // 2:
            size = self._unacknowledged.to_bytes(4, "big")
            self.transport.write(frame(WINDOW_UPDATE, 0, 0, size) + frame(WINDOW_UPDATE, 0, 1, size))
            self._unacknowledged = 0
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        if skipped < len(data):
            self._kept += bytes(data[skipped:])
        if not self._skip:
            self._scan()

    def _scan(self) -> None:
        """Takes the fields it wants; of the others it goes past what is here and skips what is still to come."""
        at = 0
        while True:
            if not self._message_left:
                if self._values:
                    self._responded()
                if len(self._kept) < at + 5:
                    break
                self._message_left = int.from_bytes(self._kept[at + 1 : at + 5], "big")
                at += 5
                continue
            try:
                number, length, begin = fields(self._kept, at)
            except IndexError:
                break
            if number in {VERSION, TYPE, NONCE}:
                if len(self._kept) < begin + length:
                    break
                self._values[number] = self._kept[begin : begin + length].decode()
            self._message_left -= begin + length - at
            at = begin + length
        self._skip = max(0, at - len(self._kept))
        self._kept = self._kept[at:]

    def _responded(self) -> None:
        self.last = (self._values[TYPE], self._values.get(VERSION, ""), self._values[NONCE])
        self._values = {}
        self.fleet.responded(self)
        if not self.ready.done():
            self.heard.add(self.last[0])
            if len(self.heard) == len(self.fleet.types):
                self.ready.set_result(None)


class Generator:
    """The fleet, and what it counts."""

    def __init__(self, address: str, types: tuple[str, ...], variant: str, *, node_bytes: int = 0, tls: str | None = None) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.types = types
        self.variant = variant
        self.node_bytes = node_bytes
        self.tls = _trusting(tls) if tls else None
        self.peers: list[Peer] = []
        self.nack = False
        self.skip = 0
        self.losses = 0
        self.times: list[float] = []
        self.hostile: asyncio.Task[None] | None = None
        self._answers: dict[tuple[str, ...], bytes] = {}

    # What peers call.

    def responded(self, peer: Peer) -> None:
        if peer.number >= self.skip:
            self.times.append(time.monotonic())
        peer.transport.write(self.answer(peer.last, "no" if self.nack else ""))

    def answer(self, last: tuple[str, str, str], error: str) -> bytes:
        """The same for all peers that were sent the same."""
        answer = self._answers.get((*last, error))
        if answer is None:
            if len(self._answers) > 64:
                self._answers.clear()
            answer = self._answers[*last, error] = self.request(*last, error=error)
        return answer

    def lost(self, peer: Peer) -> None:
        self.losses += 1
        if not peer.ready.done():
            peer.ready.set_exception(ConnectionResetError("the server ended the stream before it answered"))

    def request(self, type_url: str, version: str = "", nonce: str = "", *, error: str = "", node: str = "") -> bytes:
        """One request as DATA: the first of a type has no nonce."""
        names = [] if type_url == CDS else [NAME]
        made: DiscoveryRequest | DeltaDiscoveryRequest
        if self.variant == "sotw":
            made = DiscoveryRequest(type_url=type_url, version_info=version, response_nonce=nonce, resource_names=names)
        else:
            made = DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce, resource_names_subscribe=[] if nonce else names)
        if error:
            made.error_detail.code, made.error_detail.message = 3, error
        if node or self.node_bytes:
            made.node.CopyFrom(Node(id=node, cluster="bench", user_agent_name="bench"))
            for number in range(self.node_bytes // EXTENSION_BYTES):  # what an Envoy's node is mostly made of
                made.node.extensions.add(name=f"bench.extension.{number:08d}".ljust(EXTENSION_BYTES - 26, "."), category="bench.filters")
        return message(made.SerializeToString())

    # Commands; what they return is the answer.

    async def open(self, streams: int, at_once: int = 256) -> dict[str, float]:
        """Connects so many; done when each has a first response of each type."""
        began, gate = time.monotonic(), asyncio.Semaphore(at_once)
        hello, rest = greeting(PATHS[self.variant]), b"".join(self.request(url) for url in self.types[1:])

        async def one(number: int) -> None:
            async with gate:
                opening = hello + self.request(self.types[0], node=f"bench-{number}") + rest
                _, peer = await asyncio.get_running_loop().create_connection(
                    lambda: Peer(self, number, opening), self.host, self.port, ssl=self.tls
                )
                self.peers.append(peer)
                await peer.ready

        async with asyncio.TaskGroup() as tasks:
            for number in range(len(self.peers), len(self.peers) + streams):
                tasks.create_task(one(number))
        return {"ms": (time.monotonic() - began) * 1000}

    async def mark(self, skip: int = 0) -> dict[str, float]:
        """Responses count from now on, except those to the first so many peers."""
        self.skip = skip
        self.times.clear()
        return {}

    async def wait(self, count: int, since: float = 0.0, timeout_s: float = 60.0) -> dict[str, float]:
        """Until so many responses came since the mark; their delays after `since` [ms]."""
        end = time.monotonic() + timeout_s
        while len(self.times) < count and time.monotonic() < end:  # noqa: ASYNC110 - looking costs the peers nothing
            await asyncio.sleep(0.002)
        return {"count": len(self.times), **quantiles([(at - since) * 1000 for at in self.times])}

    async def stall(self, streams: int) -> dict[str, float]:
        """The first so many stop reading; 0 lets all read again."""
        for peer in self.peers:
            (peer.transport.pause_reading if peer.number < streams else peer.transport.resume_reading)()
        return {}

    async def reject(self, hz: float = 0.0) -> dict[str, float]:
        """Every response is rejected from now on; each peer says so again, and asks again, in turn, so many times a second."""
        self.nack = True
        if hz:
            self.hostile = asyncio.create_task(self._repeat(1 / hz))
        return {}

    async def _repeat(self, every_s: float) -> None:
        for turn in range(1 << 62):
            await asyncio.sleep(every_s)
            for peer in self.peers:
                peer.transport.write(self.answer(peer.last, "no" if turn % 2 else ""))

    async def stats(self) -> dict[str, float]:
        return {"count": len(self.times), "losses": self.losses, "cpu_seconds": time.process_time()}


def _trusting(authority: str) -> ssl.SSLContext:
    """Believes one authority, and speaks HTTP/2 only."""
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context


async def obey(generator: Generator) -> None:
    """One command line at a time, until the other end closes."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        work: Callable = getattr(generator, command.pop("do"))
        print(json.dumps(await work(**command)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fleet")
    parser.add_argument("--xds", required=True, metavar="HOST:PORT")
    parser.add_argument("--types", choices=TYPES, default="rds")
    parser.add_argument("--variant", choices=PATHS, default="sotw")
    parser.add_argument("--node-bytes", type=int, default=0, help="size of the node in every request; 0 for a small one in the first")
    parser.add_argument("--tls", metavar="FILE", help="authority that vouches for the server, in PEM form")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    generator = Generator(arguments.xds, TYPES[arguments.types], arguments.variant, node_bytes=arguments.node_bytes, tls=arguments.tls)
    uvloop.run(obey(generator))


if __name__ == "__main__":
    main()
