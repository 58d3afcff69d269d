"""The git source, against real repositories: what it reads, what it follows, and that nothing it meets takes a policy away."""

import asyncio
import gc
import os
import shutil
import subprocess
import sys
from http.server import CGIHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import uvloop

from tests.repository import QUIET, Repository
from tests.rig import until
from xds_server.adapters import policy_git
from xds_server.adapters.policy_git import PolicyGit
from xds_server.config import policies_place
from xds_server.errors import SourceError

FAST_S = 0.05


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def repository(tmp_path):
    made = Repository(tmp_path / "work")
    made.write(a="1", policies__b="2")
    made.commit()
    return made


def source(repository, tmp_path, rest="#main", **more):
    url = repository if isinstance(repository, str) else repository.url
    return PolicyGit(policies_place(url + rest, where=""), cache=tmp_path / "cache", interval_s=FAST_S, **more)


class Watch:
    """A source that is followed; `seen` is what was handed on, `words` what was told."""

    def __init__(self, repository, tmp_path, rest="#main"):
        self.words = []
        self.seen = asyncio.Queue()
        self.source = source(repository, tmp_path, rest, on_error=self.words.append)

    async def __aenter__(self):
        self.first = await self.source.read()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task

    async def _follow(self):
        async for texts in self.source.changes():
            self.seen.put_nowait(texts)

    async def next(self):
        async with asyncio.timeout(30):
            return await self.seen.get()

    async def told(self, *words):
        await until(lambda: any(all(word in line for word in words) for line in self.words), f"{words} in {self.words}", timeout_s=30)


# Reading.


async def test_policy_files_and_companions_are_read_with_their_commit(repository, tmp_path):
    for name in ("samples/chat.jsonl", "schema.json", "readme.md", ".hidden/x.yaml", "policies/.y.yaml", "deep/er/z.yml", "A.YAML"):
        repository.file(name, name)
    commit = repository.commit()
    found = source(repository, tmp_path)
    assert await found.read() == {
        "a.yaml": b"1",
        "deep/er/z.yml": b"deep/er/z.yml",
        "policies/b.yaml": b"2",
        "samples/chat.jsonl": b"samples/chat.jsonl",
        "schema.json": b"schema.json",
    }
    assert found.revision == commit


@pytest.mark.parametrize(
    ("rest", "texts"),
    [
        ("", {"a.yaml": b"1", "policies/b.yaml": b"2"}),
        ("#main:policies", {"b.yaml": b"2"}),
        ("#:policies", {"b.yaml": b"2"}),
        ("#v1", {"a.yaml": b"1", "policies/b.yaml": b"2"}),
        ("#refs/tags/v1:policies", {"b.yaml": b"2"}),
    ],
)
async def test_a_branch_a_tag_and_a_folder_can_be_named(repository, tmp_path, rest, texts):
    repository.git("tag", "-a", "v1", "-m", "first")
    if rest.startswith(("#v1", "#refs/tags")):
        repository.write(a="later")
        repository.commit()
    assert await source(repository, tmp_path, rest).read() == texts


async def test_odd_names_and_empty_and_binary_files_come_through(repository, tmp_path):
    for name in ("mit leer.yaml", 'quo"te.yaml', "ünï.yaml", "-dash.yaml", "a:b.yaml", "missing.yaml"):
        repository.file(name, "")
    (repository.path / "bin.yaml").write_bytes(bytes(range(256)))
    repository.commit()
    found = await source(repository, tmp_path).read()
    assert found["bin.yaml"] == bytes(range(256))
    assert {"mit leer.yaml", 'quo"te.yaml', "ünï.yaml", "-dash.yaml", "a:b.yaml", "missing.yaml"} < found.keys()


async def test_links_are_followed_inside_the_commit_only(repository, tmp_path):
    (repository.path / "policies" / "up.yaml").symlink_to("../a.yaml")
    (repository.path / "folder.yaml").symlink_to("policies")
    repository.commit()
    assert await source(repository, tmp_path, "#main:policies").read() == {"b.yaml": b"2", "up.yaml": b"1"}
    assert "folder.yaml" not in await source(repository, tmp_path).read()
    for target in ("/etc/passwd", "../../outside.yaml", "nowhere.yaml", "out.yaml"):
        (repository.path / "out.yaml").unlink(missing_ok=True)
        (repository.path / "out.yaml").symlink_to(target)
        repository.commit()
        with pytest.raises(SourceError, match=r"out\.yaml .* leads nowhere"):
            await source(repository, tmp_path).read()


