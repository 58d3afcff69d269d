"""The JSON API over HTTP: reads the control port, acts on it, tells every failure in one form.

    {"error": {"code": "unknown_rollout", "message": "there is no rollout 'chta'", "hint": "GET /v1/rollouts lists them"}}

Meant for loopback: whoever reaches it may act. A web page of another origin may not (its POSTs are refused). Nothing a client sends can
grow memory: bodies, watchers and answers are bounded, and a slow watcher skips states instead of queueing them.
Neighbours: `control` is the port; the runtime serves the app.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from policies.assign import Placement
from xds_server.services import bodies, ofrep, webhook
from xds_server.services.control import (
    HISTORY_DEFAULT,
    HISTORY_MAX,
    NAME,
    NAME_HINT,
    NODE_MAX,
    TEXT_MAX,
    VERBS,
    VERBS_OF_ALL,
    WATCHERS_MAX,
    ActError,
    BlockListener,
    Control,
    Fault,
    Json,
    JsonObject,
)
from xds_server.services.metrics import CONTENT_TYPE_LATEST

BODY_MAX_BYTES = 64 * 1024
DIFF_MAX_BYTES = 8 * 1024 * 1024
"""The loop stands still while it is parsed: a hostile one of this size costs a second, and leases last several."""

DIFF_FILES_MAX = 10_000
PUSHES_MAX = 4
"""Calls of git servers that are read at once: nobody has signed before the whole body is there."""

HEARTBEAT_S = 5.0
"""A watcher hears something at least this often [s]; a client that left is noticed as fast."""

STUCK_S = 30.0
"""A watcher that does not read for so long is let go [s]."""

HTTP_STATUS: dict[Fault, int] = {
    Fault.UNKNOWN_ROLLOUT: 404,
    Fault.UNKNOWN_VERB: 404,
    Fault.REFUSED: 409,
    Fault.STORE_UNAVAILABLE: 503,
    Fault.NOT_READY: 503,
}

_FILES_HINT = 'such as {"files": {"chat.yaml": "apiVersion: crossfade/v1 ..."}}'
PLACEMENT: Final = TypeAdapter(Placement)
"""A placement as `GET /v1/rollouts/NAME/assignment` has it."""

_INDEX = (
    "crossfade: there is no console yet, but an API:\n\n"
    "GET  /v1/rollouts                 all rollouts and the faults of the policy files\n"
    "GET  /v1/rollouts/NAME            one rollout\n"
    "GET  /v1/rollouts/NAME/history    its decisions (?last=20)\n"
    "GET  /v1/rollouts/NAME/blocks     its evidence as it arrives (server-sent events)\n"
    "GET  /v1/rollouts/NAME/assignment who gets which variant, now and in the steps to come\n"
    f"POST /v1/rollouts/NAME:VERB       {', '.join(VERBS)}\n"
    f"POST /v1/rollouts:VERB            all of them: {', '.join(VERBS_OF_ALL)}\n"
    "POST /v1/policies:diff            what other policy files would change\n"
    "POST /v1/policies:changed         the git server says that there was a push\n"
    "POST /ofrep/v1/evaluate/flags     feature flags (OpenFeature): /NAME for one rollout\n"
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
    to: str = ""
    dry_run: bool = False


def app(control: Control) -> Starlette:
    """The ASGI application."""
    api = _Api(control)
    return Starlette(
        routes=[
            Route("/", api.index),
            Route("/v1/rollouts", api.rollouts, methods=["GET"]),
            Route("/v1/rollouts:{verb}", api.act_on_all, methods=["POST"]),
            Route("/v1/rollouts/{name}", api.rollout, methods=["GET"]),
            Route("/v1/rollouts/{name}:{verb}", api.act, methods=["POST"]),
            Route("/v1/rollouts/{name}", api.no_verb, methods=["POST"]),
            Route("/v1/rollouts/{name}/history", api.history),
            Route("/v1/rollouts/{name}/assignment", api.assignment),
            Route("/v1/rollouts/{name}/blocks", api.blocks),
            Route("/v1/policies:diff", api.diff, methods=["POST"]),
            Route("/v1/policies:changed", api.changed, methods=["POST"]),
            *ofrep.routes(control),
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
        self._diffing = False
        self._pushes = 0

    # Reading.

    async def index(self, _: Request) -> Response:
        return Response(_INDEX, media_type="text/plain", headers=bodies.HEADERS)

    async def rollouts(self, _: Request) -> Response:
        return bodies.answer(self._all())

    async def rollout(self, request: Request) -> Response:
        name, colon, verb = request.path_params["name"].partition(":")
        if colon:
            raise ApiError(405, "method_not_allowed", f"{verb or 'a verb'} is a POST", hint=f"POST {request.url.path}")
        found = self._control.rollout(_checked(name))
        if found is None:
            raise _unknown(name)
        return bodies.answer(found)

    async def history(self, request: Request) -> Response:
        name = _checked(request.path_params["name"])
        found = await self._control.history(name, _last(request.query_params.get("last")))
        if found is None:
            raise _unknown(name)
        return bodies.answer({"history": list(found)})

    async def assignment(self, request: Request) -> Response:
        name = _checked(request.path_params["name"])
        found = self._control.placement(name)
        if found is None:
            raise _unknown(name)
        return Response(PLACEMENT.dump_json(found), media_type="application/json", headers=bodies.HEADERS)

    async def proxies(self, request: Request) -> Response:
        node = request.query_params.get("node", "*")
        if len(node) > NODE_MAX:
            raise ApiError(400, "bad_request", f"node={node[:100]}... is longer than {NODE_MAX} characters", hint="such as node=edge-*")
        return bodies.answer({"proxies": list(self._control.proxies(node)), "groups": list(self._control.groups())})

    async def metrics(self, _: Request) -> Response:
        return Response(self._control.metrics(), headers={**bodies.HEADERS, "Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, _: Request) -> Response:
        return bodies.answer({"alive": True})

    async def readyz(self, _: Request) -> Response:
        health = self._control.health()
        return bodies.answer({"ready": health.ready, "waiting_for": list(health.waiting_for)}, status=200 if health.ready else 503)

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

    async def blocks(self, request: Request) -> Response:
        name = _checked(request.path_params["name"])
        if self._control.rollout(name) is None:
            raise _unknown(name)
        if self._control.blocks(name) is None:
            raise ApiError(503, "too_many_listeners", "as many clients as may are listening to evidence", hint="end a `crossfade record`")

        async def tell(send: Callable[[bytes], Awaitable[None]]) -> None:
            listening = self._control.blocks(name)
            if listening is not None:  # else others were faster
                with listening as listener:
                    await _tell_blocks(listener, send)

        return _Watch(tell)

    def _event(self, version: int) -> bytes:
        """One state as an event; written once for all watchers."""
        if self._written[0] != version:
            self._written = (version, b"event: rollouts\nid: %d\ndata: %s\n\n" % (version, bodies.dump(self._all())))
        return self._written[1]

    # Acting.

    async def no_verb(self, request: Request) -> Response:
        raise ApiError(
            405, "method_not_allowed", "a POST needs a verb", hint=f"POST {request.url.path}:VERB, VERB one of {', '.join(VERBS)}"
        )

    async def act(self, request: Request) -> Response:
        _same_origin(request)
        name, verb = _checked(request.path_params["name"]), str(request.path_params["verb"])
        _known_verb(verb, VERBS)
        return bodies.answer(await self._act(name, verb, _parse_act(await _body(request))))

    async def act_on_all(self, request: Request) -> Response:
        """Each rollout by itself; one that refuses does not keep the others from obeying."""
        _same_origin(request)
        verb = str(request.path_params["verb"])
        _known_verb(verb, VERBS_OF_ALL)
        wanted = _parse_act(await _body(request))
        done: list[Json] = []
        for name in self._control.names():
            try:
                done.append({"rollout": name, "record": await self._act(name, verb, wanted)})
            except ActError as error:
                done.append({"rollout": name, "error": {"code": error.fault.value, "message": error.message, "hint": error.hint}})
        return bodies.answer({"acts": done})

    async def _act(self, name: str, verb: str, wanted: "_Act") -> JsonObject:
        return await self._control.act(
            name,
            verb,
            to=wanted.to,
            reason=wanted.reason,
            actor=wanted.actor,
            idempotency_key=wanted.idempotency_key,
            dry_run=wanted.dry_run,
        )

    # Policies.

    async def diff(self, request: Request) -> Response:
        _same_origin(request)
        if self._diffing:
            raise ApiError(503, "busy", "another diff is being made", hint="try again")
        self._diffing = True
        try:
            texts, whole = _parse_texts(await _body(request, DIFF_MAX_BYTES))
            return bodies.answer(await asyncio.to_thread(self._control.diff, texts, whole=whole))
        finally:
            self._diffing = False

    async def changed(self, request: Request) -> Response:
        if self._pushes >= PUSHES_MAX:
            raise ApiError(503, "busy", f"{PUSHES_MAX} calls are being read already", hint="the push is found by polling")
        self._pushes += 1
        try:
            body = await _body(request, webhook.BODY_MAX_BYTES)
        finally:
            self._pushes -= 1
        if not self._control.policies_changed(body, request.headers):
            raise ApiError(
                403, "not_signed", "the call is not signed with our secret", hint="give both sides the same one: --webhook-secret-file"
            )
        return bodies.answer({"looking": True}, status=202)


class _Watch(StreamingResponse):
    """Server-sent events written by `tell`; ends when the client leaves or does not read for `STUCK_S`, and neither is an error."""

    def __init__(self, tell: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]) -> None:
        super().__init__((), headers={**bodies.HEADERS, "X-Accel-Buffering": "no"}, media_type="text/event-stream")
        self._tell = tell

    async def stream_response(self, send: Send) -> None:
        async def write(body: bytes) -> None:
            async with asyncio.timeout(STUCK_S):
                await send({"type": "http.response.body", "body": body, "more_body": True})

        with contextlib.suppress(OSError, TimeoutError):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._tell(write)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _tell_blocks(listener: BlockListener, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Sends blocks as they come, and before them how many were lost, until cancelled."""
    await send(b"event: listening\ndata: {}\n\n")
    while True:
        lost, block = await listener.take(HEARTBEAT_S)
        if lost:
            await send(b'event: lost\ndata: {"lost": %d}\n\n' % lost)
        await send(b": alive\n\n" if block is None else b"event: block\ndata: %s\n\n" % block)


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


