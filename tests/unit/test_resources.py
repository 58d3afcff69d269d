"""What is rendered, without an Envoy: names, sums, order, versions, and the way back from a cluster to its owner."""

from dataclasses import replace
from itertools import permutations

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.service.runtime.v3 import rtds_pb2

from policies.lanes import TOTAL, Lane
from policies.spec.policy import (
    FULL_BP,
    Assignment,
    Compare,
    Cookie,
    DnsEndpoints,
    Fallback,
    HeaderMatch,
    HealthCheck,
    Lease,
    Listener,
    Match,
    ProxiesPolicy,
    Segment,
    Select,
    StaticEndpoints,
    TrafficSpec,
    Variant,
)
from policies.traffic import Arm, Traffic
from xds_server.core.snapshot import Snapshot
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.errors import BugError
from xds_server.resources import names
from xds_server.resources.clusters import SHADOW_REQUESTS_MAX, requests_max
from xds_server.resources.envoy import render
from xds_server.resources.names import Owner, layer_of, owners
from xds_server.resources.routes import covering

PROXIES = ProxiesPolicy(name="edge", select=Select(), listeners=(Listener(name="public", address="127.0.0.1", port=8080),))
STABLE = Variant(name="stable", version="m1", endpoints=StaticEndpoints(addresses=("127.0.0.1:8001", "[::1]:8001")))
CANDIDATE = Variant(
    name="candidate", version="m2", endpoints=StaticEndpoints(addresses=("127.0.0.1:8002",)), health=HealthCheck(path="/health")
)
DNS = Variant(name="candidate", version="m3", endpoints=DnsEndpoints(host="pods.example.com", port=80), max_concurrency=4)


def wish(rollout="chat", *, share_bp=0, shadow_bp=0, candidate=CANDIDATE, ttl_s=30.0, required=False, fallback=Fallback.CONNECT, **more):
    match = more.pop("match", (Match(),))
    made = Traffic(
        rollout=rollout,
        publication=1,
        generation=7,
        where=TrafficSpec(proxies="edge", listener="public", match=match, fallback=fallback),
        assignment=Assignment(sticky_header="x-user"),
        lease=Lease(ttl_s=ttl_s, required=required),
        stable=STABLE,
        arms=(Arm(variant=candidate, share_bp=share_bp, shadow_bp=shadow_bp, reserve_bp=FULL_BP),) if candidate else (),
    )
    return replace(made, **more)


def rendered(*wishes, leased=True):
    return render(PROXIES, wishes, leased=leased)


def parsed(found, type_url, message):
    return {name: message.FromString(each.body) for name, each in found[type_url].items()}


def routes(found):
    [configuration] = parsed(found, RDS, route_pb2.RouteConfiguration).values()
    return configuration


def committed(found):
    [virtual] = routes(found).virtual_hosts
    return {each.name: each.weight.value for each in virtual.routes[0].route.weighted_clusters.clusters}


def overlay(found, rollout="chat"):
    return rtds_pb2.Runtime.FromString(found[RTDS][layer_of(rollout)].body).layer


@pytest.mark.parametrize("share_bp", [0, 1, 333, 5000, 9999, 10_000])
def test_the_leased_weights_sum_to_what_the_route_has_and_no_key_is_left_out(share_bp):
    found = rendered(wish(share_bp=share_bp))
    weights = committed(found)
    [virtual] = routes(found).virtual_hosts
    prefix = virtual.routes[0].route.weighted_clusters.runtime_key_prefix
    leased = {name: overlay(found)[f"{prefix}.{name}"] for name in weights}
    assert sum(weights.values()) == sum(leased.values()) == TOTAL
    assert list(weights.values()) == [TOTAL, 0], "what holds without us is stable"
    assert leased[names.composite_cluster("chat", CANDIDATE)] == pytest.approx(share_bp * TOTAL / 10_000, abs=1)


