"""One framing of a message for all streams that are due it.

Proxies that see the same world are sent the very same bytes object. On a fresh connection the stream is number 1, so the frames
are the same too: they are joined once and each connection writes that object. A long message that is sent to one stream alone is not
copied: its frames are pieces of it. Frames are 16 KB for every peer, so nothing else tells two framings apart.
"""

from collections import OrderedDict
from typing import Final

from xds_server.wire.frames import DATA, MAX_FRAME, head
from xds_server.wire.grpc import PREFIX_BYTES, pack_prefix

Buffers = tuple[bytes | memoryview, ...]

_ALWAYS_JOINED: Final = 4 * 1024
"""Copying so much costs less than writing it in pieces."""
_MAX_ENTRIES: Final = 1024
_NONE_YET: Final[tuple[bytes, int, Buffers]] = b"", 0, ()  # no stream has the number 0


def framed(message: bytes, stream_id: int) -> Buffers:
    """A message as DATA frames, without a copy of it: 9 + 5 bytes, a piece, 9 bytes, a piece, and so on."""
    size = len(message)
    view = memoryview(message)
    first = min(size, MAX_FRAME - PREFIX_BYTES)
    pieces: list[bytes | memoryview] = [head(first + PREFIX_BYTES, DATA, 0, stream_id) + pack_prefix(0, size), view[:first]]
    for start in range(first, size, MAX_FRAME):
        piece = view[start : start + MAX_FRAME]
        pieces += (head(len(piece), DATA, 0, stream_id), piece)
    return tuple(pieces)


class _Entry:
    """A message and its framings by stream; it keeps the message, so that its identity stays its own."""

    __slots__ = ("framed", "message", "used")

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.framed: dict[int, Buffers | None] = {}
        self.used = True


class SharedFrames:
    """The framings of what was sent lately.

    Args:
        room: For joined frames, and as much for the messages themselves [bytes]; the oldest go first.
    """

    __slots__ = ("_entries", "_held", "_kept", "_last", "_room")

    def __init__(self, *, room: int) -> None:
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._held = self._kept = 0
        self._last = _NONE_YET
        self._room = room

    @property
    def held(self) -> int:
        """Bytes of joined frames that are kept."""
        return self._held

    @property
    def kept(self) -> int:
        """Bytes of messages that are kept with them, or may come to have them."""
        return self._kept

    def frames(self, message: bytes, stream_id: int) -> Buffers:
        """A message as DATA frames of a stream; the same object for all who ask for the same."""
        last, last_id, found = self._last
        if message is last and stream_id == last_id:
            return found
        entry = self._entries.get(id(message))
        if entry is None:
            if len(message) > self._room:
                return framed(message, stream_id)
            entry = self._add(message)
        framings = entry.framed.get(stream_id)
        if framings is None:
            return self._frame(entry, message, stream_id)
        entry.used = True
        self._last = message, stream_id, framings
        return framings

    def _add(self, message: bytes) -> _Entry:
        """Answers that are nobody else's come this way too: what they hold until the next `expire` is bounded."""
        while self._entries and (len(self._entries) >= _MAX_ENTRIES or self._kept + len(message) > self._room):
            self._forget(next(iter(self._entries)))
        self._kept += len(message)
        entry = self._entries[id(message)] = _Entry(message)
        return entry

    def _frame(self, entry: _Entry, message: bytes, stream_id: int) -> Buffers:
        """Joins the frames the second time they are asked for: a long message may be for one stream only."""
        pieces = framed(message, stream_id)
        entry.used = True
        if len(message) > _ALWAYS_JOINED and stream_id not in entry.framed:
            entry.framed[stream_id] = None
            return pieces
        joined = b"".join(pieces)
        if len(joined) > self._room:
            return pieces
        found = entry.framed[stream_id] = (joined,)
        self._held += len(joined)
        while self._held > self._room:
            self._forget(next(iter(self._entries)))
        return found

    def expire(self) -> None:
        """Forgets what was not sent since the last call."""
        self._last = _NONE_YET
        for key in [key for key, entry in self._entries.items() if not entry.used]:
            self._forget(key)
        for entry in self._entries.values():
            entry.used = False

    def _forget(self, key: int) -> None:
        entry = self._entries.pop(key)
        self._last = _NONE_YET
        self._kept -= len(entry.message)
        self._held -= sum(len(found[0]) for found in entry.framed.values() if found is not None)
