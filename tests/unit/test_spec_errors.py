"""Every fault of a policy file is told once, with file, line, column, path and a way to mend it."""

import pytest

from policies.errors import SpecError
from policies.spec.loader import ERRORS_MAX, load
from tests.specs import PROXIES, fault, rollout, text, variant

GOOD = """\
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec:
  select: {cluster: edge}
  listeners:
    - {name: public, address: 0.0.0.0, port: 8080}
---
# the model
apiVersion: crossfade/v1
kind: Rollout
metadata:
  name: chat
spec:
  traffic:
    proxies: edge
    listener: public
    match: [{host: chat.internal}]
  variants:
    stable:
      version: v1
      endpoints: {static: ["127.0.0.1:8001"]}
    candidate:
      version: v2
      endpoints: {static: ["127.0.0.1:8002"]}
      runtime: vllm
  assignment:
    sticky: none
  steps:
    - shadow: {share: 10%, hold: {for: 1m}}
    - canary: {shares: [5%, 50%], hold: {for: 1m, samples: 20}}
    - promote: {keep_stable_for: 10m}
  gates:
    - name: errors
      metric: envoy/error_rate
      role: guardrail
      margin: {absolute: 1%}
  when:
    fail: revert
    stuck: {after: 2h, then: revert}
  lease: 30s
"""


def errors(before, after):
    assert GOOD.count(before) == 1, "the test's own replacement must hit once"
    found = load({"dir/chat.yaml": GOOD.replace(before, after)})
    assert all(error.file == "dir/chat.yaml" for error in found.errors)
    return [(error.line, error.column, error.path, error.message) for error in found.errors]


def test_the_text_is_good_before_it_is_spoilt():
    found = load({"f": GOOD})
    assert (len(found.rollouts), len(found.proxies), found.errors, found.warnings) == (1, 1, (), ())


@pytest.mark.parametrize(
    ("before", "after", "place", "message"),
    [
        ("    listener: public", "    listner: public", (17, 5, "spec.traffic.listner"), "unknown key 'listner'"),
        ("  lease: 30s", "  lease: 30s\n  leases: 30s", (42, 3, "spec.leases"), "unknown key 'leases'"),
        ("kind: Rollout", "kind: Rolout", (11, 1, "kind"), "unknown kind 'Rolout'"),
        ("kind: Rollout", "kind: [a]", (11, 1, "kind"), "unknown kind ['a']"),
        ("kind: Rollout\n", "", (10, 1, ""), "the document has no kind"),
        ("metadata:\n  name: chat", "metadata: {}", (12, 1, "metadata.name"), "name is missing"),
        ("      version: v1\n", "", (20, 5, "spec.variants.stable.version"), "version is missing"),
        ("      margin: {absolute: 1%}\n", "", (34, 7, "spec.gates[0].margin"), "margin is missing"),
        ("version: v1", "version: 1.10", (21, 7, "spec.variants.stable.version"), "1.10 is not text here"),
        ("version: v1", "version: true", (21, 7, "spec.variants.stable.version"), "true is not text here"),
        ("version: v1", "version: [v1]", (21, 7, "spec.variants.stable.version"), "a list does not fit"),
        ("version: v1", "version:", (21, 7, "spec.variants.stable.version"), "version is empty"),
        ("    - promote: {keep_stable_for: 10m}", "    - promote:", (32, 7, "spec.steps[2].promote"), "promote is empty"),
        ("    - promote: {keep_stable_for: 10m}", "    -", (32, 6, "spec.steps[2]"), "item 2 is empty"),
        ("port: 8080", 'port: "8080"', (7, 40, "spec.listeners[0].port"), "'8080' does not fit"),
        ("samples: 20", "samples: lots", (31, 51, "spec.steps[1].canary.hold.samples"), "'lots' does not fit"),
        ("[5%, 50%]", "[5%, 50]", (31, 29, "spec.steps[1].canary.shares[1]"), "50 is no percentage"),
        ("fail: revert", "fail: revrt", (39, 5, "spec.when.fail"), "'revrt' is not known here"),
        ("runtime: vllm", "runtime: vlm", (26, 7, "spec.variants.candidate.runtime"), "unknown runtime 'vlm'"),
        ("spec:\n  traffic:", "spec: []\nspecs:\n  traffic:", (14, 1, "spec"), "a list does not fit"),
        (
            "    fail: revert",
            "    fail: revert\n    fail: hold",
            (40, 5, "spec.when.fail"),
            "the key 'fail' stands twice; first in line 39",
        ),
        ("sticky: none", "sticky: header", (28, 5, "spec.assignment.sticky"), "'header' is not a way to be sticky"),
        ("cluster: edge", "cluster: !!int edge", (5, 12, "spec.select.cluster"), "the tag !!int is not allowed here"),
        (
            "    - promote: {keep_stable_for: 10m}",
            "    - promote: !x {}",
            (32, 7, "spec.steps[2].promote"),
            "the tag !x is not allowed here",
        ),
        ("cluster: edge", "cluster: !env edge", (5, 12, "spec.select.cluster"), "the tag !env is not allowed here"),
        ("  lease: 30s", "  1: x\n  lease: 30s", (41, 3, "spec"), "a key must be text"),
        ("  lease: 30s", "  <<: {}\n  lease: 30s", (41, 3, "spec"), "merge keys (<<) are not supported"),
    ],
)
def test_a_fault_is_told_where_it_stands(before, after, place, message):
    assert (*place, message) in errors(before, after)


