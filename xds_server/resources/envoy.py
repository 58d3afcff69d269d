"""What a group's Envoys are sent, rendered from every rollout's wish: pure, the same bytes for the same wishes in any order.

What one rollout contributes (`_Part`) is computed and checked once per wish; a `_View` puts the parts of all rollouts together and knows which
resources an edit touches. `render` edits the empty view; `Renderer` remembers the last one, so a changed rollout costs what it is itself.

The world is consistent if each part is: a rollout's routes lead to its own clusters only, whose names no other rollout can have. So checking
what changed checks the whole; that this is what `Snapshot.check` finds is a property test.

Neighbours: `clusters`, `routes`, `listeners`, `runtime` build the parts; `xds_server.core.snapshot` holds the result. `docs/envoy.md` says
what each part is for.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from policies.lanes import misfit
from policies.spec.policy import ProxiesPolicy
from policies.traffic import Traffic
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS, short
from xds_server.errors import BugError
from xds_server.resources import names
from xds_server.resources.clusters import NO_PODS, Pods, pods
from xds_server.resources.default import NO_ROLLOUT, default_resources, default_routes
from xds_server.resources.listeners import listener
from xds_server.resources.routes import NO_ROUTES, RolloutRoutes, RouteTable, homes, replaced, rollout_routes
from xds_server.resources.runtime import NO_OVERLAY, Overlay, layer, overlay

Edits = dict[str, dict[str, Resource | None]]
"""Type URL -> name -> the new resource, None if it is gone; every type is there, maybe empty."""


def render(proxies: ProxiesPolicy, wishes: Sequence[Traffic], *, leased: bool) -> dict[str, dict[str, Resource]]:
    """All resources of a group, from scratch.

    Args:
        wishes: One per rollout; those of other groups are left out.
        leased: The proxies have our runtime layers: shares go there, with a lifetime. Otherwise they are written into the routes, and a
            rollout that demands the lease gets none.
    Returns: Type URL -> name -> resource; every type is there, maybe empty.
    Raises: BugError: If a route or a cluster leads nowhere, two arms are the same version or do not fit beside each other, or two wishes are of
            one rollout.
    """
    by_name = {wish.rollout: wish for wish in wishes}
    parts = {rollout: _part(wish, NO_PODS, leased=leased) for rollout, wish in by_name.items() if wish.where.proxies == proxies.name}
    faults = [fault for part in parts.values() for fault in part.faults]
    if faults or len(by_name) < len(wishes):
        raise BugError("; ".join(faults) or "two wishes are of one rollout")
    _, edits = _View(proxies=proxies).edited(proxies, parts)
    return {url: {name: each for name, each in named.items() if each is not None} for url, named in edits.items()}


class Renderer:
    """Renders one group again and again. What did not change is the same object as before, and costs nothing.

    It compares wishes with those of the last good snapshot; an identical object is not looked into.
    """

    def __init__(self) -> None:
        self._last: dict[bool, tuple[_View, Snapshot]] = {}
        self._pods: dict[str, Pods] = {}
        """Of either view: what is warm does not depend on the lease."""

    def copy(self) -> "Renderer":
        """Another one that begins where this one is: a world that differs in one rollout is one rollout away."""
        other = Renderer()
        other._last, other._pods = dict(self._last), dict(self._pods)
        return other

    def snapshot(
        self, proxies: ProxiesPolicy, wishes: Mapping[str, Traffic], *, leased: bool, serial: int
    ) -> tuple[Snapshot, tuple[str, ...]]:
        """The group's world and what is wrong with it, as `render` would have it.

        Args:
            proxies: Always of the same group.
            wishes: By rollout; those of other groups are left out.
            serial: Of the new snapshot.
        Returns: The snapshot and its faults, one sentence each. One with faults is not to be published and the next is not derived from it.
        """
        view, base = self._last.get(leased, (_View(proxies=proxies), _NOTHING))
        changed = self._changed(view, proxies, wishes, leased=leased)
        view, edits = view.edited(proxies, changed)
        snapshot = base.replace(serial=serial, changed=_real(edits, base))
        faults = tuple(fault for part in changed.values() if part for fault in part.faults)
        if not faults:
            self._last[leased] = view, snapshot
        return snapshot, faults

    def _changed(self, view: "_View", proxies: ProxiesPolicy, wishes: Mapping[str, Traffic], *, leased: bool) -> dict[str, "_Part | None"]:
        """The parts that are new since a view, None for what is gone."""
        changed: dict[str, _Part | None] = dict.fromkeys(view.parts.keys() - wishes.keys())
        parts = view.parts
        for rollout in [name for name, wish in wishes.items() if (part := parts.get(name)) is None or part.wish is not wish]:
            wish, before = wishes[rollout], parts.get(rollout)
            if before is not None and before.wish == wish:
                continue
            if wish.where.proxies == proxies.name:
                part = changed[rollout] = _part(wish, self._pods.get(rollout, NO_PODS), leased=leased)
                self._pods[rollout] = part.pods
            elif before is not None:
                changed[rollout] = None
        for gone in self._pods.keys() - wishes.keys():
            del self._pods[gone]
        return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one rollout contributes."""

    wish: Traffic
    layer: str
    pods: Pods
    routes: RolloutRoutes
    overlay: Overlay
    faults: tuple[str, ...]

    @property
    def listener(self) -> str:
        return self.wish.where.listener


