"""`crossfade plan`: what people and machines read, and what the exit code says."""

import json

import pytest
import yaml

from tests import specs
from tests.cli.running import run

FAST = ("--rps", "100")
STEPS = [{"canary": {"shares": ["10%", "50%"], "hold": {"for": "10m"}}}, specs.PROMOTE]


@pytest.fixture
def policy(tmp_path):
    def write(**spec):
        path = tmp_path / "chat.yaml"
        path.write_bytes(specs.text(specs.PROXIES, specs.rollout(**{"steps": STEPS, **spec})))
        return path

    return write


def test_a_person_reads_a_table_and_sentences(policy):
    ran = run("plan", policy(), *FAST)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "chat  100 requests/s; stable: 1% errors, latency p50 100 ms, p99 400 ms"
    assert lines[2].split()[:4] == ["STAGE", "REQUESTS/S", "LASTS", "GATE"]
    assert [line[2:12] for line in lines[3:6]] == ["canary 10%", "canary 50%", "promote   "]
    assert "errors: with 10 of 100 requests/s (canary 10%) a rise from 1% to 5% is reverted after about" in ran.out
    assert "a FAIL needs odds of 100:1" in ran.out
    assert lines[-1] == "chat can decide"


def test_machines_read_the_same_with_units_in_the_names(policy):
    path = policy()
    (found,) = json.loads(run("plan", path, *FAST, "-o", "json").out)
    assert yaml.safe_load(run("plan", path, *FAST, "-o", "yaml").out) == [found]
    assert (found["rollout"], found["decides"], found["warnings"]) == ("chat", True, [])
    assert found["load"]["rps"] == 100.0
    assert found["budget"]["guardrails"] == [{"gate": "errors", "share": 1.0, "odds_needed": 100.0}]
    (course,) = found["arms"]
    assert course["arms"] == ["candidate"]
    first = course["stages"][0]
    assert (first["label"], first["path"], first["share"], first["hold_s"]) == ("canary 10%", "spec.steps[0].canary", 0.1, 600.0)
    assert course["lasts_s"] == sum(stage["lasts_s"] for stage in course["stages"][:2])
    assert course["shortest"]["lasts_s"] <= course["lasts_s"]
    (gate,) = first["gates"]
    assert 0.02 < gate["smallest_seen_error_rate"] < 0.05
    assert [change["error_rate"] for change in gate["changes"]] == [0.02, 0.05, 1.0]
    assert gate["changes"][2]["after_p50_s"] < gate["changes"][1]["after_p50_s"] < first["hold_s"]


def test_a_policy_that_cannot_decide_exits_1_and_says_where_and_what_would_do(policy):
    path = policy()
    ran = run("plan", path, "--rps", "0.5")
    assert ran.code == 1
    line = next(line for line in ran.out.splitlines() if line.startswith("cannot decide"))
    assert f"{path}:" in line
    assert "spec.steps[0].canary" in line
    assert "  hint: " in ran.out
    (found,) = json.loads(run("plan", path, "--rps", "0.5", "-o", "json").out)
    assert not found["decides"]
    blocking = [each for each in found["warnings"] if each["blocks"]]
    assert blocking
    assert all(each["line"] > 1 and each["path"].startswith("spec.") and each["hint"] for each in blocking)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (("error_rate=0.2%",), {"error_rate": 0.002, "latency_p50_ms": 100.0}),
        (("latency_ms=lognormal(250, 0.4)",), {"latency_p50_ms": 250.0, "latency_log_sd": 0.4}),
        (("latency_ms=p50=200,p99=800",), {"latency_p50_ms": 200.0, "latency_p99_ms": 800.0}),
        (("p50=200ms,p95=500ms", "error_rate=3%"), {"latency_p50_ms": 200.0, "error_rate": 0.03}),
    ],
)
def test_what_stable_is_like_can_be_said_in_several_ways(policy, baseline, expected):
    said = [part for each in baseline for part in ("--baseline", each)]
    path = policy(steps=[{"canary": {"shares": ["50%"], "hold": {"for": "1m"}}}, {"promote": {}}])
    load = json.loads(run("plan", path, *FAST, *said, "-o", "json").out)[0]["load"]
    assert {key: load[key] for key in expected} == pytest.approx(expected)


def test_arms_with_shares_of_their_own_have_a_table_each(policy):
    variants = {"stable": specs.variant(), "b": specs.variant("v2", 8002), "c": specs.variant("v3", 8003)}
    goal = {"name": "better", "metric": "envoy/error_rate", "role": "goal", "better_by": {"relative": "0%"}}
    guardrail = {"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "1%"}}
    path = policy(
        variants=variants,
        steps=[{"ab": {"shares": {"b": "10%", "c": "20%"}, "goal": "better", "at_most": "10m"}}, {"promote": {}}],
        gates=[guardrail, goal],
    )
    ran = run("plan", path, "--rps", "2")
    assert ran.code == 1
    assert ran.out.count("STAGE  ") == 2
    assert "\n  b\n" in ran.out
    assert "\n  c\n" in ran.out
    assert "too late" in ran.out
    assert "0.1%: " in ran.out


def test_a_policy_without_a_candidate_has_nothing_to_plan(policy):
    ran = run("plan", policy(variants={"stable": specs.variant()}, steps=None, gates=None), *FAST)
    assert (ran.code, ran.out.splitlines()[1:]) == (0, ["  nothing to roll out"])


def test_a_policy_from_stdin_has_no_places(policy):
    text = policy(steps=[{"canary": {"shares": ["50%"], "hold": {"for": "10s", "samples": 9_000_000}}}, {"promote": {}}]).read_text()
    ran = run("plan", "-", *FAST, "-o", "json", stdin=text)
    assert ran.code == 1
    first = json.loads(ran.out)[0]["warnings"][0]
    assert (first["file"], first["line"]) == ("<stdin>", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--rps"),
        (("--rps", "0"), "--rps"),
        (("--rps", "10", "--rollout", "nope"), "there is no rollout 'nope'"),
        (("--rps", "10", "--baseline", "error_rate=1"), "such as error_rate=1%"),
        (("--rps", "10", "--baseline", "p99=100,p50=400"), "such as error_rate=1%"),
        (("--rps", "10", "--baseline", "error_rate=100%"), "an error rate is at least 0%"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(policy, arguments, words):
    ran = run("plan", policy(), *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_a_faulty_policy_is_wrong_usage(policy):
    ran = run("plan", policy(gates=[{"name": "errors", "metric": "envoy/error_rate"}]), *FAST)
    assert ran.code == 2
    assert "the policy is not valid" in ran.err
