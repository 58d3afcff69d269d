"""The control plane as one process: what is built, in which order it comes up, and the few loops that run.

Coming up: store, states, policies, first snapshots, then the ports answer (a proxy never sees an empty world). The loops are small and named;
they end together: if one dies, the process says why and exits, and the leases hand all traffic to stable.
"""

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import structlog

from policies.rollout import IN_RELEASE, KEEPING, Decision, Delivered, EvidenceArrived, Mode, Record, Rollout, Ticked
from policies.spec.policy import RolloutPolicy
from xds_server.adapters.calendar import Calendar
from xds_server.adapters.grpc_transport import GrpcTransport
from xds_server.adapters.policy_directory import PolicyDirectory
from xds_server.adapters.policy_git import PolicyGit
from xds_server.adapters.readiness import Prober
from xds_server.adapters.store import Store, open_store
from xds_server.adapters.wire_transport import WireTransport
from xds_server.config import API_GRPC, GitPlace, ServeConfig
from xds_server.core.transport import Method
from xds_server.errors import ListenError, SourceError
from xds_server.evidence.collector import Collector
from xds_server.runtime import web
from xds_server.runtime.conductor import Conductor
from xds_server.runtime.control import RuntimeControl
from xds_server.runtime.documents import Documents
from xds_server.runtime.feed import Feed
from xds_server.runtime.group import LEASED, PLAIN, key_of
from xds_server.runtime.ports import PolicySource
from xds_server.runtime.watch import Probes, Readiness, source_changes, window_changes
from xds_server.runtime.world import World
from xds_server.services import http_api
from xds_server.services.ads import AdsHub
from xds_server.services.client_status import ClientStatus
from xds_server.services.messages import NodeInfo
from xds_server.services.metrics import Metrics
from xds_server.services.proxies import Member, ProxyEvent, Refusal, Refused
from xds_server.services.telemetry import OpenLogs, telemetry_methods

log = structlog.get_logger()

TRANSPORTS = {"wire": WireTransport, "grpcio": GrpcTransport}

BLOCK_S = 0.1
"""How often evidence is judged [s]: blocks close in this rhythm where something arrived."""

TICK_S = 0.5

LOOK_S = 1.0
"""How often freeze windows and the source of the evidence are looked at [s]."""

CHECKPOINT_S = 1.0
CHECKPOINTS_MOST = 200
"""Rollouts whose evidence and hold are saved at one checkpoint, those saved longest ago first: it costs about 60 us each."""

HEARTBEAT_S = 0.2

TRIAL_S = 0.1
"""How often a running trial of a change is looked at [s]."""

STEADY = "_steady"
"""Name in the store of what the fleet has where that is not the newest: a crash in the middle of a trial must not ship it to everybody."""

GOOD_TEXTS = "_policies"
"""Name in the store of the policy files in force: a file that is broken at the next start has its last good text."""


