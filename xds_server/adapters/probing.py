"""Runs the probe of one arm: a policy's requests to its ready pods, before any user's, and what is wrong with the answers.

The requests go to the pods directly, each on a connection of its own (a kept or shared one that is closed just then would look like a failure of
the pod), and are what Envoy would make of them: the variant's headers, path and model. A pod that is slower than the rate gets fewer requests, not a queue.
How it stands is read from `Probe.found` at any time. Neighbours: `readiness` knows the pods, `schema` holds bodies against a JSON Schema,
`runtime.watch` starts and stops probes. Source: the meaning of `Variant.config` in `policies.spec.policy`.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from urllib.parse import quote

import httpx

from policies.rollout import Probing
from policies.spec.policy import Config, Expect, ProbeRequest, ProbeStep, TrafficSpec, Variant
from xds_server.adapters.readiness import named, printable
from xds_server.adapters.resolving import Place
from xds_server.adapters.schema import Schema

AT_ONCE = 8
"""Requests in flight per arm."""

ENOUGH_BAD = 3
"""Bad answers after which the rest is not asked."""

BODY_MAX = 1024 * 1024
"""Bytes of an answer that are held against a schema; a longer one does not fit."""

NO_PODS_S = 0.25
"""How often to look while no pod is ready [s]."""

MAX_WORDS = 300

PROBE_HEADER = "x-crossfade-probe"
"""Names the rollout, so that a pod with side effects can tell probes from users' requests."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once: the library makes a slow one even for plain HTTP."""

