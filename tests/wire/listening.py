"""A wire transport that listens, on either loop, plain or with TLS: what tests of its sockets share."""

import asyncio
import inspect
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
import trustme
import uvloop

from bench.fleet import WINDOW_UPDATE, frame
from xds_server.adapters.wire_transport import WireTransport, tls_context
from xds_server.core.transport import Kind, Method

PATH = "/t.T/M"
WIDE = frame(WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big"))


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test):
    """Runs an async test once on each loop: sockets behave differently on them."""

    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop, **fixtures):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**fixtures))

    run.__signature__ = inspect.signature(test).replace(
        parameters=[
            inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY),
            *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inspect.signature(test).parameters.values()),
        ]
    )
    return run


class Service:
    """Answers with what `answer` makes of a message."""

    def __init__(self, answer=lambda message: message):
        self.answer, self.outlets, self.closed = answer, [], 0

    def __call__(self, outlet):
        self.outlets.append(outlet)
        service = self

        class Session:
            def received(self, message):
                if (answer := service.answer(message)) is not None:
                    outlet.send(answer)

            def closed(self):
                service.closed += 1

        return Session()


@asynccontextmanager
async def serving(service, *, kind=Kind.STREAM, **options):
    transport = WireTransport([Method(path=PATH, service=service, kind=kind)], **options)
    port = await transport.serve("127.0.0.1:0")
    try:
        yield transport, port
    finally:
        await transport.stop(0.1)


class Authority:
    """Who vouches for servers and clients, and their files."""

    def __init__(self, folder):
        self.ca = trustme.CA()
        server = self.ca.issue_cert("localhost", "127.0.0.1")
        self.files = [folder / name for name in ("server.pem", "server.key", "ca.pem")]
        server.cert_chain_pems[0].write_to_path(self.files[0])
        server.private_key_pem.write_to_path(self.files[1])
        self.ca.cert_pem.write_to_path(self.files[2])

    def context(self, *, mutual):
        return tls_context(*self.files[: 3 if mutual else 2])

    def channel(self, port, client=None):
        pair = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()) if client else (None, None)
        return grpc.aio.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(self.ca.cert_pem.bytes(), *pair))
