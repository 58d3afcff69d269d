"""Every way to roll out, in the whole server with a real Envoy: what users got, counted at the backends."""

import asyncio
import json
import time
from datetime import datetime

import pytest

from policies.lanes import TOTAL, weight
from tests.rig import Backend, Client, binomial_band, until
from tests.stage import Stage, rollout, variant
from xds_server.adapters.probing import PROBE_HEADER

pytestmark = pytest.mark.timeout(180)

STICKY = {"sticky": {"header": "x-user"}}
ERRORS = {"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "15%"}}
USERS = [f"user-{number}" for number in range(2000)]
STREAM = b"".join(f"data: {number}\n\n".encode() for number in range(5))


def canary(*shares, hold="1h"):
    return {"canary": {"shares": list(shares), "hold": {"for": hold}}}


def in_band(count, number, share):
    """Whether a count is what a share gives, in 999 of 1000 fair draws."""
    low, high = binomial_band(number, weight(round(share * 10_000)) / TOTAL)
    return low <= count <= high


def ended(reply):
    return reply.at + reply.latency_ms / 1000.0


async def decided(stage, *words, name="chat", timeout_s=60.0):
    """The first record of a decision whose step, reason or decision is as told, and when it was taken [s]."""

    async def there():
        for record in await stage.history(name):
            if all(word in (record["decision"], record["reason"], record["step"], record["actor"]) for word in words):
                return record, datetime.fromisoformat(record["at"]).timestamp()
        return None

    try:
        return await until(there, timeout_s=timeout_s, every_s=0.05)
    except AssertionError:
        raise AssertionError(f"no {words}: {await stage.status(name)}") from None


async def obeyed(stage, verb, name="chat", **said):
    """Says a verb until it is taken: a pod or a proxy may be away for a moment on a busy machine."""
    answer = {}

    async def taken():
        nonlocal answer
        answer = await stage.act(verb, name, **said)
        return "error" not in answer

    try:
        await until(taken, every_s=0.1)
    except AssertionError:
        raise AssertionError(f"{verb}: {answer}; {await stage.status(name)}") from None
    return answer


async def ask_all(client, users=USERS):
    """One request of each user: who was answered by which version."""
    replies = await client.burst(len(users), user=users.__getitem__)
    assert not [reply for reply in replies if reply.failure]
    return {reply.user: reply.variant for reply in replies}


async def streams(client, backend, number, **request):
    """Begins streams that do not end before `backend.finish` is set; what else the backend gets is answered at once."""
    backend.chunks, backend.finish, before = 5, asyncio.Event(), backend.began
    tasks = [asyncio.create_task(client.request(**request)) for _ in range(number)]
    await until(lambda: backend.began >= before + number, "the streams to begin")
    backend.chunks = 0
    return tasks


async def test_blue_green_moves_everybody_by_one_change_and_back_by_another(tmp_path):
    """Nobody meets green before the switch or blue after it, streams end whole where they began, and no request fails on the way."""
    steps = [
        {"probe": {"requests": "chat.jsonl", "rate": "20/s", "for": "1s"}},
        {"shadow": {"share": "50%", "hold": {"for": "500ms", "samples": 20}}},
        {"switch": {"hold": {"for": "1h"}}},
        {"promote": {"keep_stable_for": "1h"}},
    ]
    async with Backend(name="v1") as blue, Backend(name="v2") as green, Stage(tmp_path) as stage:
        (stage.policies / "chat.jsonl").write_text('{"path": "/v1/chat", "body": {"model": "m"}}\n')
        await stage.start(rollout(blue))
        async with Client(stage.port, connections_max=8) as client, Client(stage.port) as slow:
            await stage.serving(client)
            talking = await streams(slow, blue, 5)
            async with client.load(200) as load:
                stage.write(stage.proxies(), rollout(blue, green, steps=steps, gates=[ERRORS]))
                await stage.share(1.0, timeout_s=60)
                switched = time.time()
                await until(lambda: len(load.since(switched)) > 100)
                _, told = await decided(stage, "advanced", "switch to candidate")
                assert not any(task.done() for task in talking), [task.result() for task in talking if task.done()]
                blue.finish.set()
                whole = await asyncio.gather(*talking)
                await obeyed(stage, "promote")
                await stage.phase("baking")
                baking = time.time()
                await until(lambda: len(load.since(baking)) > 100)
                code, _, err = await stage.cli("rollback", "chat", "--reason", "green is blue")
                assert code == 0, err
                await stage.phase("reverted")
                back = time.time()
                await until(lambda: len(load.since(back + 0.05)) > 100)
        assert not load.failures
        early = [reply for reply in load.replies if ended(reply) < told]
        assert {reply.variant for reply in early} == {"v1"}
        assert {reply.variant for reply in load.replies if switched <= reply.at and ended(reply) < baking} == {"v2"}
        assert set(load.by_variant(since=back + 0.05)) == {"v1"}
        assert [(reply.variant, reply.body) for reply in whole] == [("v1", STREAM)] * 5
        seen = list(green.seen)
        first_user = next(place for place, each in enumerate(seen) if not each.shadow and PROBE_HEADER not in each.headers)
        assert sum(PROBE_HEADER in each.headers for each in seen[:first_user]) >= 5
        assert not any(PROBE_HEADER in each.headers for each in seen[first_user:])
        assert green.shadows >= 20


async def test_a_canary_gets_its_share_and_ends_its_streams_when_it_is_taken_back(tmp_path):
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=[canary("10%", "50%")], gates=[]))
        async with Client(stage.port) as client, Client(stage.port) as slow:
            await stage.serving(client)
            for share in (0.1, 0.5):
                await stage.share(share)
                v1.reset_counts()
                v2.reset_counts()
                replies = await client.burst(2000)
                assert not [reply for reply in replies if reply.failure]
                assert in_band(v2.requests, 2000, share)
                assert v1.requests + v2.requests == 2000
                if share == 0.1:
                    await obeyed(stage, "advance")
            v2.finish, v2.chunks = asyncio.Event(), 5
            talking = [asyncio.create_task(slow.request()) for _ in range(40)]
            await until(lambda: v2.active >= 5 and v1.requests + v2.requests == 2040, "the streams to begin")
            v2.chunks, begun = 0, v2.active
            await obeyed(stage, "abort")
            await stage.phase("reverted")
            v2.reset_counts()
            assert {reply.variant for reply in await client.burst(500)} == {"v1"}
            assert (v2.requests, v2.active) == (0, begun)
            v2.finish.set()
            whole = [reply for reply in await asyncio.gather(*talking) if reply.variant == "v2"]
        assert len(whole) == begun
        assert {(reply.failure, reply.body) for reply in whole} == {("", STREAM)}


