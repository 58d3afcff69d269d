"""The streams of a connection: which there are, which there were, how they end, and what those cost that end badly."""

from collections.abc import Callable

from xds_server.wire import frames as wire
from xds_server.wire import grpc
from xds_server.wire.call import Call
from xds_server.wire.errors import Code, FatalError, StreamError
from xds_server.wire.frames import DATA
from xds_server.wire.limits import Cost, Reason
from xds_server.wire.outgoing import Outgoing
from xds_server.wire.server import Server
from xds_server.wire.states import MOVES, VERDICTS, Move, State


class Streams(Outgoing):
    """What a connection knows of its streams; base of `Connection`.

    Attributes:
        over: Whether the connection is to be closed after what `take` hands out.
    """

    __slots__ = ("_assembling", "_calls", "_draining", "_ended", "_last_id", "_remembered", "over")

    def __init__(self, server: Server, due: Callable[[], None]) -> None:
        super().__init__(server, due)
        self._assembling = 0
        self._calls: dict[int, Call] = {}
        self._draining = False
        self._ended: list[Call] = []
        self._last_id = 0
        self._remembered: dict[int, State] = {}
        self.over = False

    @property
    def calls(self) -> tuple[Call, ...]:
        """Open ones."""
        return tuple(self._calls.values())

    def drain(self) -> None:
        """No new call from now on; over when the last one is."""
        if not self._draining and not self.over:
            self._draining = True
            self._control(wire.goaway(self._last_id, Code.NO_ERROR, ""))
            self.over = not self._calls

    # What calls ask for; the rest is in `outgoing`.

    def end(self, call: Call, trailers: bytes) -> None:
        """Writes what ends a call, a header block or nothing, and forgets it."""
        if trailers:
            self.head(call.id, trailers, is_last=True)
        else:
            self._control(wire.frame(DATA, wire.END_STREAM, call.id, b""))
        if call.was_in_vain:
            self._strain += Cost.STREAM
        if call.state is State.OPEN:
            self._control(wire.rst_stream(call.id, Code.NO_ERROR))
            self._forget(call, Move.WE_RESET)
        else:
            self._forget(call, Move.WE_ENDED)

    def cut(self, call: Call, code: Code) -> None:
        """Resets a call. What made us do so is the peer's, and a strain if it happens often (CVE-2025-8671)."""
        self._strain += Cost.STREAM
        self._control(wire.rst_stream(call.id, code))
        self._forget(call, Move.WE_RESET)

    def assemble(self, call: Call, change: int) -> bool:
        """Counts bytes of messages that are not whole; the largest calls may be ended for it. Returns: Whether there may be so many."""
        server = self._server
        self._assembling += change
        server.assemble(call, change)
        if self._assembling > server.limits.assembling_bytes:
            return False
        if server.assembling > server.limits.assembling_bytes_all:
            server.relieve()
        return True

    def refused(self, call: Call, reason: Reason, status: int, words: str) -> None:
        """Ends a call for what its messages are."""
        self._server.counters.refused[reason] += 1
        call.finish(status, words)

    def fail(self, call: Call, error: Exception) -> None:
        """A service raised: this costs its call, not the connection."""
        self._server.counters.refused[Reason.FAULT] += 1
        self._server.host.failed(call, error)
        call.finish(grpc.INTERNAL, "an error of the server; its log has it")

    # Faults and ends.

    def _charge(self, cost: int, kind: int) -> None:
        """Adds to the strain. Raises: FatalError: If that is too much."""
        self._strain += cost
        if self._strain > self._server.limits.strain:
            reason = Reason.RESETS if kind in {wire.RST_STREAM, wire.HEADERS} else Reason.FLOOD
            name = wire.NAMES[kind] if kind < len(wire.NAMES) else f"type {kind}"
            raise FatalError(Code.ENHANCE_YOUR_CALM, reason, f"too many frames that do no work, the last of them {name}")

    def _is_welcome(self, kind: int, stream_id: int) -> bool:
        """Whether a frame is to be taken in the state its stream is in; if not it is ignored. Raises: WireError: If it may not come."""
        call = self._calls.get(stream_id)
        if call is not None:
            state = call.state
        elif stream_id > self._last_id or not stream_id & 1:
            state = State.IDLE
        else:
            state = self._remembered.get(stream_id, State.PASSED)
        verdict = VERDICTS[state][kind]
        if verdict.takes:
            return True
        if verdict.code is not None:
            fault = FatalError if verdict.is_fatal else StreamError
            words = f"{wire.NAMES[kind]} on stream {stream_id}, which is {state.value} (RFC 9113 section 5.1)"
            raise fault(verdict.code, Reason.CLOSED_STREAM, words)
        self._charge(Cost.TRIFLE, kind)
        return False

    def _reset(self, stream_id: int, fault: StreamError) -> None:
        """Ends a stream for a fault of the peer. Raises: FatalError: If that happens too often."""
        call = self._calls.get(stream_id)
        if stream_id > self._last_id or not stream_id & 1:  # idle: RST_STREAM may not be sent on it (RFC 9113 section 5.1)
            raise FatalError(fault.code, fault.reason, str(fault))
        self._server.counters.refused[fault.reason] += 1
        if call is not None:
            self.cut(call, fault.code)
        else:
            self._control(wire.rst_stream(stream_id, fault.code))
            self._strain += Cost.STREAM
            if stream_id == self._last_id or stream_id in self._remembered:  # else it was never opened, or long ago
                self._remember(stream_id, State.RESET_BY_US)
        self._charge(0, wire.RST_STREAM)

    def _forget(self, call: Call, move: Move) -> None:
        """A call is over; its service hears of it in the next `take`."""
        call.drop(MOVES[call.state][move])
        del self._calls[call.id]
        self._unlist(call)
        self._remember(call.id, call.state)
        self._ended.append(call)
        self.over = self.over or (self._draining and not self._calls)
        if call.was_sent_away:
            self.drain()
        if not self._called:
            self._call()

    def _forget_all(self) -> None:
        for call in self._calls.values():
            call.drop(State.PASSED)
            self._ended.append(call)
        self._calls.clear()
        self._waiting.clear()
        self._ready.clear()

    def _remember(self, stream_id: int, state: State) -> None:
        remembered = self._remembered
        remembered.pop(stream_id, None)
        remembered[stream_id] = state
        if len(remembered) > self._server.limits.remembered:
            del remembered[next(iter(remembered))]

    def _settle(self) -> None:
        """Tells services that their calls are over. What they do then may end others."""
        while self._ended:
            ended, self._ended = self._ended, []
            for call in ended:
                try:
                    call.receiver.closed()
                except Exception as error:  # noqa: BLE001 - a fault of the service
                    self._server.counters.refused[Reason.FAULT] += 1
                    self._server.host.failed(call, error)