def _known_verb(verb: str, known: Sequence[str]) -> None:
    if verb not in known:
        message = f"{verb} is for one rollout" if verb in VERBS else f"there is no verb {verb[:100]!r}"
        raise ApiError(404, Fault.UNKNOWN_VERB.value, message, hint=f"one of {', '.join(known)}")


def _last(text: str | None) -> int:
    if text is None:
        return HISTORY_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= HISTORY_MAX):
        raise ApiError(400, "bad_request", f"last={text[:100]} is not a number of records", hint=f"1 to {HISTORY_MAX}")
    return int(text)


async def _body(request: Request, most: int = BODY_MAX_BYTES) -> bytes:
    try:
        return await bodies.read(request, most)
    except bodies.BodyError as error:
        code = {408: "too_slow", 413: "too_large"}.get(error.status, "bad_request")
        hint = "an act needs a reason, not a novel" if error.status == 413 and most == BODY_MAX_BYTES else ""
        raise ApiError(error.status, code, str(error), hint=hint) from None


def _parse_texts(body: bytes) -> tuple[dict[str, bytes], bool]:
    """The files of a diff, and whether they are all there would be: {"files": {name: text}, "whole": false}."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "bad_json", "the body is not JSON", hint=_FILES_HINT) from None
    files, whole = (found.get("files"), found.get("whole", False)) if isinstance(found, dict) else (None, False)
    if not isinstance(files, dict) or not isinstance(whole, bool) or not all(isinstance(text, str) for text in files.values()):
        raise ApiError(400, "bad_request", "the body has no files", hint=_FILES_HINT)
    if len(files) > DIFF_FILES_MAX:
        raise ApiError(413, "too_large", f"the body has more than {DIFF_FILES_MAX} files", hint="compare a part of them")
    return {name: text.encode("utf-8", "replace") for name, text in files.items()}, whole


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


def _error(status: int, code: str, message: str, hint: str, headers: Mapping[str, str] | None = None) -> Response:
    return bodies.answer({"error": {"code": code, "message": message, "hint": hint}}, status=status, headers=headers)


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
