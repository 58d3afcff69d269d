"""One contract for every store: compare-and-set, all or nothing, bounded history; and what the SQLite file refuses."""

import sqlite3

import pytest

from xds_server.adapters.store import RECORDS_MAX, Conflict, open_store
from xds_server.errors import PermanentStoreError, StoreError


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    opened = await open_store("memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'state.sqlite'}")
    yield opened
    await opened.close()


async def test_a_state_is_saved_only_over_the_revision_that_was_read(store):
    assert await store.commit("chat", b"one", expected=None, records=()) == 1
    with pytest.raises(Conflict):
        await store.commit("chat", b"other", expected=None, records=())
    assert await store.commit("chat", b"two", expected=1, records=()) == 2
    with pytest.raises(Conflict):
        await store.commit("chat", b"late", expected=1, records=((b"r", 1.0),))
    (found,) = await store.load_all()
    assert (found.name, found.revision, found.state) == ("chat", 2, b"two")
    assert await store.records("chat", 10) == []


async def test_a_batch_is_saved_whole_or_not_at_all(store):
    assert await store.save_many([("a", b"1", None), ("b", b"1", None)]) == [1, 1]
    with pytest.raises(Conflict):
        await store.save_many([("a", b"2", 1), ("b", b"2", 7)])
    assert [(found.name, found.state) for found in await store.load_all()] == [("a", b"1"), ("b", b"1")]


async def test_several_are_committed_whole_with_their_records_or_not_at_all(store):
    assert await store.commit_many([("a", b"1", None, ((b"r", 1.0),)), ("b", b"1", None, ())]) == [1, 1]
    with pytest.raises(Conflict):
        await store.commit_many([("a", b"2", 1, ((b"s", 2.0),)), ("b", b"2", 7, ())])
    assert [(found.name, found.state) for found in await store.load_all()] == [("a", b"1"), ("b", b"1")]
    assert await store.records("a", 10) == [(b"r", 1.0)]


async def test_history_is_kept_in_order_apart_by_name_and_bounded(store):
    for number in range(RECORDS_MAX + 5):
        await store.commit("chat", b"s", expected=number or None, records=((str(number).encode(), float(number)),))
    await store.commit("other", b"s", expected=None, records=((b"x", 0.0),))
    kept = await store.records("chat", RECORDS_MAX + 100)
    assert len(kept) == RECORDS_MAX
    assert kept[-1] == (str(RECORDS_MAX + 4).encode(), float(RECORDS_MAX + 4))
    assert [body for body, _ in await store.records("chat", 2)] == [str(RECORDS_MAX + 3).encode(), str(RECORDS_MAX + 4).encode()]
    assert await store.records("chat", 0) == []
    assert await store.records("nobody", 5) == []


async def test_sqlite_keeps_what_it_was_told_across_processes_and_is_owned_by_one(tmp_path):
    where = f"sqlite:{tmp_path / 'state.sqlite'}"
    first = await open_store(where)
    await first.commit("chat", b"one", expected=None, records=((b"r", 1.0),))
    with pytest.raises(PermanentStoreError, match="in use"):
        await open_store(where)
    await first.close()
    again = await open_store(where)
    assert [found.state for found in await again.load_all()] == [b"one"]
    assert await again.records("chat", 1) == [(b"r", 1.0)]
    await again.close()


async def test_sqlite_refuses_what_it_cannot_trust_and_overwrites_nothing(tmp_path):
    corrupt = tmp_path / "corrupt.sqlite"
    corrupt.write_bytes(b"not a database, not at all" * 400)
    before = corrupt.read_bytes()
    with pytest.raises(PermanentStoreError, match="corrupt"):
        await open_store(f"sqlite:{corrupt}")
    assert corrupt.read_bytes() == before
    newer = tmp_path / "newer.sqlite"
    database = sqlite3.connect(newer)
    database.execute("PRAGMA user_version = 99")
    database.commit()
    database.close()
    with pytest.raises(PermanentStoreError, match="newer"):
        await open_store(f"sqlite:{newer}")
    foreign = tmp_path / "foreign.sqlite"
    database = sqlite3.connect(foreign)
    database.execute("CREATE TABLE theirs (x)")
    database.commit()
    database.close()
    with pytest.raises(PermanentStoreError, match="something else"):
        await open_store(f"sqlite:{foreign}")
    with pytest.raises(PermanentStoreError, match="directory"):
        await open_store(f"sqlite:{tmp_path / 'nowhere' / 'state.sqlite'}")
    with pytest.raises(StoreError, match=r"store|unknown"):
        await open_store("paper:shoebox")
