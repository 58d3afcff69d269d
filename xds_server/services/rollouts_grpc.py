"""The control API over gRPC: `crossfade.v1.Rollouts`, in the types of `proto/crossfade/v1/rollouts.proto`.

Its messages have the names of the JSON that `http_api` gives, so that there is one shape to know; the control port answers both.
Bounded as that: texts, watchers, answers. Neighbours: `control` is the port; `xds_server.runtime.web` serves the handlers, with health and
reflection.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import Message

from xds_server._pb.crossfade.v1 import rollouts_pb2 as pb
from xds_server.services.control import (
    HISTORY_DEFAULT,
    HISTORY_MAX,
    NAME,
    NAME_HINT,
    NODE_MAX,
    TEXT_MAX,
    WATCHERS_MAX,
    ActError,
    Control,
    Fault,
    Json,
    JsonObject,
)

SERVICE: Final = "crossfade.v1.Rollouts"
CHANGE_S: Final = 60.0
"""How long a watch waits for a change at a time [s]; grpc ends it when its client is gone."""

STUCK_S: Final = 30.0
"""A watcher that does not read for so long is let go [s]."""

STATUS: Final = {
    Fault.UNKNOWN_ROLLOUT: grpc.StatusCode.NOT_FOUND,
    Fault.UNKNOWN_VERB: grpc.StatusCode.INVALID_ARGUMENT,
    Fault.REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Fault.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Fault.NOT_READY: grpc.StatusCode.UNAVAILABLE,
}

M = TypeVar("M", bound=Message)


class RpcError(Exception):
    """A call that cannot be answered, as the client is told."""

    def __init__(self, status: grpc.StatusCode, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; hint: {hint}" if hint else message)
        self.status = status


def handler(control: Control) -> grpc.GenericRpcHandler:
    """The service, to be added to a `grpc.aio` server."""
    service = _Rollouts(control)
    unary: dict[str, tuple[Callable[[Any], Awaitable[Message]], type[Message]]] = {
        "List": (service.list, pb.ListRequest),
        "Get": (service.get, pb.GetRequest),
        "Act": (service.act, pb.ActRequest),
        "History": (service.history, pb.HistoryRequest),
        "Proxies": (service.proxies, pb.ProxiesRequest),
    }
    rows = {name: _unary(call, request) for name, (call, request) in unary.items()}
    rows["Watch"] = grpc.unary_stream_rpc_method_handler(
        service.watch, request_deserializer=pb.WatchRequest.FromString, response_serializer=bytes
    )
    return grpc.method_handlers_generic_handler(SERVICE, rows)


def _unary(call: Callable[[Any], Awaitable[Message]], request_type: type[Message]) -> Any:
    async def answer(request: Any, context: Any) -> Message:
        try:
            return await call(request)
        except RpcError as error:
            status, words = error.status, str(error)
        except ActError as error:
            status, words = STATUS[error.fault], f"{error.message}; hint: {error.hint}" if error.hint else error.message
        await context.abort(status, words)
        raise AssertionError("unreachable: abort raises")

    return grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=request_type.FromString, response_serializer=request_type.SerializeToString
    )


class _Rollouts:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._watchers = 0
        self._written: tuple[int, bytes] = (-1, b"")

    async def list(self, _: pb.ListRequest) -> pb.ListResponse:
        return self._all()

    async def get(self, request: pb.GetRequest) -> pb.Rollout:
        found = self._control.rollout(_checked(request.name))
        if found is None:
            raise _unknown(request.name)
        return message(_rollout(found), pb.Rollout())

    async def watch(self, _: pb.WatchRequest, context: Any) -> None:
        """The whole state at each change; only the newest, whatever a client was too slow for. Written once for all watchers."""
        if self._watchers >= WATCHERS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{WATCHERS_MAX} clients are watching already; hint: call List instead")
        self._watchers += 1
        try:
            version = -1
            while True:
                newer = self._control.version() if version < 0 else await self._control.wait_change(version, CHANGE_S)
                if newer != version:
                    version = newer
                    async with asyncio.timeout(STUCK_S):
                        await context.write(self._state(version))
        except TimeoutError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"nothing was read for {STUCK_S:g} s")
        finally:
            self._watchers -= 1

    async def act(self, request: pb.ActRequest) -> pb.Record:
        name = _checked(request.name)
        texts = {key: " ".join(str(getattr(request, key)).split()) if key == "reason" else str(getattr(request, key)) for key in TEXT_MAX}
        for key, text in texts.items():
            if len(text) > TEXT_MAX[key] or not text.isprintable():
                raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"{key} is not a line of text of at most {TEXT_MAX[key]} characters")
        if request.verb not in pb.Verb.values() or request.verb == pb.VERB_UNSPECIFIED:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"there is no verb {request.verb}", "say which of `crossfade.v1.Verb`")
        record = await self._control.act(
            name,
            pb.Verb.Name(request.verb).lower(),
            to=texts["to"],
            reason=texts["reason"],
            actor=texts["actor"] or "api",
            idempotency_key=texts["idempotency_key"],
            dry_run=request.dry_run,
        )
        return message(record, pb.Record())

    async def history(self, request: pb.HistoryRequest) -> pb.HistoryResponse:
        last = request.last or HISTORY_DEFAULT
        if not 1 <= last <= HISTORY_MAX:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"last={last} is not a number of records", f"1 to {HISTORY_MAX}")
        found = await self._control.history(_checked(request.name), last)
        if found is None:
            raise _unknown(request.name)
        return message({"history": list(found)}, pb.HistoryResponse())

    async def proxies(self, request: pb.ProxiesRequest) -> pb.ProxiesResponse:
        if len(request.node) > NODE_MAX:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"node is longer than {NODE_MAX} characters", "such as edge-*")
        rows: JsonObject = {"proxies": list(self._control.proxies(request.node or "*")), "groups": list(self._control.groups())}
        return message(rows, pb.ProxiesResponse())

    def _all(self) -> pb.ListResponse:
        rollouts: list[Json] = [_rollout(each) for each in self._control.rollouts()]
        return message({"rollouts": rollouts, "policy_errors": list(self._control.policy_errors())}, pb.ListResponse())

    def _state(self, version: int) -> bytes:
        if self._written[0] != version:
            self._written = version, self._all().SerializeToString()
        return self._written[1]


def message(value: JsonObject, into: M) -> M:
    """JSON of the control port as a message; what the message does not have is left out, text that no encoding can carry is replaced."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return json_format.Parse(text, into, ignore_unknown_fields=True)


def _rollout(status: JsonObject) -> JsonObject:
    """The interval's two bounds by name: a list cannot have a bound that is not there."""
    gates = status.get("gates")
    return {**status, "gates": [_gate(gate) for gate in gates if isinstance(gate, dict)] if isinstance(gates, list) else []}


def _gate(gate: JsonObject) -> JsonObject:
    interval = gate.get("interval")
    if not isinstance(interval, list):
        return gate
    lower, upper = interval
    return {**gate, "interval": {"lower": lower, "upper": upper}}


def _checked(name: str) -> str:
    if not NAME.match(name):
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"{name[:100]!r} is not a rollout name", NAME_HINT)
    return name


def _unknown(name: str) -> RpcError:
    return RpcError(grpc.StatusCode.NOT_FOUND, f"there is no rollout {name!r}", "List has them all")
