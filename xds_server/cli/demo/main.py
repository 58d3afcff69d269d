"""The demo's main program: sets the stage, plays the scenario, takes everything down again, whatever happens."""

import asyncio
import contextlib
import os
import signal
import sys
import time

from xds_server.cli.demo.backstage import API_PORT, Backstage
from xds_server.cli.demo.children import DemoError
from xds_server.cli.demo.scenarios import DEFAULT, LATER, SCENARIOS, Act, versions
from xds_server.cli.demo.story import Story
from xds_server.cli.demo.teller import Teller

INTERRUPTED = 130

LAST_ANSWERS_S = 5.0
"""So long the last answers may take when the load ends [s]."""


def play(scenario: str | None, keep: bool, port: int | None) -> int:
    """See `xds_server.cli.demo.run`."""
    if scenario in LATER:
        sys.stderr.write(f"scenario {scenario} is not there yet: {LATER[scenario]}\nhint: one of {', '.join(SCENARIOS)}\n")
        return 2
    if scenario is not None and scenario not in SCENARIOS:
        sys.stderr.write(
            f"there is no scenario {scenario!r}\nhint: one of {', '.join(SCENARIOS)}, or none for a good version and then a bad one\n"
        )
        return 2
    acts = SCENARIOS[scenario] if scenario is not None else DEFAULT
    teller = Teller(no_color=bool(os.environ.get("NO_COLOR")))
    try:
        return asyncio.run(_run(acts, teller, keep=keep, port=port or API_PORT))
    except (KeyboardInterrupt, asyncio.CancelledError):
        teller.text("interrupted; everything is stopped")
        return INTERRUPTED


async def _run(acts: tuple[Act, ...], teller: Teller, *, keep: bool, port: int) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    start = time.monotonic()
    async with Backstage(versions(acts), api_port=port, first_stable=acts[0].stable) as backstage:
        try:
            await _set_up(backstage, teller)
            code = await _perform(backstage, acts, teller, keep=keep)
        except DemoError as error:
            code = 1
            _explain(teller, error)
        finally:
            teller.quiet()
        backstage.keep_folder = code != 0 and bool(backstage.children)
        if backstage.keep_folder:
            teller.text(f"logs and files are kept in {backstage.folder}")
    teller.text(f"everything is stopped; the demo took {time.monotonic() - start:.0f} s")
    return code


async def _set_up(backstage: Backstage, teller: Teller) -> None:
    backstage.check()
    teller.progress("starting the model servers")
    await backstage.start_models()
    ports = ", ".join(f"{name} on port {model.port}" for name, model in backstage.models.items())
    teller.line("set up", f"real language models (SmolLM2-135M) answer: {ports}")
    await backstage.start_server()
    teller.line("set up", f"crossfade serves xDS on port {backstage.xds_port}; API: {backstage.api}/v1/rollouts")
    await backstage.start_envoy()
    await backstage.calibrate()
    plan = backstage.load.plan
    asked = f"{plan.users} users ask {plan.rate_per_s:g} questions a second, answers are streamed"
    teller.line("set up", f"a real Envoy takes requests on port {plan.port}: {asked}")


async def _perform(backstage: Backstage, acts: tuple[Act, ...], teller: Teller, *, keep: bool) -> int:
    """The acts under load."""
    failure: DemoError | None = None
    code = 1
    async with asyncio.TaskGroup() as tasks:
        load = tasks.create_task(backstage.load.run())
        try:
            reports = await Story(backstage, teller).play(acts)
            code = 0 if len(reports) == len(acts) and all(report.good for report in reports) else 1
            if keep:
                await _keep(backstage, teller)
        except DemoError as error:
            failure = error
        finally:
            backstage.load.stop()
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(LAST_ANSWERS_S):
                await load
    if failure is not None:
        raise failure
    return code


async def _keep(backstage: Backstage, teller: Teller) -> None:
    """Until Ctrl-C, which is how this is meant to end."""
    teller.text()
    teller.text(f"all is left running; the policy files: {backstage.policies}; Ctrl-C ends it")
    task = asyncio.current_task()
    assert task is not None
    try:
        while True:
            await backstage.look()
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        task.uncancel()


def _explain(teller: Teller, error: DemoError) -> None:
    teller.quiet()
    teller.line("failed", str(error))
    if error.log:
        teller.text("its log ends:")
        teller.text("\n".join(f"  {line}" for line in error.log.splitlines()))
    if error.hint:
        teller.text(f"hint: {error.hint}")
