"""HTTP/2 and gRPC for long-lived streams, sans-IO: bytes in, calls of a service, bytes out.

    frames      what is on the wire: frame types, flags, sizes, settings (RFC 9113 sections 4 and 6)
    errors      what a peer did wrong, by what it costs: its stream or its connection; error codes (section 7)
    limits      what one peer may cost, and the counters of what was refused
    states      which frame is welcome in which state of a stream, as a table (RFC 9113 section 5.1)
    headers     header blocks to requests and back (RFC 7541 by the `hpack` library; RFC 9113 section 8)
    grpc        messages, time limits, status and trailers (grpc `PROTOCOL-HTTP2.md`)
    shared      one framing of a message for all streams that are due it
    call        one stream: its messages in both directions
    outgoing    the way out of a connection: windows, room, calls that wait
    streams     which streams there are and were, how they end, and what it costs to end badly
    connection  one connection: frames to calls, settings, keepalive, the end
    server      what all connections of a listener share, and the host they call

Nothing here knows sockets, clocks, asyncio or protobuf; the time comes in as an argument of `Connection.tick`. A host (the adapter)
owns the socket: it passes what it read to `Connection.receive` and writes what `Connection.take` hands out. Services see a `Call`,
which is an outlet of `xds_server.core.transport` by shape alone: the two packages do not import each other.
"""

from xds_server.wire.call import Call, Receiver
from xds_server.wire.connection import Connection
from xds_server.wire.limits import Counters, Limits, Reason
from xds_server.wire.server import Host, Server

__all__ = ["Call", "Connection", "Counters", "Host", "Limits", "Reason", "Receiver", "Server"]
