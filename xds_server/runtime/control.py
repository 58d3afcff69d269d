"""The control port over the running parts: what the API and the command line see and do."""

import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from fnmatch import translate
from typing import TYPE_CHECKING

from policies import explain, report
from policies.assign import Placement, placement
from policies.rollout import Commanded, Notify, Record, Rollout, Step, Verb
from xds_server.core.types import short
from xds_server.errors import StoreError
from xds_server.runtime.conductor import RECORD
from xds_server.runtime.differences import difference
from xds_server.services.control import VERBS, ActError, BlockListener, Fault, Health, JsonObject
from xds_server.services.proxies import ProxyStatus
from xds_server.services.webhook import signature_ok

if TYPE_CHECKING:
    from xds_server.runtime.server import Server

ANSWERS_MAX = 1000
"""Answers to idempotency keys remembered."""


class RuntimeControl:
    """Implements `xds_server.services.control.Control`."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._answers: OrderedDict[tuple[str, str, str], JsonObject] = OrderedDict()
        self._placements: dict[str, tuple[Rollout, Placement | None]] = {}

    def rollouts(self) -> list[JsonObject]:
        entries = self._server.conductor.entries
        return [found for name in sorted(entries) if (found := self.rollout(name)) is not None]

    def rollout(self, name: str) -> JsonObject | None:
        entry = self._server.conductor.entries.get(name)
        if entry is None:
            return None
        status = report.report(entry.state, now=time.time(), held=self._server.holds(name))
        status["gap"] = self._server.collector.gap(name)
        status["policy"] = dict(self._server.documents.origin(name))
        status["policy_errors"] = [
            error["message"] for error in self.policy_errors() if error["file"] == self._server.documents.file_of(name)
        ]
        return status

    async def history(self, name: str, last: int) -> list[JsonObject] | None:
        if name not in self._server.conductor.entries:
            return None
        return [report.record(RECORD.validate_json(body)) for body, _ in await self._server.store.records(name, last)]

    def proxies(self, node: str = "*") -> list[JsonObject]:
        matches = re.compile(translate(node)).match  # not `fnmatch`, which keeps every pattern it was ever asked for
        refused: list[JsonObject] = [
            {
                "node": each.node_id,
                "cluster": each.cluster,
                "version": each.version,
                "peer": each.peer,
                "group": None,
                "variant": None,
                "service": None,
                "leased": False,
                "connected_since": report.rfc3339(each.at),
                "sync": "ERROR",
                "types": [],
                "refused": each.message,
                "times": each.times,
            }
            for each in self._server.hub.refused()
            if matches(each.node_id)
        ]
        now = self._server.hub.clock()
        return [_proxy(status, now) for status in self._server.hub.proxies(lambda node_id: matches(node_id) is not None)] + refused

    def groups(self) -> list[JsonObject]:
        return [
            {
                "name": group.name,
                "select": {"cluster": group.select.cluster, "node_id": group.select.node_id, "metadata": dict(group.select.metadata)},
                "listeners": [{"name": each.name, "address": each.address, "port": each.port} for each in group.listeners],
                "rejected": self._server.world.rejected_listeners(group.name),
            }
            for group in self._server.documents.loaded.proxies
        ]

    def policy_errors(self) -> list[JsonObject]:
        return [
            {
                "file": error.file,
                "line": error.line,
                "column": error.column,
                "path": error.path,
                "message": error.message,
                "expected": error.expected,
                "hint": error.hint,
            }
            for error in self._server.documents.errors
        ]

    async def act(self, name: str, verb: str, *, to: str, reason: str, actor: str, idempotency_key: str, dry_run: bool) -> JsonObject:
        if verb not in VERBS:
            raise ActError(Fault.UNKNOWN_VERB, f"there is no verb {verb!r}", hint=f"one of {', '.join(VERBS)}")
        conductor = self._server.conductor
        if name not in conductor.entries:
            raise ActError(Fault.UNKNOWN_ROLLOUT, f"there is no rollout {name!r}", hint="crossfade status lists them")
        known = self._answers.get((name, verb, idempotency_key)) if idempotency_key else None
        if known is not None:
            return known
        command = Commanded(verb=Verb(verb), to=to, actor=actor, reason=reason, key=idempotency_key)
        if dry_run:
            return self._answer(name, conductor.imagine(name, command)) | {"dry_run": True}
        try:
            step = await conductor.ask(name, command)
        except StoreError as error:
            raise ActError(Fault.STORE_UNAVAILABLE, str(error), hint=error.hint) from error
        answer = self._answer(name, step)
        if idempotency_key:
            self._answers[name, verb, idempotency_key] = answer
            while len(self._answers) > ANSWERS_MAX:
                self._answers.popitem(last=False)
        return answer

    def names(self) -> list[str]:
        return sorted(self._server.conductor.entries)

    def placement(self, name: str) -> Placement | None:
        """Made anew when the state is another object, so that most answers cost a comparison."""
        entry = self._server.conductor.entries.get(name)
        if entry is None:
            self._placements.pop(name, None)
            return None
        known = self._placements.get(name)
        if known is None or known[0] is not entry.state:
            known = self._placements[name] = entry.state, placement(entry.state)
        return known[1]

    def blocks(self, name: str) -> AbstractContextManager[BlockListener] | None:
        return None if self._server.feed.full else self._server.feed.listen(name)

    def diff(self, texts: Mapping[str, bytes], *, whole: bool) -> JsonObject:
        states = {name: entry.state for name, entry in self._server.conductor.entries.copy().items()}
        return difference(self._server.documents, states, texts, whole=whole)

    def policies_changed(self, body: bytes, headers: Mapping[str, str]) -> bool:
        if not signature_ok(self._server.config.webhook_secret, body, headers):
            return False
        self._server.source.nudge()
        return True

    def version(self) -> int:
        return self._server.conductor.version

    async def wait_change(self, since: int, timeout_s: float) -> int:
        return await self._server.conductor.wait_change(since, timeout_s)

    def health(self) -> Health:
        missing = []
        if not self._server.ready:
            missing.append("the policies are not loaded yet")
        if self._server.conductor.store_words:
            missing.append(f"the store: {self._server.conductor.store_words}")
        if self._server.source_words:
            missing.append(f"the policies: {self._server.source_words}; the last good ones stay in force")
        return Health(ready=self._server.ready and not self._server.conductor.store_words, waiting_for=tuple(missing))

    def metrics(self) -> bytes:
        return self._server.exposition()

    def _answer(self, name: str, step: Step) -> JsonObject:
        if step.refused:
            raise ActError(Fault.REFUSED, explain.sentence(step.because))
        records: list[Record] = [effect.record for effect in step.effects if isinstance(effect, Notify)]
        if records:
            return dict(report.record(records[-1]))
        # The command had already done what it asks for: the state says so, nothing new was decided.
        return {"rollout": name, "decision": "none", "because": explain.sentence(step.state.because), "at": report.rfc3339(time.time())}


def _proxy(status: ProxyStatus, now: float) -> JsonObject:
    states = [progress.state.value for progress in status.types]
    worst = next((state for state in ("ERROR", "STALE", "NOT_SENT") if state in states), "SYNCED" if states else "NOT_SENT")
    return {
        "node": status.node_id,
        "cluster": status.cluster,
        "version": status.version,
        "peer": status.peer,
        "group": status.key.rsplit("/", 1)[0],
        "variant": status.variant.value,
        "service": status.service,
        "leased": status.key.endswith("/leased"),
        "connected_since": report.rfc3339(status.connected_since),
        "sync": worst,
        "types": [
            {
                "type": short(progress.type_url),
                "sync": progress.state.value,
                "sent": progress.sent_version,
                "acked": progress.acked_version,
                "acked_age_s": None if progress.acked_at is None else round(max(0.0, now - progress.acked_at), 3),
                "words": progress.error,
            }
            for progress in status.types
        ],
        "refused": None,
        "times": None,
    }
