"""Reads a recording (`crossfade record`, or rows of another's making) as the evidence of one release.

Evidence of two versions must not meet under one name: of a file with several releases one is taken, and what a variant's name meant later (a
promotion makes the candidate "stable") is left out and counted.
Neighbours: `recording_rows` has the form on disk; `policies.replay` consumes.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

from policies.evidence import Counts, Halves, add
from policies.replay.blocks import Block, InForce, Recording
from policies.spec.policy import FULL_BP, STABLE
from xds_server.adapters.recording_rows import NO_HALVES, Row, both, rows
from xds_server.errors import RecordingError

FILE_MAX_BYTES: Final = 256 * 1024 * 1024
ROWS_MAX: Final = 400_000
"""Two variants in blocks of 1 s for two days: about half a gigabyte of memory."""

VARIANTS_MAX: Final = 64

OTHER_RELEASE: Final = "rows of another release"
OTHER_VERSION: Final = "rows of a version that came later under the same name"
OTHER_AUDIENCE: Final = "rows of mirrored copies or chosen users"
MISSED: Final = "blocks the recorder did not get"


def read(path: Path, *, release: int | None = None) -> Recording:
    """The recording in a file.

    Args:
        release: The generation to take of a file with several; None = it has one.

    Raises: RecordingError: Names the file, and line and column where it is one cell.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RecordingError(f"the recording cannot be read: {(error.strerror or str(error)).lower()}", where=str(path)) from None
    if size > FILE_MAX_BYTES:
        hint = "record longer blocks (--every 10s), or cut it"
        raise RecordingError(f"the recording is larger than {FILE_MAX_BYTES // 2**20} MiB", where=str(path), hint=hint)
    try:
        return of_rows(rows(path, most=ROWS_MAX), source=str(path), release=release)
    except OSError as error:
        raise RecordingError(f"the recording cannot be read: {(error.strerror or str(error)).lower()}", where=str(path)) from None


def of_rows(found: Iterable[tuple[str, Row]], *, source: str, release: int | None = None) -> Recording:
    """The recording that rows make.

    Args:
        found: (where it stands, row); `end` must not decrease.

    Raises: RecordingError.
    """
    dropped: dict[str, int] = {}
    users = _users(found, dropped)
    if not users:
        raise RecordingError("there is no evidence of users in the recording", where=source, hint="was there traffic while it was made?")
    taken = _generation(users, source, release)
    kept = list(_one_meaning((row for row in users if row.generation == taken), dropped))
    if len(kept) < len(users):
        _count(dropped, OTHER_RELEASE, sum(row.generation != taken for row in users))
    started = _start(kept)
    blocks, in_force = [], list[InForce]()
    for end, group in groupby(kept, key=lambda row: row.end):
        together = list(group)
        at = end - started
        arms = _arms(together)
        if arms:
            blocks.append(Block(at=at, arms=arms, halves=_halves(together)))
        shares = _shares(at, together)
        if shares is not None and (not in_force or (shares.shares, shares.step) != (in_force[-1].shares, in_force[-1].step)):
            in_force.append(shares)
    return Recording(
        blocks=tuple(blocks),
        started=started,
        variants={row.variant: row.version for row in kept},
        source=source,
        in_force=tuple(in_force),
        dropped=dropped,
    )


def _users(found: Iterable[tuple[str, Row]], dropped: dict[str, int]) -> list[Row]:
    """The rows of randomly or stickily assigned users: the only ones that a gate on users may see."""
    kept: list[Row] = []
    names: set[str] = set()
    last = 0.0
    for where, row in found:
        if row.end < last:
            raise RecordingError(
                f"{row.end:.3f} is earlier than {last:.3f} before it", where=f"{where}, column end", hint="sort the rows by end"
            )
        last = row.end
        names.add(row.variant)
        if len(names) > VARIANTS_MAX:
            raise RecordingError(f"there are more than {VARIANTS_MAX} variants", where=f"{where}, column variant")
        _count(dropped, MISSED, row.missed)
        if row.audience == "users":
            kept.append(row)
        else:
            _count(dropped, OTHER_AUDIENCE, 1)
    return kept


def _generation(users: Sequence[Row], source: str, release: int | None) -> int:
    """The release to take: the one that was asked for, or the only one in which there was an arm."""
    all_there = sorted({row.generation for row in users})
    if release is not None:
        if release not in all_there:
            there = ", ".join(map(str, all_there))
            raise RecordingError(f"there is no release {release} in the recording", where=source, hint=f"there are: {there}")
        return release
    with_arms = sorted({row.generation for row in users if row.variant != STABLE})
    if len(with_arms) > 1:
        there = ", ".join(map(str, with_arms))
        raise RecordingError(f"the recording has {len(with_arms)} releases: {there}", where=source, hint="say which: --release N")
    return (with_arms or all_there)[-1]


def _one_meaning(users: Iterable[Row], dropped: dict[str, int]) -> Iterator[Row]:
    """Rows of the versions that the names meant first."""
    meant: dict[str, tuple[str, str]] = {}
    for row in users:
        if meant.setdefault(row.variant, (row.identity, row.version)) == (row.identity, row.version):
            yield row
        else:
            _count(dropped, OTHER_VERSION, 1)


def _start(kept: Sequence[Row]) -> float:
    """When the first block began; where rows do not say, blocks are taken to be as long as the next."""
    first = kept[0]
    if first.start is not None:
        return first.start
    ends = sorted({row.end for row in kept})
    return first.end - next((after - before for before, after in pairwise(ends)), 1.0)


def _arms(together: Iterable[Row]) -> dict[str, Counts]:
    arms: dict[str, Counts] = {}
    for row in together:
        if row.counts != Counts():
            arms[row.variant] = add(arms[row.variant], row.counts) if row.variant in arms else row.counts
    return arms


def _halves(together: Iterable[Row]) -> dict[str, Halves]:
    halves: dict[str, Halves] = {}
    for row in together:
        if row.halves != NO_HALVES:
            halves[row.variant] = both(halves.get(row.variant, NO_HALVES), row.halves)
    return halves


def _shares(at: float, together: Iterable[Row]) -> InForce | None:
    """None = the rows do not know."""
    told = [row for row in together if row.share is not None]
    if not told:
        return None
    shares = {row.variant: round(row.share * FULL_BP) for row in told if row.share is not None and row.variant != STABLE}
    return InForce(at=at, shares=shares, step=told[-1].step)


def _count(dropped: dict[str, int], why: str, number: int) -> None:
    if number:
        dropped[why] = dropped.get(why, 0) + number
