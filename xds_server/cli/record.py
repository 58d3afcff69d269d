"""`crossfade record`: the evidence of a rollout as it arrives, into a file that `crossfade test` replays."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

import click

from xds_server.adapters.recording_rows import AUDIENCES, HALVES, Row, RowWriter, check_suffix, row, writer
from xds_server.cli import exits, write
from xds_server.cli.act import segment
from xds_server.cli.client import Client, NotReachedError
from xds_server.cli.exits import CliError
from xds_server.cli.options import Duration, globals_of, no_color, output, server
from xds_server.cli.write import items, number, part, text
from xds_server.errors import RecordingError
from xds_server.services.control import Json, JsonObject

AGAIN_S: Final = 0.5
"""Pause before a lost server is asked again [s]."""

EVERY_MIN_S: Final = 0.1


@click.command()
@click.argument("rollout")
@click.option("--out", "path", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Where to: FILE.csv or FILE.parquet.")
@click.option("--for", "for_s", type=Duration(), metavar="TIME", help="How long, such as 10m.  [default: until Ctrl-C]")
@click.option("--every", "every_s", type=Duration(), default="1s", show_default=True, metavar="TIME", help="Length of the blocks.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@output
@server
@no_color
@click.pass_context
def record(context: click.Context, *, rollout: str, path: Path, for_s: float | None, every_s: float, force: bool, form: str) -> None:
    """Record the evidence of a rollout.

    Requests, errors and times of each variant as the gates get them, with the shares in force: what `crossfade test --recording` replays. Ctrl-C ends it; the file is there when it is whole, FILE.part until then.
    """
    if every_s < EVERY_MIN_S:
        raise click.UsageError(f"--every is at least {EVERY_MIN_S:g} s")
    try:
        check_suffix(path)
        file = _File(path, force=force)
        recorder = _Recorder(rollout, file, every_s)
        until = math.inf if for_s is None else time.monotonic() + for_s
        with _Ending() as ending:
            click.echo(f"recording {rollout} into {path}" + (", Ctrl-C ends it" if for_s is None else ""), err=True)
            events = _events(globals_of(context).address, segment(rollout), lambda: until - time.monotonic())
            told = recorder.run(ending.watch(events))
    except RecordingError as error:
        raise CliError(str(error), where=error.where, hint=error.hint) from None
    if form != "table":
        write.document(told, form)
    else:
        click.echo(_words(told))


# What is heard.


def _events(address: str, rollout: str, remaining_s: Callable[[], float]) -> Iterator[tuple[str, JsonObject]]:
    """Events of the server; one that goes away is asked again (a "lost" says so), one that was never there is an error."""
    reached = False
    while remaining_s() > 0:
        try:
            with Client(address) as client:
                for event in client.events(f"/v1/rollouts/{rollout}/blocks", remaining_s):
                    reached = True
                    yield event
        except NotReachedError as error:
            if not reached:
                raise
            click.echo(f"{error.what}: trying again", err=True)
            yield "lost", {"lost": 1}
            time.sleep(max(0.0, min(AGAIN_S, remaining_s())))


class _OverError(Exception):
    """Ctrl-C or SIGTERM came while nothing was being written."""


class _Ending:
    """Ends the recording at Ctrl-C or SIGTERM, but never in the middle of a block."""

    def __init__(self) -> None:
        self._asked = self._waiting = False
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        for which in (signal.SIGINT, signal.SIGTERM):
            self._before[which] = signal.signal(which, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _ask(self, *_: object) -> None:
        self._asked = True
        if self._waiting:
            self._waiting = False
            raise _OverError

    def watch(self, events: Iterator[tuple[str, JsonObject]]) -> Iterator[tuple[str, JsonObject]]:
        """The events, until they or the recording ends."""
        while True:
            try:
                self._waiting = True
                event = None if self._asked else next(events, None)
                self._waiting = False
            except _OverError:
                return
            if event is None:
                return
            yield event


# What is written.


class _Recorder:
    """Puts the blocks of the server together into blocks of the wanted length, never across a change of shares, step or versions."""

    def __init__(self, rollout: str, file: "_File", every_s: float) -> None:
        self._rollout = rollout
        self._file = file
        self._every_s = every_s
        self._key: object = None
        self._open: dict[tuple[str, str], Row] = {}
        self._missed = 0
        self._blocks = 0
        self._missed_in_all = 0
        self._requests: dict[str, int] = {}
        self._span = (math.inf, 0.0)

    def run(self, events: Iterator[tuple[str, JsonObject]]) -> JsonObject:
        """Writes what comes. Whatever ends it, what came before is a whole file.

        Returns: What was recorded.
        Raises: CliError, RecordingError.
        """
        try:
            self._take(events)
        except (CliError, RecordingError):
            with suppress(CliError):
                self._finish()
            raise
        return self._finish()

    def _take(self, events: Iterator[tuple[str, JsonObject]]) -> None:
        for kind, data in events:
            if kind == "lost":
                missed = max(1, int(number(data.get("lost")) or 1))
                self._missed += missed
                self._missed_in_all += missed
            elif kind == "block":
                self._add(data)

    def _add(self, block: JsonObject) -> None:
        rows = list(_rows(block))
        end = number(block.get("end")) or 0.0
        shares = tuple((each.variant, each.identity, each.share) for each in rows if each.audience == "users")
        key = (end // self._every_s, block.get("generation"), block.get("step"), shares)
        if key != self._key or self._missed:
            self._write()
            self._key = key
            rows[:1] = [replace(each, missed=self._missed) for each in rows[:1]]
            self._missed = 0
        for each in rows:
            place = (each.variant, each.audience)
            before = self._open.get(place)
            self._open[place] = each if before is None else before.followed_by(each)
            if each.audience == "users":
                self._requests[each.variant] = self._requests.get(each.variant, 0) + each.counts.requests
            self._span = (min(self._span[0], each.end if each.start is None else each.start), max(self._span[1], each.end))

    def _write(self) -> None:
        if self._open:
            self._file.write(list(self._open.values()))
            self._blocks += 1
        self._open = {}

    def _finish(self) -> JsonObject:
        """Writes what is left and gives the file its name. Raises: CliError: If there is nothing, or it cannot be written."""
        self._write()
        self._file.finish(f"nothing was seen of {self._rollout} while it was recorded")
        requests: dict[str, Json] = dict(self._requests)
        return {
            "file": str(self._file.path),
            "rollout": self._rollout,
            "blocks": self._blocks,
            "seconds": round(self._span[1] - self._span[0], 3),
            "requests": requests,
            "missed_blocks": self._missed_in_all,
        }


def _rows(block: JsonObject) -> Iterator[Row]:
    """One row per variant for users, and for each other audience that saw something."""
    for variant in items(block.get("variants")):
        for audience in AUDIENCES:
            seen = part(variant, audience)
            if audience != "users" and not seen:
                continue
            histograms = {f"{name}_ms": [_edge(each) for each in _list(seen.get(name))] for name in ("latency", "ttft")}
            cells = {
                **{name: block.get(name) for name in ("start", "end", "generation", "step")},
                "variant": variant.get("name"),
                "version": variant.get("version"),
                "identity": variant.get("identity"),
                "share": variant.get("shadow_share" if audience == "shadows" else "share"),
                "audience": audience,
                **{name: seen.get(name, 0) for name in ("requests", "errors", "fallbacks", "broken", "no_host")},
                **histograms,
                "statuses": list(part(seen, "statuses").items()),
                **(_halves(variant.get("halves")) if audience == "users" else {}),
            }
            yield row(cells, "what the server sends")


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _edge(pair: Json) -> tuple[object, object]:
    """The open bin has no upper edge in JSON."""
    edge, count = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
    return (math.inf if edge is None else edge), count


def _halves(value: Json) -> dict[str, Json]:
    """Four columns of two pairs; an older server has none."""
    return dict(zip(HALVES, [count for half in _list(value) for count in _list(half)], strict=False))


class _File:
    """A file under another name until it is whole; made when there is something to write.

    Raises: CliError: Where it cannot be, or is there already.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._force = force
        self._writer: RowWriter | None = None
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise CliError(
                f"nothing can be written into {path.parent}", where="--out", hint="name a folder that is there", code=exits.USAGE
            )
        for there in (path, self._part):
            if there.is_dir() or (there.exists() and not force):
                raise CliError(f"{there} is there already", where="--out", hint="--force writes over it", code=exits.USAGE)

    def write(self, rows: list[Row]) -> None:
        try:
            if self._writer is None:
                self._writer = writer(self._part, self.path.suffix)
            self._writer.write(rows)
        except OSError as error:
            raise self._failed(error) from None

    def finish(self, if_empty: str) -> None:
        if self._writer is None:
            raise CliError(if_empty, hint="has it traffic? crossfade status")
        try:
            self._writer.close()
            if self.path.exists() and not self._force:
                raise CliError(f"{self.path} has come meanwhile", where="--out", hint=f"the recording is in {self._part}")
            self._part.replace(self.path)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> CliError:
        self._writer = None
        return CliError(
            f"the recording cannot be written: {(error.strerror or str(error)).lower()}",
            where=str(self._part),
            hint="what was written before is there" if self.path.suffix == ".csv" else "",
        )


def _words(told: JsonObject) -> str:
    requests = ", ".join(f"{write.clean(name)} {text(count)}" for name, count in part(told, "requests").items())
    missed = number(told.get("missed_blocks"))
    return (
        f"{text(told.get('blocks'))} blocks in {write.age(told.get('seconds'))}: {requests} requests"
        + (f"; {missed:.0f} blocks of the server were missed" if missed else "")
        + f"; {text(told.get('file'))}"
    )
