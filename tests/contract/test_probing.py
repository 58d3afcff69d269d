"""A probe against real sockets: what is sent is what the variant would get from Envoy, what is wrong with an answer is told, nothing raises."""

import asyncio
import json
import os

import pytest
import uvloop

from policies.rollout import Probing
from policies.spec.policy import Config, Expect, Match, ProbeRequest, ProbeStep, StaticEndpoints, TrafficSpec, Variant
from tests.pods import http2, saying
from tests.rig import Backend, free_port, until
from xds_server.adapters import probing
from xds_server.adapters.probing import AT_ONCE, BODY_MAX, PROBE_HEADER, Probe, asked, modelled, rewritten
from xds_server.adapters.schema import Schema
from xds_server.adapters.schema_child import checker

WHERE = TrafficSpec(
    proxies="edge",
    listener="public",
    match=(Match(host="*.test"), Match(host="chat.test", path_prefix="/v1/"), Match(path_prefix="/v1/chat/")),
)
CHAT = ProbeRequest(path="/v1/chat", headers=(("X-User", "probe"),), body='{"model": "old", "stream": false}')


def probe(*places, requests=(CHAT,), rate=200.0, for_s=0.1, expect=None, config=None, http2=False):
    step = ProbeStep(requests=requests, rate_per_s=rate, for_s=for_s, expect=expect or Expect())
    variant = Variant(name="candidate", version="v2", endpoints=StaticEndpoints(addresses=()), config=config or Config(), http2=http2)
    return Probe(step, variant, rollout="chat", where=WHERE, places=lambda: places)


def place(backend):
    return "127.0.0.1", backend.port


async def run(*places, **more):
    one = probe(*places, **more)
    await one.run()
    return one.found


# What is sent.


async def test_requests_go_in_their_order_and_are_repeated():
    requests = tuple(ProbeRequest(path=f"/{number}", method="GET") for number in range(3))
    async with Backend() as pod:
        found = await run(place(pod), requests=requests, for_s=0.2)
    assert pod.requests == found.asked == found.good > 3
    assert max(pod.by_path.values()) - min(pod.by_path.values()) <= 1
    assert found.done
    assert not found.words


async def test_a_request_carries_what_the_variant_changes():
    config = Config(headers=(("x-sampler", "dpm++"), ("x-user", "nobody")), path="/v2/", model="new")
    async with Backend() as pod:
        assert (await run(place(pod), config=config)).good
    seen = pod.seen[0]
    assert (seen.method, seen.path) == ("POST", "/v2/chat")
    assert seen.headers["host"] == "chat.test"
    assert seen.headers["x-sampler"] == "dpm++"
    assert seen.headers["x-user"] == "nobody"
    assert seen.headers[PROBE_HEADER] == "chat"
    assert seen.headers["content-type"] == "application/json"
    assert json.loads(seen.body) == {"model": "new", "stream": False}


def test_the_longest_prefix_that_fits_is_replaced_and_the_query_kept():
    assert rewritten("/v1/chat/x?a=/v1/", WHERE, "/m/") == "/m/x?a=/v1/"
    assert rewritten("/v1/other", WHERE, "/m/") == "/m/other"
    assert rewritten("/v1/chat", WHERE, None) == "/v1/chat"
    only = TrafficSpec(proxies="edge", listener="public", match=(Match(path_prefix="/v1/"),))
    assert rewritten("/health", only, "/m/") == "/health"


@pytest.mark.parametrize("body", ["", "text", '["model"]', '{"prompt": "\\"model\\": 1"}', "{" * 100_000, '{"model": '])
def test_a_body_without_a_top_level_model_stays_as_it_is(body):
    assert modelled(body, "new") == body


def test_of_a_model_that_occurs_in_a_prompt_too_only_the_real_one_is_replaced():
    body = '{"prompt": "\\"model\\": \\"a\\"", "model": "a", "nested": {"model": "a"}}'
    assert json.loads(modelled(body, "b")) == json.loads(body) | {"model": "b"}


def test_a_body_with_half_a_surrogate_pair_can_be_sent():
    """JSON can write it, UTF-8 cannot; an error here would end the process."""
    request = ProbeRequest(path="/v1/chat", body='{"model": "old", "prompt": "\\ud800"}')
    sent = asked(request, rollout="chat", where=WHERE, config=Config(model="new")).body
    assert json.loads(sent) == {"model": "new", "prompt": "\ud800"}


def test_framing_is_not_taken_from_the_file():
    request = ProbeRequest(headers=(("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Accept", "text/plain")))
    names = [name for name, _ in asked(request, rollout="chat", where=WHERE, config=Config()).headers]
    assert "accept" in names
    assert not {"content-length", "transfer-encoding"} & set(names)


