"""One story told to four real Envoys, each in another form of the protocol: all end up with the same configuration at every step.

State of the world and delta, each over one aggregated stream and over a stream per type (one per resource for EDS, RDS and RTDS).
"""

import asyncio
import difflib
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ConfigSource
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpConnectionManager
from google.protobuf.json_format import ParseDict

from policies.spec.policy import Assignment, Lease, Listener, Match, ProxiesPolicy, Select, StaticEndpoints, TrafficSpec, Variant
from policies.traffic import Arm, Traffic
from tests.real_envoy import Envoy
from tests.rig import free_port, until
from tests.wire.transports import Transport
from xds_server.core.facts import Variant as Form
from xds_server.core.snapshot import Snapshot
from xds_server.core.types import CDS, EDS, LDS, RDS, TYPES
from xds_server.resources.bootstrap import bootstrap
from xds_server.resources.envoy import render
from xds_server.services.ads import AdsHub
from xds_server.services.proxies import Nacked

FORMS = {
    "ads-sotw": ("GRPC", True),
    "ads-delta": ("DELTA_GRPC", True),
    "own-sotw": ("GRPC", False),
    "own-delta": ("DELTA_GRPC", False),
}
VOLATILE = {"version_info", "last_updated"}
SOURCES = {"config_source", "eds_config"}


def variant(name, version, *ports):
    return Variant(name=name, version=version, endpoints=StaticEndpoints(addresses=tuple(f"127.0.0.1:{port}" for port in ports)))


STABLE, CANDIDATE = variant("stable", "v1", 11_001, 11_002), variant("candidate", "v2", 11_003)
START = Traffic(
    rollout="chat",
    publication=1,
    generation=1,
    where=TrafficSpec(proxies="edge", listener="public"),
    assignment=Assignment(sticky_header="x-user"),
    lease=Lease(ttl_s=300.0),
    stable=STABLE,
)
WARM = replace(START, arms=(Arm(variant=CANDIDATE),))
SHARED = replace(WARM, arms=(Arm(variant=CANDIDATE, share_bp=2000, shadow_bp=500, reserve_bp=2000),))
MOVED = replace(SHARED, where=replace(SHARED.where, match=(Match(host="chat.test", path_prefix="/v1"),), timeout_s=7.0))
TUNED = replace(MOVED, stable=replace(STABLE, max_concurrency=77))
OTHER = replace(TUNED, stable=variant("stable", "v1", 11_004, 11_005))


@dataclass(frozen=True)
class Chapter:
    wish: Traffic
    pods_move: bool = False


STORY = {
    "start": Chapter(START),
    "clusters are added": Chapter(WARM),
    "the candidate gets weight": Chapter(SHARED),
    "a route changes": Chapter(MOVED),
    "a cluster changes, its endpoints do not": Chapter(TUNED),
    "endpoints change, their cluster does not": Chapter(TUNED, pods_move=True),
    "another stable takes over": Chapter(OTHER, pods_move=True),
    "the candidate is removed": Chapter(replace(OTHER, arms=())),
    "it comes back": Chapter(OTHER),
}


