"""Access-log and load-report services: thin sessions that hand each message on and say how often they want reports.

Neighbours: a transport carries (`core.transport`), the runtime passes in what a message goes to (`evidence.Collector`). A message that cannot be
read ends its stream, which Envoy opens again.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsResponse
from google.protobuf.message import DecodeError

from xds_server.core.transport import Method, Outlet, Status

_log = structlog.get_logger()

REPORT_INTERVAL_S = 0.1

Take = Callable[[bytes], None]

_PLEASE = LoadStatsResponse(send_all_clusters=True)
_PLEASE.load_reporting_interval.FromMilliseconds(round(REPORT_INTERVAL_S * 1000))
_PLEASE_BYTES = _PLEASE.SerializeToString()


class _Session:
    """A stream of one kind of telemetry; `greeting` is sent once, after the first message."""

    def __init__(self, take: Take, what: str, greeting: bytes, outlet: Outlet) -> None:
        self._take = take
        self._what = what
        self._greeting = greeting
        self._outlet = outlet

    def received(self, message: bytes) -> None:
        try:
            self._take(message)
        except DecodeError as error:
            _log.warning("stream.broken", peer=self._outlet.peer, what=self._what, reason=str(error))
            self._outlet.finish(Status.INVALID_ARGUMENT, f"this is no {self._what} message")
            return
        if self._greeting:
            self._outlet.send(self._greeting)
            self._greeting = b""

    def closed(self) -> None:
        pass


class OpenLogs:
    """Which proxies have a stream of log entries open, by node id. Envoy opens it with the first entry and keeps it."""

    def __init__(self) -> None:
        self._streams: Counter[str] = Counter()

    def __contains__(self, node: object) -> bool:
        return node in self._streams

    def count(self, node: str, change: int) -> None:
        self._streams[node] += change
        if self._streams[node] <= 0:
            del self._streams[node]


class _LogSession(_Session):
    """Knows whose log it is from the first message, the only one that says so."""

    def __init__(self, take: Take, logs: OpenLogs, outlet: Outlet) -> None:
        super().__init__(take, "access log", b"", outlet)
        self._logs = logs
        self._node = ""

    def received(self, message: bytes) -> None:
        if not self._node:
            with suppress(DecodeError):
                self._node = StreamAccessLogsMessage.FromString(message).identifier.node.id or "?"
                self._logs.count(self._node, +1)
        super().received(message)

    def closed(self) -> None:
        if self._node:
            self._logs.count(self._node, -1)


def telemetry_methods(*, access_log: Take, load_report: Take, logs: OpenLogs | None = None) -> tuple[Method, ...]:
    """The services Envoy streams its telemetry to.

    Args:
        access_log, load_report: Take one message each; may raise DecodeError.
        logs: Is told which proxies log.
    """
    return (
        Method(
            path="/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
            service=partial(_LogSession, access_log, logs or OpenLogs()),
        ),
        Method(
            path="/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
            service=partial(_Session, load_report, "load report", _PLEASE_BYTES),
        ),
    )
