"""The real Envoy gives each variant the requests that its configuration asks for, and nobody else; what no rollout owns passes untouched."""

import asyncio
import contextlib
import json
import random
from dataclasses import replace

import grpc
import pytest

from policies.spec.policy import Config, DefaultRoute, Endpoints, Fallback, HealthCheck, Match, StaticEndpoints
from tests.e2e.plane import two_versions
from tests.rig import Backend, free_port, receive, until
from tests.rig import Got as Answer
from xds_server.resources.config import BODY_BYTES

ALL = 10_000
PLAIN = Config()
HEALTH = HealthCheck(path="/health", interval_s=0.2, timeout_s=0.3, unhealthy_after=1)
CANDIDATE = Config(headers=(("x-new", "2"), ("x-sampler", "dpm++")), path="/v2", model="int8")
STABLE = Config(headers=(("x-sampler", "euler"),), path="/v1/", model="fp16")
PROMPT = b'{"messages": ["say \\"model\\": \\"mine\\""], "model": "theirs", "n": 1}'


def configured(world, *, stable=PLAIN, candidate=PLAIN, share_bp=0, shadow_bp=0, prefixes=("/",)):
    """A new release: other versions never share runtime keys with older ones."""
    old = world.shares(share_bp, shadow_bp, generation=world.wish.generation + 1)
    arm = replace(old.arms[0], variant=replace(old.arms[0].variant, config=candidate))
    where = replace(old.where, match=tuple(Match(path_prefix=prefix) for prefix in prefixes))
    world.wish = replace(old, stable=replace(old.stable, config=stable), arms=(arm,), where=where)
    return world.wish


async def post(world, body=PROMPT, *, path="/chat?a=/b", **headers):
    sent = {"content-type": "application/json", "x-sampler": "mine"} | {name.replace("_", "-"): text for name, text in headers.items()}
    return await world.client.request(path, method="POST", body=body, headers={name: text for name, text in sent.items() if text})


def what_came(backend):
    """The last request as (path, headers that a configuration may set, body); its length is right."""
    seen = backend.seen[-1]
    assert int(seen.headers.get("content-length", len(seen.body))) == len(seen.body)
    assert not {name for name in seen.headers if name.startswith("x-crossfade") and name != "x-crossfade-shadow"}
    return seen.path, {name: seen.headers[name] for name in ("x-new", "x-sampler") if name in seen.headers}, seen.body


AS_SENT = ("/chat?a=/b", {"x-sampler": "mine"}, PROMPT)
OF_CANDIDATE = ("/v2/chat?a=/b", {"x-new": "2", "x-sampler": "dpm++"}, PROMPT.replace(b'"theirs"', b'"int8"'))
OF_STABLE = ("/v1/chat?a=/b", {"x-sampler": "euler"}, PROMPT.replace(b'"theirs"', b'"fp16"'))


@pytest.mark.parametrize("fallback", [Fallback.CONNECT, Fallback.NONE])
async def test_users_and_copies_carry_the_configuration_of_the_variant_they_go_to(tmp_path, fallback):
    async with two_versions(tmp_path, fallback=fallback) as world:
        await world.plane.delivered(configured(world, candidate=CANDIDATE, shadow_bp=ALL))
        assert (await post(world)).variant == "v1"
        await until(lambda: world.candidate.shadows, "the copy")
        assert what_came(world.stable) == AS_SENT
        assert what_came(world.candidate) == OF_CANDIDATE
        world.candidate.reset_counts()
        await world.plane.delivered(configured(world, candidate=CANDIDATE, stable=STABLE, share_bp=ALL))
        assert (await post(world)).variant == "v2"
        assert what_came(world.candidate) == OF_CANDIDATE
        await world.plane.delivered(configured(world, candidate=CANDIDATE, stable=STABLE))
        assert (await post(world)).variant == "v1"
        assert what_came(world.stable) == OF_STABLE


async def test_one_server_under_two_configurations_is_two_versions_in_the_evidence_too(tmp_path):
    async with two_versions(tmp_path) as world:
        old = configured(world, stable=STABLE, candidate=CANDIDATE, share_bp=5000)
        [arm] = old.arms
        arm = replace(arm, variant=replace(arm.variant, version="v1", endpoints=old.stable.endpoints))
        await world.plane.delivered(replace(old, generation=old.generation + 1, arms=(arm,)))
        for _ in range(40):
            await post(world)
        await world.logged(40)
        ids = {entry.request.request_id: entry.common_properties.upstream_cluster for entry in world.plane.entries}
        got = {(ids[seen.headers["x-request-id"]], seen.path, seen.headers["x-sampler"]) for seen in world.stable.seen}
        assert got == {
            (f"chat/{old.stable.identity}", OF_STABLE[0], "euler"),
            (f"chat/{arm.variant.identity}", OF_CANDIDATE[0], "dpm++"),
        }


