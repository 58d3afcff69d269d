"""Access-log and load-report services: thin sessions that hand each message on and say how often they want reports.

Neighbours: a transport carries (`core.transport`), the runtime passes in what a message goes to (`evidence.Collector`). A message that cannot be
read ends its stream, which Envoy opens again.
"""

from collections.abc import Callable
from functools import partial

import structlog
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


def telemetry_methods(*, access_log: Take, load_report: Take) -> tuple[Method, ...]:
    """The services Envoy streams its telemetry to.

    Args:
        access_log, load_report: Take one message each; may raise DecodeError.
    """
    return (
        Method(
            path="/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
            service=partial(_Session, access_log, "access log", b""),
        ),
        Method(
            path="/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
            service=partial(_Session, load_report, "load report", _PLEASE_BYTES),
        ),
    )
