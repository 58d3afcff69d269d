"""The way out of a connection: buffers to write, windows, room, and the calls that wait for either.

A call that can send does so at once (`put`). One that cannot is put on the list of those that wait; it is ready when only the windows
of its own stream let it be, so that a connection full of stalled streams costs nothing when another one moves. Ready calls send one
frame each in turn as soon as there is room. Room is what the host takes before the next `take`: it bounds what a peer that does not read
can pile up, whatever windows it announced.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from xds_server.wire.call import Call
from xds_server.wire.frames import END_HEADERS, END_STREAM, FIRST_WINDOW, HEADERS, MAX_WINDOW, frame
from xds_server.wire.limits import Counters, Limits
from xds_server.wire.server import Server
from xds_server.wire.shared import Buffers, SharedFrames

_MAX_OWED: Final = 64
_UPDATE_SHIFT: Final = 11
"""A peer may answer every 2 KB with a window update; one that lets us send a byte at a time earns nothing by it."""
_NO_TABLE: Final = b"\x20"
"""Says in a header block that our side keeps no dynamic table (RFC 7541 section 6.3)."""
_DEFAULT_TABLE: Final = 4096


def nothing() -> None:
    """What a connection calls that is gone."""


class Outgoing:
    """What a connection has to write; base of `Connection`.

    Attributes:
        window: Bytes of DATA the peer lets us send on the connection.
        room: Bytes the host takes before the next `take`.
        waiting_bytes: Of messages that wait for windows or room.
    """

    __slots__ = (
        "_called",
        "_due",
        "_owed",
        "_paused",
        "_ready",
        "_server",
        "_strain",
        "_table_note",
        "_waiting",
        "frames",
        "out",
        "room",
        "waiting_bytes",
        "window",
    )

    def __init__(self, server: Server, due: Callable[[], None]) -> None:
        self._server: Final = server
        self._due = due
        self._called = self._paused = False
        self._owed = self._strain = 0
        self._waiting: dict[Call, float | None] = {}
        self._ready: dict[Call, None] = {}
        self._table_note = b""
        self.frames: Final[SharedFrames] = server.frames
        self.out: list[bytes | memoryview] = []
        self.room = server.limits.ahead_bytes
        self.waiting_bytes = 0
        self.window = FIRST_WINDOW

    @property
    def may_wait(self) -> bool:
        """Whether so many bytes may wait for this peer; what waits on one stream alone is bound by `Limits.outbox`."""
        return self.waiting_bytes <= self._server.limits.waiting_bytes or len(self._waiting) == 1

    @property
    def limits(self) -> Limits:
        return self._server.limits

    @property
    def counters(self) -> Counters:
        return self._server.counters

    @property
    def is_choked(self) -> bool:
        """Whether the peer makes us answer and does not read the answers: read no more before `resume`."""
        return self._owed > _MAX_OWED

    # What calls ask for.

    def put(self, buffers: Buffers, size: int) -> None:
        """Writes DATA frames of so many bytes in the windows' count."""
        self.window -= size
        self.room -= size
        self._strain -= size >> _UPDATE_SHIFT
        self.out += buffers
        if not self._called:
            self._called = True
            self._due()

    def head(self, stream_id: int, block: bytes, *, is_last: bool = False) -> None:
        """Writes a header block in one frame; ours are far below 16 KB."""
        flags = END_HEADERS | (END_STREAM if is_last else 0)
        self._control(frame(HEADERS, flags, stream_id, self._table_note + block))
        self._table_note = b""

    def wait(self, call: Call) -> None:
        """The call has something to send that there is no room for."""
        self._waiting[call] = None
        self._recheck(call)

    # What the connection does.

    def _call(self) -> None:
        self._called = True
        self._due()

    def _control(self, buffer: bytes) -> None:
        """Writes what no window counts."""
        self.out.append(buffer)
        if self._paused:
            self._owed += 1
        if not self._called:
            self._call()

    @property
    def _can_pump(self) -> bool:
        return bool(self._ready) and self.window > 0 and self.room > 0

    def _recheck(self, call: Call) -> None:
        """A call began to wait, or its window changed."""
        if call.is_waiting and call.window > 0:
            self._ready[call] = None
            if self._can_pump and not self._called:
                self._call()

    def _pump(self) -> None:
        """Lets ready calls send in turn, as long as there is room; who had its turn last is last the next time."""
        ready = deque(self._ready)
        while ready and self.window > 0 and self.room > 0:
            call = ready.popleft()
            call.pump()
            if not call.is_waiting:
                self._waiting.pop(call, None)
            elif call.window > 0:
                ready.append(call)
        self._ready = dict.fromkeys(ready)

    def _unlist(self, call: Call) -> None:
        """The call waits no more."""
        if self._waiting:
            self._waiting.pop(call, None)
            self._ready.pop(call, None)

    def _widen(self, increment: int) -> bool:
        """The peer opened the window of the connection. Returns: Whether it may be that wide."""
        self.window += increment
        if self._can_pump and not self._called:
            self._call()
        return self.window <= MAX_WINDOW

    def _shrink_table(self, size: int) -> None:
        """The peer keeps a smaller table than a connection begins with; the next header block has to say that we agree."""
        if size < _DEFAULT_TABLE:
            self._table_note = _NO_TABLE