_FRAMING = frozenset({"connection", "content-length", "transfer-encoding", "te", "upgrade", "keep-alive"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A probe's request as one variant gets it; `host` "" = the pod's own address."""

    method: str
    path: str
    host: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. `body`: as far as it was kept, None = longer than that; `trouble`: why there is no whole answer."""

    status: int = 0
    body: bytes | None = b""
    trouble: str = ""


def asked(request: ProbeRequest, *, rollout: str, where: TrafficSpec, config: Config) -> Asked:
    """The request as Envoy would pass it on to a variant of this configuration."""
    body = modelled(request.body, config.model)
    headers = {"user-agent": "crossfade", "accept-encoding": "identity", PROBE_HEADER: rollout}
    if body[:1] in {"{", "["}:
        headers["content-type"] = "application/json"
    headers |= {name.lower(): value for name, value in request.headers if name.lower() not in _FRAMING}
    headers |= dict(config.headers)
    plain = (match.host for match in where.match if "*" not in match.host)
    host = headers.pop("host", "") or next(plain, "")
    path = rewritten(request.path, where, config.path)
    return Asked(method=request.method, path=path, host=host, headers=tuple(headers.items()), body=body.encode(errors="replace"))


def rewritten(path: str, where: TrafficSpec, prefix: str | None) -> str:
    """With another prefix in the place of the longest one of the rollout that fits; unchanged if none does."""
    fitting = [match.path_prefix for match in where.match if path.startswith(match.path_prefix)]
    if prefix is None or not fitting:
        return path
    return prefix + path[len(max(fitting, key=len)) :]


def modelled(body: str, model: str | None) -> str:
    """With another top-level `model`; what is no JSON object or has none is unchanged."""
    if model is None:
        return body
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(value, dict) or "model" not in value:
        return body
    return json.dumps(value | {"model": model})  # in ASCII: half of a surrogate pair can be written there and nowhere else


def fault(answer: Answer, expect: Expect) -> str:
    """What is wrong with an answer, its schema left out; "" for nothing."""
    if answer.trouble:
        return answer.trouble
    if answer.status not in expect.statuses:
        return f"answered {answer.status}, expected {' or '.join(map(str, expect.statuses))}"
    if expect.json_schema and answer.body is None:
        return f"answered more than {BODY_MAX // 1024} KiB, too much to hold against a schema"
    return ""


class Probe:
    """One arm's probe. `found` says how far it is; `done` is set at the very end, and with it the words of the first bad answer."""

    def __init__(
        self,
        step: ProbeStep,
        variant: Variant,
        *,
        rollout: str,
        where: TrafficSpec,
        places: Callable[[], Sequence[Place]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        places: The pods that are ready now.
        """
        self.found = Probing()
        self._step = step
        self._http2 = variant.http2
        self._requests = [asked(request, rollout=rollout, where=where, config=variant.config) for request in step.requests]
        self._places = places
        self._clock = clock
        self._in_flight = 0
        self._first_bad = "" if step.requests else "the probe has no requests"
        self._enough = asyncio.Event()

    async def run(self) -> None:
        """Asks until the time is over or enough was bad; time without a ready pod does not count."""
        async with Schema(self._step.expect.json_schema) as schema, asyncio.TaskGroup() as tasks:
            running = await self._send(tasks, schema)
            for task in running if self._enough.is_set() else ():
                task.cancel()
        self.found = replace(self.found, done=True, words=self._first_bad)

    async def _send(self, tasks: asyncio.TaskGroup, schema: Schema) -> set[asyncio.Task[None]]:
        """Sends at the step's rate for its time; returns what is still under way."""
        step, running, numbers = self._step, set[asyncio.Task[None]](), count()
        served_s, pause_s, last = 0.0, 1.0 / step.rate_per_s, self._clock()
        while self._requests and served_s < step.for_s and not self._enough.is_set():
            places = self._places()
            if places and len(running) < AT_ONCE:
                number = next(numbers)
                request, place = self._requests[number % len(self._requests)], places[number % len(places)]
                task = tasks.create_task(self._one(request, place, schema))
                running.add(task)
                task.add_done_callback(running.discard)
            wait_s = min(pause_s, max(step.for_s - served_s, 0.001)) if places else NO_PODS_S
            with suppress(TimeoutError):
                async with asyncio.timeout(max(last + wait_s - self._clock(), 0.0)):
                    await self._enough.wait()
            now = self._clock()
            served_s += min(now - last, wait_s) if places else 0.0
            last = max(last + wait_s, now - pause_s)
        return running

    async def _one(self, request: Asked, place: Place, schema: Schema) -> None:
        expect = self._step.expect
        keep = BODY_MAX if expect.json_schema else 0
        answer = await exchange(request, place, http2=self._http2, within_s=expect.within_s, keep=keep)
        wrong = fault(answer, expect) or await schema.fault(answer.body or b"")
        self.found = replace(self.found, asked=self.found.asked + 1, good=self.found.good + (not wrong))
        if wrong:
            self._first_bad = self._first_bad or printable(f"{request.method} {request.path} to {named(place)}: {wrong}")[:MAX_WORDS]
            if self.found.asked - self.found.good >= ENOUGH_BAD:
                self._enough.set()


async def exchange(request: Asked, place: Place, *, http2: bool, within_s: float, keep: int) -> Answer:
    """Sends one request and reads its answer to the end, at most `keep` bytes of it kept. Whatever a pod does, this does not raise."""
    try:
        async with (
            asyncio.timeout(within_s),
            httpx.AsyncHTTPTransport(verify=NO_TLS, trust_env=False, http1=not http2, http2=http2) as connection,
        ):
            answer = await connection.handle_async_request(_message(request, place))
            try:
                return Answer(status=answer.status_code, body=await _kept(answer, keep))
            finally:
                await answer.aclose()
    except TimeoutError:
        return Answer(trouble=f"no whole answer within {within_s:g} s")
    except Exception as error:  # noqa: BLE001 - what a pod makes the HTTP library raise is an answer of that pod
        return Answer(trouble=f"no answer: {str(error) or type(error).__name__}")


async def _kept(answer: httpx.Response, keep: int) -> bytes | None:
    pieces: list[bytes] = []
    size = 0
    assert isinstance(answer.stream, httpx.AsyncByteStream)
    async for piece in answer.stream:  # as it came: a packed body is not unpacked
        size += len(piece)
        if size <= keep:
            pieces.append(piece)
    return b"".join(pieces) if size <= keep else None


def _message(request: Asked, place: Place) -> httpx.Request:
    target = quote(request.path, safe="/?#[]@!$&'()*+,;=:%~-._").encode()
    headers = [(name.encode(), value.encode()) for name, value in (("host", request.host or named(place)), *request.headers)]
    url = httpx.URL(scheme="http", host=place[0], port=place[1], raw_path=target)
    return httpx.Request(request.method, url, headers=headers, content=request.body)
