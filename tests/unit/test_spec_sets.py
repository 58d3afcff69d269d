"""Documents against each other: names, groups and traffic that two of them claim."""

from dataclasses import replace

import pytest

from policies.spec.checks import clash
from policies.spec.loader import load
from policies.spec.reader import read
from tests.specs import PROXIES, rollout, text


def proxies(name="edge", select=None, ports=(8080,)):
    listeners = [{"name": "public" if not index else f"l{index}", "port": port} for index, port in enumerate(ports)]
    return PROXIES | {"metadata": {"name": name}, "spec": {"select": select or {"cluster": name}, "listeners": listeners}}


def line(documents, words, nth=1):
    """The line of the nth place where a file says something."""
    return [number for number, each in enumerate(text(*documents).decode().splitlines(), 1) if words in each][nth - 1]


def told(**files):
    found = load({f"{name}.yaml": text(*documents) for name, documents in files.items()})
    return found, [(error.file, error.path, error.message) for error in found.errors]


def test_two_rollouts_on_the_same_traffic_are_both_told_and_neither_is_in_force():
    one, two = (proxies(), rollout("one")), (rollout("two"),)
    found, errors = told(a=one, b=two, c=[rollout("three", traffic={"proxies": "edge", "listener": "public"})])
    what = "host chat.internal with path / belongs to rollout"
    assert errors == [
        ("a.yaml", "spec.traffic.match[0]", f"{what} 'two' (b.yaml, line {line(two, 'host: chat.internal')})"),
        ("b.yaml", "spec.traffic.match[0]", f"{what} 'one' (a.yaml, line {line(one, 'host: chat.internal')})"),
    ]
    assert [policy.name for policy in found.rollouts] == ["three"]


def test_hosts_are_compared_without_case():
    spelt = rollout("two", traffic={"proxies": "edge", "listener": "public", "match": [{"host": "other"}, {"host": "CHAT.internal"}]})
    _, errors = told(a=[proxies(), rollout("one"), spelt])
    assert [path for _, path, _ in errors] == ["spec.traffic.match[0]", "spec.traffic.match[1]"]


def test_another_path_listener_or_group_is_other_traffic():
    base = {"proxies": "edge", "listener": "public"}
    others = [
        base | {"match": [{"host": "chat.internal", "path_prefix": "/v1"}]},
        base | {"listener": "l1", "match": [{"host": "chat.internal"}]},
        base | {"proxies": "inner", "match": [{"host": "chat.internal"}]},
        base | {"match": [{"host": "*.internal"}]},
    ]
    rollouts = [rollout(f"r{index}", traffic=traffic) for index, traffic in enumerate(others)]
    found, errors = told(a=[proxies(ports=(1, 2)), proxies("inner"), rollout(), *rollouts])
    assert errors == []
    assert len(found.rollouts) == 5


def test_one_name_belongs_to_one_document_of_a_kind():
    first, second = (proxies(), rollout("x")), (proxies("x"), rollout("x", traffic={"proxies": "x", "listener": "public"}))
    found, errors = told(a=first, b=second)
    assert errors == [
        ("a.yaml", "metadata.name", f"the name 'x' is taken (b.yaml, line {line(second, 'name: x', 2)})"),
        ("b.yaml", "metadata.name", f"the name 'x' is taken (a.yaml, line {line(first, 'name: x')})"),
    ]
    assert [group.name for group in found.proxies] == ["edge", "x"]


def test_three_of_a_name_are_all_told():
    found, errors = told(a=[proxies(), rollout("x")], b=[rollout("x")], c=[rollout("x")])
    assert {file for file, _, _ in errors} == {"a.yaml", "b.yaml", "c.yaml"}
    assert not found.rollouts


def test_two_groups_may_not_select_the_same_envoys():
    _, errors = told(
        a=[proxies("one", {"cluster": "c", "metadata": {"a": "1", "b": "2"}})],
        b=[proxies("two", {"metadata": {"b": "2", "a": "1"}, "cluster": "c"})],
    )
    assert errors == [
        ("a.yaml", "spec.select", "Proxies 'two' select the same Envoys (b.yaml, line 6)"),
        ("b.yaml", "spec.select", "Proxies 'one' select the same Envoys (a.yaml, line 6)"),
    ]


def test_a_rollout_names_a_group_and_a_listener_that_exist():
    _, errors = told(a=[proxies("outer"), rollout()])
    assert errors == [("a.yaml", "spec.traffic.proxies", "there are no Proxies named 'edge'")]
    found, errors = told(a=[proxies(), rollout(traffic={"proxies": "edge", "listener": "private"})])
    assert errors == [("a.yaml", "spec.traffic.listener", "Proxies 'edge' have no listener 'private'")]
    assert not found.rollouts


