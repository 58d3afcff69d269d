"""Bodies of the HTTP API: read up to a limit, written as JSON. Neighbours: `http_api` and `ofrep` share them."""

import asyncio
import json
from collections.abc import Mapping
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from xds_server.services.control import Json

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


PATIENCE_S: Final = 30.0
"""Longest time in which a body arrives [s]: who sends it in drops would keep its memory, or a diff from everybody else."""


class BodyError(ValueError):
    """A body is not taken: it is larger than it may be, too slow, or never came. `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read(request: Request, most: int) -> bytes:
    """Raises: BodyError: As soon as it is too large, not at its end."""
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise BodyError(413, f"the body is larger than {most} bytes")
    except TimeoutError:
        raise BodyError(408, f"the body did not arrive within {PATIENCE_S:g} s") from None
    except ClientDisconnect:
        raise BodyError(400, "the client left") from None  # told to nobody; as an error it would be a page of the log
    return bytes(body)


def dump(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def answer(value: Json, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dump(value), status_code=status, media_type="application/json", headers={**HEADERS, **(headers or {})})
