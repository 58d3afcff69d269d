"""Laws of the loader under random documents and spoilt texts: it never raises, and every error has a file, a line and a path."""

import copy
import json
import random

import jsonschema
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.spec.loader import load
from policies.spec.schema import schema
from tests.fuzz.policies import Spoiler, at, judge, places, put, sound
from tests.specs import FILES, PROXIES, rollout, text, variant

VALIDATOR = jsonschema.Draft202012Validator(schema())

HOLD = {"for": "1m", "samples": 5}
WHOLE = rollout(
    traffic={
        "proxies": "edge",
        "listener": "public",
        "match": [{"host": "a.b", "path_prefix": "/v1/", "headers": [{"header": "x-t", "exact": "1"}, {"header": "x-u", "present": True}]}],
    },
    assignment={
        "sticky": {"cookie": {"name": "user", "ttl": "30d"}},
        "layer": "web",
        "segments": [{"name": "staff", "when": [{"header": "x-staff", "regex": "a+"}], "variant": "b"}],
    },
    variants={
        "stable": variant(runtime="vllm", health={"interval": "1s"}, pods={"max_concurrency": 5, "slow_start": "3s"}),
        "b": {"version": "v2", "endpoints": {"dns": "a.b", "port": 80}, "config": {"headers": {"x-m": "1"}, "path": "/v2/", "model": "m"}},
        "c": variant("v3", 8003),
    },
    steps=[
        {
            "probe": {
                "requests": "chat.jsonl",
                "rate": "5/s",
                "for": "1m",
                "expect": {"status": [200, 204], "within": "3s", "schema": "answer.json"},
            }
        },
        {"shadow": {"share": "10%", "hold": HOLD}},
        {"canary": {"shares": [{"b": "0%"}, {"b": "5%", "c": "1%"}, {"c": "5%"}], "hold": [HOLD, HOLD, {}]}},
        {"approve": {"who": "you", "within": "1h", "then": "freeze"}},
        {"ab": {"shares": {"b": "20%", "c": "20%"}, "goal": "faster", "at_most": "7d", "hold": HOLD}},
        {"promote": {"keep_stable_for": "1h"}},
    ],
    gates=[
        {"use": "usual"},
        {"name": "slow", "metric": "envoy/latency", "role": "signal", "statistic": "p99", "margin": {"absolute": "50ms", "relative": "5%"}},
        {"name": "faster", "metric": "envoy/latency", "role": "goal", "better_by": {"relative": "1%"}},
    ],
    errors={"false_revert": "1%"},
    when={"fail": "hold", "no_data": {"after": "5m", "then": "revert"}, "source_error": {"after": "5m", "then": "freeze"}, "nack": "hold"},
    lease={"ttl": "30s", "required": True},
    freeze=[{"cron": "0 18 * * FRI", "for": "62h", "timezone": "Europe/Berlin"}],
)
BUNDLE = {
    "apiVersion": "crossfade/v1",
    "kind": "GateBundle",
    "metadata": {"name": "usual"},
    "spec": {"gates": [{"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "1%"}}]},
}


def files_of(*documents):
    return {"f.yaml": text(PROXIES, BUNDLE, *documents), **FILES}


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["5%", "5m", "none", "vllm", "p99", "0%", "*", "/"]),
)
KEYS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "spec",
            "kind",
            "candidate",
            "shares",
            "hold",
            "for",
            "match",
            "margin",
            "probe",
            "select",
            "cookie",
            "use",
            "switch",
            "segments",
            "stable",
            "layer",
            "cron",
            "apiVersion",
        ]
    ),
)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)


def test_the_whole_language_is_good():
    found = load(files_of(WHOLE))
    assert found.errors == ()
    assert judge(files_of(WHOLE))


def test_spoilt_policies_are_judged_and_nothing_else():
    """A slice of `make fuzz`."""
    source = Spoiler(random.Random(5))
    good = sum(judge(source.files()) for _ in range(300))
    assert 30 < good < 270, "the source makes only good or only bad files"


@settings(max_examples=100, deadline=None)
@given(st.lists(ANYTHING | st.fixed_dictionaries({"kind": st.sampled_from(["Rollout", "Proxies", "x"]), "spec": ANYTHING}), max_size=3))
def test_random_documents_never_break_the_loader(documents):
    files = {"f.yaml": yaml.safe_dump_all(documents, allow_unicode=True).encode("utf-8", "surrogatepass")}
    sound(load(files), files)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_one_part_replaced_by_anything_is_an_error_there_or_a_policy(data):
    """The schema refuses nothing that the loader takes: an editor never marks a good file."""
    path = data.draw(st.sampled_from(list(places(WHOLE))))
    spoilt = put(WHOLE, path, data.draw(ANYTHING))
    files = files_of(spoilt)
    found = load(files)
    sound(found, files)
    assert found.errors or found.rollouts or spoilt is None
    if not found.errors and spoilt is not None:
        VALIDATOR.validate(json.loads(json.dumps(spoilt)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_key_that_is_not_known_is_told_wherever_it_stands(data):
    free = {"variants", "headers", "shares"}  # where any name may stand
    owners = [
        path for path in places(WHOLE) if isinstance(at(WHOLE, path), dict) and free.isdisjoint(path[-1:]) and path[-2:-1] != ("shares",)
    ]
    path = data.draw(st.sampled_from(owners))
    spoilt = put(WHOLE, (*path, "zz"), 1)
    files = files_of(spoilt)
    found = load(files)
    sound(found, files)
    (line,) = [number for number, each in enumerate(files["f.yaml"].splitlines(), 1) if each.strip(b" -").startswith(b"zz:")]
    assert line in [error.line for error in found.errors if error.path.endswith("zz") and "zz" in error.message]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_key_taken_away_is_a_policy_or_an_error_near_its_place(data):
    path = data.draw(st.sampled_from([path for path in places(WHOLE) if path]))
    spoilt = copy.deepcopy(WHOLE)
    owner = at(spoilt, path[:-1])
    del owner[path[-1]]
    files = files_of(spoilt)
    found = load(files)
    sound(found, files)
    assert bool(found.rollouts) != bool(found.errors)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_spoilt_bytes_never_break_the_loader(data):
    whole = files_of(WHOLE)["f.yaml"]
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 20)))
    new = data.draw(
        st.binary(max_size=6)
        | st.sampled_from([b"&a ", b"*a", b"<<: ", b"!!x ", b"[", b"{", b"- ", b"\n", b"\t", b"? ", b": ", b"---\n", b"'", b'"', b"|"])
    )
    files = FILES | {"f.yaml": whole[:start] + new + whole[end:]}
    sound(load(files), files)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=2, max_size=5), st.permutations(["a", "b", "c", "d", "e"]))
def test_documents_that_clash_are_never_both_in_force(hosts, names):
    documents = [
        rollout(names[index], traffic={"proxies": "edge", "listener": "public", "match": [{"host": f"h{host}"}]})
        for index, host in enumerate(hosts)
    ]
    files = {f"{names[index]}.yaml": text(document) for index, document in enumerate(documents)} | {"proxies.yaml": text(PROXIES)}
    found = load(files)
    sound(found, files)
    alone = {names[index] for index, host in enumerate(hosts) if hosts.count(host) == 1}
    assert {policy.name for policy in found.rollouts} == alone
    assert {error.file for error in found.errors} == {f"{names[index]}.yaml" for index in range(len(hosts)) if names[index] not in alone}
