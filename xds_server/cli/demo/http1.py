"""Just enough HTTP/1.1 for the demo: heads and bodies of one connection, every size bounded.

Used by `front` (server side) and `load` (client side). Source: RFC 9112; no trailers, no upgrades.
"""

import asyncio
from dataclasses import dataclass

HEAD_MAX = 64 * 1024
"""Bytes of a head at most; give it to the stream reader as its limit."""

BODY_MAX = 1024 * 1024
"""Bytes of a request's body at most."""


class HttpError(Exception):
    """The peer does not speak the HTTP this module understands; `status` is what to answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request's or an answer's head; names in lower case, order kept."""

    first: tuple[str, str, str]
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def chunked(self) -> bool:
        return self.get("transfer-encoding").lower() == "chunked"

    @property
    def length(self) -> int | None:
        """Length of the body if the head says so [bytes]."""
        text = self.get("content-length")
        if not text:
            return None
        if not (text.isascii() and text.isdigit()):
            raise HttpError(400, "content-length is not a number")
        return int(text)

    @property
    def status(self) -> int:
        """Of an answer."""
        if not self.first[1].isdigit():
            raise HttpError(502, f"not a status: {self.first[1]!r}")
        return int(self.first[1])

    @property
    def keeps(self) -> bool:
        """Whether the peer keeps the connection after this message."""
        return self.get("connection").lower() != "close" and "HTTP/1.0" not in self.first


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head, or None if the peer closed between messages. Raises: HttpError, ConnectionError."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise HttpError(400, "the connection ended within a head") from None
        return None
    except asyncio.LimitOverrunError:
        raise HttpError(431, f"a head of more than {HEAD_MAX} bytes") from None
    lines = raw.decode("latin-1").split("\r\n")[:-2]
    first = lines[0].split(" ", 2)
    if len(first) < 3 or not ("HTTP/1." in first[0] or "HTTP/1." in first[2]):
        raise HttpError(400, "not an HTTP/1.1 head")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HttpError(400, "not a header line")
        headers.append((name.lower(), value.strip()))
    return Head(first=(first[0], first[1], first[2]), headers=tuple(headers))


async def read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """A request's whole body. Raises: HttpError: Too large or damaged."""
    if not head.chunked:
        length = head.length or 0
        if length > BODY_MAX:
            raise HttpError(413, f"a body of more than {BODY_MAX} bytes")
        return await _exactly(reader, length)
    body = bytearray()
    async for piece in chunks(reader):
        body += piece
        if len(body) > BODY_MAX:
            raise HttpError(413, f"a body of more than {BODY_MAX} bytes")
    return bytes(body)


class chunks:  # noqa: N801  used like a function
    """The pieces of a chunked body. Raises: HttpError: It ends early or is damaged."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def __aiter__(self) -> "chunks":
        return self

    async def __anext__(self) -> bytes:
        line = await _line(self._reader)
        size = line.split(b";", 1)[0].strip()
        try:
            length = int(size, 16)
        except ValueError:
            raise HttpError(400, "not a chunk size") from None
        if not 0 <= length <= BODY_MAX:
            raise HttpError(413, f"a chunk of more than {BODY_MAX} bytes")
        piece = await _exactly(self._reader, length)
        await _exactly(self._reader, 2)
        if not length:
            raise StopAsyncIteration
        return piece


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n")
    except asyncio.IncompleteReadError:
        raise HttpError(400, "the connection ended within a body") from None
    except asyncio.LimitOverrunError:
        raise HttpError(400, "not a chunk size") from None


async def _exactly(reader: asyncio.StreamReader, length: int) -> bytes:
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise HttpError(400, "the connection ended within a body") from None


def message(first: str, headers: tuple[tuple[str, str], ...], body: bytes = b"") -> bytes:
    """One whole message, its length declared."""
    lines = [first, *(f"{name}: {value}" for name, value in headers), f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def head_bytes(first: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")
