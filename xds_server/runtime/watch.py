"""What is looked at outside for every rollout and told to the engine: pods, probes, freeze windows, the source of the evidence.

All of it is level-triggered: each look compares what is with what the rollout's state says and reports the difference, so that nothing depends on
an event that came before, in this process or an earlier one. A slow answer about one arm holds up no other.
Neighbours: `adapters.readiness`, `adapters.probing` and `adapters.calendar` look; `server` runs the loops and takes the events.
"""

import asyncio
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from policies import wish
from policies.rollout import IN_RELEASE, KEEPING, ArmState, Event, Mode, Pods, PodsProbed, Probed, Rollout, SourceReported, WindowChanged
from policies.spec.policy import ProbeStep, RolloutPolicy, Variant
from xds_server.adapters.calendar import Calendar
from xds_server.adapters.probing import Probe
from xds_server.adapters.readiness import NOTHING, Found
from xds_server.adapters.resolving import Place
from xds_server.services.proxies import Member

READY_S = 0.25
"""How often it is looked whose pods are to be asked: that spreads the questions about many arms [s]."""

ASK_S = 1.0
"""How often the pods of a variant without a health check are asked [s]."""

PROBES_S = 0.5
"""How often probes are started, stopped and told of [s]."""

SETTLED_S = 10.0
"""A proxy that has been connected for so long and serves requests must log them [s]."""

GAP = 0.05
"""Part of the requests that the access log may lack before anybody asks which proxy is silent."""

GAP_ALONE = 0.5
"""Part of them that is too much, whoever is silent."""

States = Callable[[], Iterable[Rollout]]
Submit = Callable[[str, Event], None]

Key = tuple[str, str]
"""(rollout, identity of the arm)."""


class PodProber(Protocol):
    async def probe(self, variant: Variant, before: Found = NOTHING) -> Found: ...


class Readiness:
    """Asks the pods of every arm on its way; at most one question about an arm at a time."""

    def __init__(self, prober: PodProber, states: States, submit: Submit) -> None:
        self._prober = prober
        self._states = states
        self._submit = submit
        self._asking: set[Key] = set()
        self._found: dict[Key, Found] = {}
        self._known: dict[Key, Pods] = {}
        """What the states said when they were last looked at, or have been told since."""
        self._due: dict[Key, float] = {}

    def places(self, rollout: str, identity: str) -> tuple[Place, ...]:
        """The pods that are ready, as last seen."""
        return self._found.get((rollout, identity), NOTHING).ready

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._look(tasks)
                await asyncio.sleep(READY_S)

    def _look(self, tasks: asyncio.TaskGroup) -> None:
        arms = {(state.name, arm.variant.identity): arm for state in self._states() if state.mode in IN_RELEASE for arm in state.running}
        self._found = {key: found for key, found in self._found.items() if key in arms}
        self._due = {key: due for key, due in self._due.items() if key in arms}
        self._known = {key: arm.pods for key, arm in arms.items()}
        now = time.monotonic()
        for key, arm in arms.items():
            if key not in self._asking and now >= self._due.get(key, now):
                self._asking.add(key)
                tasks.create_task(self._ask(key, arm.variant))

    async def _ask(self, key: Key, variant: Variant) -> None:
        try:
            found = await self._prober.probe(variant, self._found.get(key, NOTHING))
        finally:
            self._asking.discard(key)
        if key not in self._known:
            return
        self._due[key] = time.monotonic() + (variant.health.interval_s if variant.health else ASK_S)
        self._found[key] = found
        if found.pods != self._known[key]:
            self._known[key] = found.pods
            self._submit(key[0], PodsProbed(identity=key[1], pods=found.pods))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One probe to be run; another step, position or release is another probe."""

    rollout: str
    generation: int
    position: int
    step: ProbeStep
    policy: RolloutPolicy
    arm: ArmState

    @property
    def key(self) -> tuple[str, int, int, str]:
        return self.rollout, self.generation, self.position, self.arm.variant.identity


class Probes:
    """Runs the probes of all rollouts that stand in one, and tells about twice a second how they are doing."""

    def __init__(self, states: States, submit: Submit, places: Callable[[str, str], tuple[Place, ...]]) -> None:
        self._states = states
        self._submit = submit
        self._places = places
        self._running: dict[tuple[str, int, int, str], tuple[ProbeStep, Probe, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._look(tasks)
                await asyncio.sleep(PROBES_S)

    def _look(self, tasks: asyncio.TaskGroup) -> None:
        wanted = {order.key: order for state in self._states() for order in orders(state)}
        for key, (step, _, task) in tuple(self._running.items()):
            if key not in wanted or wanted[key].step != step:
                task.cancel()
                del self._running[key]
        for key, order in wanted.items():
            if key not in self._running:
                probe = self._probe(order)
                self._running[key] = order.step, probe, tasks.create_task(probe.run(), name=f"probe {order.rollout}")
            _, probe, _ = self._running[key]
            if probe.found != order.arm.probing:
                event = Probed(identity=order.arm.variant.identity, position=order.position, probing=probe.found)
                self._submit(order.rollout, event)

    def _probe(self, order: _Order) -> Probe:
        variant = order.arm.variant
        return Probe(
            order.step,
            variant,
            rollout=order.rollout,
            where=order.policy.traffic,
            places=lambda: self._places(order.rollout, variant.identity),
        )


def orders(state: Rollout) -> Iterator[_Order]:
    """The probes that a rollout waits for now."""
    at = wish.stage(state)
    if at is None or at.probe is None or state.orphan is not None:
        return
    for arm in state.running:
        if not arm.probing.done:
            yield _Order(
                rollout=state.name, generation=state.generation, position=state.position, step=at.probe, policy=state.policy, arm=arm
            )


def window_changes(
    calendar: Calendar, states: Iterable[Rollout], now: float, policies: Mapping[str, RolloutPolicy] | None = None
) -> Iterator[tuple[str, WindowChanged]]:
    """(rollout, event) for each rollout whose freeze windows are not what its state says.

    Args:
        policies: Documents that are about to come into force, instead of those the states have.
    """
    for state in states:
        if state.mode is Mode.RETIRED:
            continue
        policy = state.policy if policies is None else policies.get(state.name, state.policy)
        words = calendar.active(policy.freeze, now)
        if words != next((freeze.words for freeze in state.freezes if freeze.source == "window"), ""):
            yield state.name, WindowChanged(words=words)


def source_changes(
    states: Iterable[Rollout],
    gap: Callable[[str], float],
    members: Callable[[str], Iterable[Member]],
    logging: Container[str],
    now: float,
) -> Iterator[tuple[str, SourceReported]]:
    """(rollout, event) for each rollout whose source of evidence began or ceased to work.

    Envoy opens its log's stream with the first request, so that a proxy without one need not be broken: it is when requests are missing.

    Args:
        gap: Part of a rollout's requests that load reports counted and the access log did not bring, lately.
        members: The proxies of a group.
        logging: Node ids of proxies with a stream of log entries.
    """
    for state in states:
        if state.mode not in IN_RELEASE | KEEPING:
            continue
        words, missing = "", gap(state.name)
        if missing > GAP:
            silent = sorted(
                member.node_id
                for member in members(state.policy.traffic.proxies)
                if now - member.connected_since >= SETTLED_S and member.node_id not in logging
            )
            if silent:
                words = f"proxy {silent[0]} sends no access log" + (f", nor do {len(silent) - 1} more" if len(silent) > 1 else "")
            elif missing > GAP_ALONE:
                words = "the access log lacks most of the requests that load reports count"
        if words != state.source_words:
            yield state.name, SourceReported(words=words)
