"""The published JSON Schema, the examples and the document say what the code does."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from policies.presets import RUNTIMES
from policies.spec.loader import load
from policies.spec.reader import read
from policies.spec.schema import render_schema, schema
from tests.specs import FILES, PROXIES, rollout, text, variant

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))
DOCUMENT = (ROOT / "docs" / "policy.md").read_text()
COMPANIONS = {
    str(path.relative_to(ROOT / "deploy" / "examples")): path.read_bytes()
    for path in sorted((ROOT / "deploy" / "examples").rglob("*.json*"))
}
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCUMENT, flags=re.DOTALL)
VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_the_schema_is_a_schema_and_published():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert (ROOT / "docs" / "policy.schema.json").read_text() == render_schema()


def test_there_are_examples():
    assert {path.name for path in EXAMPLES} >= {
        "minimal.yaml", "blue-green.yaml", "shadow.yaml", "abn.yaml", "chained.yaml", "segments.yaml", "layers.yaml", "grpc.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_good_and_says_where_its_schema_is(path):
    found = load({path.name: path.read_bytes(), **COMPANIONS})
    assert (found.errors, found.warnings) == ((), ())
    assert found.rollouts
    for document in read(path.name, path.read_bytes())[0]:
        VALIDATOR.validate(document.data)
    first = path.read_text().splitlines()[0]
    assert (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve() == ROOT / "docs" / "policy.schema.json"


def test_all_examples_are_good_together():
    assert not load({path.name: path.read_bytes() for path in EXAMPLES} | COMPANIONS).errors


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_every_yaml_block_of_the_document_is_good(block):
    """A block without apiVersion is a part of the `spec` of the page's whole rollout."""
    if not block.startswith("apiVersion"):
        group, whole = yaml.safe_load_all(BLOCKS[0])
        whole["spec"] |= yaml.safe_load(block)
        block = text(group, whole)
    found = load({"policy.md": block, **COMPANIONS})
    assert (found.errors, found.warnings) == ((), ())