def test_a_mirror_share_is_leased_in_struct_form_and_zero_without_us():
    found = rendered(wish(shadow_bp=2500))
    [virtual] = routes(found).virtual_hosts
    [mirror] = virtual.routes[0].route.request_mirror_policies
    assert mirror.cluster == names.shadow_cluster("chat", CANDIDATE)
    assert mirror.runtime_fraction.default_value.numerator == 0
    assert dict(overlay(found)[mirror.runtime_fraction.runtime_key]) == {"numerator": 2500, "denominator": "TEN_THOUSAND"}


def test_a_proxy_without_our_layers_gets_the_shares_in_its_routes():
    found = rendered(wish(share_bp=1000, shadow_bp=2500), leased=False)
    assert list(committed(found).values()) == [9007, 1000]
    [virtual] = routes(found).virtual_hosts
    action = virtual.routes[0].route
    assert action.weighted_clusters.runtime_key_prefix == "", "another's runtime keys must not act on it"
    assert action.request_mirror_policies[0].runtime_fraction.default_value.numerator == 2500
    assert all(not rtds_pb2.Runtime.FromString(each.body).layer.fields for each in found[RTDS].values())


def test_a_policy_that_demands_the_lease_gives_an_unleased_proxy_no_share_and_no_copies():
    found = rendered(wish(share_bp=1000, shadow_bp=2500, required=True), leased=False)
    assert list(committed(found).values()) == [TOTAL, 0]
    [virtual] = routes(found).virtual_hosts
    assert virtual.routes[0].route.request_mirror_policies[0].runtime_fraction.default_value.numerator == 0


@pytest.mark.rule("D7")
def test_all_layers_are_always_there_and_only_one_with_a_share_or_a_copy_has_a_lifetime():
    assert set(rendered()[RTDS]) == set(names.LAYER_NAMES)
    assert {each.ttl_s for each in rendered(wish())[RTDS].values()} == {None}
    for given in ({"share_bp": 1}, {"shadow_bp": 1}):
        found = rendered(wish(ttl_s=3.0, **given))[RTDS]
        assert {name: each.ttl_s for name, each in found.items() if each.ttl_s is not None} == {layer_of("chat"): 3.0}


def test_a_layer_lives_as_long_as_its_shortest_lease():
    twin = next(name for name in (f"r{number}" for number in range(1000)) if layer_of(name) == layer_of("chat"))
    found = rendered(
        wish(share_bp=100, ttl_s=30.0, match=(Match(path_prefix="/a"),)),
        wish(twin, share_bp=100, ttl_s=5.0, match=(Match(path_prefix="/b"),)),
    )
    assert found[RTDS][layer_of("chat")].ttl_s == 5.0


def test_a_key_of_an_older_release_is_never_the_key_of_a_newer_one():
    old, new = rendered(wish(share_bp=5000)), rendered(wish(share_bp=5000, generation=8))
    assert not set(overlay(old).fields) & set(overlay(new).fields)


def test_the_order_of_the_wishes_changes_nothing():
    wishes = [wish(name, share_bp=100, match=(Match(path_prefix=f"/{name}"), Match(host="b.example.com"))) for name in ("a", "b", "c")]
    first = rendered(*wishes)
    assert all(rendered(*order) == first for order in permutations(wishes))


@pytest.mark.rule("P19")
def test_versions_follow_the_content_and_nothing_else():
    one, other = rendered(wish(share_bp=100)), rendered(wish(share_bp=200, publication=2))
    assert one[CDS] == other[CDS]
    assert one[RDS] == other[RDS]
    assert one[LDS] == other[LDS]
    changed = {name for name in one[RTDS] if one[RTDS][name] != other[RTDS][name]}
    assert changed == {layer_of("chat")}, "a new share is one small resource"


