"""TLS on the sockets of the wire transport: certificates, ALPN, handshakes in pieces, alerts; over both loops."""

import asyncio
import contextlib
import ssl

import grpc
import grpc.aio
import pytest
import trustme

from bench.fleet import greeting, message
from tests.wire.discovery import until
from tests.wire.listening import PATH, Authority, Service, on_both_loops, serving
from xds_server.wire import Limits, Reason


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@on_both_loops
async def test_calls_over_tls(authority):
    async with serving(Service(), tls=authority.context(mutual=False)) as (_, port), authority.channel(port) as channel:
        stream = channel.stream_stream(PATH)()
        for body in (b"hello", bytes(1_000_000), b"", bytes(100_000)):
            await stream.write(body)
            assert await stream.read() == body


@on_both_loops
async def test_a_client_certificate_reaches_the_service(authority):
    service, client = Service(), authority.ca.issue_cert("client@example.test")
    async with serving(service, tls=authority.context(mutual=True)) as (_, port), authority.channel(port, client) as channel:
        stream = channel.stream_stream(PATH)()
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        assert service.outlets[0].certificate == ssl.PEM_cert_to_DER_cert(client.cert_chain_pems[0].bytes().decode())


@on_both_loops
async def test_a_client_without_a_certificate_or_with_one_of_another_authority_gets_no_service(authority):
    service, stranger = Service(), trustme.CA().issue_cert("client@example.test")
    async with serving(service, tls=authority.context(mutual=True)) as (_, port):
        for client in (None, stranger):
            async with authority.channel(port, client) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.stream_stream(PATH)().read()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not service.outlets


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
@on_both_loops
async def test_a_client_that_did_not_agree_on_http2_is_cut_off(authority, protocols):
    context = ssl.create_default_context()
    authority.ca.configure_trust(context)
    if protocols:
        context.set_alpn_protocols(protocols)
    async with serving(Service(), tls=authority.context(mutual=False)) as (transport, port):
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # OpenSSL itself refuses where nothing is in common
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            assert await reader.read() == b""
            assert transport.counters.refused == {Reason.ALPN: 1}
            writer.transport.abort()
        await until(lambda: not transport.links)


class Rude:
    """A client that does the handshake by hand and then something else."""

    def __init__(self, context, port):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.port = port

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.write()
                self.incoming.write(await self.reader.read(65_536))
            else:
                return self.write()

    def write(self, data=b""):
        self.writer.write(self.outgoing.read() + data)

    async def last_words(self):
        """All the server says until it closes, and how it closes: by an alert of TLS, or without."""
        said = b""
        while data := await self.reader.read(65_536):
            self.incoming.write(data)
        self.incoming.write_eof()
        try:
            while piece := self.tls.read(65_536):
                said += piece
        except ssl.SSLError as error:
            return said, error.reason
        return said, None


def trusting(authority):
    context = ssl.create_default_context()
    authority.ca.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    return context


@on_both_loops
async def test_a_record_that_was_tampered_with_ends_its_connection_with_an_alert_and_no_other(authority):
    async with serving(Service(), tls=authority.context(mutual=False)) as (transport, port), authority.channel(port) as channel:
        stream = channel.stream_stream(PATH)()
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        rude = Rude(trusting(authority), port)
        await rude.connect()
        rude.tls.write(greeting(PATH))
        record = bytearray(rude.outgoing.read())
        record[-1] ^= 1
        rude.write(bytes(record))
        _, reason = await rude.last_words()
        assert "BAD_RECORD_MAC" in reason
        assert transport.counters.refused == {Reason.TLS: 1}
        rude.writer.close()
        await stream.write(b"again")
        assert await stream.read() == b"again"


@on_both_loops
async def test_plain_words_to_a_tls_port_are_refused(authority):
    async with serving(Service(), tls=authority.context(mutual=False)) as (transport, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting(PATH))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        await until(lambda: not transport.links)
        assert transport.counters.refused == {Reason.TLS: 1}
        writer.close()


@on_both_loops
async def test_a_handshake_cut_in_bytes_is_one_and_records_of_several_reads_are_put_together(authority):
    service = Service()
    async with serving(service, tls=authority.context(mutual=False)) as (_, port):
        rude = Rude(trusting(authority), port)
        rude.write = lambda: [rude.writer.write(bytes([byte])) for byte in rude.outgoing.read()]
        await rude.connect()
        body = bytes(range(256)) * 100
        rude.tls.write(greeting(PATH))
        for start in range(0, len(said := message(body)), 1000):
            rude.tls.write(said[start : start + 1000])
        for byte in (data := rude.outgoing.read()):
            rude.writer.write(bytes([byte]))
        assert len(data) > len(body)
        await until(lambda: service.outlets)
        got = b""
        while body[-1000:] not in got:
            rude.incoming.write(await rude.reader.read(65_536))
            with contextlib.suppress(ssl.SSLWantReadError):
                while piece := rude.tls.read(65_536):
                    got += piece
        rude.writer.close()


@on_both_loops
async def test_a_peer_that_says_goodbye_is_answered_before_it_is_gone(authority):
    async with serving(Service(), tls=authority.context(mutual=False)) as (transport, port):
        rude = Rude(trusting(authority), port)
        await rude.connect()
        rude.tls.write(greeting(PATH) + message(b"hello"))
        with contextlib.suppress(ssl.SSLWantReadError):
            rude.tls.unwrap()
        rude.write()
        said, reason = await rude.last_words()
        assert reason is None
        assert message(b"hello") in said
        await until(lambda: not transport.links)
        assert not transport.counters.refused
        rude.writer.close()


@on_both_loops
async def test_who_never_finishes_the_handshake_is_cut_off(authority):
    async with serving(Service(), tls=authority.context(mutual=False), limits=Limits(greeting_s=0.05), keepalive_s=0.1) as (
        transport,
        port,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert transport.counters.refused == {Reason.SLOW: 1}
        writer.close()
