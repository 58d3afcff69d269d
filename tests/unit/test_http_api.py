"""The JSON API in process: every answer and every failure has its one form."""

import asyncio

import httpx
import pytest

from tests.cli.control import FakeControl, status
from tests.rig import until
from xds_server.services import bodies, http_api
from xds_server.services.control import VERBS, ActError, Fault


@pytest.fixture
def control():
    return FakeControl()


@pytest.fixture
async def client(control):
    transport = httpx.ASGITransport(app=http_api.app(control), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:18080") as client:
        yield client


def failed(answer, http_status, code):
    assert answer.status_code == http_status
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"code", "message", "hint"}
    assert error["code"] == code
    assert error["message"]
    return error


async def test_rollouts_come_with_the_faults_of_the_policy_files(client, control):
    control.errors = [{"file": "a.yaml", "line": 1, "column": 1, "path": "", "message": "broken", "expected": "", "hint": ""}]
    answer = await client.get("/v1/rollouts")
    assert answer.json() == {"rollouts": [control.states["chat"]], "policy_errors": control.errors}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


async def test_one_rollout_is_its_status(client, control):
    assert (await client.get("/v1/rollouts/chat")).json() == control.states["chat"]


@pytest.mark.parametrize("path", ["/v1/rollouts/nope", "/v1/rollouts/nope/history"])
async def test_an_unknown_rollout_is_a_404_that_names_it(client, path):
    assert "'nope'" in failed(await client.get(path), 404, "unknown_rollout")["message"]


@pytest.mark.parametrize("name", ["Chat", "a_b", "-a", "a" * 64, "%00", "..%20", "caf%C3%A9"])
async def test_a_name_that_is_no_dns_label_is_refused(client, name):
    failed(await client.get(f"/v1/rollouts/{name}"), 400, "bad_name")
    failed(await client.post(f"/v1/rollouts/{name}:abort"), 400, "bad_name")


async def test_history_gives_the_last_records_oldest_first(client, control):
    assert (await client.get("/v1/rollouts/chat/history")).json() == {"history": control.records["chat"]}
    assert (await client.get("/v1/rollouts/chat/history?last=1")).json() == {"history": control.records["chat"][-1:]}


@pytest.mark.parametrize("last", ["0", "-1", "x", "1001", "1" * 5000, "", "٣"])
async def test_a_number_of_records_out_of_range_is_refused(client, last):
    failed(await client.get("/v1/rollouts/chat/history", params={"last": last}), 400, "bad_request")


@pytest.mark.parametrize("verb", VERBS)
async def test_an_act_reaches_the_control_with_all_it_says(client, control, verb):
    body = {"reason": " two\n lines ", "idempotency_key": "k1", "actor": "me", "to": "v0", "dry_run": True}
    answer = await client.post(f"/v1/rollouts/chat:{verb}", json=body)
    assert answer.status_code == 200
    assert answer.json()["dry_run"] is True
    wanted = {"name": "chat", "verb": verb, "reason": "two lines", "actor": "me", "idempotency_key": "k1", "to": "v0", "dry_run": True}
    assert control.acts == [wanted]


async def test_an_act_needs_no_body(client, control):
    assert (await client.post("/v1/rollouts/chat:abort")).status_code == 200
    assert control.acts[0]["reason"] == ""


async def test_all_rollouts_are_frozen_at_once_and_each_answers_for_itself(client, control):
    control.states["search"] = status("search")
    acts = (await client.post("/v1/rollouts:freeze", json={"reason": "audit"})).json()["acts"]
    assert [(each["rollout"], each["record"]["decision"]) for each in acts] == [("chat", "reverted"), ("search", "reverted")]
    control.refuse = ActError(Fault.REFUSED, "nothing is frozen")
    acts = (await client.post("/v1/rollouts:unfreeze")).json()["acts"]
    assert [each["error"]["message"] for each in acts] == ["nothing is frozen"] * 2


