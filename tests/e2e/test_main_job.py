"""The main job on a real Envoy with real HTTP backends: shares, users, mirrors, reverts, leases. Counted at the backends."""

import time

import pytest
import xxhash

from policies.lanes import TOTAL, Home, pick, slots, weight
from policies.spec.policy import Assignment
from tests.rig import Backend, Client, binomial_band, until
from tests.stage import Stage, rollout
from xds_server.config import TRANSPORTS
from xds_server.resources.names import salted

pytestmark = pytest.mark.timeout(180)


def canary(*shares, hold="1h", samples=0):
    return {"canary": {"shares": list(shares), "hold": {"for": hold, "samples": samples}}}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
async def test_the_split_is_within_the_binomial_band(tmp_path, share):
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=[canary(f"{share:.0%}"), {"promote": {}}], gates=[]))
        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.share(share)
            replies = await client.burst(4000)
        assert not [reply for reply in replies if reply.failure]
        low, high = binomial_band(4000, weight(round(share * 10_000)) / TOTAL)
        assert low <= sum(reply.variant == "v2" for reply in replies) <= high


async def test_sticky_users_are_predicted_and_never_leave_the_candidate_while_its_share_grows(tmp_path):
    steps = [canary("10%", "30%"), {"promote": {}}]
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        document = rollout(v1, v2, steps=steps, gates=[], assignment={"sticky": {"header": "x-user"}})
        await stage.start(document)
        users = [f"user-{number}" for number in range(1000)]
        async with Client(stage.port) as client:
            await stage.serving(client)
            seen = []
            for share in (0.1, 0.3):
                await stage.share(share)
                replies = await client.burst(len(users), user=users.__getitem__)
                picked = {reply.user: reply.variant for reply in replies}
                laid_out = slots((Home(share_bp=round(share * 10_000), reserve_bp=3000),))
                hashes = {user: xxhash.xxh64_intdigest(salted(user, "chat", Assignment()).encode()) for user in users}
                wanted = {user: "v1" if pick(number, laid_out) is None else "v2" for user, number in hashes.items()}
                assert picked == wanted
                seen.append({user for user, variant in picked.items() if variant == "v2"})
                document["spec"]["steps"] = [canary("30%"), {"promote": {}}]
                stage.write(stage.proxies(), document)
        assert seen[0] < seen[1]


async def test_a_mirrored_share_is_within_its_band_and_never_answers_a_user(tmp_path):
    steps = [{"shadow": {"share": "25%", "hold": {"for": "1h"}}}, {"promote": {}}]
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=steps, gates=[]))
        async with Client(stage.port) as client:
            await stage.serving(client)

            async def mirrored():
                status = await stage.status()
                return status["variants"][0]["shadow_share"] == 0.25

            await until(mirrored)
            v2.reset_counts()
            replies = await client.burst(2000)
        low, high = binomial_band(2000, 0.25)
        await until(lambda: v2.shadows >= low, "mirrored copies to arrive")
        assert {reply.variant for reply in replies} == {"v1"}
        assert v2.requests == 0
        assert low <= v2.shadows <= high


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_healthy_candidate_is_promoted_and_then_serves_everyone(tmp_path, monkeypatch, transport):
    monkeypatch.setenv("CROSSFADE_TRANSPORT", transport)
    steps = [
        {"shadow": {"share": "50%", "hold": {"for": "1s", "samples": 20}}},
        canary("25%", "50%", hold="1s", samples=50),
        {"promote": {}},
    ]
    gates = [
        {"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "5%"}},
        {"name": "latency", "metric": "envoy/latency", "margin": {"relative": "100%"}},
    ]
    async with Backend(name="v1", delay_s=0.01) as v1, Backend(name="v2", delay_s=0.01) as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=steps, gates=gates))
        async with Client(stage.port) as client:
            await stage.serving(client)
            async with client.load(100) as load:
                await stage.phase("promoted", timeout_s=90)
                done = time.time()
                await until(lambda: len(load.since(done)) > 50)
            assert not load.failures
            assert set(load.by_variant(since=done + 0.05)) == {"v2"}
        kinds = [record["decision"] for record in await stage.history()]
        assert kinds[0] == "adopted"
        assert kinds.count("advanced") == 2
        assert "promoted" in kinds


async def failing(tmp_path, turn_bad, *, gates=None, rate=100, delay_s=0.0, chunks=0, fallback="connect"):
    """A canary at 10 % that turns bad; returns what was seen."""
    document_gates = gates or [{"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "0.5%", "relative": "25%"}}]
    async with (
        Backend(name="v1", delay_s=delay_s, chunks=chunks, chunk_gap_s=0.005) as v1,
        Backend(name="v2", delay_s=delay_s, chunks=chunks, chunk_gap_s=0.005) as v2,
        Stage(tmp_path) as stage,
    ):
        document = rollout(v1, v2, gates=document_gates)
        document["spec"]["traffic"]["fallback"] = fallback
        await stage.start(document)
        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.share(0.1)
            async with client.load(rate) as load:
                await until(lambda: load.by_variant()["v2"] >= 20)
                turned = time.time()
                await turn_bad(v2)
                status = await stage.phase("reverted", timeout_s=60)
                after = time.time()
                await until(lambda: len(load.since(after)) > 50)
            return stage, load, status, turned, after, await stage.history()


async def test_errors_revert(tmp_path):
    async def bad(v2):
        v2.status = 500

    _, load, status, turned, after, history = await failing(tmp_path, bad)
    assert set(load.by_variant(since=after)) == {"v1"}
    served = [reply for reply in load.since(turned) if reply.status == 500]
    assert 1 <= len(served) <= 40
    assert "gate errors failed in canary 10%" in status["because"] or any(
        "gate errors failed in canary 10%" in record["because"] for record in history
    )


async def test_broken_streams_revert(tmp_path):
    async def bad(v2):
        v2.break_after = 1

    _, load, _, turned, after, history = await failing(tmp_path, bad, chunks=4)
    assert set(load.by_variant(since=after)) == {"v1"}
    assert any(record["decision"] == "reverted" for record in history)
    assert any(reply.failure == "reset" for reply in load.since(turned))


async def test_latency_reverts(tmp_path):
    async def bad(v2):
        v2.delay_s = 0.06

    gates = [{"name": "latency", "metric": "envoy/latency", "margin": {"relative": "50%"}}]
    _, load, _, _, after, history = await failing(tmp_path, bad, gates=gates, delay_s=0.02)
    assert set(load.by_variant(since=after)) == {"v1"}
    assert any("gate latency failed" in record["because"] for record in history)


@pytest.mark.parametrize("fallback", ["connect", "gateway"])
async def test_all_candidate_pods_dying_fails_no_request_whose_answer_had_not_begun_and_reverts(tmp_path, fallback):
    """`gateway` also saves requests that the dying pod had already taken (they run a second time); `connect` saves all sent after its death."""

    async def bad(v2):
        await v2.kill()

    _, load, _, turned, after, history = await failing(tmp_path, bad, fallback=fallback, delay_s=0.05)
    lost = [reply for reply in load.failures if not reply.began and (fallback == "gateway" or reply.at > turned)]
    assert lost == []
    assert set(load.by_variant(since=after)) == {"v1"}
    assert any(record["decision"] == "reverted" for record in history)