async def test_a_stand_in_for_the_candidate_carries_the_configuration_of_stable(tmp_path):
    async with two_versions(tmp_path, health=HEALTH) as world:
        world.candidate.health_status = 503
        for stable, expected in ((Config(), AS_SENT), (STABLE, OF_STABLE)):
            await world.plane.delivered(configured(world, candidate=CANDIDATE, stable=stable, share_bp=ALL))
            await until(lambda: _sick(world), "the candidate's pod to be passed over")
            assert (await post(world)).variant == "v1"
            assert what_came(world.stable) == expected


async def test_a_second_attempt_at_stable_has_the_request_as_it_was_sent(tmp_path):
    async with two_versions(tmp_path) as world:
        await world.candidate.kill()
        for stable, expected in ((Config(), AS_SENT), (STABLE, OF_STABLE)):
            await world.plane.delivered(configured(world, candidate=CANDIDATE, stable=stable, share_bp=ALL))
            for _ in range(3):
                assert (await post(world)).variant == "v1"
                assert what_came(world.stable) == expected
            assert (await post(world, x_sampler=None)).variant == "v1"
            assert what_came(world.stable) == (
                expected[0],
                {name: text for name, text in expected[1].items() if text != "mine"},
                expected[2],
            )
    async with two_versions(tmp_path, fallback=Fallback.GATEWAY) as world:
        world.candidate.status = 503
        await world.plane.delivered(configured(world, candidate=CANDIDATE, stable=STABLE, share_bp=ALL))
        assert (await post(world)).variant == "v1"
        assert (what_came(world.candidate), what_came(world.stable)) == (OF_CANDIDATE, OF_STABLE)


async def test_a_second_attempt_at_the_same_variant_changes_the_request_once(tmp_path):
    async with two_versions(tmp_path) as world:
        old = configured(world, stable=STABLE)
        places = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{world.stable.port}")
        old = replace(old, generation=old.generation + 1, stable=replace(old.stable, endpoints=StaticEndpoints(addresses=places)))
        await world.plane.delivered(old)
        for _ in range(20):
            assert (await post(world)).variant == "v1"
            assert what_came(world.stable) == OF_STABLE
        assert await _some(world, "chat/v1.*upstream_rq_retry$"), "some of them were second attempts"


async def test_the_longest_prefix_is_replaced(tmp_path):
    cases = {"/": "/v2/", "/x?q=/chat/1": "/v2/x?q=/chat/1", "/chat/1": "/v2/1", "/gen": "/v2", "/gen/a": "/v2/a", "/gen?a": "/v2?a"}
    async with two_versions(tmp_path) as world:
        await world.plane.delivered(configured(world, candidate=Config(path="/v2"), share_bp=ALL, prefixes=("/", "/chat/", "/gen")))
        for path, expected in cases.items():
            await world.client.request(path)
            assert world.candidate.seen[-1].path == expected
        await world.plane.delivered(configured(world, candidate=Config(path="/"), share_bp=ALL, prefixes=("/", "/chat/", "/gen")))
        for path, expected in {"/chat/1": "/1", "/gen/a": "/a", "/gen": "/", "/gen?a": "/?a", "/x": "/x"}.items():
            await world.client.request(path)
            assert world.candidate.seen[-1].path == expected


UNTOUCHED = (
    b"", b"no json", b"[]", b"{}", b'{"a": {"model": 1}}', b'{"a": "\\"model\\": 1"}', b'"model"', b'{"model": "a"', b'{"model": "a"}}',
    b'{"model": "a"} x', b'{"model": }', b'{"model" "a"}', b'{"a": 1 "model": "a"}', b'{"model\\": "a"}', b'{"MODEL": "a"}', b'{"model": "a',
    b'{"model": {"a": [}', b'\x1f\x8b\x08"model": 1', b'{"model', b'{"', b'[{"model": "a"}]', b'{"a": "\\', b"{" * 5000,
)  # fmt: skip


async def test_only_the_model_of_the_outermost_object_is_replaced(tmp_path):
    name = 'a "quoted"\\ %d näme'
    async with two_versions(tmp_path) as world:
        await world.plane.delivered(configured(world, candidate=Config(model=name), share_bp=ALL))
        for body in UNTOUCHED:
            await post(world, body)
            assert world.candidate.seen[-1].body == body
        for body in _documents(random.Random(1), 300):
            await post(world, body)
            assert json.loads(what_came(world.candidate)[2]) == json.loads(body) | {"model": name}
        for body in (b'{"model": 1, "model": null}', b' {"model":[1, "]"] , "a":{}}\n', b'{"model":{"a":"}"}}', b'{"model":""}'):
            await post(world, body)
            assert json.loads(world.candidate.seen[-1].body) == json.loads(body) | {"model": name}
        assert not await _some(world, "lua.errors")


