"""A real Envoy that knows nothing of Crossfade, scraped by a real Prometheus: what is read afterwards is what the clients counted."""

import asyncio
import contextlib
import time

import httpx

from tests.prometheus import Prometheus, needs_prometheus
from tests.real_envoy import Envoy
from tests.rig import Backend, Client, free_port, until
from tests.stage import Stage, rollout, variant
from xds_server.adapters.prometheus_history import envoy, read
from xds_server.errors import RecordingError

ARMS = {"stable": envoy("v1"), "candidate": envoy('envoy_cluster_name="v2"')}


def proxy(port, admin, *backends):
    """Envoy's configuration: three of four requests go to the first."""

    def address(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    clusters = [
        {
            "name": backend.name,
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": backend.name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(backend.port)}}]}],
            },
        }
        for backend in backends
    ]
    weights = [{"name": backend.name, "weight": weight} for backend, weight in zip(backends, (3, 1), strict=True)]
    route = {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": weights}}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    listener = {"name": "public", "address": address(port), "filter_chains": [chain]}
    return {
        "admin": {"address": address(admin)},
        "stats_flush_interval": "0.1s",
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


@needs_prometheus
async def test_counters_of_a_proxy_that_restarts_are_what_its_clients_counted(tmp_path):
    port, admin = free_port(), free_port()
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, httpx.AsyncClient() as http:
        with Prometheus(tmp_path / "prometheus", scrape=[f"127.0.0.1:{admin}"]) as prometheus:
            start, config = time.time(), proxy(port, admin, v1, v2)

            async def scraped(wanted):
                """Whether the counters and the histograms of both have all requests; Envoy merges histograms a moment later."""
                metrics = ("envoy_cluster_upstream_rq", "envoy_cluster_upstream_rq_time_count")
                queries = [f'sum({metric}{{envoy_cluster_name=~"v1|v2"}})' for metric in metrics]
                answers = [(await http.get(f"{prometheus.url}/api/v1/query", params={"query": query})).json() for query in queries]
                return all([int(each["value"][1]) for each in answer["data"]["result"]] == [wanted] for answer in answers)

            def history():
                return read(prometheus.url, ARMS, start=start, end=time.time(), step=1.0)

            async with Envoy(config, tmp_path, admin_port=admin), Client(port) as client:
                await until(prometheus.ready, "Prometheus to be ready")
                base = await client.burst(40)
                assert {reply.variant for reply in base} == {"v1", "v2"}
                await until(lambda: scraped(len(base)), "the first requests to be scraped", every_s=0.1)
                v2.error_share = 0.5
                replies = await client.burst(200)
                await until(lambda: scraped(len(base) + len(replies)), "all requests to be scraped", every_s=0.1)
            async with Envoy(config, tmp_path, admin_port=admin, name="again"), Client(port) as client:
                again = await client.burst(60)
                replies += again
                await until(lambda: scraped(len(again)), "the requests after the restart to be scraped", every_s=0.1)

                async def whole():
                    with contextlib.suppress(RecordingError):
                        found = await asyncio.to_thread(history)
                        return found if sum(_sum(found, name) for name in ARMS) >= len(replies) else None

                found = await until(whole, "the newest steps to be over", every_s=0.2)
    for name, version in (("stable", "v1"), ("candidate", "v2")):
        answers = [reply for reply in replies if reply.variant == version]
        assert _sum(found, name) == len(answers)
        assert _sum(found, name, "errors") == sum(bool(reply.failure) for reply in answers)
        slow = sum(count for block in found if name in block.arms for _, count in block.arms[name].latency)
        assert slow == len(answers)
    assert _sum(found, "candidate", "errors") > 0
    assert found.dropped == {}


async def test_a_version_is_a_label_of_our_own_proxies_metrics_and_no_part_of_their_names(tmp_path):
    async with Backend(name="v1.5-llama") as v1, Backend(name="v2") as v2, Stage(tmp_path) as stage:
        variants = {"stable": variant("v1.5-llama", v1), "candidate": variant("v2", v2)}
        await stage.start(rollout(variants=variants, steps=[{"canary": {"shares": ["50%"], "hold": {"for": "1h"}}}], gates=[]))
        await stage.share(0.5)
        async with Client(stage.port) as client:
            await client.burst(40)
        text = await stage.envoys[0].admin("/stats/prometheus")
        status = await stage.status()
    builds = {status["stable"]["identity"], *(f"{status['variants'][0]['identity']}{kind}" for kind in ("", "+fallback", ".shadow"))}
    names = {line.partition("{")[0] for line in text.splitlines() if 'envoy_cluster_name="chat/' in line}
    assert {"envoy_cluster_upstream_rq", "envoy_cluster_upstream_rq_time_bucket", "envoy_cluster_upstream_cx_active"} <= names
    hashes = {each["identity"].rpartition(".")[2] for each in (status["stable"], *status["variants"])}
    assert not [name for name in names if any(digest in name for digest in hashes)]
    for build in builds:
        first, _, rest = f"chat/{build}".partition(".")
        assert f'envoy_cluster_upstream_rq_total{{envoy_cluster_name="{first}",crossfade_build="{rest}"}}' in text


def _sum(found, name, what="requests"):
    return sum(getattr(block.arms[name], what) for block in found if name in block.arms)