async def test_a_name_that_cannot_be_printed_is_an_error(repository, tmp_path):
    repository.file("a\nb.yaml", "")
    repository.commit()
    with pytest.raises(SourceError, match="cannot be printed"):
        await source(repository, tmp_path).read()


async def test_ten_thousand_files_are_read_and_one_more_is_too_many(repository, tmp_path):
    for number in range(9_998):
        repository.file(f"many/{number % 100}/{number}.yaml", str(number))
    repository.commit()
    found = await source(repository, tmp_path).read()
    assert len(found) == 10_000
    assert found["many/7/9907.yaml"] == b"9907"
    repository.write(more="")
    repository.commit()
    with pytest.raises(SourceError, match="more than 10000 policy files"):
        await source(repository, tmp_path).read()


async def test_too_many_bytes_are_an_error_and_a_long_file_is_cut(repository, tmp_path, monkeypatch):
    repository.write(long="x" * (policy_git.FILE_BYTES_MAX + 10))
    repository.commit()
    assert len((await source(repository, tmp_path).read())["long.yaml"]) == policy_git.FILE_BYTES_MAX
    monkeypatch.setattr(policy_git, "BYTES_MAX", 1024 * 1024)
    with pytest.raises(SourceError, match="more than 1 MiB"):
        await source(repository, tmp_path).read()


# What is not there.


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("#nope", "nope"),
        ("#main:nope", "there is no folder nope"),
        ("#main:a.yaml", "there is no folder a.yaml"),
        ("#blob", "is no commit"),
    ],
)
async def test_a_ref_or_folder_that_is_not_there_says_so(repository, tmp_path, rest, words):
    repository.git("tag", "blob", repository.git("rev-parse", "HEAD:a.yaml"))
    with pytest.raises(SourceError, match=words) as raised:
        await source(repository, tmp_path, rest).read()
    assert raised.value.hint


async def test_a_repository_that_is_not_there_says_so_without_its_password(tmp_path):
    url = "http://ann:geheim@127.0.0.1:1/x.git"
    with pytest.raises(SourceError, match=r"http://\*\*\*@127\.0\.0\.1:1/x\.git") as raised:
        await source(url, tmp_path).read()
    assert "geheim" not in str(raised.value)


async def test_without_git_the_error_says_what_to_install(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="no program git") as raised:
        await source(repository, tmp_path).read()
    assert "install git" in raised.value.hint


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """A git that never ends and has a child; gives the file with both process ids."""
    pids = tmp_path / "pids"
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nsleep 1000 & echo $! $$ > {pids}.new\nmv {pids}.new {pids}\nwait\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return pids


async def test_a_git_that_never_ends_is_an_error(repository, tmp_path, endless, monkeypatch):
    monkeypatch.setattr(policy_git, "LOCAL_S", 0.1)
    with pytest.raises(SourceError, match="no end after"):
        await source(repository, tmp_path).read()


async def test_whoever_stops_waiting_for_git_leaves_no_process_behind(repository, tmp_path, endless):
    reading = asyncio.create_task(source(repository, tmp_path).read())
    await until(endless.exists, "git to start", timeout_s=30)
    pids = endless.read_text().split()
    assert all(map(alive, pids))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: not any(map(alive, pids)), "the processes to end", timeout_s=30)


async def test_whoever_stops_waiting_while_git_starts_leaves_no_process_behind_either(repository, tmp_path, endless, monkeypatch):
    start, goes_on = asyncio.create_subprocess_exec, asyncio.Event()

    async def slowly(*arguments, **options):
        process = await start(*arguments, **options)
        await goes_on.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    reading = asyncio.create_task(source(repository, tmp_path).read())
    await until(endless.exists, "git to start", timeout_s=30)
    pids = endless.read_text().split()
    reading.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: not any(map(alive, pids)), "the processes to end", timeout_s=30)


