"""A version's pods in two halves: errors counted exactly, good answers by one in `SAMPLED`."""

import base64
import json
from pathlib import Path

import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from xds_server.evidence import halves
from xds_server.evidence.collector import Collector
from xds_server.resources.names import Owner

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures/access_log/answered.json").read_text())
[ENTRY, *_] = [
    entry
    for kind, raw in RECORDED["said"]
    if kind == "log"
    for entry in StreamAccessLogsMessage.FromString(base64.b64decode(raw)).http_logs.log_entry
]
OWNERS = {cluster: Owner(**owner, timeout_s=RECORDED["timeout_s"]) for cluster, owner in RECORDED["owners"].items()}
VERSION = RECORDED["candidate"]


def log(*seen):
    """A message with (pod, status, count) of the recorded entry."""
    message = StreamAccessLogsMessage()
    for pod, status, count in seen:
        for _ in range(count):
            entry = message.http_logs.log_entry.add()
            entry.CopyFrom(ENTRY)
            entry.common_properties.upstream_remote_address.socket_address.address = pod
            entry.response.response_code.value = status
            entry.request.request_id = f"{pod}{status}{len(message.http_logs.log_entry)}"
    return message.SerializeToString()


def halved(collector):
    [(_, block)] = collector.close(1.0)
    return block.halves.get(VERSION)


@pytest.fixture
def collector():
    found = Collector(lambda: 0.0)
    found.own("chat", OWNERS)
    return found


def test_errors_are_counted_where_their_pod_is(collector):
    collector.access_log(log(("10.0.0.1", 500, 3), ("10.0.0.2", 500, 5), ("10.0.0.3", 503, 2)))
    assert halved(collector) == ((3 + 2, 3 + 2), (5, 5))


def test_good_answers_are_counted_about_right(collector):
    for pods in (2, 3, 8, 16):
        collector.access_log(log(*[(f"10.0.{pods}.{pod}", 200, 1) for pod in range(pods)] * (4800 // pods)))
        (first, wrong), (second, worse) = halved(collector)
        assert (wrong, worse) == (0, 0)
        assert first + second == pytest.approx(4800, rel=0.02)
        assert max(first, second) / min(first, second) == pytest.approx(2 if pods == 3 else 1, rel=0.05)
        collector.own("chat", {})
        collector.own("chat", OWNERS)


def test_a_pod_stays_in_its_half(collector):
    collector.access_log(log(("10.0.0.1", 500, 1), ("10.0.0.2", 500, 1)))
    assert halved(collector) == ((1, 1), (1, 1))
    collector.access_log(log(("10.0.0.2", 502, 4)))
    assert halved(collector) == ((0, 0), (4, 4))


def test_versions_that_are_gone_are_forgotten_and_pods_are_bounded(collector, monkeypatch):
    monkeypatch.setattr(halves, "PODS_MAX", 2)
    collector.access_log(log(("10.0.0.1", 500, 1), ("10.0.0.2", 500, 1), ("10.0.0.3", 500, 9)))
    assert halved(collector) == ((1, 1), (1, 1))
    collector.own("chat", {})
    collector.own("chat", OWNERS)
    collector.access_log(log(("10.0.0.3", 502, 4)))
    assert halved(collector) == ((4, 4), (0, 0))


def test_without_a_pod_there_is_nothing_to_halve(collector):
    collector.access_log(log(("", 500, 4)))
    assert halved(collector) is None
