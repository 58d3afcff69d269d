"""The options of `crossfade test` that name evidence of the past, and what they read: files of `crossfade record`, the history of a Prometheus."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from xds_server.cli import exits
from xds_server.cli.exits import CliError
from xds_server.cli.options import Duration
from xds_server.errors import RecordingError

if TYPE_CHECKING:
    from policies.replay.blocks import Recording
    from xds_server.adapters.prometheus_history import Selectors

Decorated = Callable[..., Any]

TOKEN_MAX_BYTES: Final = 64 * 1024


class Moment(click.ParamType[float]):
    """A time such as 2026-01-01T00:00:00Z, or how long ago it was, such as 6h; read into seconds since the epoch."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if not re.match(r"\d{4}-", str(value)):
            return time.time() - Duration().convert(value, param, ctx)
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time, such as 2026-01-01T00:00:00Z or 6h", param, ctx)
        if found.tzinfo is None:
            self.fail(f"{value!r} does not say in which time zone, such as 2026-01-01T00:00:00Z", param, ctx)
        return found.timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the options say.

    Attributes:
        start, end: [s since the epoch]; None = not said.
    """

    files: tuple[Path, ...]
    release: int | None
    prometheus: str | None
    arms: tuple[str, ...]
    start: float | None
    end: float | None
    step_s: float
    token_file: Path | None

    def read(self) -> "tuple[Recording, ...]":
        """All recordings, in the order they were named. Raises: CliError."""
        try:
            return (*map(self._file, self.files), *((self._history(self.prometheus),) if self.prometheus is not None else ()))
        except RecordingError as error:
            raise CliError(str(error), where=error.where, hint=error.hint) from None

    def _file(self, path: Path) -> "Recording":
        from xds_server.adapters import recordings  # noqa: PLC0415 - loaded when used

        return recordings.read(path, release=self.release)

    def _history(self, url: str) -> "Recording":
        from xds_server.adapters import prometheus_history  # noqa: PLC0415 - loaded when used

        if self.start is None or not self.arms:
            raise click.UsageError("--prometheus needs --from and --arm")
        end = time.time() if self.end is None else self.end
        return prometheus_history.read(url, _arms(self.arms), start=self.start, end=end, step=self.step_s, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        try:
            with self.token_file.open("rb") as file:
                token = file.read(TOKEN_MAX_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CliError("the token cannot be read", where=f"{self.token_file}: {error}", code=exits.USAGE) from None
        if not token.isprintable() or not token:
            raise CliError("the token is not one line of text", where=str(self.token_file), code=exits.USAGE)
        return {"Authorization": f"Bearer {token}"}


_OPTIONS: Final[tuple[Callable[[Decorated], Decorated], ...]] = (
    click.option(
        "--recording",
        "files",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Evidence of `crossfade record` (.csv, .parquet); may be repeated.",
    ),
    click.option("--release", type=click.IntRange(0), metavar="N", help="Which release of a recording that has several."),
    click.option("--prometheus", metavar="URL", help="Evidence of Envoy's counters in a Prometheus."),
    click.option(
        "--arm",
        "arms",
        multiple=True,
        metavar="NAME=CLUSTER",
        help="With --prometheus: a variant's cluster, or label matchers; once for each.",
    ),
    click.option("--from", "start", type=Moment(), metavar="TIME", help="With --prometheus: since when; 2026-01-01T00:00:00Z, or 6h ago."),
    click.option("--to", "end", type=Moment(), metavar="TIME", help="With --prometheus: until when.  [default: now]"),
    click.option(
        "--step-length",
        "step_s",
        type=Duration(),
        default="15s",
        show_default=True,
        metavar="TIME",
        help="With --prometheus: length of the blocks, best the scrape interval.",
    ),
    click.option(
        "--token-file", type=click.Path(path_type=Path), metavar="FILE", help="With --prometheus: has the bearer token that it asks for."
    ),
)


def options(command: Decorated) -> Decorated:
    """The options; the command is given the fields of `Past` by name."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _arms(given: tuple[str, ...]) -> "Mapping[str, Selectors]":
    from xds_server.adapters.prometheus_history import envoy  # noqa: PLC0415 - loaded when used

    found = {}
    for each in given:
        name, equals, where = each.partition("=")
        if not equals or not name.strip() or not where.strip():
            raise CliError(f"{each!r} names no variant's cluster", where="--arm", hint="such as stable=chat-v1", code=exits.USAGE)
        if name in found:
            raise CliError(f"{name!r} is named twice", where="--arm", code=exits.USAGE)
        found[name.strip()] = envoy(where)
    return found
