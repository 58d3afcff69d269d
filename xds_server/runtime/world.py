"""What all proxies should see: every rollout's wish and every group's listeners, rendered into one snapshot per group.

A group has two views: `leased` for Envoys whose bootstrap has our runtime layers (the share is an overlay that dies with us) and `plain` for
all others (the same weights in the routes, no lease). Publishing never blocks: `AdsHub` fans out, and says what was ACKed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from policies.rollout import Delivery
from policies.spec.policy import ProxiesPolicy, Select
from policies.traffic import Traffic
from xds_server.core.snapshot import Snapshot
from xds_server.core.types import RTDS
from xds_server.resources.envoy import render
from xds_server.resources.names import LAYERS, Owner, layer_of, owners
from xds_server.services.ads import AdsHub, NodeInfo, Refusal

LEASED, PLAIN = "leased", "plain"
VIEWS = (LEASED, PLAIN)


def key_of(group: str, view: str) -> str:
    """The snapshot key of one view of a group."""
    return f"{group}/{view}"


@dataclass(slots=True)
class _Group:
    proxies: ProxiesPolicy
    serial: int = 0
    wishes: dict[str, Traffic] = field(default_factory=dict)
    since: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    """Rollout -> (its publication, the first serial that has it, when that was published)."""


class World:
    """All groups; changes are collected and go out with `flush`."""

    def __init__(self, hub: AdsHub, own: Callable[[Mapping[str, Owner]], None], complain: Callable[[str, tuple[str, ...]], None]) -> None:
        """Args:
        own: Is told which cluster belongs to which rollout and version, for the attribution of evidence.
        complain: Is told the group and the faults of a snapshot that was not published.
        """
        self._hub = hub
        self._own = own
        self._complain = complain
        self._groups: dict[str, _Group] = {}
        self._wishes: dict[str, Traffic] = {}
        self._changed: set[str] = set()

    def select(self, node: NodeInfo) -> str | Refusal:
        """The snapshot key for a proxy, or why there is none."""
        for name, group in sorted(self._groups.items()):
            if _selects(group.proxies.select, node):
                return key_of(name, LEASED if _has_layers(node) else PLAIN)
        known = ", ".join(sorted(self._groups)) or "none"
        return Refusal(
            message=f"no Proxies document selects node {node.id!r} of cluster {node.cluster!r} (known groups: {known}); "
            "hint: add one whose `select` matches, or start this Envoy with the output of `crossfade bootstrap`"
        )

    def set_proxies(self, documents: Iterable[ProxiesPolicy]) -> None:
        wanted = {document.name: document for document in documents}
        for name in self._groups.keys() - wanted.keys():
            del self._groups[name]
            for view in VIEWS:
                self._hub.withdraw(key_of(name, view))
        for name, document in wanted.items():
            group = self._groups.setdefault(name, _Group(proxies=document))
            if group.serial == 0 or group.proxies != document:
                group.proxies = document
                self._changed.add(name)
        for wish in self._wishes.values():
            self._place(wish)
        self._hub.reselect()

    def publish(self, wish: Traffic) -> None:
        old = self._wishes.get(wish.rollout)
        if old is not None and old.where.proxies != wish.where.proxies:
            self._take_out(old)
        self._wishes[wish.rollout] = wish
        self._place(wish)

    def withdraw(self, rollout: str) -> None:
        wish = self._wishes.pop(rollout, None)
        if wish is not None:
            self._take_out(wish)

    def wish(self, rollout: str) -> Traffic | None:
        return self._wishes.get(rollout)

    def flush(self) -> None:
        """Renders and publishes every group that changed since the last call."""
        if not self._changed:
            return
        changed, self._changed = self._changed, set()
        self._own(owners(tuple(self._wishes.values())))
        for name in sorted(changed & self._groups.keys()):
            self._render(name, self._groups[name])

    def delivery(self, rollout: str) -> tuple[int, Delivery] | None:
        """(publication, what the proxies have of it), or None before its first snapshot."""
        wish = self._wishes.get(rollout)
        group = self._groups.get(wish.where.proxies) if wish else None
        if group is None or rollout not in group.since:
            return None
        publication, serial, _ = group.since[rollout]
        views = [self._hub.sync_state(key_of(group.proxies.name, view), serial) for view in VIEWS]
        selected, acked = sum(view.selected for view in views), sum(view.acked for view in views)
        if acked >= selected:  # whatever a proxy still rejects came after this rollout's wish and is another's
            return publication, Delivery(selected=selected, acked=acked)
        return publication, Delivery(
            selected=selected,
            acked=acked,
            rejected=sum(view.rejected for view in views),
            words=next((view.words for view in views if view.words), ""),
        )

    def published_at(self, rollout: str) -> float | None:
        """When the rollout's current publication was sent [s since the epoch]."""
        wish = self._wishes.get(rollout)
        group = self._groups.get(wish.where.proxies) if wish else None
        return group.since[rollout][2] if group is not None and rollout in group.since else None

    def rollouts_of(self, key: str) -> tuple[str, ...]:
        group = self._groups.get(key.rsplit("/", 1)[0])
        return tuple(group.wishes) if group else ()

    def leases(self) -> dict[tuple[str, str], tuple[float, tuple[str, ...]]]:
        """(group, layer) -> (smallest ttl [s], rollouts) of every layer that holds a share or a mirror."""
        held: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}
        for wish in self._wishes.values():
            if any(arm.share_bp or arm.shadow_bp for arm in wish.arms):
                place = (wish.where.proxies, layer_of(wish.rollout))
                ttl_s, rollouts = held.get(place, (wish.lease.ttl_s, ()))
                held[place] = (min(ttl_s, wish.lease.ttl_s), (*rollouts, wish.rollout))
        return held

    def heartbeat(self, group: str, layer: str) -> None:
        self._hub.heartbeat(key_of(group, LEASED), RTDS, (layer,))

    def _place(self, wish: Traffic) -> None:
        group = self._groups.get(wish.where.proxies)
        if group is not None and group.wishes.get(wish.rollout) != wish:
            group.wishes[wish.rollout] = wish
            self._changed.add(wish.where.proxies)

    def _take_out(self, wish: Traffic) -> None:
        group = self._groups.get(wish.where.proxies)
        if group is not None and group.wishes.pop(wish.rollout, None) is not None:
            group.since.pop(wish.rollout, None)
            self._changed.add(wish.where.proxies)

    def _render(self, name: str, group: _Group) -> None:
        group.serial += 1
        wishes = tuple(group.wishes[rollout] for rollout in sorted(group.wishes))
        for view in VIEWS:
            snapshot = Snapshot(serial=group.serial, resources=render(group.proxies, wishes, leased=view == LEASED))
            faults = snapshot.check()
            if faults:
                self._complain(name, faults)
                return
            self._hub.publish(key_of(name, view), snapshot)
        for wish in wishes:
            if group.since.get(wish.rollout, (-1, 0, 0.0))[0] != wish.publication:
                group.since[wish.rollout] = (wish.publication, group.serial, self._hub.clock())


def _has_layers(node: NodeInfo) -> bool:
    ours = node.metadata.get("crossfade")
    # Envoy reads `16.0` in a YAML bootstrap as text, in a JSON one as a number.
    return isinstance(ours, dict) and str(ours.get("layers", "")).removesuffix(".0") == str(LAYERS)


def _selects(select: Select, node: NodeInfo) -> bool:
    if select.cluster is not None and node.cluster != select.cluster:
        return False
    if select.node_id is not None and not fnmatchcase(node.id, select.node_id):
        return False
    return all(_at(node.metadata, path) == wanted for path, wanted in select.metadata)


def _at(metadata: Mapping[str, object], path: str) -> str | None:
    value: object = metadata
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else str(value)
