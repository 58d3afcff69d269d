"""Documents against each other: names, groups and traffic that two of them claim."""

from dataclasses import replace

import pytest

from policies.spec.checks import clash
from policies.spec.loader import load
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