@pytest.mark.parametrize("broken", [text(proxies() | {"spec": {}}), b"a: [", b"\xff", text({"kind": "Proxis"}), text(["x"])])
def test_a_rollout_is_not_blamed_for_a_group_that_cannot_be_read(broken):
    """Otherwise one broken file would make every rollout on its group look broken."""
    found = load({"edge.yaml": broken, "chat.yaml": text(rollout())})
    assert {error.file for error in found.errors} == {"edge.yaml"}
    assert [policy.name for policy in found.rollouts] == ["chat"]


def test_a_broken_rollout_hides_no_missing_group():
    _, errors = told(a=[rollout("one")], b=[rollout("two", lease=1)])
    assert [(file, path) for file, path, _ in errors] == [("a.yaml", "spec.traffic.proxies"), ("b.yaml", "spec.lease.ttl")]


def test_the_order_of_the_files_does_not_matter():
    files = {"b": text(rollout("two")), "a": text(proxies(), rollout("one")), "c": text(rollout("three", lease=1), proxies("inner"))}
    assert load(files) == load(dict(reversed(files.items())))


def test_documents_that_have_nothing_in_common_do_not_clash():
    found = load(
        {
            "f": text(
                proxies("a"),
                proxies("b"),
                *(rollout(f"r{n}", traffic={"proxies": "a", "listener": "public", "match": [{"host": f"h{n}"}]}) for n in range(2)),
            )
        }
    )
    one, two = found.rollouts
    first, second = found.proxies
    for pair in ((one, two), (first, second), (one, first), (one, replace(one, name="x", traffic=replace(one.traffic, listener="other")))):
        assert clash(*pair) is None


def test_no_group_at_all_is_told_how_to_add_one():
    (error,) = load({"f": text(rollout())}).errors
    assert (error.expected, error.hint) == ("", "add a document of kind: Proxies")


