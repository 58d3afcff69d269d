"""The stage of tests/wire/test_hostile.py: a transport on uvloop, attackers with bare sockets, and a good neighbour beside them."""

import asyncio
import contextlib
import functools
import socket
import struct
from contextlib import asynccontextmanager

import uvloop
from hpack import Decoder

from bench.fleet import frame
from tests.fuzz.run import rss_mib
from tests.wire.discovery import PATIENCE_S, until
from tests.wire_pair import HEADERS, parsed, prefixed
from xds_server.adapters.wire_transport import WireTransport
from xds_server.core.transport import Kind, Method
from xds_server.wire import Limits
from xds_server.wire.errors import Code
from xds_server.wire.frames import END_HEADERS, END_STREAM, MAX_FRAME, NAMES, PREFACE

PATH, UNARY, BIG, NO, STUMBLE = "/t.T/M", "/t.T/Unary", "/t.T/Big", "/t.T/No", "/t.T/Stumble"
DATA, HEAD, PRIORITY, RST, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
GROWTH_MIB = 64
"""Generous: what the attacker itself keeps is in this process too."""
BIG_BYTES = 200_000
NEVER_S = 3600.0


def on_uvloop(test):
    """Runs an async test on the loop that the server has in earnest."""

    @functools.wraps(test)
    def run(**fixtures):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(**fixtures))

    return run


def u32(number):
    return struct.pack(">I", number)


def block(*fields, path=PATH):
    """A header block that needs no table."""
    fields = [(name, path if name == ":path" else value) for name, value in (*HEADERS, *fields)]
    return b"".join(bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode() for name, value in fields)


BLOCK, UNARY_BLOCK = block(), block(path=UNARY)


def opening(stream, *, ends=False, block=BLOCK):
    return frame(HEAD, END_HEADERS | (END_STREAM if ends else 0), stream, block)


def half_closed(stream):
    """The peer has said all; the service never answers."""
    return opening(stream, block=UNARY_BLOCK) + frame(DATA, END_STREAM, stream, prefixed(b"?"))


def settings(**values):
    ids = {"table": 1, "streams": 3, "window": 4}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", ids[name], value) for name, value in values.items()))


HELLO = PREFACE + settings()
WIDE = settings(window=2**31 - 1) + frame(WINDOW_UPDATE, 0, 0, u32(2**31 - 1 - 65_535))


class Echo:
    """Answers what it hears, `BIG` with a message of its own each time; knows who came and went."""

    def __init__(self):
        self.opened = self.closed = 0
        self.outlets = []

    def __call__(self, outlet):
        self.opened += 1
        self.outlets.append(outlet)
        service = self

        class Session:
            def received(self, message):
                outlet.send(message)

            def closed(self):
                service.closed += 1
                service.outlets.remove(outlet)

        return Session()

    def unary(self, outlet):
        """Never answers."""
        return self(type("Deaf", (), {"send": lambda *_: None, "finish": outlet.finish})())

    def no(self, outlet):
        session = self(outlet)
        session.received = lambda _: outlet.finish(3, "no")
        return session

    def stumble(self, outlet):
        session = self(outlet)
        session.received = None
        return session

    def big(self, outlet):
        session = self(outlet)
        session.received = lambda _: outlet.send(bytes(BIG_BYTES))
        return session


