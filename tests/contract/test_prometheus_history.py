"""A real Prometheus with a history written beforehand: what is read of it is what was counted, and what cannot be read says why."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from policies.evidence import LATENCY_BINS, latency_bin
from tests.prometheus import Prometheus, needs_prometheus
from xds_server.adapters import prometheus_counters, prometheus_history
from xds_server.adapters.prometheus_history import Selectors, envoy, read
from xds_server.errors import RecordingError

START = 1_700_000_000.0
STEP_S = 15.0
ARMS = {"stable": envoy("chat-v1"), "candidate": envoy('envoy_cluster_name="chat-v2",job="envoy"')}


def line(cluster, code, at, value, instance="edge-0"):
    return (
        f'envoy_cluster_upstream_rq{{job="envoy",instance="{instance}",envoy_cluster_name="{cluster}",envoy_response_code="{code}"}}',
        value,
        at,
    )


def bucket(cluster, le, at, value):
    labels = f'job="envoy",instance="edge-0",envoy_cluster_name="{cluster}",le="{le}"'
    return f"envoy_cluster_upstream_rq_time_bucket{{{labels}}}", value, at


def times(number, every_s=STEP_S):
    """Scrapes a moment before each step ends."""
    return [START + place * every_s - 0.2 for place in range(number)]


def story():
    """1,500 scrapes: stable gets 9 requests between two, the candidate 1 of which every tenth fails; the proxy restarts before scrape 1,200.

    The candidate's first error is the first of its counter. Between 600 and 640 nothing was scraped. Yields the lines, and is a list so that
    two tests do not share an iterator.
    """
    lines = []
    for place, at in enumerate(times(1500)):
        if 600 <= place < 640:
            continue
        since = place if place < 1200 else place - 1199
        errors = since // 10
        lines.append(line("chat-v1", 200, at, 9 * since))
        lines.append(line("chat-v2", 200, at, since - errors))
        if errors:
            lines.append(line("chat-v2", 500, at, errors))
        lines += [bucket("chat-v1", le, at, (9 * since if float(le) > 100 else 0)) for le in ("100", "250", "+Inf")]
        lines += [bucket("chat-v2", le, at, (since if le == "+Inf" else 0)) for le in ("100", "250", "+Inf")]
    return lines


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    made = Prometheus(tmp_path_factory.mktemp("prometheus"))
    made.history(story())
    with made:
        end = time.monotonic() + 30
        while not made.ready():
            assert time.monotonic() < end
            time.sleep(0.02)
        yield made


@needs_prometheus
def test_a_day_of_history_is_what_was_counted(prometheus):
    found = read(prometheus.url, ARMS, start=START, end=START + 1499 * STEP_S, step=STEP_S, versions={"candidate": "v2"})
    blocks = {round(block.at / STEP_S): block.arms for block in found}
    # Neither the base nor the gap (with the first scrape after it) nor anything else is missing.
    assert sorted(blocks) == [place for place in range(1, 1500) if not 600 <= place <= 640]
    assert {arms["stable"].requests for arms in blocks.values()} == {9}
    assert {arms["candidate"].requests for arms in blocks.values()} == {1}
    failed = [place for place, arms in blocks.items() if arms["candidate"].errors]
    assert failed == [place for place in range(10, 1200, 10) if not 600 <= place <= 640] + [*range(1209, 1500, 10)]
    assert {arms["stable"].latency for arms in blocks.values()} == {((latency_bin(247.5), 9),)}
    assert {arms["candidate"].latency for arms in blocks.values()} == {((LATENCY_BINS - 1, 1),)}
    # The counters and the histograms of two clusters.
    assert found.dropped == {prometheus_counters.GAP: 4}
    assert (found.started, found.source) == (START, prometheus.url)
    assert found.variants == {"stable": "", "candidate": "v2"}
    assert found.in_force == ()


@needs_prometheus
def test_longer_steps_are_longer_blocks_of_the_same(prometheus):
    found = read(prometheus.url, ARMS, start=START, end=START + 500 * STEP_S, step=4 * STEP_S)
    assert {block.arms["stable"].requests for block in found} == {36}
    assert sum(block.arms["candidate"].errors for block in found) == 50
    assert len(found.blocks) == 125


@needs_prometheus
def test_shorter_steps_than_scrapes_do_not_count_twice(prometheus):
    found = read(prometheus.url, ARMS, start=START, end=START + 100 * STEP_S, step=STEP_S / 3)
    assert sum(block.arms["stable"].requests for block in found) == 900
    assert len(found.blocks) == 100


@needs_prometheus
def test_any_counter_with_a_code_and_any_histogram_will_do(prometheus):
    arm = Selectors(requests='{__name__=~"envoy_cluster_(.+_)?upstream_rq",envoy_cluster_name="chat-v1"}')
    found = read(prometheus.url, {"stable": arm}, start=START, end=START + 10 * STEP_S, step=STEP_S)
    assert {(block.arms["stable"].requests, block.arms["stable"].latency) for block in found} == {(9, ())}


@needs_prometheus
@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (envoy("no-such-cluster"), "has nothing of candidate"),
        (Selectors(requests="rate("), "Prometheus refuses"),
        (Selectors(requests='x{a="' + "b" * 5000 + '"}'), "longer than"),
    ],
)
def test_what_prometheus_does_not_have_or_know_is_said_with_the_query(prometheus, arm, words):
    with pytest.raises(RecordingError, match=words) as caught:
        read(prometheus.url, {**ARMS, "candidate": arm}, start=START, end=START + 10 * STEP_S, step=STEP_S)
    assert arm.requests[:20] in f"{caught.value}{caught.value.where}"


@needs_prometheus
def test_an_answer_is_bounded(prometheus, monkeypatch):
    monkeypatch.setattr(prometheus_history, "ANSWER_MAX_BYTES", 1000)
    with pytest.raises(RecordingError, match="larger than"):
        read(prometheus.url, ARMS, start=START, end=START + 100 * STEP_S, step=STEP_S)
    monkeypatch.setattr(prometheus_history, "ANSWER_MAX_BYTES", 10**8)
    monkeypatch.setattr(prometheus_history, "SERIES_MAX", 1)
    with pytest.raises(RecordingError, match="more than 1 series"):
        read(prometheus.url, ARMS, start=START, end=START + 100 * STEP_S, step=STEP_S)


@pytest.mark.parametrize(
    ("start", "end", "step", "words"),
    [
        (START, START, 15.0, "shorter than a step"),
        (START, START + 1e9, 1.0, "steps"),
        (4e9, 4e9 + 1e6, 15.0, "not over yet"),
        (START, START + 60, 0.0, "shorter than a step"),
        (START, float("nan"), 15.0, "shorter than a step"),
    ],
)
def test_a_time_that_cannot_be_is_refused_before_anything_is_asked(start, end, step, words):
    with pytest.raises(RecordingError, match=words):
        read("http://127.0.0.1:1", ARMS, start=start, end=end, step=step)


@pytest.mark.parametrize("url", ["127.0.0.1:9090", "ftp://127.0.0.1", "http://", "http://[", "", "http://127.0.0.1:x"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(RecordingError):
        read(url, ARMS, start=START, end=START + 60)


def test_nobody_there_is_said_without_the_password():
    with pytest.raises(RecordingError, match="no Prometheus answers") as caught:
        read("http://me:secret@127.0.0.1:1", ARMS, start=START, end=START + 60)
    assert "secret" not in f"{caught.value}{caught.value.where}{caught.value.hint}"


@pytest.fixture
def answers():
    """Something else than Prometheus at its address: set `.status` and `.body`; `.heard` is what was asked."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            server.heard.append(self.headers)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(server.status)
            self.end_headers()
            self.wfile.write(server.body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    server.status, server.body, server.heard = 200, b"", []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "no Prometheus"),
        (404, b"not found", "HTTP 404"),
        (302, b"", "HTTP 302"),
        (200, b"[]", "no Prometheus"),
        (200, b"[" * 100_000, "no Prometheus"),
        (200, b'{"status": "success"}', "another form"),
        (200, b'{"status": "success", "data": {"result": [{"metric": {}, "values": [[1, "x"]]}]}}', "another form"),
        (200, b'{"status": "success", "data": {"result": [7]}}', "another form"),
        (422, b'{"status": "error", "error": "too many samples"}', "refuses: too many samples"),
        (200, b'{"status": "success", "data": {"result": []}, "warnings": ["store 3 is away"]}', "warns.*store 3 is away"),
        (200, b'{"status": "success", "data": {"result": []}}', "has nothing of"),
    ],
)
def test_every_other_answer_is_an_error_and_a_partial_one_too(answers, status, body, words):
    answers.status, answers.body = status, body
    with pytest.raises(RecordingError, match=words):
        read(answers.url, ARMS, start=START, end=START + 60)


def test_headers_are_sent_along(answers):
    answers.body = json.dumps({"status": "success", "data": {"result": []}}).encode()
    with pytest.raises(RecordingError):
        read(answers.url, ARMS, start=START, end=START + 60, headers={"Authorization": "Bearer x"})
    assert {heard["authorization"] for heard in answers.heard} == {"Bearer x"}
