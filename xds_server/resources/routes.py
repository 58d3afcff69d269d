"""Routes of one listener: which requests a rollout owns, who gets which arm, and the committed weights under the leased ones.

Committed means: all to stable. An arm's share, its mirror and whether segments reach it are runtime keys (`runtime`), which the proxy drops by
itself when we fall silent. A proxy without our runtime layers gets them written into the routes instead, unless the policy demands the lease.

A rollout has several routes for each of its matches, tried in this order: one for each segment; then, with a cookie, one for those who have it
and one for those who get it with this answer, both hashing the same text; else a single one.
Neighbours: `names`, `clusters`, `listeners`. Source: Envoy `route_components.proto`, `weighted_cluster_specifier.cc`, `hash_policy.cc`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import TypeVar

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as pb
from envoy.config.route.v3 import route_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import percent_pb2

from policies.lanes import TOTAL, Home, order, slots
from policies.spec.policy import Compare, Cookie, Fallback, HeaderMatch, Segment
from policies.traffic import Arm, Traffic
from xds_server.core.snapshot import Reference, Resource
from xds_server.core.types import CDS
from xds_server.resources import config, names
from xds_server.resources.encoding import Piece, boolean, joined, nested, pack_raw, piece, resource, seconds, uint32

ANY_HOST = "*"

HOSTS_FIELD = route_pb2.RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER
ROUTES_FIELD = pb.VirtualHost.ROUTES_FIELD_NUMBER

_order = attrgetter("order")

V = TypeVar("V")

SHADOW_HEADER = "x-crossfade-shadow"
"""Set on mirrored copies, so that a pod with side effects can tell them from users' requests."""

REQUEST_ID = "x-request-id"
"""Ours, whatever the client sent: names the user until the browser has the cookie, and becomes its value."""

OTHER_HOST_TYPE = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"

HOST_PICKS = 12
"""How often a second attempt picks again when it gets the pod that just failed: of two pods, one pick in two is the wrong one."""

RETRY_ON = {
    Fallback.CONNECT: "connect-failure,refused-stream,reset-before-request",
    Fallback.GATEWAY: "connect-failure,refused-stream,reset-before-request,reset,gateway-error",
}


@dataclass(frozen=True, slots=True)
class Route:
    """One route of one rollout, ready to be placed among the others under its host pattern.

    Attributes:
        order: Order of trial, unique under a pattern: the most conditions on headers first, then the longest prefix, then by name.
    """

    rollout: str
    order: tuple[int, int, str, int, int]
    piece: Piece


@dataclass(frozen=True, slots=True)
class RolloutRoutes:
    """Everything one rollout has in its listener's route configuration.

    Attributes:
        under: By host pattern, lower case.
        needs: Every cluster they name.
    """

    under: Mapping[str, tuple[Route, ...]]
    needs: tuple[Reference, ...]


NO_ROUTES = RolloutRoutes({}, ())


def replaced(whole: Mapping[str, V], edits: Mapping[str, V | None]) -> dict[str, V]:
    """A copy with the edits made; None takes an entry out."""
    copy = dict(whole)
    for key, value in edits.items():
        if value is None:
            copy.pop(key, None)
        else:
            copy[key] = value
    return copy