class Told:
    """One Envoy in one form, and its world."""

    def __init__(self, form, folder, xds_port) -> None:
        api_type, self.aggregated = FORMS[form]
        self.form = form
        self.port, admin_port = free_port(), free_port()
        listener = Listener(name="public", address="127.0.0.1", port=self.port)
        self.proxies = ProxiesPolicy(name="edge", select=Select(), listeners=(listener,))
        config = bootstrap(node_id=form, cluster="edge", xds_host="127.0.0.1", xds_port=xds_port, admin_port=admin_port)
        source = config["dynamic_resources"]["ads_config"]
        source["api_type"] = api_type
        self.source = {"api_config_source": source, "resource_api_version": "V3"}
        if not self.aggregated:
            del config["dynamic_resources"]["ads_config"]
            config["dynamic_resources"] |= {"lds_config": self.source, "cds_config": self.source}
            for layer in config["layered_runtime"]["layers"]:
                if "rtds_layer" in layer:
                    layer["rtds_layer"]["rtds_config"] = {**self.source, "initial_fetch_timeout": "1s"}
        self.envoy = Envoy(config, folder, admin_port=admin_port, name=form)

    def snapshot(self, serial, chapter):
        types = render(self.proxies, (chapter.wish,), leased=True)
        if chapter.pods_move:
            types = types | {EDS: _each(types[EDS], _moved, 100)}
        if not self.aggregated:
            source = ParseDict(self.source, ConfigSource())
            types = types | {CDS: _each(types[CDS], _cluster_over, source), LDS: _each(types[LDS], _listener_over, source)}
        snapshot = Snapshot(serial=serial, resources=types)
        assert snapshot.check() == ()
        return snapshot

    async def has(self):
        """What Envoy says it has, without what must differ: versions, times, its port and the way it hears of things."""
        dump = (await self.envoy.json("/config_dump?include_eds"))["configs"]
        clusters = (await self.envoy.json("/clusters?format=json"))["cluster_statuses"]
        for status in clusters:
            for host in status.get("host_statuses", ()):
                del host["stats"]
        told = [section for section in dump if not section["@type"].endswith("BootstrapConfigDump")]
        runtime = {key: _words(each) for key, each in (await self.envoy.runtime()).items()}
        return _plain({"dump": told, "clusters": clusters, "runtime": runtime}, self.port)

    async def shows(self, snapshot, what):
        """`has`, once it is what was published: an ACK comes a moment before the last trace of what was removed is gone."""

        async def settled():
            has = await self.has()
            return has if _agrees_with(has, snapshot) else None

        return await until(settled, f"{self.form} to have what was published: {what}")


def _each(resources, edit, how):
    return {name: replace(each, body=edit(each.body, how), version=f"{each.version}{edit.__name__}") for name, each in resources.items()}


def _moved(body, by):
    """Endpoints on other ports, as a pod that was replaced: what we render gives them a new cluster, the protocol need not."""
    assignment = ClusterLoadAssignment.FromString(body)
    for locality in assignment.endpoints:
        for each in locality.lb_endpoints:
            each.endpoint.address.socket_address.port_value += by
    return assignment.SerializeToString(deterministic=True)


def _cluster_over(body, source):
    cluster = Cluster.FromString(body)
    if cluster.HasField("eds_cluster_config"):
        cluster.eds_cluster_config.eds_config.CopyFrom(source)
    return cluster.SerializeToString(deterministic=True)


def _listener_over(body, source):
    listener = ListenerMessage.FromString(body)
    for chain in listener.filter_chains:
        for each in chain.filters:
            manager = HttpConnectionManager()
            assert each.typed_config.Unpack(manager)
            manager.rds.config_source.CopyFrom(source)
            each.typed_config.Pack(manager, deterministic=True)
    return listener.SerializeToString(deterministic=True)


def _words(value):
    """A runtime value. Envoy prints a struct in any order, with marks and blanks that differ by process on purpose."""
    return sorted(word for word in value.split() if not word.startswith("goo.gle/"))


def _plain(value, port):
    match value:
        case dict():
            kept = {key: each for key, each in value.items() if key not in VOLATILE}
            return {key: "ours" if key in SOURCES else _ordered(key, _plain(each, port)) for key, each in kept.items()}
        case list():
            return [_plain(each, port) for each in value]
        case _:
            return "PORT" if value == port else value


def _ordered(key, value):
    """Envoy's own lists come in any order; those within a resource mean something by theirs."""
    free = key.startswith("dynamic_") or key in {"clusters", "host_statuses"}
    return sorted(value, key=lambda each: json.dumps(each, sort_keys=True)) if free and isinstance(value, list) else value


