"""The JSON API over HTTP: reads the control port, acts on it, tells every failure in one form.

    {"error": {"code": "unknown_rollout", "message": "there is no rollout 'chta'", "hint": "GET /v1/rollouts lists them"}}

Meant for loopback: whoever reaches it may act. A web page of another origin may not (its POSTs are refused). Nothing a client sends can
grow memory: bodies, watchers and answers are bounded, and a slow watcher skips states instead of queueing them.
Neighbours: `control` is the port; the runtime serves the app.
"""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from xds_server.services.control import HISTORY_MAX, LATER_VERBS, VERBS, ActError, Control, Fault, Json, JsonObject
from xds_server.services.metrics import CONTENT_TYPE_LATEST

BODY_MAX_BYTES = 64 * 1024
WATCHERS_MAX = 64
HEARTBEAT_S = 5.0
"""A watcher hears something at least this often [s]; a client that left is noticed as fast."""

HISTORY_DEFAULT = 20
TEXT_MAX = {"reason": 2000, "actor": 200, "idempotency_key": 200}
"""Longest texts of an act [characters]: they are kept for good in the decision record."""

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
"""A DNS label, as rollouts are named."""

HTTP_STATUS: dict[Fault, int] = {
    Fault.UNKNOWN_ROLLOUT: 404,
    Fault.UNKNOWN_VERB: 404,
    Fault.REFUSED: 409,
    Fault.STORE_UNAVAILABLE: 503,
    Fault.NOT_READY: 503,
}

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_INDEX = (
    "crossfade: there is no console yet, but an API:\n\n"
    "GET  /v1/rollouts                 all rollouts and the faults of the policy files\n"
    "GET  /v1/rollouts/NAME            one rollout\n"
    "GET  /v1/rollouts/NAME/history    its decisions (?last=20)\n"
    "POST /v1/rollouts/NAME:VERB       abort, promote, pause, resume\n"
    "GET  /v1/watch                    the first, again at every change (server-sent events)\n"
    "GET  /v1/proxies                  connected proxies and their groups\n"
    "GET  /metrics  /healthz  /readyz\n"
)


class ApiError(Exception):
    """A request that cannot be answered, as the client is told."""

    def __init__(self, status: int, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Act:
    """The body of a POST, checked."""

    reason: str = ""
    actor: str = "api"
    idempotency_key: str = ""
    dry_run: bool = False


def app(control: Control) -> Starlette:
    """The ASGI application."""
    api = _Api(control)
    return Starlette(
        routes=[
            Route("/", api.index),
            Route("/v1/rollouts", api.rollouts),
            Route("/v1/rollouts/{name}", api.rollout, methods=["GET"]),
            Route("/v1/rollouts/{name}:{verb}", api.act, methods=["POST"]),
            Route("/v1/rollouts/{name}", api.no_verb, methods=["POST"]),
            Route("/v1/rollouts/{name}/history", api.history),
            Route("/v1/watch", api.watch),
            Route("/v1/proxies", api.proxies),
            Route("/metrics", api.metrics),
            Route("/healthz", api.healthz),
            Route("/readyz", api.readyz),
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _bug},
    )


class _Api:
    """The endpoints."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._watchers = 0
        self._written: tuple[int, bytes] = (-1, b"")

    # Reading.

    async def index(self, _: Request) -> Response:
        return Response(_INDEX, media_type="text/plain", headers=_HEADERS)

    async def rollouts(self, _: Request) -> Response:
        return _json(self._all())

    async def rollout(self, request: Request) -> Response:
        name, colon, verb = request.path_params["name"].partition(":")
        if colon:
            raise ApiError(405, "method_not_allowed", f"{verb or 'a verb'} is a POST", hint=f"POST {request.url.path}")
        found = self._control.rollout(_checked(name))
        if found is None:
            raise _unknown(name)
        return _json(found)

    async def history(self, request: Request) -> Response:
        name = _checked(request.path_params["name"])
        found = await self._control.history(name, _last(request.query_params.get("last")))
        if found is None:
            raise _unknown(name)
        return _json({"history": list(found)})

    async def proxies(self, _: Request) -> Response:
        return _json({"proxies": list(self._control.proxies()), "groups": list(self._control.groups())})

    async def metrics(self, _: Request) -> Response:
        return Response(self._control.metrics(), headers={**_HEADERS, "Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, _: Request) -> Response:
        return _json({"alive": True})

    async def readyz(self, _: Request) -> Response:
        health = self._control.health()
        return _json({"ready": health.ready, "waiting_for": list(health.waiting_for)}, status=200 if health.ready else 503)

    def _all(self) -> JsonObject:
        return {"rollouts": list(self._control.rollouts()), "policy_errors": list(self._control.policy_errors())}

    # Watching.

    async def watch(self, request: Request) -> Response:
        if self._watchers >= WATCHERS_MAX:
            raise ApiError(503, "too_many_watchers", f"{WATCHERS_MAX} clients are watching already", hint="poll GET /v1/rollouts instead")
        return _Events(partial(self._events, request), headers={**_HEADERS, "X-Accel-Buffering": "no"}, media_type="text/event-stream")

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        self._watchers += 1
        try:
            version = self._control.version()
            yield self._event(version)
            while not await request.is_disconnected():
                newer = await self._control.wait_change(version, HEARTBEAT_S)
                yield b": alive\n\n" if newer == version else self._event(newer)
                version = newer
        finally:
            self._watchers -= 1

    def _event(self, version: int) -> bytes:
        """One state as an event; written once for all watchers."""
        if self._written[0] != version:
            self._written = (version, b"event: rollouts\nid: %d\ndata: %s\n\n" % (version, _dump(self._all())))
        return self._written[1]

    # Acting.

    async def no_verb(self, request: Request) -> Response:
        raise ApiError(405, "method_not_allowed", "a POST needs a verb", hint=f"POST {request.url.path}:VERB, VERB one of {', '.join(VERBS)}")

    async def act(self, request: Request) -> Response:
        _same_origin(request)
        name, verb = _checked(request.path_params["name"]), str(request.path_params["verb"])
        _known_verb(verb)
        wanted = _parse_act(await _body(request))
        record = await self._control.act(
            name,
            verb,
            reason=wanted.reason,
            actor=wanted.actor,
            idempotency_key=wanted.idempotency_key,
            dry_run=wanted.dry_run,
        )
        return _json(record)


class _Events(StreamingResponse):
    """A stream whose source is made when it starts, so that its `finally` runs for certain; a client that left is no error."""

    def __init__(self, source: partial[AsyncIterator[bytes]], *, headers: dict[str, str], media_type: str) -> None:
        super().__init__(source(), headers=headers, media_type=media_type)

    async def stream_response(self, send: "Send") -> None:
        try:
            await super().stream_response(send)
        except (OSError, ClientDisconnect):
            pass
        finally:
            await self.body_iterator.aclose()
