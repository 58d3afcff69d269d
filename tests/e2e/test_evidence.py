"""Evidence from the real Envoy, live: the collector counts what the clients saw, and loses nothing and invents nothing under load."""

import asyncio
import contextlib
import time
from dataclasses import replace

import grpc

from policies.evidence import NOTHING, add
from policies.spec.policy import Fallback, StaticEndpoints
from tests.e2e import plane
from tests.fixtures.access_log.record import Recorder
from tests.rig import until
from xds_server.evidence.collector import Collector
from xds_server.resources.names import owners


class Judge(Recorder):
    """Collects evidence as the server does: blocks closed every 100 ms."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.collector = Collector(clock=time.time)
        self.users, self.shadows, self.lost = {}, {}, 0

    def publish(self, *wishes):
        super().publish(*wishes)
        for wish in wishes:
            self.collector.own(wish.rollout, owners((wish,)))

    def _logs(self, raw):
        self.collector.access_log(raw)

    def _loads(self, raw):
        super()._loads(raw)
        self.said.clear()
        self.collector.load_report(raw)

    async def _beat(self):
        closing = asyncio.get_running_loop().create_task(self._close())
        try:
            await super()._beat()
        finally:
            closing.cancel()

    async def _close(self):
        while True:
            await asyncio.sleep(0.1)
            for _, block in self.collector.close(time.time()):
                self.lost += block.lost
                for mine, theirs in ((self.users, block.users), (self.shadows, block.shadows)):
                    for identity, counts in theirs.items():
                        mine[identity] = add(mine.get(identity, NOTHING), counts)


def requests(counts):
    return sum(each.requests for each in counts.values())


async def test_the_evidence_is_what_the_clients_saw(tmp_path, monkeypatch):
    """Errors, fallbacks and copies at once: every finished request is counted once, for the version it was meant for."""
    monkeypatch.setattr(plane, "Plane", Judge)
    async with plane.two_versions(tmp_path, fallback=Fallback.CONNECT) as world:
        judge = world.plane
        await judge.delivered(world.shares(3000, 2000))
        await until(lambda: set(owners((world.wish,))) <= judge.tracked, "load reports to name every cluster")
        world.candidate.error_share = 0.2
        async with world.client.load(200.0) as load:
            await until(lambda: len(load.replies) >= 600)
            await world.candidate.kill()
            await until(lambda: len(load.replies) >= 900)
        stable, candidate = world.wish.stable.identity, world.wish.arms[0].variant.identity
        await until(lambda: requests(judge.users) == load.sent, f"{load.sent} requests to be counted")
        answered = load.by_variant()
        # A request that a pod held when it died is not tried again: Envoy answers it itself.
        cut = answered[None]
        of_candidate = judge.users[candidate]
        fallbacks = answered["v1"] - judge.users[stable].requests
        assert judge.users[stable].errors == 0
        assert fallbacks > 0
        assert of_candidate.requests == answered["v2"] + cut + fallbacks
        assert of_candidate.errors == len(load.failures) + fallbacks
        assert of_candidate.fallbacks <= fallbacks
        assert not [reply for reply in load.failures if reply.variant == "v1"]
        assert set(judge.shadows) == {candidate}
        copies = judge.shadows[candidate]
        assert copies.requests >= world.candidate.shadows > 0
        # Reports go on for longer than the audit waits before it calls anything lost.
        settled = time.monotonic() + 2.5
        await until(lambda: time.monotonic() > settled)
        assert judge.lost == 0
        assert requests(judge.users) == load.sent
        assert judge.collector.gap("chat") == 0.0


async def test_a_candidate_that_hangs_fails_by_the_routes_timeout_and_is_not_the_fastest(tmp_path, monkeypatch):
    monkeypatch.setattr(plane, "Plane", Judge)
    async with plane.two_versions(tmp_path) as world:
        judge = world.plane
        world.candidate.hang = True
        await judge.delivered(world.shares(5000, where=replace(world.wish.where, timeout_s=1.0)))
        replies = await world.client.burst(60, at_once=20)
        candidate = world.wish.arms[0].variant.identity
        hung = sum(reply.status == 504 for reply in replies)
        assert 0 < hung < 60
        await until(lambda: requests(judge.users) == 60)
        counts = judge.users[candidate]
        assert (counts.requests, counts.errors) == (hung, hung)
        assert counts.latency == ((max(place for place, _ in counts.latency), hung),)
        assert counts.statuses == (("UT", hung),)


@contextlib.asynccontextmanager
async def _echo(spoilt):
    """A gRPC server; `spoilt` makes every call but that of `Missing` fail. Gives the address."""

    async def many(request, context):
        yield request
        await spoilt(context)
        yield request

    async def both(requests, context):
        await spoilt(context)
        async for request in requests:
            yield request

    async def one(request, context):
        await spoilt(context)
        return request

    async def missing(_, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "on purpose")

    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Missing": grpc.unary_unary_rpc_method_handler(missing),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield StaticEndpoints(addresses=(f"127.0.0.1:{port}",))
    finally:
        await server.stop(None)


async def _well(_):
    pass


async def _ill(context):
    await context.abort(grpc.StatusCode.INTERNAL, "on purpose")


async def _call(channel, method):
    """The status of one call; `Both` goes on sending until it has an answer."""
    match method:
        case "Both":
            call = channel.stream_stream(f"/test.Echo/{method}")(timeout=20)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(b"a")
                await call.read()
                await call.done_writing()
        case "Many":
            call = channel.unary_stream(f"/test.Echo/{method}")(b"a", timeout=20)
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for _ in call:
                    pass
        case _:
            call = channel.unary_unary(f"/test.Echo/{method}")(b"a", timeout=20)
    return await call.code()


async def test_a_grpc_candidate_that_fails_with_http_200_has_errors_for_users_and_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(plane, "Plane", Judge)
    async with _echo(_well) as good, _echo(_ill) as ill, plane.two_versions(tmp_path) as world:
        judge, old = world.plane, world.shares(4000, 4000)
        stable = replace(old.stable, endpoints=good, http2=True)
        arm = replace(old.arms[0], variant=replace(old.arms[0].variant, endpoints=ill, http2=True))
        wish = replace(old, generation=old.generation + 1, stable=stable, arms=(arm,))
        await judge.delivered(wish)
        await until(lambda: set(owners((wish,))) <= judge.tracked, "load reports to name every cluster")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{world.client.port}") as channel:
            methods = ("One", "Many", "Both") * 20
            codes = [await _call(channel, method) for method in methods]
            failed = codes.count(grpc.StatusCode.INTERNAL)
            assert codes.count(grpc.StatusCode.OK) + failed == len(codes)
            assert 0 < failed < len(codes)
            missing = [await _call(channel, "Missing") for _ in range(30)]
            assert set(missing) == {grpc.StatusCode.NOT_FOUND}
        await until(lambda: requests(judge.users) == len(codes) + len(missing))
        counts, of_stable = judge.users[arm.variant.identity], judge.users[stable.identity]
        assert (counts.errors, of_stable.errors) == (failed, 0)
        assert dict(counts.statuses)["grpc 13"] == failed
        assert dict(of_stable.statuses)["grpc 0"] == len(codes) - failed
        assert dict(counts.statuses)["grpc 5"] + dict(of_stable.statuses)["grpc 5"] == len(missing)
        await until(lambda: judge.shadows[arm.variant.identity].errors)
        settled = time.monotonic() + 2.5
        await until(lambda: time.monotonic() > settled)
        assert judge.lost == 0
        assert judge.collector.gap("chat") == 0.0
