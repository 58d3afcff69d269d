"""`crossfade test`: what it prints, what it answers, and what it does with nonsense."""

import json

import pytest

from tests import specs
from tests.cli.running import run
from xds_server.cli import test as command

STEPS = [{"canary": {"shares": ["10%", "50%"], "hold": {"for": "1m", "samples": 50}}}, {"promote": {"keep_stable_for": "30s"}}]
GATES = [{"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "2%"}}]


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_bytes(specs.text(specs.PROXIES, specs.rollout(steps=STEPS, gates=GATES)))
    return path


@pytest.fixture
def scenario(tmp_path):
    def made(text, name="mine"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"name: {name}\n{text}")
        return path

    return made


def test_a_line_for_each_scenario_then_how_it_went_and_why(policy):
    ran = run("test", policy, "--simulate", "good", "--simulate", "total-failure", "--runs", "20", "--jobs", "1", "--rps", "50")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "chat: canary 10% -> canary 50% -> promote"
    rows = {line.split()[0]: line for line in lines[1:] if line}
    head = next(line for line in lines if line.startswith("SCENARIO"))
    assert head.split()[:4] == ["SCENARIO", "OUTCOME", "PROMOTED", "REVERTED"]
    first = lines.index(head)
    assert lines[first + 1].split()[:4] == ["good", "█" * 16, "100%", "0%"]
    assert lines[first + 2].split()[:4] == ["total-failure", "░" * 16, "0%", "100%"]
    assert rows["total-failure"].endswith("100% reverted at canary 10%: gate failed (errors)")
    assert "3 of 3 expectations hold" in ran.out


def test_json_is_whole_and_the_same_however_many_processes_do_it(policy, monkeypatch):
    monkeypatch.setattr(command, "CHUNK", 10)
    arguments = ("test", policy, "--simulate", "errors-1-to-5", "--runs", "20", "--seed", "7", "-o", "json")
    alone, together = run(*arguments, "--jobs", "1"), run(*arguments, "--jobs", "2")
    assert alone == together
    told = json.loads(alone.out)
    assert (told["rollout"], told["runs"], told["seed"], told["folded"], told["holds"]) == ("chat", 20, 7, True, True)
    (one,) = told["scenarios"]
    assert one["promoted"]["runs"] + one["reverted"]["runs"] + one["held"]["runs"] == 20
    assert one["false_reverts"] is None
    assert 0.0 <= one["missed"]["low"] <= one["missed"]["rate"] <= one["missed"]["high"] <= 1.0
    assert one["time_to_revert_s"]["p50"] <= one["time_to_revert_s"]["p95"]
    assert sum(each["runs"] for each in one["because"]) == 20
    assert one["timeline"][-1]["promoted"] + one["timeline"][-1]["reverted"] == pytest.approx(1.0)
    assert {each["verdict"] for each in one["expect"]} == {"holds"}


def test_another_seed_is_another_run(policy):
    one, other = (run("test", policy, "--simulate", "errors-1-to-5", "--runs", "5", "--seed", seed, "-o", "json").out for seed in (1, 2))
    assert one != other


def test_an_expectation_that_fails_is_a_negative_answer_with_its_numbers(policy, scenario):
    mine = scenario('errors: {stable: 1%, candidate: 60%}\nexpect:\n  promoted: ">= 95%"\n  time_to_promote: {p50: "<= 1m"}\n')
    ran = run("test", policy, "--simulate", mine, "--runs", "40")
    assert (ran.code, ran.err) == (1, "")
    assert "0 of 2 expectations hold" in ran.out
    assert "FAILS  mine: promoted is expected >= 95%, seen is 0% (0% to " in ran.out
    assert "FAILS  mine: time to promote p50 is expected <= 1m, but no run ended so" in ran.out


def test_an_expectation_that_the_runs_cannot_tell_is_left_open(policy, scenario):
    ran = run("test", policy, "--simulate", scenario('errors: {stable: 1%, candidate: 9%}\nexpect: {reverted: ">= 99.9%"}'), "--runs", "10")
    told = json.loads(run("test", policy, "--simulate", scenario('expect: {promoted: "> 99.9%"}'), "--runs", "10", "-o", "json").out)
    assert ran.code == 0
    (answer,) = told["scenarios"][0]["expect"]
    assert answer["verdict"] == "holds"  # all of ten were
    assert answer["low"] < 0.999


def test_the_library_is_listed(policy):
    ran = run("test", policy, "--list")
    assert ran.code == 0
    names = [line.split()[0] for line in ran.out.splitlines()[1:]]
    assert {"good", "aa", "silent", "pods-lost"} <= set(names)
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--simulate", "goood"), "did you mean good?"),
        (("--rollout", "other"), "there are: chat"),
        (("--runs", "0"), "--runs"),
    ],
)
def test_wrong_usage(policy, arguments, words):
    ran = run("test", policy, *arguments)
    assert ran.code == 2
    assert words in ran.err


def test_a_fault_of_a_scenario_has_its_line(policy, scenario):
    path = scenario("load: 50/s\nincidents:\n  - {kind: errors}\n")
    ran = run("test", policy, "--simulate", path)
    assert ran.code == 2
    assert f"{path}:4:5  incidents[0]" in ran.err
    assert "how many errors is not said" in ran.err


def test_an_invalid_policy_is_told_as_validate_does(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("apiVersion: crossfade/v1\nkind: Rollout\n")
    ran = run("test", path, "--simulate", "good")
    assert ran.code == 1
    assert "the policy is not valid" in ran.err
