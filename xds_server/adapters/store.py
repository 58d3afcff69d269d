"""The store port: what every rollout was decided to be, kept with compare-and-set, and a bounded history beside it.

The runtime consumes it; `store_sqlite` and `store_memory` implement it and pass one contract suite (`tests/contract/test_store.py`).
States and records are opaque bytes here. Nothing is half done: each call is one transaction, and returns only when it is durable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from xds_server.errors import PermanentStoreError, StoreError

RECORDS_MAX: Final = 1000
"""Records kept per name; the oldest go first."""

Record = tuple[bytes, float]
"""(content, when [s since the epoch, UTC])."""

Save = tuple[str, bytes, int | None]
"""(name, state, expected revision); None = must not exist yet."""


Commit = tuple[str, bytes, int | None, Sequence[Record]]
"""(name, state, expected revision, records of how it came about)."""


class Conflict(StoreError):  # noqa: N818 - the outcome of a compare-and-set, named as such
    """Somebody else saved first: nothing was written. Read again and decide again.

    It names the state in its message and carries no value: whoever lost must not build on what it had.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One state. `revision` grows by one with every save of this name, from 1."""

    name: str
    revision: int
    state: bytes


class Store(Protocol):
    """Raises: StoreError: From every method; Conflict where a revision is expected."""

    async def load_all(self) -> list[Stored]:
        """All states, by name."""
        ...

    async def save_many(self, batch: Sequence[Save]) -> list[int]:
        """All of them or none; returns the new revisions in order."""
        ...

    async def commit(self, name: str, state: bytes, *, expected: int | None, records: Sequence[Record]) -> int:
        """A state and the records of how it came about, together or not at all; returns the new revision.

        Beyond `RECORDS_MAX` records of a name the oldest are forgotten.
        """
        ...

    async def commit_many(self, batch: Sequence[Commit]) -> list[int]:
        """`commit` of several in one transaction, all or none; returns the new revisions in order."""
        ...

    async def records(self, name: str, last: int) -> list[Record]:
        """The newest `last` records, oldest first; `last` <= 0 gives none."""
        ...

    async def close(self) -> None:
        """Everything saved stays; later calls raise StoreError. Closing twice is fine."""
        ...


async def open_store(where: str) -> Store:
    """Opens `sqlite:PATH` or `memory:`.

    Raises: PermanentStoreError: If it cannot be used, with the reason and how to mend it.
    """
    from xds_server.adapters.store_memory import MemoryStore  # noqa: PLC0415 - the implementations import this port
    from xds_server.adapters.store_sqlite import open_sqlite  # noqa: PLC0415 - loaded when used

    kind, separator, rest = where.partition(":")
    if kind == "memory" and separator:
        return MemoryStore()
    if kind == "sqlite" and rest:
        return await open_sqlite(rest)
    raise PermanentStoreError(f"store {where!r} is not understood", "use sqlite:PATH or memory:")
