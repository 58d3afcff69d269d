"""What is below any server in Python on uvloop: frames are walked and messages counted, nothing is looked at, and all are sent the same bytes.

It takes the place of hub and transport in `bench.fanout_server`. What a real server costs beyond it in the same run is what its Python costs;
the rest is the kernel's, the loop's and the machine's mood. State of the world, one type, one stream per connection, no TLS, no limits.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf.any_pb2 import Any

from bench.synthetic import TYPES, body
from xds_server.wire import frames
from xds_server.wire.grpc import HEADERS_BLOCK, PREFIX_BYTES
from xds_server.wire.shared import framed

_GREETING = (
    frames.pack_settings({frames.INITIAL_WINDOW_SIZE: 2**24})
    + frames.window_update(0, 2**24)
    + frames.frame(frames.SETTINGS, frames.ACK, 0, b"")
    + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, HEADERS_BLOCK)
)
_OFFERED = 256


class Floor:
    """All connections, and the one message they are sent."""

    def __init__(self, types: str, size: int, answered: Callable[[], None]) -> None:
        self.answered = answered
        self.links: dict[_Link, None] = {}
        self.update = b""
        self._types, self._size = types, size
        self._due: list[_Link] = []
        self._listener: asyncio.Server | None = None

    async def serve(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._listener = await asyncio.get_running_loop().create_server(lambda: _Link(self), host, int(port), backlog=4096)

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def push(self, version: int) -> None:
        (url,) = TYPES[self._types]
        resource = Any(type_url=url, value=body(url, version, self._size))
        message = DiscoveryResponse(version_info=str(version), type_url=url, nonce=str(version), resources=[resource])
        self.update = b"".join(framed(message.SerializeToString(), 1))
        self._due = list(self.links)
        self._offer()

    def _offer(self) -> None:
        due, self._due = self._due[:_OFFERED], self._due[_OFFERED:]
        for link in due:
            link.write(self.update)
        if self._due:
            asyncio.get_running_loop().call_soon(self._offer)


class _Link(asyncio.Protocol):
    """One connection: `got` of a message of `wanted` bytes came, and `skip` bytes of the next read belong to a frame that has begun."""

    __slots__ = ("_asked", "_floor", "_got", "_greeted", "_skip", "_wanted", "write")

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._got = self._skip = self._wanted = 0
        self._asked = self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast("asyncio.WriteTransport", transport).write
        self._floor.links[self] = None

    def connection_lost(self, _: Exception | None) -> None:
        self._floor.links.pop(self, None)

    def data_received(self, data: bytes) -> None:
        at, end = self._skip, len(data)
        if not self._greeted:
            self._greeted, at = True, len(frames.PREFACE)
            self.write(_GREETING + self._floor.update)
        while at < end:
            word, _, stream_id = frames.unpack_head(data, at)
            size = word >> 8
            if stream_id and not word & 0xFF:
                self._took(data, at + frames.HEAD_BYTES, size)
            at += frames.HEAD_BYTES + size
        self._skip = at - end

    def _took(self, data: bytes, start: int, size: int) -> None:
        if not self._got:
            self._wanted = PREFIX_BYTES + int.from_bytes(data[start + 1 : start + PREFIX_BYTES], "big")
        self._got += size
        if self._got >= self._wanted:
            self._got = 0
            if self._asked:
                self._floor.answered()
            self._asked = True
