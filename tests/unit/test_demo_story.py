"""The story believes the traffic and nothing else; its policy files are what it says; what it prints is plain when piped."""

import asyncio
import io
import signal
import sys
from collections.abc import Callable

import pytest
import yaml

from policies.spec.loader import load
from xds_server.cli.demo import main, run, scenarios, story
from xds_server.cli.demo.backstage import Model, requests_under_way, write_admin_port
from xds_server.cli.demo.children import Child, DemoError
from xds_server.cli.demo.front import Mode
from xds_server.cli.demo.load import Answer, Load, Plan
from xds_server.cli.demo.scenarios import Act, Fault
from xds_server.cli.demo.story import Story
from xds_server.cli.demo.teller import Teller


class FakeStage:
    """A made-up control plane whose every look is one turn; `script` says what each turn of a release does."""

    def __init__(self, names: tuple[str, ...], script: Callable[["FakeStage", int], None]) -> None:
        child = Child.__new__(Child)
        self.models = {name: Model(name=name, port=1, control_port=2, child=child) for name in names}
        self.load = Load(Plan(host="127.0.0.1", port=1, authority="x", rate_per_s=1.0))
        self.script = script
        self.turn = -1
        self.generation = 0
        self.phase = "idle"
        self.kind = "canary"
        self.records: list[dict] = []
        self.faults: list[str] = []
        self.errors: list[dict] = []

    def commit(self, stable, candidate) -> None:
        self.committed = (stable, candidate)
        self.turn = 0

    async def look(self) -> None:
        if self.turn >= 0:
            self.turn += 1
            self.script(self, self.turn)

    async def spoil(self, name, mode) -> None:
        self.faults.append(f"{name} {mode}")
        self.models[name].stats.mode = mode
        self.models[name].stats.fault_at = 1.0

    async def kill(self, name) -> None:
        self.faults.append(f"{name} killed")

    async def get(self, path):
        if path.endswith("/history?last=100"):
            return {"history": self.records}
        if path == "/v1/rollouts":
            return {"rollouts": [], "policy_errors": self.errors}
        step = {"kind": self.kind, "label": f"{self.kind} 20%"}
        return {"phase": self.phase, "generation": self.generation, "step": step, "because": f"turn {self.turn}"}

    def serve(self, name: str, number: int = 1, *, outcome: str = "ok") -> None:
        self.models[name].stats.users.requests += number
        for _ in range(number):
            self.load.tally.add(Answer(user=1, outcome=outcome, model=name, first_ms=20.0, total_ms=60.0))

    def decide(self, decision: str, because: str) -> None:
        at = f"2026-01-01T00:00:{len(self.records):02}Z"
        self.records.append(
            {"at": at, "generation": 1, "publication": len(self.records), "decision": decision, "step": "", "because": because}
        )


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The story's own waits, short: the made-up world needs no time."""
    for name, value in {"LOOK_S": 0.0, "STILL_S": 0.02, "SETTLE_S": 0.5, "BEFORE_FAULT_S": 0.0, "ACT_S": 5.0}.items():
        monkeypatch.setattr(story, name, value)


def tell() -> tuple[Teller, io.StringIO]:
    out = io.StringIO()
    return Teller(out), out


def promotes(stage: FakeStage, turn: int) -> None:
    stage.generation = 1
    stage.serve("v1" if turn < 5 else "v2")
    stage.phase = "promoted" if turn >= 5 else "running"
    if turn == 1:
        stage.decide("started", "v2 is the new candidate")
    if turn == 5:
        stage.decide("promoted", "canary 50% passed: odds 31:1 that it is as good")


def reverts(stage: FakeStage, turn: int) -> None:
    stage.generation = 1
    stage.serve("v1")
    if not stage.faults:
        stage.serve("v2")
    elif stage.phase == "running":
        stage.serve("v2", outcome="status 500")
        stage.models["v2"].stats.users.failed += 1
        stage.models["v2"].stats.users.since_fault += 1
    bad = stage.models["v2"].stats.users.since_fault
    if bad == 8 and stage.phase != "reverted":
        stage.decide("reverted", "gate errors failed")
    stage.phase = "reverted" if bad >= 8 else "running"


async def test_a_promotion_seen_in_the_traffic_is_believed_and_told():
    stage, (teller, out) = FakeStage(("v1", "v2"), promotes), tell()
    (report,) = await Story(stage, teller).play(scenarios.SCENARIOS["good"])
    assert report.good
    assert stage.committed == ("v1", "v2")
    text = out.getvalue()
    assert "odds 31:1 that it is as good" in text
    assert "v2 served" in report.seen
    assert "v1 none" in report.seen
    assert "\x1b" not in text


