"""What goes to stdout: JSON, YAML, aligned text. Colours only on a terminal and never as the only bearer of a meaning."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from xds_server.services.control import Json, JsonObject

COLORS: Final = {
    **dict.fromkeys(("promoted", "baking", "PASS", "SYNCED", "yes"), "green"),
    **dict.fromkeys(("reverting", "reverted", "invalid", "FAIL", "ERROR"), "red"),
    **dict.fromkeys(("holding", "paused", "frozen", "waiting_capacity", "waiting_approval", "NO_DATA", "STALE"), "yellow"),
    **dict.fromkeys(("running", "promoting"), "cyan"),
}
"""Words of the status that have a colour."""


def document(value: Json, form: str) -> None:
    """Writes a value as JSON or YAML."""
    if form == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    import yaml  # noqa: PLC0415 - loaded when used

    click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=140), nl=False)


def on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, color: str | None, *, colored: bool) -> str:
    return click.style(text, fg=color) if colored and color else text


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """Lines of a table in plain text, columns as wide as their widest cell; the last is not padded."""
    table = [list(map(clean, row)) for row in (head, *rows)]
    widths = [max(len(row[place]) for row in table) for place in range(len(head))]
    return [
        indent + "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]]).rstrip() for row in table
    ]


def clean(text: str) -> str:
    """Text of others (proxies, versions, reasons) as it may go to a terminal: without control characters, on one line."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


# Reading JSON of the server, which may be older or newer.


def items(value: Json) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def part(value: Json, key: str) -> JsonObject:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def text(value: Json, missing: str = "-") -> str:
    return missing if value is None or value == "" else str(value)


def number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def percent(value: Json) -> str:
    """A fraction as per cent: 0.05 is "5%"."""
    amount = number(value)
    return "-" if amount is None else f"{amount * 100:.2f}".rstrip("0").rstrip(".") + "%"


def figure(value: Json) -> str:
    """A number in few digits."""
    amount = number(value)
    if amount is None:
        return "-"
    return f"{amount:.0e}".replace("e+0", "e").replace("e+", "e") if abs(amount) >= 1e6 else f"{amount:.3g}"


def clock(value: Json) -> str:
    """An RFC 3339 time without its fraction."""
    return text(value).split(".")[0].removesuffix("Z").replace("T", " ")


def age(value: Json) -> str:
    """Seconds as people say them: "0.4 s", "12 min", "3 h"."""
    seconds = number(value)
    if seconds is None:
        return "-"
    if seconds < 120.0:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200.0 else f"{seconds / 3600:.0f} h"
