"""`crossfade serve`: reads the settings once, hands them down, and says what hindered a start."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xds_server.cli import exits
from xds_server.cli.exits import CliError
from xds_server.config import SETTINGS, ConfigError, ServeConfig, read_config

if TYPE_CHECKING:
    from xds_server.errors import ServerError


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per row of the table."""
    for setting in reversed(SETTINGS):
        default = "required" if setting.default is None else f"default: {setting.default or 'none'}"
        option = click.option(
            setting.flag,
            setting.name,
            metavar=setting.form,
            help=f"{setting.help}  [{default}; {setting.variable}]",
        )
        command = option(command)
    return command


@click.command()
@_settings
@click.pass_context
def serve(context: click.Context, /, **given: str | None) -> None:
    """Run the control plane until SIGTERM or Ctrl-C."""
    values = {
        setting.name: given[setting.name] if given[setting.name] is not None else os.environ.get(setting.variable) for setting in SETTINGS
    }
    try:
        config = replace(read_config(values), webhook_secret=_webhook_secret(values["webhook_secret_file"]))
    except ConfigError as error:
        raise CliError(error.message, where=error.where, hint=error.hint, code=exits.USAGE) from None

    from xds_server.errors import ServerError  # noqa: PLC0415 - with the whole server behind it
    from xds_server.runtime import run  # noqa: PLC0415 - loaded when used

    try:
        code = run(config)
    except (ServerError, BaseExceptionGroup) as raised:
        first = _first(raised)
        if not isinstance(first, ServerError):
            raise
        raise explained(first, config) from None
    context.exit(code)


def _webhook_secret(file: str | None) -> bytes:
    """The secret without the line end that editors add. Raises: ConfigError."""
    if not file:
        return os.environb.get(b"CROSSFADE_WEBHOOK_SECRET", b"").strip()
    where = "--webhook-secret-file (or CROSSFADE_WEBHOOK_SECRET_FILE)"
    try:
        secret = Path(file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"cannot read {file}: {(error.strerror or str(error)).lower()}", where=where, hint="name a readable file"
        ) from None
    if not secret:
        raise ConfigError(f"{file} is empty", where=where, hint="openssl rand -hex 32 makes a secret")
    return secret


def explained(error: "ServerError", config: ServeConfig) -> CliError:
    """What hindered the start, in the house form."""
    from xds_server.errors import ListenError, SourceError, StoreError  # noqa: PLC0415 - loaded when used

    what, _, hint = str(error).partition("; hint: ")
    match error:
        case ListenError():
            return CliError(what, where="--xds, --api or --api-grpc", hint=hint, code=exits.NOT_REACHED)
        case SourceError():
            return CliError(what, where=f"--policies {config.policies}", hint=error.hint or hint, code=exits.USAGE)
        case StoreError():
            return CliError(what, where=f"--store {config.store}", hint=error.hint or hint, code=exits.NOT_REACHED)
        case _:
            return CliError(what, where="crossfade serve", hint=hint, code=exits.NOT_REACHED)


def _first(raised: BaseException) -> BaseException:
    """The first error of a group of groups: several tasks may have ended at once."""
    while isinstance(raised, BaseExceptionGroup):
        raised = raised.exceptions[0]
    return raised