class Peer:
    """A bare socket: what is sent is what it says, what it read is in `said`."""

    def __init__(self, plain):
        self.plain, self.said, self._rest, self.is_over = plain, [], b"", False

    async def say(self, data):
        """Sends, and stops where the server has hung up."""
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self.plain, data)

    async def attack(self, units, *, per_write=500):
        """Says these as fast as the server takes them, and reads what it answers, as a peer does that wants to go on."""
        units = iter(units)
        while not self.is_over:
            some = [unit for _, unit in zip(range(per_write), units, strict=False)]
            if not some:
                return
            await self.say(b"".join(some))
            await self.hear(wait=False)

    async def hear(self, *, wait=True):
        """Reads what has come, or what comes next."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self.plain, 2**16) if wait else self.plain.recv(2**16)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            self.is_over = not data
            self._rest += data
            while len(self._rest) >= 9 and len(self._rest) >= (size := 9 + int.from_bytes(self._rest[:3], "big")):
                self.said += parsed(self._rest[:size])
                self._rest = self._rest[size:]
            if wait or self.is_over:
                return

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not (found := condition()):
                assert not self.is_over, f"the server has hung up: {self.names()}"
                await self.hear()
            return found

    async def end(self):
        """Reads until the server hangs up. The code of its GOAWAY, None without one."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.is_over:
                await self.hear()
        codes = [Code(int.from_bytes(payload[4:8], "big")) for payload in self.payloads(GOAWAY)]
        assert len(codes) <= 1
        return codes[0] if codes else None

    def payloads(self, wanted):
        return [payload for kind, _, _, payload in self.said if kind == wanted]

    def names(self):
        return [NAMES[kind] for kind, *_ in self.said]

    def resets(self):
        return {stream: Code(int.from_bytes(payload, "big")) for kind, _, stream, payload in self.said if kind == RST}

    def statuses(self):
        """What the server said at the end of streams: status and words."""
        ends = {stream: payload for kind, flags, stream, payload in self.said if kind == HEAD and flags & END_STREAM}
        fields = {stream: dict(Decoder().decode(payload)) for stream, payload in ends.items()}
        return {stream: (int(found["grpc-status"]), found.get("grpc-message", "")) for stream, found in fields.items()}


class Stage:
    """A transport, a good neighbour on it, and what was counted since."""

    def __init__(self, transport, service, port):
        self.transport, self.service, self.port = transport, service, port
        self.peers, self.everyone = [], []

    async def peer(self, said=HELLO, *, read_buffer=None):
        plain = socket.socket()
        plain.setblocking(False)
        if read_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        self.peers.append(Peer(plain))
        self.everyone.append(self.peers[-1])
        await self.peers[-1].say(said)
        return self.peers[-1]

    @property
    def refused(self):
        return dict(self.transport.counters.refused)

    @property
    def calls(self):
        """Opened by attackers."""
        return self.transport.counters.calls - 1

    def buffered(self):
        """Bytes that wait in sockets of the server."""
        return sum(link._transport.get_write_buffer_size() for link in self.transport.links)


@asynccontextmanager
async def under_attack(*, tick_s=NEVER_S, **limits):
    """A neighbour speaks before, while (through `stage.neighbour`) and after the attack; then nothing of the attacker is left.

    Strain is set back by no tick, unless one is asked for: so it does not matter how fast the machine is.
    """
    service = Echo()
    methods = [
        Method(path=PATH, service=service),
        Method(path=BIG, service=service.big),
        Method(path=NO, service=service.no),
        Method(path=STUMBLE, service=service.stumble),
        Method(path=UNARY, service=service.unary, kind=Kind.UNARY),
    ]
    transport = WireTransport(methods, limits=Limits(**limits))
    transport._tick_s = tick_s
    stage = Stage(transport, service, await transport.serve("127.0.0.1:0"))
    try:
        good = await stage.peer(HELLO + WIDE + opening(1))
        stage.peers.remove(good)

        async def neighbour(body=b"hello"):
            del good.said[:]
            message = prefixed(body)
            await good.say(b"".join(frame(DATA, 0, 1, message[at : at + MAX_FRAME]) for at in range(0, len(message), MAX_FRAME)))
            await good.until(lambda: sum(map(len, good.payloads(DATA))) >= len(message))
            assert b"".join(good.payloads(DATA)) == message

        stage.neighbour = neighbour
        await neighbour()
        before = rss_mib()
        yield stage
        await neighbour(bytes(70_000))
        assert rss_mib() - before < GROWTH_MIB
        for peer in stage.peers:
            peer.plain.close()
        await until(lambda: len(transport.links) == 1)
        assert transport.server.assembling == 0
        assert (service.opened - service.closed, len(service.outlets)) == (1, 1), "a session was left behind"
        await neighbour()
        good.plain.close()
    finally:
        await transport.stop(0.1)
        for peer in stage.everyone:
            peer.plain.close()
