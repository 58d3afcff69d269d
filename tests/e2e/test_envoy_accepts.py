"""The real Envoy 1.40 takes what is rendered, and does with it what the policy says."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
import xxhash

from policies.lanes import pick, slots
from policies.spec.policy import Assignment, DnsEndpoints, Fallback, HealthCheck, Lease, Listener, Variant
from tests.e2e.plane import KEY, two_versions
from tests.real_envoy import Envoy, validate
from tests.rig import USER_HEADER, Backend, Client, binomial_band, free_port, until
from xds_server.core.types import LDS
from xds_server.resources import names
from xds_server.resources.bootstrap import bootstrap
from xds_server.resources.routes import homes

HEALTH = HealthCheck(path="/health", interval_s=0.3, timeout_s=0.3)
NUMBER = 4000


async def test_envoy_finds_the_bootstrap_valid(tmp_path):
    for host in ("127.0.0.1", "::1", "crossfade.example.com"):
        code, said = await validate(bootstrap(node_id="n", cluster="edge", xds_host=host, xds_port=18000), tmp_path)
        assert code == 0, said


@pytest.mark.rule("P21")
async def test_envoy_accepts_every_resource_without_a_warning(tmp_path):
    async with two_versions(tmp_path, sticky="x-user", health=HEALTH) as world:
        dns = Variant(name="kept", version="m0", endpoints=DnsEndpoints(host="localhost", port=world.stable.port))
        await world.plane.delivered(world.shares(2500, 5000, kept=(dns,)))
        dump = await world.envoy.json("/config_dump")
        found = {section["@type"].rpartition(".")[2]: section for section in dump["configs"]}
        active = {each["cluster"]["name"] for each in found["ClustersConfigDump"]["dynamic_active_clusters"]}
        assert active == set(names.owners((world.wish,)))
        [listener] = found["ListenersConfigDump"]["dynamic_listeners"]
        assert listener["active_state"]["listener"]["name"] == "edge/public"
        words = [line for line in world.envoy.log().splitlines() if "deprecated" in line or "[error]" in line or "work-in-progress" in line]
        assert words == []


@pytest.mark.parametrize("share_bp", [100, 1000, 5000])
async def test_the_split_is_what_the_share_says(tmp_path, share_bp):
    async with two_versions(tmp_path) as world:
        await world.plane.delivered(world.shares(share_bp))
        replies = await world.client.burst(NUMBER)
        low, high = binomial_band(NUMBER, share_bp / 10_000, 0.99999)
        assert low <= world.candidate.requests <= high
        assert world.stable.requests + world.candidate.requests == NUMBER
        assert not [reply for reply in replies if reply.failure]


async def test_sticky_users_are_predicted_and_never_leave_while_a_share_grows(tmp_path):
    users = [f"user-{number}" for number in range(1000)]
    async with two_versions(tmp_path, sticky=USER_HEADER) as world:
        before: set[str] = set()
        for share_bp in (100, 1000, 3333, 5000, 10_000):
            await world.plane.delivered(world.shares(share_bp))
            replies = await world.client.burst(len(users), user=users.__getitem__)
            got = {reply.user: reply.variant for reply in replies}
            assert got == {user: _predicted(world, user) for user in users}
            now = {user for user, variant in got.items() if variant == "v2"}
            assert before <= now, "who has the candidate keeps it"
            before = now


async def test_two_rollouts_of_the_same_users_are_drawn_independently(tmp_path):
    async with two_versions(tmp_path, sticky=USER_HEADER) as world:
        lanes = slots(homes(world.shares(5000)))
        other = Assignment(sticky_header=USER_HEADER, salt="another")
        users = [f"user-{number}" for number in range(NUMBER)]
        both = sum(
            pick(_hash(user, world.wish.assignment), lanes) is not None and pick(_hash(user, other), lanes) is not None for user in users
        )
        low, high = binomial_band(NUMBER, 0.25, 0.99999)
        assert low <= both <= high
        await world.plane.delivered(world.shares(5000, assignment=other))
        replies = await world.client.burst(500, user=users.__getitem__)
        assert {reply.user: reply.variant for reply in replies} == {user: _predicted(world, user) for user in users[:500]}


def _hash(user, assignment):
    return xxhash.xxh64(names.salted(user, "chat", assignment).encode()).intdigest()


def _predicted(world, user):
    return "v1" if pick(_hash(user, world.wish.assignment), slots(homes(world.wish))) is None else "v2"


async def test_copies_come_in_their_share_from_both_versions_and_never_answer(tmp_path):
    async with two_versions(tmp_path) as world:
        await world.plane.delivered(world.shares(5000, 3000))
        replies = await world.client.burst(NUMBER)
        await until(lambda: world.candidate.active == 0, "copies to end")
        low, high = binomial_band(NUMBER, 0.3, 0.99999)
        assert low <= world.candidate.shadows <= high
        assert world.stable.shadows == 0
        assert len(replies) == world.stable.requests + world.candidate.requests == NUMBER
        copies = [seen for seen in world.candidate.seen if seen.shadow]
        assert {seen.headers["x-crossfade-shadow"] for seen in copies} == {"chat"}
        by_id = {seen.headers["x-request-id"]: "v2" for seen in world.candidate.seen if not seen.shadow}
        of_candidate = sum(by_id.get(seen.headers["x-request-id"]) == "v2" for seen in copies)
        low, high = binomial_band(len(copies), 0.5, 0.99999)
        assert low <= of_candidate <= high, "weights and mirror are drawn independently"


async def test_a_client_cannot_choose_its_request_id(tmp_path):
    async with two_versions(tmp_path) as world:
        await world.client.request(headers={"x-request-id": "mine"})
        [seen] = world.stable.seen
        assert seen.headers["x-request-id"] != "mine"


@pytest.mark.rule("D6", "P17")
async def test_a_share_dies_with_the_control_plane_and_comes_back_with_it(tmp_path):
    async with two_versions(tmp_path, lease=Lease(ttl_s=1.0)) as world:
        await world.plane.delivered(world.shares(5000, 5000))
        async with world.client.load(100.0) as load:
            await until(lambda: world.candidate.requests > 50, "the candidate's share")
            await world.plane.stop()
            await until(lambda: _nobody_has_keys(world), "the lease to expire")
            at_expiry = (world.candidate.requests, world.candidate.shadows)
            before = world.stable.requests
            await until(lambda: world.stable.requests > before + 50, "stable to serve alone")
            assert (world.candidate.requests, world.candidate.shadows) == at_expiry
            await world.plane.start()
            await until(lambda: world.candidate.requests > at_expiry[0] + 10, "the share to come back")
        assert not load.failures


async def _nobody_has_keys(world):
    return not any(key.startswith("crossfade.") for key in await world.envoy.runtime())


async def test_a_proxy_without_our_layers_gets_the_same_split_from_its_routes(tmp_path):
    async with two_versions(tmp_path, leased=False) as world:
        await world.plane.delivered(world.shares(1000, 5000))
        await world.client.burst(NUMBER)
        low, high = binomial_band(NUMBER, 0.1, 0.99999)
        assert low <= world.candidate.requests <= high
        low, high = binomial_band(NUMBER, 0.5, 0.99999)
        assert low <= world.candidate.shadows <= high


@pytest.mark.parametrize("health", [None, HEALTH])
async def test_a_candidate_that_dies_costs_users_nothing(tmp_path, health):
    """Fallback `gateway`: also requests that were already at the pod, as long as no answer had begun; 50 at once, each slow."""
    async with two_versions(tmp_path, fallback=Fallback.GATEWAY, health=health) as world:
        world.stable.delay_s = world.candidate.delay_s = 0.1
        await world.plane.delivered(world.shares(5000))
        running = asyncio.create_task(world.client.burst(600, at_once=50))
        await until(lambda: world.candidate.active > 5, "requests at the candidate")
        await world.candidate.kill()
        replies = await running
        assert [reply for reply in replies if reply.failure] == []
        await world.logged(600)
        rows = Counter(
            (entry.common_properties.upstream_cluster.split(".")[0], entry.common_properties.custom_tags["picked"].endswith("+fallback"))
            for entry in world.plane.entries
            if entry.response.response_code.value == 200
        )
        assert rows["chat/v1", True] > 5, "the log tells a fallback from stable's own request"


async def test_with_fallback_connect_only_requests_already_at_a_dead_pod_fail(tmp_path):
    async with two_versions(tmp_path, fallback=Fallback.CONNECT) as world:
        world.stable.delay_s = world.candidate.delay_s = 0.1
        await world.plane.delivered(world.shares(5000))
        running = asyncio.create_task(world.client.burst(300, at_once=50))
        await until(lambda: world.candidate.active > 5, "requests at the candidate")
        await world.candidate.kill()
        failed = [reply for reply in await running if reply.failure]
        assert 0 < len(failed) <= 50, "those under way when it died; every later one falls back"
        assert {reply.status for reply in failed} == {503}


async def test_an_unhealthy_candidate_is_passed_over_and_a_healthy_one_taken_again(tmp_path):
    async with two_versions(tmp_path, health=HEALTH) as world:
        await world.plane.delivered(world.shares(10_000))
        world.candidate.health_status = 503
        await until(lambda: _is(world.client, "v1"), "stable to answer in its place")
        world.candidate.health_status = 200
        await until(lambda: _is(world.client, "v2"), "the candidate to answer again")


async def _is(client, variant):
    reply = await client.request()
    assert not reply.failure
    return reply.variant == variant


async def test_without_fallback_a_request_without_a_host_is_in_the_managers_log(tmp_path):
    async with two_versions(tmp_path, health=HEALTH, fallback=Fallback.NONE) as world:
        await world.plane.delivered(world.shares(10_000))
        world.candidate.health_status = 503
        await until(lambda: _status(world.client, 503), "no healthy host")
        await until(lambda: any(entry.common_properties.response_flags.no_healthy_upstream for entry in world.plane.entries), "its entry")
        entry = next(entry for entry in world.plane.entries if entry.common_properties.response_flags.no_healthy_upstream)
        assert entry.common_properties.access_log_type == 6
        assert entry.common_properties.custom_tags["picked"] == names.cluster("chat", world.wish.arms[0].variant)


async def _status(client, status):
    return (await client.request()).status == status


async def test_copies_to_a_dead_candidate_each_fail_visibly_and_no_user_notices(tmp_path):
    async with two_versions(tmp_path, health=HEALTH) as world:
        await world.plane.delivered(world.shares(0, 10_000))
        await world.candidate.kill()
        await until(lambda: _all_unhealthy(world), "the health check to notice")
        world.plane.entries.clear()
        replies = await world.client.burst(100)
        assert not [reply for reply in replies if reply.failure]
        await world.logged(200)
        copies = [entry for entry in world.plane.entries if entry.common_properties.upstream_cluster.endswith(".shadow")]
        assert len(copies) == 100
        assert all(entry.common_properties.response_flags.upstream_connection_failure for entry in copies)


async def _all_unhealthy(world):
    shadow = names.shadow_cluster("chat", world.wish.arms[0].variant)
    text = await world.envoy.admin("/clusters")
    return any(line.startswith(f"{shadow}::") and "health_flags::/failed_active_hc" in line for line in text.splitlines())


async def test_a_shadow_that_hangs_holds_back_no_user(tmp_path):
    async with two_versions(tmp_path) as world:
        await world.plane.delivered(world.shares(0, 10_000))
        world.candidate.hang = True
        replies = await world.client.burst(1000, method="POST", body=b"x" * 10_000)
        assert not [reply for reply in replies if reply.failure]
        assert world.candidate.active <= 256, "our limit on copies in flight"
        await world.candidate.kill()


@pytest.mark.rule("P15")
async def test_a_promotion_under_load_loses_no_request(tmp_path):
    async with two_versions(tmp_path, health=HEALTH) as world:
        await world.plane.delivered(world.shares(5000))
        async with world.client.load(200.0) as load:
            await until(lambda: world.candidate.requests > 50, "the candidate's share")
            old, new = world.wish.stable, world.wish.arms[0].variant
            await world.plane.delivered(replace(world.wish, publication=9, generation=2, stable=new, arms=(), kept=(old,)))
            before, at = world.stable.requests, world.candidate.requests
            await until(lambda: world.candidate.requests > at + 100, "the promoted version to serve")
            assert world.stable.requests <= before + 5, "a few may have been on their way"
        assert not load.failures


async def test_a_listener_port_in_use_is_rejected_in_envoys_own_words_and_nothing_else_breaks(tmp_path):
    async with two_versions(tmp_path) as world, Backend(name="squatter") as squatter:
        spec = Listener(name="second", address="127.0.0.1", port=squatter.port)
        world.plane.proxies = replace(world.plane.proxies, listeners=(*world.plane.proxies.listeners, spec))
        world.plane.publish(world.shares(100))
        await until(world.plane.rejected, "the rejection")
        nack = world.plane.rejected()[0]
        assert nack.type_url == LDS
        assert "edge/second" in nack.message
        assert "in use" in nack.message
        assert "rejects LDS" in world.plane.hub.sync_state(KEY, world.plane.serial).words
        assert not (await world.client.request()).failure


async def test_an_envoy_that_started_before_us_serves_as_soon_as_we_are_there(tmp_path):
    async with two_versions(tmp_path) as world:
        await world.plane.stop()
        config = bootstrap(node_id="n", cluster="edge", xds_host="127.0.0.1", xds_port=world.plane.port, admin_port=(admin := free_port()))
        port = free_port()
        world.plane.proxies = replace(world.plane.proxies, listeners=(Listener(name="public", address="127.0.0.1", port=port),))
        await world.envoy.kill()
        envoy = Envoy(config, tmp_path, admin_port=admin, name="early")
        await envoy.start(ready=False)
        try:
            assert (await envoy.json("/server_info"))["state"] != "LIVE", "without routes it is not ready for traffic"
            await world.plane.start()
            await envoy.wait_ready()
            async with Client(port) as client:
                assert not (await client.request()).failure
        finally:
            await envoy.stop()


async def test_hosts_and_prefixes_choose_the_rollout(tmp_path):
    async with two_versions(tmp_path) as world, Backend(name="other") as other:
        spec = replace(world.wish.stable, version="other", endpoints=replace(world.wish.stable.endpoints, addresses=(other.address,)))
        match = replace(world.wish.where.match[0], host="api.example.com", path_prefix="/v1/images")
        images = replace(world.wish, rollout="images", stable=spec, arms=(), where=replace(world.wish.where, match=(match,)))
        await world.plane.delivered(world.shares(), images)
        asked = {
            ("api.example.com", "/v1/images/1"): "other",
            ("api.example.com:8080", "/v1/images"): "other",
            ("API.example.com", "/v1/chat"): "v1",
            ("elsewhere.example.com", "/v1/images"): "v1",
        }
        got = {(host, path): (await world.client.request(path, host=host)).variant for host, path in asked}
        assert got == asked


async def test_a_stream_longer_than_the_idle_limit_of_upstreams_passes_whole(tmp_path):
    async with two_versions(tmp_path) as world:
        world.stable.chunks, world.stable.chunk_gap_s = 3, 0.2
        reply = await world.client.request()
        assert reply.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        await world.logged(1)
        [entry] = world.plane.entries
        assert int(entry.common_properties.custom_tags["ttft_us"]) >= 200_000, "time to the first body byte, not to the head"


async def test_the_load_generator_holds_its_rate(tmp_path):
    """What benches rely on: an open loop sends what it owes, and counts every reply."""
    async with Backend() as backend, Client(backend.port) as client:
        async with client.load(500.0) as load:
            await until(lambda: load.sent >= 1000, "1,000 requests")
        assert backend.requests == load.sent == len(load.replies)
        assert not load.failures
