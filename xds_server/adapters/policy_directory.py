"""Policies from a directory: read whole, watched by polling, handed on only when they stand still.

A directory that cannot be read at the start is an error; later it is told once and the last good files stay in force.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from xds_server.errors import SourceError

FILES_MAX = 10_000
BYTES_MAX = 64 * 1024 * 1024
INTERVAL_S = 0.5

Signature = tuple[tuple[str, int, int, int], ...]


class PolicyDirectory:
    """
    Args:
        on_error: Told in words why the directory cannot be read, and "" when it can again.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, interval_s: float = INTERVAL_S, on_error: Callable[[str], None] = lambda _: None
    ) -> None:
        self._path = Path(path)
        self._interval_s = interval_s
        self._on_error = on_error
        self._handed: Signature = ()

    async def read(self) -> dict[str, bytes]:
        """All *.yaml and *.yml files below the directory by relative name. Raises: SourceError."""
        self._handed, texts = await asyncio.to_thread(self._read)
        return texts

    async def changes(self) -> AsyncIterator[dict[str, bytes]]:
        """The files again, each time they have changed and then stood still for one interval."""
        before = self._handed
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                now = await asyncio.to_thread(self._look)
                if now != self._handed and now == before:
                    self._handed, texts = await asyncio.to_thread(self._read)
                    yield texts
            except SourceError as error:
                self._on_error(str(error))
                continue
            before = now
            self._on_error("")

    def _read(self) -> tuple[Signature, dict[str, bytes]]:
        signature = self._look()
        if sum(size for _, _, size, _ in signature) > BYTES_MAX:
            raise SourceError(
                f"{self._path} has more than {BYTES_MAX >> 20} MiB of policy files", "name the directory of the policies only"
            )
        texts = {}
        for name, *_ in signature:
            try:
                texts[name] = (self._path / name).read_bytes()
            except OSError as error:
                raise _source_error(self._path / name, error) from error
        return signature, texts

    def _look(self) -> Signature:
        found = []
        try:
            os.scandir(self._path).close()
            for folder, folders, files in os.walk(self._path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(files):
                    if name.startswith(".") or not name.endswith((".yaml", ".yml")):
                        continue
                    path = Path(folder) / name
                    seen = path.stat()
                    found.append((str(path.relative_to(self._path)), seen.st_mtime_ns, seen.st_size, seen.st_ino))
                    if len(found) > FILES_MAX:
                        raise SourceError(f"{self._path} has more than {FILES_MAX} policy files", "name the directory of the policies only")
        except OSError as error:
            raise _source_error(self._path, error) from error
        return tuple(sorted(found))


def _source_error(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"cannot read policies from {path}: {(error.strerror or str(error)).lower()}", "check --policies and its permissions"
    )
