"""The server's errors, by whose fault they are.

    ServerError
    ├── PeerError      a proxy broke the protocol or sent something unreadable; only its stream ends
    └── ListenError    an address cannot be listened on

What a gRPC status or an exit code makes of them is decided where they are caught.
"""


class ServerError(Exception):
    """Base of the tree; never raised itself."""


class PeerError(ServerError):
    """A peer's message cannot be understood; says what, and how to mend it."""


class ListenError(ServerError):
    """An address cannot be listened on."""
