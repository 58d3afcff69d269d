"""What a variant's configuration, its protocol and a group's default become: which resources they touch and which they leave alone."""

import re
from dataclasses import replace

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from hypothesis import given
from hypothesis import strategies as st

from policies.spec.policy import (
    Assignment,
    Config,
    DefaultRoute,
    DnsEndpoints,
    Fallback,
    HealthCheck,
    Lease,
    Listener,
    Match,
    ProxiesPolicy,
    Select,
    StaticEndpoints,
    TrafficSpec,
    Variant,
)
from policies.traffic import Arm, Traffic
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.resources import config, names
from xds_server.resources.clusters import HTTP_OPTIONS, pods
from xds_server.resources.default import default_cluster
from xds_server.resources.envoy import Renderer, render

PODS = StaticEndpoints(addresses=("10.0.0.1:80",))
STABLE = Variant(name="stable", version="m1", endpoints=PODS, health=HealthCheck(path="/health"))
CONFIG = Config(headers=(("x-sampler", "dpm++"),), path="/v2/", model="int8")
GROUP = ProxiesPolicy(name="edge", select=Select(), listeners=(Listener(name="public", address="127.0.0.1", port=8080),))
ANY = (Match(),)
DEFAULT = DefaultRoute(endpoints=StaticEndpoints(addresses=("10.0.0.9:80",)), timeout_s=5.0)


def wish(candidate_config=CONFIG, *, match=ANY, fallback=Fallback.CONNECT, **candidate):
    arm = Variant(name="candidate", version="m1", endpoints=PODS, health=HealthCheck(path="/health"), config=candidate_config)
    return Traffic(
        rollout="chat",
        publication=1,
        generation=1,
        where=TrafficSpec(proxies="edge", listener="public", match=match, fallback=fallback),
        assignment=Assignment(),
        lease=Lease(),
        stable=STABLE,
        arms=(Arm(variant=replace(arm, **candidate), share_bp=100, reserve_bp=100),),
    )


def clusters(of):
    return {name: Cluster.FromString(each.body) for (url, name), each in pods(of).resources.items() if url == CDS}


def filters_of(cluster):
    options = HttpProtocolOptions()
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].Unpack(options)
    return [each.name for each in options.http_filters]


def test_one_server_under_two_configurations_is_two_versions_and_only_what_leads_to_the_configured_one_has_filters():
    given = wish()
    arm = given.arms[0].variant
    real, shadow, composite = names.cluster("chat", arm), names.shadow_cluster("chat", arm), names.composite_cluster("chat", arm)
    assert arm.identity != STABLE.identity
    found = {name: filters_of(cluster) for name, cluster in clusters(given).items()}
    assert found == {
        names.cluster("chat", STABLE): [],
        real: ["crossfade.config", "envoy.filters.http.upstream_codec"],
        shadow: ["crossfade.config", "envoy.filters.http.upstream_codec"],
        composite: ["crossfade.variant", "crossfade.config", "envoy.filters.http.upstream_codec"],
    }
    assert not any(map(filters_of, clusters(wish(Config(), version="m2")).values()))


def test_stable_is_the_same_to_the_byte_whatever_its_arms_change_about_requests():
    plain, configured = pods(wish(Config(), version="m2")).resources, pods(wish()).resources
    for place in ((CDS, names.cluster("chat", STABLE)), (EDS, names.cluster("chat", STABLE))):
        assert plain[place] == configured[place]


def test_other_matches_touch_the_clusters_only_where_a_path_is_replaced():
    other = (Match(path_prefix="/a/"), Match(path_prefix="/a/b/"))
    for changes, same in ((Config(model="int8"), True), (CONFIG, False)):
        before = pods(wish(changes))
        assert (pods(wish(changes, match=other), before) is before) is same
    assert config.prefixes(wish(match=other)) == ("/a/b/", "/a/")


def test_bodies_are_held_only_where_a_model_is_replaced():
    for changes, limit in ((CONFIG, config.BODY_BYTES), (Config(path="/v2/"), 0)):
        routes = RouteConfiguration.FromString(render(GROUP, (wish(changes),), leased=True)[RDS]["edge/public"].body)
        assert {route.request_body_buffer_limit.value for host in routes.virtual_hosts for route in host.routes} == {limit}


