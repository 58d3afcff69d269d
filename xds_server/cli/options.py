"""Options that several commands share, and the values they are read into.

`--server` and `--no-color` may stand before or after the verb; the one after it counts.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

DEFAULT_SERVER: Final = "http://127.0.0.1:18080"
FORMATS: Final = ("table", "json", "yaml")

Decorated = Callable[..., Any]


@dataclass(slots=True)
class Globals:
    """What was said before the verb, overridden by what was said after it."""

    server: str | None = None
    color: bool = True

    @property
    def address(self) -> str:
        return self.server or DEFAULT_SERVER


def globals_of(context: click.Context) -> Globals:
    """The one value per command line."""
    found = context.find_root().ensure_object(Globals)
    assert isinstance(found, Globals)
    return found


def _keep_server(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        globals_of(context).server = value


def _keep_color(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value or os.environ.get("NO_COLOR"):
        globals_of(context).color = False


def server(command: Decorated) -> Decorated:
    """`--server`, kept in `Globals`."""
    return click.option(
        "--server", metavar="URL", expose_value=False, callback=_keep_server, help=f"The running server.  [default: {DEFAULT_SERVER}]"
    )(command)


def no_color(command: Decorated) -> Decorated:
    return click.option(
        "--no-color", is_flag=True, expose_value=False, callback=_keep_color, help="No colours; so does the variable NO_COLOR."
    )(command)


def output(command: Decorated) -> Decorated:
    """`-o`, given to the command as `form`."""
    option = click.option(
        "-o", "--output", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="Form of what goes to stdout."
    )
    return option(command)


class Duration(click.ParamType[float]):
    """A time such as 300ms, 90s, 30m, 1h, 1h30m, read into seconds."""

    name = "duration"
    _UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}  # noqa: RUF012 - never changed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", str(value))
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is not a duration, such as 90s, 30m or 1h30m", param, ctx)
        return sum(float(number) * self._UNITS[unit] for number, unit in parts)


class Share(click.ParamType[tuple[str, int]]):
    """`candidate=10%`, read into a name and hundredths of a per cent."""

    name = "variant=share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([a-z0-9-]+)=(\d{1,3})(?:\.(\d{1,2}))?%", str(value))
        share = int(found[2]) * 100 + int((found[3] or "").ljust(2, "0")) if found else -1
        if found is None or share > 10_000:
            self.fail(f"{value!r} is not a share, such as candidate=10% (up to 100%, at most two decimals)", param, ctx)
        return found[1], share
