"""What goes wrong and what then holds: a killed control plane, a rejected resource, a broken edit, a candidate that never gets ready."""

import asyncio
import time

import pytest

from tests.e2e.plane import two_versions
from tests.rig import Backend, Client, until
from tests.stage import Stage, rollout
from xds_server.adapters.wire_transport import WireTransport
from xds_server.core.transport import Status

pytestmark = pytest.mark.timeout(180)

LEASE_S = 3.0


async def test_a_killed_control_plane_hands_all_traffic_to_stable_and_a_restart_resumes_the_step(tmp_path):
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, gates=[]))
        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.share(0.1)
            async with client.load(100) as load:
                await until(lambda: load.by_variant()["v2"] >= 20)
                await until(lambda: load.sent > 300)
                before = (await stage.status())["step"]
                killed = time.time()
                await stage.kill_server()
                await until(lambda: len(load.since(killed + LEASE_S + 1.0)) > 100)
                assert set(load.by_variant(since=killed + LEASE_S + 1.0)) == {"v1"}
                await stage.start_server()
                await stage.share(0.1)
                back = time.time()
                await until(lambda: len(load.since(back)) > 300)
            assert not load.failures
            # No jump: about a tenth again, never more than the binomial upper end of it.
            again = load.by_variant(since=back)
            assert again["v2"] <= 0.2 * sum(again.values())
        after = (await stage.status())["step"]
        assert (after["index"], after["label"]) == (before["index"], before["label"])
        held = {item["kind"]: item["have"] for item in before["waiting_for"]}["time"]
        assert {item["kind"]: item["have"] for item in after["waiting_for"]}["time"] >= held - 1.5


async def test_an_envoy_with_our_bootstrap_holds_shares_as_leases(tmp_path):
    """As printed for people, in YAML: nothing of it may be lost on Envoy's way of reading it."""
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2))
        await stage.share(0.1)
        (row,) = (await stage.http.get("/v1/proxies")).json()["proxies"]
        assert row["leased"]

        async def held():
            return (await stage.status())["lease"] == {"ttl_s": LEASE_S, "held": True}

        await until(held)


async def test_abort_takes_all_traffic_back(tmp_path):
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, gates=[]))
        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.share(0.1)
            async with client.load(100) as load:
                await until(lambda: load.by_variant()["v2"] >= 10)
                code, out, err = await stage.cli("abort", "chat", "--reason", "smells")
                assert (code, err) == (0, ""), err
                assert "aborted" in out
                assert "smells" in out
                await stage.phase("reverted")
                after = time.time()
                await until(lambda: len(load.since(after)) > 50)
            assert set(load.by_variant(since=after)) == {"v1"}
            assert not load.failures


async def test_a_candidate_without_traffic_holds_and_never_passes(tmp_path):
    steps = [{"canary": {"shares": ["10%"], "hold": {"for": "1s"}}}, {"promote": {}}]
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2, steps=steps))
        await stage.phase("holding")
        status = await stage.status()
        assert {gate["verdict"] for gate in status["gates"]} == {"INCONCLUSIVE"}
        assert status["variants"][0]["share"] == 0.1


async def test_a_model_that_never_gets_ready_keeps_the_share_at_zero(tmp_path):
    async with Backend(name="v1") as v1, Backend(name="v2", health_status=503) as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2))
        status = await stage.phase("waiting_capacity")
        assert "answered 503" in status["because"]
        async with Client(stage.port) as client:
            await stage.serving(client)
            assert {reply.variant for reply in await client.burst(200)} == {"v1"}
        v2.health_status = 200
        await stage.share(0.1)


async def test_a_broken_edit_changes_nothing_and_is_shown(tmp_path):
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        document = rollout(v1, v2)
        await stage.start(document)
        await stage.share(0.1)
        (stage.policies / "policy.yaml").write_text(
            "apiVersion: crossfade/v1\nkind: Rollout\nmetadata: {name: chat}\nspec: {nonsense: 1}\n"
        )

        async def shown():
            return (await stage.status())["policy_errors"]

        await until(shown)
        status = await stage.status()
        assert status["phase"] in {"running", "holding"}
        assert status["variants"][0]["share"] == 0.1
        _, out, _ = await stage.cli("status", "chat")
        assert "nonsense" in out
        stage.write(stage.proxies(), document)

        async def mended():
            return not (await stage.status())["policy_errors"]

        await until(mended)


async def test_changing_the_candidate_restarts_at_share_zero(tmp_path):
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Backend(name="v3", health_status=503) as v3, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2))
        await stage.share(0.1)
        changed = rollout(v1, v3)
        changed["spec"]["variants"]["candidate"]["version"] = "v3"
        stage.write(stage.proxies(), changed)
        status = await stage.phase("waiting_capacity")
        assert status["variants"][0]["version"] == "v3"
        assert status["variants"][0]["share"] == 0
        assert status["generation"] == 2
        async with Client(stage.port) as client:
            await stage.serving(client)
            assert {reply.variant for reply in await client.burst(200)} == {"v1"}


