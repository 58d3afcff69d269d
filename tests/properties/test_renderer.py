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

from policies.spec.policy import Assignment, Fallback, Lease, Listener, Match, ProxiesPolicy, Select, StaticEndpoints, TrafficSpec, Variant
from policies.traffic import Arm, Traffic
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.resources.envoy import Renderer, render

MESSAGES = {CDS: Cluster, EDS: ClusterLoadAssignment, LDS: ListenerMessage, RDS: RouteConfiguration, RTDS: Runtime}
ROLLOUTS = ("a", "a-b", "b", "c")
HOSTS = ("*", "*.b", "*.a.b", "a.b", "x.a.b", "B", "other")
LISTENERS = tuple(Listener(name=name, address="127.0.0.1", port=8080 + number) for number, name in enumerate(("public", "inner")))

MOVED = replace(LISTENERS[0], port=9090)


def variant(version):
    return Variant(name=version, version=version, endpoints=StaticEndpoints(addresses=("127.0.0.1:8001",)))


STABLE, CANDIDATE = variant("m1"), variant("m2")
MATCHES = st.builds(Match, host=st.sampled_from(HOSTS), path_prefix=st.sampled_from(("/", "/v1", "/v2", "/v1/chat")))
ARMS = st.lists(
    st.builds(Arm, variant=st.sampled_from((CANDIDATE, variant("m3"))), share_bp=st.integers(0, 5000), shadow_bp=st.sampled_from((0, 100))),
    max_size=2,
    unique_by=lambda arm: arm.variant.identity,
)
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
    assignment=st.builds(Assignment, sticky_header=st.sampled_from((None, "x-user"))),
    lease=st.builds(Lease, ttl_s=st.sampled_from((3.0, 30.0)), required=st.booleans()),
    stable=st.sampled_from((STABLE, variant("m0"))),
    arms=ARMS.map(tuple),
    kept=st.sampled_from(((), (variant("m0"),))),
)
PROXIES = st.builds(
    lambda listeners: ProxiesPolicy(name="edge", select=Select(), listeners=tuple(listeners)),
    st.lists(st.sampled_from((*LISTENERS, MOVED)), min_size=1, max_size=2, unique_by=lambda listener: listener.name),
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
        arms=(Arm(variant=CANDIDATE, share_bp=100),),
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
        places = [(match.host.lower(), match.path_prefix, each.rollout) for each in here for match in each.where.match]
        hosts = {}
        for host in {host for host, _, _ in places}:
            reachable = [place for place in places if place[0] in {"*", host} or (place[0][0] == "*" and host.endswith(place[0][1:]))]
            reachable.sort(key=lambda place: (place[0] == "*", place[0][0] == "*", -len(place[0]), -len(place[1]), place[2]))
            hosts[host] = [(rollout, prefix) for _, prefix, rollout in reachable]
        virtual = RouteConfiguration.FromString(found[f"edge/{listener.name}"].body).virtual_hosts
        assert [each.name for each in virtual] == sorted(hosts)
        assert [list(each.domains) for each in virtual] == [[host] for host in sorted(hosts)]
        assert {each.name: [(route.name, route.match.prefix) for route in each.routes] for each in virtual} == hosts


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
    wishes["whisper"] = replace(wishes["whisper"], publication=2, arms=(Arm(variant=CANDIDATE, share_bp=200),))
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
