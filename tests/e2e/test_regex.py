"""The regular expressions that a policy may have are held against Envoy itself: one that it refused would take the whole configuration with it."""

import random

from pydantic_core import PydanticCustomError

from policies.spec.regex import matchable
from tests.real_envoy import validate
from tests.unit.test_spec_regex import REFUSED, TAKEN

PIECES = (
    "a", "[ac]", r"\w", r"\s", r"\D", "(a|bc)", "(?:x|yz)", "[^a-c]", ".", "(ab)", "b*", "c+", "d?", "[a-z]{3}", "e{2,5}", r"\d+?", "(?:f{2}|g)*",
    "[0-9a-f]{8}", "^", "$", r"\b", "(a{3}){2}", "[^\\s]", r"[\w.-]+",
)  # fmt: skip


def made(count):
    """Random expressions that are taken, most of them near the largest."""
    source = random.Random(40)
    found = []
    while len(found) < count:
        expression = source.choice(["", "(?i)"]) + "".join(source.choices(PIECES, k=source.randint(4, 24)))
        try:
            found.append(matchable(expression))
        except PydanticCustomError:
            continue
    return found


def bootstrap(expressions):
    headers = [{"name": "x", "string_match": {"safe_regex": {"regex": expression}}} for expression in expressions]
    route = {"match": {"prefix": "/", "headers": headers}, "direct_response": {"status": 200}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    listener = {
        "name": "x",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener]}}


async def test_envoy_takes_every_expression_that_a_policy_may_have(tmp_path):
    code, said = await validate(bootstrap([*TAKEN, *made(1000)]), tmp_path)
    assert code == 0, said


async def test_envoy_refuses_what_is_refused_here(tmp_path):
    """All but one: brackets thirty deep are only refused here."""
    taken = [expression for expression in REFUSED if (await validate(bootstrap([expression]), tmp_path))[0] == 0]
    assert taken == ["(" * 30 + ")" * 30]