async def test_a_resource_the_proxy_rejects_stops_the_rollout_with_its_words(tmp_path):
    """A listener on an address of another machine is fine for us and wrong for Envoy."""
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, v2))
        await stage.share(0.1)
        bad = stage.proxies(listeners=[
            {"name": "public", "address": "127.0.0.1", "port": stage.port},
            {"name": "wrong", "address": "203.0.113.7", "port": 1},
        ])  # fmt: skip
        changed = rollout(v1, v2, lease="4s")
        stage.write(bad, changed)
        status = await stage.phase("reverting", "reverted")
        assert "203.0.113.7" in status["proxies"]["words"] or any("203.0.113.7" in record["because"] for record in await stage.history())
        _, out, _ = await stage.cli("proxies")
        assert "203.0.113.7" in out or "ERROR" in out


async def test_an_envoy_of_an_unknown_group_is_told_so_and_listed(tmp_path):
    async with Backend(name="v1") as v1, Stage(tmp_path, envoys=0) as stage:
        await stage.start(rollout(v1, None))
        envoy = await stage.add_envoy("stranger")
        await envoy.stop()
        stage.envoys.clear()
        stage.write({**stage.proxies(), "spec": {**stage.proxies()["spec"], "select": {"cluster": "other"}}}, rollout(v1, None))
        await stage.add_envoy("stranger")

        async def refused():
            return [row for row in (await stage.http.get("/v1/proxies")).json()["proxies"] if row["refused"]]

        (row,) = await until(refused)
        assert "no Proxies document selects" in row["refused"]
        assert row["node"] == "stranger"


async def test_garbage_on_the_xds_port_is_survived(tmp_path):
    async with Backend(name="v1") as v1, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, None))
        for garbage in (b"\x00" * 4096, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64):
            reader, writer = await asyncio.open_connection("127.0.0.1", stage.xds)
            writer.write(garbage)
            await writer.drain()
            writer.close()
            del reader
        async with Client(stage.port) as client:
            await stage.serving(client)
        assert (await stage.http.get("/readyz")).status_code == 200


async def serve_fails(stage, *more):
    """Runs `serve` as a user would, expecting it to refuse; returns (exit code, stderr)."""
    arguments = {"--policies": str(stage.policies), "--store": "memory:", "--xds": "127.0.0.1:0", "--api": "127.0.0.1:0"}
    arguments.update(dict(zip(more[::2], more[1::2], strict=True)))
    code, _, err = await stage.cli("serve", *(word for pair in arguments.items() for word in pair))
    return code, err


async def test_serve_says_what_is_wrong_with_its_surroundings(tmp_path):
    async with Backend(name="v1") as v1, Stage(tmp_path) as stage:
        await stage.start(rollout(v1, None))
        code, err = await serve_fails(stage, "--policies", str(tmp_path / "nowhere"))
        assert code != 0
        assert "cannot read policies" in err
        assert "hint:" in err
        for flag, port in (("--xds", stage.xds), ("--api", stage.api)):
            code, err = await serve_fails(stage, flag, f"127.0.0.1:{port}")
            assert code != 0
            assert "cannot listen" in err
            assert "hint:" in err
        code, err = await serve_fails(stage, "--store", f"sqlite:{tmp_path / 'state.sqlite'}")
        assert code != 0
        assert "in use" in err
        (tmp_path / "corrupt.sqlite").write_bytes(b"this is no database" * 1000)
        code, err = await serve_fails(stage, "--store", f"sqlite:{tmp_path / 'corrupt.sqlite'}")
        assert code != 0
        assert "corrupt" in err
        assert (tmp_path / "corrupt.sqlite").read_bytes() == b"this is no database" * 1000


async def test_an_envoy_whose_stream_is_too_old_comes_back_on_another_connection_and_loses_nothing(tmp_path):
    async with two_versions(tmp_path) as world, world.client.load(100) as load:
        (before,) = world.plane.hub.proxies()
        await world.plane.delivered(world.shares(2500))
        (session,) = world.plane.hub._sessions()
        session.finish(Status.UNAVAILABLE, "the stream has reached its maximum age; connect again")
        await until(lambda: [each for each in world.plane.hub.proxies() if each.connected_since > before.connected_since])
        (after,) = world.plane.hub.proxies()
        assert (after.peer != before.peer) is isinstance(world.plane._transport, WireTransport)
        await world.plane.delivered(world.shares(5000))
        sent = load.sent
        await until(lambda: load.sent > sent + 100)
    assert not load.failures