def rollout_routes(wish: Traffic, *, leased: bool) -> RolloutRoutes:
    ways = tuple(_ways(wish, leased=leased))
    under: dict[str, tuple[Route, ...]] = {}
    for place, match in enumerate(wish.where.match):
        conditions = tuple(map(_condition, match.headers))
        for turn, way in enumerate(ways):
            message = pb.Route(
                name=way.name,
                match=pb.RouteMatch(prefix=match.path_prefix, headers=(*conditions, *way.when)),
                route=way.action,
                response_headers_to_add=way.answer,
                request_body_buffer_limit=config.body_limit(wish),
            )
            rank = (-len(match.headers), -len(match.path_prefix), wish.rollout, place, turn)
            route = Route(wish.rollout, rank, nested(ROUTES_FIELD, piece(message)))
            under[match.host.lower()] = (*under.get(match.host.lower(), ()), route)
    shadows = (names.shadow_cluster(wish.rollout, arm.variant) for arm in names.arms(wish))
    return RolloutRoutes(under, tuple((CDS, cluster) for cluster in (*_slot_clusters(wish), *shadows)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """The routes of one listener in pieces: a changed rollout costs the hosts it can be reached at.

    Attributes:
        name: Of the route configuration.
        rollouts: Whose routes are here.
        patterns: Host pattern -> the routes that were asked for under it, in order of trial.
        hosts: Every host pattern as a virtual host of the serialised configuration; a dictionary, so no domain is there twice.
        order: Rollouts and hosts as the resource has them.
        resource: The whole of it.
    """

    name: str
    rollouts: Mapping[str, RolloutRoutes] = field(default_factory=dict)
    patterns: Mapping[str, tuple[Route, ...]] = field(default_factory=dict)
    hosts: Mapping[str, Piece] = field(default_factory=dict)
    order: tuple[Sequence[str], Sequence[str]] = ((), ())
    resource: Resource

    @classmethod
    def empty(cls, name: str) -> "RouteTable":
        return cls(name=name, resource=_configuration(name, (), ()))

    def edited(self, edits: Mapping[str, RolloutRoutes | None]) -> "RouteTable":
        """The table with other routes of some rollouts, None for none; itself if they are what it has already."""
        edits = {rollout: routes for rollout, routes in edits.items() if routes != self.rollouts.get(rollout)}
        if not edits:
            return self
        rollouts = replaced(self.rollouts, edits)
        rebuilt = self._rebuilt(edits)
        patterns = replaced(self.patterns, rebuilt)
        hosts = replaced(self.hosts, {host: _virtual_host(host, patterns) for host in _covered(rebuilt, patterns)})
        order = _order_of(rollouts, self.rollouts, self.order[0]), _order_of(hosts, self.hosts, self.order[1])
        resource = _configuration(self.name, map(rollouts.__getitem__, order[0]), map(hosts.__getitem__, order[1]))
        return RouteTable(name=self.name, rollouts=rollouts, patterns=patterns, hosts=hosts, order=order, resource=resource)

    def _rebuilt(self, edits: Mapping[str, RolloutRoutes | None]) -> dict[str, tuple[Route, ...] | None]:
        """The patterns that an edit adds to or takes from; None where nothing is left."""
        fresh: defaultdict[str, list[Route]] = defaultdict(list)
        for rollout, routes in edits.items():
            before = self.rollouts.get(rollout)
            for pattern in before.under if before else ():
                fresh[pattern] += ()
            for pattern, listed in routes.under.items() if routes else ():
                fresh[pattern] += listed
        rebuilt: dict[str, tuple[Route, ...] | None] = {}
        for pattern, added in fresh.items():
            stay = [route for route in self.patterns.get(pattern, ()) if route.rollout not in edits]
            rebuilt[pattern] = tuple(sorted(stay + added, key=_order)) or None
        return rebuilt


@lru_cache(maxsize=65_536)
def covering(host: str) -> tuple[str, ...]:
    """Every pattern that requests for a host (itself maybe a pattern) fall under, the most particular first: itself, `*.example.com`, `*`."""
    endings = (f"*{host[place:]}" for place, letter in enumerate(host) if letter == ".")
    return tuple(dict.fromkeys((host, *endings, ANY_HOST)))


def _covered(touched: Mapping[str, object], patterns: Mapping[str, object]) -> list[str]:
    """The hosts whose routes depend on one of the touched patterns."""
    wild = {pattern for pattern in touched if pattern.startswith("*")}
    below = (host for host in patterns if not wild.isdisjoint(covering(host))) if wild else ()
    return sorted({*touched, *below})


def _virtual_host(host: str, patterns: Mapping[str, tuple[Route, ...]]) -> Piece | None:
    """The host with all routes it can be reached by; None if nobody asks for it any longer."""
    if host not in patterns:
        return None
    head = piece(pb.VirtualHost(name=host, domains=[host]))
    routes = (route.piece for pattern in covering(host) for route in patterns.get(pattern, ()))
    return nested(HOSTS_FIELD, joined((head, *routes)))


def _order_of(names: Mapping[str, object], before: Mapping[str, object], order: Sequence[str]) -> Sequence[str]:
    """The names sorted; sorting a thousand takes longer than seeing that they are the same as before."""
    return order if names.keys() == before.keys() else sorted(names)


def _configuration(name: str, rollouts: Iterable[RolloutRoutes], hosts: Iterable[Piece]) -> Resource:
    first, last = piece(route_pb2.RouteConfiguration(name=name)), piece(route_pb2.RouteConfiguration(ignore_port_in_host_matching=True))
    needs = tuple(chain.from_iterable([routes.needs for routes in rollouts]))
    return resource(name, joined((first, *hosts, last)), references=needs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One way to be given a variant.

    Attributes:
        when: Conditions beside those of the match.
        answer: Headers added to the answers.
    """

    name: str
    when: tuple[pb.HeaderMatcher, ...] = ()
    action: pb.RouteAction
    answer: tuple[base_pb2.HeaderValueOption, ...] = ()


def _ways(wish: Traffic, *, leased: bool) -> Iterator[_Way]:
    for segment in wish.assignment.segments:
        name = names.pinned_route(wish.rollout, segment.name)
        yield _Way(name=name, when=tuple(map(_condition, segment.when)), action=_pinned(wish, segment, leased=leased))
    cookie, header = wish.assignment.cookie, wish.assignment.sticky_header
    if cookie is not None:
        known = _cookie_pattern(cookie)
        has = pb.HeaderMatcher(name="cookie", string_match=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=known)))
        by_value = _hash_policy(wish, "cookie", f"^{known}$", "\\1")
        yield _Way(name=wish.rollout, when=(has,), action=_drawn(wish, by_value, leased=leased))
        action = _drawn(wish, _hash_policy(wish, REQUEST_ID), leased=leased)
        yield _Way(name=wish.rollout, action=action, answer=(_minted(cookie),))
    else:
        yield _Way(name=wish.rollout, action=_drawn(wish, _hash_policy(wish, header) if header is not None else None, leased=leased))


def _condition(wanted: HeaderMatch) -> pb.HeaderMatcher:
    match wanted.compare:
        case Compare.PRESENT:
            return pb.HeaderMatcher(name=wanted.name, present_match=True)
        case Compare.REGEX:
            value = string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=wanted.value))
        case Compare.EXACT | Compare.PREFIX | Compare.SUFFIX | Compare.CONTAINS:
            value = string_pb2.StringMatcher(**{wanted.compare.value: wanted.value})
    return pb.HeaderMatcher(name=wanted.name, string_match=value)


def _drawn(wish: Traffic, hashed: pb.RouteAction.HashPolicy | None, *, leased: bool) -> pb.RouteAction:
    """By share."""
    weights = committed_weights(wish, leased=leased)
    action = _action(wish, _weighted(weights, names.weight_prefix(wish) if leased and names.arms(wish) else ""))
    if hashed is not None:
        action.weighted_clusters.use_hash_policy.CopyFrom(boolean(value=True))
        action.hash_policy.append(hashed)
    for arm in names.arms(wish):
        action.request_mirror_policies.append(_mirror(wish, arm, leased=leased))
    return action


def _pinned(wish: Traffic, segment: Segment, *, leased: bool) -> pb.RouteAction:
    """All or nothing to the arm that the segment names; to stable if there is none. Pinned requests are not copied."""
    arm = next((arm for arm in names.pinned_arms(wish) if arm.variant.name == segment.variant), None)
    if arm is None:
        return _action(wish, _weighted({names.cluster(wish.rollout, wish.stable): TOTAL}, ""))
    weights = _committed(wish, pin_weights(wish, arm), leased=leased)
    return _action(wish, _weighted(weights, names.pin_prefix(wish, arm.variant) if leased else ""))


def _action(wish: Traffic, weighted: pb.WeightedCluster) -> pb.RouteAction:
    action = pb.RouteAction(weighted_clusters=weighted, timeout=seconds(wish.where.timeout_s), idle_timeout=seconds(0.0))
    retries = RETRY_ON.get(wish.where.fallback)
    if retries is not None:
        action.retry_policy.CopyFrom(_retry_policy(retries))
    return action


def _slot_clusters(wish: Traffic) -> tuple[str, ...]:
    """The cluster of each slot; stable's real one in its first."""
    stables = iter((names.cluster(wish.rollout, wish.stable), *names.aliases(wish)))
    arms = [names.routed_cluster(wish, arm.variant) for arm in names.arms(wish)]
    return tuple(next(stables) if arm is None else arms[arm] for arm in order(len(arms), wish.lane))


def homes(wish: Traffic) -> tuple[Home, ...]:
    return tuple(Home(share_bp=arm.share_bp, reserve_bp=arm.reserve_bp) for arm in names.arms(wish))


def lane_weights(wish: Traffic) -> dict[str, int]:
    """Weight of each cluster a route names, in the order of the slots; their sum never changes."""
    return {cluster: slot.weight for cluster, slot in zip(_slot_clusters(wish), slots(homes(wish), wish.lane), strict=True)}


def pin_weights(wish: Traffic, arm: Arm) -> dict[str, int]:
    """The same for the segments that name an arm."""
    stable, other = names.cluster(wish.rollout, wish.stable), names.routed_cluster(wish, arm.variant)
    return {stable: 0, other: TOTAL} if arm.pinned else {stable: TOTAL, other: 0}


def committed_weights(wish: Traffic, *, leased: bool) -> dict[str, int]:
    """The weights that hold without us."""
    return _committed(wish, lane_weights(wish), leased=leased)


def _committed(wish: Traffic, weights: dict[str, int], *, leased: bool) -> dict[str, int]:
    """All to stable; only a proxy that cannot lease gets the shares themselves."""
    if leased or wish.lease.required:
        return {cluster: TOTAL if cluster == names.cluster(wish.rollout, wish.stable) else 0 for cluster in weights}
    return weights


def _weighted(weights: Mapping[str, int], key_prefix: str) -> pb.WeightedCluster:
    return pb.WeightedCluster(
        clusters=[pb.WeightedCluster.ClusterWeight(name=cluster, weight=uint32(weight)) for cluster, weight in weights.items()],
        runtime_key_prefix=key_prefix,
    )


def _hash_policy(wish: Traffic, header: str, pattern: str = "$", found: str = "") -> pb.RouteAction.HashPolicy:
    """Hash of a header's value, or of what a pattern takes out of it, with the salt behind it; without the header the pick is random."""
    ending = f"#{names.salt(wish.rollout, wish.assignment)}".replace("\\", "\\\\")
    rewrite = regex_pb2.RegexMatchAndSubstitute(pattern=regex_pb2.RegexMatcher(regex=pattern), substitution=found + ending)
    return pb.RouteAction.HashPolicy(header=pb.RouteAction.HashPolicy.Header(header_name=header, regex_rewrite=rewrite))


def _cookie_pattern(cookie: Cookie) -> str:
    """The whole of a `cookie` header that has it, the first value as the group. Any bytes may stand around it: others' cookies may be no UTF-8."""
    return rf"(?:\C*?; *)??{re.escape(cookie.name)}=([^;]+)\C*"


def _minted(cookie: Cookie) -> base_pb2.HeaderValueOption:
    name = cookie.name.replace("%", "%%")
    value = f"{name}=%REQ({REQUEST_ID})%; Path=/; Max-Age={round(cookie.ttl_s)}; HttpOnly; SameSite=Lax"
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key="set-cookie", value=value), append_action=base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
    )


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
        host_selection_retry_max_attempts=HOST_PICKS,
        retry_back_off=pb.RetryPolicy.RetryBackOff(base_interval=seconds(0.001), max_interval=seconds(0.005)),
    )