async def test_a_promotion_that_the_traffic_does_not_show_is_not_believed():
    def lies(stage: FakeStage, turn: int) -> None:
        promotes(stage, turn)
        stage.serve("v1")

    stage, (teller, out) = FakeStage(("v1", "v2"), lies), tell()
    (report,) = await Story(stage, teller).play(scenarios.SCENARIOS["good"])
    assert report.phase == "promoted"
    assert not report.good
    assert "did not come to rest" in out.getvalue()


async def test_silence_is_no_proof():
    """A loser that stands still proves nothing while the winner serves nobody."""

    def dead(stage: FakeStage, turn: int) -> None:
        stage.generation, stage.phase = 1, "promoted"

    stage, (teller, _) = FakeStage(("v1", "v2"), dead), tell()
    (report,) = await Story(stage, teller).play(scenarios.SCENARIOS["good"])
    assert not report.good


async def test_failures_users_see_after_the_end_are_no_good_end():
    def failing(stage: FakeStage, turn: int) -> None:
        promotes(stage, turn)
        if stage.phase == "promoted":
            stage.serve("v2", outcome="status 503")

    stage, (teller, _) = FakeStage(("v1", "v2"), failing), tell()
    (report,) = await Story(stage, teller).play(scenarios.SCENARIOS["good"])
    assert not report.good


@pytest.mark.parametrize(("name", "done"), [("errors", "v2 errors"), ("slow", "v2 slow"), ("crash", "v2 killed")])
async def test_a_fault_strikes_once_in_the_canary_and_the_revert_is_believed(name, done):
    stage, (teller, out) = FakeStage(("v1", "v2"), reverts), tell()
    (report,) = await Story(stage, teller).play(scenarios.SCENARIOS[name])
    assert stage.faults == [done]
    assert report.good
    assert "gate errors failed" in out.getvalue()
    if name == "errors":
        assert "8 bad answers" in out.getvalue()


async def test_no_fault_strikes_in_the_shadow():
    def shadow(stage: FakeStage, turn: int) -> None:
        stage.generation, stage.kind, stage.phase = 1, "shadow", "running" if turn < 30 else "reverted"
        stage.serve("v1")
        stage.serve("v2")

    stage, (teller, _) = FakeStage(("v1", "v2"), shadow), tell()
    await Story(stage, teller).play(scenarios.SCENARIOS["errors"])
    assert stage.faults == []


async def test_the_wrong_end_is_a_failure_and_ends_the_play():
    stage, (teller, out) = FakeStage(("v1", "v2", "v3"), reverts), tell()
    stage.faults.append("as if")
    stage.models["v2"].stats.users.since_fault = 7
    reports = await Story(stage, teller).play(scenarios.DEFAULT)
    assert len(reports) == 1
    assert not reports[0].good
    assert "ended reverted, not promoted" in out.getvalue()


async def test_an_end_of_an_earlier_release_is_not_taken_for_this_one(monkeypatch):
    monkeypatch.setattr(story, "ACT_S", 0.2)

    def old(stage: FakeStage, turn: int) -> None:
        stage.phase = "promoted"
        stage.serve("v2")

    stage, (teller, _) = FakeStage(("v1", "v2"), old), tell()
    (report,) = await Story(stage, teller).play(scenarios.SCENARIOS["good"])
    assert not report.good
    assert "did not end" in report.missed


async def test_a_refused_policy_is_told_at_once():
    stage, (teller, _) = FakeStage(("v1", "v2"), lambda *_: None), tell()
    stage.errors = [{"file": "chat.yaml", "line": 3, "message": "unknown key"}]
    with pytest.raises(DemoError, match="unknown key"):
        await Story(stage, teller).play(scenarios.SCENARIOS["good"])


# Scenarios.


@pytest.mark.parametrize("candidate", [None, "v2"])
def test_the_policy_file_says_who_serves_where(candidate):
    document = yaml.safe_load(scenarios.rollout_file({"v1": 1001, "v2": 1002}, stable="v1", candidate=candidate))
    variants = document["spec"]["variants"]
    assert variants["stable"] == {"version": "v1", "endpoints": {"static": ["127.0.0.1:1001"]}, "runtime": "llama-cpp"}
    assert ("candidate" in variants) == (candidate is not None)
    assert document["spec"]["traffic"]["proxies"] == yaml.safe_load(scenarios.proxies_file(80))["metadata"]["name"]


