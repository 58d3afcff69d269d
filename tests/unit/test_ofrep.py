"""The feature-flag API in process: every failure in the protocol's form, and nothing a client sends breaks it."""

from dataclasses import replace

import httpx
import pytest

from policies.assign import Layout
from policies.spec.policy import Assignment, HeaderMatch, Segment
from tests.cli.control import FakeControl, placement, status
from xds_server.services import http_api

ONE = "/ofrep/v1/evaluate/flags/chat"
ALL = "/ofrep/v1/evaluate/flags"
ANN = {"context": {"targetingKey": "ann"}}


@pytest.fixture
def control():
    return FakeControl()


@pytest.fixture
async def client(control):
    transport = httpx.ASGITransport(app=http_api.app(control), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:18080") as client:
        yield client


async def test_one_flag_is_the_variant_of_the_user(client):
    answer = await client.post(ONE, json=ANN)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "key": "chat",
            "reason": "SPLIT",
            "variant": "stable",
            "value": "stable",
            "metadata": {"rollout": "chat", "version": "v1", "generation": 3, "share": 0.95},
        },
    )


async def test_all_flags_come_together_and_only_when_they_changed(client, control):
    control.states["search"] = status("search")
    control.placements["search"] = placement(10_000, name="search", assignment=Assignment())
    first = await client.post(ALL, json=ANN)
    assert [(flag["key"], flag["variant"], flag["reason"]) for flag in first.json()["flags"]] == [
        ("chat", "stable", "SPLIT"),
        ("search", "candidate", "STATIC"),
    ]
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = await client.post(ALL, json=ANN, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    control.placements["search"] = placement(0, name="search", assignment=Assignment())
    changed = await client.post(ALL, json=ANN, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


async def test_one_flag_that_needs_a_name_does_not_spoil_the_others(client, control):
    control.states["search"] = status("search")
    control.placements["search"] = placement(500, name="search", assignment=Assignment())
    chat, search = (await client.post(ALL, json={"context": {}})).json()["flags"]
    assert (chat["key"], chat["errorCode"]) == ("chat", "TARGETING_KEY_MISSING")
    assert (search["variant"], search["reason"]) == ("stable", "DEFAULT")


async def test_a_rollout_that_owns_no_traffic_has_no_flag(client, control):
    del control.placements["chat"]
    assert (await client.post(ALL, json=ANN)).json() == {"flags": []}
    assert (await client.post(ONE, json=ANN)).json()["errorCode"] == "FLAG_NOT_FOUND"


@pytest.mark.parametrize("key", ["nope", "Chat", "a" * 300, "%00"])
async def test_an_unknown_flag_is_a_404(client, key):
    answer = await client.post(f"{ALL}/{key}", json=ANN)
    assert (answer.status_code, answer.json()["errorCode"]) == (404, "FLAG_NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "PARSE_ERROR"),
        (b"{", "PARSE_ERROR"),
        (b"\xff", "PARSE_ERROR"),
        (b"[" * 30_000, "PARSE_ERROR"),
        (b"[]", "INVALID_CONTEXT"),
        (b'{"context": 3}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": ["ann"]}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "\\ud800"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "ann", "x": "\\ud800"}}', "INVALID_CONTEXT"),
        (b"{}", "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": ""}}', "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": null}}', "INVALID_CONTEXT"),
    ],
)
async def test_a_context_that_makes_no_sense_is_a_400(client, body, code):
    answer = await client.post(ONE, content=body)
    assert (answer.status_code, answer.json()["key"], answer.json()["errorCode"]) == (400, "chat", code)
    assert answer.json()["errorDetails"]
    bulk = await client.post(ALL, content=body)
    assert bulk.status_code == (200 if code == "TARGETING_KEY_MISSING" else 400)


async def test_a_value_of_any_depth_is_answered_or_refused(client, control):
    """Around the deepest that can be read there were depths that could be read and not written."""
    staff = Segment(name="staff", when=(HeaderMatch(name="x-staff", value="1"),), variant="candidate")
    control.placements["chat"] = placement(assignment=Assignment(sticky_header="x-user", segments=(staff,)))
    said = set()
    for depth in range(600, 1100):
        nested = b"[" * depth + b"]" * depth
        said.add((await client.post(ONE, content=b'{"context": {"targetingKey": "ann", "x": ' + nested + b"}}")).status_code)
    assert said == {200, 400}


async def test_a_large_body_is_a_413(client):
    for path in (ONE, ALL):
        answer = await client.post(path, content=b" " * 65_537)
        assert (answer.status_code, answer.json()["errorCode"]) == (413, "GENERAL")


async def test_spaces_around_a_name_are_no_part_of_it_as_in_a_header(client, control):
    control.placements["chat"] = placement(5000)
    for number in range(50):
        plain = await client.post(ONE, json={"context": {"targetingKey": f"user-{number}"}})
        spaced = await client.post(ONE, json={"context": {"targetingKey": f" user-{number}\t"}})
        assert plain.json() == spaced.json()


async def test_a_rollout_without_a_release_gives_stable_to_everybody(client, control):
    control.placements["chat"] = replace(placement(), now=Layout())
    assert (await client.post(ONE, json=ANN)).json()["reason"] == "STATIC"
    assert (await client.post(ONE, json={})).json()["errorCode"] == "TARGETING_KEY_MISSING", "an application hears of it before the release"
