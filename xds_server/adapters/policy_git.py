"""Policies from a branch of a git repository: fetched by polling (or at once when told), read without a checkout.

The `git` program does the work, so URLs, ssh agents, credential helpers and certificates are what they are everywhere else on the machine; it
never asks anybody anything. One ref is kept, one commit deep, in a bare repository of our own. A commit is read whole out of the object
store: there is no work tree that could be half-written. Whatever goes wrong (host away, ref gone, a broken tree), what was handed on last
stays in force and the error is told.
Neighbours: `policy_directory` is the same port over a directory, with the same limits.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from xds_server.adapters.policy_directory import BYTES_MAX, FILE_BYTES_MAX, FILES_MAX, digest, is_policy_file
from xds_server.config import GitPlace
from xds_server.errors import SourceError

INTERVAL_S: Final = 15.0
NUDGED_S: Final = 1.0
"""Shortest time between two fetches, however often we are told of a push [s]."""

FIRST_FETCH_S: Final = 300.0
FETCH_S: Final = 60.0
LOCAL_S: Final = 60.0
LISTING_MAX: Final = 64 * 1024 * 1024
"""Longest list of a tree [bytes]: half a million files."""

SETTINGS: Final = (
    "advice.detachedHead=false",
    "gc.autoDetach=false",
    "maintenance.autoDetach=false",
    "fetch.recurseSubmodules=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
)
REGULAR, LINK = "100", "120000"

_DROPPED: Final = re.compile(
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR|NAMESPACE|PREFIX|TRACE.*)"
)
"""What a hook or a shell may have set that would turn git to another repository, or make it write more than it should."""


class LocalError(SourceError):
    """What was fetched cannot be read."""


class PolicyGit:
    """The policy files and their companions in one commit, the newest of a branch or tag.

    Args:
        place: The repository, the ref and the folder.
        cache: Folder for what is fetched; None = a new one that goes with the process.
        interval_s: Time between two looks [s].
        on_error: Told in words why there is nothing newer, at every look that fails, and "" when it works again.

    Attributes:
        failures: Looks that failed so far.
        revision: The commit that was handed on last; "" = none yet.
    """

    def __init__(
        self,
        place: GitPlace,
        *,
        cache: Path | None = None,
        interval_s: float = INTERVAL_S,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._place = place
        if cache is None:
            cache = Path(tempfile.mkdtemp(prefix="crossfade-git-"))
            weakref.finalize(self, shutil.rmtree, cache, ignore_errors=True)
        self._url = _absolute(place.url)
        self._repository = cache.absolute() / hashlib.sha256(place.url.encode()).hexdigest()[:16]
        self._ref = f"refs/crossfade/{hashlib.sha256(place.ref.encode()).hexdigest()[:16]}"
        self._interval_s = interval_s
        self._on_error = on_error
        self._nudged = asyncio.Event()
        self._content = b""
        self._failing = False
        self.failures = 0
        self.revision = ""

    def nudge(self) -> None:
        """Somebody says that there is a new commit."""
        self._nudged.set()

    async def read(self) -> dict[str, bytes]:
        """The files by name below the folder, in order; where the host is away, those of the commit that was fetched last.

        Raises: SourceError: If there is nothing at all to read.
        """
        try:
            texts = await self._newest()
        except SourceError as error:
            try:
                commit = await self._commit(self._repository)
                texts = await self._tree(commit)
            except SourceError:
                self._failing = True
                raise error from None
            self._failed(error)
            assert texts is not None
            self.revision = commit
        assert texts is not None
        self._content = digest(texts)
        return texts

    async def changes(self) -> AsyncIterator[dict[str, bytes]]:
        """The files again, each time a commit changed one of them. Never ends, never raises."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._nudged.wait()
            self._nudged.clear()
            try:
                texts = await self._newest(known=self.revision)
            except SourceError as error:
                self._failed(error)
            else:
                if self._failing:
                    self._failing = False
                    self._on_error("")
                if texts is not None and digest(texts) != self._content:
                    self._content = digest(texts)
                    yield texts
            await asyncio.sleep(min(NUDGED_S, self._interval_s))

    def _failed(self, error: SourceError) -> None:
        self.failures += 1
        self._failing = True
        self._on_error(str(error))

    async def _newest(self, known: str = "") -> dict[str, bytes] | None:
        """Fetches and reads the newest commit; None = it is the known one. A cache that is broken is made anew, once."""
        try:
            try:
                return await self._fetched(known)
            except LocalError:
                await self._renew()
                return await self._fetched("")
        except OSError as error:
            raise self._cache_error(error) from error

    async def _fetched(self, known: str) -> dict[str, bytes] | None:
        if not (self._repository / "HEAD").is_file():
            await self._renew()
        else:
            try:
                await self._fetch(self._repository, FETCH_S)
            except SourceError as error:
                if not await self._reachable():
                    raise
                raise LocalError(str(error), error.hint) from error
        commit = await self._commit(self._repository)
        if commit == known:
            return None
        texts = await self._tree(commit)
        self.revision = commit
        return texts

    async def _renew(self) -> None:
        """Fetches into a new cache and puts it in the place of the old one, which stays until that has worked."""
        new = self._repository.with_suffix(".new")
        await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        await self._git("init", "--quiet", "--bare", str(new), what="make a cache", limit_s=LOCAL_S)
        await self._fetch(new, FIRST_FETCH_S)
        await self._commit(new)
        await asyncio.to_thread(shutil.rmtree, self._repository, ignore_errors=True)
        new.replace(self._repository)

    async def _fetch(self, repository: Path, limit_s: float) -> None:
        refspec = f"+{self._place.ref}:{self._ref}"
        options = ("--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--update-shallow")
        arguments = (f"--git-dir={repository}", "fetch", *options, "--", self._url, refspec)
        await self._git(*arguments, what=f"fetch {self._place.ref}", limit_s=limit_s)

    async def _reachable(self) -> bool:
        """Whether the ref is there: then a fetch that fails is the fault of what we have."""
        try:
            await self._git("ls-remote", "--exit-code", "--", self._url, self._place.ref, what="ask", limit_s=FETCH_S / 3)
        except SourceError:
            return False
        return True

    async def _commit(self, repository: Path) -> str:
        arguments = (f"--git-dir={repository}", "rev-parse", "--verify", "--quiet", f"{self._ref}^{{commit}}")
        try:
            return (await self._git(*arguments, what="find the commit", limit_s=LOCAL_S)).decode().strip()
        except SourceError as error:
            raise SourceError(f"{self._place.ref} of {self._place.shown} is no commit", "name a branch or a tag") from error

    # Reading a commit.

    async def _tree(self, commit: str) -> dict[str, bytes]:
        """Raises: SourceError: The tree is nothing to take over; LocalError: it cannot be read."""
        folder = self._place.folder
        at = f"{commit}:{folder}" if folder else commit
        try:
            names = await self._names(at, folder, commit)
            texts = await self._texts(names, root=f"{commit}:{folder}/" if folder else f"{commit}:")
        except (ValueError, IndexError) as error:
            raise LocalError(
                f"git says of {self._shown(commit)} what is not understood: {error}", "is its version 2.29 or newer?"
            ) from error
        return {name: texts[name] for name in sorted(texts)}

    async def _names(self, at: str, folder: str, commit: str) -> list[str]:
        """Policy files and companions below the folder."""
        try:
            listed = await self._local("ls-tree", "-r", "-l", "-z", "--full-tree", at, output_max=LISTING_MAX)
        except LocalError:
            if not folder or not await self._has_tree(commit):
                raise
            raise SourceError(
                f"there is no folder {folder} in {self._shown(commit)}", "check the folder after the ref in --policies"
            ) from None
        names: list[str] = []
        size = 0
        for line in listed.split(b"\0"):
            head, _, raw = line.partition(b"\t")
            name = os.fsdecode(raw)
            fields = head.decode().split()
            if not is_policy_file(name) or not fields[0].startswith((REGULAR, LINK)):
                continue
            if not name.isprintable():
                raise SourceError(f"{self._shown(commit)} has a policy file whose name cannot be printed: {name!a}", "rename it")
            names.append(name)
            size += int(fields[3])
        hint = "name the folder of the policies only: GIT_URL#REF:FOLDER"
        if len(names) > FILES_MAX:
            raise SourceError(f"{self._shown(commit)} has more than {FILES_MAX} policy files", hint)
        if size > BYTES_MAX:
            raise SourceError(f"{self._shown(commit)} has more than {BYTES_MAX >> 20} MiB of policy files", hint)
        return names

    async def _has_tree(self, commit: str) -> bool:
        try:
            await self._local("ls-tree", commit, output_max=LISTING_MAX)
        except LocalError:
            return False
        return True

    async def _texts(self, names: Sequence[str], *, root: str) -> dict[str, bytes]:
        """Contents by name. Links are followed inside the commit, as they are in a directory."""
        asked = "".join(f"{root}{name}\n" for name in names).encode()
        given = await self._local("cat-file", "--batch", "--follow-symlinks", stdin=asked, output_max=2 * BYTES_MAX)
        texts: dict[str, bytes] = {}
        start = 0
        for name in names:
            end = given.index(b"\n", start)
            fields = given[start:end].split(b" ")
            if fields[0] in {b"dangling", b"symlink", b"loop", b"notdir"}:
                raise SourceError(f"{name} in {self._place} is a link that leads nowhere in the repository", "mend or remove it")
            if len(fields) != 3 or fields[1] not in {b"blob", b"tree"}:
                raise LocalError(f"{name} in {self._place} cannot be read", "")
            size = int(fields[2])
            if fields[1] == b"blob":  # a link to a folder is left out
                texts[name] = given[end + 1 : end + 1 + min(size, FILE_BYTES_MAX)]
            start = end + size + 2
        return texts

    def _shown(self, commit: str) -> str:
        return f"{self._place} (commit {commit[:12]})"

    # The program.

    async def _local(self, *arguments: str, output_max: int, stdin: bytes = b"") -> bytes:
        """Runs git on the cache. Raises: LocalError."""
        try:
            return await self._git(
                f"--git-dir={self._repository}",
                *arguments,
                what="read what was fetched",
                limit_s=LOCAL_S,
                stdin=stdin,
                output_max=output_max,
            )
        except SourceError as error:
            raise LocalError(str(error), error.hint) from error

    async def _git(self, *arguments: str, what: str, limit_s: float, stdin: bytes = b"", output_max: int = 65_536) -> bytes:
        """Runs git to its end and gives what it wrote. Raises: SourceError."""
        settings = [word for setting in SETTINGS for word in ("-c", setting)]
        try:
            process = await _started([*settings, *arguments], has_stdin=bool(stdin))
        except FileNotFoundError:
            raise SourceError("policies come from git, and there is no program git here", "install git, or give a directory") from None
        except OSError as error:
            raise SourceError(f"cannot start git: {error.strerror}", "") from error
        try:
            async with asyncio.timeout(limit_s):
                code, out, said = await _talk(process, stdin, output_max)
        except TimeoutError:
            raise SourceError(f"cannot {what} of {self._place.shown}: no end after {limit_s:.0f} s", "is the host reachable?") from None
        finally:
            await _end(process)
        if code != 0:
            raise self._error(what, said)
        if len(out) > output_max:
            raise SourceError(f"{self._place} has too much to read", "name the folder of the policies only: GIT_URL#REF:FOLDER")
        return out

    def _error(self, what: str, said: bytes) -> SourceError:
        """What git wrote, on one line and without passwords."""
        text = said.decode("utf-8", "replace").replace(self._place.url, self._place.shown)
        lines = [re.sub(r"://[^/\s]*@", "://***@", line.strip()) for line in text.splitlines()]
        telling = [line for line in lines if line.startswith(("fatal:", "error:", "ssh:", "Host key", "remote:"))] or lines[-1:]
        words = "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in telling)
        words = "".join(sign if sign.isprintable() else " " for sign in words)[:500] or "git says nothing"
        return SourceError(f"cannot {what} of {self._place.shown}: {words}", "check --policies, and that git can fetch it on this machine")

    def _cache_error(self, error: OSError) -> SourceError:
        reason = (error.strerror or str(error)).lower()
        return SourceError(f"cannot keep what was fetched in {self._repository}: {reason}", "check --policies-cache and its permissions")


