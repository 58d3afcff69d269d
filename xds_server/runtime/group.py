"""One group of proxies: its rollouts' wishes as all of them see them, and as those see them that try a change of structure.

The steady world has, of every rollout, the structure that was accepted with the newest shares; the trial world has the newest structure of
what is on trial beside it. `core.staging` says who sees which; here its answers become snapshots and moves. A group has two views, for proxies
with and without our runtime layers, and both count as one group. Neighbours: `world` has all groups, `structure` says what needs a trial.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from policies.rollout import Delivery
from policies.spec.policy import ProxiesPolicy
from policies.traffic import Traffic
from xds_server.core.staging import Staging
from xds_server.core.types import CDS, EDS, LDS, short
from xds_server.resources.envoy import Renderer
from xds_server.resources.names import Owner, owners
from xds_server.runtime.structure import adds_nothing, structure, with_shares
from xds_server.services.ads import AdsHub
from xds_server.services.proxies import Acked, Disconnected, Member, Nacked, ProxyEvent, Refused

log = structlog.get_logger()

LEASED, PLAIN = "leased", "plain"
VIEWS = (LEASED, PLAIN)

DOCUMENT: Final = ""
"""The part of a trial that is the group's own document: its listeners. No rollout has this name."""

RETURN_S: Final = 5.0
"""How long a proxy that comes back from a failed trial may take to be steady again before it is no longer excused [s]."""

_NOBODY: Final[frozenset[str]] = frozenset()


def key_of(group: str, view: str) -> str:
    """The snapshot key of one view of a group."""
    return f"{group}/{view}"


def trial_key(group: str, view: str) -> str:
    return f"{group}/{view}/trial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the fleet of a group has where that is not the newest, for the case that this process dies.

    Attributes:
        document: The accepted one; None if it is the newest.
        wishes: Rollout -> its accepted wish; None for a rollout that no proxy but those on trial has seen.
    """

    document: ProxiesPolicy | None = None
    wishes: dict[str, Traffic | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Since:
    """The first snapshot with a rollout's publication."""

    publication: int
    serial: int


