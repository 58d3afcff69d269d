"""A small control plane for tests of the API and the command line: plain dicts behind the real port."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase

import uvicorn

from policies.assign import Layout, Place, Placement
from policies.spec.policy import Assignment
from xds_server.runtime.feed import Feed
from xds_server.services import http_api
from xds_server.services.control import ActError, Fault, Health, JsonObject
from xds_server.services.metrics import Metrics


def status(name="chat", phase="running", **changes) -> JsonObject:
    """A rollout as `GET /v1/rollouts` gives it."""
    return {
        "name": name,
        "phase": phase,
        "generation": 3,
        "stable": {"version": "llama-3-8b-fp16", "identity": "llama-3-8b-fp16.1"},
        "variants": [
            {
                "name": "candidate",
                "version": "llama-3-8b-int8",
                "identity": "llama-3-8b-int8.2",
                "share": 0.05,
                "shadow_share": 0.0,
                "ready": 2,
                "pods": 2,
                "capacity_share": 1.0,
                "out": None,
            }
        ],
        "step": {
            "index": 1,
            "of": 6,
            "kind": "canary",
            "label": "canary 5%",
            "since": "2026-01-01T00:00:00.000Z",
            "waiting_for": [{"kind": "samples", "have": 312, "need": 500, "what": "", "variant": ""}],
        },
        "weights": {"stable": 9507, "candidate": 500, "total": 10007},
        "gates": [
            {
                "name": "errors",
                "variant": "candidate",
                "role": "guardrail",
                "verdict": "INCONCLUSIVE",
                "evidence": 3.1,
                "needed": 100.0,
                "evidence_pass": 0.4,
                "needed_pass": 20.0,
                "estimate": {"stable": 0.001, "candidate": 0.004},
                "interval": [-0.001, 0.009],
                "samples": {"stable": 6021, "candidate": 312},
                "unit": "ratio",
                "reading_age_s": 0.4,
                "because": "cannot tell yet",
            }
        ],
        "winner": "",
        "freezes": [],
        "rollback_to": ["llama-2"],
        "lease": {"ttl_s": 30.0, "held": True},
        "proxies": {"selected": 2, "acked": 2, "rejected": 0, "words": ""},
        "because": "canary 5%: 312 of 500 samples",
        **changes,
    }


def placement(share_bp=500, *, name="chat", assignment=None, **changes) -> Placement:
    """One arm called candidate, at most at 50 %."""
    now = Layout(places=(Place(name="candidate", share_bp=share_bp, reserve_bp=max(share_bp, 5000)),))
    made = Placement(
        rollout=name,
        generation=3,
        assignment=assignment or Assignment(sticky_header="x-user-id"),
        versions=(("stable", "v1"), ("candidate", "v2")),
        now=now,
    )
    return replace(made, **changes)


def record(decision="reverted", because="aborted by tester: bad answers; all traffic back to v1", **changes) -> JsonObject:
    return {
        "at": "2026-01-01T00:00:01.000Z",
        "rollout": "chat",
        "generation": 3,
        "publication": 7,
        "decision": decision,
        "reason": "aborted",
        "facts": {"by": "tester", "said": "bad answers"},
        "step": "canary 5%",
        "share": 0.0,
        "shares": {"candidate": 0.0},
        "stable": "v1",
        "candidate": "v2",
        "actor": "tester",
        "because": because,
        **changes,
    }


class FakeControl:
    """Implements the port; a test sets the attributes and calls `change`."""

    def __init__(self) -> None:
        self.states = {"chat": status()}
        self.records = {"chat": [record("started", "v2 is the new candidate"), record()]}
        self.errors: list[JsonObject] = []
        self.nodes: list[JsonObject] = []
        self.asked_for = ""
        self.waiting_for: tuple[str, ...] = ()
        self.refuse: ActError | None = None
        self.broken = False
        self.acts: list[dict] = []
        self.waiters = 0
        self.placements: dict[str, Placement] = {"chat": placement()}
        self.signed = True
        self.compared: list[tuple[dict[str, bytes], bool]] = []
        self.feed = Feed()
        self._version = 1

    def change(self, name="chat", **changes) -> None:
        """A new state; may be called from another thread."""
        self.states[name] = {**self.states[name], **changes}
        self._version += 1

    def rollouts(self):
        if self.broken:
            raise RuntimeError("a bug")
        return [self.states[name] for name in sorted(self.states)]

    def rollout(self, name):
        return self.states.get(name)

    async def history(self, name, last):
        return self.records[name][-last:] if name in self.states else None

    def proxies(self, node="*"):
        self.asked_for = node
        return [each for each in self.nodes if fnmatchcase(each["node"], node)]

    def groups(self):
        return [{"name": "edge", "select": {"cluster": "edge", "node_id": None, "metadata": {"zone": "a"}}, "listeners": []}]

    def policy_errors(self):
        return self.errors

    async def act(self, name, verb, **how):
        self.acts.append({"name": name, "verb": verb, **how})
        if name not in self.states:
            raise ActError(Fault.UNKNOWN_ROLLOUT, f"there is no rollout {name!r}", hint="crossfade status lists them")
        if self.refuse is not None:
            raise self.refuse
        return record() | ({"dry_run": True} if how["dry_run"] else {})

    def names(self):
        return sorted(self.states)

    def placement(self, name):
        return self.placements.get(name)

    def blocks(self, name):
        return None if self.feed.full else self.feed.listen(name)

    def diff(self, texts, *, whole):
        self.compared.append((dict(texts), whole))
        return {"changes": [{"kind": "Rollout", "name": "chat", "effect": "edited", "words": "", "fields": []}], "errors": []}

    def policies_changed(self, body, headers):
        return self.signed

    def version(self):
        return self._version

    async def wait_change(self, since, timeout_s):
        self.waiters += 1
        end = time.monotonic() + timeout_s
        while self._version == since and time.monotonic() < end:  # noqa: ASYNC110 - the test changes it from another thread
            await asyncio.sleep(0.01)
        return self._version

    def health(self):
        return Health(ready=not self.waiting_for, waiting_for=self.waiting_for)

    def metrics(self):
        metrics = Metrics()
        metrics.observe(self.rollouts(), self.errors)
        return metrics.exposition()


class Served:
    """A real HTTP server around a control, in a thread of its own."""

    def __init__(self, control, port=0) -> None:
        self.control = control
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn.Config(http_api.app(control), log_config=None, lifespan="off", access_log=False))
        self._thread = threading.Thread(target=lambda: self._server.run([self._socket]))
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)
        self._socket.close()
        assert not self._thread.is_alive()


@contextlib.contextmanager
def served(control) -> Iterator[Served]:
    server = Served(control)
    try:
        yield server
    finally:
        server.stop()
