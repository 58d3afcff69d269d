"""`crossfade demo`."""

import click

from xds_server.cli.options import no_color


@click.command()
@click.option("--scenario", metavar="NAME", help="good, errors, slow or crash.  [default: good, then errors]")
@click.option("--keep", is_flag=True, help="Leave all running at the end until Ctrl-C.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Port of the API.  [default: 18080]")
@no_color
@click.pass_context
def demo(context: click.Context, scenario: str | None, keep: bool, port: int | None) -> None:
    """Play a rollout on this machine.

    A real Envoy, real language models, a bounded load.
    """
    from xds_server.cli.demo import run  # noqa: PLC0415 - loaded when used

    context.exit(run(scenario, keep, port))
