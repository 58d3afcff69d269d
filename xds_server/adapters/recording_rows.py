"""The form of a recording on disk: one row per block, variant and audience, as CSV or Parquet.

A row says what it needs by itself: times in seconds since the epoch, bins by their upper edge in milliseconds, shares as fractions. So other
programs can read one, or write one: time, variant, requests and errors are enough.
Neighbours: `crossfade record` writes rows, `recordings` reads them.
"""

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from policies.evidence import LATENCY_BINS, LATENCY_EDGES_MS, Counts, Halves, add, latency_bin
from xds_server.errors import RecordingError

NEEDED: Final = ("end", "variant", "requests", "errors")
HALVES: Final = ("half_a_requests", "half_a_errors", "half_b_requests", "half_b_errors")
COLUMNS: Final = (
    "start",
    "end",
    "generation",
    "step",
    "variant",
    "version",
    "identity",
    "share",
    "audience",
    "requests",
    "errors",
    "fallbacks",
    "broken",
    "no_host",
    "latency_ms",
    "ttft_ms",
    "statuses",
    *HALVES,
    "missed_blocks",
)
"""`docs/recordings.md` says what each means."""

AUDIENCES: Final = ("users", "shadows", "pinned")
SUFFIXES: Final = (".csv", ".parquet")
COUNT_MAX: Final = 10**15
TEXT_MAX: Final = 1000
"""Longest name, version or step [characters]."""

BINS_MAX: Final = 1000
"""Most bins or statuses in one cell."""

GROUP_ROWS: Final = 2000
"""Rows of Parquet written at a time: what a kill, unlike Ctrl-C, may lose."""

NO_HALVES: Final[Halves] = ((0, 0), (0, 0))

_OPEN: Final = "inf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one audience saw of one variant in one block.

    Attributes:
        start: [s since the epoch]; None = not known.
        end: [s since the epoch].
        share: Of users' requests, in force [0, 1]; None = not known.
        audience: One of `AUDIENCES`.
        halves: Of users: `policies.evidence.Block.halves`.
        missed: Blocks that the recorder did not get, just before this one.
    """

    end: float
    variant: str
    counts: Counts
    start: float | None = None
    generation: int = 0
    step: str = ""
    version: str = ""
    identity: str = ""
    share: float | None = None
    audience: str = "users"
    halves: Halves = NO_HALVES
    missed: int = 0

    def followed_by(self, later: "Row") -> "Row":
        """Both as one: the same variant and audience in the block after it."""
        return replace(
            self,
            end=later.end,
            counts=add(self.counts, later.counts),
            halves=both(self.halves, later.halves),
            missed=self.missed + later.missed,
        )


def both(a: Halves, b: Halves) -> Halves:
    """The sums."""
    (one, two), (other, another) = a, b
    return (one[0] + other[0], one[1] + other[1]), (two[0] + another[0], two[1] + another[1])


# Writing.


class RowWriter(Protocol):
    """Writes rows; the file is whole once it is closed."""

    def write(self, rows: Iterable[Row]) -> None: ...

    def close(self) -> None: ...


def check_suffix(path: Path) -> None:
    """Raises: RecordingError: If the name does not say how to write it, or that cannot be done here."""
    if path.suffix not in SUFFIXES:
        raise RecordingError("the form of a recording is that of its name", where=str(path), hint=f"end it in {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        pyarrow(path)


def writer(path: Path, form: str) -> RowWriter:
    """A writer of the form (one of `SUFFIXES`). Raises: OSError."""
    return _ParquetWriter(path) if form == ".parquet" else _CsvWriter(path)


def pyarrow(path: Path) -> Any:
    """The module. Raises: RecordingError: If it is not installed."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415 - an extra
    except ImportError:
        raise RecordingError(
            "Parquet needs pyarrow, which is not installed", where=str(path), hint="pip install 'crossfade[parquet]', or use .csv"
        ) from None
    return pa


class _CsvWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow(COLUMNS)

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            seen = row.counts
            self._csv.writerow(
                (
                    "" if row.start is None else f"{row.start:.3f}",
                    f"{row.end:.3f}",
                    row.generation,
                    row.step,
                    row.variant,
                    row.version,
                    row.identity,
                    "" if row.share is None else f"{row.share:.6g}",
                    row.audience,
                    seen.requests,
                    seen.errors,
                    seen.fallbacks,
                    seen.broken,
                    seen.no_host,
                    _joined((_OPEN if math.isinf(edge) else f"{edge:.6g}", count) for edge, count in _edges(seen.latency)),
                    _joined((_OPEN if math.isinf(edge) else f"{edge:.6g}", count) for edge, count in _edges(seen.ttft)),
                    _joined(seen.statuses),
                    *row.halves[0],
                    *row.halves[1],
                    row.missed,
                )
            )
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class _ParquetWriter:
    def __init__(self, path: Path) -> None:
        pa = pyarrow(path)
        histogram = pa.map_(pa.float64(), pa.int64())
        kinds = {
            **dict.fromkeys(("start", "end", "share"), pa.float64()),
            **dict.fromkeys(("step", "variant", "version", "identity", "audience"), pa.string()),
            **dict.fromkeys(("latency_ms", "ttft_ms"), histogram),
            "statuses": pa.map_(pa.string(), pa.int64()),
        }
        self._schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in COLUMNS])
        self._table = pa.Table
        self._writer = pa.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, object]] = []

    def write(self, rows: Iterable[Row]) -> None:
        self._rows += map(_record, rows)
        if len(self._rows) >= GROUP_ROWS:
            self._out()

    def _out(self) -> None:
        self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def close(self) -> None:
        if self._rows:
            self._out()
        self._writer.close()


