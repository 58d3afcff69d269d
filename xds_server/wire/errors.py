"""What a peer did wrong, by what it costs, and the codes it is told.

    WireError
    ├── StreamError  its stream ends with RST_STREAM, the others go on (RFC 9113 section 5.4.2: "stream error")
    └── FatalError   the connection ends with GOAWAY (RFC 9113 section 5.4.1: "connection error")

They are raised where a frame is read and caught where frames are counted, in `connection`; no service and no host ever sees one.
"""

from enum import IntEnum

from xds_server.wire.limits import Reason


class Code(IntEnum):
    """Why a stream or a connection ends. Source: RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class WireError(Exception):
    """Base of the tree; never raised itself.

    Attributes:
        code: What the peer is told.
        reason: What is counted.
    """

    def __init__(self, code: Code, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.reason = reason


class StreamError(WireError):
    """One stream cannot go on."""


class FatalError(WireError):
    """Nothing that follows on this connection can be relied on, or should be paid for."""