async def test_of_several_arms_the_bad_one_leaves_alone_and_the_best_one_wins(tmp_path):
    steps = [
        canary({"b": "20%", "c": "20%", "d": "20%"}),
        {"ab": {"shares": {"b": "20%", "c": "20%"}, "goal": "faster", "at_most": "1h", "hold": {"for": "500ms", "samples": 20}}},
        {"promote": {"keep_stable_for": "1h"}},
    ]
    goal = {"name": "faster", "metric": "envoy/latency", "statistic": "p50", "role": "goal", "better_by": {"relative": "10%"}}
    async with (
        Backend(name="v1", delay_s=0.05) as stable,
        Backend(name="b", delay_s=0.005) as b,
        Backend(name="c", delay_s=0.05) as c,
        Backend(name="d", delay_s=0.05) as d,
        Stage(tmp_path) as stage,
    ):
        variants = {"stable": variant("v1", stable)} | {each.name: variant(each.name, each) for each in (b, c, d)}
        await stage.start(rollout(stable, variants=variants, steps=steps, gates=[ERRORS, goal], assignment=STICKY))
        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.shares(b=0.2, c=0.2, d=0.2)
            before = await ask_all(client)
            assert all(in_band(len(each.by_user), len(USERS), 0.2) for each in (b, c, d))
            async with client.load(150, user=lambda number: USERS[number * 7 % len(USERS)]) as load:
                d.status = 500
                record, _ = await decided(stage, "dropped")
                await stage.shares(b=0.2, c=0.2, d=0.0)
                assert record["facts"]["variant"] == "d"
                d.reset_counts()
                assert await ask_all(client) == {user: "v1" if version == "d" else version for user, version in before.items()}
                await obeyed(stage, "advance")
                record, _ = await decided(stage, "won", timeout_s=90)
                assert record["facts"]["variant"] == "b"
                await stage.phase("baking")
                assert set((await ask_all(client)).values()) == {"b"}
            assert {reply.status for reply in load.replies} == {200, 500}
            assert d.requests == 0
        assert (await stage.status())["stable"]["version"] == "b"


