"""Crossfade's own metrics: one registry, typed methods, names that dashboards rely on.

The runtime calls the methods as things happen; what is a state and not an event (shares, phases, gates, leases, faults) is read from the same
status JSON that people see, right before a scrape (`observe`), so no series outlives its rollout. Labels come from closed or bounded sets.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from xds_server.core.facts import Variant
from xds_server.core.types import BY_URL, short
from xds_server.services.control import PHASES, Json, JsonObject
from xds_server.services.proxies import Connected, Disconnected, Nacked, ProxyEvent, Refused

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE", "NO_DATA", "ERROR")

_REACTION_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)
_ACK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_STORE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._states(registry)
        self._events(registry)

    def _states(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"crossfade_{name}", text, labels, registry=registry)

        self._share = gauge("rollout_share", "Fraction of requests a variant gets, as ACKed by the proxies", "rollout", "variant")
        self._phase = gauge("rollout_phase", "1 for the phase the rollout is in, 0 for the others", "rollout", "phase")
        self._evidence = gauge("gate_evidence", "Odds that the variant is worse by the margin", "rollout", "gate", "variant")
        self._verdict = gauge("gate_verdict", "1 for the verdict of the gate, 0 for the others", "rollout", "gate", "variant", "verdict")
        self._age = gauge("gate_reading_age_seconds", "Time since the variant's last request", "rollout", "gate", "variant")
        self._lease = gauge("lease_held", "1 while the rollout's lease is being renewed", "rollout")
        self._faults = gauge("policy_errors", "Faults of a policy file as it is on disk", "file")
        self._streams = gauge("xds_streams", "Open discovery streams", "variant")
        self._outstanding = gauge("xds_outstanding", "Responses sent and not yet answered")
        for variant in Variant:
            self._streams.labels(variant.value)

    def _events(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"crossfade_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"crossfade_{name}", text, labels, buckets=buckets, registry=registry)

        self._decisions = counter("decisions", "Decisions taken", "rollout", "decision", "reason")
        self._pushes = counter("xds_pushes", "Discovery responses sent", "type_url")
        self._rejects = counter("xds_rejects", "Discovery responses rejected by a proxy", "type_url")
        self._refusals = counter("xds_refusals", "Proxies turned away because no group selects them")
        self._entries = counter("access_log_entries", "Access log entries received")
        self._dropped = counter("dropped", "What was thrown away because a bound was reached", "what")
        self._reaction = histogram("reaction_seconds", "From the evidence to the last proxy's ACK of what it caused", _REACTION_S)
        self._push_ack = histogram("xds_push_ack_seconds", "From a discovery response to its ACK", _ACK_S)
        self._store = histogram("store_seconds", "Time one operation of the store took", _STORE_S, "op")
        self._lag = histogram("loop_lag_seconds", "How late the event loop was", _LAG_S)

    # As things happen.

    def decision(self, rollout: str, decision: str, reason: str) -> None:
        self._decisions.labels(rollout, decision, reason).inc()

    def reaction(self, seconds: float) -> None:
        self._reaction.observe(max(0.0, seconds))

    def proxy_event(self, event: ProxyEvent) -> None:
        match event:
            case Connected(variant=variant):
                self._streams.labels(variant.value).inc()
            case Disconnected(variant=variant):
                self._streams.labels(variant.value).dec()
            case Nacked(type_url=type_url):
                self._rejects.labels(_type(type_url)).inc()
            case Refused():
                self._refusals.inc()
            case _:
                pass

    def pushed(self, type_url: str, count: int = 1) -> None:
        self._pushes.labels(_type(type_url)).inc(count)

    def push_acked(self, seconds: float) -> None:
        self._push_ack.observe(max(0.0, seconds))

    def outstanding(self, count: int) -> None:
        self._outstanding.set(count)

    def access_log_entries(self, count: int) -> None:
        self._entries.inc(count)

    def dropped(self, what: str, count: int = 1) -> None:
        self._dropped.labels(what).inc(count)

    def store_seconds(self, operation: str, seconds: float) -> None:
        self._store.labels(operation).observe(max(0.0, seconds))

    def loop_lag(self, seconds: float) -> None:
        self._lag.observe(max(0.0, seconds))

    # Before a scrape.

    def observe(self, rollouts: Sequence[JsonObject], policy_errors: Sequence[JsonObject] = ()) -> None:
        """Takes over the states of all rollouts; series of rollouts that are gone go with them.

        Args:
            rollouts: As `Control.rollouts` gives them.
            policy_errors: As `Control.policy_errors` gives them.
        """
        for gauge in (self._share, self._phase, self._evidence, self._verdict, self._age, self._lease, self._faults):
            gauge.clear()
        for status in rollouts:
            self._rollout(status)
        for error in policy_errors:
            self._faults.labels(str(error.get("file"))).inc()

    def _rollout(self, status: JsonObject) -> None:
        name = str(status.get("name"))
        taken = 0.0
        for variant in _objects(status.get("variants")):
            share = _number(variant.get("share")) or 0.0
            taken += share
            self._share.labels(name, str(variant.get("name"))).set(share)
        self._share.labels(name, "stable").set(max(0.0, 1.0 - taken))
        for phase in PHASES:
            self._phase.labels(name, phase).set(phase == status.get("phase"))
        lease = status.get("lease")
        self._lease.labels(name).set(isinstance(lease, dict) and lease.get("held") is True)
        for gate in _objects(status.get("gates")):
            self._gate(name, gate)

    def _gate(self, rollout: str, gate: JsonObject) -> None:
        labels = rollout, str(gate.get("name")), str(gate.get("variant") or "candidate")
        for verdict in VERDICTS:
            self._verdict.labels(*labels, verdict).set(verdict == gate.get("verdict"))
        evidence, age_s = _number(gate.get("evidence")), _number(gate.get("reading_age_s"))
        if evidence is not None:
            self._evidence.labels(*labels).set(evidence)
        if age_s is not None:
            self._age.labels(*labels).set(age_s)

    def exposition(self) -> bytes:
        """Everything in the OpenMetrics text format (`CONTENT_TYPE_LATEST`)."""
        written: bytes = generate_latest(self._registry)  # type: ignore[no-untyped-call]  # the library has no types here
        return written


def _type(type_url: str) -> str:
    """A type a proxy named, as a label: of a closed set, whatever it said."""
    return short(type_url) if type_url in BY_URL else "other"


def _objects(value: Json) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
