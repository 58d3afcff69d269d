"""TLS of the wire transport against OpenSSL's client, in memory: what is shared is always empty, records stay small, an end is an end."""

import contextlib
import ssl

import pytest
import trustme

from xds_server.adapters.wire_tls import Tls, tls_context

LONG = bytes(range(256)) * 1000


class Client:
    def __init__(self, context):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def read(self, said):
        self.incoming.write(said)
        got = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self.tls.read(1 << 20):
                got += piece
        return got


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "server.pem")
    issued.private_key_pem.write_to_path(folder / "server.key")
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.set_alpn_protocols(["h2"])
    return tls_context(folder / "server.pem", folder / "server.key"), client


@pytest.fixture
def shared():
    return ssl.MemoryBIO()


def connected(contexts, shared):
    server, client = Tls(contexts[0], shared), Client(contexts[1])
    while not server.is_ready:
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        said, answer, is_broken = server.receive(client.outgoing.read())
        assert (said, is_broken, shared.pending) == (b"", False, 0)
        client.incoming.write(answer)
    return server, client


def test_what_is_long_is_written_in_records_of_16_kib_and_read_whole(contexts, shared):
    server, client = connected(contexts, shared)
    written = server.protect([LONG[:10], LONG[10:]])
    assert max(map(len, written)) <= 16_384 + 256  # RFC 8446 section 5.2
    assert client.read(b"".join(written)) == LONG
    client.tls.write(LONG)
    assert server.receive(client.outgoing.read()) == (LONG, b"", False)


def test_two_connections_share_what_is_written_to_and_never_hear_each_other(contexts, shared):
    pairs = [connected(contexts, shared) for _ in range(2)]
    written = [server.protect([bytes([number]) * 100_000]) for number, (server, _) in enumerate(pairs)]
    for number, (_, client) in enumerate(pairs):
        assert client.read(b"".join(written[number])) == bytes([number]) * 100_000
    assert not shared.pending


def test_what_is_no_tls_breaks_it(contexts, shared):
    server = Tls(contexts[0], shared)
    said, _, is_broken = server.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (said, is_broken) == (b"", True)
    assert server.farewell() == b""
    assert not server.is_ready


def test_nothing_follows_a_farewell_and_nothing_of_it_stays_behind(contexts, shared):
    server, client = connected(contexts, shared)
    assert client.read(server.protect([b"last"])[0] + server.farewell()) == b"last"
    with pytest.raises(ssl.SSLError):
        server.protect([b"more"])
    assert not shared.pending


def test_a_peer_that_ends_is_over_after_what_it_said(contexts, shared):
    server, client = connected(contexts, shared)
    client.tls.write(b"last")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.unwrap()
    said, _, is_broken = server.receive(client.outgoing.read())
    assert (said, is_broken, server.is_over) == (b"last", False, True)
