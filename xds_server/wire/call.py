"""One call: a stream's messages in both directions, and its end.

The way out: a message that the windows and the host have room for is framed at once, by the frames all share; else it waits in a queue
and goes out in pieces as room comes, without a copy. The way in: a DATA frame that holds whole messages is handed on message by message
from where it was read; only a message in several frames is put together first, within what `Limits` allows.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from xds_server.wire import grpc
from xds_server.wire.errors import Code, StreamError
from xds_server.wire.frames import DATA, MAX_FRAME, head
from xds_server.wire.grpc import PREFIX_BYTES, Partial, pack_prefix, unpack_prefix
from xds_server.wire.headers import Refusal, Request
from xds_server.wire.limits import Counters, Limits, Reason
from xds_server.wire.shared import Buffers, SharedFrames
from xds_server.wire.states import State

_WHOLE_BYTES: Final = 256 * 1024
"""A message of so much may go out before another stream has its turn: framed once for all it costs nothing."""


class Receiver(Protocol):
    """Who takes the messages of a call. Calls never overlap; none comes after `closed`."""

    def received(self, message: bytes) -> None:
        """One whole message of the peer."""
        ...

    def closed(self) -> None:
        """The call is over, whoever ended it; called exactly once."""
        ...


class _Nobody:
    """Takes what is for nobody."""

    def received(self, message: bytes) -> None:
        pass

    def closed(self) -> None:
        pass


NOBODY: Final = _Nobody()


class Link(Protocol):
    """What a call asks of its connection.

    Attributes:
        window: Bytes of DATA the peer lets us send on the connection.
        room: Bytes the host lets us hand it before the next `take`.
        waiting_bytes: Of messages that wait for windows or room.
    """

    window: int
    room: int
    waiting_bytes: int
    peer: str
    certificate: bytes

    @property
    def limits(self) -> Limits: ...

    @property
    def may_wait(self) -> bool:
        """Whether so many bytes may wait."""
        ...

    @property
    def counters(self) -> Counters: ...

    @property
    def frames(self) -> SharedFrames: ...

    def put(self, buffers: Buffers, size: int) -> None:
        """Writes DATA frames of so many bytes in the windows' count."""
        ...

    def head(self, stream_id: int, block: bytes, *, is_last: bool = False) -> None:
        """Writes the header block of a response."""
        ...

    def wait(self, call: "Call") -> None:
        """The call has something to send that there is no room for."""
        ...

    def end(self, call: "Call", trailers: bytes) -> None:
        """Writes what ends a call, a header block or nothing, and forgets it."""
        ...

    def cut(self, call: "Call", code: Code) -> None:
        """Resets a call."""
        ...

    def assemble(self, call: "Call", change: int) -> bool:
        """Counts bytes of messages that are not whole; the largest calls may be ended for it. Returns: Whether there may be so many."""
        ...

    def refused(self, call: "Call", reason: Reason, status: int, words: str) -> None:
        """Ends a call for what its messages are, which is counted."""
        ...

    def fail(self, call: "Call", error: Exception) -> None:
        """A service raised."""
        ...


_Item = tuple[bytes, bytes]
"""A prefix and a body; both are sent as they are."""