def _part(wish: Traffic, before: Pods, *, leased: bool) -> _Part:
    where = names.layer_of(wish.rollout)
    if wrong := _contradictions(wish):
        return _Part(wish=wish, layer=where, pods=NO_PODS, routes=NO_ROUTES, overlay=NO_OVERLAY, faults=wrong)
    warm, routes = pods(wish, before), rollout_routes(wish, leased=leased)
    needed = {*routes.needs, *(reference for each in warm.resources.values() for reference in each.references)}
    return _Part(
        wish=wish,
        layer=where,
        pods=warm,
        routes=routes,
        overlay=overlay(wish) if leased else NO_OVERLAY,
        faults=tuple(
            f"rollout {wish.rollout!r} needs {short(url)} {name!r}, which it does not bring"
            for url, name in sorted(needed - warm.resources.keys())
        ),
    )


def _contradictions(wish: Traffic) -> tuple[str, ...]:
    arms = [arm.variant.identity for arm in names.arms(wish)]
    twins = sorted({identity for identity in arms if arms.count(identity) > 1})
    wrong = misfit(homes(wish), wish.lane)
    return (
        *(f"two arms of rollout {wish.rollout!r} are the same version {identity!r}" for identity in twins),
        *([f"rollout {wish.rollout!r}: {wrong}"] if wrong else []),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """All parts of a group, put together: one table of routes for each listener."""

    proxies: ProxiesPolicy
    parts: Mapping[str, _Part] = field(default_factory=dict)
    tables: Mapping[str, RouteTable] = field(default_factory=dict)

    def edited(self, proxies: ProxiesPolicy, changed: Mapping[str, _Part | None]) -> "tuple[_View, Edits]":
        """The view with some parts replaced, None for what is gone, and the resources that this touches."""
        edits: Edits = {url: {} for url in (CDS, EDS, LDS, RDS, RTDS)}
        parts = replaced(self.parts, changed)
        self._edit_pods(changed, edits)
        self._edit_default(proxies, edits)
        tables = self._edit_listeners(proxies, parts, changed, edits)
        self._edit_layers(parts, changed, edits)
        return _View(proxies=proxies, parts=parts, tables=tables), edits

    def _edit_pods(self, changed: Mapping[str, _Part | None], edits: Edits) -> None:
        for rollout, part in changed.items():
            old = self.parts.get(rollout)
            before, after = old.pods.resources if old else {}, part.pods.resources if part else {}
            if before is not after:
                for type_url, name in before.keys() | after.keys():
                    edits[type_url][name] = after.get((type_url, name))

    def _edit_default(self, proxies: ProxiesPolicy, edits: Edits) -> None:
        before, after = default_resources(self.proxies), default_resources(proxies)
        for type_url, name in before.keys() | after.keys():
            edits[type_url][name] = after.get((type_url, name))

    def _edit_listeners(
        self, proxies: ProxiesPolicy, parts: Mapping[str, _Part], changed: Mapping[str, _Part | None], edits: Edits
    ) -> dict[str, RouteTable]:
        moved: defaultdict[str, dict[str, RolloutRoutes | None]] = defaultdict(dict)
        for rollout, part in changed.items():
            if rollout in self.parts:
                moved[self.parts[rollout].listener][rollout] = None
            if part is not None:
                moved[part.listener][rollout] = part.routes
        tables: dict[str, RouteTable] = {}
        default = {NO_ROLLOUT: default_routes(proxies)}
        for spec in proxies.listeners:
            name, before = names.route_config(proxies.name, spec.name), self.tables.get(spec.name)
            if before is None:
                inside = {rollout: part.routes for rollout, part in parts.items() if part.listener == spec.name}
                table = RouteTable.empty(name).edited(inside | default)
            else:
                table = before.edited(moved[spec.name] | default)
            tables[spec.name] = table
            if table is not before:
                edits[RDS][name] = table.resource
            if before is None or proxies != self.proxies:
                edits[LDS][name] = listener(proxies.name, spec)
        for gone in self.tables.keys() - tables.keys():
            name = self.tables[gone].name
            edits[LDS][name] = edits[RDS][name] = None
        return tables

    def _edit_layers(self, parts: Mapping[str, _Part], changed: Mapping[str, _Part | None], edits: Edits) -> None:
        """All layers are there from the first view on: an Envoy waits for each one its bootstrap names."""
        touched = set() if self.tables else set(names.LAYER_NAMES)
        for rollout, part in changed.items():
            before = self.parts.get(rollout)
            if (before.overlay if before else NO_OVERLAY) != (part.overlay if part else NO_OVERLAY):
                touched.add(names.layer_of(rollout))
        inside: dict[str, list[Overlay]] = {name: [] for name in sorted(touched)}
        for part in parts.values() if inside else ():
            if part.layer in inside:
                inside[part.layer].append(part.overlay)
        edits[RTDS].update({name: layer(name, overlays) for name, overlays in inside.items()})


def _real(edits: Edits, base: Snapshot) -> Edits:
    """Without the edits that put equal content in the place of the same."""
    return {url: {name: each for name, each in named.items() if base.of(url).get(name) != each} for url, named in edits.items()}


_NOTHING = Snapshot(serial=0, resources={CDS: {}, EDS: {}, LDS: {}, RDS: {}, RTDS: {}})
