"""How the demo speaks: one line as each thing happens. Colours and a live status line on a terminal, plain unwrapped text when piped."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO, cast

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

STYLES = {
    "set up": "dim",
    "policy": "bold blue",
    "fault": "bold red",
    "started": "blue",
    "entered": "cyan",
    "advanced": "green",
    "held": "yellow",
    "resumed": "cyan",
    "promoted": "bold green",
    "reverted": "bold magenta",
    "completed": "green",
    "observed": "bold",
    "failed": "bold red",
}
PROGRESS_S = 5.0
"""How often a piped demo says how far it is [s]; a terminal shows it all the time."""

WORD_WIDTH = 9


class _Outlet:
    """A stream that goes silent when its reader has gone (a closed pipe or terminal): the demo still has processes to end in order."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._deaf = False

    def write(self, text: str) -> int:
        self._try(lambda: self._out.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._out.flush)

    def isatty(self) -> bool:
        return not self._deaf and self._out.isatty()

    def fileno(self) -> int:
        return self._out.fileno()

    @property
    def encoding(self) -> str:
        return self._out.encoding or "utf-8"

    def _try(self, act: Callable[[], object]) -> None:
        if self._deaf:
            return
        try:
            act()
        except (OSError, ValueError):
            self._deaf = True


class Teller:
    """Prints the story. `clock` gives monotonic seconds; the story's time starts with the first line."""

    def __init__(self, out: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic, no_color: bool = False) -> None:
        self._out = _Outlet(out or sys.stdout)
        self._console = Console(file=cast("TextIO", self._out), highlight=False, no_color=no_color or None, emoji=False)
        self._clock = clock
        self._start = clock()
        self._said = clock()
        self._status: Status | None = None

    @property
    def live(self) -> bool:
        """Whether someone watches a terminal."""
        return self._console.is_terminal

    def line(self, word: str, text: str, more: str = "") -> None:
        """Something happened: `word` says what kind of thing; `more` goes below, less loud."""
        self._said = self._clock()
        age = f"{self._said - self._start:7.1f} s"
        if self.live:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(no_wrap=True, width=9, style="dim")
            grid.add_column(no_wrap=True, width=WORD_WIDTH)
            grid.add_column(ratio=1)
            words = Text(text)
            if more:
                words.append(f"\n{more}", style="dim")
            grid.add_row(age, Text(word, style=STYLES.get(word, "")), words)
            self._console.print(grid)
        else:
            self._plain(f"{age}  {word:{WORD_WIDTH}}  {text}")
            if more:
                self._plain(f"{'':9}  {'':{WORD_WIDTH}}  {more}")
        self._out.flush()

    def progress(self, text: str) -> None:
        """How far it is: shown live, or as a line now and then."""
        if self.live:
            room = self._console.width - 4
            shown = Text(text if len(text) <= room else text[: room - 1] + "…")
            if self._status is None:
                self._status = self._console.status(shown, spinner="dots")
                self._status.start()
            else:
                self._status.update(shown)
        elif self._clock() - self._said >= PROGRESS_S:
            self.line("...", text)

    def quiet(self) -> None:
        """Takes the live status line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def heading(self, text: str) -> None:
        self.quiet()
        if self.live:
            self._console.print()
            self._console.rule(Text(text, style="bold"), align="left", style="dim")
        else:
            self._plain(f"\n== {text}")
        self._out.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table: the first column left, numbers right."""
        self.quiet()
        if self.live:
            table = Table(box=None, padding=(0, 2), header_style="dim")
            for number, column in enumerate(columns):
                table.add_column(column, justify="right" if number else "left")
            for row in rows:
                table.add_row(*map(Text, row))
            self._console.print(table)
        else:
            widths = [max(len(row[number]) for row in (columns, *rows)) for number in range(len(columns))]
            for row in (columns, *rows):
                cells = (
                    cell.rjust(width) if number else cell.ljust(width) for number, (cell, width) in enumerate(zip(row, widths, strict=True))
                )
                self._plain("  " + "   ".join(cells).rstrip())
        self._out.flush()

    def text(self, text: str = "") -> None:
        """A line without time."""
        if self.live:
            self._console.print(Text(text))
        else:
            self._plain(text)
        self._out.flush()

    def _plain(self, text: str) -> None:
        self._out.write(text + "\n")
