"""Clients that we did not write against the wire transport, plain and under TLS with client certificates: the real Envoy, and `h2` as a second
implementation of HTTP/2. grpcio's client runs the suites beside this one; grpc-go's are in `test_go_client`.

Each asks for configuration, streams access logs and reports load.
"""

import asyncio
import ssl
from contextlib import asynccontextmanager

import pytest
import trustme
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.discovery.v3 import discovery_pb2 as wire
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived

from tests.e2e.plane import KEY, Plane, two_versions
from tests.rig import until
from tests.wire.discovery import SOTW, World, node, resource, snapshot
from tests.wire.test_telemetry import LOGS, REPORTS
from xds_server.adapters.wire_tls import tls_context
from xds_server.adapters.wire_transport import WireTransport
from xds_server.core.types import CDS
from xds_server.resources.names import XDS_CLUSTER
from xds_server.services.ads import AdsHub
from xds_server.services.telemetry import OpenLogs, telemetry_methods

NUMBER = 40
BIG = 300_000
"""More than a stream's first window, and than several frames hold."""


class Authority:
    """Vouches for a server and a client; their files in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        for name, identity in (("server", "127.0.0.1"), ("client", "edge.example.test")):
            issued = self.authority.issue_cert(identity)
            issued.private_key_pem.write_to_path(folder / f"{name}.key")
            issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")

    def file(self, name):
        return str(self.folder / name)

    def server(self):
        return tls_context(*(self.folder / name for name in ("server.pem", "server.key", "ca.pem")))

    def client(self):
        context = ssl.create_default_context(cafile=self.file("ca.pem"))
        context.load_cert_chain(self.file("client.pem"), self.file("client.key"))
        context.set_alpn_protocols(["h2"])
        return context


@pytest.fixture(params=["plain", "mTLS"])
def authority(request, tmp_path):
    return Authority(tmp_path) if request.param == "mTLS" else None


# The real Envoy.


@pytest.fixture
def watched(authority):
    """A plane over the wire transport that keeps what it is told, and asks for load reports."""

    class Watched(Plane):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            self.logs = OpenLogs()
            self.reported = 0

        async def start(self):
            loop = asyncio.get_running_loop()
            self.hub = AdsHub(select=lambda _: KEY, events=self.events.append, clock=loop.time)
            self.hub.ready()
            telemetry = telemetry_methods(access_log=self._log, load_report=self._load, logs=self.logs)
            self._transport = WireTransport((*self.hub.methods(), *telemetry), tls=authority.server() if authority else None)
            self.port = await self._transport.serve("127.0.0.1:0")
            self._pulse = loop.create_task(self._beat())
            self.publish(*self.wishes)

        def _load(self, raw):
            for stats in LoadStatsRequest.FromString(raw).cluster_stats:
                self.reported += sum(each.total_successful_requests for each in stats.upstream_locality_stats)

        @property
        def refused(self):
            return self._transport.counters.refused

    return Watched


def securing(authority):
    """Gives Envoy's cluster for us a client certificate."""
    if authority is None:
        return None
    files = {
        "tls_certificates": [
            {"certificate_chain": {"filename": authority.file("client.pem")}, "private_key": {"filename": authority.file("client.key")}}
        ],
        "validation_context": {"trusted_ca": {"filename": authority.file("ca.pem")}},
        "alpn_protocols": ["h2"],
    }
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind, "common_tls_context": files}}

    def adjust(config):
        [cluster] = [each for each in config["static_resources"]["clusters"] if each["name"] == XDS_CLUSTER]
        cluster["transport_socket"] = socket

    return adjust


async def test_envoy_is_configured_logs_and_reports(tmp_path, authority, watched):
    async with two_versions(tmp_path, plane_type=watched, adjust=securing(authority)) as world:
        plane = world.plane
        await plane.delivered(world.shares(5000))
        await world.client.burst(NUMBER)
        await world.logged(NUMBER)
        assert "envoy-1" in plane.logs
        async with asyncio.timeout(20):
            while plane.reported < NUMBER:  # Envoy does not count what it served before it knew that we care for a cluster
                await world.client.burst(NUMBER)
                await asyncio.sleep(0.1)
        assert not plane.refused


