"""A gRPC server without gRPC, for answers that no gRPC library gives: no status, nonsense as a status, a stream that is cut."""

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import StreamEnded, StreamReset

from tests.pods import serving

MESSAGE = b"\0\0\0\0\2ok"


@dataclass(slots=True, kw_only=True)
class Answer:
    """How a pod answers every call; it can be turned while the pod serves.

    Attributes:
        status: `grpc-status` of the end; None = it ends without one.
        messages: Sent before the end; 0 = the answer is one block of headers ("trailers only").
        gap_s: Time before each message [s].
        http: HTTP status.
        cut: Resets the stream in place of ending it.
        hang: Takes calls and never answers.
    """

    status: str | None = "0"
    messages: int = 1
    gap_s: float = 0.0
    http: int = 200
    kind: str = "application/grpc"
    cut: bool = False
    hang: bool = False


@contextlib.asynccontextmanager
async def grpc_pod(answer: Answer):
    """Gives the address."""
    async with serving(partial(_handle, answer)) as (host, port):
        yield f"{host}:{port}"


async def _handle(answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    http.initiate_connection()
    calls: dict[int, asyncio.Task[None]] = {}
    writer.write(http.data_to_send())
    try:
        while data := await reader.read(65_536):
            for event in http.receive_data(data):
                if isinstance(event, StreamEnded):
                    calls[event.stream_id] = asyncio.create_task(_say(answer, http, writer, event.stream_id))
                elif isinstance(event, StreamReset) and event.stream_id in calls:
                    calls[event.stream_id].cancel()
            writer.write(http.data_to_send())
    finally:
        for call in calls.values():
            call.cancel()


async def _say(answer: Answer, http: H2Connection, writer: asyncio.StreamWriter, stream: int) -> None:
    if answer.hang:
        return
    head = [(":status", str(answer.http)), ("content-type", answer.kind)]
    status = [] if answer.status is None else [("grpc-status", answer.status)]
    if not answer.messages:
        http.send_headers(stream, head + status, end_stream=True)
    else:
        http.send_headers(stream, head)
        for _ in range(answer.messages):
            writer.write(http.data_to_send())
            await asyncio.sleep(answer.gap_s)
            http.send_data(stream, MESSAGE)
        if answer.cut:
            http.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        elif status:
            http.send_headers(stream, status, end_stream=True)
        else:
            http.end_stream(stream)
    writer.write(http.data_to_send())
