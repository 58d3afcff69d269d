"""Laws of the loader under random documents and spoilt texts: it never raises, and every error has a file, a line and a path."""

import copy
import json
import re

import jsonschema
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from policies.gates import open_gate
from policies.spec.loader import Loaded, load
from policies.spec.policy import ProxiesPolicy, RolloutPolicy
from policies.spec.schema import schema
from policies.steps import stages
from tests.specs import PROXIES, rollout, text, variant

ADAPTER = TypeAdapter(tuple[tuple[RolloutPolicy, ...], tuple[ProxiesPolicy, ...]])
VALIDATOR = jsonschema.Draft202012Validator(schema())

WHOLE = rollout(
    assignment={"sticky": {"header": "x-user"}, "salt": "s"},
    variants={
        "stable": variant(runtime="vllm", health={"interval": "1s"}, pods={"max_concurrency": 5}),
        "candidate": {"version": "v2", "endpoints": {"dns": "a.b", "port": 80}},
    },
    steps=[{"shadow": {"share": "10%", "hold": {"for": "1m", "samples": 5}}}, {"canary": {"shares": ["5%", "50%"]}}, {"promote": {"keep_stable_for": "1h"}}],
    gates=[{"name": "slow", "metric": "envoy/latency", "role": "signal", "statistic": "p99", "margin": {"absolute": "50ms", "relative": "5%"}}],
    errors={"false_revert": "1%"},
    when={"fail": "hold", "no_data": {"after": "5m", "then": "revert"}, "nack": "hold", "stuck": {"after": "1h", "then": "hold"}},
    lease={"ttl": "30s", "required": True},
)  # fmt: skip
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
    st.sampled_from(["spec", "kind", "candidate", "shares", "hold", "for", "match", "margin", "probe", "select", "cookie", "apiVersion"]),
)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)

BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML takes for the end of a line."""


def sound(found: Loaded, files):
    """What holds of any set of files."""
    for error in (*found.errors, *found.warnings):
        assert error.file in files
        assert error.line >= 1
        assert error.column >= 1
        assert error.message
        assert isinstance(error.path, str)
        assert error.line <= len(BREAK.split(files[error.file].decode("utf-8", "replace"))) + 1
    assert list(found.errors) == sorted(found.errors, key=lambda error: (error.file, error.line, error.column))
    assert len({policy.name for policy in found.rollouts}) == len(found.rollouts)
    for policy in found.rollouts:
        shares = [stage.share_bp for stage in stages(policy) if stage.kind == "canary"]
        assert shares == sorted(set(shares))
        assert all(0 < share <= 10_000 for share in shares)
        assert policy.lease.ttl_s >= 1
        for gate in policy.gates:
            open_gate(gate, now=0.0, deadline_s=1.0)
    values = (found.rollouts, found.proxies)
    assert ADAPTER.validate_json(ADAPTER.dump_json(values)) == values


def places(data, path=()):
    """Every path of plain data."""
    yield path
    if isinstance(data, dict):
        for key, inner in data.items():
            yield from places(inner, (*path, key))
    elif isinstance(data, list):
        for index, inner in enumerate(data):
            yield from places(inner, (*path, index))


def put(data, path, new):
    if not path:
        return new
    data = copy.deepcopy(data)
    owner = data
    for part in path[:-1]:
        owner = owner[part]
    owner[path[-1]] = new
    return data


@settings(max_examples=300, deadline=None)
@given(st.lists(ANYTHING | st.fixed_dictionaries({"kind": st.sampled_from(["Rollout", "Proxies", "x"]), "spec": ANYTHING}), max_size=3))
def test_random_documents_never_break_the_loader(documents):
    files = {"f.yaml": yaml.safe_dump_all(documents, allow_unicode=True).encode("utf-8", "surrogatepass")}
    sound(load(files), files)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_part_replaced_by_anything_is_an_error_there_or_a_policy(data):
    """The schema refuses nothing that the loader takes: an editor never marks a good file."""
    path = data.draw(st.sampled_from(list(places(WHOLE))))
    spoilt = put(WHOLE, path, data.draw(ANYTHING))
    files = {"f.yaml": text(PROXIES, spoilt)}
    found = load(files)
    sound(found, files)
    assert found.errors or found.rollouts or spoilt is None
    if not found.errors and spoilt is not None:
        VALIDATOR.validate(json.loads(json.dumps(spoilt)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_key_that_is_not_known_is_told_wherever_it_stands(data):
    owners = [path for path in places(WHOLE) if isinstance(_at(WHOLE, path), dict)]
    path = data.draw(st.sampled_from(owners))
    spoilt = put(WHOLE, (*path, "zz"), 1)
    files = {"f.yaml": text(PROXIES, spoilt)}
    found = load(files)
    sound(found, files)
    (line,) = [number for number, each in enumerate(files["f.yaml"].splitlines(), 1) if each.strip(b" -").startswith(b"zz:")]
    assert line in [error.line for error in found.errors if error.path.endswith("zz") and "zz" in error.message]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_key_taken_away_is_a_policy_or_an_error_near_its_place(data):
    path = data.draw(st.sampled_from([path for path in places(WHOLE) if path]))
    spoilt = copy.deepcopy(WHOLE)
    owner = _at(spoilt, path[:-1])
    del owner[path[-1]]
    files = {"f.yaml": text(PROXIES, spoilt)}
    found = load(files)
    sound(found, files)
    assert bool(found.rollouts) != bool(found.errors)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_spoilt_bytes_never_break_the_loader(data):
    whole = text(PROXIES, WHOLE)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 20)))
    new = data.draw(
        st.binary(max_size=6)
        | st.sampled_from([b"&a ", b"*a", b"<<: ", b"!!x ", b"[", b"{", b"- ", b"\n", b"\t", b"? ", b": ", b"---\n", b"'", b'"', b"|"])
    )
    files = {"f.yaml": whole[:start] + new + whole[end:]}
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


def _at(data, path):
    for part in path:
        data = data[part]
    return data