# h2.


class H2Stream:
    """One stream of an `h2` client, with gRPC's framing around its messages."""

    def __init__(self, reader, writer, path):
        self.reader, self.writer = reader, writer
        self.connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.connection.initiate_connection()
        self.got = b""
        self.fields = {}
        self.is_ended = False
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "interop",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self.connection.send_headers(1, list(fields.items()))

    async def send(self, message, *, ends=False):
        data = b"\0" + len(message).to_bytes(4, "big") + message
        while data:
            size = min(len(data), self.connection.local_flow_control_window(1), self.connection.max_outbound_frame_size)
            self.connection.send_data(1, data[:size], end_stream=ends and size == len(data))
            data = data[size:]
            self._write()
            if data and not self.connection.local_flow_control_window(1):
                await self._read()

    async def receive(self):
        while len(self.got) < 5 or len(self.got) < (size := 5 + int.from_bytes(self.got[1:5], "big")):
            await self._read()
        message, self.got = self.got[5:size], self.got[size:]
        return message

    async def ended(self):
        while not self.is_ended:
            await self._read()
        return self.fields

    async def _read(self):
        self._write()
        async with asyncio.timeout(10):
            data = await self.reader.read(65_536)
        assert data, "the server closed the connection"
        for event in self.connection.receive_data(data):
            if isinstance(event, DataReceived):
                self.got += event.data
                if event.flow_controlled_length:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, (ResponseReceived, TrailersReceived)):
                self.fields.update(event.headers)  # in one block where there was nothing to say
            elif isinstance(event, StreamEnded):
                self.is_ended = True
        self._write()

    def _write(self):
        self.writer.write(self.connection.data_to_send())


@asynccontextmanager
async def h2_stream(methods, path, authority):
    transport = WireTransport(methods, tls=authority.server() if authority else None)
    port = await transport.serve("127.0.0.1:0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client() if authority else None)
    try:
        yield H2Stream(reader, writer, path)
        assert not transport.counters.refused
    finally:
        writer.close()
        await transport.stop(0.1)


async def test_h2_is_configured_with_more_than_a_window_and_its_answers_count(authority):
    world = World()
    world.hub.ready()
    world.hub.publish("all", snapshot(1, CDS=[resource("x" * BIG)]))
    async with h2_stream(world.hub.methods(), SOTW, authority) as stream:
        await stream.send(wire.DiscoveryRequest(type_url=CDS, node=node(padding=2000)).SerializeToString())
        for serial in (1, 2):
            response = wire.DiscoveryResponse.FromString(await stream.receive())
            assert len(response.resources[0].value) == len(f"{'x' * BIG}@{serial}")
            ack = wire.DiscoveryRequest(type_url=CDS, version_info=response.version_info, response_nonce=response.nonce)
            await stream.send(ack.SerializeToString())
            await until(lambda serial=serial: world.hub.sync_state("all", serial).acked == 1)
            if serial == 1:
                world.hub.publish("all", snapshot(2, CDS=[resource("x" * BIG, "2")]))


async def test_h2_logs(authority):
    seen = []
    said = [StreamAccessLogsMessage(identifier={"log_name": "x" * size}).SerializeToString() for size in (1, 40_000, BIG, 1)]
    async with h2_stream(telemetry_methods(access_log=seen.append, load_report=seen.append), LOGS, authority) as stream:
        for message in said:
            await stream.send(message, ends=message is said[-1])
        assert (await stream.ended())["grpc-status"] == "0"
        assert seen == said


async def test_h2_reports_load_and_is_told_how_often(authority):
    seen = []
    async with h2_stream(telemetry_methods(access_log=seen.append, load_report=seen.append), REPORTS, authority) as stream:
        said = LoadStatsRequest(node=node()).SerializeToString()
        await stream.send(said)
        answer = LoadStatsResponse.FromString(await stream.receive())
        assert answer.send_all_clusters
        assert seen == [said]