def _absolute(url: str) -> str:
    """A path (for git: whatever has no `:` before its first `/`) from the root, as git is not run where we are."""
    return url if ":" in url.partition("/")[0] else str(Path(url).absolute())


async def _talk(process: asyncio.subprocess.Process, stdin: bytes, output_max: int) -> tuple[int, bytes, bytes]:
    """Writes and reads at once, and no more than is wanted."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(_feed(process.stdin, stdin))
        reading = tasks.create_task(_some(process.stdout, output_max + 1))
        hearing = tasks.create_task(_some(process.stderr, 16_384, drain=True))
        out = await reading
        if len(out) > output_max:
            writing.cancel()
            hearing.cancel()
            return 0, out, b""
    return await process.wait(), out, hearing.result()


async def _feed(pipe: asyncio.StreamWriter | None, text: bytes) -> None:
    if pipe is None:
        return
    with contextlib.suppress(OSError, RuntimeError):  # the latter is uvloop's word for a reader that has gone
        pipe.write(text)
        await pipe.drain()
        pipe.close()


async def _some(pipe: asyncio.StreamReader, most: int, *, drain: bool = False) -> bytes:
    """Up to so many bytes; with `drain` the rest is thrown away, so that the writer is not blocked."""
    parts: list[bytes] = []
    left = most
    while part := await pipe.read(65_536):
        parts.append(part[:left])
        left -= len(parts[-1])
        if not left and not drain:
            break
    return b"".join(parts)


async def _started(arguments: Sequence[str], *, has_stdin: bool) -> asyncio.subprocess.Process:
    """A git that runs. Who stops waiting for it while it starts leaves none behind: asyncio would end the program, and not what that started."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            "git",
            *arguments,
            stdin=asyncio.subprocess.PIPE if has_stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(os.environ),
            start_new_session=True,  # no terminal to ask on, and one group to end
            cwd="/",  # no repository around us has a say
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await _end(await starting)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends a git that has not ended by itself, with all that it started; what one that did leaves behind is meant (a credential cache)."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in ours.items() if not _DROPPED.fullmatch(name)}
    return kept | {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", "LANGUAGE": ""}
