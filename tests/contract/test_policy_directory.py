"""The directory source: what it reads, what it leaves out, and that it hands on nothing twice, half or missing."""

import asyncio
import os

import pytest

from tests.rig import until
from xds_server.adapters import policy_directory
from xds_server.adapters.policy_directory import PolicyDirectory
from xds_server.errors import SourceError

FAST_S = 0.02


class Watch:
    """A directory that is watched; `seen` is what was handed on, `words` what was told."""

    def __init__(self, path):
        self.words = []
        self.seen = asyncio.Queue()
        self.directory = PolicyDirectory(path, interval_s=FAST_S, on_error=self.words.append)
        self._task = None

    async def __aenter__(self):
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task

    async def _follow(self):
        async for texts in self.directory.changes():
            self.seen.put_nowait(texts)

    async def next(self):
        async with asyncio.timeout(10):
            return await self.seen.get()

    async def told(self, condition):
        await until(lambda: condition(self.words), "the words")


@pytest.fixture
def looks(monkeypatch):
    """Counts the looks at a directory, so that "nothing happens" can be waited for."""
    counter = []
    original = PolicyDirectory._look

    def look(self):
        found = original(self)
        counter.append(found)
        return found

    monkeypatch.setattr(PolicyDirectory, "_look", look)

    async def more(count=4):
        wanted = len(counter) + count
        await until(lambda: len(counter) >= wanted, "more looks")

    return more


