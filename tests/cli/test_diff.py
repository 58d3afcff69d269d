"""`crossfade diff`: the real comparison behind the real API, with the states a running server would have."""

import json

import pytest

from policies import engine
from tests.cli.control import FakeControl, served
from tests.cli.running import run
from xds_server.runtime.differences import difference
from xds_server.runtime.documents import Documents

PROXIES = """\
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec:
  select: {cluster: edge}
  listeners:
    - {name: http, address: 0.0.0.0, port: 8080}
"""
BUNDLE = """\
apiVersion: crossfade/v1
kind: GateBundle
metadata: {name: usual}
spec:
  gates:
    - {name: latency, metric: envoy/latency, statistic: p95, margin: {relative: 10%}}
"""
ROLLOUT = """\
apiVersion: crossfade/v1
kind: Rollout
metadata: {name: chat}
spec:
  traffic: {proxies: edge, listener: http, match: [{host: chat.example.com}]}
  variants:
    stable: {version: v1, endpoints: {static: ["127.0.0.1:9001"]}}
    candidate: {version: v2, endpoints: {static: ["127.0.0.1:9002"]}}
  steps:
    - canary: {shares: [10%], hold: {for: 5m}}
    - promote: {}
  gates:
    - {name: errors, metric: envoy/error_rate, margin: {absolute: 0.5%}}
    - use: usual
"""
FILES = {"proxies.yaml": PROXIES, "gates.yaml": BUNDLE, "chat.yaml": ROLLOUT, "search.yaml": ROLLOUT.replace("chat", "search")}


class Running(FakeControl):
    """A control with documents and rollouts on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.documents = Documents()
        loaded = self.documents.take({name: text.encode() for name, text in FILES.items()})
        assert not self.documents.errors
        self.states = {policy.name: engine.adopt(policy, now=1000.0).state for policy in loaded.rollouts}

    def diff(self, texts, *, whole):
        return difference(self.documents, self.states, texts, whole=whole)


@pytest.fixture(scope="module")
def server():
    with served(Running()) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def diff(server, *arguments):
    return run("diff", *arguments, "--server", server.url)


def effects(ran):
    return {(each["kind"], each["name"]): each["effect"] for each in json.loads(ran.out)["changes"]}


def test_the_same_files_change_nothing_whatever_they_are_called(server, folder):
    ran = diff(server, folder)
    assert (ran.code, ran.out, ran.err) == (0, "", "0 of 4 documents would change\n")
    (folder / "chat.yaml").rename(folder / "renamed.yaml")
    (folder / "renamed.yaml").write_text("# a comment\n" + ROLLOUT)
    assert diff(server, folder).code == 0
    assert diff(server, *folder.iterdir()).code == 0


def test_another_candidate_restarts_and_the_field_is_named(server, folder):
    (folder / "chat.yaml").write_text(ROLLOUT.replace("v2", "v3"))
    ran = diff(server, folder)
    assert ran.code == 1
    first, second = ran.out.splitlines()
    assert first.startswith("Rollout chat  restarts: ")
    assert second == '    spec.variants.candidate.version: "v2" -> "v3"'
    assert ran.err == "1 of 4 documents would change\n"


def test_every_kind_of_change_has_its_word(server, folder):
    (folder / "chat.yaml").write_text(ROLLOUT.replace("version: v1", "version: v0"))
    (folder / "proxies.yaml").write_text(PROXIES.replace("8080", "8081"))
    (folder / "search.yaml").unlink()
    (folder / "more.yaml").write_text(ROLLOUT.replace("chat", "more"))
    ran = diff(server, folder, "-o", "json")
    assert ran.code == 1
    assert effects(ran) == {
        ("GateBundle", "usual"): "unchanged",
        ("Proxies", "edge"): "edited",
        ("Rollout", "chat"): "recommits",
        ("Rollout", "more"): "new",
        ("Rollout", "search"): "gone",
    }


def test_an_edited_bundle_is_told_at_the_rollouts_that_use_it_too(server, folder):
    (folder / "gates.yaml").write_text(BUNDLE.replace("10%", "20%"))
    ran = diff(server, folder)
    assert ran.code == 1
    assert '    spec.gates[latency].margin.relative: "10%" -> "20%"' in ran.out
    assert ran.out.count("edited") == 3
    assert "    gates[latency].margin.relative: 0.1 -> 0.2" in ran.out


def test_single_files_are_compared_with_their_own_documents_only(server, folder):
    (folder / "search.yaml").unlink()
    ran = diff(server, folder / "chat.yaml", folder / "proxies.yaml", folder / "gates.yaml", "-o", "json")
    assert ran.code == 0
    assert set(effects(ran)) == {("GateBundle", "usual"), ("Proxies", "edge"), ("Rollout", "chat")}


def test_files_with_faults_are_wrong_usage_and_are_not_sent(server, folder):
    (folder / "chat.yaml").write_text(ROLLOUT.replace("stable:", "stabel:"))
    ran = diff(server, folder)
    assert (ran.code, ran.out) == (2, "")
    assert "chat.yaml:" in ran.err


def test_a_newcomer_that_clashes_with_what_is_in_force_is_told(server, tmp_path):
    (tmp_path / "new.yaml").write_text("---\n".join((PROXIES, BUNDLE, ROLLOUT.replace("name: chat", "name: rival"))))
    ran = diff(server, tmp_path / "new.yaml")
    assert ran.code == 1
    assert "not taken over: " in ran.err


def test_without_a_server_the_exit_code_says_so(folder):
    assert run("diff", folder, "--server", "http://127.0.0.1:1").code == 3
