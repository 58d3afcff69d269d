"""Which policy files are in force: good ones as they are, broken ones as they last were, none of it lost to an empty directory."""

from pathlib import Path

import pytest

from xds_server.runtime.documents import Documents

EXAMPLE = (Path(__file__).parents[2] / "deploy" / "examples" / "minimal.yaml").read_bytes()
BROKEN = b"apiVersion: crossfade/v1\nkind: Rollout\nspec: {nonsense: 1}\n"

PROXIES = """\
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec:
  select: {cluster: edge}
  listeners:
    - {name: http, address: 0.0.0.0, port: 8080}
"""


def rollout(name, host="", version="v2", share="10%", extra=""):
    return f"""\
apiVersion: crossfade/v1
kind: Rollout
metadata: {{name: {name}}}
spec:
  traffic: {{proxies: edge, listener: http, match: [{{host: {host or name}.example.com}}]}}
  variants:
    stable: {{version: v1, endpoints: {{static: ["127.0.0.1:9001"]}}}}
    candidate: {{version: {version}, endpoints: {{static: ["127.0.0.1:9002"]}}}}
  steps:
    - canary: {{shares: [{share}], hold: {{for: 5m}}}}
    - promote: {{}}
  gates:
    - {{name: errors, metric: envoy/error_rate, margin: {{absolute: 0.5%}}}}
{extra}""".encode()


def files(**texts):
    return {"proxies.yaml": PROXIES.encode()} | {f"{name}.yaml": text for name, text in texts.items()}


def names(documents):
    return [policy.name for policy in documents.loaded.rollouts]


def values(documents):
    return {policy.name: policy for policy in documents.loaded.rollouts}


def told(documents):
    return [error.file for error in documents.errors]


def test_a_broken_file_keeps_its_last_good_text_and_shows_its_errors():
    documents = Documents()
    documents.take({"a.yaml": EXAMPLE})
    before = names(documents)
    assert before
    documents.take({"a.yaml": BROKEN})
    assert names(documents) == before
    assert documents.errors
    assert documents.errors[0].file == "a.yaml"
    documents.take({"a.yaml": EXAMPLE})
    assert documents.errors == ()


def test_a_newcomer_that_conflicts_with_an_incumbent_is_left_out():
    documents = Documents()
    documents.take({"b.yaml": EXAMPLE})
    before = names(documents)
    documents.take({"a.yaml": EXAMPLE, "b.yaml": EXAMPLE})
    assert names(documents) == before
    assert set(documents.good) == {"b.yaml"}
    assert set(told(documents)) == {"a.yaml"}


def test_of_two_newcomers_that_clash_the_first_by_name_is_in_force_and_the_other_is_told():
    documents = Documents()
    texts = files(b=rollout("b", host="same"), c=rollout("c", host="same"), d=rollout("d"), a=BROKEN)
    documents.take(texts)
    assert names(documents) == ["b", "d"]
    assert set(told(documents)) == {"a.yaml", "c.yaml"}
    documents.take(texts | {"b.yaml": rollout("b", host="moved")})
    assert names(documents) == ["b", "c", "d"]


def test_many_broken_newcomers_do_not_keep_the_good_ones_out():
    documents = Documents()
    documents.take(files(**{f"x{number}": BROKEN for number in range(40)}, good=rollout("good")))
    assert names(documents) == ["good"]


def test_a_commit_that_changes_something_else_leaves_equal_values():
    documents = Documents()
    texts = files(chat=rollout("chat"), search=rollout("search"))
    documents.take(texts)
    before = values(documents)["chat"]
    for commit in (
        texts | {"search.yaml": rollout("search", version="v3")},
        texts | {"search.yaml": BROKEN},
        texts | {"more.yaml": rollout("more"), "readme.json": b"{"},
        texts | {"more.yaml": rollout("more", host="chat")},
        texts | {"chat.yaml": b"# a comment\n" + texts["chat.yaml"]},
        {"proxies.yaml": texts["proxies.yaml"], "chat.yaml": texts["chat.yaml"]},
        {"proxies.yaml": texts["proxies.yaml"], "moved/chat.yaml": texts["chat.yaml"]},
    ):
        documents.take(commit)
        assert values(documents)["chat"] == before


