"""What happens in the demo, told as it happens, and whether it really happened: the outcome is read off the traffic, not off the status.

The story follows the API (status and decision records) and asks the model servers what they have served. It believes an outcome when the
winner serves users and the loser has not had a single one for `STILL_S`. `Stage` is what it needs of `backstage`.
"""

import asyncio
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Protocol

from xds_server.cli.demo.backstage import Json, Model
from xds_server.cli.demo.children import DemoError
from xds_server.cli.demo.front import Mode, Stats
from xds_server.cli.demo.load import Load, quantile
from xds_server.cli.demo.scenarios import FAULT_WORDS, ROLLOUT, Act, Fault
from xds_server.cli.demo.teller import Teller

LOOK_S = 0.2
"""How often the story looks [s]."""

ACT_S = 240.0
"""Longest time one rollout may take [s]."""

STILL_S = 2.0
"""So long the loser must be without a user's request while the winner serves [s]."""

SETTLE_S = 12.0
"""So long the traffic may take to come to rest after the end was announced [s]."""

SERVED_LEAST = 3
"""Requests the winner must have served meanwhile."""

BEFORE_FAULT_S = 3.0
"""The candidate serves well for so long before its fault [s]."""

BEFORE_FAULT_REQUESTS = 3

FINAL = ("promoted", "reverted")
SHOWN = frozenset({"started", "entered", "advanced", "held", "resumed", "promoted", "reverted", "completed", "edited", "paused"})


class Stage(Protocol):
    """What the story needs of the world behind it."""

    models: dict[str, Model]
    load: Load

    async def get(self, path: str) -> Json: ...
    async def look(self) -> None: ...
    async def spoil(self, name: str, mode: Mode) -> None: ...
    async def kill(self, name: str) -> None: ...
    def commit(self, stable: str, candidate: str | None) -> None: ...


@dataclass(slots=True)
class Report:
    """What was seen of one act.

    Attributes:
        before: What every model had served when the act began.
        outcomes_before: What users had got by then.
        fault_at: When the fault struck [s since the epoch].
        decided_at: When the story saw the end.
        phase: The phase the rollout ended in.
        seen: The proof in words; empty = the outcome was not seen in the traffic.
    """

    act: Act
    before: dict[str, Stats]
    outcomes_before: Mapping[str, int]
    fault_at: float | None = None
    decided_at: float | None = None
    phase: str = ""
    seen: str = ""
    missed: str = ""
    told: set[str] = field(default_factory=set)

    @property
    def good(self) -> bool:
        return self.phase == self.act.ends and bool(self.seen)