async def test_a_host_of_the_request_itself_wins_and_without_any_it_is_the_pods_address():
    anywhere = TrafficSpec(proxies="edge", listener="public")
    named = ProbeRequest(headers=(("Host", "own.test"),))
    assert asked(named, rollout="chat", where=WHERE, config=Config()).host == "own.test"
    assert asked(CHAT, rollout="chat", where=anywhere, config=Config()).host == ""
    async with Backend() as pod:
        one = Probe(
            ProbeStep(requests=(CHAT,), rate_per_s=200.0, for_s=0.01),
            Variant(name="candidate", version="v2", endpoints=StaticEndpoints(addresses=())),
            rollout="chat",
            where=anywhere,
            places=lambda: [place(pod)],
        )
        await one.run()
    assert pod.seen[0].headers["host"] == pod.address


async def test_all_ready_pods_are_asked_in_turn():
    async with Backend() as one, Backend() as other:
        found = await run(place(one), place(other), for_s=0.2)
        assert found.good == found.asked > 3
        assert abs(one.requests - other.requests) <= 1


async def test_a_pod_that_is_slower_than_the_rate_gets_fewer_requests_and_no_queue():
    async with Backend(hang=True) as pod:
        found = await run(place(pod), rate=1000.0, for_s=0.2, expect=Expect(within_s=0.3))
        assert pod.requests == AT_ONCE
    assert found.good == 0


async def test_without_a_ready_pod_the_time_does_not_pass(monkeypatch):
    monkeypatch.setattr(probing, "NO_PODS_S", 0.02)
    looks = []

    def places():
        looks.append(one.found)
        return [place(pod)] if len(looks) > 5 else []

    step = ProbeStep(requests=(CHAT,), rate_per_s=1000.0, for_s=0.01)
    variant = Variant(name="candidate", version="v2", endpoints=StaticEndpoints(addresses=()))
    async with Backend() as pod:
        one = Probe(step, variant, rollout="chat", where=WHERE, places=places)
        await one.run()
    assert looks[:6] == [Probing()] * 6
    assert one.found.done
    assert one.found.good == one.found.asked >= 1


async def test_a_probe_without_requests_is_no_good():
    found = await run(requests=())
    assert found.done
    assert found.words


async def test_at_least_one_request_is_sent_however_slow_the_rate():
    async with Backend() as pod:
        found = await run(place(pod), rate=0.001, for_s=0.05)
    assert found == Probing(asked=1, good=1, done=True)


# What comes back.


async def test_another_status_is_bad_and_three_bad_ones_are_enough():
    async with Backend(status=503) as pod:
        found = await run(place(pod), for_s=60.0)
    assert found.done
    assert (found.asked, found.good) == (3, 0)
    assert found.words == f"POST /v1/chat to {pod.address}: answered 503, expected 200"


async def test_one_bad_answer_among_good_ones_is_told_at_the_end():
    async with Backend(body=b"x", error_share=0.5, seed=1) as pod:
        requests = (CHAT, ProbeRequest(path="/other"))
        one = probe(place(pod), requests=requests, rate=50.0, for_s=0.06)
        await one.run()
    assert one.found.done
    assert one.found.good < one.found.asked
    assert "answered 500" in one.found.words


async def test_any_of_the_expected_statuses_is_good():
    async with Backend(status=404) as pod:
        assert (await run(place(pod), expect=Expect(statuses=(200, 404)))).words == ""


async def test_an_answer_that_is_not_whole_in_time_is_bad():
    async with Backend(chunks=1000, chunk_gap_s=0.05) as pod:
        found = await run(place(pod), expect=Expect(within_s=0.1))
    assert found.words.endswith("no whole answer within 0.1 s")


async def test_a_refused_connection_is_told():
    found = await run(("127.0.0.1", free_port()))
    assert found.done
    assert found.good == 0
    assert "no answer" in found.words


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 999999 X\r\n\r\n",
        b"\xff\xfe\xfd",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000,
    ],
    ids=["nothing", "empty line", "cut", "bad chunk", "bad status", "binary", "long head", "bad length", "many headers"],
)
async def test_a_broken_answer_is_bad_and_nothing_raises(answer):
    async with saying(answer) as where:
        found = await run(where)
    assert found.done
    assert found.good == 0
    assert found.words
    assert len(found.words) <= probing.MAX_WORDS


