"""`crossfade assign`: which variant a user gets, now and in the steps to come, without asking a proxy.

The rules come from policy files, or from the server as they are now; each user is looked up here, by `policies.assign`.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import click

from xds_server.cli import exits, write
from xds_server.cli.act import segment
from xds_server.cli.client import Client
from xds_server.cli.exits import CliError
from xds_server.cli.options import Share, globals_of, no_color, output, server
from xds_server.services.control import Json, JsonObject

if TYPE_CHECKING:
    from policies.assign import Answer, Layout, Placement
    from policies.lanes import Lane
    from policies.spec.policy import RolloutPolicy

KEY_MAX: Final = 64 * 1024
"""Longest key [bytes]; no proxy takes a longer header."""


@click.command()
@click.argument("rollout")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="VALUE",
    help="Value of the header or cookie that names the user; may be repeated.  [default: one a line from stdin]",
)
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of the request, for segments; may be repeated.")
@click.option("--policies", "path", metavar="PATH", help="Policy files that have the rollout.  [default: ask the server]")
@click.option(
    "--share",
    "shares",
    type=Share(),
    multiple=True,
    metavar="VARIANT=SHARE",
    help="With --policies: a share of now, such as candidate=10%.",
)
@click.option("--step", type=click.IntRange(1), metavar="N", help="With --policies: the step of now; each share of a canary counts as one.")
@output
@server
@no_color
@click.pass_context
def assign(
    context: click.Context,
    *,
    rollout: str,
    keys: tuple[str, ...],
    headers: tuple[str, ...],
    path: str | None,
    shares: tuple[tuple[str, int], ...],
    step: int | None,
    form: str,
) -> None:
    """Tell which variant a user gets.

    Now and in each step to come. Computed here, with the rules of the policy files or of the running server: as many users as you like.
    """
    if path is None and (shares or step is not None):
        raise click.UsageError("--share and --step need --policies")
    if shares and step is not None:
        raise click.UsageError("--share and --step exclude each other")
    sent = _headers(headers)
    name = segment(rollout)
    rules = _of_server(globals_of(context).address, name) if path is None else _of_files(path, name, dict(shares), step or 0)
    moments = (rules.now, *rules.steps)
    users = keys or (() if not rules.assignment.sticky and sent else _stdin())
    found = [(user, [_answer(rules, moment, user, sent) for moment in moments]) for user in map(_checked, users or ("",))]
    if form == "table":
        _table(rules, moments, found)
    else:
        write.document([_as_json(rules, moments, user, answers) for user, answers in found], form)


def _headers(given: Iterable[str]) -> dict[str, str]:
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            raise CliError(f"{each!r} is not a header", where="--header", hint="NAME=VALUE, such as x-staff=1", code=exits.USAGE)
        found[name.strip().lower()] = value.strip()
    return found


def _stdin() -> Iterator[str]:
    """Users as they come; a terminal is told what is waited for."""
    if sys.stdin.isatty():
        click.echo("one user a line, end with Ctrl-D", err=True)
    for line in sys.stdin:
        if user := line.strip():
            yield user


def _checked(user: str) -> str:
    try:
        size = len(user.encode())
    except UnicodeEncodeError:
        size = KEY_MAX + 1
    if size > KEY_MAX:
        raise CliError(f"{user[:40]!r}… cannot be the value of a header", where="--key", code=exits.USAGE)
    return user.strip(" \t")


# Where the rules come from.


def _of_server(address: str, rollout: str) -> "Placement":
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - loaded when used

    from policies.assign import Placement  # noqa: PLC0415 - loaded when used

    with Client(address) as client:
        answer = client.get(f"/v1/rollouts/{rollout}/assignment")
    try:
        return TypeAdapter(Placement).validate_python(answer)
    except ValidationError:
        raise CliError(
            "the server's rules are not those of this version",
            where=address,
            hint="use the crossfade of the server",
            code=exits.NOT_REACHED,
        ) from None


def _of_files(path: str, rollout: str, shares: dict[str, int], step: int) -> "Placement":
    from policies.assign import planned  # noqa: PLC0415 - loaded when used
    from policies.steps import stages  # noqa: PLC0415 - loaded when used
    from xds_server.cli.policy_files import good  # noqa: PLC0415 - loaded when used

    loaded = good((path,))
    policy = next((each for each in loaded.rollouts if each.name == rollout), None)
    if policy is None:
        names = ", ".join(each.name for each in loaded.rollouts) or "none"
        raise CliError(f"there is no rollout {rollout!r} in {path}", hint=f"there are: {names}", code=exits.USAGE)
    if step > len(stages(policy)):
        raise CliError(f"{rollout} has {len(stages(policy))} steps, not {step}", where="--step", code=exits.USAGE)
    arms = [arm.name for arm in policy.arms]
    if unknown := sorted(shares.keys() - set(arms)):
        raise CliError(
            f"{rollout} has no variant {unknown[0]!r} that can be given a share",
            where="--share",
            hint=f"there is: {', '.join(arms)}" if arms else "it has stable alone",
            code=exits.USAGE,
        )
    lane = _lane(policy, loaded.rollouts)
    if sum(shares.values()) > lane.width_bp:
        raise CliError(
            "the shares are more than there is", where="--share", hint=f"at most {lane.width_bp / 100:g}% in all", code=exits.USAGE
        )
    return planned(policy, lane=lane, shares=tuple(shares.items()), step=step)


def _lane(policy: "RolloutPolicy", rollouts: Iterable["RolloutPolicy"]) -> "Lane":
    """What a server that knows nothing but these files would give; one that runs keeps what it gave first."""
    from policies.lanes import WHOLE, Lane, allocate  # noqa: PLC0415 - loaded when used
    from policies.steps import reserves  # noqa: PLC0415 - loaded when used

    layer = policy.assignment.layer
    if not layer:
        return WHOLE
    click.echo(f"the lane in layer {layer} is what a new server would give; without --policies the running one is asked", err=True)
    wanted = {each.name: sum(reserves(each).values()) for each in rollouts if each.assignment.layer == layer}
    return allocate(wanted, {}).get(policy.name, Lane(start_bp=0, width_bp=0))


# What is told.


def _answer(rules: "Placement", moment: "Layout", user: str, headers: dict[str, str]) -> "Answer":
    import xxhash  # noqa: PLC0415 - loaded when used

    from policies import assign as policy  # noqa: PLC0415 - loaded when used
    from xds_server.resources.names import salted  # noqa: PLC0415 - loaded when used

    assignment = rules.assignment
    sticky = {assignment.sticky_header: user} if assignment.sticky_header is not None else {}
    number = xxhash.xxh64_intdigest(salted(user, rules.rollout, assignment).encode())
    return policy.answer(assignment, moment, number=number, headers={**headers, **sticky})


def _heading(moment: "Layout") -> str:
    return f"{moment.step} {moment.label}" if moment.step else moment.label


def _cell(answer: "Answer") -> str:
    if answer.ground == "drawn":
        return "any"
    return f"{answer.variant} ({answer.segment})" if answer.segment else answer.variant


def _table(rules: "Placement", moments: tuple["Layout", ...], found: list[tuple[str, list["Answer"]]]) -> None:
    head = ("USER", *(_heading(moment).upper() for moment in moments))
    click.echo("\n".join(write.columns(head, [(user or "-", *map(_cell, answers)) for user, answers in found])))
    if not rules.assignment.sticky:
        click.echo("users are not told apart: every request is drawn anew (spec.assignment.sticky)", err=True)


def _as_json(rules: "Placement", moments: tuple["Layout", ...], user: str, answers: list["Answer"]) -> JsonObject:
    versions = dict(rules.versions)
    told: list[Json] = []
    for moment, answer in zip(moments, answers, strict=True):
        variant = None if answer.ground == "drawn" else answer.variant
        told.append(
            {
                "step": moment.step or None,
                "label": moment.label,
                "variant": variant,
                "version": versions.get(variant) if variant else None,
                "by": answer.ground.value,
                "segment": answer.segment or None,
            }
        )
    return {"key": user, "rollout": rules.rollout, "assignments": told}
