"""Scenario files: what they mean, and every fault with its line, its place and what would be right."""

from pathlib import Path

import pytest

from policies import replay
from policies.replay.documents import load
from policies.replay.scenario import Incident, Load, Moment, Noise

LIBRARY = sorted((Path(replay.__file__).parent / "scenarios").glob("*.yaml"))

WHOLE = """\
name: everything
load: {diurnal: {mean: 30/min, swing: 80%, period: 12h, peak_at: 3h}}
errors: {stable: 1%, candidate: 0.5%}
noise: {shared: 20%, arms: 10%, every: 30s}
latency: {p50: 80ms, p99: 2s}
incidents:
  - {kind: errors, arm: stable, at: 50%, lasts: 5m, ramp: 10s, times: 3, from_share: 5%}
  - {kind: latency, tail: {share: 2%, times: 10}}
  - {kind: pods, ready: 1, total: 4}
approve: never
ack: 200ms
horizon: 2d
right: promote
expect:
  promoted: ">= 95%"
  time_to_revert: {p50: "<= 30s", p99: "< 5m"}
  users_harmed: {p95: "<= 50"}
"""


def test_a_scenario_with_everything_in_it():
    (found,), errors = load("s.yaml", WHOLE)
    assert not errors
    assert found.load == Load(points=((0.0, 0.5),), swing=0.8, period_s=43_200.0, peak_at_s=10_800.0)
    assert found.errors == (("stable", 0.01), ("candidate", 0.005))
    assert found.noise == Noise(shared=0.2, arms=0.1, every_s=30.0)
    assert (found.latency.p50_ms, found.latency.p99_ms) == (80.0, 2000.0)
    assert found.incidents == (
        Incident(kind="errors", arm="stable", at=Moment(part=0.5), for_s=300.0, ramp_s=10.0, from_bp=500, times=3.0),
        Incident(kind="latency", tail_share=0.02, tail_times=10.0),
        Incident(kind="pods", ready=1, total=4),
    )
    assert (found.approve_after_s, found.ack_s, found.horizon_s, found.right) == (None, 0.2, 172_800.0, "promote")
    assert [(each.what, each.sign, each.bound, each.level) for each in found.expect] == [
        ("promoted", ">=", 0.95, None),
        ("time_to_revert", "<=", 30.0, 0.5),
        ("time_to_revert", "<", 300.0, 0.99),
        ("users_harmed", "<=", 50.0, 0.95),
    ]


@pytest.mark.parametrize(
    ("load_line", "points"),
    [
        ("load: 5/s", ((0.0, 5.0),)),
        ("load: {constant: 5/s}", ((0.0, 5.0),)),
        ("load: {ramp: {start: 1/s, end: 9/s, over: 10m}}", ((0.0, 1.0), (600.0, 9.0))),
        ("load: {points: [{at: 0s, rate: 1/s}, {at: 1m, rate: 60/min}]}", ((0.0, 1.0), (60.0, 1.0))),
    ],
)
def test_loads(load_line, points):
    (found,), _ = load("s.yaml", f"name: x\n{load_line}\n")
    assert found.load.points == points


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_is_good_and_each_file_is_called_as_its_scenario(path):
    (found,), errors = load(path.name, path.read_bytes())
    assert not errors
    assert found.name == path.stem
    assert found.about


def test_the_library_has_what_is_promised():
    wanted = {"good", "aa", "errors-1-to-5", "total-failure", "slow-25", "late-onset", "shared-outage", "arm-noise", "diurnal"}
    assert {path.stem for path in LIBRARY} >= wanted | {"quiet-night", "silent", "pods-lost"}


@pytest.mark.parametrize(
    ("line", "path", "words"),
    [
        ("erors: {stable: 1%}", "erors", "unknown key 'erors'"),
        ("load: 50", "load.constant", "50 is no load"),
        ("load: {constant: 5/s, ramp: {start: 1/s, end: 2/s, over: 1m}}", "load", "not one thing"),
        ("load: {points: [{at: 1m, rate: 1/s}, {at: 1m, rate: 2/s}]}", "load.points", "order of time"),
        ("errors: {stable: 200%}", "errors.stable", "no error rate is more than 100%"),
        ("noise: {shared: 10%, every: 10ms}", "noise.every", "too often"),
        ("latency: {p50: 1s, p99: 100ms}", "latency", "no latency is spread like this"),
        ("incidents: [{kind: fire}]", "incidents[0].kind", "'fire' is not known here"),
        ("incidents: [{kind: errors}]", "incidents[0]", "how many errors is not said"),
        ("incidents: [{kind: errors, rate: 5%, times: 2}]", "incidents[0]", "how many errors is not said"),
        ("incidents: [{kind: latency}]", "incidents[0]", "how slow is not said"),
        ("incidents: [{kind: silence, rate: 5%}]", "incidents[0].rate", "silence has no rate"),
        ("incidents: [{kind: pods, ready: 3}]", "incidents[0].ready", "more pods are ready"),
        ("incidents: [{kind: errors, rate: 5%, at: soon}]", "incidents[0].at", "'soon' is no duration"),
        ("approve: always", "approve", "'always' is not known here"),
        ("right: hold", "right", "'hold' is not known here"),
        ('expect: {promoted: "95%"}', "expect.promoted", "'95%' is no bound"),
        ('expect: {promotd: ">= 95%"}', "expect.promotd", "unknown key 'promotd'"),
        ('expect: {promoted: {p50: ">= 95%"}}', "expect.promoted", "a part of all runs"),
        ('expect: {users_harmed: "<= 5"}', "expect.users_harmed", "a quantile is meant"),
        ('expect: {users_harmed: {p101: "<= 5"}}', "expect.users_harmed.p101", "no quantile"),
        ('expect: {time_to_revert: {p50: "<= 30"}}', "expect.time_to_revert.p50", "does not fit time_to_revert"),
    ],
)
def test_faults_say_where_and_what(line, path, words):
    found, errors = load("s.yaml", f"name: x\nabout: y\n{line}\n")
    assert not found
    assert [(error.line, error.path) for error in errors] == [(3, path)]
    assert words in errors[0].message
    assert errors[0].expected or errors[0].hint


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "name: [\n"])
def test_what_is_no_scenario_at_all(text):
    found, errors = load("s.yaml", text)
    assert not found
    assert errors


def test_a_file_may_hold_several():
    found, errors = load("s.yaml", "name: a\n---\nname: b\n")
    assert [each.name for each in found] == ["a", "b"]
    assert not errors
