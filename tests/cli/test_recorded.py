"""The options that name evidence of the past: times, clusters, tokens, and errors in the house form."""

import json
import time

import click
import pytest
from click.testing import CliRunner

from tests.cli.running import run
from xds_server.adapters import prometheus_history
from xds_server.adapters.prometheus_history import Selectors, envoy
from xds_server.cli import recorded
from xds_server.cli.exits import CliError
from xds_server.cli.recorded import Past

ARMS = ("--arm", "stable=chat-v1", "--arm", 'candidate={envoy_cluster_name="chat-v2",job="edge"}')


@pytest.fixture
def asked(monkeypatch):
    """What was asked of Prometheus."""
    found = []
    monkeypatch.setattr(prometheus_history, "read", lambda url, arms, **how: found.append((url, arms, how)) or "history")
    return found


def read(*arguments):
    """What a command with the options reads."""
    got = []

    @click.command()
    @recorded.options
    def command(**past):
        got.append(Past(**past).read())

    result = CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return got[0]


def write(path, variant="stable"):
    path.write_text(f"end,variant,requests,errors,generation\n5,{variant},3,0,1\n6,{variant},3,0,2\n")
    return path


def test_nothing_named_is_nothing_read():
    assert read() == ()


def test_every_file_is_read_in_its_order(tmp_path):
    one, two = write(tmp_path / "1.csv"), write(tmp_path / "2.csv")
    assert [found.source for found in read("--recording", two, "--recording", one)] == [str(two), str(one)]


def test_a_release_is_chosen_and_a_broken_file_is_an_error_of_the_command(tmp_path):
    path = write(tmp_path / "r.csv", "candidate")
    with pytest.raises(CliError, match="2 releases") as caught:
        read("--recording", path)
    assert (caught.value.where, "--release" in caught.value.hint) == (str(path), True)
    assert [block.arms["candidate"].requests for block in read("--recording", path, "--release", 2)[0]] == [3]


def test_a_prometheus_is_asked_for_the_clusters_and_the_time(asked):
    assert read("--prometheus", "http://prom:9090", *ARMS, "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T02:00:00+01:00") == (
        "history",
    )
    ((url, arms, how),) = asked
    assert (url, how["start"], how["end"] - how["start"], how["step"], how["headers"]) == (
        "http://prom:9090",
        1767225600.0,
        3600.0,
        15.0,
        {},
    )
    assert arms == {
        "stable": Selectors(
            requests='envoy_cluster_upstream_rq{envoy_cluster_name="chat-v1"}',
            latency='envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="chat-v1"}',
        ),
        "candidate": envoy('envoy_cluster_name="chat-v2",job="edge"'),
    }


def test_a_time_may_be_told_by_how_long_ago_it_was(asked):
    before = time.time()
    read("--prometheus", "http://prom:9090", *ARMS, "--from", "6h", "--step-length", "1m")
    how = asked[0][2]
    assert before - 6 * 3600 <= how["start"] <= time.time() - 6 * 3600
    assert before <= how["end"] <= time.time()
    assert how["step"] == 60.0


def test_a_token_is_read_from_its_file(asked, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    read("--prometheus", "http://prom:9090", *ARMS, "--from", "6h", "--token-file", tmp_path / "token")
    assert asked[0][2]["headers"] == {"Authorization": "Bearer s3cret"}
    (tmp_path / "two").write_text("s3cret\nmore")
    for broken in ("none", "two"):
        with pytest.raises(CliError, match="token") as caught:
            read("--prometheus", "http://prom:9090", *ARMS, "--from", "6h", "--token-file", tmp_path / broken)
        assert "s3cret" not in f"{caught.value.what}{caught.value.where}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "6h"), "needs --from and --arm"),
        (ARMS, "needs --from and --arm"),
        ((*ARMS, "--from", "yesterday"), "is not a duration"),
        ((*ARMS, "--from", "2026-13-01T00:00:00Z"), "is not a time"),
        ((*ARMS, "--from", "2026-01-01T00:00:00"), "time zone"),
        ((*ARMS, "--from", "6h", "--arm", "x"), "names no variant's cluster"),
        ((*ARMS, "--from", "6h", "--arm", "=x"), "names no variant's cluster"),
        ((*ARMS, "--from", "6h", "--arm", "stable=y"), "named twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked, arguments, words):
    with pytest.raises((CliError, click.UsageError), match=words):
        read("--prometheus", "http://prom:9090", *arguments)
    assert asked == []


POLICY = """
apiVersion: crossfade/v1
kind: Rollout
metadata: {name: chat}
spec:
  traffic: {proxies: edge, listener: public, match: [{path_prefix: /}]}
  variants:
    stable: {version: v1, endpoints: {static: ["127.0.0.1:8001"]}}
    candidate: {version: v2, endpoints: {static: ["127.0.0.1:8002"]}}
  steps:
    - canary: {shares: [10%], hold: {for: 1m, samples: 100}}
    - promote: {keep_stable_for: 1m}
  gates:
    - {name: errors, metric: envoy/error_rate, margin: {absolute: 2%}}
---
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec: {select: {cluster: edge}, listeners: [{name: public, port: 8080}]}
"""


def recording(path, *, bad_from=10**9, share=0.1, names=("stable", "candidate")):
    """1,000 blocks of a second; from `bad_from` on half of the candidate's answers are bad."""
    lines = ["end,variant,share,requests,errors"]
    for at in range(1, 1001):
        lines += [f"{at},{names[0]},{1 - share},90,0", f"{at},{names[1]},{share},10,{5 if at >= bad_from else 0}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def replayed(tmp_path, *arguments):
    (tmp_path / "chat.yaml").write_text(POLICY)
    return run("test", tmp_path / "chat.yaml", *arguments)


def test_a_policy_is_replayed_on_every_recording(tmp_path):
    good, bad = recording(tmp_path / "good.csv"), recording(tmp_path / "bad.csv", bad_from=40)
    ran = replayed(tmp_path, "--recording", good, "--recording", bad, "-o", "json")
    assert (ran.code, ran.err) == (0, "")
    one, other = json.loads(ran.out)["scenarios"]
    assert (one["name"], one["runs"], one["promoted"]["runs"]) == ("good.csv", 1, 1)
    assert (other["name"], other["runs"], other["reverted"]["runs"]) == ("bad.csv", 1, 1)
    assert 40 <= other["time_to_revert_s"]["p50"] <= 60
    # Nobody knows whether that was right.
    assert not other["false_reverts"]


def test_what_is_drawn_is_replayed_as_often_as_asked_and_what_is_short_is_told(tmp_path):
    drawn, short = recording(tmp_path / "drawn.csv", share=0.3), recording(tmp_path / "short.csv", share=0.05)
    ran = replayed(tmp_path, "--recording", drawn, "--recording", short, "--runs", 3, "-o", "json")
    assert [each["runs"] for each in json.loads(ran.out)["scenarios"]] == [3, 3]  # of the short one, stable's
    assert "the policy gives an arm more than was recorded" in ran.err
    assert "short.csv" in ran.err
    assert "drawn.csv" not in ran.err.replace("short.csv", "")


def test_a_recording_of_something_else_is_refused(tmp_path):
    ran = replayed(tmp_path, "--recording", recording(tmp_path / "r.csv", names=("stable", "green")))
    assert ran.code == 2
    assert "nothing of candidate; it has green, stable" in ran.err


def test_a_cluster_with_an_odd_name_is_still_a_name():
    assert envoy('chat/2=v1."x"').requests == 'envoy_cluster_upstream_rq{envoy_cluster_name="chat/2=v1.\\"x\\""}'