def _difference(one, other):
    lines = [json.dumps(each, sort_keys=True, indent=1).splitlines() for each in (other, one)]
    return "\n".join(difflib.unified_diff(*lines, lineterm="", n=2))[:4000]


def _named(has, kind, lists, inner, key):
    """Names of all resources of one section of a dump."""
    [section] = [each for each in has["dump"] if each["@type"].endswith(f".{kind}")]
    return {each[inner][key] for place in lists for each in section.get(place, ())}


def _agrees_with(has, snapshot):
    """A dump that is equal everywhere could be equally wrong: it has what was published, and only that."""
    clusters = _named(has, "ClustersConfigDump", ("dynamic_active_clusters", "dynamic_warming_clusters"), "cluster", "name")
    routes = _named(has, "RoutesConfigDump", ("dynamic_route_configs",), "route_config", "name")
    endpoints = _named(has, "EndpointsConfigDump", ("dynamic_endpoint_configs",), "endpoint_config", "cluster_name")
    fallbacks = {name for name in clusters if name.endswith("+fallback")}  # clusters of clusters: listed without endpoints of their own
    hosts = {
        host["address"]["socket_address"]["port_value"]
        for status in has["clusters"]
        if status["name"] in endpoints
        for host in status.get("host_statuses", ())
    }
    wanted = tuple(set(snapshot.of(url)) for url in (CDS, RDS, EDS))
    return (clusters, routes, endpoints - fallbacks) == wanted and hosts == _ports(snapshot)


def _ports(snapshot):
    assignments = [ClusterLoadAssignment.FromString(each.body) for each in snapshot.of(EDS).values()]
    found = [each.endpoint for one in assignments for locality in one.endpoints for each in locality.lb_endpoints]
    return {each.address.socket_address.port_value for each in found}


@pytest.mark.rule("P15", "P16", "S1")
async def test_four_forms_of_the_protocol_give_the_same_configuration_at_every_step(tmp_path):
    events = []
    hub = AdsHub(select=lambda node: node.id, events=events.append, clock=asyncio.get_running_loop().time)
    hub.ready()
    transport = Transport(hub.methods())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(transport.stop, 0.0)
        xds_port = await transport.serve("127.0.0.1:0")
        told = [Told(form, tmp_path, xds_port) for form in FORMS]
        for serial, (what, chapter) in enumerate(STORY.items(), start=1):
            snapshots = {each.form: each.snapshot(serial, chapter) for each in told}
            for form, snapshot in snapshots.items():
                hub.publish(form, snapshot)
            if serial == 1:
                async with asyncio.TaskGroup() as tasks:
                    for each in told:
                        tasks.create_task(stack.enter_async_context(each.envoy))
            for form in snapshots:
                await until(lambda form=form, serial=serial: _answered(hub.sync_state(form, serial)), f"{form} to accept: {what}")
            assert not [event for event in events if isinstance(event, Nacked)]
            has = {each.form: await each.shows(snapshots[each.form], what) for each in told}
            for each in told:
                gave_up = await each.envoy.stats("^cluster.*(init_fetch_timeout|assignment_use_cached)$")
                assert not sum(gave_up.values()), f"{each.form} waited in vain for endpoints: {what}: {gave_up}"
            first, *others = has
            for other in others:
                assert has[other] == has[first], f"{other} and {first} differ after: {what}\n{_difference(has[other], has[first])}"
        assert {each.form: _spoken(hub, each.form) for each in told} == {
            "ads-sotw": {(Form.SOTW, "ADS")},
            "ads-delta": {(Form.DELTA, "ADS")},
            "own-sotw": {(Form.SOTW, row.short) for row in TYPES},
            "own-delta": {(Form.DELTA, row.short) for row in TYPES},
        }


def _spoken(hub, key):
    return {(each.variant, each.service) for each in hub.proxies() if each.key == key}


def _answered(sync):
    return sync.rejected or (sync.selected > 0 and sync.acked == sync.selected)
