"""A store that is gone with the process: for tests and throw-away runs."""

from collections.abc import Sequence

from xds_server.adapters.store import RECORDS_MAX, Commit, Conflict, Record, Save, Stored


class MemoryStore:
    def __init__(self) -> None:
        self._states: dict[str, Stored] = {}
        self._records: dict[str, list[Record]] = {}

    async def load_all(self) -> list[Stored]:
        return [self._states[name] for name in sorted(self._states)]

    async def save_many(self, batch: Sequence[Save]) -> list[int]:
        for name, _, expected in batch:
            self._expect(name, expected)
        return [self._put(name, state) for name, state, _ in batch]

    async def commit(self, name: str, state: bytes, *, expected: int | None, records: Sequence[tuple[bytes, float]]) -> int:
        self._expect(name, expected)
        kept = self._records.setdefault(name, [])
        kept.extend(records)
        del kept[:-RECORDS_MAX]
        return self._put(name, state)

    async def commit_many(self, batch: Sequence[Commit]) -> list[int]:
        for name, _, expected, _ in batch:
            self._expect(name, expected)
        return [await self.commit(name, state, expected=expected, records=records) for name, state, expected, records in batch]

    async def records(self, name: str, last: int) -> list[Record]:
        return self._records.get(name, [])[-last:] if last > 0 else []

    async def close(self) -> None:
        pass

    def _expect(self, name: str, expected: int | None) -> None:
        have = self._states.get(name)
        if (have.revision if have else None) != expected:
            raise Conflict(f"{name}: expected revision {expected}, stored is {have.revision if have else None}")

    def _put(self, name: str, state: bytes) -> int:
        have = self._states.get(name)
        revision = have.revision + 1 if have else 1
        self._states[name] = Stored(name=name, revision=revision, state=state)
        return revision