class Server:
    """Builds the parts and runs the loops."""

    def __init__(self, config: ServeConfig, store: Store) -> None:
        self.config = config
        self.store = store
        self.metrics = Metrics()
        self.collector = Collector(clock=time.time)
        self.feed = Feed()
        self.hub = AdsHub(select=self._select, events=self._proxy_event, clock=time.time, defer=_next_turn)
        self.stirred = asyncio.Event()
        self.world = World(self.hub, own=self.collector.own, stir=self.stirred.set)
        self.conductor = Conductor(
            store=store,
            world=self.world,
            clock=time.time,
            decided=self._decided,
            dropped=self.metrics.dropped,
            saved=self.metrics.store_seconds,
        )
        self.documents = Documents(source=str(config.policies))
        self.source = _policy_source(config, on_error=self._source_error)
        self.calendar = Calendar()
        self.logs = OpenLogs()
        self.readiness = Readiness(Prober(), self.states, self.conductor.submit)
        self.probes = Probes(self.states, self.conductor.submit, self.readiness.places)
        self.control = RuntimeControl(self)
        self.take_refused: Callable[[], Mapping[str, int]] = dict
        """What the transport refused since the last call, by reason."""
        self.source_words = ""
        self.ready = False
        self.beats: dict[tuple[str, str], float] = {}
        self.held: frozenset[str] = frozenset()
        self.reverting_since: dict[str, float] = {}
        self.heard: set[str] = set()
        """Snapshot keys with events that the rollouts have not been told of."""

    def exposition(self) -> bytes:
        """All metrics, as of now."""
        self.metrics.observe(self.control.rollouts(), self.control.policy_errors())
        for type_url, count in self.hub.take_pushes().items():
            self.metrics.pushed(type_url, count)
        for seconds in self.hub.take_answers_s():
            self.metrics.push_acked(seconds)
        self.metrics.outstanding(self.hub.outstanding())
        entries, dropped = self.collector.take_counts()
        self.metrics.access_log_entries(entries)
        for what, count in chain(dropped.items(), self.take_refused().items()):
            self.metrics.dropped(what, count)
        return self.metrics.exposition()

    def states(self) -> Iterator[Rollout]:
        return (entry.state for entry in tuple(self.conductor.entries.values()))

    def holds(self, rollout: str) -> bool:
        """Whether a lease of this rollout is being renewed."""
        return rollout in self.held

    def methods(self) -> tuple[Method, ...]:
        return (
            *self.hub.methods(),
            *ClientStatus(self.hub.proxies).methods(),
            *telemetry_methods(access_log=self.collector.access_log, load_report=self.collector.load_report, logs=self.logs),
        )

    async def start(self) -> None:
        """Loads what was, reads the policies and renders the first snapshots."""
        await self.conductor.load()
        self.documents.remember(self.conductor.kept.get(GOOD_TEXTS, b""))
        self.world.restore(self.conductor.kept.get(STEADY, b""))
        await self.take_policies(await self._first_texts())
        self.hub.ready()
        self.ready = True

    async def _first_texts(self) -> Mapping[str, bytes]:
        """A git server that is away must not hinder a start: what was in force is remembered. A directory is there, or was mistyped."""
        try:
            return await self.source.read()
        except SourceError as error:
            if not self.documents.good or not isinstance(self.config.policies, GitPlace):
                raise
            self._source_error(str(error))
            return self.documents.good

    async def take_policies(self, texts: Mapping[str, bytes]) -> None:
        """Puts a new set of files in force, as far as it is good."""
        loaded = await asyncio.to_thread(self.documents.take, texts, self.source.revision)
        for error in self.documents.errors:
            log.warning("policy.broken", file=error.file, line=error.line, path=error.path, error=error.message)
        self.world.set_proxies(loaded.proxies)
        policies: dict[str, RolloutPolicy] = {policy.name: policy for policy in loaded.rollouts}
        for name, event in window_changes(self.calendar, self.states(), time.time(), policies):
            if event.words:  # before the edit, which could raise a share; one that ends is told after it
                await self.conductor.tell(name, event)
        await self.conductor.apply_policies(policies)
        self.look_at_windows()
        await self.conductor.keep(GOOD_TEXTS, self.documents.to_bytes())
        self.conductor.touch()

    # Loops.

    async def policies_loop(self) -> None:
        async for texts in self.source.changes():
            await self.take_policies(texts)

    async def trial_loop(self) -> None:
        """Changes of structure, step by step; what could be lost with this process is remembered before each."""
        while True:
            await self.stirred.wait()
            note = await self._remember_steady()
            if note == self.world.note():
                self.world.advance()
                note = await self._remember_steady()
            if not self.world.trying and self.conductor.kept.get(STEADY, b"") == note:
                self.stirred.clear()
            await asyncio.sleep(TRIAL_S)

    async def _remember_steady(self) -> bytes:
        note = self.world.note()
        if note != self.conductor.kept.get(STEADY, b""):
            await self.conductor.keep(STEADY, note)
        return note

    async def evidence_loop(self) -> None:
        while True:
            await asyncio.sleep(BLOCK_S)
            for name, block in self.collector.close(time.time()):
                if name in self.conductor.entries:
                    self.feed.give(block, self.conductor.entries[name].state)
                self.conductor.submit(name, EvidenceArrived(block=block))

    async def tick_loop(self) -> None:
        """Level-triggered: whatever an event missed is seen here."""
        while True:
            planned = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self.metrics.loop_lag(max(0.0, time.monotonic() - planned))
            for name, entry in self.conductor.entries.items():
                self._deliver(name)
                # One that had an event lately has been looked at; a clock that was set back is no such event.
                if _ticks(entry.state) and abs(time.time() - entry.state.clock) >= TICK_S:
                    self.conductor.submit(name, Ticked())
            if any(_ticks(state) for state in self.states()):
                self.conductor.touch()

    async def probe_loop(self) -> None:
        """Pods, and the requests of `probe` steps."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.readiness.run())
            tasks.create_task(self.probes.run())

    async def watch_loop(self) -> None:
        while True:
            self.look_at_windows()
            for name, event in source_changes(self.states(), self.collector.gap, self._members, self.logs, time.time()):
                self.conductor.submit(name, event)
            await asyncio.sleep(LOOK_S)

    def look_at_windows(self) -> None:
        for name, event in window_changes(self.calendar, self.states(), time.time()):
            self.conductor.submit(name, event)

    def _members(self, group: str) -> Iterator[Member]:
        return chain.from_iterable(self.hub.members(key_of(group, view)) for view in (LEASED, PLAIN))

    async def checkpoint_loop(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await self.conductor.checkpoint(CHECKPOINTS_MOST)
            self.hub.tick()

    async def lease_loop(self) -> None:
        """Keeps every held lease alive, as long as what we decide can also be remembered."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            now = time.monotonic()  # a wall clock that is set back would silence the heartbeats
            failing_s = 0.0 if self.conductor.store_failing_since is None else now - self.conductor.store_failing_since
            leases = self.world.leases()
            held: set[str] = set()
            for place, (ttl_s, rollouts) in leases.items():
                if failing_s > max(ttl_s, 2 * CHECKPOINT_S):
                    continue
                held.update(rollouts)
                if now - self.beats.get(place, -ttl_s) >= ttl_s / 3:
                    self.beats[place] = now
                    self.world.heartbeat(*place)
            self.held = frozenset(held)
            self.beats = {place: at for place, at in self.beats.items() if place in leases}

    # What others tell us.

    def _select(self, node: NodeInfo) -> str | Refusal:
        return self.world.select(node)

    def _proxy_event(self, event: ProxyEvent) -> None:
        self.metrics.proxy_event(event)
        self.world.heard(event)
        if not isinstance(event, Refused):
            if not self.heard:
                _next_turn(self._deliver_heard)
            self.heard.add(event.key)

    def _deliver_heard(self) -> None:
        """Once for all events of a turn of the loop: a push to a thousand proxies comes back as a thousand ACKs."""
        keys, self.heard = self.heard, set()
        for name in {name for key in keys for name in self.world.awaited(key)}:
            self._deliver(name)

    def _deliver(self, name: str) -> None:
        entry = self.conductor.entries.get(name)
        delivery = self.world.delivery(name)
        if entry is None or delivery is None:
            return
        publication, seen = delivery
        state = entry.state
        # A group without proxies has nothing to ACK: say so once, or a revert would wait for ever.
        awaited = state.mode is Mode.REVERTING or state.incoming is not None
        if publication == state.publication and (seen != state.delivery or (awaited and seen.acked >= seen.selected)):
            if seen.complete and name in self.reverting_since:
                self.metrics.reaction(time.time() - self.reverting_since.pop(name))
            self.conductor.submit(name, Delivered(publication=publication, delivery=seen))

    def _decided(self, record: Record) -> None:
        if record.decision is Decision.REVERTED:
            self.reverting_since[record.rollout] = record.at
        self.metrics.decision(record.rollout, record.decision.value, record.reason.code)

    def _source_error(self, words: str) -> None:
        if words != self.source_words:
            self.source_words = words
            if words:
                log.warning("policies.unreadable", error=words, kept="the last good ones stay in force")
            else:
                log.info("policies.readable")


