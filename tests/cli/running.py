"""Runs a command line as a person would, in process, and gives what came out."""

from dataclasses import dataclass

from click.testing import CliRunner

from xds_server.cli.app import crossfade


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def run(*arguments, stdin=None) -> Ran:
    result = CliRunner().invoke(crossfade, [str(argument) for argument in arguments], input=stdin, prog_name="crossfade")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)