@pytest.mark.rule("P21")
@pytest.mark.parametrize("fallback", list(Fallback))
@pytest.mark.parametrize("candidate", [None, CANDIDATE, DNS])
@pytest.mark.parametrize("leased", [True, False])
def test_everything_a_resource_points_at_is_there(fallback, candidate, leased):
    found = rendered(wish(share_bp=100, fallback=fallback, candidate=candidate), leased=leased)
    assert Snapshot(serial=1, resources=found).check() == ()


def test_every_cluster_has_its_owner_and_every_owner_its_cluster():
    kept = replace(STABLE, version="m0")
    given = wish(share_bp=100, kept=(kept,))
    assert set(rendered(given)[CDS]) == set(owners([given]))
    identity = CANDIDATE.identity
    timeout_s = given.where.timeout_s
    assert timeout_s > 0
    assert owners([given]) == {
        f"chat/{STABLE.identity}": Owner(rollout="chat", identity=STABLE.identity, audience="users", timeout_s=timeout_s),
        f"chat/{kept.identity}": Owner(rollout="chat", identity=kept.identity, audience="users", timeout_s=timeout_s),
        f"chat/{identity}": Owner(rollout="chat", identity=identity, audience="users", timeout_s=timeout_s),
        f"chat/{identity}.shadow": Owner(rollout="chat", identity=identity, audience="shadow", timeout_s=timeout_s),
        f"chat/{identity}+fallback": Owner(rollout="chat", identity=identity, audience="users", composite=True, timeout_s=timeout_s),
    }


def test_without_fallback_the_route_names_the_candidate_itself_and_nothing_is_tried_twice():
    found = rendered(wish(fallback=Fallback.NONE))
    assert list(committed(found)) == [f"chat/{STABLE.identity}", f"chat/{CANDIDATE.identity}"]
    [virtual] = routes(found).virtual_hosts
    assert not virtual.routes[0].route.HasField("retry_policy")
    assert not any("+fallback" in name for name in found[CDS])


def test_the_composite_cluster_tries_the_candidate_then_stable():
    cluster = parsed(rendered(wish()), CDS, cluster_pb2.Cluster)[names.composite_cluster("chat", CANDIDATE)]
    raw = cluster.cluster_type.typed_config.value
    first, second = f"chat/{CANDIDATE.identity}".encode(), f"chat/{STABLE.identity}".encode()
    assert raw.index(first) < raw.index(second)
    assert raw.startswith(bytes((0x0A, len(first) + 2, 0x0A, len(first))))
    assert cluster.circuit_breakers.thresholds[0].max_retries.value >= 1024, "a fallback holds its retry until its answer ends"


def test_a_promotion_changes_no_cluster_of_the_candidate_but_its_panic_threshold():
    before = parsed(rendered(wish(share_bp=5000)), CDS, cluster_pb2.Cluster)[f"chat/{CANDIDATE.identity}"]
    after = parsed(rendered(wish(stable=CANDIDATE, arms=(), kept=(STABLE,))), CDS, cluster_pb2.Cluster)[f"chat/{CANDIDATE.identity}"]
    assert before.common_lb_config.healthy_panic_threshold.value == 0.0
    assert after.common_lb_config.healthy_panic_threshold.value == 50.0
    after.common_lb_config.healthy_panic_threshold.value = 0.0
    assert before == after


def test_limits_follow_pods_and_concurrency_and_copies_are_kept_short():
    cluster = parsed(rendered(wish(candidate=DNS)), CDS, cluster_pb2.Cluster)
    users, shadow = cluster[f"chat/{DNS.identity}"], cluster[f"chat/{DNS.identity}.shadow"]
    assert users.circuit_breakers.thresholds[0].max_requests.value == requests_max(DNS) == 4 * 32
    assert shadow.circuit_breakers.thresholds[0].max_requests.value == 64
    assert shadow.circuit_breakers.thresholds[0].max_retries.value == 0
    big = replace(DNS, max_concurrency=100_000)
    assert (
        parsed(rendered(wish(candidate=big)), CDS, cluster_pb2.Cluster)[f"chat/{big.identity}.shadow"]
        .circuit_breakers.thresholds[0]
        .max_requests.value
        == SHADOW_REQUESTS_MAX
    )


