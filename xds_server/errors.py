"""The server's errors, by whose fault they are.

    ServerError
    ├── PeerError      a proxy broke the protocol or sent something unreadable; only its stream ends
    ├── ListenError    an address cannot be listened on
    ├── SourceError    the policies cannot be read
    ├── RecordingError evidence of the past cannot be read
    ├── StoreError     Temporary | Permanent
    └── BugError       an assumption of ours is broken

What a gRPC status or an exit code makes of them is decided where they are caught.
"""


class ServerError(Exception):
    """Base of the tree; never raised itself."""


class PeerError(ServerError):
    """A peer's message cannot be understood; says what, and how to mend it."""


class ListenError(ServerError):
    """An address cannot be listened on."""


class StoreError(ServerError):
    """The store cannot do what it was asked; `hint` says how to mend it. Raised as one of its two kinds."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TemporaryStoreError(StoreError):
    """It may work again by itself (locked, full, away)."""


class PermanentStoreError(StoreError):
    """It will not, until a person does something (corrupt, of a newer version, in use by another)."""


class SourceError(ServerError):
    """The policies cannot be read; `hint` says how to mend it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RecordingError(ServerError):
    """Evidence of the past (a file, Prometheus) cannot be read or written; `where` says in which line and column, `hint` how to mend it."""

    def __init__(self, message: str, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.hint = hint


class BugError(ServerError):
    """Our own assumption is broken: stop, never roll traffic forward on it."""
