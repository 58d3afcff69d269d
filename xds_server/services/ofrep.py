"""Feature flags for applications: the variant a user gets, by the same answer as the proxies', so that code paths and traffic agree.

The key of a flag is a rollout's name, its value the name of the variant; `targetingKey` is the value of the sticky header or cookie, and what
else is in the context are headers for the segments. Nothing is kept, nothing is changed; an answer costs microseconds.
Neighbours: `policies.assign` decides; `http_api` mounts the routes. Source: OpenFeature Remote Evaluation Protocol 0.3, `service/openapi.yaml`.
"""

import json
from collections.abc import Mapping
from itertools import chain
from typing import Final

import xxhash
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from policies import assign
from policies.assign import Ground, Placement
from policies.spec.policy import Assignment
from xds_server.resources.names import salted
from xds_server.services import bodies
from xds_server.services.control import NAME, Control, Json, JsonObject

BODY_MAX_BYTES: Final = 64 * 1024
KEY: Final = "targetingKey"

REASONS: Final = {Ground.SEGMENT: "TARGETING_MATCH", Ground.SHARE: "SPLIT", Ground.EVERYBODY: "STATIC", Ground.DRAWN: "DEFAULT"}
"""DEFAULT: users are not told apart, so the proxies draw every request anew and nobody can say what they will draw."""


class ContextError(ValueError):
    """A context that cannot be answered. `code` is one of the protocol's."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code = code


def routes(control: Control) -> list[Route]:
    flags = _Flags(control)
    return [
        Route("/ofrep/v1/evaluate/flags", flags.all, methods=["POST"]),
        Route("/ofrep/v1/evaluate/flags/{key}", flags.one, methods=["POST"]),
    ]


class _Flags:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def one(self, request: Request) -> Response:
        key = str(request.path_params["key"])
        try:
            context = _context(await bodies.read(request, BODY_MAX_BYTES))
            found = self._control.placement(key) if NAME.match(key) else None
            if found is None:
                return bodies.answer(_failure(key, "FLAG_NOT_FOUND", f"there is no rollout {key[:100]!r}"), status=404)
            return bodies.answer(evaluate(found, context))
        except bodies.BodyError as error:
            return bodies.answer(_failure(key, "GENERAL", str(error)), status=error.status)
        except ContextError as error:
            return bodies.answer(_failure(key, error.code, str(error)), status=400)

    async def all(self, request: Request) -> Response:
        try:
            context = _context(await bodies.read(request, BODY_MAX_BYTES))
        except bodies.BodyError as error:
            return bodies.answer({"errorCode": "GENERAL", "errorDetails": str(error)}, status=error.status)
        except ContextError as error:
            return bodies.answer({"errorCode": error.code, "errorDetails": str(error)}, status=400)
        flags = [self._flag(name, context) for name in self._control.names()]
        body = bodies.dump({"flags": [flag for flag in flags if flag is not None]})
        tag = f'"{xxhash.xxh3_128_hexdigest(body)}"'
        known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
        if known & {tag, "*"}:
            return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
        # Unlike the other answers it may be kept, as long as we are asked whether it still holds.
        return Response(body, media_type="application/json", headers={**bodies.HEADERS, "Cache-Control": "no-cache", "ETag": tag})

    def _flag(self, name: str, context: Mapping[str, str]) -> JsonObject | None:
        found = self._control.placement(name)
        try:
            return None if found is None else evaluate(found, context)
        except ContextError as error:
            return _failure(name, error.code, str(error))


def evaluate(placement: Placement, context: Mapping[str, str]) -> JsonObject:
    """The flag of one rollout. Raises: ContextError."""
    assignment = placement.assignment
    user = _user(assignment, context)
    number = xxhash.xxh64_intdigest(salted(user, placement.rollout, assignment).encode()) if user else 0
    found = assign.answer(assignment, placement.now, number=number, headers=_headers(assignment, context, user))
    metadata: JsonObject = {
        "rollout": placement.rollout,
        "version": dict(placement.versions).get(found.variant, ""),
        "generation": placement.generation,
        "share": assign.share_of(placement.now, found.variant),
    }
    if found.segment:
        metadata["segment"] = found.segment
    return {
        "key": placement.rollout,
        "reason": REASONS[found.ground],
        "variant": found.variant,
        "value": found.variant,
        "metadata": metadata,
    }


def _user(assignment: Assignment, context: Mapping[str, str]) -> str:
    """The user's name as the proxies see it, "" where nobody needs one.

    It is asked for even while all get the same: an application that forgets it should hear so before the release and not in it.
    """
    if not assignment.sticky:
        return ""
    user = context.get(KEY, "").strip(" \t")
    if not user:
        named = f"the header {assignment.sticky_header}" if assignment.cookie is None else f"the cookie {assignment.cookie.name}"
        raise ContextError("TARGETING_KEY_MISSING", f"{KEY} is missing: the value of {named}, which names the user")
    return user


def _headers(assignment: Assignment, context: Mapping[str, str], user: str) -> dict[str, str]:
    if not assignment.segments:
        return {}
    headers = {name.lower().replace("_", "-"): value for name, value in context.items() if name != KEY}
    if assignment.sticky_header is not None:
        headers[assignment.sticky_header] = user
    return headers


def _text(value: Json) -> str:
    """A value as it would stand in a header."""
    return value if isinstance(value, str) else json.dumps(value)


def _context(body: bytes) -> Mapping[str, str]:
    """What is known of a user, as text."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ContextError("PARSE_ERROR", 'the body is not JSON such as {"context": {"targetingKey": "user-1"}}') from None
    context = found.get("context", {}) if isinstance(found, dict) else None
    if not isinstance(context, dict) or not isinstance(context.get(KEY, ""), str | int):
        raise ContextError("INVALID_CONTEXT", f"the context is not an object, or its {KEY} is not a text")
    try:
        texts = {name: _text(value) for name, value in context.items() if value is not None}
        "".join(chain.from_iterable(texts.items())).encode()
    except (UnicodeEncodeError, RecursionError):
        raise ContextError("INVALID_CONTEXT", "a text of the context cannot be encoded") from None
    return texts


def _failure(key: str, code: str, details: str) -> JsonObject:
    return {"key": key, "errorCode": code, "errorDetails": details}