async def test_a_shadow_after_a_canary_copies_requests_and_leaves_the_users_where_they_are(tmp_path):
    steps = [canary("20%"), {"shadow": {"share": "50%", "hold": {"for": "1h"}}}]
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=steps, gates=[], assignment=STICKY))
        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.share(0.2)
            before = await ask_all(client)
            await obeyed(stage, "advance")

            async def copied():
                return (await stage.status())["variants"][0]["shadow_share"] == 0.5

            await until(copied, "copies to be in effect")
            await stage.share(0.2)
            v2.reset_counts()
            assert await ask_all(client) == before
            asked = sum(version == "v2" for version in before.values())
            await until(lambda: in_band(v2.shadows, len(USERS), 0.5), "copies to arrive")
            assert v2.requests == asked
        assert in_band(v2.shadows, len(USERS), 0.5)


async def test_an_answer_that_is_not_as_the_probe_expects_reverts_before_any_user(tmp_path):
    schema = {"type": "object", "required": ["choices"]}
    probe = {"requests": "chat.jsonl", "rate": "20/s", "for": "1h", "expect": {"status": 200, "within": "5s", "schema": "answer.json"}}
    async with Backend(name="v1") as v1, Backend(name="v2", body=b'{"error": "no model"}') as v2, Stage(tmp_path) as stage:
        (stage.policies / "chat.jsonl").write_text('{"path": "/v1/chat", "body": {"model": "m"}}\n')
        (stage.policies / "answer.json").write_text(json.dumps(schema))
        await stage.start(rollout(v1))
        async with Client(stage.port) as client:
            await stage.serving(client)
            async with client.load(50) as load:
                stage.write(stage.proxies(), rollout(v1, v2, steps=[{"probe": probe}, canary("50%")]))
                status = await stage.phase("reverted")
            record, _ = await decided(stage, "reverted", "probe_failed")
        assert "choices" in record["because"], status
        assert set(load.by_variant()) == {"v1"}
        assert v2.requests > 0
        assert all(PROBE_HEADER in each.headers for each in v2.seen)


async def test_a_person_approves_and_a_freeze_holds_what_was_approved(tmp_path):
    steps = [canary("10%", hold="200ms"), {"approve": {"who": "ann", "within": "1h"}}, canary("50%")]
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=steps, gates=[]))
        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.phase("waiting_approval")
            assert "approve" in (await stage.act("advance"))["error"]["message"]
            assert (await stage.act("freeze", reason="trade fair", actor="ann"))["decision"] == "frozen"
            code, _, err = await stage.cli("approve", "chat", "--reason", "looks good")
            assert code == 0, err
            assert (await decided(stage, "approved"))[0]["actor"] != "crossfade"
            assert "error" in await stage.act("advance")
            status = await stage.status()
            assert (status["phase"], status["variants"][0]["share"]) == ("frozen", 0.1)
            assert "trade fair" in json.dumps(status["freezes"])
            v2.reset_counts()
            await client.burst(2000)
            assert in_band(v2.requests, 2000, 0.1)
            await obeyed(stage, "unfreeze")
            await stage.share(0.5)
            v2.reset_counts()
            await client.burst(2000)
            assert in_band(v2.requests, 2000, 0.5)