def test_the_document_names_every_runtime_with_its_path():
    rows = {name: row for row in DOCUMENT.splitlines() if row.startswith("| `") for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    for name, runtime in RUNTIMES.items():
        assert (runtime.health.path if runtime.health else runtime.needs_path) in rows[name]


@pytest.mark.parametrize("kind", ["Rollout", "proxies"])
def test_the_schema_of_one_kind_takes_that_kind_only(kind):
    validator = jsonschema.Draft202012Validator(schema(kind))
    assert validator.is_valid(rollout()) == (kind == "Rollout")
    assert validator.is_valid(PROXIES) == (kind == "proxies")


def test_there_is_no_schema_of_an_unknown_kind():
    with pytest.raises(KeyError):
        schema("Gate")


GATE = {"name": "g", "metric": "envoy/latency", "margin": {"relative": "5%"}}


@pytest.mark.parametrize(
    "spoilt",
    [
        rollout(leases="30s"),
        rollout() | {"specs": {}},
        rollout() | {"kind": "Gate"},
        rollout() | {"apiVersion": "crossfade/v2"},
        rollout(lease=30),
        rollout(lease="30"),
        rollout(lease={"ttl": "30s", "x": 1}),
        rollout(gates=[GATE | {"role": "goal"}]),
        rollout(gates=[GATE | {"better_by": {"relative": "5%"}}]),
        rollout(gates=[{"name": "g", "metric": "envoy/latency"}]),
        rollout(gates=[{"use": "web", "name": "g"}]),
        rollout(gates=[GATE | {"margin": {}}]),
        rollout(gates=[GATE | {"statistic": "max"}]),
        rollout(steps=[{"promote": {}, "shadow": {"share": "5%"}}]),
        rollout(steps=[{}]),
        rollout(steps=[{"promote": None}]),
        rollout(steps=[{"canary": {"shares": [5]}}]),
        rollout(steps=[{"probe": {}}]),
        rollout(steps=[{"probe": {"requests": "../chat.jsonl"}}]),
        rollout(steps=[{"probe": {"requests": "chat.jsonl", "rate": "5"}}]),
        rollout(steps=[{"shadow": {}}]),
        rollout(steps=[{"shadow": {"share": "5%", "shares": {"candidate": "5%"}}}]),
        rollout(steps=[{"canary": {"shares": [{"candidate": 5}]}}]),
        rollout(steps=[{"canary": {"shares": "5%"}}]),
        rollout(steps=[{"canary": {"shares": ["5%"], "hold": []}}]),
        rollout(steps=[{"ab": {"shares": {"candidate": "5%"}, "goal": "g"}}]),
        rollout(steps=[{"approve": {"then": "promote"}}]),
        rollout(variants={"stable": variant(), "Arm": variant("v2", 8002)}),
        rollout(variants={"stable": variant(), "candidate": variant("v2", 8002, config={})}),
        rollout(assignment={"sticky": {"header": "x-a", "cookie": "b"}}),
        rollout(assignment={"sticky": {"header": "x-a"}, "salt": "a", "layer": "b"}),
        rollout(assignment={"segments": [{"name": "a", "when": {"header": "x-a"}, "variant": "candidate"}]}),
        rollout(traffic={"proxies": "edge", "listener": "public", "match": [{"grpc": "a.B", "path_prefix": "/"}]}),
        rollout(traffic={"proxies": "edge", "listener": "public", "match": [{"headers": [{"header": "a", "present": False}]}]}),
        rollout(freeze=[{"cron": "0 18 * * FRI"}]),
        rollout(variants={"candidate": variant()}),
        rollout(variants={"stable": variant(runtime="vlm")}),
        rollout(variants={"stable": variant(1.1)}),
        rollout(variants={"stable": {"version": "v1", "endpoints": {"dns": "a"}}}),
        rollout(assignment={"sticky": "header"}),
        rollout(assignment={"sticky": {"header": "a b"}}),
        rollout(traffic={"proxies": "edge"}),
        PROXIES | {"spec": {"select": {}, "listeners": [{"name": "a", "port": 1}]}},
        PROXIES | {"spec": {"select": {"cluster": "a"}, "listeners": []}},
        [],
    ],
)
def test_the_schema_and_the_loader_refuse_the_same(spoilt):
    assert not VALIDATOR.is_valid(spoilt)
    assert load({"f": text(PROXIES, spoilt)}).errors


@pytest.mark.parametrize(
    "good",
    [
        rollout(),
        rollout(lease={"ttl": "10s"}),
        rollout(lease="10s"),
        rollout(assignment={"sticky": "none", "salt": "a"}),
        rollout(assignment={"sticky": {"header": "x-user"}}),
        rollout(gates=[GATE | {"statistic": "p99.9"}]),
        rollout(gates=[GATE | {"role": "goal", "better_by": {"relative": "0%"}}]),
        rollout(
            steps=[{"probe": {"requests": "chat.jsonl", "expect": {"schema": {"type": "object"}, "status": [200, 204]}}}, {"promote": {}}]
        ),
        rollout(steps=[{"shadow": {"shares": {"candidate": "5%"}}}, {"canary": {"shares": {"candidate": "5%"}}}, {"promote": {}}]),
        rollout(variants={"stable": variant(), "b": variant("v2", 8002)}, steps=[{"switch": {}}, {"promote": {"variant": "b"}}]),
        rollout(assignment={"sticky": {"cookie": "b"}, "layer": "c"}),
        rollout(
            assignment={
                "sticky": {"cookie": {}},
                "segments": [{"name": "a", "when": [{"header": "x", "present": True}], "variant": "stable"}],
            }
        ),
        rollout(freeze=[{"cron": "0 18 * * FRI", "for": "62h", "timezone": "Europe/Berlin"}]),
        rollout(traffic={"proxies": "edge", "listener": "public", "match": [{"host": "*"}, {"host": "*.a.b", "path_prefix": "/x"}]}),
        rollout(variants={"stable": {"version": "v1", "endpoints": {"dns": "a", "port": 1}, "health": {"path": "/x"}}}, steps=None),
    ],
)
def test_the_schema_and_the_loader_take_the_same(good):
    VALIDATOR.validate(good)
    assert not load({"f": text(PROXIES, good), **FILES}).errors


def test_every_key_of_the_schema_is_refused_when_misspelt():
    """Unknown keys are errors at every depth."""
    for name, part in schema()["$defs"].items():
        assert part["additionalProperties"] is False or name == "Variants", name


def test_the_schema_has_no_null_and_no_numbers_in_our_units():
    words = json.dumps(schema())
    assert '"null"' not in words
    assert not re.search(r'"default": ([\d\[]|\{(?!"\$ref"))', words), "but for the key `default` of Proxies"
