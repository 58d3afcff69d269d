"""The verbs that change something, from `start` to `unfreeze`. Each prints the decision it caused."""

import getpass
import uuid
from collections.abc import Callable
from typing import Any

import click

from xds_server.cli import exits, write
from xds_server.cli.client import Client
from xds_server.cli.exits import CliError
from xds_server.cli.options import globals_of, no_color, output, server
from xds_server.services.control import NAME, NAME_HINT, JsonObject

Decorated = Callable[..., Any]


def _common(command: Decorated) -> Decorated:
    """The options that every verb has."""
    for decorate in (
        click.pass_context,
        no_color,
        server,
        output,
        click.option(
            "--idempotency-key", metavar="KEY", default="", help="Acts with the key of an earlier one change nothing.  [default: a new key]"
        ),
        click.option("--dry-run", is_flag=True, help="Only say what would be decided now."),
        click.option("--reason", metavar="TEXT", default="", help="Why; kept in the decision record."),
    ):
        command = decorate(command)
    return command


def _verb(verb: str, text: str, to: Callable[[Decorated], Decorated] | None = None) -> click.Command:
    """One verb for one rollout; `to` is the option that says where to."""

    @_common
    def act(context: click.Context, *, rollout: str, form: str, to: str = "", **said: Any) -> None:
        with Client(globals_of(context).address) as client:
            record = client.post(f"/v1/rollouts/{segment(rollout)}:{verb}", {**_body(**said), "to": to})
        if form != "table":
            write.document(record, form)
        else:
            click.echo(told(record, dry_run=said["dry_run"]))

    command = to(act) if to is not None else act
    return click.command(name=verb, help=text)(click.argument("rollout")(command))


def _verb_of_all(verb: str, text: str) -> click.Command:
    """A verb for one rollout, or with `--all` for each."""

    @_common
    def act(context: click.Context, *, rollout: str | None, everything: bool, form: str, **said: Any) -> None:
        if everything == (rollout is not None):
            raise click.UsageError("name a rollout, or say --all")
        with Client(globals_of(context).address) as client:
            if rollout is not None:
                answer = client.post(f"/v1/rollouts/{segment(rollout)}:{verb}", _body(**said))
                acts: list[JsonObject] = [{"rollout": rollout, "record": answer}]
            else:
                answer = client.post(f"/v1/rollouts:{verb}", _body(**said))
                acts = write.items(answer.get("acts"))
        if form != "table":
            write.document(answer, form)
        elif rollout is not None:
            click.echo(told(answer, dry_run=said["dry_run"]))
        else:
            for each in acts:
                words = told(write.part(each, "record"), dry_run=said["dry_run"]) if each.get("record") else _refusal(each)
                click.echo(f"{write.clean(write.text(each.get('rollout')))}: {words}")
        failed = [code for each in acts if (code := write.part(each, "error").get("code")) not in {None, "refused"}]
        context.exit(exits.NOT_REACHED if failed else exits.DONE)

    everything = click.option("--all", "everything", is_flag=True, help="Every rollout the server has; one that refuses stops no other.")
    return click.command(name=verb, help=text)(click.argument("rollout", required=False)(everything(act)))


def _body(*, reason: str, dry_run: bool, idempotency_key: str) -> JsonObject:
    return {"reason": reason, "actor": actor(), "idempotency_key": idempotency_key or uuid.uuid4().hex, "dry_run": dry_run}


def told(record: JsonObject, *, dry_run: bool) -> str:
    """A decision in one line."""
    decision = write.text(record.get("decision"))
    head = "would be decided" if dry_run else "nothing new" if decision == "none" else decision
    return f"{head}: {write.clean(write.text(record.get('because')))}"


def _refusal(act: JsonObject) -> str:
    return f"not done: {write.clean(write.text(write.part(act, 'error').get('message')))}"


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


_ARM = click.option("--variant", "to", metavar="NAME", default="", help="Which one, where there are several.  [default: the one that won]")
_VERSION = click.option(
    "--to", metavar="VERSION", default="", help="A version that was stable once (status -o json lists them).  [default: the one before]"
)

start = _verb("start", "Begin a release of what the policy asks for, also after it was reverted.")
advance = _verb("advance", "Go on to the next step, whatever this one still waits for. Skips no approval.")
promote = _verb("promote", "Make an arm stable, without its remaining steps.", _ARM)
abort = _verb("abort", "Send all traffic to stable, now. Asks for no metrics and no approval.")
pause = _verb("pause", "Stay at the share of now until resumed; guardrails stay on.")
resume = _verb("resume", "Go on after a pause.")
retry = _verb("retry", "Begin the step of now anew, or a reverted release from its first step.")
approve = _verb("approve", "Say yes where a step waits for a person.")
rollback = _verb("rollback", "Back to the version before, or to any that was stable once. Asks for no metrics and no approval.", _VERSION)
freeze = _verb_of_all("freeze", "Let no share grow until unfrozen. Reverts always go.")
unfreeze = _verb_of_all("unfreeze", "Lift a freeze by hand or by a gate; a window of the policy ends by itself.")