@pytest.mark.parametrize("verb", ["abort", "explode"])
async def test_all_rollouts_take_no_other_verb(client, control, verb):
    failed(await client.post(f"/v1/rollouts:{verb}"), 404, "unknown_verb")
    failed(await client.post("/v1/rollouts:freeze", headers={"Origin": "https://evil.example"}), 403, "cross_origin")
    assert control.acts == []


async def test_a_diff_passes_the_files_on(client, control):
    answer = await client.post("/v1/policies:diff", json={"files": {"a.yaml": "käse"}, "whole": True})
    assert answer.json()["changes"][0]["effect"] == "edited"
    assert control.compared == [({"a.yaml": "käse".encode()}, True)]


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"files": {"a": 1}}', b'{"files": {}, "whole": 1}'])
async def test_a_diff_of_no_files_is_refused(client, control, body):
    assert (await client.post("/v1/policies:diff", content=body)).status_code == 400
    assert control.compared == []


async def test_a_diff_of_more_files_than_a_source_may_have_is_refused(client, control):
    files = {f"{number}.yaml": "" for number in range(10_001)}
    failed(await client.post("/v1/policies:diff", json={"files": files}), 413, "too_large")
    assert control.compared == []


async def test_only_so_many_calls_that_nobody_signed_yet_are_read_at_once(client):
    more, sending = asyncio.Event(), []

    async def body():
        sending.append(1)
        await more.wait()
        yield b"{}"

    waiting = [asyncio.create_task(client.post("/v1/policies:changed", content=body())) for _ in range(http_api.PUSHES_MAX)]
    await until(lambda: len(sending) == http_api.PUSHES_MAX, "the calls to begin")
    failed(await client.post("/v1/policies:changed", content=b"{}"), 503, "busy")
    more.set()
    assert [(await each).status_code for each in waiting] == [202] * http_api.PUSHES_MAX
    assert (await client.post("/v1/policies:changed", content=b"{}")).status_code == 202


async def test_a_client_that_sends_in_drops_is_let_go_and_keeps_no_diff_from_others(client, control, monkeypatch):
    monkeypatch.setattr(bodies, "PATIENCE_S", 0.05)
    never = asyncio.Event()

    async def drops():
        yield b"{"
        await never.wait()

    for path in ("/v1/policies:diff", "/v1/policies:changed", "/v1/rollouts/chat:abort"):
        failed(await client.post(path, content=drops()), 408, "too_slow")
    assert (await client.post("/ofrep/v1/evaluate/flags", content=drops())).status_code == 408
    assert (await client.post("/v1/policies:diff", json={"files": {"a.yaml": ""}})).status_code == 200
    assert control.acts == []


async def test_a_push_is_only_believed_when_it_is_signed(client, control):
    assert (await client.post("/v1/policies:changed", content=b"{}")).status_code == 202
    control.signed = False
    failed(await client.post("/v1/policies:changed", content=b"{}"), 403, "not_signed")


async def test_the_assignment_of_a_rollout_can_be_read_back(client, control):
    answer = await client.get("/v1/rollouts/chat/assignment")
    assert http_api.PLACEMENT.validate_json(answer.content) == control.placements["chat"]
    failed(await client.get("/v1/rollouts/nope/assignment"), 404, "unknown_rollout")


async def test_an_unknown_verb_is_told_which_there_are(client):
    assert "abort" in failed(await client.post("/v1/rollouts/chat:explode"), 404, "unknown_verb")["hint"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "bad_json"),
        (b"\xff\xfe", "bad_json"),
        (b"[" * 30_000, "bad_json"),
        (b"[]", "bad_request"),
        (b'{"reason": 1}', "bad_request"),
        (b'{"dry_run": "yes"}', "bad_request"),
        (b'{"reson": "typo"}', "bad_request"),
        (b'{"actor": "a\\u0000b"}', "bad_request"),
        (b'{"idempotency_key": "' + b"k" * 201 + b'"}', "bad_request"),
    ],
)
async def test_a_body_that_makes_no_sense_does_nothing(client, control, body, code):
    failed(await client.post("/v1/rollouts/chat:abort", content=body), 400, code)
    assert control.acts == []