def _documents(chance, number):
    """Objects with a `model` among traps, in every layout `json.dumps` knows."""

    def value(depth):
        kinds = [lambda: chance.choice(('"model": "x"', "\\", 'a"b', "ü\n\u2028", "", "}{][", ":,")), lambda: chance.randint(-9, 9)]
        kinds += [lambda: chance.choice((None, True, 1e-9))]
        if depth:
            kinds += [lambda: [value(depth - 1) for _ in range(chance.randint(0, 3))], lambda: things(depth - 1)]
        return chance.choice(kinds)()

    def things(depth):
        return {chance.choice(("model", "a", 'model"', "\\", "prompt", "")): value(depth) for _ in range(chance.randint(0, 4))}

    for _ in range(number):
        pairs = [*things(3).items(), ("model", value(2)), *things(3).items()]
        indent, ascii_ = chance.choice((None, None, 0, 2)), chance.random() < 0.5
        separators = chance.choice((None, (",", ":"), (" , ", " : ")))
        yield json.dumps(dict(pairs), indent=indent, ensure_ascii=ascii_, separators=separators).encode()


async def test_only_json_is_looked_into_in_whatever_pieces_it_comes(tmp_path):
    async with two_versions(tmp_path) as world:
        await world.plane.delivered(configured(world, candidate=Config(model="int8"), share_bp=ALL))
        for kind, replaced in (
            ("application/json; charset=utf-8", True),
            ("text/plain", False),
            ("application/grpc+json", False),
            (None, True),
        ):
            await post(world, PROMPT, content_type=kind)
            assert (b"int8" in world.candidate.seen[-1].body) is replaced
        big = json.dumps({"image": "A" * 3_000_000, "model": "theirs"}).encode()
        await post(world, big)
        assert what_came(world.candidate)[2] == big.replace(b"theirs", b"int8")
        pieces = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in PROMPT) + b"0\r\n\r\n"
        async with _connection(world.client.port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n" + pieces)
            got = Answer()
            await receive(reader, got)
            assert got.status == 200
        assert what_came(world.candidate)[2] == PROMPT.replace(b'"theirs"', b'"int8"')
        number = world.candidate.requests
        assert (await post(world, b"x" * (BODY_BYTES + 1))).status == 413
        assert (await post(world, b"x" * (BODY_BYTES + 1), content_type="text/plain")).status == 200
        assert world.candidate.requests == number + 1


async def test_a_streamed_answer_is_passed_on_event_by_event(tmp_path):
    async with two_versions(tmp_path) as world:
        world.candidate.chunks, world.candidate.chunk_gap_s = 100, 0.2
        await world.plane.delivered(configured(world, candidate=CANDIDATE, share_bp=ALL))
        async with _connection(world.client.port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
            await asyncio.wait_for(reader.readuntil(b"data: 0\n\n"), 10)
            assert world.candidate.active == 1, "the answer goes on"


async def test_grpc_goes_through_with_its_trailers_and_the_configuration_of_its_variant(tmp_path):
    headers = Config(headers=(("x-tenant", "b"),), path="/other.Echo/", model="int8")
    async with _echo("v1") as one, _echo("v2", "other.Echo") as two, two_versions(tmp_path) as world:
        old = configured(world, share_bp=ALL, prefixes=("/test.Echo/",))
        stable = replace(old.stable, endpoints=_at(one), http2=True)
        arm = replace(old.arms[0], variant=replace(old.arms[0].variant, endpoints=_at(two), http2=True, config=headers))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{world.client.port}") as channel:
            for endpoints, expected in ((_at(two), "v2 b"), (_at(free_port()), "v1 -")):
                arm = replace(arm, variant=replace(arm.variant, endpoints=endpoints))
                old = replace(old, generation=old.generation + 1, stable=stable, arms=(arm,))
                await world.plane.delivered(old)
                unary = channel.unary_unary("/test.Echo/One")
                call = unary(b'{"model": "theirs"}', timeout=10)
                assert await call == f'{expected} {{"model": "theirs"}}'.encode()
                assert dict(await call.trailing_metadata())["x-end"] == expected.split()[0]
                many = channel.unary_stream("/test.Echo/Many")
                call = many(b"a", timeout=10)
                assert [each async for each in call] == [f"{number} a".encode() for number in range(5)]
                assert (await call.code(), dict(await call.trailing_metadata())["x-end"]) == (grpc.StatusCode.OK, expected.split()[0])
                failing = channel.unary_unary("/test.Echo/Fail")
                with pytest.raises(grpc.aio.AioRpcError, match="on purpose"):
                    await failing(b"a", timeout=10)
                both = channel.stream_stream("/test.Echo/Both")(timeout=10)
                for word in (b"a", b"b"):
                    await both.write(word)
                    assert await both.read() == word, "an answer before the request has ended"
                await both.done_writing()


async def test_pods_that_speak_http2_are_asked_for_their_health_in_http2_and_start_slowly(tmp_path):
    """The listener stands for the pod: it takes either protocol and counts the connections, and its default answers."""
    async with two_versions(tmp_path) as world, Backend(name="other") as other:
        old = configured(world)
        where = replace(old.where, match=(Match(host="model.test"),))
        spoken = {"endpoints": _at(world.client.port), "http2": True, "slow_start_s": 30.0, "health": HEALTH}
        arm = replace(old.arms[0], variant=replace(old.arms[0].variant, **spoken))
        world.plane.proxies = replace(world.plane.proxies, default=DefaultRoute(endpoints=_at(other.port)))
        await world.plane.delivered(replace(old, generation=99, where=where, arms=(arm,)))
        await until(lambda: _some(world, f"{arm.variant.identity}.health_check.success"), "a check to succeed")
        assert await _some(world, "http.edge_public.downstream_cx_http2_total")
        dump = await world.envoy.json("/config_dump?resource=dynamic_active_clusters")
        slow = {each["cluster"]["name"]: each["cluster"].get("least_request_lb_config") for each in dump["configs"]}
        assert {name: found for name, found in slow.items() if found} == {
            f"chat/{arm.variant.identity}": {"slow_start_config": {"slow_start_window": "30s"}}
        }


async def test_what_no_rollout_owns_goes_to_the_default_untouched_and_what_one_owns_never(tmp_path):
    async with two_versions(tmp_path) as world, Backend(name="other") as other:
        wish = configured(world, candidate=CANDIDATE, stable=STABLE, share_bp=5000, shadow_bp=ALL)
        wish = replace(wish, where=replace(wish.where, match=(Match(host="model.test", path_prefix="/chat"),)))
        world.plane.proxies = replace(world.plane.proxies, default=DefaultRoute(endpoints=_at(other.port)))
        await world.plane.delivered(wish)
        for path, host in (("/", "model.test"), ("/cha", "model.test"), ("/chat", "else.test"), ("/%2fa//b?c", "a.b")):
            sent = {"x-sampler": "mine", "cookie": "a=b", "content-type": "application/json"}
            reply = await world.client.request(path, host=host, method="POST", body=PROMPT, headers=sent)
            assert reply.variant == "other"
            assert set(reply.headers) <= {"x-variant", "content-type", "content-length", "date", "x-envoy-upstream-service-time"}
            seen = other.seen[-1]
            assert (seen.path, seen.headers["host"], seen.body) == (path, host, PROMPT)
            assert sent.items() <= seen.headers.items()
            assert not {name for name in seen.headers if name.startswith("x-crossfade")}
        assert not world.stable.requests + world.candidate.requests + world.candidate.shadows
        assert {(await world.client.request("/chat")).variant for _ in range(60)} == {"v1", "v2"}
        await other.kill()
        assert (await world.client.request("/")).status == 503
        assert not world.stable.by_path["/"] + world.candidate.by_path["/"], "no rollout stands in"
        world.plane.proxies = replace(world.plane.proxies, default=None)
        await world.plane.delivered(wish)
        assert (await world.client.request("/")).status == 404
        assert "_default/edge" not in await world.envoy.admin("/clusters")


async def test_a_default_of_a_group_without_rollouts_gets_everything(tmp_path):
    async with two_versions(tmp_path) as world, Backend(name="other") as other:
        world.plane.proxies = replace(world.plane.proxies, default=DefaultRoute(endpoints=_at(other.port)))
        await world.plane.delivered()
        assert (await world.client.request("/chat", host="any.test")).variant == "other"


def _at(port: int) -> Endpoints:
    return StaticEndpoints(addresses=(f"127.0.0.1:{port}",))


async def _some(world, pattern) -> int:
    return sum((await world.envoy.stats(pattern)).values())


async def _sick(world) -> bool:
    name = f"chat/{world.wish.arms[0].variant.identity}::"
    lines = [line for line in (await world.envoy.admin("/clusters")).splitlines() if line.startswith(name) and "health_flags" in line]
    return bool(lines) and all("/failed_active_hc" in line for line in lines)


@contextlib.asynccontextmanager
async def _connection(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def _echo(name, service="test.Echo"):
    """A gRPC server that says who it is, with trailers; gives its port."""

    def tenant(context):
        return dict(context.invocation_metadata()).get("x-tenant", "-")

    async def one(request, context):
        context.set_trailing_metadata((("x-end", name),))
        return f"{name} {tenant(context)} ".encode() + request

    async def many(request, context):
        context.set_trailing_metadata((("x-end", name),))
        for number in range(5):
            yield f"{number} ".encode() + request

    async def fail(_, context):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "on purpose")

    async def both(requests, _):
        async for request in requests:
            yield request

    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