def _policy_source(config: ServeConfig, *, on_error: Callable[[str], None]) -> PolicySource:
    if isinstance(config.policies, GitPlace):
        return PolicyGit(config.policies, cache=config.policies_cache, interval_s=config.policies_poll_s, on_error=on_error)
    return PolicyDirectory(config.policies, on_error=on_error)


def _ticks(state: Rollout) -> bool:
    """Whether time decides something."""
    return state.mode in IN_RELEASE | KEEPING or state.incoming is not None


def _next_turn(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)


async def serve(config: ServeConfig) -> int:
    """Runs the control plane until SIGTERM or SIGINT.

    Returns: 0 after a clean stop.
    Raises: SourceError, StoreError, ListenError: What is wrong with the surroundings, in words.
    """
    store = await open_store(config.store)
    try:
        server = Server(config, store)
        transport = TRANSPORTS[config.transport](server.methods())
        server.take_refused = transport.take_refused
        api = web.Api(http_api.app(server.control), config.api)
        bound = api.bind()
        try:
            await server.start()
            xds_port = await transport.serve(config.xds)
            grpc_api = _grpc_api(server, config)
        except BaseException:
            api.release()
            await transport.stop()
            raise
        gc.freeze()
        gc.set_threshold(100_000, 50, 1000)
        log.info("server.ready", xds_port=xds_port, api_port=bound, policies=str(config.policies), store=config.store)
        await _until_stopped(server, api, grpc_api)
        await transport.stop()
    finally:
        await store.close()
    log.info("server.stopped")
    return 0


def _grpc_api(server: Server, config: ServeConfig) -> "web.GrpcApi | None":
    """Raises: ListenError: If the port that was asked for cannot be had; without the usual one it goes on."""
    api = web.GrpcApi(server.control, config.api_grpc or API_GRPC)
    try:
        log.info("server.api_grpc", port=api.bind())
    except ListenError as error:
        if config.api_grpc:
            raise
        log.warning("server.no_api_grpc", error=str(error))
        return None
    return api


async def _until_stopped(server: Server, api: "web.Api", grpc_api: "web.GrpcApi | None") -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(work, name=name)
            for name, work in (
                ("conductor", server.conductor.run()),
                ("policies", server.policies_loop()),
                ("trials", server.trial_loop()),
                ("evidence", server.evidence_loop()),
                ("ticks", server.tick_loop()),
                ("probes", server.probe_loop()),
                ("watch", server.watch_loop()),
                ("checkpoints", server.checkpoint_loop()),
                ("leases", server.lease_loop()),
                ("api", api.serve()),
                *((("api_grpc", grpc_api.serve()),) if grpc_api is not None else ()),
            )
        ]
        await stop.wait()
        log.info("server.stopping")
        for task in running:
            task.cancel()
    with contextlib.suppress(Exception):
        await server.conductor.checkpoint()