async def test_all_policy_files_are_read_by_relative_name_in_order(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    for name in ("z.yaml", "a.yml", "b/deep/c.yaml", "b/.hidden.yaml", "readme.md", ".d.yaml", "e.yaml~", "f.YAML"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.yaml").write_bytes(b"x")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    found = await PolicyDirectory(tmp_path).read()
    assert found == {"a.yml": b"a.yml", "b/deep/c.yaml": b"b/deep/c.yaml", "z.yaml": b"z.yaml"}
    assert list(found) == sorted(found)


async def test_companions_are_handed_on_and_followed(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("a.yaml", "samples/chat.jsonl", "schema.json", ".hidden.json"):
        (tmp_path / name).write_bytes(b"1")
    assert set(await PolicyDirectory(tmp_path).read()) == {"a.yaml", "samples/chat.jsonl", "schema.json"}
    async with Watch(tmp_path) as watch:
        await watch.next()
        (tmp_path / "samples" / "chat.jsonl").write_bytes(b"2")
        assert (await watch.next())["samples/chat.jsonl"] == b"2"


async def test_a_directory_has_no_commits_and_a_nudge_does_no_harm(tmp_path):
    directory = PolicyDirectory(tmp_path)
    directory.nudge()
    assert await directory.read() == {}
    assert directory.revision == ""


async def test_linked_files_are_read_and_linked_folders_are_not(tmp_path):
    """So a loop of links ends, and a Kubernetes ConfigMap (`chat.yaml -> ..data/chat.yaml`) is read once."""
    root = tmp_path / "policies"
    (root / "..2026").mkdir(parents=True)
    (root / "..2026" / "chat.yaml").write_bytes(b"1")
    (root / "..data").symlink_to("..2026")
    (root / "chat.yaml").symlink_to("..data/chat.yaml")
    (root / "loop").symlink_to(root)
    assert await PolicyDirectory(root).read() == {"chat.yaml": b"1"}


async def test_a_directory_that_does_not_exist_or_is_a_file_says_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, words in (("missing", "no such file or directory"), ("file", "not a directory")):
        with pytest.raises(SourceError, match=f"cannot read policies from .*{path}: {words}") as raised:
            await PolicyDirectory(tmp_path / path).read()
        assert raised.value.hint


@pytest.mark.parametrize("target", ["nowhere.yaml", "link.yaml"])
async def test_a_link_that_leads_nowhere_is_an_error_and_no_deleted_policy(tmp_path, target):
    (tmp_path / "link.yaml").symlink_to(target)
    with pytest.raises(SourceError, match=r"link\.yaml"):
        await PolicyDirectory(tmp_path).read()


@pytest.mark.parametrize("what", ["_text", "folder"])
async def test_what_may_not_be_read_is_an_error_and_no_deleted_policy(tmp_path, monkeypatch, what):
    """Root may read everything, so the refusal is made up where the system would say it."""
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "a.yaml").write_bytes(b"1")
    if what == "folder":
        real = os.scandir

        def scandir(path):
            if str(path).endswith("team"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
    else:

        def refuse(self, *_, **__):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(policy_directory.Path, "open", refuse)
    with pytest.raises(SourceError, match=r"team.*permission denied"):
        await PolicyDirectory(tmp_path).read()


async def test_too_many_files_and_too_many_bytes_are_errors(tmp_path, monkeypatch):
    for number in range(5):
        (tmp_path / f"{number}.yaml").write_bytes(b"12345")
    monkeypatch.setattr(policy_directory, "FILES_MAX", 4)
    with pytest.raises(SourceError, match="more than 4 policy files"):
        await PolicyDirectory(tmp_path).read()
    monkeypatch.setattr(policy_directory, "FILES_MAX", 5)
    monkeypatch.setattr(policy_directory, "BYTES_MAX", 24)
    with pytest.raises(SourceError, match="MiB of policy files"):
        await PolicyDirectory(tmp_path).read()


async def test_of_a_file_no_more_is_read_than_says_that_it_is_too_long(tmp_path):
    with (tmp_path / "big.yaml").open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    assert len((await PolicyDirectory(tmp_path).read())["big.yaml"]) == policy_directory.FILE_BYTES_MAX


async def test_a_name_that_cannot_be_printed_is_an_error(tmp_path):
    (tmp_path / os.fsdecode(b"a\xff.yaml")).write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be printed"):
        await PolicyDirectory(tmp_path).read()


async def test_a_change_an_added_file_and_a_removed_one_are_each_handed_on_once(tmp_path, looks):
    (tmp_path / "a.yaml").write_bytes(b"1")
    watch = Watch(tmp_path)
    assert await watch.directory.read() == {"a.yaml": b"1"}
    async with watch:
        (tmp_path / "a.yaml").write_bytes(b"22")
        assert await watch.next() == {"a.yaml": b"22"}
        (tmp_path / "b.yaml").write_bytes(b"3")
        assert await watch.next() == {"a.yaml": b"22", "b.yaml": b"3"}
        (tmp_path / "a.yaml").unlink()
        assert await watch.next() == {"b.yaml": b"3"}
        await looks()
        assert watch.seen.empty()
        assert watch.words == []


async def test_nothing_is_handed_on_while_nothing_changed(tmp_path, looks):
    (tmp_path / "a.yaml").write_bytes(b"1")
    watch = Watch(tmp_path)
    await watch.directory.read()
    async with watch:
        await looks()
        os.utime(tmp_path / "a.yaml", ns=(1, 1))
        (tmp_path / "notes.txt").write_bytes(b"x")
        await looks()
        replacement = tmp_path / "draft"
        replacement.write_bytes(b"1")
        replacement.replace(tmp_path / "a.yaml")
        await looks()
        assert watch.seen.empty()


async def test_the_files_are_handed_on_at_first_if_nobody_read_them_before(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"1")
    async with Watch(tmp_path) as watch:
        assert await watch.next() == {"a.yaml": b"1"}


async def test_a_set_that_is_still_being_written_is_not_handed_on(tmp_path, monkeypatch):
    """Each look sees another size until the writer is done; only the whole set comes out."""
    path = tmp_path / "a.yaml"
    path.write_bytes(b"old")
    watch = Watch(tmp_path)
    await watch.directory.read()
    original = PolicyDirectory._look
    writing = iter(range(1, 6))
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look(self):
        number = next(writing, None)
        if number is not None:
            path.write_bytes(b"new" * number)
        else:
            loop.call_soon_threadsafe(done.set)
        return original(self)

    monkeypatch.setattr(PolicyDirectory, "_look", look)
    async with watch:
        assert await watch.next() == {"a.yaml": b"new" * 5}
        assert done.is_set()


async def test_a_directory_that_goes_away_keeps_the_last_files_and_is_told_until_it_is_back(tmp_path, looks):
    root = tmp_path / "policies"
    root.mkdir()
    (root / "a.yaml").write_bytes(b"1")
    watch = Watch(root)
    await watch.directory.read()
    async with watch:
        root.rename(tmp_path / "away")
        await watch.told(lambda words: len(words) >= 3)
        assert watch.directory.failures >= 3
        assert all("no such file or directory" in words for words in watch.words)
        assert watch.seen.empty()
        (tmp_path / "away").rename(root)
        await watch.told(lambda words: words[-1] == "")
        await looks()
        assert watch.words.count("") == 1
        assert watch.seen.empty()
        (root / "a.yaml").write_bytes(b"22")
        assert await watch.next() == {"a.yaml": b"22"}


async def test_an_atomic_swap_of_a_linked_folder_is_one_change(tmp_path):
    """How a Kubernetes ConfigMap is updated."""
    root = tmp_path / "policies"
    for version in ("..1", "..2"):
        (root / version).mkdir(parents=True)
        for name in ("a.yaml", "b.yaml"):
            (root / version / name).write_bytes(version.encode())
    (root / "..data").symlink_to("..1")
    for name in ("a.yaml", "b.yaml"):
        (root / name).symlink_to(f"..data/{name}")
    watch = Watch(root)
    assert set((await watch.directory.read()).values()) == {b"..1"}
    async with watch:
        (root / "..new").symlink_to("..2")
        (root / "..new").replace(root / "..data")
        assert await watch.next() == {"a.yaml": b"..2", "b.yaml": b"..2"}


async def test_a_file_that_vanishes_under_the_look_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_bytes(b"1")
    (tmp_path / "b.yaml").write_bytes(b"2")
    real = policy_directory.Path.stat

    def vanishing(self, **more):
        if self.name == "b.yaml":
            self.unlink(missing_ok=True)
        return real(self, **more)

    monkeypatch.setattr(policy_directory.Path, "stat", vanishing)
    assert await PolicyDirectory(tmp_path).read() == {"a.yaml": b"1"}


async def test_files_that_change_while_they_are_read_wait_for_the_next_look(tmp_path, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"old")
    watch = Watch(tmp_path)
    await watch.directory.read()
    original = PolicyDirectory._read
    reads = []

    def read(self):
        if not reads:
            path.write_bytes(b"newest")
        reads.append(1)
        return original(self)

    monkeypatch.setattr(PolicyDirectory, "_read", read)
    async with watch:
        path.write_bytes(b"new")
        assert await watch.next() == {"a.yaml": b"newest"}
    assert len(reads) == 2
