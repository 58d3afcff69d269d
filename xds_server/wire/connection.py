"""One connection: frames to calls, calls to frames, windows, errors, keepalive, the end.

The host passes what it read to `receive` and, when that says so or `due` is called, writes what `take` hands out: so everything that is
said in one turn goes out in one write. About once a second it calls `tick`, which is the only clock there is. When `over` is true the
connection is to be closed once that is written; then, or when the peer closed it, `lost` is called, once.

Neighbours: `outgoing` is the half that writes, `incoming` takes content in, `streams` knows the calls and their ends, `call` has what belongs to one stream, `states` says which frame is welcome, `limits` what
a peer may cost. A fault of the peer is raised where it is found and ends its stream or this connection in `receive` and nowhere else.
"""

from collections.abc import Callable
from typing import ClassVar, Final

from xds_server.wire import frames as wire
from xds_server.wire.call import NOBODY, Call
from xds_server.wire.errors import Code, FatalError, StreamError
from xds_server.wire.frames import HEAD_BYTES, MAX_FRAME, unpack_head
from xds_server.wire.headers import Reader, check_trailers
from xds_server.wire.incoming import SMALL_PIECE, Incoming
from xds_server.wire.limits import Cost, Reason
from xds_server.wire.outgoing import nothing
from xds_server.wire.server import Server
from xds_server.wire.states import MOVES, Move, State

_FREE_HEADER_BYTES: Final = 256
_SETTINGS_ACK: Final = wire.frame(wire.SETTINGS, wire.ACK, 0, b"")
_PING: Final = wire.frame(wire.PING, 0, 0, b"present?")


class _Block:
    """A header block that is not whole yet."""

    __slots__ = ("data", "flags", "pieces", "stream_id")

    def __init__(self, stream_id: int, flags: int, data: bytes) -> None:
        self.stream_id: Final = stream_id
        self.flags: Final = flags
        self.data = bytearray(data)
        self.pieces = 0


