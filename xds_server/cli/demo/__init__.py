"""`crossfade demo`: the main job on this machine, with a real Envoy, real language models and a bounded load.

`scenarios` says what is played, `backstage` brings the processes up and down (`children`, `model_server`, `load`), `story` tells what
happens and checks the outcome in the traffic itself. Nothing here is imported by the server.
"""


def run(scenario: str | None, keep: bool, port: int | None) -> int:
    """Plays a scenario to its end.

    Args:
        scenario: A name of `scenarios.NAMES`; None = a good version, then one that starts to fail.
        keep: Leave all running after the end until Ctrl-C.
        port: Port of the API; None = 18080.
    Returns: 0 = the outcome was seen in the traffic; 1 = it was not, or the demo could not run; 2 = not a scenario; 130 = interrupted.
    """
    from xds_server.cli.demo.main import play  # noqa: PLC0415  the command line starts without it

    return play(scenario, keep, port)
