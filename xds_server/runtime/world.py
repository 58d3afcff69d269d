"""What all proxies should see: every rollout's wish and every group's listeners, and who asks for what.

A group has two views: `leased` for Envoys whose bootstrap has our runtime layers (the share is an overlay that dies with us) and `plain` for
all others (the same weights in the routes, no lease). Publishing never blocks: `AdsHub` fans out, and says what was ACKed. How a change of
structure reaches the proxies of one group is told in `group`.
"""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from pydantic import TypeAdapter

from policies.rollout import Delivery
from policies.spec.policy import ProxiesPolicy, Select
from policies.traffic import Traffic
from xds_server.core.types import RTDS
from xds_server.resources.names import LAYERS, Owner, layer_of
from xds_server.runtime.group import DOCUMENT, LEASED, PLAIN, Group, Kept, key_of, trial_key
from xds_server.services.ads import AdsHub
from xds_server.services.messages import NodeInfo
from xds_server.services.proxies import ProxyEvent, Refusal, Refused

_KEPT: TypeAdapter[dict[str, Kept]] = TypeAdapter(dict[str, Kept])


class World:
    """All groups; changes are collected and go out with `flush`, changes of structure with `advance`."""

    def __init__(self, hub: AdsHub, own: Callable[[str, Mapping[str, Owner]], None], stir: Callable[[], None] = lambda: None) -> None:
        """Args:
        own: Is told which clusters belong to a rollout and to which of its versions, for the attribution of evidence.
        stir: Is told that `note` or `advance` may have something to do.
        """
        self._hub = hub
        self._own = own
        self._stir = stir
        self._groups: dict[str, Group] = {}
        self._wishes: dict[str, Traffic] = {}
        self._changed: set[str] = set()
        self._kept: dict[str, Kept] = {}
        self._noted: tuple[tuple[tuple[str, int], ...], bytes] = ((), b"")

    def restore(self, note: bytes) -> None:
        """Takes over the `note` of an earlier process: what it had on trial is tried again and not taken for good."""
        if note:
            self._kept = _KEPT.validate_json(note)

    def note(self) -> bytes:
        """What must be remembered before a trial goes on: what the fleet has where that is not the newest."""
        at = self._revisions()
        if self._noted[0] != at:
            kept = {name: group.kept() for name, group in sorted(self._groups.items()) if group.staging.behind}
            self._noted = at, _KEPT.dump_json(kept) if kept else b""
        return self._noted[1]

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
            for key in self._groups.pop(name).snapshot_keys():
                self._hub.withdraw(key)
        for name, document in wanted.items():
            group = self._groups.get(name)
            if group is None:
                self._groups[name] = Group(document, self._hub, own=self._own, kept=self._kept.pop(name, None))
            else:
                group.edit(document)
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
        """Renders and publishes every group that changed since the last call; what needs a trial waits for `advance`."""
        if not self._changed:
            return
        changed, self._changed, before = self._changed, set(), self._noted[0]
        for name in sorted(changed & self._groups.keys()):
            self._groups[name].flush()
        if self._revisions() != before:
            self._stir()

    def advance(self) -> None:
        """Begins, widens and ends trials where it is time to."""
        for group in self._groups.values():
            if group.trying:
                group.advance()

    @property
    def trying(self) -> bool:
        """Whether `advance` is to be called again soon."""
        return any(group.trying for group in self._groups.values())

    def heard(self, event: ProxyEvent) -> None:
        """Something happened at a proxy."""
        group = None if isinstance(event, Refused) else self._groups.get(_name_of(event.key))
        if group is not None:
            group.heard(event)
            if group.trying:
                self._stir()

    def delivery(self, rollout: str) -> tuple[int, Delivery] | None:
        """(publication, what the proxies have of it), or None before its first snapshot."""
        group = self._group_of(rollout)
        return group.delivery(rollout) if group is not None else None

    def awaited(self, key: str) -> tuple[str, ...]:
        """Rollouts of a snapshot key that not all proxies had when `delivery` was last asked."""
        group = self._groups.get(_name_of(key))
        return tuple(group.awaited) if group else ()

    def rejected_listeners(self, group: str) -> str:
        """Why the listeners of a group's document are not in force, "" if they are or may yet be."""
        found = self._groups.get(group)
        return found.staging.convicted.get(DOCUMENT, "") if found is not None else ""

    def leases(self) -> dict[tuple[str, str], tuple[float, tuple[str, ...]]]:
        """(group, layer) -> (smallest ttl [s], rollouts) of every layer that holds a share, a mirror or a segment."""
        held: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}
        for group in self._groups.values():
            for rollout, wish in group.newest.items():
                if _has_shares(wish) or _has_shares(group.steady.get(rollout, wish)):
                    place = (wish.where.proxies, layer_of(rollout))
                    ttl_s, rollouts = held.get(place, (wish.lease.ttl_s, ()))
                    held[place] = (min(ttl_s, wish.lease.ttl_s), (*rollouts, rollout))
        return held

    def heartbeat(self, group: str, layer: str) -> None:
        for key in (key_of(group, LEASED), trial_key(group, LEASED)):
            self._hub.heartbeat(key, RTDS, (layer,))

    def _group_of(self, rollout: str) -> Group | None:
        wish = self._wishes.get(rollout)
        return self._groups.get(wish.where.proxies) if wish is not None else None

    def _place(self, wish: Traffic) -> None:
        group = self._groups.get(wish.where.proxies)
        if group is not None and group.place(wish):
            self._changed.add(wish.where.proxies)

    def _take_out(self, wish: Traffic) -> None:
        group = self._groups.get(wish.where.proxies)
        if group is not None and group.take_out(wish.rollout):
            self._changed.add(wish.where.proxies)

    def _revisions(self) -> tuple[tuple[str, int], ...]:
        return tuple((name, group.staging.revision) for name, group in self._groups.items())


def _name_of(key: str) -> str:
    return key.rsplit("/", 1)[0]


def _has_shares(wish: Traffic) -> bool:
    return any(arm.leased for arm in wish.arms)


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
