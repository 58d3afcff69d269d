"""The default store: one SQLite file, owned by one process, in one thread of its own.

WAL; a schema version in `user_version`; an exclusive lock for as long as it is open, because two control planes on one file would both think
that they lead. `synchronous=FULL`: a decision that was answered survives a power cut. Nothing is ever repaired or overwritten by itself.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from xds_server.adapters.store import RECORDS_MAX, Commit, Conflict, Record, Save, Stored
from xds_server.errors import PermanentStoreError, StoreError, TemporaryStoreError

VERSION = 1
_SCHEMA = f"""
CREATE TABLE states (name TEXT PRIMARY KEY, revision INTEGER NOT NULL, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE records (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, at REAL NOT NULL, record BLOB NOT NULL);
CREATE INDEX records_by_name ON records (name, id);
PRAGMA user_version = {VERSION};
"""

T = TypeVar("T")


class SqliteStore:
    """Use `SqliteStore.open`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._database: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: str) -> "SqliteStore":
        """Opens or makes the file.

        Raises: PermanentStoreError: If it is in use, corrupt, of a newer version or not to be written.
        """
        store = cls(path)
        try:
            await store._run(store._connect)
        except StoreError as error:
            store._thread.shutdown(wait=False)
            raise PermanentStoreError(str(error), error.hint) from error
        return store

    async def load_all(self) -> list[Stored]:
        rows = await self._run(lambda db: db.execute("SELECT name, revision, state FROM states ORDER BY name").fetchall())
        return [Stored(name=name, revision=revision, state=state) for name, revision, state in rows]

    async def save_many(self, batch: Sequence[Save]) -> list[int]:
        def work(db: sqlite3.Connection) -> list[int]:
            with db:
                return [_save(db, *row) for row in batch]

        return await self._run(work)

    async def commit(self, name: str, state: bytes, *, expected: int | None, records: Sequence[tuple[bytes, float]]) -> int:
        return (await self.commit_many([(name, state, expected, records)]))[0]

    async def commit_many(self, batch: Sequence[Commit]) -> list[int]:
        def work(db: sqlite3.Connection) -> list[int]:
            with db:
                return [_commit(db, *row) for row in batch]

        return await self._run(work)

    async def records(self, name: str, last: int) -> list[Record]:
        query = "SELECT record, at FROM records WHERE name = ? ORDER BY id DESC LIMIT ?"
        rows = await self._run(lambda db: db.execute(query, (name, max(last, 0))).fetchall())
        return [(record, at) for record, at in reversed(rows)]

    async def close(self) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.close()

        if self._database is not None:
            await self._run(work)
            self._database = None
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._database is None:
                self._database = self._open_file()
            return work(self._database)
        except sqlite3.Error as error:
            raise self._said(error) from error

    def _open_file(self) -> sqlite3.Connection:
        if not Path(self.path).parent.is_dir():
            raise PermanentStoreError(f"store {self.path}: its directory does not exist", "make it, or choose another --store sqlite:PATH")
        return sqlite3.connect(self.path, timeout=1.0, check_same_thread=False)

    def _connect(self, db: sqlite3.Connection) -> None:
        # Exclusive before WAL: then the index of the log lives in memory and no second process can attach.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        db.rollback()
        if version > VERSION:
            raise PermanentStoreError(
                f"store {self.path} was written by a newer crossfade (schema {version}, this one knows {VERSION})",
                "run that version, or choose another file",
            )
        if version == 0 and tables:
            raise PermanentStoreError(f"{self.path} is a database of something else", "choose another file")
        if version == 0:
            db.executescript(_SCHEMA)
        db.execute("PRAGMA quick_check(1)").fetchone()

    def _said(self, error: sqlite3.Error) -> StoreError:
        words = str(error)
        if "locked" in words or "busy" in words:
            return TemporaryStoreError(
                f"store {self.path} is in use by another process", "stop the other crossfade, or choose another file"
            )
        if isinstance(error, sqlite3.OperationalError):
            return TemporaryStoreError(f"store {self.path}: {words}", "check space and permissions of the file and its directory")
        return PermanentStoreError(
            f"store {self.path} is corrupt: {words}", "move the file away (rollouts start from their policies again) or restore a copy"
        )


def _save(db: sqlite3.Connection, name: str, state: bytes, expected: int | None) -> int:
    if expected is None:
        cursor = db.execute("INSERT INTO states VALUES (?, 1, ?) ON CONFLICT (name) DO NOTHING", (name, state))
    else:
        cursor = db.execute("UPDATE states SET revision = revision + 1, state = ? WHERE name = ? AND revision = ?", (state, name, expected))
    if cursor.rowcount != 1:
        raise Conflict(f"{name}: expected revision {expected}")
    return (expected or 0) + 1


def _commit(db: sqlite3.Connection, name: str, state: bytes, expected: int | None, records: Sequence[Record]) -> int:
    revision = _save(db, name, state, expected)
    db.executemany("INSERT INTO records (name, at, record) VALUES (?, ?, ?)", [(name, at, record) for record, at in records])
    if records:
        oldest = "SELECT id FROM records WHERE name = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
        db.execute(f"DELETE FROM records WHERE name = ? AND id <= ({oldest})", (name, name, RECORDS_MAX))  # noqa: S608 - only our own text
    return revision


async def open_sqlite(path: str) -> SqliteStore:
    return await SqliteStore.open(path)
