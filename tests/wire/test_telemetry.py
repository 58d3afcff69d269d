"""Access-log and load-report streams over real gRPC: handed on whole, asked for reports once, garbage ends only its own stream."""

from contextlib import asynccontextmanager

import grpc
import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from tests.rig import until
from xds_server.adapters.grpc_transport import GrpcTransport
from xds_server.services.telemetry import telemetry_methods

LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
REPORTS = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"


@asynccontextmanager
async def serving(take_log, take_report=lambda _: None):
    transport = GrpcTransport(telemetry_methods(access_log=take_log, load_report=take_report))
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
