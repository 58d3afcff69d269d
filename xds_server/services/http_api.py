"""The JSON API over HTTP: reads the control port, acts on it, tells every failure in one form.

    {"error": {"code": "unknown_rollout", "message": "there is no rollout 'chta'", "hint": "GET /v1/rollouts lists them"}}

Meant for loopback: whoever reaches it may act. A web page of another origin may not (its POSTs are refused). Nothing a client sends can
grow memory: bodies, watchers and answers are bounded, and a slow watcher skips states instead of queueing them.
Neighbours: `control` is the port; the runtime serves the app.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from xds_server.services.control import HISTORY_MAX, LATER_VERBS, NAME, NAME_HINT, VERBS, ActError, Control, Fault, Json, JsonObject
from xds_server.services.metrics import CONTENT_TYPE_LATEST

BODY_MAX_BYTES = 64 * 1024
WATCHERS_MAX = 64
HEARTBEAT_S = 5.0
"""A watcher hears something at least this often [s]; a client that left is noticed as fast."""

STUCK_S = 30.0
"""A watcher that does not read for so long is let go [s]."""

HISTORY_DEFAULT = 20
NODE_MAX = 512
"""Longest pattern of node ids [characters]; an id has no more."""

TEXT_MAX = {"reason": 2000, "actor": 200, "idempotency_key": 200}
"""Longest texts of an act [characters]: they are kept for good in the decision record."""

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
    "GET  /v1/proxies                  connected proxies and their groups (?node=edge-*)\n"
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
        exception_handlers={ApiError: _api_error, ActError: _act_error, HTTPException: _http_error, Exception: _bug},
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

    async def proxies(self, request: Request) -> Response:
        node = request.query_params.get("node", "*")
        if len(node) > NODE_MAX:
            raise ApiError(400, "bad_request", f"node={node[:100]}... is longer than {NODE_MAX} characters", hint="such as node=edge-*")
        return _json({"proxies": list(self._control.proxies(node)), "groups": list(self._control.groups())})

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

    async def watch(self, _: Request) -> Response:
        if self._watchers >= WATCHERS_MAX:
            raise ApiError(503, "too_many_watchers", f"{WATCHERS_MAX} clients are watching already", hint="poll GET /v1/rollouts instead")
        return _Watch(self._tell)

    async def _tell(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Sends the state now and after every change, until cancelled. Only the newest: what a client was too slow for is skipped."""
        self._watchers += 1
        try:
            version = self._control.version()
            await send(self._event(version))
            while True:
                newer = await self._control.wait_change(version, HEARTBEAT_S)
                await send(b": alive\n\n" if newer == version else self._event(newer))
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
        raise ApiError(
            405, "method_not_allowed", "a POST needs a verb", hint=f"POST {request.url.path}:VERB, VERB one of {', '.join(VERBS)}"
        )

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


class _Watch(StreamingResponse):
    """Server-sent events written by `tell`; ends when the client leaves or does not read for `STUCK_S`, and neither is an error."""

    def __init__(self, tell: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]) -> None:
        super().__init__((), headers={**_HEADERS, "X-Accel-Buffering": "no"}, media_type="text/event-stream")
        self._tell = tell

    async def stream_response(self, send: Send) -> None:
        async def write(body: bytes) -> None:
            async with asyncio.timeout(STUCK_S):
                await send({"type": "http.response.body", "body": body, "more_body": True})

        with contextlib.suppress(OSError, TimeoutError):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._tell(write)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _same_origin(request: Request) -> None:
    """A browser says which page sends a POST; only our own may."""
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise ApiError(
            403, "cross_origin", "acts are not taken from pages of another origin", hint="use `crossfade`, or a client of your own"
        )


def _checked(name: str) -> str:
    if not NAME.match(name):
        raise ApiError(400, "bad_name", f"{name[:100]!r} is not a rollout name", hint=NAME_HINT)
    return name


def _unknown(name: str) -> ApiError:
    return ApiError(404, Fault.UNKNOWN_ROLLOUT.value, f"there is no rollout {name!r}", hint="GET /v1/rollouts lists them")


def _known_verb(verb: str) -> None:
    hint = f"one of {', '.join(VERBS)}"
    if verb in LATER_VERBS:
        raise ApiError(404, Fault.UNKNOWN_VERB.value, f"{verb} is not supported yet", hint=hint)
    if verb not in VERBS:
        raise ApiError(404, Fault.UNKNOWN_VERB.value, f"there is no verb {verb[:100]!r}", hint=hint)


def _last(text: str | None) -> int:
    if text is None:
        return HISTORY_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= HISTORY_MAX):
        raise ApiError(400, "bad_request", f"last={text[:100]} is not a number of records", hint=f"1 to {HISTORY_MAX}")
    return int(text)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_MAX_BYTES:
            raise ApiError(413, "too_large", f"the body is larger than {BODY_MAX_BYTES} bytes", hint="an act needs a reason, not a novel")
    return bytes(body)


def _parse_act(body: bytes) -> _Act:
    hint = 'such as {"reason": "bad answers", "idempotency_key": "42", "dry_run": false}'
    try:
        found = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise ApiError(400, "bad_json", "the body is not JSON", hint=hint) from None
    if not isinstance(found, dict):
        raise ApiError(400, "bad_request", "the body is not a JSON object", hint=hint)
    if isinstance(found.get("reason"), str):
        found["reason"] = " ".join(found["reason"].split())
    for key, value in found.items():
        if key == "dry_run":
            if not isinstance(value, bool):
                raise ApiError(400, "bad_request", "dry_run is not true or false", hint=hint)
        elif key not in TEXT_MAX:
            raise ApiError(400, "bad_request", f"unknown key {key[:100]!r}", hint=f"known: {', '.join([*TEXT_MAX, 'dry_run'])}")
        elif not isinstance(value, str) or len(value) > TEXT_MAX[key] or not value.isprintable():
            raise ApiError(400, "bad_request", f"{key} is not a line of text of at most {TEXT_MAX[key]} characters", hint=hint)
    return _Act(**found)


# Answers.


def _dump(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def _json(value: Json, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_dump(value), status_code=status, media_type="application/json", headers={**_HEADERS, **(headers or {})})


def _error(status: int, code: str, message: str, hint: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"error": {"code": code, "message": message, "hint": hint}}, status=status, headers=headers)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error(error.status, error.code, error.message, error.hint)


async def _act_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ActError)
    return _error(HTTP_STATUS[error.fault], error.fault.value, error.message, error.hint)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    code, message = {
        404: ("not_found", f"there is nothing at {path}"),
        405: ("method_not_allowed", f"{request.method[:20]} is not possible at {path}"),
    }.get(error.status_code, ("http", error.detail))
    return _error(error.status_code, code, message, "GET / lists what there is", error.headers)


async def _bug(_: Request, __: Exception) -> Response:
    return _error(500, "bug", "an error of the server; its log has it", "please report it with the log")
