"""`crossfade test`: a policy replayed through the real engine, thousands of times, before any user sees it.

Simulated traffic comes from scenario files (`policies.replay.documents`), a library of which is in the package; recorded traffic from
`crossfade record` or a Prometheus. Runs go in chunks, each with a seed of its own, so that the outcome does not depend on how many processes do it.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from xds_server.cli import exits, recorded, write
from xds_server.cli.exits import CliError
from xds_server.cli.options import globals_of, no_color, output

if TYPE_CHECKING:
    from policies.replay.blocks import Recording
    from policies.replay.judge import Summary
    from policies.replay.scenario import Scenario
    from policies.replay.simulate import Run
    from policies.spec.policy import RolloutPolicy

CHUNK: Final = 500
"""Runs that are replayed together."""

RUNS_MAX: Final = 1_000_000
SCENARIO_MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is replayed how often."""

    policy: "RolloutPolicy"
    runs: int
    seed: int
    jobs: int


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="POLICY…")
@click.option("--rollout", metavar="NAME", help="Which rollout of the files.  [default: the only one]")
@click.option(
    "--simulate",
    "scenarios",
    multiple=True,
    metavar="SCENARIO",
    help="A scenario of the library or a file of one's own; may be repeated.  [default: the library]",
)
@recorded.options
@click.option("--runs", type=click.IntRange(1, RUNS_MAX), default=200, show_default=True, help="Runs of each scenario.")
@click.option("--seed", type=click.IntRange(0, 2**63), default=1, show_default=True, help="The same seed gives the same runs.")
@click.option("--rps", type=click.FloatRange(0.001, 1e6), help="Requests per second at the highest point of every load curve.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes.  [default: one per processor]")
@click.option("--list", "listed", is_flag=True, help="List the library and end.")
@output
@no_color
@click.pass_context
def test(
    context: click.Context,
    /,
    *,
    paths: tuple[str, ...],
    rollout: str | None,
    scenarios: tuple[str, ...],
    runs: int,
    seed: int,
    rps: float | None,
    jobs: int | None,
    listed: bool,
    form: str,
    **past: Any,
) -> None:
    """Replay a policy on simulated or recorded traffic.

    Every run goes through the engine that the server runs. Exit code 1 if an `expect:` line of a scenario fails.
    """
    from xds_server.cli.test_picture import Picture, as_json, listing  # noqa: PLC0415 - loaded when used

    if listed:
        click.echo("\n".join(listing([*_library()])))
        return
    asked = Asked(policy=_policy(paths, rollout), runs=runs, seed=seed, jobs=jobs or os.cpu_count() or 1)
    recordings = recorded.Past(**past).read()
    worlds = [_scaled(world, rps) for world in (_named(scenarios) if scenarios or recordings else [*_library()])]
    picture = Picture(colored=globals_of(context).color and write.on_terminal())
    if form == "table":
        picture.begin(asked.policy, runs=runs, seed=seed, worlds=worlds)
    found: list[Summary] = []
    for summary in _summaries(asked, worlds, recordings):
        found.append(summary)
        if form == "table":
            picture.row(summary)
    if form == "table":
        picture.end(found)
    else:
        write.document(as_json(asked.policy, found, runs=runs, seed=seed), form)
    if any(summary.fails for summary in found):
        context.exit(exits.NO)


def _policy(paths: Sequence[str], rollout: str | None) -> "RolloutPolicy":
    from xds_server.cli.policy_files import good  # noqa: PLC0415 - loaded when used

    loaded = good(paths)
    where = ", ".join(paths)
    able = [each for each in loaded.rollouts if rollout is None or each.name == rollout]
    names = ", ".join(each.name for each in loaded.rollouts) or "none"
    if not able:
        what = f"there is no rollout {rollout!r}" if rollout else "there is no rollout"
        raise CliError(what, where=where, hint=f"there are: {names}", code=exits.USAGE)
    if len(able) > 1:
        raise CliError("there is more than one rollout", where=where, hint=f"--rollout with one of: {names}", code=exits.USAGE)
    if not able[0].arms:
        raise CliError(f"{able[0].name} has nothing to roll out", where=where, hint="add a variant beside stable", code=exits.USAGE)
    return able[0]


def _scaled(world: "Scenario", rps: float | None) -> "Scenario":
    return world if rps is None else replace(world, load=world.load.scaled(rps))


# Scenarios.


def _library() -> Iterator["Scenario"]:
    """All scenarios of the package, by name."""
    for path in sorted(_folder().glob("*.yaml")):
        yield from _read(str(path), path)


def _folder() -> Path:
    from policies import replay  # noqa: PLC0415 - loaded when used

    return Path(replay.__file__).parent / "scenarios"


