"""What all connections of one listener share: limits, counters, caches, and the host they call."""

from typing import Final, Protocol

from xds_server.wire import frames
from xds_server.wire.call import Call, Receiver
from xds_server.wire.headers import Blocks
from xds_server.wire.limits import Counters, Limits
from xds_server.wire.shared import SharedFrames


class Host(Protocol):
    """What a connection asks of its surroundings."""

    def opened(self, call: Call) -> Receiver | None:
        """A call came in: who takes its messages. None if nobody does: then the host has finished it."""
        ...

    def failed(self, call: Call, error: Exception) -> None:
        """A service raised: to be logged. The call ends as INTERNAL, the others go on."""
        ...


class Server:
    """The shared part of all connections of a listener.

    Attributes:
        frames: Framed messages.
        blocks: Decoded first header blocks.
        hello: The first frames of a connection: our settings and the window of the connection.
        assembling: Bytes of messages that are not whole yet, over all connections.
        renew_stream, renew_connection: A window is renewed when more than so many bytes of it were used.
    """

    __slots__ = (
        "_assembling",
        "assembling",
        "blocks",
        "counters",
        "frames",
        "hello",
        "host",
        "limits",
        "renew_connection",
        "renew_stream",
    )

    def __init__(self, host: Host, limits: Limits) -> None:
        self.host: Final = host
        self.limits: Final = limits
        self.counters: Final = Counters()
        self.frames: Final = SharedFrames(room=limits.shared_bytes)
        self.blocks: Final = Blocks(list_bytes=limits.header_list_bytes)
        self.renew_stream: Final = limits.window_bytes // 2
        self.renew_connection: Final = limits.connection_window_bytes // 2
        self.assembling = 0
        self._assembling: dict[Call, None] = {}
        self.hello: Final = frames.pack_settings(
            {
                frames.MAX_CONCURRENT_STREAMS: limits.streams,
                frames.INITIAL_WINDOW_SIZE: limits.window_bytes,
                frames.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
            }
        ) + frames.window_update(0, limits.connection_window_bytes - frames.FIRST_WINDOW)

    def assemble(self, call: Call, change: int) -> None:
        """Counts bytes of a message that is not whole; a change below zero is its end."""
        self.assembling += change
        if change < 0:
            self._assembling.pop(call, None)
        else:
            self._assembling[call] = None

    def relieve(self) -> None:
        """Ends the calls that hold most of messages that are not whole, until there is room again.

        So a few peers that fill the room with halves of large messages end themselves, and not those whose messages come in two pieces.
        """
        enough = self.limits.assembling_bytes_all * 7 // 8
        for call in sorted(self._assembling, key=lambda each: each.held, reverse=True):
            if self.assembling <= enough:
                break
            call.let_go()