def test_every_scenario_ends_as_its_fault_says():
    for acts in (*scenarios.SCENARIOS.values(), scenarios.DEFAULT):
        for act in acts:
            assert act.ends == ("reverted" if act.fault else "promoted")
            assert {act.winner, act.loser} == {act.stable, act.candidate}
    assert [act.fault for act in scenarios.DEFAULT] == [None, Fault.ERRORS]
    assert scenarios.DEFAULT[1].stable == scenarios.DEFAULT[0].winner
    assert scenarios.versions(scenarios.DEFAULT) == ("v1", "v2", "v3")
    assert set(scenarios.SCENARIOS) == {"good", *Fault}
    assert Act(stable="a", candidate="b", fault=Fault.SLOW).loser == "b"


@pytest.mark.parametrize(("name", "says"), [("silent", "not there yet"), ("nonsense", "there is no scenario")])
def test_what_cannot_be_played_is_wrong_usage(name, says, capsys):
    assert run(name, False, None) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "hint: one of good, errors, slow, crash" in error


# What the processes need.


def test_the_admin_port_is_moved_and_a_file_that_is_no_bootstrap_is_refused(tmp_path):
    config = tmp_path / "envoy.yaml"
    config.write_text("admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}\nnode: {id: a}\n")
    write_admin_port(config, 12345)
    assert yaml.safe_load(config.read_text())["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 12345}
    config.write_text("nonsense")
    with pytest.raises(DemoError, match="no admin address"):
        write_admin_port(config, 1)


def test_requests_under_way_are_those_at_the_models():
    text = "cluster.chat/v1.ab.upstream_rq_active: 2\ncluster.chat/v2.cd.shadow.upstream_rq_active: 1\ncluster.crossfade_xds.upstream_rq_active: 3\n"
    assert requests_under_way(text) == 3
    assert requests_under_way("") == 0


async def test_a_port_in_use_is_told_before_anything_starts(capsys, monkeypatch):
    async def nobody(reader, writer) -> None:
        writer.close()

    monkeypatch.setattr(main.Backstage, "start_models", None)
    async with await asyncio.start_server(nobody, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        out = io.StringIO()
        try:
            code = await main._run(scenarios.SCENARIOS["good"], Teller(out), keep=False, port=port)
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().remove_signal_handler(number)
    assert code == 1
    assert f"port {port} of 127.0.0.1 is in use" in out.getvalue()
    assert "hint: choose another" in out.getvalue()
    assert "are kept" not in out.getvalue()


# Telling.


def test_piped_lines_carry_the_age_and_are_flushed_when_they_happen():
    now = [100.0]

    class Out(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    out = Out()
    teller = Teller(out, clock=lambda: now[0])
    now[0] = 112.34
    teller.line("advanced", "a very long line " * 30, "more")
    assert out.flushed == 1
    first, second = out.getvalue().splitlines()
    assert first.startswith("   12.3 s  advanced   a very long line")
    assert second.strip() == "more"


def test_piped_progress_is_told_now_and_then():
    now = [0.0]
    out = io.StringIO()
    teller = Teller(out, clock=lambda: now[0])
    for tenth in range(130):
        now[0] = tenth / 10
        teller.progress(f"turn {tenth}")
    assert len(out.getvalue().splitlines()) == 2


def test_a_terminal_shows_the_same_words(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    teller = Teller(out)
    assert teller.live
    teller.progress("wait")
    teller.heading("one")
    teller.line("reverted", "gate errors failed", "served so far")
    teller.table(("who", "what"), [("a [b]", "1")])
    teller.text("end [/x]")
    teller.quiet()
    for words in ("gate errors failed", "served so far", "a [b]", "end [/x]", "\x1b["):
        assert words in out.getvalue()


def test_a_reader_that_has_gone_silences_the_story_and_does_not_end_it():
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    teller = Teller(Gone())
    teller.line("started", "x")
    teller.heading("x")
    teller.table(("a",), [("1",)])
    teller.text("x")


def test_importing_the_demo_is_light():
    """`crossfade` imports the package for every command."""
    import subprocess

    code = "import sys, xds_server.cli.demo; raise SystemExit(any(m in sys.modules for m in ('rich','httpx','yaml','asyncio')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_modes_are_words_a_person_types():
    assert [mode.value for mode in Mode] == ["good", "errors", "slow"]


@pytest.mark.parametrize("candidate", [None, "v2"])
def test_the_policy_files_load_and_only_the_price_of_the_fallback_is_doubted(candidate):
    text = scenarios.rollout_file({"v1": 1001, "v2": 1002}, stable="v1", candidate=candidate)
    loaded = load({"proxies.yaml": scenarios.proxies_file(8080).encode(), "chat.yaml": text.encode()})
    assert loaded.errors == ()
    assert {doubt.path for doubt in loaded.warnings} <= {"spec.traffic.fallback"}
    (policy,) = loaded.rollouts
    assert policy.name == scenarios.ROLLOUT
    assert [arm.version for arm in policy.arms] == ([candidate] if candidate else [])