def test_dns_is_resolved_by_the_proxies_and_static_addresses_go_over_eds():
    found = rendered(wish(candidate=DNS))
    clusters = parsed(found, CDS, cluster_pb2.Cluster)
    assert clusters[f"chat/{DNS.identity}"].type == cluster_pb2.Cluster.STRICT_DNS
    assert f"chat/{DNS.identity}" not in found[EDS]
    [locality] = parsed(found, EDS, endpoint_pb2.ClusterLoadAssignment)[f"chat/{STABLE.identity}"].endpoints
    addresses = [each.endpoint.address.socket_address for each in locality.lb_endpoints]
    assert [(each.address, each.port_value) for each in addresses] == [("127.0.0.1", 8001), ("::1", 8001)]


def test_a_health_check_keeps_its_rhythm_without_traffic():
    clusters = parsed(rendered(wish()), CDS, cluster_pb2.Cluster)
    for name in (f"chat/{CANDIDATE.identity}", f"chat/{CANDIDATE.identity}.shadow"):
        [check] = clusters[name].health_checks
        assert check.no_traffic_interval == check.no_traffic_healthy_interval == check.interval
    assert not clusters[f"chat/{STABLE.identity}"].health_checks


def test_particular_hosts_come_first_then_long_prefixes_then_names():
    wishes = [
        wish("any", match=(Match(path_prefix="/v1"), Match(path_prefix="/"))),
        wish("sub", match=(Match(host="*.example.com", path_prefix="/v1/chat"),)),
        wish("one", match=(Match(host="API.example.com", path_prefix="/"),)),
    ]
    hosts = {each.name: [(route.name, route.match.prefix) for route in each.routes] for each in routes(rendered(*wishes)).virtual_hosts}
    assert hosts == {
        "*": [("any", "/v1"), ("any", "/")],
        "*.example.com": [("sub", "/v1/chat"), ("any", "/v1"), ("any", "/")],
        "api.example.com": [("one", "/"), ("sub", "/v1/chat"), ("any", "/v1"), ("any", "/")],
    }


@pytest.mark.parametrize(
    ("pattern", "host", "fits"),
    [
        ("*", "a.b", True),
        ("a.b", "a.b", True),
        ("*.b", "a.b", True),
        ("*.b", "*.a.b", True),
        ("*.b", "b", False),
        ("a.b", "*", False),
        ("*.b", "ab", False),
    ],
)
def test_a_host_pattern_covers_what_envoy_would_match(pattern, host, fits):
    assert (pattern in covering(host)) is fits


def test_a_listener_without_rollouts_is_there_and_routes_nothing():
    found = rendered()
    assert set(found[LDS]) == set(found[RDS]) == {"edge/public"}
    assert not routes(found).virtual_hosts


def test_the_two_access_logs_are_the_upstream_log_and_the_one_of_requests_without_a_host():
    listener = parsed(rendered(), LDS, listener_pb2.Listener)["edge/public"]
    manager = hcm.HttpConnectionManager.FromString(listener.filter_chains[0].filters[0].typed_config.value)
    assert manager.use_remote_address.value
    assert [list(each.filter.response_flag_filter.flags) for each in manager.access_log] == [["UH", "NC", "NR", "OM"]]


def test_wishes_of_other_groups_and_listeners_have_no_route_here():
    foreign = wish("foreign", where=TrafficSpec(proxies="other", listener="public"))
    assert rendered(foreign) == rendered()
    inner = wish("inner", where=TrafficSpec(proxies="edge", listener="inner"))
    assert not routes(rendered(inner)).virtual_hosts
    assert rendered(inner)[CDS], "its pods are warm all the same"


def test_a_version_beside_itself_is_one_lane():
    found = rendered(wish(candidate=replace(STABLE, name="candidate"), share_bp=5000))
    assert committed(found) == {f"chat/{STABLE.identity}": TOTAL}


