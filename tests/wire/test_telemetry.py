"""Access-log and load-report streams over real gRPC: handed on whole, asked for reports once, garbage ends only its own stream."""

from contextlib import asynccontextmanager

import grpc
import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from tests.rig import until
from tests.wire.transports import Transport
from xds_server.services.telemetry import OpenLogs, telemetry_methods

pytestmark = pytest.mark.usefixtures("each_transport")

LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
REPORTS = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"


@asynccontextmanager
async def serving(take_log, take_report=lambda _: None, logs=None):
    transport = Transport(telemetry_methods(access_log=take_log, load_report=take_report, logs=logs))
    port = await transport.serve("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await transport.stop()


async def test_every_access_log_message_is_handed_on():
    seen = []
    async with serving(seen.append) as channel:
        call = channel.stream_unary(LOGS)()
        message = StreamAccessLogsMessage(identifier={"log_name": "crossfade"}).SerializeToString()
        for _ in range(3):
            await call.write(message)
        await until(lambda: seen == [message] * 3)
        call.cancel()


async def test_load_reports_are_asked_for_once_for_all_clusters():
    async with serving(lambda _: None) as channel:
        call = channel.stream_stream(REPORTS, response_deserializer=LoadStatsResponse.FromString)()
        await call.write(LoadStatsRequest().SerializeToString())
        answer = await call.read()
        assert answer.send_all_clusters
        assert 0 < answer.load_reporting_interval.ToMilliseconds() <= 1000
        call.cancel()


async def test_garbage_ends_its_stream_and_no_other():
    seen = []

    def take(message):
        StreamAccessLogsMessage.FromString(message)
        seen.append(message)

    async with serving(take) as channel:
        good = channel.stream_unary(LOGS)()
        bad = channel.stream_unary(LOGS)()
        await bad.write(b"\xff" * 100)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await bad
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await good.write(b"")
        await until(lambda: seen == [b""])
        good.cancel()


async def test_it_is_known_which_proxies_log_for_as_long_as_they_do():
    logs = OpenLogs()
    async with serving(lambda _: None, logs=logs) as channel:
        first = StreamAccessLogsMessage(identifier={"node": {"id": "edge-1"}, "log_name": "crossfade"}).SerializeToString()
        calls = [channel.stream_unary(LOGS)() for _ in range(2)]
        for call in calls:
            await call.write(first)
            await call.write(StreamAccessLogsMessage().SerializeToString())
        await until(lambda: "edge-1" in logs)
        assert "edge-2" not in logs
        calls[0].cancel()
        calls[1].cancel()
        await until(lambda: "edge-1" not in logs)


async def test_a_stream_that_says_nothing_readable_leaves_no_name_behind():
    logs = OpenLogs()
    async with serving(StreamAccessLogsMessage.FromString, logs=logs) as channel:
        call = channel.stream_unary(LOGS)()
        await call.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert not logs._streams