async def test_a_redirect_is_not_followed_and_a_cookie_not_sent_back():
    async with saying(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n") as where:
        assert "answered 302" in (await run(where)).words


async def test_a_long_body_is_read_to_its_end_without_being_kept():
    async with Backend(body=b"x" * (BODY_MAX + 1)) as pod:
        assert (await run(place(pod), rate=20.0)).words == ""
        found = await run(place(pod), rate=20.0, expect=Expect(json_schema="{}"))
    assert "more than 1024 KiB" in found.words


async def test_a_pod_of_http2_is_probed_in_http2():
    async with http2() as (where, seen):
        found = await run(where, http2=True)
    assert found.words == ""
    assert found.good == found.asked >= 1
    assert seen[0][":authority"] == "chat.test"
    assert seen[0][":path"] == "/v1/chat"


async def test_a_pod_that_breaks_http2_is_told():
    async with saying(b"\x00" * 500) as where:
        found = await run(where, http2=True)
    assert found.good == 0
    assert found.words


# Schemas.

SCHEMA = json.dumps({"type": "object", "required": ["choices"], "properties": {"choices": {"type": "array", "minItems": 1}}})


async def test_an_answer_that_fits_the_schema_is_good():
    async with Backend(body=b'{"choices": [1]}') as pod:
        found = await run(place(pod), rate=20.0, expect=Expect(json_schema=SCHEMA))
    assert found.words == ""
    assert found.good == found.asked >= 1


async def test_where_an_answer_does_not_fit_is_told():
    async with Backend(body=b'{"choices": []}') as pod:
        found = await run(place(pod), rate=100.0, expect=Expect(json_schema=SCHEMA))
    assert "$.choices" in found.words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"choices": [1]}', ""),
        (b"[]", "$: [] is not of type 'object'"),
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 500_000, "no JSON"),
        (b'{"choices": 9' + b"9" * 10_000 + b"}", "no JSON"),
    ],
    ids=["fits", "another type", "nothing", "binary", "deep", "long number"],
)
def test_the_checker_says_what_is_wrong_and_never_raises(body, words):
    found = checker(SCHEMA.encode())(body)
    assert words in found if words else found == ""
    assert len(found) <= 200


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        '{"type": 5}',
        "[]",
        "3",
        "null",
        '{"$schema": 3}',
        '{"$schema": []}',
        '{"$ref": "http://127.0.0.1:1/schema.json"}',
        '{"$ref": "#/nowhere"}',
        '{"$ref": "#"}',
    ],
    ids=["no JSON", "wrong", "no object", "number", "null", "odd dialect", "odder dialect", "far away", "nowhere", "itself"],
)
def test_a_schema_that_cannot_be_used_is_bad_for_every_answer_and_nothing_is_fetched(schema):
    assert "cannot be used" in checker(schema.encode())(b"{}")


async def test_a_schema_that_never_ends_is_cut_off_and_the_next_answer_is_held_against_it_again(monkeypatch):
    from xds_server.adapters import schema

    monkeypatch.setattr(schema, "PATIENCE_S", 3.0)
    async with Schema('{"pattern": "^(a+)+$"}') as evil:
        assert "took longer" in await evil.fault(json.dumps("a" * 40 + "b").encode())
        monkeypatch.setattr(schema, "PATIENCE_S", 30.0)
        assert await evil.fault(b'"aaa"') == ""


async def test_what_a_pod_says_can_be_kept_and_shown():
    """A lone surrogate in a rollout's state could not be saved: the process would end, again and again."""
    expect = Expect(json_schema='{"additionalProperties": {"type": "string"}}')
    async with Backend(body=b'{"\\ud800\\u001b[2J": 1}') as pod:
        found = await run(place(pod), expect=expect)
    assert "is not of type 'string'" in found.words
    assert found.words.isprintable()


def test_a_child_that_died_meanwhile_is_replaced_on_the_loop_that_serve_runs_on():
    async def die_between_two():
        async with Schema("{}") as schema:
            assert await schema.fault(b"1") == ""
            child = schema._child
            os.kill(child.pid, 9)
            await until(lambda: child.returncode is not None, "the child to end")
            return await schema.fault(b"1")

    assert uvloop.run(die_between_two()) == ""


async def test_a_child_that_is_killed_is_replaced_and_none_is_left_behind():
    async with Schema("{}") as schema:
        assert await schema.fault(b"1") == ""
        child = schema._child
        os.kill(child.pid, 9)
        assert await schema.fault(b"1") != ""
        assert await schema.fault(b"1") == ""
        last = schema._child
    assert child.returncode is not None
    assert last.returncode is not None


async def test_a_probe_that_is_cancelled_leaves_no_child():
    started = []

    class Watched(Schema):
        async def _ask(self, body):
            try:
                return await super()._ask(body)
            finally:
                started.append(self._child)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "Schema", Watched)
        async with Backend(body=b"1") as pod:
            running = asyncio.create_task(probe(place(pod), for_s=60.0, rate=20.0, expect=Expect(json_schema="{}")).run())
            await until(lambda: started)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
    assert all(child.returncode is not None for child in started if child)