@pytest.mark.parametrize(
    ("before", "after", "path", "message"),
    [
        ("  lease: 30s", "  notify: []", "spec.notify", "notify is not supported yet"),
        ("metric: envoy/error_rate", "metric: envoy/ttft", "spec.gates[0].metric", "envoy/ttft is not supported yet"),
        ("metric: envoy/error_rate", "metric: {prometheus: up}", "spec.gates[0].metric", "a metric from prometheus is not supported yet"),
        ("margin: {absolute: 1%}", "margin: {absolute: 1%, at_least: 0.85}", "spec.gates[0].margin.at_least", "at_least is not supported yet"),
        ("runtime: vllm", "pods: {gpus: 1}", "spec.variants.candidate.pods.gpus", "gpus is not supported yet"),
        ("runtime: vllm", "pods: {gpu_hour_usd: 2}", "spec.variants.candidate.pods.gpu_hour_usd", "gpu_hour_usd is not supported yet"),
        ("port: 8080", "port: 8080, tls: {}", "spec.listeners[0].tls", "tls is not supported yet"),
        ("port: 8080", "port: 8080, access: {}", "spec.listeners[0].access", "access is not supported yet"),
        ('{static: ["127.0.0.1:8001"]}', "{kubernetes: {service: a}}", "spec.variants.stable.endpoints.kubernetes", "kubernetes is not supported yet"),
    ],
)  # fmt: skip
def test_what_is_promised_and_not_there_yet_says_so_and_nothing_else(before, after, path, message):
    assert [(found_path, found_message) for _, _, found_path, found_message in errors(before, after)] == [(path, message)]


@pytest.mark.parametrize(
    ("before", "after", "hint"),
    [
        ("    listener: public", "    listner: public", "did you mean 'listener'?"),
        ("    stable:", "    stabel:", "call it stable"),
        ("kind: Rollout", "kind: rollout", "did you mean 'Rollout'?"),
        ("runtime: vllm", "runtime: vlm", "did you mean 'vllm'?"),
        ("fail: revert", "fail: revrt", "did you mean 'revert'?"),
        ("proxies: edge", "proxies: egde", "did you mean 'edge'?"),
        ("listener: public", "listener: pubic", "did you mean 'public'?"),
        ("version: v1", "version: 1.10", 'put it in quotes: "1.10"'),
        ("    - promote: {keep_stable_for: 10m}", "    - promote:", "write promote: {}"),
        ("    proxies: edge\n", "", "add proxies: edge"),
    ],
)
def test_hints_say_how_to_mend_it(before, after, hint):
    (error,) = load({"f": GOOD.replace(before, after)}).errors
    assert error.hint == hint


