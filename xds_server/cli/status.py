"""`crossfade status`: now, redrawn at every change (`--watch`), or until an end comes (`--wait`)."""

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Self

import click

from xds_server.cli import exits, picture, write
from xds_server.cli.client import Client, NotReachedError
from xds_server.cli.exits import CliError
from xds_server.cli.options import Duration, Globals, globals_of, no_color, output, server
from xds_server.cli.write import items, part, text
from xds_server.services.control import PHASES, JsonObject

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

ENDS: Final = frozenset({"promoted", "reverted", "invalid"})
"""Phases a release ends in: one of them that was not waited for is a negative answer."""

AGAIN_S: Final = 0.5
"""Pause before a lost server is asked again [s]."""


@click.command()
@click.argument("rollout", required=False)
@click.option("--watch", is_flag=True, help="Redraw at every change until Ctrl-C.")
@click.option("--wait", metavar="PHASE,…", help="Wait for one of these phases: 0 when it came, 1 when the rollout ended otherwise.")
@click.option("--timeout", "timeout_s", type=Duration(), metavar="TIME", help="Longest wait, such as 30m; then 1.  [default: none]")
@output
@server
@no_color
@click.pass_context
def status(context: click.Context, *, rollout: str | None, watch: bool, wait: str | None, timeout_s: float | None, form: str) -> None:
    """Show where the rollouts stand.

    Shares, steps and what they still wait for, gates with their evidence, leases, proxies, and the reason in one sentence. An end that is already there when --wait starts counts.
    """
    settings = globals_of(context)
    if timeout_s is not None and wait is None:
        raise click.UsageError("--timeout needs --wait")
    if wait is not None:
        context.exit(_wait(settings, rollout, _phases(wait), timeout_s, show=_Show(form, settings, redraw=watch)))
    if watch:
        _watch(settings, rollout, _Show(form, settings, redraw=True))
        return
    with Client(settings.address) as client:
        _Show(form, settings, redraw=False).last(_only(client.get("/v1/rollouts"), rollout))


def _phases(text: str) -> frozenset[str]:
    wanted = frozenset(filter(None, (word.strip() for word in text.split(","))))
    unknown = sorted(wanted - set(PHASES))
    if unknown or not wanted:
        raise CliError(
            f"{', '.join(unknown) or 'nothing'} is no phase", where="--wait", hint=f"one or more of {', '.join(PHASES)}", code=exits.USAGE
        )
    return wanted


def _only(found: JsonObject, rollout: str | None) -> JsonObject:
    """The status of one rollout, in the form of all. Raises: CliError: If there is none of that name."""
    if rollout is None:
        return found
    known = items(found.get("rollouts"))
    one = [each for each in known if each.get("name") == rollout]
    if not one:
        names = ", ".join(text(each.get("name")) for each in known) or "none"
        raise CliError(f"there is no rollout {rollout!r}", hint=f"there are: {names}", code=exits.USAGE)
    return {**found, "rollouts": list(one)}


class _Show:
    """Writes states to stdout: each as one JSON line, YAML document or text; on a terminal over the one before."""

    def __init__(self, form: str, settings: Globals, *, redraw: bool) -> None:
        self._form = form
        self._redraw = redraw
        self._framed = form == "table" and write.on_terminal()
        self._color = settings.color
        self._shown = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._framed and self._redraw:
            from rich.live import Live  # noqa: PLC0415 - loaded when used

            self._live = Live(console=self._console(), auto_refresh=False, vertical_overflow="visible")
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def next(self, state: JsonObject) -> None:
        """One of several states."""
        if not self._redraw:
            return
        pictures, errors = _pictures(state)
        if self._live is not None:
            self._live.update(picture.rich(pictures, errors), refresh=True)
            return
        drawn = json.dumps(state, ensure_ascii=False) if self._form == "json" else picture.plain(pictures, errors)
        if drawn == self._shown:
            return
        self._shown = drawn
        if self._form == "yaml":
            click.echo("---")
            write.document(state, "yaml")
        else:
            click.echo(drawn if self._form == "json" else f"{drawn}\n")

    def last(self, state: JsonObject) -> None:
        """The only state, or the last one."""
        if self._redraw:
            self.next(state)
        elif self._form != "table":
            write.document(state, self._form)
        elif self._framed:
            self._console().print(picture.rich(*_pictures(state)))
        else:
            click.echo(picture.plain(*_pictures(state)))

    def _console(self) -> "Console":
        from rich.console import Console  # noqa: PLC0415 - loaded when used

        return Console(no_color=not self._color, highlight=False)


def _pictures(state: JsonObject) -> tuple[list[picture.Picture], list[JsonObject]]:
    return [picture.picture(each) for each in items(state.get("rollouts"))], items(state.get("policy_errors"))


def _states(settings: Globals, rollout: str | None, remaining_s: Callable[[], float]) -> Iterator[JsonObject]:
    """The state now and after every change; a server that goes away is asked again, one that was never there is an error."""
    reached = False
    while remaining_s() > 0:
        try:
            with Client(settings.address) as client:
                for found in client.watch(remaining_s):
                    reached = True
                    yield _only(found, rollout)
        except NotReachedError as error:
            if not reached:
                raise
            click.echo(f"{error.what}: trying again", err=True)
            time.sleep(max(0.0, min(AGAIN_S, remaining_s())))


def _watch(settings: Globals, rollout: str | None, show: _Show) -> None:
    with show:
        for state in _states(settings, rollout, lambda: math.inf):
            show.next(state)


def _wait(settings: Globals, rollout: str | None, wanted: frozenset[str], timeout_s: float | None, show: _Show) -> int:
    """Returns: The exit code."""
    until = math.inf if timeout_s is None else time.monotonic() + timeout_s
    said = phase = ""
    with show:
        for state in _states(settings, rollout, lambda: until - time.monotonic()):
            waited = _one(state)
            phase = text(waited.get("phase"))
            words = f"{text(waited.get('name'))} {phase} {text(part(waited, 'step').get('label'), '')}".rstrip()
            if words != said:
                click.echo(words, err=True)
                said = words
            show.next(state)
            if phase in wanted or phase in ENDS:
                show.last(state)
                return exits.DONE if phase in wanted else exits.NO
    raise CliError(
        f"it is {phase} after {timeout_s or 0:g} s",
        where=f"waited for {', '.join(sorted(wanted))}",
        hint="crossfade status says what is missing",
    )


def _one(state: JsonObject) -> JsonObject:
    """The rollout that is waited for."""
    found = items(state.get("rollouts"))
    if len(found) != 1:
        names = ", ".join(text(each.get("name")) for each in found) or "none"
        raise CliError(
            f"--wait needs to know which rollout; there are: {names}", hint="crossfade status ROLLOUT --wait …", code=exits.USAGE
        )
    return found[0]