def _record(row: Row) -> dict[str, object]:
    seen = row.counts
    return {
        "start": row.start,
        "end": row.end,
        "generation": row.generation,
        "step": row.step,
        "variant": row.variant,
        "version": row.version,
        "identity": row.identity,
        "share": row.share,
        "audience": row.audience,
        "requests": seen.requests,
        "errors": seen.errors,
        "fallbacks": seen.fallbacks,
        "broken": seen.broken,
        "no_host": seen.no_host,
        "latency_ms": _edges(seen.latency),
        "ttft_ms": _edges(seen.ttft),
        "statuses": list(seen.statuses),
        **dict(zip(HALVES, (*row.halves[0], *row.halves[1]), strict=True)),
        "missed_blocks": row.missed,
    }


def _edges(bins: tuple[tuple[int, int], ...]) -> list[tuple[float, int]]:
    return [(LATENCY_EDGES_MS[place] if place < LATENCY_BINS - 1 else math.inf, count) for place, count in bins]


def _joined(pairs: Iterable[tuple[str, int]]) -> str:
    return ";".join(f"{what.replace(';', ',')}:{count}" for what, count in pairs)


# Reading.


def rows(path: Path, *, most: int) -> Iterator[tuple[str, Row]]:
    """(where it stands, row) of a file, in its order.

    Args:
        most: Rows at most.

    Raises: RecordingError: Also while it is read.
    """
    check_suffix(path)
    found = _parquet(path, most) if path.suffix == ".parquet" else _csv(path)
    for number, (where, cells) in enumerate(found, 1):
        if number > most:
            raise too_many(path, most)
        yield where, row(cells, where)


def too_many(path: Path, most: int) -> RecordingError:
    return RecordingError(f"the recording has more than {most} rows", where=str(path), hint="record longer blocks (--every 10s), or cut it")


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        where = f"{path}:1"
        try:
            head = next(lines, [])
            _check_head(head, where)
            for cells in lines:
                where = f"{path}:{lines.line_num}"
                if not cells:
                    continue
                if len(cells) != len(head):
                    raise RecordingError(f"the row has {len(cells)} cells, the head {len(head)}", where=where)
                yield where, dict(zip(head, cells, strict=True))
        except csv.Error as error:
            raise RecordingError(f"this is not CSV: {error}", where=f"{path}:{lines.line_num}") from None
        except UnicodeDecodeError:
            raise RecordingError("the text is not UTF-8", where=f"{path}, after line {lines.line_num}") from None


def _parquet(path: Path, most: int) -> Iterator[tuple[str, Mapping[str, object]]]:
    pa = pyarrow(path)
    try:
        with pa.parquet.ParquetFile(path) as file:
            head = file.schema_arrow.names
            _check_head(head, str(path))
            if file.metadata.num_rows > most:
                raise too_many(path, most)
            number = 0
            for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=[name for name in COLUMNS if name in head]):
                for cells in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", cells
    except (pa.ArrowException, OSError) as error:
        words = str(error).splitlines()[0]
        raise RecordingError(
            f"this cannot be read as Parquet: {words}", where=str(path), hint="a recording that was killed is not whole"
        ) from None


def _check_head(head: Iterable[str], where: str) -> None:
    names = list(head)
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise RecordingError(
            f"there is no column {missing[0]!r}", where=where, hint=f"a recording has at least {', '.join(NEEDED)} (docs/recordings.md)"
        )
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise RecordingError(f"there are two columns {twice[0]!r}", where=where)


