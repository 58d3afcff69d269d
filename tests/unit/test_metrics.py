"""The metrics: names are promises, series follow their rollouts, labels are bounded."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.cli.control import status
from xds_server.core.facts import Variant
from xds_server.core.types import RDS
from xds_server.services.metrics import Metrics
from xds_server.services.proxies import Acked, Connected, Disconnected, Nacked, Refused

NAMES = {
    *("rollout_share", "rollout_phase", "gate_evidence", "gate_verdict", "gate_reading_age_seconds", "decisions", "reaction_seconds"),
    *("lease_held", "xds_streams", "xds_pushes", "xds_rejects", "xds_push_ack_seconds", "xds_outstanding", "access_log_entries", "dropped"),
    *("policy_errors", "store_seconds", "loop_lag_seconds"),
}


def values(metrics):
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples}


def test_every_promised_metric_is_there():
    metrics = Metrics()
    metrics.decision("chat", "reverted", "gate_failed")
    families = {family.name for family in text_string_to_metric_families(metrics.exposition().decode())}
    assert {f"crossfade_{name}" for name in NAMES} <= families


def test_a_rollout_that_is_gone_takes_its_series_along():
    metrics = Metrics()
    metrics.observe([status("chat"), status("search")], [{"file": "a.yaml"}, {"file": "a.yaml"}])
    assert values(metrics)["crossfade_policy_errors", "a.yaml"] == 2
    metrics.observe([status("search")])
    found = values(metrics)
    assert not [key for key in found if "chat" in key or "a.yaml" in key]
    assert found["crossfade_rollout_share", "candidate", "search"] == 0.05


def test_every_arm_has_its_share_and_its_gates():
    shown = status("chat")
    arm, gate = shown["variants"][0], shown["gates"][0]
    shown["variants"] = [arm | {"name": "b", "share": 0.1}, arm | {"name": "c", "share": 0.25}]
    shown["gates"] = [gate | {"variant": "b"}, gate | {"variant": "c", "verdict": "FAIL", "evidence": 120.0}]
    metrics = Metrics()
    metrics.observe([shown])
    found = values(metrics)
    shares = {name: found["crossfade_rollout_share", *sorted(("chat", name))] for name in ("stable", "b", "c")}
    assert shares == {"stable": 0.65, "b": 0.1, "c": 0.25}
    assert found["crossfade_gate_evidence", "b", "chat", "errors"] == 3.1
    assert found["crossfade_gate_evidence", "c", "chat", "errors"] == 120.0
    assert found["crossfade_gate_verdict", *sorted(("c", "chat", "errors", "FAIL"))] == 1


def test_proxies_are_counted_as_they_come_and_go():
    metrics = Metrics()
    for event in (
        Connected(key="g", node_id="a", variant=Variant.DELTA),
        Connected(key="g", node_id="b", variant=Variant.DELTA),
        Disconnected(key="g", node_id="a", variant=Variant.DELTA),
        Acked(key="g", node_id="b", serial=1),
        Refused(node_id="c", cluster="x", message="no"),
        Nacked(key="g", node_id="b", type_url=RDS, message="no", resources=()),
    ):
        metrics.proxy_event(event)
    found = values(metrics)
    assert found["crossfade_xds_streams", "delta"] == 1
    assert found["crossfade_xds_streams", "sotw"] == 0
    assert found["crossfade_xds_rejects_total", "RDS"] == 1


def test_a_type_a_proxy_made_up_makes_no_series_of_its_own():
    metrics = Metrics()
    for number in range(100):
        metrics.proxy_event(Nacked(key="g", node_id="n", type_url=f"made.up/{number}", message="", resources=()))
    found = values(metrics)
    assert found["crossfade_xds_rejects_total", "other"] == 100
    assert len([key for key in found if key[0] == "crossfade_xds_rejects_total"]) == 1


def test_a_status_of_an_odd_shape_breaks_nothing():
    metrics = Metrics()
    metrics.observe([{}, {"name": "x", "gates": [{"name": "g", "evidence": None}, 3], "variants": None, "lease": 5}])
    assert values(metrics)["crossfade_lease_held", "x"] == 0
