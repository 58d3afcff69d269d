"""docs/cli.md: the exact `--help` texts and the settings of `serve`, made from the commands themselves."""

from collections.abc import Iterator
from typing import Final

import click

from xds_server.cli.app import COMMANDS, crossfade
from xds_server.config import SETTINGS

WIDTH: Final = 98
"""What click makes of a terminal of 100 columns or more."""

_HEAD = """\
# The `crossfade` command

Generated from the commands (`python -m tests.generated --write`); edit those.

Data goes to stdout, everything else to stderr. Errors are up to three lines: what is wrong, where, and a `hint:`.

| exit code | means |
|---|---|
| 0 | yes, done |
| 1 | a negative answer: an invalid policy, a wait that ended otherwise, an act that means nothing in this state |
| 2 | wrong usage |
| 3 | the server cannot be reached or does not allow it; `serve` cannot get its port or its store |
| 130 | interrupted |

`-o json` is stable. `--server` and `--no-color` may stand before or after the verb; the variables are `CROSSFADE_SERVER` and `NO_COLOR`.
"""


def render_cli_docs() -> str:
    """The whole file."""
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    yield _help("crossfade", crossfade, None)
    with click.Context(crossfade, info_name="crossfade") as top:
        for verb in COMMANDS:
            command = crossfade.get_command(top, verb)
            assert command is not None
            yield _help(f"crossfade {verb}", command, top)
            if verb == "serve":
                yield _settings()


def _help(title: str, command: click.Command, parent: click.Context | None) -> str:
    context = click.Context(
        command,
        info_name=title.rsplit(" ", 1)[-1],
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    with context:
        return f"## {title}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


def _settings() -> str:
    rows = [
        f"| `{setting.flag}` | `{setting.variable}` | {f'`{setting.default}`' if setting.default else 'required'} | {setting.why} |"
        for setting in SETTINGS
    ]
    return "\n".join(["| flag | variable | default | why |", "|---|---|---|---|", *rows, ""])
