"""The command group: which verbs there are, loaded when asked for, and how their errors end the process."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from xds_server.cli import exits
from xds_server.cli.exits import CliError
from xds_server.cli.options import Globals, globals_of, no_color, server

COMMANDS: Final[dict[str, str]] = {
    "serve": "serve",
    "validate": "files",
    "schema": "files",
    "render": "files",
    "bootstrap": "files",
    "diff": "files",
    "status": "status",
    "why": "look",
    "history": "look",
    "proxies": "look",
    "assign": "assign",
    "plan": "plan",
    "test": "test",
    "start": "act",
    "advance": "act",
    "promote": "act",
    "abort": "act",
    "pause": "act",
    "resume": "act",
    "retry": "act",
    "approve": "act",
    "rollback": "act",
    "freeze": "act",
    "unfreeze": "act",
    "record": "record",
    "demo": "play",
}
"""Verb -> module of this package that has a command of that name, in the order of the help text."""

LATER: Final = frozenset({"inspect", "pairs", "vote", "config"})
"""Verbs that are promised and not there yet."""


class Crossfade(click.Group):
    """The group; `main` turns every error into the house form."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in LATER:
            raise CliError(f"crossfade {cmd_name} is not supported yet", hint="crossfade --help lists what is", code=exits.USAGE)
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        found = getattr(importlib.import_module(f"xds_server.cli.{module}"), cmd_name)
        assert isinstance(found, click.Command)
        del ctx
        return found

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command line and exits, whatever `standalone_mode` says."""
        del standalone_mode
        settings = Globals()
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, obj=settings, **extra)
        except CliError as error:
            exits.show(error, color=settings.color)
            code = error.code
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = exits.USAGE
        except click.ClickException as error:
            exits.show(_usage(error), color=settings.color)
            code = exits.USAGE
        except (click.Abort, KeyboardInterrupt):
            code = exits.INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = exits.NO
        sys.exit(code if isinstance(code, int) else exits.DONE)


def _usage(error: click.ClickException) -> CliError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "crossfade"
    message = error.format_message().rstrip(".")
    return CliError(message[:1].lower() + message[1:], where=path, hint=f"{path} --help", code=exits.USAGE)


@click.group(cls=Crossfade, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@server
@no_color
@click.version_option(package_name="crossfade", message="crossfade %(version)s")
@click.pass_context
def crossfade(context: click.Context) -> None:
    """Move live traffic from one model version to the next, and back the moment the evidence says so.

    Data goes to stdout, all else to stderr. Exit codes: 0 yes or done, 1 a negative answer, 2 wrong usage, 3 server not reachable or not
    allowed. CROSSFADE_SERVER names the server, as --server does.
    """
    settings = globals_of(context)
    settings.server = settings.server or os.environ.get("CROSSFADE_SERVER") or None