class Story:
    """Plays acts one after the other on a running stage."""

    def __init__(self, stage: Stage, teller: Teller) -> None:
        self._stage = stage
        self._teller = teller
        self._records: set[str] = set()

    async def play(self, acts: tuple[Act, ...]) -> list[Report]:
        """Plays all acts; ends after the first that did not come out as it had to."""
        reports = []
        for number, act in enumerate(acts):
            self._teller.heading(f"{f'{number + 1}. ' if len(acts) > 1 else ''}{_title(act)}")
            report = await self._act(act)
            reports.append(report)
            self._sum_up(report)
            if not report.good:
                break
        return reports

    async def _act(self, act: Act) -> Report:
        generation = _number((await self._status()).get("generation"))
        for record in await self._history():
            self._records.add(_key(record))
        await self._stage.look()
        report = Report(
            act=act,
            before={name: deepcopy(model.stats) for name, model in self._stage.models.items()},
            outcomes_before=dict(self._stage.load.tally.outcomes),
        )
        self._teller.line("policy", f"the operator edits chat.yaml: stable {act.stable}, candidate {act.candidate}")
        self._stage.commit(act.stable, act.candidate)
        await self._follow(report, generation)
        if report.phase == act.ends:
            await self._observe(report)
        return report

    async def _follow(self, report: Report, generation: int) -> None:
        """Tells every decision until the release has ended."""
        deadline = time.monotonic() + ACT_S
        ripe_at: float | None = None
        while time.monotonic() < deadline:
            await self._stage.look()
            status = await self._status()
            await self._tell_decisions(report)
            if _number(status.get("generation")) > generation:
                report.phase = str(status.get("phase"))
                if report.phase in FINAL:
                    report.decided_at = time.time()
                    return
                self._teller.progress(self._progress(report, status))
                if report.act.fault is not None and report.fault_at is None and self._in_canary(report, status):
                    ripe_at = ripe_at or time.monotonic() + BEFORE_FAULT_S
                    if time.monotonic() >= ripe_at:
                        await self._strike(report, report.act.fault)
            else:
                await self._check_policies()
            await asyncio.sleep(LOOK_S)
        report.missed = f"the rollout did not end within {ACT_S:.0f} s; it is {report.phase or 'not started'}"

    def _in_canary(self, report: Report, status: Json) -> bool:
        """Whether users are with the candidate: by the status and by the model's own count."""
        step = status.get("step")
        served = self._served(report, report.act.candidate)
        return isinstance(step, dict) and step.get("kind") == "canary" and served.users.requests >= BEFORE_FAULT_REQUESTS

    async def _strike(self, report: Report, fault: Fault) -> None:
        name = report.act.candidate
        if fault is Fault.CRASH:
            await self._stage.kill(name)
        else:
            await self._stage.spoil(name, Mode.ERRORS if fault is Fault.ERRORS else Mode.SLOW)
        report.fault_at = self._stage.models[name].stats.fault_at or time.time()
        self._teller.line("fault", FAULT_WORDS[fault].format(candidate=name), self._counts(report))

    async def _observe(self, report: Report) -> None:
        """Looks at the models until the loser has stood still long enough while the winner served."""
        act, models, tally = report.act, self._stage.models, self._stage.load.tally
        deadline = time.monotonic() + SETTLE_S
        self._teller.progress(f"watching: does {act.winner} alone serve the users?")
        start, lost, won, failed = time.monotonic(), -1, 0, 0
        while time.monotonic() < deadline:
            await self._stage.look()
            now_lost, now_won = models[act.loser].stats.users.requests, models[act.winner].stats.users.requests
            if now_lost != lost or tally.failed != failed:
                start, lost, won, failed = time.monotonic(), now_lost, now_won, tally.failed
            elapsed_s = time.monotonic() - start
            if elapsed_s >= STILL_S and now_won - won >= SERVED_LEAST:
                report.seen = f"{act.winner} served {now_won - won} users' requests in {elapsed_s:.1f} s, {act.loser} none; meanwhile no user saw a failure"
                self._teller.line("observed", report.seen)
                return
            await asyncio.sleep(LOOK_S)
        served = (
            f"{act.winner} served {models[act.winner].stats.users.requests - won} requests in the last {time.monotonic() - start:.1f} s"
        )
        others = f"{act.loser} has had {models[act.loser].stats.users.requests} in all, users saw {tally.failed} failures in all"
        report.missed = f"the rollout is {report.phase}, but the traffic did not come to rest: {served}, {others}"

    # Telling.

    async def _tell_decisions(self, report: Report) -> None:
        for record in await self._history():
            if _key(record) in self._records:
                continue
            self._records.add(_key(record))
            decision = str(record.get("decision"))
            if decision in SHOWN:
                self._teller.line(decision, str(record.get("because")), "" if decision == "started" else self._counts(report))

    def _progress(self, report: Report, status: Json) -> str:
        return f"{self._counts(report)}  |  {status.get('because')}"

    def _counts(self, report: Report) -> str:
        """Requests per version in this act, counted at the models."""
        parts = []
        for name in (report.act.stable, report.act.candidate):
            served = self._served(report, name)
            copies = f" (and {served.shadows.requests} copies)" if served.shadows.requests else ""
            parts.append(f"{name} {served.users.requests}{copies}")
        return "served so far: " + ", ".join(parts)

    def _served(self, report: Report, name: str) -> Stats:
        """What a model has served in this act."""
        now, before = deepcopy(self._stage.models[name].stats), report.before[name]
        for tally, start in ((now.users, before.users), (now.shadows, before.shadows)):
            tally.requests -= start.requests
            tally.good -= start.good
            tally.failed -= start.failed
            tally.broken -= start.broken
        return now

    def _sum_up(self, report: Report) -> None:
        """The small table and the verdict of one act."""
        self._teller.quiet()
        act = report.act
        rows = []
        for name in (act.stable, act.candidate):
            served = self._served(report, name)
            role = "stable" if name == act.stable else "candidate"
            cells = (served.users.requests, served.users.failed, served.shadows.requests)
            rows.append((f"{name} ({role})", *map(str, cells)))
        self._teller.text()
        self._teller.table(("counted at the models", "users' requests", "5xx answers", "mirrored copies"), rows)
        for line in self._clients(report):
            self._teller.text(line)
        self._teller.text()
        if report.good:
            self._teller.line(report.phase, f"{_verdict(act)}: seen in the traffic itself")
        else:
            missed = report.missed or f"it ended {report.phase}, not {act.ends}"
            self._teller.line("failed", f"{_title(act)}: {missed}", self._counts(report))

    def _clients(self, report: Report) -> list[str]:
        tally = self._stage.load.tally
        got = {outcome: count - report.outcomes_before.get(outcome, 0) for outcome, count in tally.outcomes.items()}
        failures = ", ".join(f"{count} x {outcome}" for outcome, count in sorted(got.items()) if outcome != "ok" and count)
        first = f"time to first token p50 {quantile(tally.firsts_ms, 0.5):.0f} ms, p95 {quantile(tally.firsts_ms, 0.95):.0f} ms"
        lines = [f"  users saw: {got.get('ok', 0)} good answers, {failures or 'no failure'}; {first}"]
        if tally.skipped:
            lines.append(f"  {tally.skipped} of {tally.sent + tally.skipped} questions so far were not sent: the machine was too busy")
        bad = self._stage.models[report.act.candidate].stats.users
        if report.fault_at is not None and report.decided_at is not None:
            if report.act.fault is Fault.CRASH:
                lines.append(f"  from the kill to all traffic on {report.act.stable}: {report.decided_at - report.fault_at:.1f} s")
            else:
                last_s = max(0.0, (bad.last_at or report.fault_at) - report.fault_at)
                lines.append(
                    f"  from the fault to the last user's request on {report.act.candidate}: {last_s:.1f} s, {bad.since_fault} bad answers"
                )
        return lines

    # Reading the API.

    async def _check_policies(self) -> None:
        """Raises: DemoError: If the server refuses the policy files."""
        errors = (await self._stage.get("/v1/rollouts")).get("policy_errors")
        if errors:
            raise DemoError(f"crossfade refuses the demo's policy: {str(errors)[:1000]}")

    async def _status(self) -> Json:
        return await self._stage.get(f"/v1/rollouts/{ROLLOUT}")

    async def _history(self) -> list[Json]:
        """Decision records, oldest first."""
        answer = await self._stage.get(f"/v1/rollouts/{ROLLOUT}/history?last=100")
        records = answer.get("history", [])
        if not isinstance(records, list):
            raise DemoError(f"the history is not a list: {str(records)[:200]}")
        return sorted(records, key=lambda record: (str(record.get("at")), _number(record.get("publication"))))


def _key(record: Json) -> str:
    return "|".join(str(record.get(name)) for name in ("at", "generation", "publication", "decision", "step"))


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _title(act: Act) -> str:
    ending = {
        None: "a good version comes",
        Fault.ERRORS: "a version that starts to fail",
        Fault.SLOW: "a version that becomes three times slower",
        Fault.CRASH: "a version whose server is killed",
    }[act.fault]
    return f"{ending}: {act.candidate} against {act.stable}"


def _verdict(act: Act) -> str:
    if act.fault is None:
        return f"{act.candidate} is in service"
    return f"{act.candidate} is out, {act.stable} serves"