async def test_staff_meets_the_arm_from_the_first_stage_of_users_and_no_gate_sees_it(tmp_path):
    """Five hundred errors of those who were chosen revert nothing; a few of those who were drawn do."""
    steps = [{"shadow": {"share": "1%", "hold": {"for": "1h"}}}, canary("0%", "20%")]
    segments = [{"name": "staff", "when": {"header": "x-staff", "exact": "1"}, "variant": "candidate"}]
    staff = {"headers": {"x-staff": "1"}}
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=steps, gates=[ERRORS], assignment={**STICKY, "segments": segments}))
        async with Client(stage.port) as client:
            await stage.serving(client)

            async def shadowing():
                return (await stage.status())["variants"][0]["shadow_share"] == 0.01

            await until(shadowing, "the shadow")
            assert {reply.variant for reply in await client.burst(100, **staff)} == {"v1"}
            await obeyed(stage, "advance")
            await decided(stage, "advanced", "canary 0%")
            await stage.share(0.0)
            v2.status = 500
            assert {(reply.variant, reply.status) for reply in await client.burst(500, **staff)} == {("v2", 500)}
            assert set((await ask_all(client)).values()) == {"v1"}

            async def samples():
                (gate,) = [each for each in (await stage.status())["gates"] if each["name"] == "errors"]
                return gate["samples"]

            async def seen():
                return (await samples())["stable"] >= len(USERS)

            await until(seen, "the evidence of all users")
            assert (await samples())["candidate"] == 0
            assert (await stage.status())["phase"] != "reverted"
            v2.status = 200
            await obeyed(stage, "advance")
            await stage.share(0.2)
            v2.reset_counts()
            await ask_all(client)
            assert in_band(v2.requests, len(USERS), 0.2)
            assert {reply.variant for reply in await client.burst(100, **staff)} == {"v2"}
            v2.status = 500
            async with client.load(100, user=USERS.__getitem__):
                await decided(stage, "reverted", "gate_failed")
            await stage.phase("reverted")
            assert {reply.variant for reply in await client.burst(100, **staff)} == {"v1"}


async def test_a_share_is_never_more_than_the_ready_pods_carry(tmp_path):
    async with (
        Backend(name="v1") as v1,
        Backend(name="v2") as one,
        Backend(name="v2") as two,
        Backend(name="v2", health_status=503) as three,
        Backend(name="v2", health_status=503) as four,
        Stage(tmp_path) as stage,
    ):
        pods = (one, two, three, four)
        variants = {"stable": variant("v1", v1), "candidate": variant("v2", *pods)}
        await stage.start(rollout(v1, variants=variants, steps=[canary("80%")], gates=[]))

        async def counted(share):
            await stage.share(share)

            async def known():
                """The proxy finds out by itself which pods are gone, within a second or so: meanwhile stable answers in their place."""
                return sum(reply.variant == "v2" for reply in await client.burst(200)) > 120 * share

            await until(known, "the proxy to leave out the pods that are not ready")
            replies = await client.burst(2000)
            assert not [reply for reply in replies if reply.failure]
            assert in_band(sum(reply.variant == "v2" for reply in replies), 2000, share)

        async with Client(stage.port) as client:
            await stage.serving(client)
            await counted(0.5)
            status = await stage.phase("waiting_capacity")
            assert (status["variants"][0]["ready"], status["variants"][0]["pods"]) == (2, 4)
            three.health_status = four.health_status = 200
            await counted(0.8)
            async with client.load(100) as load:
                await asyncio.gather(one.kill(), two.kill(), three.kill())
                killed = time.time()
                await counted(0.25)
                await stage.phase("waiting_capacity")
            assert not [reply for reply in load.since(killed) if reply.failure]
            assert four.requests > 0
