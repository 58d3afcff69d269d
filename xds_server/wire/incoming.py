"""The way in of content: DATA frames to calls, the windows we give, and what frames cost that bring little.

Most messages lie within one frame and are handed on from where they were read. A long one that was read whole, an Envoy's node of 61 KB,
is put together once; only what is not whole at the end of a read is kept by its call.
"""

from collections.abc import Callable
from typing import Final

from xds_server.wire import frames as wire
from xds_server.wire.call import Call
from xds_server.wire.frames import DATA, HEAD_BYTES, MAX_FRAME, unpack_head
from xds_server.wire.grpc import PREFIX_BYTES, unpack_prefix
from xds_server.wire.limits import Cost
from xds_server.wire.server import Server
from xds_server.wire.states import MOVES, Move, State
from xds_server.wire.streams import Streams

_OPEN: Final = State.OPEN
SMALL_PIECE: Final = 1024
"""Content of a frame [bytes]; one with less is a trifle unless it ends a message."""


class Incoming(Streams):
    """What a connection does with content; base of `Connection`."""

    __slots__ = ("_turn", "_unread")

    def __init__(self, server: Server, due: Callable[[], None]) -> None:
        super().__init__(server, due)
        self._turn = self._unread = 0

    def _on_data(self, data: bytes, start: int, stop: int, flags: int, stream_id: int) -> None:
        size = stop - start
        self._unread += size
        if self._unread > self._server.renew_connection:
            self._control(wire.window_update(0, self._unread))
            self._unread = 0
        call = self._calls.get(stream_id)
        if call is None or call.state is not _OPEN:
            if not self._is_welcome(DATA, stream_id) and flags & wire.PADDED:
                wire.padding(data, start, stop)
            return
        is_last = False
        if flags:
            if flags & wire.PADDED:
                before, after = wire.padding(data, start, stop)
                start, stop = start + before, stop - after
            if flags & wire.END_STREAM:
                is_last, call.state = True, MOVES[call.state][Move.PEER_ENDED]
        call.unread += size
        if call.unread > self._server.renew_stream and not is_last:
            self._control(wire.window_update(stream_id, call.unread))
            call.unread = 0
        if call.promised is not None:
            call.count(stop - start, is_last=is_last)
        taken = 0 if call.deaf else call.take(data, start, stop)
        if taken:
            self._turn -= taken
            self._strain -= taken * Cost.EARNED
        elif size < SMALL_PIECE:
            self._charge(Cost.TRIFLE, DATA)
        if is_last and call.state is State.HALF_CLOSED_REMOTE:
            call.peer_ended()

    def _take_long(self, data: bytes, start: int, stop: int, stream_id: int) -> int:
        """A message that begins with this frame and ends with one that was read too, all of them plain: put together from where they are.

        It is what frame by frame comes to, without a copy on the way. Returns: Where the next frame begins; 0 if it is not such a message.
        """
        call = self._calls.get(stream_id)
        if call is None or not call.is_between_messages:
            return 0
        mark, length = unpack_prefix(data, start)
        size, end = PREFIX_BYTES + length, len(data)
        lacks = size - (stop - start)
        if mark or lacks <= 0 or stop + lacks > end or not self._has_room(call, size):
            return 0
        view, turn = memoryview(data), self._turn
        pieces, at = [view[start + PREFIX_BYTES : stop]], stop
        while lacks and end - at >= HEAD_BYTES and turn > 0:
            word, flags, other_id = unpack_head(data, at)
            piece = word >> 8
            at += HEAD_BYTES + piece
            if word & 0xFF or flags or other_id != stream_id or at > end:
                return 0
            if not min(lacks, SMALL_PIECE) <= piece <= min(lacks, MAX_FRAME):
                return 0
            pieces.append(view[at - piece : at])
            lacks -= piece
            turn -= 1
        if lacks:
            return 0
        self._turn = turn - 1
        self._strain -= Cost.EARNED
        self._unread += size
        call.unread += size
        call.hand_on(b"".join(pieces))
        return at

    def _has_room(self, call: Call, size: int) -> bool:
        """Whether a message of so many bytes passes no limit and renews no window."""
        limits, server = self._server.limits, self._server
        return (
            size <= limits.message_bytes
            and call.unread + size <= server.renew_stream
            and self._unread + size <= server.renew_connection
            and self._assembling + size <= limits.assembling_bytes
            and server.assembling + size <= limits.assembling_bytes_all
        )