def test_a_file_that_others_need_is_not_gone_by_being_deleted():
    documents = Documents()
    texts = files(chat=rollout("chat"), search=rollout("search"))
    documents.take(texts)
    before = values(documents)
    documents.take({"chat.yaml": texts["chat.yaml"], "search.yaml": rollout("search", version="v3")})
    assert values(documents)["chat"] == before["chat"]
    assert documents.errors
    documents.take({"chat.yaml": texts["chat.yaml"], "search.yaml": BROKEN})
    assert values(documents)["chat"] == before["chat"]
    assert set(told(documents)) == {"chat.yaml", "search.yaml"}
    documents.take(texts)
    assert documents.errors == ()


def test_a_removed_file_is_gone_and_an_empty_directory_is_not_believed():
    documents = Documents()
    documents.take({"a.yaml": EXAMPLE, "notes.yaml": b""})
    before = names(documents)
    for empty in ({}, {"left.jsonl": b"{}"}):
        documents.take(empty)
        assert names(documents) == before
        assert "empty" in documents.errors[0].message
    documents.take({"notes.yaml": b""})
    assert names(documents) == []


def test_what_was_in_force_survives_a_restart_on_broken_files():
    documents = Documents()
    documents.take({"a.yaml": EXAMPLE})
    again = Documents()
    again.remember(documents.to_bytes())
    again.take({"a.yaml": BROKEN})
    assert names(again) == names(documents)
    third = Documents()
    third.remember(documents.to_bytes())
    third.take({})
    assert names(third) == names(documents)


def test_what_an_earlier_version_has_kept_is_understood():
    documents = Documents()
    documents.remember(b'{"a.yaml": "apiVersion: crossfade/v1\\nkind: Proxies\\nmetadata: {name: edge}\\nspec: {}\\n"}')
    assert documents.good == {}
    old = Documents()
    old.remember(b'{"proxies.yaml": "%s"}' % PROXIES.replace("\n", "\\n").encode())
    assert [group.name for group in old.loaded.proxies] == ["edge"]


# Commits.


def test_a_rollout_names_the_commit_that_changed_it_last_also_after_a_restart():
    documents = Documents(source="https://example.com/x.git#main")
    texts = files(chat=rollout("chat"), search=rollout("search"))
    documents.take(texts, "c1")
    assert documents.origin("chat") == {"file": "chat.yaml", "source": "https://example.com/x.git#main", "commit": "c1"}
    documents.take(texts | {"search.yaml": rollout("search", version="v3")}, "c2")
    assert (documents.origin("chat")["commit"], documents.origin("search")["commit"]) == ("c1", "c2")
    texts["search.yaml"] = rollout("search", version="v3")
    again = Documents()
    again.remember(documents.to_bytes())
    again.take(texts | {"more.yaml": rollout("more")}, "c3")
    assert {name: again.origin(name)["commit"] for name in names(again)} == {"chat": "c1", "more": "c3", "search": "c2"}


def test_a_broken_commit_is_nobodys_and_the_one_that_mends_it_is():
    documents = Documents()
    documents.take(files(chat=rollout("chat")), "c1")
    documents.take(files(chat=BROKEN), "c2")
    assert documents.origin("chat")["commit"] == "c1"
    documents.take(files(chat=rollout("chat", share="20%")), "c3")
    assert documents.origin("chat")["commit"] == "c3"
    assert documents.origin("nobody") == {"file": "", "source": "", "commit": ""}


def test_a_window_in_a_zone_that_does_not_exist_is_told_and_the_last_good_document_stays():
    documents = Documents()
    good = files(chat=rollout("chat", extra='  freeze: [{cron: "0 18 * * FRI", for: 62h, timezone: Europe/Berlin}]\n'))
    documents.take(good, "c1")
    before = values(documents)
    assert documents.errors == ()
    bad = rollout("chat", version="v9", extra='  freeze:\n    - {cron: "0 18 * * FRI", for: 62h, timezone: Europe/Berln}\n')
    documents.take(good | {"chat.yaml": bad}, "c2")
    assert values(documents) == before
    (error,) = documents.errors
    assert (error.file, error.path) == ("chat.yaml", "spec.freeze[0].timezone")
    assert b"Berln" in bad.splitlines()[error.line - 1]
    assert "Europe/Berln" in error.message


def test_an_edit_that_breaks_what_others_need_does_not_hold_back_the_other_edits_and_newcomers():
    documents = Documents()
    texts = files(chat=rollout("chat"), search=rollout("search"), zeta=rollout("zeta"))
    documents.take(texts, "c1")
    edits = {"proxies.yaml": PROXIES.replace("name: http", "name: other").encode()}
    edits |= {"search.yaml": rollout("search", version="v3"), "zeta.yaml": rollout("zeta", version="v3"), "new.yaml": rollout("new")}
    documents.take(texts | edits, "c2")
    assert {name: policy.arms[0].version for name, policy in values(documents).items()} == {
        "chat": "v2",
        "new": "v2",
        "search": "v3",
        "zeta": "v3",
    }
    assert documents.good["proxies.yaml"] == texts["proxies.yaml"]
    assert {name: documents.origin(name)["commit"] for name in names(documents)} == {
        "chat": "c1",
        "new": "c2",
        "search": "c2",
        "zeta": "c2",
    }
    assert "chat.yaml" in told(documents)


