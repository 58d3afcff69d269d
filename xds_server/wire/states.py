"""Which frame of a peer is welcome in which state of its stream: the table of RFC 9113 section 5.1, for a server that pushes nothing.

A stream that we end while the peer could still speak is reset in the same breath, so "half-closed (local)" does not occur: a state
fewer to get wrong. Closed streams are told apart by how they ended, since that decides whether a late frame is a fault; which those
are is remembered for a while (`Limits.remembered`), and of one that is forgotten or was never used no frame is welcome.
PRIORITY is welcome in every state; SETTINGS, PING and GOAWAY belong to no stream.

Rows are states, columns frame types; a cell says what becomes of the frame. Moves from state to state are in `MOVES`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from xds_server.wire.errors import Code
from xds_server.wire.frames import DATA, HEADERS, RST_STREAM, WINDOW_UPDATE


class State(Enum):
    IDLE = "idle"
    OPEN = "open"
    HALF_CLOSED_REMOTE = "half-closed (remote)"
    ENDED = "closed by END_STREAM of both"
    RESET_BY_PEER = "closed by RST_STREAM of the peer"
    RESET_BY_US = "closed by RST_STREAM of ours"
    PASSED = "closed without a memory of how"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a frame: it is taken, is ignored (no code), or is a fault.

    Attributes:
        code: What the peer is told.
        is_fatal: Whether it costs the connection and not only the stream.
    """

    takes: bool = False
    code: Code | None = None
    is_fatal: bool = False


class Move(Enum):
    """What changes a state."""

    OPENED = "HEADERS of a new stream"
    PEER_ENDED = "END_STREAM received"
    WE_ENDED = "END_STREAM sent"
    PEER_RESET = "RST_STREAM received"
    WE_RESET = "RST_STREAM sent"


_TAKE, _IGNORE, _CLOSED = Verdict(takes=True), Verdict(), Verdict(code=Code.STREAM_CLOSED)
_GONE, _WRONG = Verdict(code=Code.STREAM_CLOSED, is_fatal=True), Verdict(code=Code.PROTOCOL_ERROR, is_fatal=True)

VERDICTS: Final[dict[State, dict[int, Verdict]]] = {
    State.IDLE: {DATA: _WRONG, HEADERS: _TAKE, RST_STREAM: _WRONG, WINDOW_UPDATE: _WRONG},
    State.OPEN: {DATA: _TAKE, HEADERS: _TAKE, RST_STREAM: _TAKE, WINDOW_UPDATE: _TAKE},
    State.HALF_CLOSED_REMOTE: {DATA: _CLOSED, HEADERS: _CLOSED, RST_STREAM: _TAKE, WINDOW_UPDATE: _TAKE},
    State.ENDED: {DATA: _GONE, HEADERS: _GONE, RST_STREAM: _IGNORE, WINDOW_UPDATE: _IGNORE},
    State.RESET_BY_PEER: {DATA: _CLOSED, HEADERS: _CLOSED, RST_STREAM: _IGNORE, WINDOW_UPDATE: _IGNORE},
    State.RESET_BY_US: {DATA: _IGNORE, HEADERS: _IGNORE, RST_STREAM: _IGNORE, WINDOW_UPDATE: _IGNORE},
    State.PASSED: {DATA: _CLOSED, HEADERS: _WRONG, RST_STREAM: _IGNORE, WINDOW_UPDATE: _IGNORE},
}

MOVES: Final[dict[State, dict[Move, State]]] = {
    State.IDLE: {Move.OPENED: State.OPEN},
    State.OPEN: {
        Move.PEER_ENDED: State.HALF_CLOSED_REMOTE,
        Move.PEER_RESET: State.RESET_BY_PEER,
        Move.WE_RESET: State.RESET_BY_US,
    },
    State.HALF_CLOSED_REMOTE: {
        Move.WE_ENDED: State.ENDED,
        Move.PEER_RESET: State.RESET_BY_PEER,
        Move.WE_RESET: State.RESET_BY_US,
    },
}
"""A missing key is a bug of ours, not a fault of a peer. WE_ENDED in OPEN is WE_RESET: see above."""
