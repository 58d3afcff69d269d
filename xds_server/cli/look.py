"""Looking back and around: `why`, `history`, `proxies`."""

from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import quote

import click

from xds_server.cli import write
from xds_server.cli.act import segment
from xds_server.cli.client import Client
from xds_server.cli.options import globals_of, no_color, output, server
from xds_server.cli.write import clean, clock, items, number, percent, text
from xds_server.services.control import JsonObject

LAST_MAX: Final = 1000


def _history(context: click.Context, rollout: str, last: int) -> list[JsonObject]:
    with Client(globals_of(context).address) as client:
        return items(client.get(f"/v1/rollouts/{segment(rollout)}/history?last={last}").get("history"))


@click.command()
@click.argument("rollout")
@click.option("--last", type=click.IntRange(1, LAST_MAX), default=1, show_default=True, metavar="N", help="How many decisions.")
@output
@server
@no_color
@click.pass_context
def why(context: click.Context, rollout: str, last: int, form: str) -> None:
    """Tell the last decisions with their numbers."""
    records = _history(context, rollout, last)
    if form != "table":
        write.document(list(records), form)
        return
    if not records:
        click.echo("nothing was decided yet")
    for place, record in enumerate(records):
        if place:
            click.echo()
        click.echo("\n".join(_told(record)))


def _told(record: JsonObject) -> list[str]:
    where = f" in {text(record.get('step'))}" if record.get("step") else ""
    lines = [
        f"{clock(record.get('at'))}  {text(record.get('decision'))}{where}, by {clean(text(record.get('actor')))}",
        f"  {clean(text(record.get('because')))}",
    ]
    shares = write.part(record, "shares")
    if len(shares) > 1:
        lines.append("  shares: " + ", ".join(f"{clean(arm)} {percent(share)}" for arm, share in shares.items()))
    facts = write.part(record, "facts")
    width = max(map(len, facts), default=0)
    return lines + [f"    {clean(name).ljust(width)}  {clean(text(value))}" for name, value in facts.items()]


@click.command()
@click.argument("rollout")
@click.option("--last", type=click.IntRange(1, LAST_MAX), default=20, show_default=True, metavar="N", help="How many decisions.")
@output
@server
@no_color
@click.pass_context
def history(context: click.Context, rollout: str, last: int, form: str) -> None:
    """List the decisions of a rollout, oldest first."""
    records = _history(context, rollout, last)
    if form != "table":
        write.document(list(records), form)
        return
    head = ("TIME (UTC)", "RELEASE", "DECISION", "STEP", "SHARE", "BY", "BECAUSE")
    rows = [
        (
            clock(record.get("at")),
            text(record.get("generation")),
            text(record.get("decision")),
            text(record.get("step")),
            _shares(record),
            text(record.get("actor")),
            text(record.get("because")),
        )
        for record in records
    ]
    click.echo("\n".join(write.columns(head, rows)))


def _shares(record: JsonObject) -> str:
    """The arms' share, each with its name where there are several."""
    shares = {arm: share for arm, share in write.part(record, "shares").items() if number(share)}
    if len(shares) < 2:
        return percent(record.get("share"))
    return " ".join(f"{arm} {percent(share)}" for arm, share in shares.items())


@click.command()
@click.argument("node", required=False)
@output
@server
@no_color
@click.pass_context
def proxies(context: click.Context, node: str | None, form: str) -> None:
    """List every connected Envoy.

    What it was sent, what it accepted and when, and its own words on what it rejects. NODE is the id of one, or a pattern such as 'edge-*': then every type has a line with its versions.

    SYNC: NOT_SENT nothing was sent; SYNCED it accepted the newest; STALE it has not answered yet; ERROR it rejects something, or was turned away.
    """
    with Client(globals_of(context).address) as client:
        found = items(client.get("/v1/proxies" if node is None else f"/v1/proxies?node={quote(node, safe='')}").get("proxies"))
    if node is not None:  # an older server sends all
        found = [row for row in found if fnmatchcase(text(row.get("node")), node)]
    if form != "table":
        write.document(list(found), form)
        return
    if not found:
        click.echo("no proxy is connected" if node is None else f"no proxy {node!r} is connected", err=True)
        return
    for line in (_listed(found) if node is None else _detailed(found)) + _words(found):
        click.echo(line)


def _listed(found: list[JsonObject]) -> list[str]:
    """A line per stream."""
    head = ("NODE", "CLUSTER", "GROUP", "VERSION", "XDS", "LEASE", "SYNC", "LAST ACK", "TYPES")
    rows = [
        (
            text(row.get("node")),
            text(row.get("cluster")),
            text(row.get("group")),
            text(row.get("version")),
            text(row.get("variant")),
            "yes" if row.get("leased") else "no",
            text(row.get("sync")),
            write.age(min((age for kind in items(row.get("types")) if (age := number(kind.get("acked_age_s"))) is not None), default=None)),
            " ".join(f"{text(kind.get('type'))}:{text(kind.get('sync'))}" for kind in items(row.get("types"))) or "-",
        )
        for row in found
    ]
    return write.columns(head, rows)


def _detailed(found: list[JsonObject]) -> list[str]:
    """A line per stream and type."""
    head = ("NODE", "STREAM", "TYPE", "SYNC", "SENT", "ACKED", "LAST ACK")
    rows = [
        (
            text(row.get("node")),
            text(row.get("service")),
            text(kind.get("type")),
            text(kind.get("sync")),
            text(kind.get("sent")),
            text(kind.get("acked")),
            write.age(kind.get("acked_age_s")),
        )
        for row in found
        for kind in items(row.get("types"))
    ]
    return write.columns(head, rows) if rows else []


def _words(found: list[JsonObject]) -> list[str]:
    """What proxies say about what they reject, and what those that were turned away were told."""
    lines = []
    for row in found:
        node = clean(text(row.get("node")))
        if row.get("refused"):
            times = number(row.get("times")) or 1
            often = f" {times:.0f} times" if times > 1 else ""
            lines.append(f"{node} was turned away{often}: {clean(text(row.get('refused')))}")
        lines += [
            f"{node} rejects {text(kind.get('type'))} {text(kind.get('sent'))}: {clean(text(kind.get('words')))}"
            for kind in items(row.get("types"))
            if kind.get("words")
        ]
    return lines