def test_two_arms_of_one_version_are_our_bug():
    twins = (Arm(variant=CANDIDATE), Arm(variant=replace(CANDIDATE, max_concurrency=1)))
    with pytest.raises(BugError, match=r"two arms of rollout 'chat' are the same version 'm2\.[0-9a-f]{8}'"):
        rendered(wish(arms=twins))


def test_two_wishes_of_one_rollout_are_our_bug():
    with pytest.raises(BugError, match="two wishes"):
        rendered(wish(), wish(share_bp=100))


def test_salts_make_rollouts_independent_and_a_policy_may_share_one():
    none, own = Assignment(sticky_header="x"), Assignment(sticky_header="x", salt="s1")
    assert names.salted("ann", "chat", none) != names.salted("ann", "images", none)
    assert names.salted("ann", "chat", own) == names.salted("ann", "images", own)
    layer = Assignment(sticky_header="x", layer="l1")
    assert names.salted("ann", "chat", layer) == names.salted("ann", "images", layer) == "ann#l1"


THIRD = Variant(name="third", version="m3", endpoints=StaticEndpoints(addresses=("127.0.0.1:8003",)))
FOURTH = Variant(name="fourth", version="m4", endpoints=StaticEndpoints(addresses=("127.0.0.1:8004",)))


def arms(*variants, share_bp=100, **more):
    return tuple(Arm(variant=variant, share_bp=share_bp, reserve_bp=3000, **more) for variant in variants)


def test_a_third_arm_needs_a_second_name_of_stable_that_is_stable():
    given = wish(arms=arms(CANDIDATE, THIRD, FOURTH))
    found = rendered(given)
    alias = f"chat/2={STABLE.identity}"
    routed = [names.composite_cluster("chat", variant) for variant in (CANDIDATE, THIRD, FOURTH)]
    assert list(committed(found)) == [routed[0], f"chat/{STABLE.identity}", routed[1], alias, routed[2]]
    assert list(committed(found).values()) == [0, TOTAL, 0, 0, 0]
    assert set(found[CDS]) == set(owners([given]))
    assert owners([given])[alias] == owners([given])[f"chat/{STABLE.identity}"]
    cluster = parsed(found, CDS, cluster_pb2.Cluster)[alias]
    assert cluster.cluster_type.typed_config.value.count(f"chat/{STABLE.identity}".encode()) == 2, "in both attempts"
    assert found[CDS][alias].references == ((CDS, f"chat/{STABLE.identity}"),)


def test_one_or_two_arms_alone_need_no_other_name_of_stable_and_a_lane_may():
    for given in ((CANDIDATE,), (CANDIDATE, THIRD)):
        assert not names.aliases(wish(arms=arms(*given)))
    lane = Lane(start_bp=3000, width_bp=3000)
    assert len(names.aliases(wish(arms=arms(CANDIDATE), lane=lane))) == 1
    assert not names.aliases(wish(arms=(), lane=lane))


def test_a_cookie_is_two_routes_that_hash_the_same_text():
    cookie = Cookie(name="cf.id", ttl_s=3600.0)
    [virtual] = routes(rendered(wish(share_bp=100, assignment=Assignment(cookie=cookie)))).virtual_hosts
    known, new = virtual.routes
    assert known.name == new.name == "chat"
    [header] = known.match.headers
    assert header.name == "cookie"
    assert not new.match.headers
    assert known.route.weighted_clusters == new.route.weighted_clusters
    assert known.route.weighted_clusters.use_hash_policy.value
    by_value, by_id = (route.route.hash_policy[0].header for route in (known, new))
    assert by_value.regex_rewrite.pattern.regex == f"^{header.string_match.safe_regex.regex}$"
    assert by_value.regex_rewrite.substitution == r"\1#chat"
    assert (by_id.header_name, by_id.regex_rewrite.substitution) == ("x-request-id", "#chat")
    assert not known.response_headers_to_add
    [minted] = new.response_headers_to_add
    assert minted.header.key == "set-cookie"
    assert minted.header.value == "cf.id=%REQ(x-request-id)%; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"