class _Cells:
    """One row as it stands in the file; every error names the column."""

    def __init__(self, cells: Mapping[str, object], where: str) -> None:
        self._cells = cells
        self._where = where

    def error(self, name: str, said: str) -> RecordingError:
        return RecordingError(said, where=f"{self._where}, column {name}")

    def known(self, name: str) -> bool:
        return self._cells.get(name) not in {None, ""}

    def number(self, name: str, low: float, high: float) -> float:
        value = self._cells.get(name)
        try:
            found = float(value) if isinstance(value, (str, int, float)) else math.nan
        except (ValueError, OverflowError):
            found = math.nan
        if not low <= found <= high:
            raise self.error(name, f"{_short(value)} is not a number from {low:g} to {high:g}")
        return found

    def count(self, name: str, most: int = COUNT_MAX) -> int:
        if not self.known(name) and name not in NEEDED:
            return 0
        try:
            return _whole(self._cells.get(name), most)
        except ValueError as error:
            raise self.error(name, str(error)) from None

    def text(self, name: str) -> str:
        value = self._cells.get(name)
        found = "" if value is None else str(value)
        if len(found) > TEXT_MAX or not found.isprintable():
            raise self.error(name, f"{_short(value)} is not a line of text of at most {TEXT_MAX} characters")
        return found

    def halves(self) -> Halves:
        one, one_bad, other, other_bad = (self.count(name) for name in HALVES)
        return ((one, one_bad), (other, other_bad)) if one or one_bad or other or other_bad else NO_HALVES

    def statuses(self, name: str) -> tuple[tuple[str, int], ...]:
        return _added_up(self._entries(name, _status))

    def histogram(self, name: str) -> tuple[tuple[int, int], ...]:
        return _added_up(self._entries(name, _bin))

    def _entries(self, name: str, read: "Callable[[Entry], tuple[K, int]]") -> "list[tuple[K, int]]":
        """A cell of several: text such as "95.2:12;inf:1", or pairs."""
        value = self._cells.get(name)
        if value is None or value == "":
            return []
        entries: list[Any] = value.split(";") if isinstance(value, str) else _listed(value)
        if len(entries) > BINS_MAX:
            raise self.error(name, f"there are more than {BINS_MAX} entries")
        try:
            return [read(entry) for entry in entries]
        except (ValueError, TypeError) as error:
            raise self.error(name, str(error)) from None


Entry = str | tuple[object, ...]
K = TypeVar("K", int, str)


@lru_cache(maxsize=65_536)
def _status(entry: Entry) -> tuple[str, int]:
    """Cached, as `_bin`: a long recording is made of few different entries. Raises: ValueError."""
    what, count = _parted(entry)
    return str(what)[:TEXT_MAX], _whole(count)


@lru_cache(maxsize=65_536)
def _bin(entry: Entry) -> tuple[int, int]:
    """Raises: ValueError."""
    what, count = _parted(entry)
    try:
        edge = float(what) if isinstance(what, (str, int, float)) else math.nan
    except ValueError:
        edge = math.nan
    if not edge >= 0.0:
        raise ValueError(f"{_short(what)} is not the upper edge of a bin [ms], such as 250 or inf")
    # Edges are written in six digits: a little above the true one would be the next bin.
    return latency_bin(edge * 0.99), _whole(count)


def _parted(entry: Entry) -> tuple[object, object]:
    what, count = entry.rpartition(":")[::2] if isinstance(entry, str) else entry if len(entry) == 2 else ("", "")
    if what == "":
        raise ValueError(f'{_short(entry)} is no entry, such as "250:12"')
    return what, count


def _added_up(pairs: list[tuple[K, int]]) -> tuple[tuple[K, int], ...]:
    """Ascending, each once, bins and statuses of nothing left out."""
    if all(count for _, count in pairs) and all(before[0] < after[0] for before, after in pairwise(pairs)):
        return tuple(pairs)
    total: dict[K, int] = {}
    for what, count in pairs:
        total[what] = total.get(what, 0) + count
    return tuple((what, total[what]) for what in sorted(total) if total[what])


def _whole(value: object, most: int = COUNT_MAX) -> int:
    """Raises: ValueError."""
    try:
        found = float(value) if isinstance(value, (str, int, float)) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not 0 <= found <= most or found != int(found):
        raise ValueError(f"{_short(value)} is not a whole number from 0 to {most}")
    return int(found)


def row(given: Mapping[str, object], where: str) -> Row:
    """A row of cells as they stand in CSV (text) or Parquet (numbers, lists of pairs). Raises: RecordingError: Names the column."""
    cells = _Cells(given, where)
    seen = Counts(
        requests=cells.count("requests"),
        errors=cells.count("errors"),
        fallbacks=cells.count("fallbacks"),
        broken=cells.count("broken"),
        no_host=cells.count("no_host"),
        latency=cells.histogram("latency_ms"),
        ttft=cells.histogram("ttft_ms"),
        statuses=cells.statuses("statuses"),
    )
    if seen.errors > seen.requests:
        raise cells.error("errors", f"{seen.errors} errors among {seen.requests} requests")
    for name, part in (("fallbacks", seen.fallbacks), ("broken", seen.broken), ("no_host", seen.no_host)):
        if part > seen.errors:
            raise cells.error(name, f"{part} of {seen.errors} errors")
    end = cells.number("end", 0.0, 1e11)
    made = Row(
        start=cells.number("start", 0.0, end) if cells.known("start") else None,
        end=end,
        generation=cells.count("generation"),
        step=cells.text("step"),
        variant=cells.text("variant"),
        version=cells.text("version"),
        identity=cells.text("identity"),
        share=cells.number("share", 0.0, 1.0) if cells.known("share") else None,
        audience=cells.text("audience") or "users",
        counts=seen,
        halves=cells.halves(),
        missed=cells.count("missed_blocks"),
    )
    if not made.variant:
        raise cells.error("variant", "there is no name")
    if made.audience not in AUDIENCES:
        raise cells.error("audience", f"{_short(made.audience)} is none of {', '.join(AUDIENCES)}")
    return made


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _short(value: object) -> str:
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