def _named(names: Sequence[str]) -> list["Scenario"]:
    """Scenarios of the library by name, or of files by path."""
    found: list[Scenario] = []
    known = {path.stem: path for path in _folder().glob("*.yaml")}
    for name in names:
        path = known.get(name, Path(name))
        if name not in known and not path.is_file():
            from policies.spec.units import nearest  # noqa: PLC0415 - loaded when used

            near = nearest(name, list(known))
            hint = f"did you mean {near}?" if near else f"a file, or one of {', '.join(sorted(known))}"
            raise CliError(f"there is no scenario {name!r}", where="--simulate", hint=hint, code=exits.USAGE)
        found += _read(name if name not in known else str(path), path)
    return found


def _read(shown: str, path: Path) -> tuple["Scenario", ...]:
    from policies.replay.documents import load  # noqa: PLC0415 - loaded when used

    try:
        with path.open("rb") as file:
            text = file.read(SCENARIO_MAX_BYTES + 1)
    except OSError as error:
        raise CliError(f"cannot read {shown}: {(error.strerror or str(error)).lower()}", code=exits.USAGE) from None
    found, errors = load(shown, text)
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        where = f"{first.file}:{first.line}:{first.column}{f'  {first.path}' if first.path else ''}"
        hint = first.hint or (f"expected {first.expected}" if first.expected else "")
        raise CliError(f"{first.message}{more}", where=where, hint=hint, code=exits.USAGE)
    return found


# Runs.


def _summaries(asked: Asked, worlds: Sequence["Scenario"], recordings: Sequence["Recording"]) -> Iterator["Summary"]:
    """One scenario after the other, as soon as its runs are over."""
    from policies.replay.judge import summary  # noqa: PLC0415 - loaded when used

    chunks = [(world, _chunks(asked, world)) for world in worlds]
    jobs = min(asked.jobs, sum(len(each) for _, each in chunks))
    if jobs <= 1:
        for world, parts in chunks:
            yield summary(world, [run for part in parts for run in _replayed(*part)])
    else:
        with ProcessPoolExecutor(jobs) as pool:
            due: list[tuple[Scenario, list[Future[tuple[Run, ...]]]]] = [
                (world, [pool.submit(_replayed, *part) for part in parts]) for world, parts in chunks
            ]
            for world, futures in due:
                yield summary(world, [run for future in futures for run in future.result()])
    for recording in recordings:
        yield _of_recording(asked, recording)


Chunk = tuple["RolloutPolicy", "Scenario", int, tuple[int, int, int]]


def _chunks(asked: Asked, world: "Scenario") -> list[Chunk]:
    name = zlib.crc32(world.name.encode())
    return [
        (asked.policy, world, min(CHUNK, asked.runs - first), (asked.seed, name, first // CHUNK)) for first in range(0, asked.runs, CHUNK)
    ]


def _replayed(policy: "RolloutPolicy", world: "Scenario", runs: int, seed: tuple[int, int, int]) -> tuple["Run", ...]:
    import numpy as np  # noqa: PLC0415 - loaded when used

    from policies.replay.simulate import simulate  # noqa: PLC0415 - loaded when used

    return simulate(policy, world, runs=runs, random=np.random.default_rng(seed))


def _of_recording(asked: Asked, recording: "Recording") -> "Summary":
    """A recording: as often as asked where chance has a part in it, else once."""
    import numpy as np  # noqa: PLC0415 - loaded when used

    from policies.replay.judge import summary  # noqa: PLC0415 - loaded when used
    from policies.replay.recorded import UnfitError, replay  # noqa: PLC0415 - loaded when used
    from policies.replay.scenario import Scenario  # noqa: PLC0415 - loaded when used

    source = recording.source
    for why, count in recording.dropped.items():
        click.echo(f"{source}: {count} {why}", err=True)
    name = zlib.crc32(source.encode())
    try:
        told = [replay(asked.policy, recording, random=np.random.default_rng((asked.seed, name, 0)))]
        again = range(1, asked.runs if told[0].drawn else 1)
        told += [replay(asked.policy, recording, random=np.random.default_rng((asked.seed, name, each))) for each in again]
    except UnfitError as error:
        raise CliError(f"this recording is not one of {asked.policy.name}", where=f"{source}: {error}", code=exits.USAGE) from None
    if short := max(each.short for each in told):
        click.echo(f"{source}: in up to {short} of {told[0].blocks} blocks the policy gives an arm more than was recorded", err=True)
    about = f"recorded, {recording.duration_s:.0f} s"
    found = summary(Scenario(name=Path(source).name, about=about), [each.run for each in told])
    return replace(found, false_reverts=None)  # what would have been right is not known
