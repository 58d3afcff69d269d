"""The verbs that are about files: `validate`, `schema`, `render`, `bootstrap`, `diff`; only the last needs a running server."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from xds_server.cli import exits, write
from xds_server.cli.client import Client
from xds_server.cli.exits import CliError
from xds_server.cli.options import Share, globals_of, no_color, output, server
from xds_server.cli.policy_files import directory, good, is_document, read
from xds_server.config import ConfigError, address
from xds_server.services.control import JsonObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.lanes import Lane
    from policies.spec.policy import RolloutPolicy
    from policies.traffic import Traffic

KINDS: Final = ("Rollout", "Proxies", "GateBundle")
ADMIN_PORT: Final = 9901


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@output
@no_color
@click.pass_context
def validate(context: click.Context, *, paths: tuple[str, ...], form: str) -> None:
    """Tell all errors of policy files at once.

    Exits 0 when there is none, 1 else. PATH is a file, a directory (searched for *.yaml and *.yml) or - for stdin. The files are judged together: a rollout's Proxies must be among
    them.
    """
    from xds_server.adapters.policy_files import load  # noqa: PLC0415 - loaded when used
    from xds_server.cli.picture import faults  # noqa: PLC0415 - loaded when used
    from xds_server.cli.policy_files import as_json  # noqa: PLC0415 - loaded when used

    texts = read(paths)
    loaded = load(texts)
    errors: list[JsonObject] = [as_json(error) for error in loaded.errors]
    if form != "table":
        write.document(list(errors), form)
    elif errors:
        click.echo("\n".join(faults(errors)))
    if form == "table":
        for line in faults([as_json(warning) for warning in loaded.warnings]):
            click.echo(f"warning: {line}" if not line.startswith(" ") else line, err=True)
        count = sum(is_document(name) or name in {"<stdin>", *paths} for name in texts)
        files = f"{count} file{'' if count == 1 else 's'}"
        counts = zip(KINDS, (loaded.rollouts, loaded.proxies, loaded.bundles), strict=True)
        found = ", ".join(f"{len(documents)} {kind}" for kind, documents in counts if documents or kind != "GateBundle")
        click.echo(f"{len(errors)} error{'' if len(errors) == 1 else 's'} in {files}" if errors else f"{files} good: {found}", err=True)
    context.exit(exits.NO if errors else exits.DONE)


@click.command()
@click.argument("kind", required=False, type=click.Choice(KINDS, case_sensitive=False))
@no_color
def schema(kind: str | None) -> None:
    """Print the JSON Schema of the policy file.

    Whole, or of one kind of document.
    """
    from policies.spec import schema as source  # noqa: PLC0415 - loaded when used

    click.echo(json.dumps(source.schema(kind), indent=2, ensure_ascii=False))


@click.command()
@click.argument("path")
@click.option("--rollout", metavar="NAME", help="Only this rollout.  [default: all]")
@click.option("--step", type=click.IntRange(1), metavar="N", help="As in this step; each share of a canary counts as one.")
@click.option(
    "--shares", type=Share(), multiple=True, metavar="VARIANT=SHARE", help="With this share, such as candidate=10%.  [default: share 0]"
)
@click.option("--to", "target", type=click.Choice(("envoy", "istio", "gateway")), default="envoy", show_default=True, help="For whom.")
@click.option("--no-lease", is_flag=True, help="As sent to proxies without our runtime layers: shares stand in the routes.")
@click.option("-o", "--output", "form", type=click.Choice(("yaml", "json")), default="yaml", show_default=True, help="Form of the output.")
@no_color
def render(
    *, path: str, rollout: str | None, step: int | None, shares: tuple[tuple[str, int], ...], target: str, no_lease: bool, form: str
) -> None:
    """Print the resources that would be sent.

    By group of proxies, type and name.
    """
    if target != "envoy":
        raise CliError(f"--to {target} is not supported yet", hint="--to envoy", code=exits.USAGE)
    if step is not None and shares:
        raise click.UsageError("--step and --shares exclude each other")
    from xds_server.cli.envoy_text import world  # noqa: PLC0415 - loaded when used

    loaded = good((path,))
    chosen = [policy for policy in loaded.rollouts if rollout in {None, policy.name}]
    if rollout is not None and not chosen:
        names = ", ".join(policy.name for policy in loaded.rollouts) or "none"
        raise CliError(f"there is no rollout {rollout!r} in {path}", hint=f"there are: {names}", code=exits.USAGE)
    lanes = _lanes(loaded.rollouts)
    wishes = [_wish(policy, step, dict(shares), lanes[policy.name]) for policy in chosen]
    document: JsonObject = {}
    for group in loaded.proxies:
        mine = [wish for wish in wishes if wish.where.proxies == group.name]
        if mine or rollout is None:
            document[group.name] = world(group, mine, leased=not no_lease)
    write.document(document, form)


def _lanes(policies: "Sequence[RolloutPolicy]") -> "dict[str, Lane]":
    """Which users each rollout draws from, as on a server that starts with these files."""
    from policies.lanes import WHOLE, allocate  # noqa: PLC0415 - loaded when used
    from policies.steps import reserves  # noqa: PLC0415 - loaded when used

    lanes = {policy.name: WHOLE for policy in policies}
    for layer in {policy.assignment.layer for policy in policies} - {""}:
        wanted = {policy.name: sum(reserves(policy).values()) for policy in policies if policy.assignment.layer == layer}
        lanes |= allocate(wanted, {})
    return lanes


def _wish(policy: "RolloutPolicy", step: int | None, shares: dict[str, int], lane: "Lane") -> "Traffic":
    """What the proxies would be asked for."""
    from policies.lanes import WHOLE  # noqa: PLC0415 - loaded when used
    from policies.spec.policy import FULL_BP  # noqa: PLC0415 - loaded when used
    from policies.steps import reserves, stages  # noqa: PLC0415 - loaded when used
    from policies.traffic import Arm, Traffic  # noqa: PLC0415 - loaded when used

    known = {arm.name for arm in policy.arms}
    if unknown := sorted(shares.keys() - known):
        hint = f"there is: {', '.join(sorted(known))}" if known else "the rollout has no candidate"
        raise CliError(
            f"{policy.name} has no variant {unknown[0]!r} that can be given a share", where="--shares", hint=hint, code=exits.USAGE
        )
    if sum(shares.values()) > FULL_BP:
        raise CliError("the shares are more than 100 % together", where="--shares", hint="leave something for stable", code=exits.USAGE)
    shadows: dict[str, int] = {}
    users = bool(shares)
    if step is not None:
        flat = stages(policy)
        if step > len(flat):
            raise CliError(f"{policy.name} has {len(flat)} steps, not {step}", where="--step", code=exits.USAGE)
        at = flat[step - 1]
        shares, shadows, users = dict(at.shares), dict(at.shadows), at.users
    homes = reserves(policy)
    if any(share > homes.get(name, 0) for name, share in shares.items()):
        homes, lane = shares, WHOLE
    named = {segment.variant for segment in policy.assignment.segments}
    return Traffic(
        rollout=policy.name,
        publication=1,
        generation=1,
        where=policy.traffic,
        assignment=policy.assignment,
        lease=policy.lease,
        stable=policy.stable,
        lane=lane,
        arms=tuple(
            Arm(
                variant=arm,
                share_bp=shares.get(arm.name, 0),
                shadow_bp=shadows.get(arm.name, 0),
                reserve_bp=homes.get(arm.name, 0),
                pinned=users and arm.name in named,
            )
            for arm in policy.arms
        ),
    )


@click.command()
@click.option("--proxies", "name", required=True, metavar="NAME", help="The group: `metadata.name` of a Proxies document.")
@click.option("--node-id", metavar="ID", help="What this Envoy calls itself.  [default: NAME-1]")
@click.option("--xds", default="127.0.0.1:18000", show_default=True, metavar="HOST:PORT", help="Where `crossfade serve --xds` is reached.")
@click.option("--policies", "path", metavar="PATH", help="Policy files that have the document.  [default: ask the server]")
@click.option("-o", "--output", "form", type=click.Choice(("yaml", "json")), default="yaml", show_default=True, help="Form of the output.")
@server
@no_color
@click.pass_context
def bootstrap(context: click.Context, *, name: str, node_id: str | None, xds: str, path: str | None, form: str) -> None:
    """Print a ready Envoy bootstrap for a group.

    An Envoy started with it is one of the group's proxies.
    """
    try:
        where = address(xds, where="--xds")
    except ConfigError as error:
        raise CliError(error.message, where=error.where, hint=error.hint, code=exits.USAGE) from None
    groups = _groups_of_files(path) if path is not None else _groups_of_server(globals_of(context).address)
    group = groups.get(name)
    if group is None:
        known = ", ".join(sorted(groups)) or "none"
        raise CliError(f"there are no Proxies {name!r}", where=path or "on the server", hint=f"there are: {known}", code=exits.USAGE)
    from xds_server.cli.envoy_text import bootstrap_document  # noqa: PLC0415 - loaded when used

    write.document(bootstrap_document(group, name=name, node_id=node_id, xds=where, admin_port=ADMIN_PORT), form)


def _groups_of_files(path: str) -> dict[str, JsonObject]:
    return {
        group.name: {"cluster": group.select.cluster, "node_id": group.select.node_id, "metadata": dict(group.select.metadata)}
        for group in good((path,)).proxies
    }


def _groups_of_server(url: str) -> dict[str, JsonObject]:
    with Client(url) as client:
        groups = write.items(client.get("/v1/proxies").get("groups"))
    return {write.text(group.get("name")): write.part(group, "select") for group in groups}


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@output
@server
@no_color
@click.pass_context
def diff(context: click.Context, *, paths: tuple[str, ...], form: str) -> None:
    """Tell what applying policy files would change.

    On the running server. Exits 0 when nothing would change, 1 when something would. One directory is taken for all there will be: documents
    that are not in it would be gone. Single files are compared with the documents of the same names.
    """
    whole = len(paths) == 1 and Path(paths[0]).is_dir()
    good(paths, code=exits.USAGE)
    texts = directory(paths[0]) if whole else {_document_name(name): text for name, text in read(paths).items()}
    files: JsonObject = {name: text.decode("utf-8", "replace") for name, text in texts.items()}
    with Client(globals_of(context).address) as client:
        answer = client.post("/v1/policies:diff", {"files": files, "whole": whole})
    changes, errors = write.items(answer.get("changes")), write.items(answer.get("errors"))
    changed = [row for row in changes if row.get("effect") != "unchanged"]
    if form != "table":
        write.document({"changes": list(changes), "errors": list(errors)}, form)
    else:
        for line in difference(changed):
            click.echo(line)
        for error in errors:
            place = f"{write.text(error.get('file'))}:{write.text(error.get('line'))}"
            click.echo(write.clean(f"not taken over: {place}: {write.text(error.get('message'))}"), err=True)
    click.echo(f"{len(changed)} of {len(changes)} documents would change", err=True)
    context.exit(exits.NO if changed or errors else exits.DONE)


def _document_name(name: str) -> str:
    """Standard input has no file name, and without one it is no policy file."""
    return "stdin.yaml" if name == "<stdin>" else name


def difference(changes: list[JsonObject]) -> list[str]:
    """One line for each document that changes, and one below it for each value."""
    told: list[str] = []
    names = [f"{write.text(each.get('kind'))} {write.text(each.get('name'))}" for each in changes]
    width = max(map(len, names), default=0)
    for each, name in zip(changes, names, strict=True):
        words = write.text(each.get("words"), "")
        told.append(write.clean(f"{name:<{width}}  {write.text(each.get('effect'))}{': ' if words else ''}{words}"))
        for field in write.items(each.get("fields")):
            old, new = write.text(field.get("old"), "(none)"), write.text(field.get("new"), "(none)")
            told.append(write.clean(f"    {write.text(field.get('path'))}: {old} -> {new}"))
    return told
