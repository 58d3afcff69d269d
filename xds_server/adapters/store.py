"""The store port: where rollouts' states and decision records are kept, by compare-and-set.

A state is opaque bytes under a name with a revision; whoever saves names the revision it read, and loses with `Conflict` if another was faster.
Implementations: `store_sqlite` (one file), `store_memory` (tests and demos). One contract suite proves both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from xds_server.errors import PermanentStoreError

RECORDS_MAX = 1000
"""Decision records kept per rollout; the oldest go first."""


class Conflict(Exception):  # noqa: N818 - an answer of compare-and-set, not a fault
    """Another writer was faster: the expected revision is not the stored one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One state as stored; `revision` >= 1 grows by one with each save."""

    name: str
    revision: int
    state: bytes


Save = tuple[str, bytes, int | None]
"""(name, state, expected revision; None = must not exist yet)."""


class Store(Protocol):
    """All methods may raise TemporaryStoreError or PermanentStoreError; the saving ones also Conflict, and then nothing was written."""

    async def load_all(self) -> list[Stored]: ...

    async def save_many(self, batch: Sequence[Save]) -> list[int]:
        """Saves all or none; returns the new revisions."""
        ...

    async def commit(self, name: str, state: bytes, *, expected: int | None, records: Sequence[tuple[bytes, float]]) -> int:
        """Saves a state and appends its (record, time) pairs in one transaction; returns the new revision."""
        ...

    async def records(self, name: str, last: int) -> list[bytes]:
        """The newest `last` records of a rollout, oldest first."""
        ...

    async def close(self) -> None: ...


async def open_store(url: str) -> Store:
    """Opens `sqlite:PATH` or `memory:`.

    Raises: PermanentStoreError: If the url is of no known kind or the store cannot be used.
    """
    from xds_server.adapters.store_memory import MemoryStore  # noqa: PLC0415 - implementations know this module
    from xds_server.adapters.store_sqlite import SqliteStore  # noqa: PLC0415

    kind, _, rest = url.partition(":")
    if kind == "memory":
        return MemoryStore()
    if kind == "sqlite" and rest:
        return await SqliteStore.open(rest)
    raise PermanentStoreError(f"unknown store {url!r}", "use sqlite:PATH or memory:")
