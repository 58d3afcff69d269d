"""Files beside the policies: where they are looked for, what they may say, and what happens to policies whose files are not good."""

import json

import pytest

from policies.spec.companions import BYTES_MAX, ERRORS_MAX, REQUESTS_MAX, find, json_schema, requests
from policies.spec.loader import load
from policies.spec.policy import ProbeRequest
from tests.specs import PROMOTE, PROXIES, rollout, text

CANARY = {"canary": {"shares": ["5%"], "hold": {"for": "1m"}}}


def probing(file="chat.jsonl", **expect):
    return text(PROXIES, rollout(steps=[{"probe": {"requests": file, "expect": expect}}, CANARY, PROMOTE]))


def steps(files):
    found = load(files)
    return [policy.steps[0] for policy in found.rollouts], [(error.file, error.line, error.path) for error in found.errors]


def test_a_request_is_a_json_object_on_a_line():
    content = b'\xef\xbb\xbf\n{"path": "/a", "body": {"x": "\\u00fc"}, "headers": {"X-A": "b"}}\r\n\n{"path": "/b?c=d"}\n{"path": "/", "body": "t", "method": "PUT"}'
    assert requests("f", content) == (
        (
            ProbeRequest(method="POST", path="/a", headers=(("x-a", "b"), ("content-type", "application/json")), body='{"x":"\\u00fc"}'),
            ProbeRequest(method="GET", path="/b?c=d"),
            ProbeRequest(method="PUT", path="/", body="t"),
        ),
        (),
    )


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ("{", "", "not JSON: Expecting property name enclosed in double quotes (column 2)"),
        ("[" * 5000, "", "not JSON: a number is too long, or it is nested too deeply"),
        ("[]", "", "[] is no request"),
        ('{"path": "/", "path": "/"}', "", "the key 'path' stands twice"),
        ('{"path": "/", "body": {"a": NaN}}', "", "NaN is no JSON number"),
        ('{"pat": "/"}', "pat", "unknown key 'pat'"),
        ('{"method": "GET"}', "path", "path is missing"),
        ('{"path": "v1"}', "path", "'v1' is no path"),
        ('{"path": "/ö"}', "path", "'/ö' is no path"),
        ('{"path": "/", "method": "get"}', "method", "'get' is no method"),
        ('{"path": "/", "method": ["GET"]}', "method", "['GET'] is no method"),
        ('{"path": "/", "headers": ["a"]}', "headers", "['a'] are no headers"),
        ('{"path": "/", "headers": {"a b": "c"}}', "headers", "'a b' does not fit"),
        ('{"path": "/", "headers": {"Host": "c"}}', "headers.host", "host is set by the prober itself"),
        ('{"path": "/", "headers": {"A": "c", "a": "d"}}', "headers.a", "a stands twice"),
        ('{"path": "/", "headers": {"a": "c\\r\\nd"}}', "headers.a", "'c\\r\\nd' does not fit"),
        ('{"path": "/", "body": 5}', "body", "5 is no body"),
        ('{"path": "/", "body": "\\ud800"}', "body", "'\\ud800' is no body"),
    ],
)
def test_a_line_that_is_no_request_is_told_with_its_line(line, path, message):
    _, (error,) = requests("f", f'{{"path": "/"}}\n\n{line}\n'.encode())
    assert (error.file, error.line, error.path, error.message) == ("f", 3, path, message)
    assert error.expected


def test_probes_are_small():
    assert [error.line for error in requests("f", '{"path": "/"}\n' * (REQUESTS_MAX + 5))[1]] == [REQUESTS_MAX + 1]
    assert requests("f", b" " * (BYTES_MAX + 1))[1][0].message == "the file has more than 64 KiB"
    assert requests("f", b"\n \n")[1][0].message == "the file has no request"
    assert requests("f", b"{}\n\xff")[1][0].line == 2
    assert len(requests("f", b"x\n" * 500)[1]) == ERRORS_MAX


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("[]", 1, "a JSON Schema is a mapping"),
        ('{"type":\n "x"}', 1, "$.type: 'x' is not valid under any of the given schemas"),
        ('{"type":\n x}', 2, "not JSON: Expecting value (line 2, column 2)"),
        (json.dumps({"properties": {"a": {"minLength": -1}}}), 1, "$.properties.a.minLength: -1 is less than the minimum of 0"),
    ],
)
def test_a_schema_that_is_none_is_told(content, line, message):
    said, (error,) = json_schema("f", content)
    assert (said, error.line, error.message) == ("", line, message)


def test_a_file_is_looked_for_beside_the_policy_and_in_the_folders_around_it():
    files = dict.fromkeys(("a/b/x.jsonl", "a/x.jsonl", "x.jsonl", "a/c/y.jsonl", "/r/p/s/z.jsonl"), b"")
    assert find("x.jsonl", "a/b/chat.yaml", files) == "a/b/x.jsonl"
    assert find("x.jsonl", "a/d/chat.yaml", files) == "a/x.jsonl"
    assert find("x.jsonl", "chat.yaml", files) == "x.jsonl"
    assert find("c/y.jsonl", "a/b/chat.yaml", files) == "a/c/y.jsonl"
    assert find("y.jsonl", "a/b/chat.yaml", files) is None
    assert find("s/z.jsonl", "/r/p/q/chat.yaml", files) == "/r/p/s/z.jsonl"


def test_a_probe_gets_its_requests_and_its_schema():
    files = {"p/chat.yaml": probing(schema="answer.json"), "chat.jsonl": b'{"path": "/a"}', "p/answer.json": b'{"type": "object"}'}
    ((probe,), errors) = steps(files)
    assert errors == []
    assert (probe.file, [request.path for request in probe.requests], probe.expect.json_schema) == (
        "chat.jsonl",
        ["/a"],
        '{"type": "object"}',
    )


def test_a_companion_that_is_not_there_is_told_where_it_is_named():
    found = load({"chat.yaml": probing(), "chet.jsonl": b"{"})
    (error,) = found.errors
    assert (error.file, error.path) == ("chat.yaml", "spec.steps[0].probe.requests")
    assert (error.message, error.hint) == ("there is no file 'chat.jsonl'", "did you mean 'chet.jsonl'?")
    assert not found.rollouts


def test_a_companion_that_is_broken_is_told_once_and_at_each_policy_that_names_it():
    other = rollout(
        "other", steps=[{"probe": {"requests": "chat.jsonl"}}, CANARY, PROMOTE], traffic={"proxies": "edge", "listener": "public"}
    )
    found, errors = steps({"a.yaml": probing(), "b.yaml": text(other), "chat.jsonl": b'{"path": "/"}\n{"pat": "/"}\n'})
    assert not found
    assert [(file, line) for file, line, _ in errors if file == "chat.jsonl"] == [("chat.jsonl", 2)]
    assert [(file, path) for file, _, path in errors if file != "chat.jsonl"] == [
        ("a.yaml", "spec.steps[0].probe.requests"),
        ("b.yaml", "spec.steps[0].probe.requests"),
    ]


def test_a_companion_that_nobody_names_says_nothing():
    assert steps({"chat.yaml": text(PROXIES, rollout()), "junk.jsonl": b"\xff", "junk.json": b"{"})[1] == []
