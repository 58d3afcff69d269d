"""Which policy documents are in force: the source's files, with the last good text of every file that is broken now.

A file is taken over whole or not at all, so a half-written tree never mixes two commits inside one file. Errors stay visible until mended.
What was in force has the right of way: a newcomer that clashes with it waits, and a file that others need is not gone by being deleted.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from policies.errors import SpecError
from policies.spec.loader import Loaded, Reread
from policies.spec.policy import RolloutPolicy
from xds_server.adapters.policy_files import load

EMPTY = SpecError(
    file="",
    line=1,
    column=1,
    path="",
    message="the policy directory is empty; the last good policies stay in force",
    expected="policy files (*.yaml, *.yml)",
    hint="bring the files back",
)

ADMISSIONS_MAX: Final = 100
"""Attempts at finding the changes that get on with the rest; what is left then stays out."""

Texts = dict[str, bytes]


@dataclass(slots=True)
class Documents:
    """The set in force and what is wrong with the set on disk.

    Attributes:
        source: Where the files come from, for people.
        good: The text of each file as it is in force.
        commits: The commit that brought each rollout's document as it is in force, "" where the source has no commits.
        errors: Faults of the files on disk; their last good text (if there was one) stays in force.
    """

    source: str = ""
    good: Texts = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    errors: tuple[SpecError, ...] = ()
    loaded: Loaded = field(default_factory=lambda: load({}))

    def remember(self, kept: bytes) -> None:
        """Takes over what an earlier process had in force (`to_bytes`)."""
        if not kept:
            return
        found = json.loads(kept)
        files, commits = (found["files"], found["commits"]) if "commits" in found else (found, {})
        texts = {file: text.encode("latin-1") for file, text in files.items()}
        self.commits = commits
        self.loaded = load(texts)
        wrong = _broken(self.loaded, texts)  # this version of the program may have stricter rules
        self.good = {file: text for file, text in texts.items() if file not in wrong}

    def to_bytes(self) -> bytes:
        files = {file: text.decode("latin-1") for file, text in sorted(self.good.items())}
        return json.dumps({"files": files, "commits": self.commits}).encode()

    def take(self, texts: Mapping[str, bytes], revision: str = "") -> Loaded:
        """Takes a new set of files over, file by file.

        Args:
            revision: The commit they are of.
        """
        if self.good and not any(map(is_document, texts)):
            # An unmounted volume looks just like this. Whoever means it removes the documents file by file, or stops the server.
            self.errors = (EMPTY,)
            return self.loaded
        self.good, loaded, self.errors = self._settled(texts)
        before = _by_name(self.loaded)
        self.commits = {
            name: self.commits.get(name, revision) if before.get(name) == policy else revision for name, policy in _by_name(loaded).items()
        }
        self.loaded = loaded
        return loaded

    def imagine(self, texts: Mapping[str, bytes]) -> tuple[Loaded, tuple[SpecError, ...]]:
        """What would be in force with these files, and what is wrong with them; nothing changes."""
        _, loaded, errors = self._settled(texts)
        return loaded, errors

    def file_of(self, rollout: str) -> str:
        """The file a rollout's document stands in, "" if it is not in force."""
        return self.loaded.files.get(("Rollout", rollout), "")

    def origin(self, rollout: str) -> dict[str, str]:
        """Where the document in force comes from: the commit is the last that changed it, not the newest of all."""
        return {"file": self.file_of(rollout), "source": self.source, "commit": self.commits.get(rollout, "")}

    # What of a set of files can be in force.

    def _settled(self, texts: Mapping[str, bytes]) -> tuple[Texts, Loaded, tuple[SpecError, ...]]:
        wanted, reread = dict(texts), Reread()
        found = told = load(wanted, self.loaded, reread)
        for _ in range(len(wanted) + len(self.good) + 1):
            if not (broken := _broken(found, wanted)):
                break
            wanted, found = self._mended(wanted, found, broken, reread)
        faulty = {file for file, judged in told.judged.items() if judged.errors}
        faulty |= {error.file for error in told.errors if not is_document(error.file)}
        held = {file for file in texts if wanted.get(file) != texts[file]} - faulty
        waiting = sorted(held, key=lambda file: (file not in self.good, file))
        wanted, found = _admitted({file: texts[file] for file in waiting}, wanted, found, reread)
        held_back = {file for file in texts if wanted.get(file) != texts[file]}
        own = tuple(error for error in told.errors if error.file in held_back)
        # Where two clash, both are told; what is in force is not at fault, if all that is not says so itself.
        explained = held_back == {error.file for error in own} and wanted.keys() <= texts.keys()
        return wanted, found, own if explained else told.errors

    def _mended(self, wanted: Texts, found: Loaded, broken: set[str], reread: Reread) -> tuple[Texts, Loaded]:
        """One step towards files without faults; each brings `wanted` nearer to what was in force, or makes it smaller."""
        edited = {file for file in wanted if wanted[file] != self.good.get(file)}
        if not broken & edited:
            # A file that did not change and was good is an incumbent: whatever conflicts with it came later, or went.
            gone = {file: text for file, text in self.good.items() if file not in wanted}
            for missing in ({file for file in gone if not is_document(file)}, set(gone)):
                restored = wanted | {file: gone[file] for file in missing}
                cured = load(restored, found, reread) if missing else found
                if len(_broken(cured, restored)) < len(broken):
                    return restored, cured
        kept = dict(wanted)
        for file in broken & edited or edited or broken:
            if file in edited and file in self.good:
                kept[file] = self.good[file]
            else:
                del kept[file]
        return kept, load(kept, found, reread)


def _admitted(changes: Mapping[str, bytes], wanted: Texts, found: Loaded, reread: Reread) -> tuple[Texts, Loaded]:
    """Lets in, in their order, the edited and new files that are good beside all that are in: of two that clash, the first."""
    waiting, refused, again = [list(changes)], list[str](), False
    for _ in range(ADMISSIONS_MAX):
        if not waiting and again:  # what came in later may have made room
            waiting, refused, again = [refused], [], False
        waiting = [group for group in waiting if group]
        if not waiting:
            break
        group = waiting.pop(0)
        more = wanted | {file: changes[file] for file in group}
        tried = load(more, found, reread)
        if not _broken(tried, more):
            wanted, found, again = more, tried, True
        elif len(group) > 1:
            half = len(group) // 2
            waiting[:0] = [group[:half], group[half:]]
        else:
            refused += group
    return wanted, found


def is_document(file: str) -> bool:
    return file.endswith((".yaml", ".yml"))


def _broken(found: Loaded, wanted: Iterable[str]) -> set[str]:
    return {error.file for error in found.errors} & set(wanted)


def _by_name(loaded: Loaded) -> dict[str, RolloutPolicy]:
    return {policy.name: policy for policy in loaded.rollouts}