class Connection(Incoming):
    """A server's side of one HTTP/2 connection that carries gRPC.

    Args:
        server: What all connections of the listener share.
        due: Called when there is something to `take` outside of `receive`; not again before it was taken.
        now: The host's time [s].
        peer: Its address, for people.
        certificate: Its certificate in DER form; empty without mutual TLS.
    """

    __slots__ = (
        "_asked_at",
        "_begun_at",
        "_block",
        "_first_window",
        "_greeted",
        "_heard",
        "_heard_at",
        "_idle_at",
        "_need",
        "_prefaced",
        "_reader",
        "_rest",
        "certificate",
        "peer",
    )

    def __init__(self, server: Server, due: Callable[[], None], *, now: float, peer: str = "", certificate: bytes = b"") -> None:
        super().__init__(server, due)
        self.peer = peer
        self.certificate = certificate
        self._prefaced = self._greeted = self._heard = False
        self._first_window = wire.FIRST_WINDOW
        self._reader: Final = Reader(server.blocks)
        self._block: _Block | None = None
        self._rest: bytearray | None = None
        self._need = len(wire.PREFACE)
        self._heard_at = self._idle_at = now
        self._asked_at: float | None = None
        self._begun_at: float | None = now
        server.counters.connections += 1

    # What the host calls.

    def receive(self, data: bytes) -> bool:
        """Takes in what was read. Returns: Whether `take` is to be called."""
        if self.over:
            return False
        self._heard = True
        self._turn = self._server.limits.turn
        if self._rest is not None:
            self._rest += data
            if len(self._rest) < self._need:
                return False
            data, self._rest = bytes(self._rest), None
        self._called = True
        try:
            self._parse(data)
        except FatalError as fault:
            self._fail(fault)
        self._called = bool(self.out or self._ended or self._ready or self._turn <= 0 or self._owed)
        return self._called

    @property
    def is_unfinished(self) -> bool:
        """Whether there is more of what was read than one turn allows: read no more, and `receive(b"")` in the next turn."""
        return self._turn <= 0 and self._rest is not None and not self.over

    def take(self) -> list[bytes | memoryview]:
        """What is to be written now. Calls `Receiver.closed` of what has ended."""
        self._called = True
        if self._ended:
            self._settle()
        self.room = 0 if self._paused else self._server.limits.ahead_bytes
        if self._ready:
            self._pump()
            self._settle()
        out, self.out = self.out, []
        self._called = False
        if self._ready and self.room <= 0 and self.window > 0 and not self._paused:
            self._call()
        return out

    def pause(self) -> None:
        """The host cannot write more for now."""
        self._paused, self.room = True, 0

    def resume(self) -> None:
        """It can again, so the peer has read something."""
        self._paused, self._owed, self._heard = False, 0, True
        self.room = self._server.limits.ahead_bytes
        if self._can_pump and not self._called:
            self._call()

    def tick(self, now: float) -> bool:
        """Time has passed. Returns: Whether the connection is to be cut at once."""
        self._strain = 0
        if self._heard:
            self._heard, self._heard_at, self._asked_at = False, now, None
        if self._is_late(now):
            return True
        if self._waiting:
            self._end_lingering(now)
        return self._is_silent(now)

    def turn_away(self) -> None:
        """Ends the connection before it began: there are too many."""
        self.out.append(self._server.hello)
        self._fail(FatalError(Code.ENHANCE_YOUR_CALM, Reason.CONNECTIONS, f"over {self._server.limits.connections} connections"))

    def lost(self) -> None:
        """The transport is closed, and so are all calls."""
        self.over = self._called = True
        self._forget_all()
        self._settle()
        self.out.clear()
        self._due = nothing

    # Time.

    def _is_late(self, now: float) -> bool:
        """Whether something that was begun (greeting, a header block, the end) is not done in its time."""
        if self._greeted and self._block is None and not self.over:
            self._begun_at = None
            return False
        if self._begun_at is None:
            self._begun_at = now
        if self.over:
            return now - self._begun_at > self._server.limits.flush_s
        if now - self._begun_at <= self._server.limits.greeting_s:
            return False
        self._server.counters.refused[Reason.SLOW] += 1
        return True

    def _end_lingering(self, now: float) -> None:
        """Ends calls that are to end and whose last messages the peer does not read."""
        for call, since in tuple(self._waiting.items()):
            if call.is_ended and since is None:
                self._waiting[call] = now
            elif since is not None and now - since > self._server.limits.flush_s:
                self._server.counters.refused[Reason.UNREAD] += 1
                call.abandon()

    def _is_silent(self, now: float) -> bool:
        """Asks a silent peer for a sign of life. Returns: Whether it gave none."""
        limits = self._server.limits
        if self._calls:
            self._idle_at = now
        elif now - self._idle_at > limits.idle_s:
            self._server.counters.refused[Reason.IDLE] += 1
            self.drain()
        if self._asked_at is None:
            if now - self._heard_at > limits.keepalive_s and self._greeted and not self.over:
                self._asked_at = now
                self._control(_PING)
        elif now - self._asked_at > limits.answer_s:
            self._server.counters.refused[Reason.SILENT] += 1
            return True
        return False

    # Frames.

    def _parse(self, data: bytes) -> None:
        """Takes whole frames, as many as one turn allows, and keeps the rest."""
        at = 0 if self._prefaced else self._greet(data)
        end, need = len(data), HEAD_BYTES
        while end - at >= HEAD_BYTES and self._turn > 0:
            word, flags, stream_id = unpack_head(data, at)
            start = at + HEAD_BYTES
            stop = start + (word >> 8)
            if stop > end or stop - start > MAX_FRAME:
                if stop - start > MAX_FRAME:
                    raise FatalError(Code.FRAME_SIZE_ERROR, Reason.FRAME, f"a frame of {stop - start} bytes (RFC 9113 section 4.2)")
                need = stop - at
                break
            self._turn -= 1
            stream_id &= wire.MAX_WINDOW
            try:
                if word & 0xFF or self._block is not None:
                    self._on_other(word & 0xFF, flags, stream_id, data[start:stop])
                elif flags or stop - start < SMALL_PIECE or not (after := self._take_long(data, start, stop, stream_id)):
                    self._on_data(data, start, stop, flags, stream_id)
                else:
                    stop = after
            except StreamError as fault:
                self._reset(stream_id, fault)
            at = stop
            if self.over:
                return
        if at < end:
            self._rest, self._need = bytearray(memoryview(data)[at:]), need

    def _greet(self, data: bytes) -> int:
        """Reads the client's preface and writes ours. Returns: Where the frames begin."""
        size = len(wire.PREFACE)
        if not wire.PREFACE.startswith(data[:size]):
            self.out.append(self._server.hello)
            raise FatalError(Code.PROTOCOL_ERROR, Reason.PREFACE, "no HTTP/2 preface (RFC 9113 section 3.4)")
        if len(data) < size:
            self._rest, self._need = bytearray(data), 0  # a wrong byte is told at once
            return len(data)
        self._prefaced = True
        self.out.append(self._server.hello)
        return size

    def _on_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Any frame but DATA in its place."""
        if not self._greeted and (kind != wire.SETTINGS or flags & wire.ACK):
            raise FatalError(Code.PROTOCOL_ERROR, Reason.PREFACE, "the first frame is not SETTINGS (RFC 9113 section 3.4)")
        if self._block is not None and (kind != wire.CONTINUATION or stream_id != self._block.stream_id):
            raise FatalError(Code.PROTOCOL_ERROR, Reason.FRAME, "a header block is interrupted (RFC 9113 section 4.3)")
        taker = self._takers.get(kind)
        if taker is None:  # extensions are ignored (section 5.5); DATA amid a header block was found above
            self._charge(Cost.TRIFLE, kind)
            return
        wire.check(kind, len(payload), stream_id)
        taker(self, flags, stream_id, payload)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        start, stop = 0, len(payload)
        if flags & wire.PADDED:
            before, after = wire.padding(payload, start, stop)
            start, stop = before, stop - after
        if flags & wire.HAS_PRIORITY:
            if stop - start < wire.PRIORITY_BYTES:
                raise FatalError(Code.FRAME_SIZE_ERROR, Reason.FRAME, "HEADERS without room for a priority (RFC 9113 section 6.2)")
            wire.check_priority(payload[start:], stream_id)
            start += wire.PRIORITY_BYTES
        if flags & wire.END_HEADERS:
            self._headers(stream_id, flags, payload[start:stop])
        else:
            self._block = _Block(stream_id, flags, payload[start:stop])

    def _on_continuation(self, flags: int, _: int, payload: bytes) -> None:
        block, limits = self._block, self._server.limits
        if block is None:
            raise FatalError(Code.PROTOCOL_ERROR, Reason.FRAME, "CONTINUATION of nothing (RFC 9113 section 6.10)")
        block.data += payload
        block.pieces += 1
        if block.pieces > limits.continuations:
            raise FatalError(Code.ENHANCE_YOUR_CALM, Reason.CONTINUATION, f"a header block in over {limits.continuations} pieces")
        if len(block.data) > limits.header_bytes:
            raise FatalError(Code.ENHANCE_YOUR_CALM, Reason.HEADER_SIZE, f"a header block of over {limits.header_bytes} bytes")
        if flags & wire.END_HEADERS:
            self._block = None
            self._headers(block.stream_id, block.flags, bytes(block.data))

    def _headers(self, stream_id: int, flags: int, block: bytes) -> None:
        """A whole header block: it opens a stream or ends one, and is decoded in any case (RFC 9113 section 4.3)."""
        if len(block) > self._server.limits.header_bytes:
            raise FatalError(Code.ENHANCE_YOUR_CALM, Reason.HEADER_SIZE, f"a header block of {len(block)} bytes")
        if not stream_id & 1:
            raise FatalError(Code.PROTOCOL_ERROR, Reason.FRAME, f"a client opens stream {stream_id} (RFC 9113 section 5.1.1)")
        if len(block) > _FREE_HEADER_BYTES:
            self._charge(len(block) >> 4, wire.HEADERS)
        if stream_id > self._last_id:
            self._open(stream_id, block, is_last=bool(flags & wire.END_STREAM))
            return
        fields = self._reader.fields(block)
        if not self._is_welcome(wire.HEADERS, stream_id):
            return
        if not flags & wire.END_STREAM:
            raise StreamError(Code.PROTOCOL_ERROR, Reason.HEADERS, "trailers without END_STREAM (RFC 9113 section 8.1)")
        check_trailers(fields)
        call = self._calls[stream_id]
        call.state = MOVES[call.state][Move.PEER_ENDED]
        self._peer_ended(call)

    def _open(self, stream_id: int, block: bytes, *, is_last: bool) -> None:
        self._charge(0, wire.HEADERS)
        self._last_id = stream_id
        request = self._reader.request(block)
        server = self._server
        if self._draining:  # the peer was told that this stream is not taken
            self._remember(stream_id, State.RESET_BY_US)
            self._charge(Cost.REPLY, wire.HEADERS)
            return
        if len(self._calls) >= server.limits.streams:
            raise StreamError(Code.REFUSED_STREAM, Reason.STREAMS, f"over {server.limits.streams} streams")
        call = self._calls[stream_id] = Call(self, stream_id, request, self._first_window)
        server.counters.calls += 1
        if is_last:
            call.state = MOVES[call.state][Move.PEER_ENDED]
        if request.refusal is not None:
            server.counters.refused[request.refusal.reason] += 1
            if not request.refusal.http:
                call.refuse(request.refusal)
        else:
            try:
                call.receiver = server.host.opened(call) or NOBODY
            except Exception as error:  # noqa: BLE001 - a fault of the service
                self.fail(call, error)
        if is_last:
            self._peer_ended(call)

    def _peer_ended(self, call: Call) -> None:
        if call.promised is not None:
            call.count(0, is_last=True)
        call.peer_ended()

    def _on_priority(self, _: int, stream_id: int, payload: bytes) -> None:
        wire.check_priority(payload, stream_id)
        self._charge(Cost.TRIFLE, wire.PRIORITY)

    def _on_rst_stream(self, _: int, stream_id: int, __: bytes) -> None:
        self._charge(Cost.STREAM, wire.RST_STREAM)
        if self._is_welcome(wire.RST_STREAM, stream_id):
            self._forget(self._calls[stream_id], Move.PEER_RESET)

    def _on_settings(self, flags: int, _: int, payload: bytes) -> None:
        if flags & wire.ACK:
            if payload:
                raise FatalError(Code.FRAME_SIZE_ERROR, Reason.FRAME, "SETTINGS that acknowledge and set (RFC 9113 section 6.5)")
            self._charge(Cost.TRIFLE, wire.SETTINGS)
            return
        self._charge(Cost.REPLY + len(payload) // 6 + (len(self._calls) >> 3), wire.SETTINGS)
        found = wire.parse_settings(payload)
        self._greeted = True
        if wire.HEADER_TABLE_SIZE in found:
            self._shrink_table(found[wire.HEADER_TABLE_SIZE])
        self._control(_SETTINGS_ACK)
        change = found.get(wire.INITIAL_WINDOW_SIZE, self._first_window) - self._first_window
        self._first_window += change
        for call in tuple(self._calls.values()) if change else ():
            call.window += change
            if call.window > wire.MAX_WINDOW:
                raise FatalError(Code.FLOW_CONTROL_ERROR, Reason.FLOW_CONTROL, "a window over 2^31-1 (RFC 9113 section 6.9.2)")
            self._recheck(call)

    def _on_push_promise(self, _: int, __: int, ___: bytes) -> None:
        raise FatalError(Code.PROTOCOL_ERROR, Reason.FRAME, "a client pushes (RFC 9113 section 8.4)")

    def _on_ping(self, flags: int, _: int, payload: bytes) -> None:
        self._charge(Cost.REPLY, wire.PING)
        if not flags & wire.ACK:
            self._control(wire.frame(wire.PING, wire.ACK, 0, payload))

    def _on_goaway(self, _: int, __: int, ___: bytes) -> None:
        self._charge(Cost.TRIFLE, wire.GOAWAY)

    def _on_window_update(self, _: int, stream_id: int, payload: bytes) -> None:
        self._charge(Cost.TRIFLE, wire.WINDOW_UPDATE)
        increment = wire.u32(payload) & wire.MAX_WINDOW
        if not stream_id:
            if not increment:
                raise FatalError(Code.PROTOCOL_ERROR, Reason.FLOW_CONTROL, "a window opens by 0 (RFC 9113 section 6.9)")
            if not self._widen(increment):
                raise FatalError(Code.FLOW_CONTROL_ERROR, Reason.FLOW_CONTROL, "a window over 2^31-1 (RFC 9113 section 6.9.1)")
        elif self._is_welcome(wire.WINDOW_UPDATE, stream_id):
            call = self._calls[stream_id]
            call.window += increment
            if not increment:
                raise StreamError(Code.PROTOCOL_ERROR, Reason.FLOW_CONTROL, "a window opens by 0 (RFC 9113 section 6.9)")
            if call.window > wire.MAX_WINDOW:
                raise StreamError(Code.FLOW_CONTROL_ERROR, Reason.FLOW_CONTROL, "a window over 2^31-1 (RFC 9113 section 6.9.1)")
            self._recheck(call)

    def _fail(self, fault: FatalError) -> None:
        """Ends the connection for a fault of the peer."""
        self._server.counters.refused[fault.reason] += 1
        self._control(wire.goaway(self._last_id, fault.code, str(fault)))
        self.over, self._rest = True, None
        self._forget_all()

    _takers: ClassVar = {
        wire.HEADERS: _on_headers,
        wire.PRIORITY: _on_priority,
        wire.RST_STREAM: _on_rst_stream,
        wire.SETTINGS: _on_settings,
        wire.PUSH_PROMISE: _on_push_promise,
        wire.PING: _on_ping,
        wire.GOAWAY: _on_goaway,
        wire.WINDOW_UPDATE: _on_window_update,
        wire.CONTINUATION: _on_continuation,
    }