STAFF = Segment(name="staff", when=(HeaderMatch(name="x-staff", value="1"),), variant="candidate")


@pytest.mark.parametrize(("pinned", "weights"), [(True, [0, TOTAL]), (False, [TOTAL, 0])])
def test_a_segment_is_a_lease_of_all_or_nothing(pinned, weights):
    asked = wish(assignment=Assignment(segments=(STAFF,)), arms=arms(CANDIDATE, share_bp=0, pinned=pinned))
    found = rendered(asked)
    [virtual] = routes(found).virtual_hosts
    segment, drawn = virtual.routes
    assert (segment.name, drawn.name) == ("chat#staff", "chat")
    weighted = segment.route.weighted_clusters
    assert [each.weight.value for each in weighted.clusters] == [TOTAL, 0]
    assert [overlay(found)[f"{weighted.runtime_key_prefix}.{each.name}"] for each in weighted.clusters] == weights
    assert not segment.route.request_mirror_policies
    assert segment.route.retry_policy == drawn.route.retry_policy
    assert (found[RTDS][layer_of("chat")].ttl_s is not None) is pinned
    assert found[RDS] == rendered(replace(asked, arms=arms(CANDIDATE, share_bp=0)))[RDS], "being pinned changes no route"
    [virtual] = routes(rendered(asked, leased=False)).virtual_hosts
    assert [each.weight.value for each in virtual.routes[0].route.weighted_clusters.clusters] == weights
    required = replace(asked, lease=replace(asked.lease, required=True))
    [virtual] = routes(rendered(required, leased=False)).virtual_hosts
    assert [each.weight.value for each in virtual.routes[0].route.weighted_clusters.clusters] == [TOTAL, 0]


def test_segments_of_stable_and_of_an_arm_that_is_not_there_go_to_stable():
    segments = (replace(STAFF, name="a", variant="stable"), replace(STAFF, name="b", variant="gone"))
    for leased in (True, False):
        [virtual] = routes(rendered(wish(assignment=Assignment(segments=segments), share_bp=100), leased=leased)).virtual_hosts
        for route in virtual.routes[:2]:
            assert [each.name for each in route.route.weighted_clusters.clusters] == [f"chat/{STABLE.identity}"]
            assert not route.route.weighted_clusters.runtime_key_prefix


def test_conditions_on_headers_are_those_of_the_match_and_of_the_segment_in_order():
    conditions = tuple(HeaderMatch(name=f"x-{compare}", compare=compare, value="v") for compare in Compare)
    asked = wish(match=(Match(headers=conditions),), assignment=Assignment(segments=(STAFF,)))
    [virtual] = routes(rendered(asked)).virtual_hosts
    segment, drawn = virtual.routes
    assert [header.name for header in segment.match.headers] == [header.name for header in drawn.match.headers] + ["x-staff"]
    found = {header.name: header for header in drawn.match.headers}
    assert found["x-present"].present_match
    assert found["x-regex"].string_match.safe_regex.regex == "v"
    for compare in ("exact", "prefix", "suffix", "contains"):
        assert getattr(found[f"x-{compare}"].string_match, compare) == "v"


def test_more_conditions_come_before_longer_prefixes():
    some = (HeaderMatch(name="x-beta", value="1"),)
    wishes = [wish("plain", match=(Match(path_prefix="/v1/chat"),)), wish("beta", match=(Match(headers=some),))]
    [virtual] = routes(rendered(*wishes)).virtual_hosts
    assert [route.name for route in virtual.routes] == ["beta", "plain"]


def test_layers_never_move():
    assert {name: layer_of(name) for name in ("chat", "whisper", "b")} == {
        "chat": "crossfade-1",
        "whisper": "crossfade-a",
        "b": "crossfade-e",
    }
