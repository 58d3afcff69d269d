"""The HTTP client of the command line: small answers, one stream of events, every call with a time-out.

Made of the standard library's `http.client`: an `abort` should not wait for a big client to be imported.
"""

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from xds_server.cli import exits
from xds_server.cli.exits import CliError
from xds_server.services.control import JsonObject

CONNECT_S: Final = 3.0
ANSWER_S: Final = 15.0
"""Longest wait for an answer [s]; a watched server says something every five seconds."""

ANSWER_MAX_BYTES: Final = 64 * 1024 * 1024


class NotReachedError(CliError):
    """The server does not answer, or what answers is not Crossfade."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(
            f"no crossfade server answers at {address}",
            where=why,
            hint="start one with `crossfade serve`, or name it: --server URL or CROSSFADE_SERVER",
            code=exits.NOT_REACHED,
        )


class AnsweredError(CliError):
    """The server answered with an error."""


class Client:
    """One connection to a server.

    Args:
        address: `http://HOST:PORT`, `https://…`, or `HOST:PORT`.

    Raises: CliError: If the address is not one.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
        self._connection = _connection(self.address, urlsplit(self.address))
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def get(self, path: str) -> JsonObject:
        """Raises: NotReachedError, AnsweredError."""
        return self._read(self._send("GET", path))

    def post(self, path: str, body: JsonObject) -> JsonObject:
        """Sends an act that carries an idempotency key; where the connection breaks after it was sent, it is sent once more.

        Raises: NotReachedError, AnsweredError.
        """
        sent = json.dumps(body).encode()
        try:
            return self._read(self._send("POST", path, sent))
        except _BrokenError:
            self._connection.close()
            return self._read(self._send("POST", path, sent))

    def watch(self, remaining_s: Callable[[], float]) -> Iterator[JsonObject]:
        """The whole state now and after every change, until the server goes away or no time remains.

        Raises: NotReachedError, AnsweredError: Also when the server goes away.
        """
        for _, state in self.events("/v1/watch", remaining_s):
            yield state

    def events(self, path: str, remaining_s: Callable[[], float]) -> Iterator[tuple[str, JsonObject]]:
        """(kind, data) of each server-sent event, until the server goes away or no time remains.

        Raises: NotReachedError, AnsweredError: Also when the server goes away.
        """
        answer = self._send("GET", path)
        if answer.status != http.client.OK:
            self._read(answer)
        kind = b""
        while (left_s := remaining_s()) > 0:
            line = self._line(answer, min(left_s, ANSWER_S))
            if not line and remaining_s() > 0:
                raise NotReachedError(self.address, "it ended the stream")
            if line.startswith(b"event: "):
                kind = line[7:].strip()
            elif line.startswith(b"data: "):
                yield kind.decode("utf-8", "replace"), _object(self.address, line[6:])

    def _line(self, answer: http.client.HTTPResponse, within_s: float) -> bytes:
        """The next line; "" at the end of the stream or of the time, if that is shorter than an answer may take."""
        assert self._socket is not None
        self._socket.settimeout(within_s)
        try:
            return answer.readline(ANSWER_MAX_BYTES)
        except TimeoutError as error:
            if within_s < ANSWER_S:
                return b""
            raise NotReachedError(self.address, _words(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotReachedError(self.address, _words(error)) from None

    def _send(self, method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            if self._connection.sock is None:
                self._connect()
        except (OSError, http.client.HTTPException) as error:
            raise NotReachedError(self.address, _words(error)) from None
        try:
            self._connection.request(method, path, body=body, headers=headers)
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(self.address, _words(error)) from None

    def _connect(self) -> None:
        self._connection.connect()
        connected: socket.socket = self._connection.sock
        connected.settimeout(ANSWER_S)
        self._socket = connected

    def _read(self, answer: http.client.HTTPResponse) -> JsonObject:
        try:
            body = answer.read(ANSWER_MAX_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(self.address, _words(error)) from None
        if len(body) > ANSWER_MAX_BYTES:
            raise NotReachedError(self.address, f"its answer is larger than {ANSWER_MAX_BYTES} bytes")
        found = _object(self.address, body)
        if answer.status >= http.client.BAD_REQUEST:
            raise _answered(self.address, answer.status, found)
        return found


class _BrokenError(NotReachedError):
    """The connection broke after the request was, or may have been, sent."""


def _connection(address: str, parts: SplitResult) -> http.client.HTTPConnection:
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in {"http", "https"} or not host or parts.path or parts.query or parts.username:
        raise CliError(
            f"{address!r} is not the address of a server", where="--server", hint="such as http://127.0.0.1:18080", code=exits.USAGE
        )
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=CONNECT_S)


def _object(address: str, body: bytes) -> JsonObject:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise NotReachedError(address, "what answers there is not crossfade: no JSON object")
    return found


def _answered(address: str, status: int, found: JsonObject) -> AnsweredError:
    error = found.get("error")
    if not isinstance(error, dict):
        return AnsweredError(f"the server answered with HTTP {status}", where=address, code=exits.http_code(status))
    return AnsweredError(
        str(error.get("message", f"HTTP {status}")),
        where=f"said by {address}",
        hint=str(error.get("hint", "")),
        code=exits.http_code(status),
    )


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it takes too long to answer"
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