async def test_a_body_over_64_kib_is_refused_also_in_pieces(client, control):
    async def pieces():
        for _ in range(70):
            yield b" " * 1024

    failed(await client.post("/v1/rollouts/chat:abort", content=b" " * 65_537), 413, "too_large")
    failed(await client.post("/v1/rollouts/chat:abort", content=pieces()), 413, "too_large")
    assert control.acts == []


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_a_page_of_another_origin_cannot_act(client, control, headers):
    failed(await client.post("/v1/rollouts/chat:abort", headers=headers), 403, "cross_origin")
    assert control.acts == []


async def test_our_own_page_can_act(client):
    headers = {"Origin": "http://127.0.0.1:18080", "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/v1/rollouts/chat:abort", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "http_status"),
    [(Fault.REFUSED, 409), (Fault.UNKNOWN_ROLLOUT, 404), (Fault.STORE_UNAVAILABLE, 503), (Fault.NOT_READY, 503), (Fault.UNKNOWN_VERB, 404)],
)
async def test_every_fault_of_the_control_has_its_status(client, control, fault, http_status):
    control.refuse = ActError(fault, "words", hint="do this")
    error = failed(await client.post("/v1/rollouts/chat:pause"), http_status, fault.value)
    assert (error["message"], error["hint"]) == ("words", "do this")


def test_no_fault_is_without_a_status():
    assert set(http_api.HTTP_STATUS) == set(Fault)


async def test_what_the_router_refuses_has_the_same_form(client):
    failed(await client.get("/v2/nothing"), 404, "not_found")
    failed(await client.delete("/v1/rollouts"), 405, "method_not_allowed")
    failed(await client.post("/v1/rollouts/chat"), 405, "method_not_allowed")
    failed(await client.get("/v1/rollouts/chat:abort"), 405, "method_not_allowed")


async def test_a_bug_is_answered_without_its_inside(client, control):
    control.broken = True
    assert "a bug" not in str(failed(await client.get("/v1/rollouts"), 500, "bug"))


async def test_alive_is_not_ready(client, control):
    control.waiting_for = ("the store: locked",)
    assert (await client.get("/healthz")).status_code == 200
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "waiting_for": ["the store: locked"]})
    control.waiting_for = ()
    assert (await client.get("/readyz")).status_code == 200


async def test_metrics_are_openmetrics_of_the_states(client, control):
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    lines = answer.text.splitlines()
    assert 'crossfade_rollout_share{rollout="chat",variant="candidate"} 0.05' in lines
    assert 'crossfade_rollout_share{rollout="chat",variant="stable"} 0.95' in lines
    assert 'crossfade_rollout_phase{phase="running",rollout="chat"} 1.0' in lines
    assert 'crossfade_rollout_phase{phase="reverted",rollout="chat"} 0.0' in lines
    assert 'crossfade_gate_verdict{gate="errors",rollout="chat",variant="candidate",verdict="INCONCLUSIVE"} 1.0' in lines
    assert 'crossfade_lease_held{rollout="chat"} 1.0' in lines
    assert lines[-1] == "# EOF"


async def test_the_first_page_says_what_there_is(client):
    assert "/v1/rollouts" in (await client.get("/")).text


async def test_proxies_come_with_the_groups(client, control):
    control.nodes = [{"node": "n1"}]
    assert (await client.get("/v1/proxies")).json() == {"proxies": control.nodes, "groups": control.groups()}
    failed(await client.get("/v1/proxies?node=" + "*" * 600), 400, "bad_request")


async def test_text_no_encoding_can_carry_does_not_break_an_answer(client, control):
    control.states["chat"] = status(because="half a pair \ud800")
    assert (await client.get("/v1/rollouts")).json()["rollouts"][0]["because"] == "half a pair ?"