class Group:
    """One `kind: Proxies` document and the rollouts behind its listeners.

    Attributes:
        proxies: The newest document: who belongs to the group. Its listeners may be on trial.
        newest, steady: Rollout -> what is wanted, and what all proxies are shown.
        awaited: Rollouts that not all proxies had when `delivery` was last asked.
    """

    def __init__(
        self,
        proxies: ProxiesPolicy,
        hub: AdsHub,
        *,
        own: Callable[[str, Mapping[str, Owner]], None],
        kept: Kept | None = None,
        staging: Staging | None = None,
    ) -> None:
        self._hub = hub
        self._own = own
        self._kept = kept or Kept()
        self.proxies = proxies
        self.newest: dict[str, Traffic] = {}
        self.steady: dict[str, Traffic] = {}
        self.staging = staging or Staging()
        self._document = self._kept.document or proxies
        self._tokens: dict[str, tuple[Traffic, int]] = {}
        self._behind: set[str] = set()
        self._convicted: dict[str, str] = {}
        self._revision = -1
        self._serial = 0
        self._trial_serial = 0
        self._trial_parts = _NOBODY
        self._out = _NOBODY
        self._returning: dict[str, float] = {}
        self._guinea_pig = ""
        self._dirty = True
        self._fresh: set[str] = set()
        self._since: dict[str, _Since] = {}
        self.awaited: set[str] = set()
        self._steady_renderer = Renderer()
        self._trial_renderer = self._steady_renderer
        self._homes = tuple(key_of(proxies.name, view) for view in VIEWS)
        self._trials = tuple(trial_key(proxies.name, view) for view in VIEWS)
        if self._kept.document is not None:
            self.staging.restore(DOCUMENT, self._document.listeners)
        else:
            self.staging.accept(DOCUMENT, self._document.listeners)
        self.staging.propose(DOCUMENT, proxies.listeners)
        self._show(DOCUMENT)

    # What is wanted.

    def edit(self, proxies: ProxiesPolicy) -> None:
        """The group's document changed."""
        if proxies != self.proxies:
            self.proxies = proxies
            self.staging.propose(DOCUMENT, proxies.listeners)
            self._show(DOCUMENT)

    def place(self, wish: Traffic) -> bool:
        """Takes over a rollout's newest wish; says whether that changed anything."""
        rollout, old = wish.rollout, self.newest.get(wish.rollout)
        if old == wish:
            return False
        if rollout in self._kept.wishes:
            self._restore(rollout, self._kept.wishes.pop(rollout))
        token = self._token(wish, old)
        self.newest[rollout] = wish
        steady = self.steady.get(rollout)
        if steady is not None and adds_nothing(steady, wish):
            self.staging.accept(rollout, token)
        else:
            self.staging.propose(rollout, token)
        self._show(rollout)
        return True

    def take_out(self, rollout: str) -> bool:
        if self.newest.pop(rollout, None) is None:
            return False
        self.staging.withdraw(rollout)
        self.steady.pop(rollout, None)
        self._since.pop(rollout, None)
        self._tokens.pop(rollout, None)
        self._own(rollout, {})
        self._fresh.discard(rollout)
        self.awaited.discard(rollout)
        self._behind.discard(rollout)
        self._dirty = True
        return True

    def _restore(self, rollout: str, steady: Traffic | None) -> None:
        token: Hashable = None
        if steady is not None:
            self.steady[rollout] = steady
            token = self._tokens[rollout] = (structure(steady), 0)
        self.staging.restore(rollout, token)

    def _token(self, wish: Traffic, old: Traffic | None) -> tuple[Traffic, int]:
        """Names a structure; published again word for word, what was convicted is a new attempt."""
        shape, (known, attempt) = structure(wish), self._tokens.get(wish.rollout, (None, 0))
        if shape == known:
            again = old is not None and wish.rollout in self.staging.convicted and replace(wish, publication=old.publication) == old
            token = (known, attempt + again)
        else:
            token = (shape, attempt + 1)
        self._tokens[wish.rollout] = token
        return token

    def _show(self, part: str) -> None:
        """What the fleet sees of a part from now on."""
        behind = part in self.staging.behind
        (self._behind.add if behind else self._behind.discard)(part)
        self._dirty = True
        if part == DOCUMENT:
            self._document = self._document if behind else self.proxies
            return
        newest = self.newest[part]
        self._fresh.add(part)
        self.awaited.add(part)
        if not behind:
            self.steady[part] = newest
        elif part in self.steady:
            self.steady[part] = with_shares(self.steady[part], newest)

    # What proxies do.

    def heard(self, event: ProxyEvent) -> None:
        """Something happened at a proxy of this group."""
        trial = self.staging.trial
        if isinstance(event, Refused) or trial is None or event.node_id not in trial.nodes:
            return
        match event:
            case Acked(node_id=node, world=world, serial=serial) if self._on_trial(world) and serial >= self._trial_serial:
                self.staging.acked(node)
            case Nacked(node_id=node) if self._on_trial(event.world):
                words = f"{node} rejects {short(event.type_url)}: {event.message}"
                self.staging.rejected(node, words, self._suspects(event, trial.parts))
                self._carry_out()
            case Disconnected(node_id=node):
                self.staging.lost(node)
                self._carry_out()

    def _on_trial(self, world: str) -> bool:
        return world in self._trials

    def _suspects(self, event: Nacked, parts: frozenset[str]) -> set[str]:
        """Parts that what was rejected belongs to: as far as the proxy's words tell, else as far as the message does."""
        if event.type_url == LDS:
            return {DOCUMENT}
        clusters = {part: owners((self.newest[part],)).keys() for part in parts if part != DOCUMENT}
        told = {part for part, found in clusters.items() if any(name in event.message for name in found)}
        if told or event.type_url not in {CDS, EDS}:
            return told
        return {part for part, found in clusters.items() if not found.isdisjoint(event.resources)}

    # What goes out.

    @property
    def trying(self) -> bool:
        """Whether `advance` has something to do."""
        return self.staging.trial is not None or bool(self.staging.pending) or bool(self._returning)

    def flush(self) -> None:
        """Publishes what changed since the last call, except what needs a trial: that waits for `advance`."""
        if self.staging.pending:
            self.staging.straight(len({member.node_id for member in self._members()}))
        self._carry_out()

    def advance(self) -> None:
        """Begins, widens or ends a trial where it is time to."""
        now, members = self._hub.clock(), self._members()
        unfit = {member.node_id for member in members if member.words or not member.settled}
        since: dict[str, float] = {}
        for member in members:
            since[member.node_id] = min(member.connected_since, since.get(member.node_id, member.connected_since))
            if member.settled and self._on_trial(member.world):
                self.staging.acked(member.node_id)
        self._returning = {node: until for node, until in self._returning.items() if node in unfit and now < until}
        if self.staging.trial is not None or not self._returning:
            order = sorted(since, key=lambda node: (node in unfit, node != self._guinea_pig, since[node], node))
            self.staging.advance(order, now=now)
        self._carry_out()

    def _carry_out(self) -> None:
        """Makes what the proxies see that what `staging` says: both worlds are published first, so that serials grow on every stream."""
        self._take_over()
        trial = self.staging.trial
        nodes = frozenset(trial.nodes) if trial is not None else _NOBODY
        parts = trial.parts if trial is not None else _NOBODY
        back, dirty = self._out - nodes, self._dirty
        if dirty or back:
            self._publish_steady()
        changed = parts != self._trial_parts or not nodes <= self._out
        if nodes and (dirty or changed):
            faults = self._publish_trial(parts)
            if faults:
                self.staging.failed(f"it cannot be rendered: {faults[0]}")
                self._carry_out()
                return
            if changed:  # what was ACKed before this is no answer to it
                self._trial_parts, self._trial_serial = parts, self._serial
        self._move(nodes, back)

    def _take_over(self) -> None:
        """What was accepted since the last time is everybody's now."""
        if self.staging.revision == self._revision:
            return
        self._revision = self.staging.revision
        for part in self._behind - self.staging.behind:
            self._show(part)
        for part in self.staging.convicted.keys() - self._convicted.keys():
            log.warning("trial.convicted", group=self.proxies.name, part=part or "listeners", words=self.staging.convicted[part])
        self._convicted = dict(self.staging.convicted)

    def _publish_steady(self) -> None:
        self._dirty = False
        for rollout in self._fresh:
            wishes = (self.steady.get(rollout), self.newest[rollout])
            self._own(rollout, owners(wish for wish in wishes if wish is not None))
        if self._publish(self._steady_renderer, self._document, self.steady, self._homes):
            return
        for rollout in self._fresh:
            self._since[rollout] = _Since(publication=self.newest[rollout].publication, serial=self._serial)
        self._fresh.clear()

    def _publish_trial(self, parts: frozenset[str]) -> tuple[str, ...]:
        if not self._out:
            self._trial_renderer = self._steady_renderer.copy()
        wishes = self.steady | {part: self.newest[part] for part in parts if part != DOCUMENT}
        return self._publish(self._trial_renderer, self.proxies if DOCUMENT in parts else self._document, wishes, self._trials)

    def _publish(
        self, renderer: Renderer, document: ProxiesPolicy, wishes: Mapping[str, Traffic], keys: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Publishes a world, one view after the other: what can be wrong with it is found in the first. Returns what is wrong."""
        self._serial += 1
        views = sorted(zip(keys, VIEWS, strict=True), key=lambda each: -self._hub.sync_state(each[0], 0).selected)
        for key, view in views:  # the one that most proxies wait for first
            snapshot, faults = renderer.snapshot(document, wishes, leased=view == LEASED, serial=self._serial)
            if faults:
                log.error("snapshot.inconsistent", group=self.proxies.name, faults=faults[:5])
                return faults
            self._hub.publish(key, snapshot)
        return ()

    def _move(self, nodes: frozenset[str], back: frozenset[str]) -> None:
        fresh, self._out = nodes - self._out, nodes
        if not nodes:
            self._trial_parts = _NOBODY
        if not fresh and not back:
            return
        for home, trial in zip(self._homes, self._trials, strict=True):
            self._hub.assign(home, fresh, trial)
            self._hub.assign(home, back, home)
        self._returning |= dict.fromkeys(back, self._hub.clock() + RETURN_S)
        if fresh:
            if self._guinea_pig not in nodes:
                self._guinea_pig = min(fresh)
            log.info("trial.widened", group=self.proxies.name, proxies=len(nodes), changes=len(self._trial_parts))

    # How far it is.

    def delivery(self, rollout: str) -> tuple[int, Delivery] | None:
        """(publication, what the proxies have of it), or None before its first snapshot."""
        since = self._since.get(rollout)
        if since is None:
            return None
        found = self._delivery(rollout, since.serial)
        (self.awaited.discard if found.complete else self.awaited.add)(rollout)
        return since.publication, found

    def _delivery(self, rollout: str, serial: int) -> Delivery:
        selected = acked = 0
        for key in (*self._homes, *self._trials) if self._out else self._homes:
            synced = self._hub.sync_state(key, serial)
            selected, acked = selected + synced.selected, acked + synced.acked
        trial = self.staging.trial
        if rollout in self.staging.convicted:
            # Its shares are in force all the same, in the structure that the proxies have.
            return Delivery(selected=selected, acked=acked, rejected=1, words=self.staging.convicted[rollout])
        if trial is not None and rollout in trial.parts:
            words = f"configuration on trial at {len(trial.nodes)} of {selected} {'proxy' if selected == 1 else 'proxies'}"
            return Delivery(selected=selected, acked=max(0, min(len(trial.acked), selected - 1)), words=words)
        if rollout in self.staging.pending:
            return Delivery(selected=selected, words="configuration waits for its trial")
        if acked >= selected:  # whatever a proxy still rejects came after this rollout's wish and is another's
            return Delivery(selected=selected, acked=acked)
        excused = self._out | self._returning.keys()
        rejecting = [member for member in self._members() if member.words and member.node_id not in excused]
        return Delivery(selected=selected, acked=acked, rejected=len(rejecting), words=rejecting[0].words if rejecting else "")

    def kept(self) -> Kept:
        """What must be remembered before a trial begins."""
        document = self._document if DOCUMENT in self.staging.behind else None
        wishes = {rollout: self.steady.get(rollout) for rollout in sorted(self.staging.behind) if rollout != DOCUMENT}
        return Kept(document=document, wishes=wishes)

    def snapshot_keys(self) -> tuple[str, ...]:
        return (*self._trials, *self._homes)

    def _members(self) -> tuple[Member, ...]:
        return tuple(member for home in self._homes for member in self._hub.members(home))
