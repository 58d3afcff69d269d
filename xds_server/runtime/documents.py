"""Which policy documents are in force: the directory's files, with the last good text of every file that is broken now.

A file is taken over whole or not at all, so a half-written tree never mixes two commits inside one file. Errors stay visible until mended.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.errors import SpecError
from policies.spec.loader import Loaded, load

EMPTY = SpecError(
    file="",
    line=1,
    column=1,
    path="",
    message="the policy directory is empty; the last good policies stay in force",
    expected="policy files (*.yaml, *.yml)",
    hint="bring the files back",
)


@dataclass(slots=True)
class Documents:
    """The set in force and what is wrong with the set on disk.

    Attributes:
        good: The text of each file as it is in force.
        errors: Faults of the files on disk; their last good text (if there was one) stays in force.
    """

    good: dict[str, bytes] = field(default_factory=dict)
    errors: tuple[SpecError, ...] = ()
    loaded: Loaded = field(default_factory=lambda: load({}))

    def remember(self, kept: bytes) -> None:
        """Takes over what an earlier process had in force (`to_bytes`)."""
        if kept:
            self.good = {file: text.encode("latin-1") for file, text in json.loads(kept).items()}

    def to_bytes(self) -> bytes:
        return json.dumps({file: text.decode("latin-1") for file, text in sorted(self.good.items())}).encode()

    def take(self, texts: Mapping[str, bytes]) -> Loaded:
        """Takes a new set of files over, file by file."""
        if not texts and self.good:
            # An unmounted volume looks just like this. Whoever means it removes the documents file by file, or stops the server.
            self.errors = (EMPTY,)
            return self.loaded if self.loaded.files else self._load(self.good)
        return self._load(texts)

    def _load(self, texts: Mapping[str, bytes]) -> Loaded:
        wanted = dict(texts)
        found = load(wanted)
        if texts is not self.good:
            self.errors = tuple(found.errors)
        for _ in range(len(wanted) + 1):
            broken = {error.file for error in found.errors} & wanted.keys()
            if not broken:
                break
            # A file that did not change and was good is an incumbent: whatever conflicts with it came later.
            edited = {file for file in wanted if wanted[file] != self.good.get(file)}
            for file in broken & edited or edited or broken:
                if file in edited and file in self.good:
                    wanted[file] = self.good[file]
                else:
                    del wanted[file]
            found = load(wanted)
        self.good = wanted
        self.loaded = found
        return found

    def file_of(self, rollout: str) -> str:
        """The file a rollout's document stands in, "" if it is not in force."""
        return self.loaded.files.get(("Rollout", rollout), "")
