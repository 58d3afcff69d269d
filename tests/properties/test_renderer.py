"""The renderer with a memory against rendering from scratch, whatever is edited in whatever order."""

from dataclasses import replace

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.lanes import TOTAL, WHOLE, Lane
from policies.spec.policy import (
    Assignment,
    Compare,
    Cookie,
    DefaultRoute,
    DnsEndpoints,
    Fallback,
    HeaderMatch,
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
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.resources import names
from xds_server.resources.envoy import Renderer, render

MESSAGES = {CDS: Cluster, EDS: ClusterLoadAssignment, LDS: ListenerMessage, RDS: RouteConfiguration, RTDS: Runtime}
ROLLOUTS = ("a", "a-b", "b", "c")
HOSTS = ("*", "*.b", "*.a.b", "a.b", "x.a.b", "B", "other")
LISTENERS = tuple(Listener(name=name, address="127.0.0.1", port=8080 + number) for number, name in enumerate(("public", "inner")))

MOVED = replace(LISTENERS[0], port=9090)


def variant(version):
    return Variant(name=version, version=version, endpoints=StaticEndpoints(addresses=("127.0.0.1:8001",)))


STABLE, CANDIDATE = variant("m1"), variant("m2")
CONDITIONS = st.lists(
    st.builds(HeaderMatch, name=st.sampled_from(("x-a", "x-b")), compare=st.sampled_from(Compare), value=st.sampled_from(("1", "2"))),
    max_size=2,
).map(tuple)
MATCHES = st.builds(Match, host=st.sampled_from(HOSTS), path_prefix=st.sampled_from(("/", "/v1", "/v2", "/v1/chat")), headers=CONDITIONS)
ARMS = st.lists(
    st.builds(
        Arm,
        variant=st.sampled_from((CANDIDATE, *map(variant, ("m3", "m4", "m5")))),
        share_bp=st.integers(0, 900),
        shadow_bp=st.sampled_from((0, 100)),
        reserve_bp=st.just(900),
        pinned=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda arm: arm.variant.identity,
)
SEGMENTS = st.lists(
    st.builds(Segment, name=st.sampled_from(("staff", "beta")), when=CONDITIONS, variant=st.sampled_from(("m1", "m2", "m3", "gone"))),
    max_size=2,
    unique_by=lambda segment: segment.name,
).map(tuple)
WISHES = st.builds(
    Traffic,
    rollout=st.sampled_from(ROLLOUTS),
    publication=st.integers(1, 3),
    generation=st.integers(1, 2),
    where=st.builds(
        TrafficSpec,
        proxies=st.sampled_from(("edge", "edge", "edge", "elsewhere")),
        listener=st.sampled_from(("public", "public", "inner", "nowhere")),
        match=st.lists(MATCHES, min_size=1, max_size=4).map(tuple),
        fallback=st.sampled_from(Fallback),
    ),
    assignment=st.builds(Assignment, sticky_header=st.sampled_from((None, "x-user")), segments=SEGMENTS)
    | st.builds(Assignment, cookie=st.just(Cookie(name="crossfade-a")), segments=SEGMENTS, layer=st.sampled_from(("", "l"))),
    lease=st.builds(Lease, ttl_s=st.sampled_from((3.0, 30.0)), required=st.booleans()),
    stable=st.sampled_from((STABLE, variant("m0"))),
    arms=ARMS.map(tuple),
    lane=st.sampled_from((WHOLE, Lane(start_bp=0, width_bp=4000), Lane(start_bp=4000, width_bp=5000))),
    kept=st.sampled_from(((), (variant("m0"),))),
)
PROXIES = st.builds(
    lambda listeners, default: ProxiesPolicy(name="edge", select=Select(), listeners=tuple(listeners), default=default),
    st.lists(st.sampled_from((*LISTENERS, MOVED)), min_size=1, max_size=2, unique_by=lambda listener: listener.name),
    st.sampled_from(
        (
            None,
            DefaultRoute(endpoints=StaticEndpoints(addresses=("10.0.0.9:80",))),
            DefaultRoute(endpoints=DnsEndpoints(host="other.svc", port=80), timeout_s=5.0),
        )
    ),
)
EDGE = ProxiesPolicy(name="edge", select=Select(), listeners=LISTENERS)
EDITS = st.lists(st.one_of(WISHES, WISHES, WISHES, st.sampled_from(ROLLOUTS), PROXIES), min_size=1, max_size=8)
"""A new wish, the name of a rollout that goes, or another document of the group."""


def wish(rollout="a", *hosts, **changes):
    where = TrafficSpec(proxies="edge", listener="public", match=tuple(Match(host=host) for host in hosts or ("*",)))
    made = Traffic(
        rollout=rollout,
        publication=1,
        generation=1,
        where=where,
        assignment=Assignment(),
        lease=Lease(),
        stable=STABLE,
        arms=(Arm(variant=CANDIDATE, share_bp=100, reserve_bp=5000),),
    )
    return replace(made, **changes)


def plain(snapshot):
    return {url: dict(named) for url, named in snapshot.resources.items()}


@settings(deadline=None)
@given(EDITS)
@example([wish("a", "a.b"), wish("b", "*.b"), wish("c", "*"), "b", wish("b", "b"), "c", "a"])
@example([wish("a"), wish("a", where=TrafficSpec(proxies="elsewhere", listener="public"))])
@example([wish("a", where=TrafficSpec(proxies="edge", listener="inner")), replace(EDGE, listeners=LISTENERS[:1]), EDGE])
@example([wish("a"), wish("a", where=replace(wish("a").where, fallback=Fallback.NONE))])
@example([wish("a"), replace(EDGE, listeners=(MOVED,))])
@example([wish("a"), wish("a", arms=tuple(Arm(variant=variant(name)) for name in ("m2", "m3", "m4"))), wish("a")])
def test_any_edits_lead_to_what_rendering_from_scratch_gives_and_the_rest_stays_the_same_objects(edits):
    renderer, proxies, wishes, last = Renderer(), EDGE, {}, {True: None, False: None}
    for serial, edit in enumerate(edits, start=1):
        if isinstance(edit, ProxiesPolicy):
            proxies = edit
        elif isinstance(edit, str):
            wishes.pop(edit, None)
        else:
            wishes[edit.rollout] = edit
        for leased, before in last.items():
            snapshot, faults = renderer.snapshot(proxies, dict(wishes), leased=leased, serial=serial)
            assert faults == snapshot.check() == ()
            assert snapshot.serial == serial
            assert plain(snapshot) == render(proxies, tuple(reversed(wishes.values())), leased=leased)
            if before is not None:
                assert all(
                    each is before.of(url)[name]
                    for url, named in snapshot.resources.items()
                    for name, each in named.items()
                    if before.of(url).get(name) == each
                )
            last[leased] = snapshot


@settings(deadline=None)
@given(st.lists(WISHES, max_size=4, unique_by=lambda each: each.rollout), st.booleans())
def test_what_is_put_together_from_pieces_is_what_protobuf_itself_would_write(wishes, leased):
    for url, named in render(EDGE, wishes, leased=leased).items():
        for each in named.values():
            assert MESSAGES[url].FromString(each.body).SerializeToString(deterministic=True) == each.body


@settings(deadline=None)
@given(st.lists(WISHES, max_size=4, unique_by=lambda each: each.rollout), st.booleans())
def test_every_host_has_the_routes_of_all_patterns_that_cover_it_in_order_of_trial_and_is_there_once(wishes, leased):
    found = render(EDGE, wishes, leased=leased)[RDS]
    for listener in LISTENERS:
        here = [each for each in wishes if (each.where.proxies, each.where.listener) == ("edge", listener.name)]
        places = [(match.host.lower(), match, each) for each in here for match in each.where.match]
        hosts = {}
        for host in {host for host, _, _ in places}:
            reachable = [place for place in places if place[0] in {"*", host} or (place[0][0] == "*" and host.endswith(place[0][1:]))]
            reachable.sort(key=_order_of_trial)
            hosts[host] = [way for _, match, each in reachable for way in _ways(each, match)]
        virtual = RouteConfiguration.FromString(found[f"edge/{listener.name}"].body).virtual_hosts
        assert [each.name for each in virtual] == sorted(hosts)
        assert [list(each.domains) for each in virtual] == [[host] for host in sorted(hosts)]
        assert {each.name: [_told(route) for route in each.routes] for each in virtual} == hosts


def _order_of_trial(place):
    host, match, each = place
    return (host == "*", host[0] == "*", -len(host), -len(match.headers), -len(match.path_prefix), each.rollout)


def _ways(each, match):
    conditions = [condition.name for condition in match.headers]
    for segment in each.assignment.segments:
        yield f"{each.rollout}#{segment.name}", match.path_prefix, conditions + [condition.name for condition in segment.when]
    if each.assignment.cookie:
        yield each.rollout, match.path_prefix, [*conditions, "cookie"]
    yield each.rollout, match.path_prefix, conditions


def _told(route):
    return route.name, route.match.prefix, [header.name for header in route.match.headers]


@settings(deadline=None)
@given(WISHES, st.booleans())
def test_every_weight_of_a_route_has_its_key_in_one_layer_and_both_sum_to_the_total(asked, leased):
    edge = replace(EDGE, name=asked.where.proxies, listeners=(replace(LISTENERS[0], name=asked.where.listener),))
    found = render(edge, [asked], leased=leased)
    keys = Runtime.FromString(found[RTDS][names.layer_of(asked.rollout)].body).layer
    [configuration] = found[RDS].values()
    used = set()
    for host in RouteConfiguration.FromString(configuration.body).virtual_hosts:
        for route in host.routes:
            weighted = route.route.weighted_clusters
            weights = {each.name: each.weight.value for each in weighted.clusters}
            assert len(weights) == len(weighted.clusters), "one key per cluster"
            assert sum(weights.values()) == TOTAL
            if leased or asked.lease.required:
                assert weights[names.cluster(asked.rollout, asked.stable)] == TOTAL
            if weighted.runtime_key_prefix:
                here = {f"{weighted.runtime_key_prefix}.{name}" for name in weights}
                assert sum(keys[key] for key in here) == TOTAL
                used |= here
            used |= {policy.runtime_fraction.runtime_key for policy in route.route.request_mirror_policies} - {""}
    assert used == set(keys.fields)


@pytest.mark.rule("P19")
@settings(deadline=None)
@given(st.lists(WISHES, max_size=4, unique_by=lambda each: each.rollout), st.lists(WISHES, max_size=4, unique_by=lambda each: each.rollout))
def test_versions_are_equal_exactly_where_bodies_are(some, others):
    one, other = render(EDGE, some, leased=True), render(EDGE, others, leased=False)
    for url in MESSAGES:
        for name in one[url].keys() & other[url].keys():
            assert (one[url][name].version == other[url][name].version) is (one[url][name].body == other[url][name].body)


@pytest.mark.parametrize("leased", [True, False])
def test_a_faulty_world_is_told_and_the_next_is_derived_from_the_last_good_one(leased):
    renderer, good, bad = Renderer(), wish("a"), wish("b", arms=(Arm(variant=CANDIDATE), Arm(variant=CANDIDATE)))
    first, faults = renderer.snapshot(EDGE, {"a": good}, leased=leased, serial=1)
    assert faults == ()
    _, faults = renderer.snapshot(EDGE, {"a": good, "b": bad}, leased=leased, serial=2)
    assert faults == (f"two arms of rollout 'b' are the same version {CANDIDATE.identity!r}",)
    _, again = renderer.snapshot(EDGE, {"a": good, "b": bad}, leased=leased, serial=3)
    assert again == faults
    last, faults = renderer.snapshot(EDGE, {"a": good}, leased=leased, serial=4)
    assert faults == ()
    assert all(last.of(url) is first.of(url) for url in MESSAGES)


@pytest.mark.parametrize(
    ("leased", "touched"),
    [(True, {(RTDS, "crossfade-a")}), (False, {(RDS, "edge/public")})],
)
def test_a_new_share_of_one_rollout_of_many_is_one_new_resource(leased, touched):
    renderer, wishes = (
        Renderer(),
        {name: wish(name, f"{name}.b") for name in (f"r{number}" for number in range(40))} | {"whisper": wish("whisper")},
    )
    before, _ = renderer.snapshot(EDGE, wishes, leased=leased, serial=1)
    wishes["whisper"] = replace(wishes["whisper"], publication=2, arms=(Arm(variant=CANDIDATE, share_bp=200, reserve_bp=5000),))
    after, _ = renderer.snapshot(EDGE, wishes, leased=leased, serial=2)
    assert {
        (url, name) for url, named in after.resources.items() for name, each in named.items() if before.of(url)[name] is not each
    } == touched


def test_a_wish_that_says_the_same_again_changes_nothing():
    renderer, given_ = Renderer(), wish("a")
    before, _ = renderer.snapshot(EDGE, {"a": given_}, leased=True, serial=1)
    after, _ = renderer.snapshot(EDGE, {"a": replace(given_, publication=2)}, leased=True, serial=2)
    assert (before.serial, after.serial) == (1, 2)
    assert all(after.of(url) is before.of(url) for url in MESSAGES)


def test_both_views_share_their_clusters():
    renderer, wishes = Renderer(), {"a": wish("a")}
    leased, _ = renderer.snapshot(EDGE, wishes, leased=True, serial=1)
    unleased, _ = renderer.snapshot(EDGE, wishes, leased=False, serial=1)
    assert leased.of(CDS)
    assert all(unleased.of(url)[name] is each for url in (CDS, EDS) for name, each in leased.of(url).items())


def test_a_copy_goes_on_from_where_the_original_is_and_neither_disturbs_the_other():
    original, wishes, other = Renderer(), {"a": wish("a"), "b": wish("b")}, wish("b", stable=variant("m0"))
    steady, _ = original.snapshot(EDGE, wishes, leased=True, serial=1)
    trial, _ = original.copy().snapshot(EDGE, wishes | {"b": other}, leased=True, serial=2)
    again, _ = original.snapshot(EDGE, wishes, leased=True, serial=3)
    assert plain(trial) == render(EDGE, (wishes["a"], other), leased=True)
    assert all(trial.of(url)[name] is each for url in (CDS, EDS) for name, each in steady.of(url).items() if name.startswith("a/"))
    assert all(again.of(url) is steady.of(url) for url in MESSAGES)


@pytest.mark.parametrize(
    ("arms", "lane", "words"),
    [
        ((Arm(variant=CANDIDATE, share_bp=101, reserve_bp=100),), WHOLE, "rollout 'b': a share must be within its reserve"),
        ((Arm(variant=CANDIDATE, reserve_bp=5000),), Lane(start_bp=0, width_bp=4000), "rollout 'b': the arms do not fit into the lane"),
        ((), Lane(start_bp=1, width_bp=10_000), "rollout 'b': the arms do not fit into the lane"),
    ],
)
@pytest.mark.parametrize("leased", [True, False])
def test_arms_that_do_not_fit_are_told_and_nothing_else_suffers(arms, lane, words, leased):
    renderer, good, bad = Renderer(), wish("a"), wish("b", arms=arms, lane=lane)
    first, _ = renderer.snapshot(EDGE, {"a": good}, leased=leased, serial=1)
    _, faults = renderer.snapshot(EDGE, {"a": good, "b": bad}, leased=leased, serial=2)
    [fault] = faults
    assert fault.startswith(words)
    names.owners([bad])
    last, faults = renderer.snapshot(EDGE, {"a": good}, leased=leased, serial=3)
    assert faults == ()
    assert all(last.of(url) is first.of(url) for url in MESSAGES)
