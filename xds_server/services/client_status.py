"""Client status discovery (CSDS): what every connected proxy was sent and what it made of it, for tools that speak xDS.

The view is the server's: one `ClientConfig` per stream (`client_scope` says which, "ADS" or the type), one entry per type, no resource
bodies. An answer holds at most `MAX_PROXIES` streams and never leaves some out in silence: who asks for more is told to narrow
`node_matchers`. What is not asked for costs nothing, so that asking often holds up no proxy.

Neighbours: `ads` knows the proxies (`proxies` has the values); a transport (`core.transport`) carries. Source: `envoy/service/status/v3/csds.proto`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import structlog
from envoy.admin.v3 import config_dump_shared_pb2 as admin
from envoy.service.status.v3 import csds_pb2 as wire
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from xds_server.core.stream import Progress, State
from xds_server.core.transport import Kind, Method, Outlet, Status
from xds_server.errors import PeerError
from xds_server.services.proxies import ProxyStatus

_log = structlog.get_logger()

_CSDS: Final = "/envoy.service.status.v3.ClientStatusDiscoveryService"
MAX_PROXIES: Final = 100
MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_REQUEST_BYTES: Final = 256 * 1024
"""The asking client's node may come along; an Envoy's has 61 KB."""
MAX_MATCHERS: Final = 16
MAX_CALLS: Final = 8
"""Calls open at once; with what may wait unread on each, the bound of the memory that askers can take."""

_NARROW: Final = "narrow node_matchers by node_id (exact, prefix, suffix, contains)"

_MATCHES: Final[dict[str, Callable[[str, str], bool]]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
    "contains": str.__contains__,
}


class TooMuchError(Exception):
    """The answer would be too large; the message says how to ask for less."""


class Proxies(Protocol):
    """`AdsHub.proxies`."""

    def __call__(self, wanted: Callable[[str], bool], *, at_most: int) -> Sequence[ProxyStatus]:
        """Streams of the proxies whose node id is wanted, so many at most."""
        ...


class ClientStatus:
    """The service."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        self.calls = 0

    def methods(self) -> tuple[Method, ...]:
        return (
            Method(path=f"{_CSDS}/StreamClientStatus", service=partial(_Session, self, Kind.STREAM)),
            Method(path=f"{_CSDS}/FetchClientStatus", service=partial(_Session, self, Kind.UNARY), kind=Kind.UNARY),
        )

    def answer(self, message: bytes) -> bytes:
        """The serialised answer to one serialised request.

        Raises:
            PeerError: If the request is none, or asks by what is not supported.
            TooMuchError: If too many proxies match.
        """
        found = self._proxies(_wanted(message), at_most=MAX_PROXIES + 1)
        if len(found) > MAX_PROXIES:
            raise TooMuchError(f"more than {MAX_PROXIES} proxies match, which is what an answer holds; hint: {_NARROW}")
        answer: bytes = wire.ClientStatusResponse(config=map(_config, found)).SerializeToString()
        if len(answer) > MAX_ANSWER_BYTES:
            raise TooMuchError(f"the answer has {len(answer)} bytes, at most {MAX_ANSWER_BYTES} are sent; hint: {_NARROW}")
        return answer


class _Session:
    """One call: a stream answers every request, the unary form its only one."""

    def __init__(self, service: ClientStatus, kind: Kind, outlet: Outlet) -> None:
        self._service = service
        self._kind = kind
        self._outlet = outlet
        self._over = False
        service.calls += 1
        if service.calls > MAX_CALLS:
            self._finish(Status.RESOURCE_EXHAUSTED, f"{MAX_CALLS} clients ask for the status of proxies already; hint: ask again later")

    def received(self, message: bytes) -> None:
        if self._over:
            return
        try:
            self._outlet.send(self._service.answer(message))
        except PeerError as error:
            _log.warning("stream.broken", peer=self._outlet.peer, what="client status", reason=str(error))
            self._finish(Status.INVALID_ARGUMENT, str(error))
        except TooMuchError as error:
            self._finish(Status.RESOURCE_EXHAUSTED, str(error))
        else:
            if self._kind is Kind.UNARY:
                self._finish(Status.OK)

    def closed(self) -> None:
        self._service.calls -= 1

    def _finish(self, status: Status, message: str = "") -> None:
        self._over = True
        self._outlet.finish(status, message)


def _wanted(message: bytes) -> Callable[[str], bool]:
    """Which node ids a request asks for: those any of its matchers matches, all when it has none."""
    if len(message) > MAX_REQUEST_BYTES:
        raise PeerError(f"a request of {len(message)} bytes; at most {MAX_REQUEST_BYTES} make sense")
    try:
        request = wire.ClientStatusRequest.FromString(message)
    except DecodeError as error:
        raise PeerError(f"a message of {len(message)} bytes is no ClientStatusRequest") from error
    if len(request.node_matchers) > MAX_MATCHERS:
        raise PeerError(f"{len(request.node_matchers)} node_matchers; at most {MAX_MATCHERS} are looked at")
    matchers = [_matcher(matcher, f"node_matchers[{place}]") for place, matcher in enumerate(request.node_matchers)]
    return lambda node_id: not matchers or any(matches(node_id) for matches in matchers)


def _matcher(matcher: Any, where: str) -> Callable[[str], bool]:
    if matcher.node_metadatas:
        raise PeerError(f"{where}.node_metadatas is not supported; hint: {_NARROW}")
    if not matcher.HasField("node_id"):
        return lambda _: True
    kind = matcher.node_id.WhichOneof("match_pattern")
    if kind not in _MATCHES:
        raise PeerError(f"{where}.node_id: {kind or 'no pattern'} is not supported; hint: {_NARROW}")
    matches, pattern = _MATCHES[kind], getattr(matcher.node_id, kind)
    if matcher.node_id.ignore_case:
        folded = pattern.casefold()
        return lambda node_id: matches(node_id.casefold(), folded)
    return lambda node_id: matches(node_id, pattern)


def _config(status: ProxyStatus) -> Any:
    config = wire.ClientConfig(client_scope=status.service, generic_xds_configs=map(_type_config, status.types))
    config.node.id, config.node.cluster, config.node.user_agent_version = status.node_id, status.cluster, status.version
    return config


def _type_config(progress: Progress) -> Any:
    """The version is the one the proxy accepted last; what it rejects now stands in `error_state`."""
    config = wire.ClientConfig.GenericXdsConfig(
        type_url=progress.type_url,
        version_info=progress.acked_version,
        config_status=wire.ConfigStatus.Value(progress.state.value),
        client_status=_client_status(progress),
    )
    if progress.acked_at is not None:
        config.last_updated.CopyFrom(_timestamp(progress.acked_at))
    if progress.state is State.ERROR:
        config.error_state.details = progress.error
        config.error_state.version_info = progress.sent_version
    return config


def _client_status(progress: Progress) -> int:
    if progress.state is State.ERROR:
        return int(admin.NACKED)
    return int(admin.REQUESTED if progress.acked_at is None else admin.ACKED)


def _timestamp(at: float) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(round(at * 1e6))
    return made