@given(st.text())
def test_no_text_of_a_policy_can_end_the_string_it_is_written_as(text):
    written = config._text(text)
    inside = re.fullmatch(r'"((?:[ !#-\[\]-~]|\\\d{3})*)"', written)
    assert inside is not None
    assert re.sub(r"\\(\d{3})", lambda found: chr(int(found[1])), inside[1]).encode("latin-1").decode() == text


def test_a_path_ends_with_a_slash_exactly_where_its_prefix_does():
    given = {("/v1/", "/v2"): "/v2/", ("/v1/", "/v2/"): "/v2/", ("/v1", "/v2/"): "/v2", ("/v1", "/"): "", ("/", "/"): "/"}
    assert {case: config._replacement(*case) for case in given} == given


def test_http2_and_a_slow_start_are_the_business_of_the_variants_own_clusters():
    found = clusters(wish(http2=True, slow_start_s=30.0))
    arm = wish(http2=True).arms[0].variant
    real, shadow, stable = (
        found[name] for name in (names.cluster("chat", arm), names.shadow_cluster("chat", arm), names.cluster("chat", STABLE))
    )
    assert real.least_request_lb_config.slow_start_config.slow_start_window.seconds == 30
    assert not shadow.HasField("least_request_lb_config")
    assert not stable.HasField("least_request_lb_config")
    for cluster, protocol, codec in (
        (real, "http2_protocol_options", 1),
        (shadow, "http2_protocol_options", 1),
        (stable, "http_protocol_options", 0),
    ):
        options = HttpProtocolOptions()
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].Unpack(options)
        assert options.explicit_http_config.WhichOneof("protocol_config") == protocol
        assert cluster.health_checks[0].http_health_check.codec_client_type == codec


def test_health_checks_ask_for_a_host_that_every_server_takes():
    """Envoy would send the cluster's name, `chat/m1.3f9a51c2`: no host's name, and HTTP/2 and Go servers say so."""
    dns = DnsEndpoints(host="chat.models.svc", port=8000)
    for asked, host in ((wish(), "localhost"), (replace(wish(), stable=replace(STABLE, endpoints=dns)), "chat.models.svc")):
        assert clusters(asked)[names.cluster("chat", asked.stable)].health_checks[0].http_health_check.host == host


def test_the_default_is_the_last_route_of_every_host_and_its_cluster_is_no_rollouts():
    wishes = (wish(match=(Match(host="a.b", path_prefix="/x"), Match(host="*.b"))), replace(wish(), rollout="other"))
    for some in ((), wishes[:1], wishes):
        with_default, without = render(replace(GROUP, default=DEFAULT), some, leased=True), render(GROUP, some, leased=True)
        hosts = RouteConfiguration.FromString(with_default[RDS]["edge/public"].body).virtual_hosts
        owned = {host.name: list(host.routes) for host in RouteConfiguration.FromString(without[RDS]["edge/public"].body).virtual_hosts}
        assert {host.name: list(host.routes)[:-1] for host in hosts} == {"*": []} | owned
        for host in hosts:
            last = host.routes[-1]
            assert (last.match.prefix, last.route.cluster, last.route.timeout.seconds) == ("/", "_default/edge", 5)
            assert not last.route.request_mirror_policies
            assert not last.route.HasField("retry_policy")
        assert with_default[CDS].keys() - without[CDS].keys() == {"_default/edge"}
        assert "_default/edge" not in names.owners(some)


def test_a_default_that_comes_changes_and_goes_touches_nothing_of_the_rollouts():
    renderer, wishes = Renderer(), {"chat": wish()}
    worlds = [
        renderer.snapshot(replace(GROUP, default=default), wishes, leased=True, serial=serial)[0]
        for serial, default in enumerate((None, DEFAULT, replace(DEFAULT, endpoints=DnsEndpoints(host="x.y", port=1)), None), start=1)
    ]
    name = default_cluster(GROUP)
    for before, after in zip(worlds, worlds[1:], strict=False):
        changed = {
            (url, each)
            for url in (CDS, EDS, LDS, RDS, RTDS)
            for each in before.of(url).keys() | after.of(url).keys()
            if before.of(url).get(each) is not after.of(url).get(each)
        }
        assert changed <= {(CDS, name), (EDS, name), (RDS, "edge/public")}
        assert after.check() == ()
    assert {url: dict(worlds[0].of(url)) for url in (CDS, EDS, RDS)} == {url: dict(worlds[-1].of(url)) for url in (CDS, EDS, RDS)}