def alive(pid):
    try:
        return (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# Following.


async def test_a_new_commit_is_handed_on_once_and_one_that_changes_nothing_here_is_not(repository, tmp_path):
    async with Watch(repository, tmp_path, "#main:policies") as watch:
        assert watch.first == {"b.yaml": b"2"}
        repository.write(a="elsewhere")
        elsewhere = repository.commit()
        await until(lambda: watch.source.revision == elsewhere, "the commit", timeout_s=30)
        repository.write(policies__b="3")
        commit = repository.commit()
        assert await watch.next() == {"b.yaml": b"3"}
        assert watch.source.revision == commit
        assert watch.words == []
        assert watch.seen.empty()


async def test_a_nudge_is_followed_at_once(repository, tmp_path):
    slow = PolicyGit(policies_place(repository.url, where=""), cache=tmp_path / "cache", interval_s=86_400.0)
    await slow.read()
    following = asyncio.create_task(anext(slow.changes()))
    repository.write(a="2")
    repository.commit()
    slow.nudge()
    async with asyncio.timeout(30):
        assert (await following)["a.yaml"] == b"2"


async def test_a_force_push_is_followed(repository, tmp_path):
    async with Watch(repository, tmp_path) as watch:
        repository.git("checkout", "--quiet", "--orphan", "other")
        repository.write(a="rewritten")
        repository.commit()
        repository.git("branch", "--quiet", "--force", "main", "other")
        assert (await watch.next())["a.yaml"] == b"rewritten"
        repository.git("checkout", "--quiet", "main")
        repository.write(a="amended")
        repository.commit("--amend")
        assert (await watch.next())["a.yaml"] == b"amended"
        assert watch.words == []


async def test_a_ref_that_goes_away_and_comes_back_as_something_else(repository, tmp_path):
    repository.git("branch", "live")
    async with Watch(repository, tmp_path, "#live") as watch:
        repository.git("branch", "--quiet", "-D", "live")
        await watch.told("fetch live", "live")
        assert watch.seen.empty()
        repository.write(a="2")
        repository.commit()
        repository.git("tag", "-a", "live", "-m", "a tag now")
        assert (await watch.next())["a.yaml"] == b"2"
        repository.git("tag", "-d", "live")
        repository.git("branch", "live/deeper")
        watch.words.clear()
        await watch.told("fetch live")
        repository.git("branch", "--quiet", "-D", "live/deeper")
        repository.write(a="3")
        repository.commit()
        repository.git("branch", "live")
        assert (await watch.next())["a.yaml"] == b"3"
        assert watch.words[-1] == ""


async def test_a_repository_that_goes_away_is_told_and_its_last_files_stay(repository, tmp_path):
    async with Watch(repository, tmp_path) as watch:
        away = repository.path.rename(tmp_path / "away")
        await watch.told("cannot fetch main")
        assert watch.source.failures
        assert watch.seen.empty()
        again = source(repository, tmp_path)
        assert await again.read() == watch.first
        assert again.revision == watch.source.revision
        away.rename(repository.path)
        await until(lambda: watch.words[-1] == "", "the good news", timeout_s=30)
        assert watch.seen.empty()


async def test_what_could_not_be_read_at_first_is_told_to_work_again(repository, tmp_path):
    words = []
    away = repository.path.rename(tmp_path / "away")
    found = source(repository, tmp_path, on_error=words.append)
    with pytest.raises(SourceError):
        await found.read()
    away.rename(repository.path)
    assert (await anext(found.changes()))["a.yaml"] == b"1"
    assert words[-1] == ""


async def test_paths_are_taken_from_where_serve_was_started(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = policies_place("./work/.git#main", where="")
    found = PolicyGit(place, cache=Path("crossfade.db.git"))
    assert list(await found.read()) == ["a.yaml", "policies/b.yaml"]
    assert list((tmp_path / "crossfade.db.git").iterdir())


async def test_a_cache_of_its_own_goes_with_the_source(repository):
    found = PolicyGit(policies_place(repository.url, where=""))
    assert (await found.read())["a.yaml"] == b"1"
    folder = found._repository.parent
    assert folder.is_dir()
    del found
    gc.collect()
    assert not folder.exists()


async def test_another_repository_never_answers_for_one_that_is_away(repository, tmp_path):
    await source(repository, tmp_path).read()
    with pytest.raises(SourceError):
        await source(f"file://{tmp_path}/other", tmp_path).read()
    with pytest.raises(SourceError):
        await source(repository, tmp_path, "#other").read()


def damage_objects(cache):
    shutil.rmtree(cache / "objects")
    (cache / "objects").mkdir()


def damage_packs(cache):
    for path in (cache / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"rubbish")


def damage_head(cache):
    (cache / "HEAD").write_bytes(b"\0\0")


def damage_lock(cache):
    (cache / "shallow.lock").touch()


@pytest.mark.parametrize("damage", [damage_objects, damage_packs, damage_head, damage_lock])
async def test_a_damaged_cache_is_made_anew(repository, tmp_path, damage):
    first = source(repository, tmp_path)
    before = await first.read()
    (cache,) = (tmp_path / "cache").iterdir()
    damage(cache)
    assert await source(repository, tmp_path).read() == before
    repository.write(a="2")
    repository.commit()
    damage(cache)
    assert (await anext(first.changes()))["a.yaml"] == b"2"


async def test_a_cache_that_cannot_be_written_is_told(repository, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SourceError, match="cannot keep what was fetched"):
        await source(repository, tmp_path).read()


async def test_what_a_hook_has_set_does_not_mislead(repository, tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"):
        assert name not in policy_git._environment(os.environ)
    assert (await source(repository, tmp_path).read())["a.yaml"] == b"1"


def test_on_the_loop_that_serve_runs_on_it_is_the_same(repository, tmp_path):
    """Pipes of uvloop end otherwise than asyncio's own."""

    async def follow():
        await test_a_new_commit_is_handed_on_once_and_one_that_changes_nothing_here_is_not(repository, tmp_path)
        with pytest.raises(SourceError, match="nope"):
            await source(repository, tmp_path, "#nope").read()
        found = source(repository, tmp_path)
        for _ in range(20):
            assert (await found.read())["policies/b.yaml"] == b"3"

    uvloop.run(follow())


# Other ways to a repository.


async def test_over_ssh_git_is_given_host_and_path_as_they_were_written(repository, tmp_path, monkeypatch):
    """A stand-in for ssh runs what the host would run; the transport above it is git's own."""
    said = tmp_path / "said"
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {said}\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "ssh")
    for url in (f"git@models.example.com:{repository.path}", f"ssh://git@models.example.com:2222{repository.path}"):
        found = source(url, tmp_path, "#main:policies")
        assert await found.read() == {"b.yaml": b"2"}
    assert "git@models.example.com" in said.read_text()
    assert "-p 2222" in said.read_text()


class GitHttp(CGIHTTPRequestHandler):
    """`git http-backend` behind the standard library's server, as a git host is behind its own."""

    cgi_directories = ("/git",)
    have_fork = False

    def log_message(self, *_):
        pass


@pytest.fixture
def over_http(repository, tmp_path, monkeypatch):
    """The URL of the repository over HTTP."""
    backend = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip() + "/git-http-backend"
    if not Path(backend).exists():
        pytest.skip("git http-backend is not installed")
    root = tmp_path / "www"
    (root / "git").mkdir(parents=True)
    script = root / "git" / "backend"
    script.write_text(f"#!{sys.executable}\nimport os\nos.execv({backend!r}, [{backend!r}])\n")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_PROJECT_ROOT", str(repository.path.parent))
    monkeypatch.setenv("GIT_HTTP_EXPORT_ALL", "1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *arguments: GitHttp(*arguments, directory=str(root)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/git/backend/work/.git"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_over_http_commits_are_followed(repository, over_http, tmp_path):
    async with Watch(over_http, tmp_path) as watch:
        assert watch.first == {"a.yaml": b"1", "policies/b.yaml": b"2"}
        repository.write(a="2")
        repository.commit()
        assert (await watch.next())["a.yaml"] == b"2"