def test_a_misspelt_key_is_one_fault_and_not_also_a_missing_one():
    assert [path for _, _, path, _ in errors("    listener: public", "    listner: public")] == ["spec.traffic.listner"]


def test_all_faults_of_all_files_are_told_at_once_in_order():
    first = GOOD.replace("fail: revert", "fail: no").replace("version: v1", "version: 1")
    second = GOOD.replace("kind: Proxies", "kind: Proxy").replace("cluster: edge", "cluster: 3")
    found = load({"b.yaml": second, "a.yaml": first, "c.yaml": "a: [", "d.yaml": b"\xff"})
    assert [(error.file, error.line) for error in found.errors] == [
        ("a.yaml", 21), ("a.yaml", 39), ("b.yaml", 2), ("c.yaml", 2), ("d.yaml", 1),
    ]  # fmt: skip


def test_a_bad_document_does_not_take_its_neighbours_with_it():
    bad = rollout("bad", lease=5)
    found = load({"f": text(PROXIES, rollout("one"), bad, rollout("two", traffic={"proxies": "edge", "listener": "public"}))})
    assert [policy.name for policy in found.rollouts] == ["one", "two"]
    assert [error.path for error in found.errors] == ["spec.lease.ttl"]


def test_documents_before_a_syntax_error_are_still_read():
    found = load({"f": GOOD + "---\na: [\n"})
    assert [policy.name for policy in found.rollouts] == ["chat"]
    assert [(error.path, error.line) for error in found.errors] == [("", 44)]


@pytest.mark.parametrize("spoilt", ["tag: !x y", "a: 1\na: 2", "<<: {}"])
def test_a_document_with_a_fault_of_its_text_is_not_in_force(spoilt):
    found = load(
        {"f": GOOD.replace("metadata:\n  name: chat", "metadata:\n  name: chat\n  labels:\n    " + spoilt.replace("\n", "\n    "))}
    )
    assert not found.rollouts
    assert found.errors


def test_the_number_of_errors_told_of_a_file_is_bounded():
    labels = {f"k{number}": number for number in range(60)}
    documents = [rollout(f"r{number}") | {"metadata": {"name": f"r{number}", "labels": labels}} for number in range(3)]
    found = load({"f": text(PROXIES, *documents)})
    assert len(found.errors) == ERRORS_MAX + 1
    assert found.errors[-1].message == "80 more errors in this file are not shown"


def test_no_message_repeats_more_than_a_bit_of_what_it_read():
    long = "x" * 5000
    found = load({"f": text({**PROXIES, "metadata": {"name": long, long: long}, "kind": "Proxies"}, {**rollout(), "kind": long})})
    assert len(found.errors) == 3
    assert max(len(str(error)) for error in found.errors) < 600


def test_errors_are_plain_values():
    error = fault(lease=5)
    assert error == SpecError(
        file="f.yaml",
        line=error.line,
        column=3,
        path="spec.lease.ttl",
        message="5 is no duration",
        expected="a number with its unit ms, s, m, h or d, such as 300ms or 5m",
        hint="write 5s for seconds",
    )


@pytest.mark.parametrize("document", ["[]", "5", "text", "- a\n- b"])
def test_a_document_is_a_mapping(document):
    (error,) = load({"f": document}).errors
    assert error.expected == "a mapping of apiVersion, kind, metadata, spec"


@pytest.mark.parametrize("nothing", ["", "\n", "# only a comment\n", "---\n", "---\n---\n"])
def test_a_file_without_documents_is_no_error(nothing):
    found = load({"f": nothing})
    assert (found.rollouts, found.proxies, found.errors) == ((), (), ())


def test_a_variant_must_be_a_mapping():
    assert fault(variants={"stable": variant(), "candidate": "v2"}).expected == "a mapping of keys to values"


def test_a_document_that_is_only_a_tag_is_one_fault():
    (error,) = load({"f": "!x y"}).errors
    assert error.message == "the tag !x is not allowed here"
