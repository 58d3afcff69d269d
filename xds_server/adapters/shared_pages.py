"""Frames that many sockets are sent, as pages of the system: a socket takes them without a copy.

A message of 200 KB for a fleet is framed once, and yet each `write` copies it into the system; that is four fifths of what such a push costs.
`sendfile` from memory that has no name on any disk hands out the pages themselves, so that sockets whose peers do not read share them too.

Neighbours: `wire_transport` asks it for each long buffer that it writes alone; `xds_server.wire.shared` makes the same buffer the same
object. Where the system has no such memory, or has none left, nothing is sent this way. Source: Linux memfd_create(2), sendfile(2).
"""

import contextlib
import os
from collections import OrderedDict
from typing import Final

FROM_BYTES: Final = 16 * 1024
"""Below that the price is that of the system call."""
_MAX_FILES: Final = 64
_IS_HERE: Final = hasattr(os, "memfd_create") and hasattr(os, "sendfile")


class _Pages:
    """A buffer and its copy; it keeps the buffer, so that its identity stays its own."""

    __slots__ = ("buffer", "file", "used")

    def __init__(self, buffer: bytes, file: int) -> None:
        self.buffer = buffer
        self.file = file
        self.used = True


class SharedPages:
    """Copies of the long buffers that were sent lately, outside of the process' own memory.

    Args:
        room: For all of them [bytes]; the oldest go first.
    """

    __slots__ = ("_held", "_is_out", "_pages", "_room")

    def __init__(self, *, room: int) -> None:
        self._pages: OrderedDict[int, _Pages] = OrderedDict()
        self._held = 0
        self._is_out = not _IS_HERE
        self._room = room

    @property
    def held(self) -> int:
        """Bytes of all copies."""
        return self._held

    def send(self, descriptor: int, buffer: bytes) -> int:
        """Sends a buffer, or its beginning, to a socket that does not block and has nothing else to send.

        Returns: How much of it was taken [bytes]; 0 too when it has to be written as any other, which tells what is wrong with the socket.
        """
        pages = self._pages.get(id(buffer))
        if pages is None:
            pages = self._add(buffer)
            if pages is None:
                return 0
        pages.used = True
        try:
            return os.sendfile(descriptor, pages.file, 0, len(buffer))
        except OSError:
            return 0

    def expire(self) -> None:
        """Forgets what was not sent since the last call; to be called about once a second."""
        self._is_out = not _IS_HERE
        for key in [key for key, pages in self._pages.items() if not pages.used]:
            self._forget(key)
        for pages in self._pages.values():
            pages.used = False

    def close(self) -> None:
        for key in tuple(self._pages):
            self._forget(key)

    def _add(self, buffer: bytes) -> _Pages | None:
        if self._is_out or len(buffer) > self._room:
            return None
        while self._pages and (len(self._pages) >= _MAX_FILES or self._held + len(buffer) > self._room):
            self._forget(next(iter(self._pages)))
        file = _copied(buffer)
        if file is None:
            self._is_out = True  # until the next `expire`: it would fail again
            return None
        self._held += len(buffer)
        pages = self._pages[id(buffer)] = _Pages(buffer, file)
        return pages

    def _forget(self, key: int) -> None:
        pages = self._pages.pop(key)
        self._held -= len(pages.buffer)
        os.close(pages.file)


def _copied(buffer: bytes) -> int | None:
    """A file without a name that holds a buffer; None if the system gives none."""
    file = -1
    with contextlib.suppress(OSError):
        file = os.memfd_create("crossfade", os.MFD_CLOEXEC)
        if os.write(file, buffer) == len(buffer):
            return file
    if file >= 0:
        os.close(file)
    return None
