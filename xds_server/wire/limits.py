"""What one peer may cost, and what was refused because it would have cost more.

Every bound of this package is here. Costs that no frame alone exceeds (a flood of PINGs, streams that are opened and reset) are
summed as *strain*, which a tick sets back to zero: so a peer may do anything for a while and nothing for ever. The known attacks
and what meets each:

    rapid reset (CVE-2023-44487), made resets (CVE-2025-8671)          strain of RST_STREAM, received or caused
    PING, SETTINGS, PRIORITY, WINDOW_UPDATE floods (CVE-2019-9512 ff.)  strain; no reading while answers cannot be written
    empty and tiny DATA frames (CVE-2019-9518)                         strain
    CONTINUATION flood (CVE-2024-27316 and kin)                        `header_bytes`, `continuations`
    HPACK bomb                                                         `header_list_bytes`, checked while it is decoded
    windows of zero, peers that do not read (CVE-2019-9517)            `outbox` messages, `waiting_bytes`
    windows of a byte at a time (CVE-2019-9511)                        strain: a window update is free for every 2 KB that we send
    slowloris                                                          `greeting_s`
    half messages that never end                                       `assembling_bytes` of a connection and of all
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """What was refused; the key of a counter."""

    ALPN = "alpn"
    ASSEMBLING = "assembling"
    CLOSED_STREAM = "closed_stream"
    COMPRESSION = "compression"
    CONNECTIONS = "connections"
    CONTENT_TYPE = "content_type"
    CONTINUATION = "continuation"
    DEADLINE = "deadline"
    ENCODING = "encoding"
    FAULT = "fault"
    FLOOD = "flood"
    FLOW_CONTROL = "flow_control"
    FRAME = "frame"
    HEADERS = "headers"
    HEADER_SIZE = "header_size"
    IDLE = "idle"
    MESSAGE = "message"
    MESSAGE_SIZE = "message_size"
    METHOD = "method"
    PREFACE = "preface"
    RESETS = "resets"
    SILENT = "silent"
    SLOW = "slow"
    STREAMS = "streams"
    TLS = "tls"
    UNKNOWN_PATH = "unknown_path"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one listener takes on.

    Attributes:
        connections: Open at once; more are told ENHANCE_YOUR_CALM and closed.
        streams: Open at once on one connection [streams]; more are refused, which a client may try again.
        message_bytes: Largest message of a peer [bytes]; a larger one ends its stream with RESOURCE_EXHAUSTED.
        assembling_bytes: Of messages of one connection that are not whole yet [bytes].
        assembling_bytes_all: The same over all connections [bytes].
        header_bytes: Of a header block as sent [bytes].
        header_list_bytes: Of a header block as decoded, by the count of RFC 9113 section 6.5.2 [bytes].
        continuations: CONTINUATION frames of one header block [frames].
        outbox: Messages that wait for one peer; discovery has one unanswered response per type, so more means nobody reads.
        waiting_bytes: The same in bytes over all streams of a connection, as if no message were shared; one stream alone is bound by `outbox`.
        ahead_bytes: Handed to the host before it says that it can take more [bytes].
        window_bytes: What a peer may send on one stream ahead of us [bytes].
        connection_window_bytes: And on all streams of a connection [bytes].
        turn: Frames and messages of one connection in a row, before others have their turn.
        strain: Cost of frames that do no work between two ticks; see `COST`.
        remembered: Closed streams of a connection whose end is known [streams].
        greeting_s: From connecting to the first SETTINGS, and from HEADERS to the end of its block [s].
        idle_s: A connection without a stream is ended after so long [s].
        flush_s: What was sent before the end of a stream may take so long to go out [s].
        keepalive_s: After so long without a word a peer is asked for a sign of life [s].
        answer_s: Without that sign for so long it is gone [s].
        shared_bytes: Of framed messages kept for the next stream that is due them [bytes].
    """

    connections: int = 20_000
    streams: int = 1024
    message_bytes: int = 16 * 1024 * 1024
    assembling_bytes: int = 32 * 1024 * 1024
    assembling_bytes_all: int = 256 * 1024 * 1024
    header_bytes: int = 16 * 1024
    header_list_bytes: int = 16 * 1024
    continuations: int = 8
    outbox: int = 64
    waiting_bytes: int = 128 * 1024 * 1024
    ahead_bytes: int = 1024 * 1024
    window_bytes: int = 4 * 1024 * 1024
    connection_window_bytes: int = 4 * 1024 * 1024
    turn: int = 512
    strain: int = 5_000
    remembered: int = 1024
    greeting_s: float = 10.0
    idle_s: float = 3600.0
    flush_s: float = 5.0
    keepalive_s: float = 30.0
    answer_s: float = 10.0
    shared_bytes: int = 32 * 1024 * 1024


class Cost:
    """Strain of what does no work for us, in about microseconds of CPU."""

    TRIFLE: Final = 1
    """A PRIORITY, WINDOW_UPDATE or unknown frame, a piece of a message, a frame of a stream that is closed."""
    REPLY: Final = 5
    """PING and SETTINGS: each has to be answered."""
    STREAM: Final = 25
    """A stream opened in vain: reset by either side, refused, over its time limit, or ended by its service with an error."""
    EARNED: Final = 8
    """What a whole message pays for: a PING to measure the way and the window updates for its answer (grpc-go sends both)."""


@dataclass(slots=True)
class Counters:
    """What happened on all connections of a listener since it began; for metrics.

    Attributes:
        connections: Accepted.
        calls: Opened.
        refused: What was refused or ended early, by reason.
    """

    connections: int = 0
    calls: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)
