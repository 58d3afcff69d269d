"""Routes of one listener: which requests a rollout owns, and the committed weights under the leased ones.

Committed means: all to stable. The candidate's share and mirror are runtime keys (`runtime`), which the proxy drops by itself when we fall
silent. A proxy without our runtime layers gets the shares written into the routes instead, unless the policy demands the lease.
Neighbours: `names`, `clusters`, `listeners`. Source: Envoy `route_components.proto`, `weighted_cluster_specifier.cc`, `hash_policy.cc`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as pb
from envoy.config.route.v3 import route_pb2
from envoy.type.matcher.v3 import regex_pb2
from envoy.type.v3 import percent_pb2

from policies.spec.policy import Fallback, Match
from policies.traffic import Arm, Traffic
from policies.weights import TOTAL, weights
from xds_server.core.snapshot import Resource
from xds_server.core.types import CDS
from xds_server.resources import names
from xds_server.resources.encoding import boolean, pack_raw, resource, seconds, uint32

ANY_HOST = "*"

SHADOW_HEADER = "x-crossfade-shadow"
"""Set on mirrored copies, so that a pod with side effects can tell them from users' requests."""

OTHER_HOST_TYPE = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"

RETRY_ON = {
    Fallback.CONNECT: "connect-failure,refused-stream,reset-before-request",
    Fallback.GATEWAY: "connect-failure,refused-stream,reset-before-request,reset,gateway-error",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """One match of one rollout."""

    match: Match
    wish: Traffic

    @property
    def host(self) -> str:
        return self.match.host.lower()


def route_configuration(name: str, wishes: Sequence[Traffic], *, leased: bool) -> Resource:
    """The routes of one listener, the same whatever the order of the wishes."""
    places = [_Place(match, wish) for wish in wishes for match in wish.where.match]
    message = route_pb2.RouteConfiguration(name=name, ignore_port_in_host_matching=True)
    needed: set[str] = set()
    for host in sorted({place.host for place in places}):
        reachable = sorted((place for place in places if covers(place.host, host)), key=_precedence)
        virtual = message.virtual_hosts.add(name=host, domains=[host])
        for place in reachable:
            virtual.routes.append(_route(place, leased=leased))
    for wish in wishes:
        needed |= set(_lanes(wish))
        needed |= {names.shadow_cluster(wish.rollout, arm.variant) for arm in names.arms(wish)}
    return resource(name, message, references=tuple((CDS, cluster) for cluster in sorted(needed)))


def covers(pattern: str, host: str) -> bool:
    """Whether requests for `host` (itself maybe a pattern) fall under a pattern: `*`, `*.example.com` or the same."""
    return pattern in {ANY_HOST, host} or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _precedence(place: _Place) -> tuple[bool, bool, int, int, str]:
    """Order of trial: the most particular host, then the longest prefix, then the name."""
    host = place.host
    return host == ANY_HOST, host.startswith("*"), -len(host), -len(place.match.path_prefix), place.wish.rollout


def _route(place: _Place, *, leased: bool) -> pb.Route:
    wish = place.wish
    action = pb.RouteAction(
        weighted_clusters=_weighted(wish, leased=leased),
        timeout=seconds(wish.where.timeout_s),
        idle_timeout=seconds(0.0),
    )
    if wish.assignment.sticky_header is not None:
        action.hash_policy.append(_hash_policy(wish, wish.assignment.sticky_header))
    for arm in names.arms(wish):
        action.request_mirror_policies.append(_mirror(wish, arm, leased=leased))
    retries = RETRY_ON.get(wish.where.fallback)
    if retries is not None:
        action.retry_policy.CopyFrom(_retry_policy(retries))
    return pb.Route(name=wish.rollout, match=pb.RouteMatch(prefix=place.match.path_prefix), route=action)


def _lanes(wish: Traffic) -> tuple[str, ...]:
    return (names.cluster(wish.rollout, wish.stable), *(names.routed_cluster(wish, arm.variant) for arm in names.arms(wish)))


def lane_weights(wish: Traffic) -> dict[str, int]:
    """Weight of each cluster a route names, stable first; their sum never changes."""
    parts = weights({arm.variant.identity: arm.share_bp for arm in names.arms(wish)})
    return dict(zip(_lanes(wish), parts.values(), strict=True))


def committed_weights(wish: Traffic, *, leased: bool) -> dict[str, int]:
    """The weights that hold without us: all to stable; only a proxy that cannot lease gets the shares themselves."""
    if leased or wish.lease.required:
        return {cluster: 0 if place else TOTAL for place, cluster in enumerate(_lanes(wish))}
    return lane_weights(wish)


def _weighted(wish: Traffic, *, leased: bool) -> pb.WeightedCluster:
    sticky = wish.assignment.sticky_header is not None
    return pb.WeightedCluster(
        clusters=[
            pb.WeightedCluster.ClusterWeight(name=cluster, weight=uint32(weight))
            for cluster, weight in committed_weights(wish, leased=leased).items()
        ],
        runtime_key_prefix=names.weight_prefix(wish) if leased and names.arms(wish) else "",
        use_hash_policy=boolean(value=True) if sticky else None,
    )


def _hash_policy(wish: Traffic, header: str) -> pb.RouteAction.HashPolicy:
    """Hash of the header's value with the salt behind it; without the header the pick is random."""
    ending = f"#{names.salt(wish.rollout, wish.assignment)}".replace("\\", "\\\\")
    rewrite = regex_pb2.RegexMatchAndSubstitute(pattern=regex_pb2.RegexMatcher(regex="$"), substitution=ending)
    return pb.RouteAction.HashPolicy(header=pb.RouteAction.HashPolicy.Header(header_name=header, regex_rewrite=rewrite))


def _mirror(wish: Traffic, arm: Arm, *, leased: bool) -> pb.RouteAction.RequestMirrorPolicy:
    committed = 0 if leased or wish.lease.required else arm.shadow_bp
    share = base_pb2.RuntimeFractionalPercent(
        default_value=percent_pb2.FractionalPercent(numerator=committed, denominator=percent_pb2.FractionalPercent.TEN_THOUSAND),
        runtime_key=names.mirror_key(wish, arm.variant) if leased else "",
    )
    policy = pb.RouteAction.RequestMirrorPolicy(cluster=names.shadow_cluster(wish.rollout, arm.variant), runtime_fraction=share)
    mutation = policy.request_headers_mutations.add()
    mutation.append.header.key = SHADOW_HEADER
    mutation.append.header.value = wish.rollout
    mutation.append.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return policy


def _retry_policy(retry_on: str) -> pb.RetryPolicy:
    """One more try, at once, on another host; behind a composite cluster that is stable."""
    return pb.RetryPolicy(
        retry_on=retry_on,
        num_retries=uint32(1),
        retry_host_predicate=[
            pb.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=pack_raw(OTHER_HOST_TYPE, b"")
            )
        ],
        host_selection_retry_max_attempts=3,
        retry_back_off=pb.RetryPolicy.RetryBackOff(base_interval=seconds(0.001), max_interval=seconds(0.005)),
    )