def bundle(name="usual", *gates):
    gates = gates or ({"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "1%"}},)
    return PROXIES | {"kind": "GateBundle", "metadata": {"name": name}, "spec": {"gates": list(gates)}}


SLOW = {"name": "slow", "metric": "envoy/latency", "margin": {"relative": "5%"}}


def test_a_rollout_takes_the_gates_of_a_bundle_in_their_place():
    found, errors = told(a=[proxies(), rollout(gates=[SLOW, {"use": "usual"}])], b=[bundle()])
    assert errors == []
    assert [gate.name for gate in found.rollouts[0].gates] == ["slow", "errors"]
    assert [gate.name for gate in found.bundles["usual"]] == ["errors"]
    assert found.files["GateBundle", "usual"] == "b.yaml"


def test_a_bundle_that_is_not_there_is_told_where_it_is_used():
    uses = rollout(gates=[{"use": "usal"}])
    (error,) = load({"a.yaml": text(proxies(), uses), "b.yaml": text(bundle())}).errors
    assert (error.path, error.message) == ("spec.gates[0].use", "there is no GateBundle named 'usal'")
    assert (error.expected, error.hint) == ("one of usual", "did you mean 'usual'?")
    assert error.line == line([proxies(), uses], "use: usal")
    assert load({"a.yaml": text(proxies(), uses)}).errors[0].hint == "add a document of kind: GateBundle"


def test_a_broken_bundle_is_told_and_so_are_the_rollouts_that_use_it():
    """So that the files of both keep what was good before, and not one of them."""
    found, errors = told(
        a=[proxies(), rollout("one", gates=[{"use": "usual"}])],
        b=[bundle("usual", {"name": "x"})],
        c=[rollout("two", traffic={"proxies": "edge", "listener": "public"})],
    )
    assert {file for file, _, _ in errors} == {"a.yaml", "b.yaml"}
    assert ("a.yaml", "spec.gates[0].use", "GateBundle 'usual' cannot be used: it is broken (b.yaml)") in errors
    assert [policy.name for policy in found.rollouts] == ["two"]


def test_gates_of_a_bundle_have_names_of_their_own():
    _, errors = told(
        a=[proxies(), rollout(gates=[SLOW, {"use": "usual"}, {"use": "usual"}])], b=[bundle()], c=[bundle("twice", SLOW, SLOW)]
    )
    assert errors == [
        ("a.yaml", "spec.gates[2].use", "two gates are called 'errors'"),
        ("c.yaml", "spec.gates[1].name", "two gates are called 'slow'"),
    ]


def test_an_ab_may_be_decided_by_a_goal_of_a_bundle():
    goal = {"name": "faster", "metric": "envoy/latency", "role": "goal", "better_by": {"relative": "5%"}}
    steps = [{"ab": {"shares": {"candidate": "50%"}, "goal": "faster", "at_most": "7d"}}, {"promote": {}}]
    found, errors = told(a=[proxies(), rollout(gates=[{"use": "usual"}], steps=steps)], b=[bundle("usual", goal)])
    assert errors == []
    assert found.rollouts[0].steps[0].goal == "faster"


def in_layer(name, share, layer="web"):
    traffic = {"proxies": "edge", "listener": "public", "match": [{"host": name}]}
    steps = [{"canary": {"shares": ["1%", share]}}, {"promote": {}}]
    return rollout(name, traffic=traffic, steps=steps, assignment={"sticky": {"header": "x-user"}, "layer": layer})


def test_a_layer_has_room_for_all_its_users_once():
    found, errors = told(a=[proxies(), in_layer("a", "60%"), in_layer("b", "40%"), in_layer("d", "60%", "other")])
    assert errors == []
    found, errors = told(a=[in_layer("b", "41%"), proxies()], b=[in_layer("a", "60%"), in_layer("c", "40%")])
    assert errors == [("a.yaml", "spec.assignment.layer", "this rollout needs 41% of the users of layer 'web', and 40% are left")]
    assert [policy.name for policy in found.rollouts] == ["a", "c"]


def switched(name, arms, **assignment):
    steps = [{"canary": {"shares": dict.fromkeys(arms, "5%")}}, {"switch": {"to": arms[-1]}}, {"promote": {"variant": arms[-1]}}]
    variants = {"stable": {"version": "v1", "endpoints": {"static": ["10.0.0.1:80"]}}}
    variants |= {arm: {"version": arm, "endpoints": {"static": ["10.0.0.2:80"]}} for arm in arms}
    traffic = {"proxies": "edge", "listener": "public", "match": [{"host": name}]}
    return rollout(name, traffic=traffic, variants=variants, steps=steps, assignment={"sticky": {"header": "x-user"}, "layer": "web"})


def test_a_switch_needs_all_users_of_its_layer_and_says_so():
    _, errors = told(a=[proxies(), switched("b", ["c", "d"])])
    message = "the switch to d needs all users of layer 'web', and the other arms need 5% beside it"
    assert errors == [("a.yaml", "spec.assignment.layer", message)]
    _, errors = told(a=[proxies(), in_layer("a", "60%"), switched("b", ["c"])])
    assert errors == [("a.yaml", "spec.assignment.layer", "the switch to c needs all users of layer 'web', and 40% are left")]
    assert told(a=[proxies(), switched("b", ["c"])])[1] == []


def test_the_rollouts_of_a_layer_know_users_by_one_cookie():
    def by(name, sticky, layer="web"):
        return in_layer(name, "5%", layer) | {"spec": in_layer(name, "5%")["spec"] | {"assignment": {"sticky": sticky, "layer": layer}}}

    good = [by("a", {"cookie": "who"}), by("b", {"cookie": {"name": "who", "ttl": "1h"}}), by("c", {"header": "x-user"})]
    found, errors = told(
        a=[proxies(), *good, by("d", {"cookie": "other"}, "else"), by("e", {"cookie": {}}, "own"), by("f", {"cookie": {}}, "own")]
    )
    assert errors == []
    found, errors = told(a=[by("z", {"cookie": {}}), proxies()], b=good)
    message = "layer 'web' knows users by the cookie 'who' (rollout 'a'), not by 'crossfade-web'"
    assert errors == [("a.yaml", "spec.assignment.sticky.cookie", message)]
    assert [policy.name for policy in found.rollouts] == ["a", "b", "c"]


def test_what_did_not_change_is_not_read_again_and_says_the_same(monkeypatch):
    files = {
        "edge.yaml": text(proxies()),
        "one.yaml": text(
            rollout("one", gates=[{"use": "usual"}], traffic={"proxies": "edge", "listener": "public", "match": [{"host": "one"}]})
        ),
        "two.yaml": text(rollout("two", steps=[{"canary": {"shares": ["5%"]}}])),
        "usual.yaml": text(bundle()),
        "bad.yaml": b"a: [",
    }
    before = load(files)
    seen = []
    monkeypatch.setattr("policies.spec.loader.read", lambda file, text: seen.append(file) or read(file, text))
    assert load(files, before) == before
    assert seen == []
    changes = (
        ("usual.yaml", text(bundle("usual", SLOW))),
        ("two.yaml", b"kind: x"),
        ("bad.yaml", b"b: ["),
        ("edge.yaml", text(proxies("inner"))),
    )
    for file, content in changes:
        edited = files | {file: content}
        assert load(edited, before) == load(edited)
    assert [gate.name for gate in load(files | dict(changes[:1]), before).rollouts[0].gates] == ["slow"]
    fewer = {file: content for file, content in files.items() if file != "usual.yaml"}
    assert load(fewer, before) == load(fewer)