def test_of_an_edit_and_a_newcomer_that_clash_the_edit_is_in_force():
    documents = Documents()
    texts = files(zeta=rollout("zeta"))
    documents.take(texts, "c1")
    documents.take(texts | {"zeta.yaml": rollout("zeta", host="wanted"), "a.yaml": rollout("a", host="wanted")}, "c2")
    assert names(documents) == ["zeta"]
    assert values(documents)["zeta"].traffic.match[0].host == "wanted.example.com"
    assert set(told(documents)) == {"a.yaml"}


def test_imagining_changes_nothing():
    documents = Documents()
    documents.take(files(chat=rollout("chat")), "c1")
    kept = documents.to_bytes()
    would, errors = documents.imagine(files(chat=rollout("chat", version="v3"), bad=BROKEN))
    assert [policy.arms[0].version for policy in would.rollouts] == ["v3"]
    assert {error.file for error in errors} == {"bad.yaml"}
    assert documents.to_bytes() == kept
    assert documents.errors == ()


# Bundles and companions.

BUNDLE = """\
apiVersion: crossfade/v1
kind: GateBundle
metadata: {name: usual}
spec:
  gates:
    - {name: latency, metric: envoy/latency, statistic: p95, margin: {relative: RELATIVE}}
"""
USES = "    - use: usual\n"


def bundle(relative):
    return BUNDLE.replace("RELATIVE", relative).encode()


def probed(name="chat"):
    return rollout(name).replace(b"  steps:\n", b"  steps:\n    - probe: {requests: samples/chat.jsonl, rate: 5/s, for: 1m}\n")


def test_a_bundle_changes_the_rollouts_that_use_it_and_a_broken_or_deleted_one_does_not():
    documents = Documents()
    texts = files(chat=rollout("chat", extra=USES), search=rollout("search"), usual=bundle("10%"))
    documents.take(texts, "c1")
    before = values(documents)
    assert documents.errors == ()
    assert [gate.name for gate in before["chat"].gates] == ["errors", "latency"]
    for broken in (texts | {"usual.yaml": bundle("nonsense")}, {file: text for file, text in texts.items() if file != "usual.yaml"}):
        documents.take(broken, "c2")
        assert values(documents) == before
        assert documents.errors
    documents.take(texts | {"usual.yaml": bundle("20%")}, "c3")
    assert values(documents)["chat"].gates[1].margin.relative == pytest.approx(0.2)
    assert (documents.origin("chat")["commit"], documents.origin("search")["commit"]) == ("c3", "c1")


def test_a_companion_that_is_broken_or_deleted_stays_as_it_was():
    documents = Documents()
    texts = files(chat=probed(), search=rollout("search")) | {"samples/chat.jsonl": b'{"path": "/v1"}\n'}
    documents.take(texts, "c1")
    before = values(documents)
    assert documents.errors == ()
    assert before["chat"].steps[0].requests[0].path == "/v1"
    for broken in (texts | {"samples/chat.jsonl": b"{"}, {file: text for file, text in texts.items() if not file.endswith(".jsonl")}):
        documents.take(broken | {"search.yaml": rollout("search", version="v3")}, "c2")
        assert values(documents)["chat"] == before["chat"]
        assert values(documents)["search"].arms[0].version == "v3"
        assert documents.errors
    documents.take(texts | {"samples/chat.jsonl": b'{"path": "/v2"}\n'}, "c3")
    assert values(documents)["chat"].steps[0].requests[0].path == "/v2"
    assert documents.origin("chat")["commit"] == "c3"


def test_a_new_rollout_with_a_broken_companion_waits_for_it():
    documents = Documents()
    texts = files(chat=probed(), search=rollout("search"))
    documents.take(texts | {"samples/chat.jsonl": b"{"}, "c1")
    assert names(documents) == ["search"]
    assert "samples/chat.jsonl" in told(documents)
    documents.take(texts | {"samples/chat.jsonl": b'{"path": "/v1"}\n'}, "c2")
    assert names(documents) == ["chat", "search"]
    assert documents.errors == ()
