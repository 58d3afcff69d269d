"""Policies from a directory: read whole, watched by polling, handed on only when they stand still.

A directory that cannot be read at the start is an error; later it is told and the last good files stay in force. A file or folder in it that
cannot be read makes the whole directory unreadable: leaving it out would look like a deleted policy, and that takes its traffic away.
Blocking calls run in a thread. Polling, because it works on every file system (a Kubernetes ConfigMap swaps a symbolic link).
"""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from xds_server.errors import SourceError

FILES_MAX = 10_000
BYTES_MAX = 64 * 1024 * 1024
"""Of all files together; of one file no more is read than is needed to say that it is too long."""

FILE_BYTES_MAX = 1024 * 1024 + 1
INTERVAL_S = 0.5

ENDINGS = (".yaml", ".yml", ".jsonl", ".json")
"""Policy documents, and the files they may name: requests of a probe, schemas."""

Signature = tuple[tuple[str, int, int, int], ...]
"""(name, time of change [ns], size [bytes], inode) of every file."""


def is_policy_file(name: str) -> bool:
    """Whether a file (named from the policies' root) is handed on: nothing hidden is."""
    return name.endswith(ENDINGS) and not any(part.startswith(".") for part in name.split("/"))


def digest(texts: Mapping[str, bytes]) -> bytes:
    """The same for the same names and contents."""
    found = hashlib.sha256()
    for name, text in sorted(texts.items()):
        encoded = os.fsencode(name)
        found.update(f"{len(encoded)} {len(text)} ".encode() + encoded + text)
    return found.digest()


class PolicyDirectory:
    """All policy files and their companions below a directory; hidden ones and linked folders are left out, linked files are read.

    Args:
        path: The directory.
        interval_s: Time between two looks [s].
        on_error: Told in words why the directory cannot be read, at every look that fails, and "" when it can again.

    Attributes:
        failures: Looks that failed so far.
        revision: Always "": a directory has no commits.
    """

    revision = ""

    def __init__(
        self, path: str | os.PathLike[str], *, interval_s: float = INTERVAL_S, on_error: Callable[[str], None] = lambda _: None
    ) -> None:
        self._path = Path(path)
        self._interval_s = interval_s
        self._on_error = on_error
        self._handed: Signature | None = None
        self._content = b""
        self._failing = False
        self.failures = 0

    def nudge(self) -> None:
        """Nothing to do: a look is never far away."""

    async def read(self) -> dict[str, bytes]:
        """The files by relative name, in order. Raises: SourceError: If something cannot be read."""
        signature, texts = await asyncio.to_thread(self._read)
        self._handed, self._content = signature, digest(texts)
        return texts

    async def changes(self) -> AsyncIterator[dict[str, bytes]]:
        """The files again, each time their content has changed and then stood still for one interval. Never ends, never raises."""
        before: Signature | None = self._handed
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                now = await asyncio.to_thread(self._look)
                changed = await self._changed(now) if now == before else None
            except SourceError as error:
                self.failures += 1
                self._failing = True
                self._on_error(str(error))
                continue
            before = now
            if self._failing:
                self._failing = False
                self._on_error("")
            if changed is not None:
                yield changed

    async def _changed(self, now: Signature) -> dict[str, bytes] | None:
        """The files, if they stand still and are not what was handed on last."""
        if now == self._handed:
            return None
        signature, texts = await asyncio.to_thread(self._read)
        if signature != now:
            return None
        content = digest(texts)
        same = self._handed is not None and content == self._content
        self._handed, self._content = signature, content
        return None if same else texts

    def _read(self) -> tuple[Signature, dict[str, bytes]]:
        signature = self._look()
        if sum(size for _, _, size, _ in signature) > BYTES_MAX:
            raise SourceError(
                f"{self._path} has more than {BYTES_MAX >> 20} MiB of policy files", "name the directory of the policies only"
            )
        return signature, {name: _text(self._path / name) for name, *_ in signature}

    def _look(self) -> Signature:
        """What is there. A name that vanishes between two calls of the system is not there."""
        found: list[tuple[str, int, int, int]] = []
        try:
            os.scandir(self._path).close()
            for folder, folders, files in os.walk(self._path, onerror=_raise):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in files:
                    if not is_policy_file(name):
                        continue
                    path = Path(folder) / name
                    seen = _stat(path)
                    if seen is None or not stat.S_ISREG(seen.st_mode):
                        continue
                    found.append((_name(path, self._path), seen.st_mtime_ns, seen.st_size, seen.st_ino))
                    if len(found) > FILES_MAX:
                        raise SourceError(f"{self._path} has more than {FILES_MAX} policy files", "name the directory of the policies only")
        except OSError as error:
            raise _source_error(Path(error.filename or self._path), error) from error
        return tuple(sorted(found))


def _name(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    if not name.isprintable():
        raise SourceError(f"{root} has a policy file whose name cannot be printed: {name!a}", "rename it")
    return name


def _raise(error: OSError) -> None:
    raise error


def _stat(path: Path) -> os.stat_result | None:
    """None: The file is gone. A link that leads nowhere is an error, because the policy it stood for may still be meant."""
    try:
        return path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return None


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise _source_error(path, error) from error


def _source_error(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"cannot read policies from {path}: {(error.strerror or str(error)).lower()}", "check --policies and its permissions"
    )
