"""The verbs that change something: `abort`, `promote`, `pause`, `resume`. Each prints the decision it caused."""

import getpass
import uuid

import click

from xds_server.cli import exits, write
from xds_server.cli.client import Client
from xds_server.cli.exits import CliError
from xds_server.cli.options import globals_of, no_color, output, server
from xds_server.services.control import NAME, NAME_HINT, JsonObject


def _verb(verb: str, text: str) -> click.Command:
    @click.command(name=verb, help=text)
    @click.argument("rollout")
    @click.option("--reason", metavar="TEXT", default="", help="Why; kept in the decision record.")
    @click.option("--dry-run", is_flag=True, help="Only say what would be decided now.")
    @click.option(
        "--idempotency-key", metavar="KEY", default="", help="Acts with the key of an earlier one change nothing.  [default: a new key]"
    )
    @output
    @server
    @no_color
    @click.pass_context
    def act(context: click.Context, *, rollout: str, reason: str, dry_run: bool, idempotency_key: str, form: str) -> None:
        body: JsonObject = {
            "reason": reason,
            "actor": actor(),
            "idempotency_key": idempotency_key or uuid.uuid4().hex,
            "dry_run": dry_run,
        }
        with Client(globals_of(context).address) as client:
            record = client.post(f"/v1/rollouts/{segment(rollout)}:{verb}", body)
        if form != "table":
            write.document(record, form)
            return
        said = write.clean(write.text(record.get("because")))
        decision = write.text(record.get("decision"))
        click.echo(f"{'would be decided' if dry_run else 'nothing new' if decision == 'none' else decision}: {said}")

    return act


def segment(name: str) -> str:
    """A rollout's name as a segment of a URL. Raises: CliError: If it cannot be one."""
    if not NAME.match(name):
        raise CliError(f"{name!r} is not a rollout name", hint=NAME_HINT, code=exits.USAGE)
    return name


def actor() -> str:
    """Who acts, as this machine knows them."""
    try:
        return write.clean(getpass.getuser())[:200]
    except (KeyError, OSError, ImportError):
        return "someone"


abort = _verb("abort", "Send all traffic to stable, now. Asks for no metrics and no approval.")
promote = _verb("promote", "Make the candidate stable, without its remaining steps.")
pause = _verb("pause", "Stay at the share of now until resumed; guardrails stay on.")
resume = _verb("resume", "Go on after a pause.")
