"""The `crossfade` command. `app` has the commands, `exits` the errors and exit codes; what is heavy is imported by the command that needs it."""

from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line (default: this process's) and exits with its code."""
    from xds_server.cli.app import crossfade  # noqa: PLC0415 - importing the package stays free

    crossfade.main(args=arguments, prog_name="crossfade")
    raise AssertionError