class Call:
    """One stream, and an outlet for the service that has it (`xds_server.core.transport.Outlet` by shape).

    Attributes:
        deaf: Whether what comes is not taken any more.
        request: What the peer's headers say.
        receiver: Who takes its messages; `NOBODY` until the host has said who.
        on_end: Called once when the call is over, before `Receiver.closed`: to cancel a timer.
        is_unary: Whether the call goes on after the peer has said all it had to say, until the service ends it.
        state: `OPEN`, `HALF_CLOSED_REMOTE`, or how it was closed.
        window: Bytes of DATA the peer lets us send on this stream; below zero after it took some back.
        unread: Bytes that came since we last gave the peer new window.
        promised: What is left of the `content-length` [bytes], if the peer promised one.
    """

    __slots__ = (
        "_heard",
        "_link",
        "_need",
        "_partial",
        "_queue",
        "_sent",
        "_started",
        "_status",
        "deaf",
        "id",
        "is_unary",
        "on_end",
        "promised",
        "receiver",
        "request",
        "state",
        "unread",
        "window",
    )

    def __init__(self, link: Link, stream_id: int, request: Request, window: int) -> None:
        self._heard = False
        self._link: Final = link
        self._need = 0
        self._partial: Partial | None = None
        self._queue: deque[_Item] | None = None
        self._sent = 0
        self._started = False
        self._status: tuple[int, str] | None = None
        self.deaf = request.refusal is not None
        self.id: Final = stream_id
        self.is_unary = False
        self.on_end: Callable[[], object] | None = None
        self.promised = request.length
        self.receiver: Receiver = NOBODY
        self.request: Final = request
        self.state = State.OPEN
        self.unread = 0
        self.window = window

    @property
    def peer(self) -> str:
        """Address of the peer, for people."""
        return self._link.peer

    @property
    def certificate(self) -> bytes:
        """The peer's certificate in DER form; empty without mutual TLS."""
        return self._link.certificate

    @property
    def is_ended(self) -> bool:
        """Whether the service, or the call itself, has said that it ends."""
        return self._status is not None

    @property
    def was_in_vain(self) -> bool:
        """Whether it ended otherwise than well, and not because we are not ready or about to stop."""
        return self._status is not None and self._status[0] not in {grpc.OK, grpc.UNAVAILABLE}

    @property
    def was_sent_away(self) -> bool:
        """Whether its service wants the peer to come back, perhaps to another server: on this connection it would come to this one."""
        return self._status is not None and self._status[0] == grpc.UNAVAILABLE

    @property
    def is_waiting(self) -> bool:
        """Whether something waits to be sent."""
        return self._queue is not None

    # The way out.

    def send(self, message: bytes) -> None:
        """Sends one message or queues it; never blocks. After the end it does nothing.

        A peer that does not read while `Limits.outbox` messages or `waiting_bytes` of them wait is cut off with RESOURCE_EXHAUSTED.
        """
        if self._status is not None:
            return
        link, size = self._link, len(message) + PREFIX_BYTES
        if not self._started:
            self._started = True
            link.head(self.id, grpc.HEADERS_BLOCK)
        if self._queue is None and size <= self.window and size <= link.window and size <= link.room:
            self.window -= size
            link.put(link.frames.frames(message, self.id), size)
            return
        waiting = 0 if self._queue is None else len(self._queue)
        self._enqueue(pack_prefix(0, len(message)), message)
        if waiting >= link.limits.outbox:
            self._overflow(f"{waiting} messages were sent and not read")
        elif not link.may_wait:
            self._overflow(f"messages of over {link.limits.waiting_bytes} bytes were sent and not read")

    def finish(self, status: int = grpc.OK, message: str = "") -> None:
        """Ends the call after what was sent; the first call counts. `Receiver.closed` follows, once, not from within this call."""
        if self._status is not None:
            return
        self._close(status, message)
        if self._queue is None:
            self._end()

    def refuse(self, refusal: Refusal) -> None:
        """Ends a call that gets no service; who does not speak gRPC is told so in plain HTTP, when it has said all."""
        if self._status is not None:
            return
        if not refusal.http:
            self.finish(refusal.status, refusal.message)
            return
        body = f"This is a gRPC server: {refusal.message}.\n".encode()
        fields = (":status", str(refusal.http)), ("content-type", "text/plain"), ("content-length", str(len(body)))
        self._close(refusal.status, refusal.message)
        self._started = True
        self._link.head(self.id, grpc.header_block(*fields))
        self._enqueue(b"", body)

    def expire(self) -> None:
        """The peer's time limit is over."""
        if self._status is None:
            self._link.counters.refused[Reason.DEADLINE] += 1
            self._close(grpc.DEADLINE_EXCEEDED, "the time limit of the call is over")
            self.abandon()

    def abandon(self) -> None:
        """Ends the call at once, without what still waits to be sent.

        It is reset as well, since a peer that does not read what it has would not come to read the status either; half a message cannot
        be followed by a status at all.
        """
        assert self._status is not None
        status, message = self._status
        is_cut = self._queue is not None and self._sent > 0
        self._forget_queue()
        if not is_cut and self.request.refusal is None:
            self._link.head(self.id, grpc.trailers_block(status, message, alone=not self._started), is_last=True)
        self._link.cut(self, Code.ENHANCE_YOUR_CALM if status == grpc.RESOURCE_EXHAUSTED else Code.CANCEL)

    def drop(self, state: State) -> None:
        """The stream is gone; nothing goes out any more."""
        self.state = state
        self._close(*(self._status or (grpc.CANCELLED, "")))
        self._forget_queue()
        if self._partial is not None:
            self._link.assemble(self, -len(self._partial))
            self._partial = None
        if self.on_end is not None:
            self.on_end()
            self.on_end = None

    def pump(self) -> None:
        """Sends from the queue what there is room for: a message that fits whole, or one frame."""
        link, queue = self._link, self._queue
        room = min(self.window, link.window, link.room)
        if queue is None or room <= 0:
            return
        prefix, body = queue[0]
        size, sent = len(prefix) + len(body), self._sent
        if not sent and prefix and size <= min(room, _WHOLE_BYTES):
            buffers: Buffers = link.frames.frames(body, self.id)
        else:
            buffers, size = self._piece(prefix, body, min(room, MAX_FRAME))
        self._sent = sent + size
        self.window -= size
        if self._sent == len(prefix) + len(body):
            self._sent = 0
            queue.popleft()
            link.waiting_bytes -= len(body)
            if not queue:
                self._queue = None
        link.put(buffers, size)
        if self._queue is None and self._status is not None:
            self._end()

    def _piece(self, prefix: bytes, body: bytes, room: int) -> tuple[Buffers, int]:
        """One frame from where the last one stopped, and its size."""
        start = self._sent
        size = min(room, len(prefix) + len(body) - start)
        before = prefix[start : start + size]
        begin = max(0, start - len(prefix))
        return (head(size, DATA, 0, self.id) + before, memoryview(body)[begin : begin + size - len(before)]), size

    def _enqueue(self, prefix: bytes, body: bytes) -> None:
        if self._queue is None:
            self._queue = deque()
            self._link.wait(self)
        self._queue.append((prefix, body))
        self._link.waiting_bytes += len(body)

    def _forget_queue(self) -> None:
        if self._queue is not None:
            self._link.waiting_bytes -= sum(len(body) for _, body in self._queue)
            self._queue = None

    def _overflow(self, words: str) -> None:
        self._link.counters.refused[Reason.UNREAD] += 1
        self._close(grpc.RESOURCE_EXHAUSTED, words)
        self.abandon()

    def _close(self, status: int, message: str) -> None:
        self._status = status, message
        self.deaf = True

    def _end(self) -> None:
        assert self._status is not None
        status, message = self._status
        is_plain = self.request.refusal is not None and self.request.refusal.http
        self._link.end(self, b"" if is_plain else grpc.trailers_block(status, message, alone=not self._started))

    # The way in.

    @property
    def is_between_messages(self) -> bool:
        """Whether a whole message would be taken as it is."""
        return self._partial is None and self.state is State.OPEN and not self.deaf and self.promised is None

    def take(self, data: bytes, start: int, stop: int) -> int:
        """Content of a DATA frame, from `start` to `stop`: whole messages are handed on, the rest is kept.

        Returns: How many messages were handed on.
        """
        taken = 0
        if self._partial is not None:
            start, whole = self._filled(data, start, stop)
            if whole is None:
                return 0
            taken = 1
            self.hand_on(whole)
        while stop - start >= PREFIX_BYTES and not self.deaf:
            mark, length = unpack_prefix(data, start)
            end = start + PREFIX_BYTES + length
            if mark or end > stop:
                if self._is_refused(mark, length):
                    return taken
                break
            taken += 1
            self.hand_on(data[start + PREFIX_BYTES : end])
            start = end
        if start < stop and not self.deaf:
            self._keep(data[start:stop])
        return taken

    def hand_on(self, message: bytes) -> None:
        """A whole message; a fault of the service costs this call, not the connection."""
        self._heard = True
        try:
            self.receiver.received(message)
        except Exception as error:  # noqa: BLE001 - see above
            self._link.fail(self, error)
        if self.is_unary:
            self.deaf = True

    def _is_refused(self, mark: int, length: int) -> bool:
        """Ends a call whose next message will not be taken."""
        limits = self._link.limits
        if mark:
            self._refused(Reason.ENCODING, grpc.INTERNAL, "a message is marked as compressed, which grpc-encoding did not announce")
        elif length > limits.message_bytes:
            words = f"a message of {length} bytes came, the limit is {limits.message_bytes}"
            self._refused(Reason.MESSAGE_SIZE, grpc.RESOURCE_EXHAUSTED, words)
        return self._status is not None

    def _refused(self, reason: Reason, status: int, words: str) -> None:
        self._link.refused(self, reason, status, words)

    @property
    def held(self) -> int:
        """Bytes of a message that is not whole."""
        return 0 if self._partial is None else len(self._partial)

    def let_go(self) -> None:
        """Ends the call because messages that are not whole take too much room."""
        self._refused(Reason.ASSEMBLING, grpc.RESOURCE_EXHAUSTED, "too many messages that are not whole")

    def _filled(self, data: bytes, start: int, stop: int) -> tuple[int, bytes | None]:
        """Adds what the message lacks that has begun. Returns: Where it ends, and the message, if it is whole."""
        partial = self._partial
        assert partial is not None
        while start < stop:
            end = min(stop, start + self._need - len(partial))
            partial.add(data[start:end])
            if not self._link.assemble(self, end - start):
                self.let_go()
            if self._status is not None:
                break
            start = end
            if len(partial) < self._need:
                break
            mark, length = unpack_prefix(partial.first, 0)
            self._need = PREFIX_BYTES + length
            if len(partial) == PREFIX_BYTES and (mark or length > 0):
                if self._is_refused(mark, length):
                    break
                continue
            self._partial = None
            self._link.assemble(self, -len(partial))
            return start, partial.body()
        return stop, None

    def _keep(self, rest: bytes) -> None:
        """The beginning of a message, perhaps of its prefix only."""
        self._need = PREFIX_BYTES if len(rest) < PREFIX_BYTES else PREFIX_BYTES + unpack_prefix(rest, 0)[1]
        self._partial = Partial(rest)
        if not self._link.assemble(self, len(rest)):
            self.let_go()

    def count(self, size: int, *, is_last: bool) -> None:
        """Content of a body whose length was promised. Raises: StreamError: If it is another (RFC 9113 section 8.1.1)."""
        assert self.promised is not None
        self.promised -= size
        if self.promised < 0 or (is_last and self.promised):
            raise StreamError(
                Code.PROTOCOL_ERROR, Reason.HEADERS, "content-length is not the length of the content (RFC 9113 section 8.1.1)"
            )

    def peer_ended(self) -> None:
        """The peer has said all it had to say."""
        if self._partial is not None and self._status is None:
            self._refused(Reason.MESSAGE, grpc.INTERNAL, "the stream ended in the middle of a message")
        elif self.request.refusal is not None:
            self.refuse(self.request.refusal)
        elif not self.is_unary:
            self.finish()
        elif not self._heard and self._status is None:
            self._refused(Reason.MESSAGE, grpc.INTERNAL, "the stream ended without a message")
