"""What a policy file means: every part of it as the value the engine gets, and every limit of it."""

import pytest
from pydantic import TypeAdapter

from policies.gates import open_gate
from policies.presets import RUNTIMES
from policies.spec import policy as p
from policies.spec.loader import load
from tests.specs import PROXIES, fault, loaded, rollout, text, value, variant


def test_a_whole_policy_becomes_the_values_it_says():
    found = load(
        {
            "a.yaml": b"""
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec:
  select: {cluster: edge, node_id: "edge-*", metadata: {site.name: berlin}}
  listeners: [{name: public, port: 8080}, {name: six, address: "0:0::1", port: 8080}]
---
apiVersion: crossfade/v1
kind: Rollout
metadata: {name: chat, labels: {team: assistants, area: llm}}
spec:
  traffic:
    proxies: edge
    listener: public
    match: [{host: Chat.Models.Internal, path_prefix: /v1/}, {host: "*"}]
    timeout: 1.5m
    fallback: gateway
  variants:
    stable: {version: llama-3-8b-fp16, endpoints: {dns: Chat.svc, port: 8000}, runtime: vllm}
    candidate:
      version: "1.10"
      endpoints: {static: ["10.0.0.7:8000", "[fd00:0::7]:08000"]}
      health: {path: /ready, interval: 250ms, timeout: 2s}
      pods: {max_concurrency: 64}
  assignment: {sticky: {header: X-User-Id}, salt: s1}
  steps:
    - shadow: {share: 12.34%, hold: {for: 10m, samples: 2000}}
    - canary: {shares: [0.01%, 5 %, 100%], hold: {for: 1h}}
    - promote: {keep_stable_for: 1d}
  gates:
    - {name: errors, metric: envoy/error_rate, margin: {absolute: 0.5%, relative: 150%}}
    - {name: slow, metric: envoy/latency, role: signal, statistic: p99.9, margin: {absolute: 50ms}}
    - {name: any, metric: envoy/latency, margin: {relative: 25%}}
  errors: {false_revert: 0.25%}
  when:
    fail: hold
    no_data: {after: 30s, then: revert}
    nack: hold
    stuck: {after: 7d, then: hold}
  lease: {ttl: 1.5s, required: true}
"""
        }
    )
    assert found.errors == ()
    assert found.proxies == (
        p.ProxiesPolicy(
            name="edge",
            select=p.Select(cluster="edge", node_id="edge-*", metadata=(("site.name", "berlin"),)),
            listeners=(p.Listener(name="public", address="0.0.0.0", port=8080), p.Listener(name="six", address="::1", port=8080)),
        ),
    )
    assert found.rollouts == (
        p.RolloutPolicy(
            name="chat",
            labels=(("area", "llm"), ("team", "assistants")),
            traffic=p.TrafficSpec(
                proxies="edge",
                listener="public",
                match=(p.Match(host="chat.models.internal", path_prefix="/v1/"), p.Match()),
                timeout_s=90.0,
                fallback=p.Fallback.GATEWAY,
            ),
            stable=p.Variant(
                name="stable",
                version="llama-3-8b-fp16",
                endpoints=p.DnsEndpoints(host="chat.svc", port=8000),
                runtime="vllm",
                health=p.HealthCheck(path="/health"),
            ),
            arms=(
                p.Variant(
                    name="candidate",
                    version="1.10",
                    endpoints=p.StaticEndpoints(addresses=("10.0.0.7:8000", "[fd00::7]:8000")),
                    health=p.HealthCheck(path="/ready", interval_s=0.25, timeout_s=2.0),
                    max_concurrency=64,
                ),
            ),
            assignment=p.Assignment(sticky_header="x-user-id", salt="s1"),
            steps=(
                p.ShadowStep(shares=(("candidate", 1234),), hold=p.Hold(for_s=600.0, samples=2000)),
                p.CanaryStep(stages=tuple(((("candidate", share_bp),), p.Hold(for_s=3600.0)) for share_bp in (1, 500, 10_000))),
                p.PromoteStep(keep_stable_for_s=86400.0),
            ),
            gates=(
                p.Gate(name="errors", metric=p.Metric.ERROR_RATE, statistic="mean", margin=p.Margin(absolute=0.005, relative=1.5)),
                p.Gate(name="slow", metric=p.Metric.LATENCY, role=p.Role.SIGNAL, statistic="p99.9", margin=p.Margin(absolute=50.0)),
                p.Gate(name="any", metric=p.Metric.LATENCY, statistic="distribution", margin=p.Margin(relative=0.25)),
            ),
            false_revert=0.0025,
            when=p.When(
                fail=p.Then.HOLD, no_data_after_s=30.0, no_data=p.Then.REVERT, nack=p.Then.HOLD, stuck_after_s=604800.0, stuck=p.Then.HOLD
            ),
            lease=p.Lease(ttl_s=1.5, required=True),
        ),
    )
    assert found.files == {("Rollout", "chat"): "a.yaml", ("Proxies", "edge"): "a.yaml"}


def test_what_is_left_out_gets_the_defaults_of_the_values():
    found = value(traffic={"proxies": "edge", "listener": "public"})
    plain = p.RolloutPolicy(
        name="chat",
        traffic=p.TrafficSpec(proxies="edge", listener="public"),
        stable=found.stable,
        arms=found.arms,
        steps=found.steps,
    )
    for part in ("traffic", "assignment", "when", "lease", "false_revert", "labels"):
        assert getattr(found, part) == getattr(plain, part), part
    assert found.stable == p.Variant(name="stable", version="v1", endpoints=p.StaticEndpoints(addresses=("127.0.0.1:8001",)))


def test_the_values_survive_json():
    found = value(lease="10s", gates=[{"name": "slow", "metric": "envoy/latency", "margin": {"absolute": "50ms"}}])
    adapter = TypeAdapter(p.RolloutPolicy)
    assert adapter.validate_json(adapter.dump_json(found)) == found


def test_a_lease_may_be_written_short():
    assert value(lease="10s") == value(lease={"ttl": "10s"})


def test_sticky_none_and_no_sticky_are_the_same():
    assert value(assignment={"sticky": "none"}) == value()


def test_a_rollout_without_candidate_needs_no_steps():
    assert value(variants={"stable": variant()}, steps=None).arms == ()
    assert fault(steps=[]).path == "spec.steps"


@pytest.mark.parametrize("share", ["0.01%", "0.29%", "0.57%", "1.15%", "33.33%", "99.99%", "100%"])
def test_percentages_of_two_decimals_are_exact(share):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    (step, *_) = value(steps=[{"canary": {"shares": [share], "hold": {"for": "1m"}}}]).steps
    ((((_, share_bp),), _),) = step.stages
    assert f"{share_bp // 100}.{share_bp % 100:02}" == f"{float(share[:-1]):.2f}"


@pytest.mark.parametrize("share", ["0%", "100.01%", "1000%", "0.001%", "-1%", "5", 5, 0.05, "5 percent", "%", "", ["5%"], {}, "5%\n", "٥%"])
def test_a_share_is_more_than_0_and_at_most_100_per_cent_and_has_its_sign(share):
    assert fault(steps=[{"shadow": {"share": share}}, {"promote": {}}]).path == "spec.steps[0].shadow.share"


@pytest.mark.parametrize(
    ("written", "seconds"), [("300ms", 0.3), ("5s", 5), ("1.5m", 90), ("1h", 3600), ("7d", 604800), ("0s", 0), ("0.001s", 0.001)]
)
def test_durations_carry_a_unit(written, seconds):
    assert value(traffic={"proxies": "edge", "listener": "public", "timeout": written}).traffic.timeout_s == seconds


@pytest.mark.parametrize(
    "written", [5, 5.0, "5", "5 s", "s", "-1s", "1h30m", "5M", "1w", "9999999999s", "999999999d", "", True, [], "5s\n"]
)
def test_anything_else_is_no_duration(written):
    error = fault(traffic={"proxies": "edge", "listener": "public", "timeout": written})
    assert (error.path, error.expected[:2]) in {("spec.traffic.timeout", "a "), ("spec.traffic.timeout", "at")}


def test_a_number_without_unit_is_told_how_to_write_it():
    assert fault(traffic={"proxies": "edge", "listener": "public", "timeout": 300}).hint == "write 300s for seconds"
    assert fault(steps=[{"shadow": {"share": 5}}, {"promote": {}}]).hint == "write 5% for per cent"


@pytest.mark.parametrize(
    "address",
    [
        "localhost:80", "10.0.0.7", "10.0.0.7:", "10.0.0.7:0", "10.0.0.7:65536", "10.0.0.7:8²", "fd00::7:80", "[10.0.0.7]:80", "[fd00::7]",
        "[fe80::1%eth0]:80", "10.0.0.256:80", "010.0.0.1:80", "10.0.0.7:80\n", "", 8000,
    ],
)  # fmt: skip
def test_static_endpoints_are_ip_and_port(address):
    error = fault(variants={"stable": {"version": "v1", "endpoints": {"static": [address]}}})
    assert error.path == "spec.variants.stable.endpoints.static[0]"


@pytest.mark.parametrize(
    "endpoints",
    [{}, {"static": []}, {"dns": "a"}, {"port": 80}, {"static": ["1.1.1.1:80"], "dns": "a", "port": 80}, {"static": ["1.1.1.1:80"], "port": 80},
     {"static": ["1.1.1.1:80", "1.1.1.1:80"]}, {"dns": "a b", "port": 80}, {"dns": "a", "port": "80"}, {"dns": "a", "port": True}],
)  # fmt: skip
def test_endpoints_are_either_static_or_dns_with_port(endpoints):
    assert fault(variants={"stable": {"version": "v1", "endpoints": endpoints}}).path.startswith("spec.variants.stable.endpoints")


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_every_runtime_gives_its_health_check_or_says_what_it_needs(runtime):
    preset = RUNTIMES[runtime]
    if preset.needs_path:
        error = fault(variants={"stable": variant(runtime=runtime)})
        assert (error.path, error.hint) == ("spec.variants.stable.runtime", f"health: {{path: {preset.needs_path}}}")
    else:
        assert value(variants={"stable": variant(runtime=runtime)}, steps=None).stable.health == preset.health
    own = value(variants={"stable": variant(runtime=runtime, health={"path": "/mine"})}, steps=None).stable.health
    assert own == p.HealthCheck(path="/mine")


def test_health_without_path_keeps_the_runtimes_path():
    assert value(variants={"stable": variant(runtime="vllm", health={"interval": "5s"})}, steps=None).stable.health == p.HealthCheck(
        path="/health", interval_s=5.0
    )
    assert fault(variants={"stable": variant(health={"interval": "5s"})}).path == "spec.variants.stable.health"


@pytest.mark.parametrize(
    "statistic", [None, "distribution", "p1", "p50", "p99", "p99.9", "p99.99", "p0", "p100", "mean", "max", "p5x", "p01"]
)
@pytest.mark.parametrize("metric", ["envoy/latency", "envoy/error_rate"])
def test_a_gate_that_is_accepted_can_be_opened(statistic, metric):
    margin = {"absolute": "50ms"} if metric == "envoy/latency" else {"absolute": "5%"}
    gate = {"name": "g", "metric": metric, "margin": margin} | ({"statistic": statistic} if statistic else {})
    found = loaded(rollout(gates=[gate]))
    good = {None, "mean"} if metric == "envoy/error_rate" else {None, "distribution", "p1", "p50", "p99", "p99.9", "p99.99"}
    assert (not found.errors) == (statistic in good)
    for policy in found.rollouts:
        open_gate(policy.gates[0], now=0.0, deadline_s=60.0)


@pytest.mark.parametrize(
    ("metric", "margin", "path"),
    [
        ("envoy/latency", {"absolute": "5%"}, "spec.gates[0].margin.absolute"),
        ("envoy/error_rate", {"absolute": "50ms"}, "spec.gates[0].margin.absolute"),
        ("envoy/error_rate", {"absolute": "100%"}, "spec.gates[0].margin.absolute"),
        ("envoy/error_rate", {"relative": "50ms"}, "spec.gates[0].margin.relative"),
        ("envoy/error_rate", {}, "spec.gates[0].margin"),
    ],
)
def test_a_margin_has_the_unit_of_its_metric(metric, margin, path):
    assert fault(gates=[{"name": "g", "metric": metric, "margin": margin}]).path == path


@pytest.mark.parametrize(
    ("gate", "limit"),
    [
        ({"metric": "envoy/error_rate", "limit": {"below": "1%"}}, 0.01),
        ({"metric": "envoy/latency", "statistic": "p95", "limit": {"below": "800ms"}}, 800.0),
        ({"metric": "envoy/latency", "statistic": "p99.9", "role": "signal", "limit": {"below": "2s"}}, 2000.0),
    ],
)
def test_a_limit_takes_the_place_of_a_margin(gate, limit):
    assert [each.limit for each in value(gates=[{"name": "g", **gate}]).gates] == [limit]


@pytest.mark.parametrize(
    ("gate", "path"),
    [
        ({"metric": "envoy/error_rate", "limit": {"below": "1%"}, "margin": {"relative": "5%"}}, "limit"),
        ({"metric": "envoy/error_rate", "limit": {"below": "1%"}, "role": "goal", "better_by": {"relative": "0%"}}, "limit"),
        ({"metric": "envoy/error_rate", "limit": {"below": "50ms"}}, "limit.below"),
        ({"metric": "envoy/error_rate", "limit": {"below": "0%"}}, "limit.below"),
        ({"metric": "envoy/error_rate", "limit": {"below": "100%"}}, "limit.below"),
        ({"metric": "envoy/latency", "statistic": "p95", "limit": {"below": "5%"}}, "limit.below"),
        ({"metric": "envoy/latency", "limit": {"below": "800ms"}}, "statistic"),
        ({"metric": "envoy/error_rate", "limit": {}}, "limit.below"),
        ({"metric": "envoy/error_rate", "limit": {"below": "5%", "above": "1%"}}, "limit.above"),
    ],
)
def test_a_limit_has_the_unit_of_its_metric_and_stands_alone(gate, path):
    assert fault(gates=[{"name": "g", **gate}]).path == f"spec.gates[0].{path}"


def test_the_blast_radius_is_not_asked_for_unless_the_policy_does():
    assert value().blast_radius is None
    assert value(errors={"blast_radius": "0.1%"}).blast_radius == 0.001


@pytest.mark.parametrize("radius", ["0%", "100%", "0.01", 1])
def test_a_blast_radius_is_a_part_of_all_requests(radius):
    assert fault(errors={"blast_radius": radius}).path == "spec.errors.blast_radius"


@pytest.mark.parametrize("budget", ["0%", "50.01%", "100%", "0.01", 1])
def test_the_error_budget_is_more_than_0_and_at_most_50_per_cent(budget):
    assert fault(errors={"false_revert": budget}).path == "spec.errors.false_revert"


@pytest.mark.parametrize("lease", ["999ms", "61m", "30", 30, {"ttl": "0s"}, {"required": "yes"}, {"required": 1}, True, []])
def test_a_lease_is_from_1_second_to_1_hour(lease):
    assert fault(lease=lease).path.startswith("spec.lease")


@pytest.mark.parametrize("name", ["Chat", "-a", "a-", "a.b", "a_b", "", "a" * 64, "ä", 5, None, "a\n"])
def test_names_are_dns_labels(name):
    assert [error.path for error in loaded(rollout(name)).errors] == ["metadata.name"]


@pytest.mark.parametrize("version", ["", "a b", "org/model", "a:b", ".a", "a.", "a" * 101, "v1\n"])
def test_versions_are_plain_words(version):
    assert fault(variants={"stable": variant(version)}).path == "spec.variants.stable.version"


@pytest.mark.parametrize("header", ["", "a b", "x:y", ":authority", "ä", "a\r\nb", "x" * 101])
def test_a_sticky_header_is_a_header_name(header):
    assert fault(assignment={"sticky": {"header": header}}).path == "spec.assignment.sticky.header"


@pytest.mark.parametrize("host", ["a:80", "http://a", "a b", "*a", "a.*", "", "a/b"])
def test_a_host_has_no_port_and_at_most_a_star_in_front(host):
    assert fault(traffic={"proxies": "edge", "listener": "public", "match": [{"host": host}]}).path == "spec.traffic.match[0].host"


@pytest.mark.parametrize("prefix", ["v1", "", "/a?b", "/a#b", "/a b", "/ä"])
def test_a_path_prefix_starts_with_a_slash_and_has_no_query(prefix):
    assert (
        fault(traffic={"proxies": "edge", "listener": "public", "match": [{"path_prefix": prefix}]}).path
        == "spec.traffic.match[0].path_prefix"
    )


@pytest.mark.parametrize(
    ("listeners", "path"),
    [
        ([], "spec.listeners"),
        ([{"name": "a", "port": 1}, {"name": "a", "port": 2}], "spec.listeners[1].name"),
        ([{"name": "a", "port": 1}, {"name": "b", "port": 1}], "spec.listeners[1].port"),
        ([{"name": "a", "address": "10.0.0.1", "port": 1}, {"name": "b", "address": "0.0.0.0", "port": 1}], "spec.listeners[1].port"),
        ([{"name": "a", "address": "::1", "port": 1}, {"name": "b", "address": "0:0::1", "port": 1}], "spec.listeners[1].port"),
        ([{"name": "a", "port": 0}], "spec.listeners[0].port"),
        ([{"name": "a", "port": 65536}], "spec.listeners[0].port"),
        ([{"name": "a", "address": "localhost", "port": 1}], "spec.listeners[0].address"),
    ],
)
def test_listeners_have_names_and_ports_of_their_own(listeners, path):
    errors = load({"f": text(PROXIES | {"spec": {"select": {"cluster": "x"}, "listeners": listeners}})}).errors
    assert [error.path for error in errors] == [path]


def test_one_port_on_two_addresses_is_two_listeners():
    listeners = [
        {"name": "a", "address": "10.0.0.1", "port": 1},
        {"name": "b", "address": "10.0.0.2", "port": 1},
        {"name": "c", "address": "::", "port": 1},
    ]
    assert not load({"f": text(PROXIES | {"spec": {"select": {"cluster": "x"}, "listeners": listeners}})}).errors


def test_a_group_selects_something():
    assert [
        error.path for error in load({"f": text(PROXIES | {"spec": {"select": {}, "listeners": [{"name": "a", "port": 1}]}})}).errors
    ] == ["spec.select"]


CANARY = {"canary": {"shares": ["5%"], "hold": {"for": "1m"}}}


@pytest.mark.parametrize(
    ("steps", "path"),
    [
        ([{"promote": {}}, CANARY], "spec.steps[0]"),
        ([CANARY, {"promote": {}}, {"promote": {}}], "spec.steps[1]"),
        ([CANARY, CANARY], "spec.steps[1].canary.shares[0]"),
        ([{"canary": {"shares": ["5%", "5%"]}}], "spec.steps[0].canary.shares[1]"),
        ([{"canary": {"shares": ["50%", "5%"]}}], "spec.steps[0].canary.shares[1]"),
        ([{"canary": {"shares": []}}], "spec.steps[0].canary.shares"),
        ([{"canary": {"shares": "5%"}}], "spec.steps[0].canary.shares"),
        ([{}], "spec.steps[0]"),
        ([{"canary": {"shares": ["5%"]}, "promote": {}}], "spec.steps[0]"),
        ([{"canary": {"shares": ["5%"], "hold": {"samples": 1.5}}}], "spec.steps[0].canary.hold.samples"),
        ([{"canary": {"shares": ["5%"], "hold": {"samples": -1}}}], "spec.steps[0].canary.hold.samples"),
    ],
)
def test_steps_lead_forward(steps, path):
    assert fault(steps=steps).path == path


def test_gate_names_and_matches_stand_once():
    gate = {"name": "g", "metric": "envoy/latency", "margin": {"relative": "5%"}}
    assert fault(gates=[gate, gate]).path == "spec.gates[1].name"
    assert fault(traffic={"proxies": "edge", "listener": "public", "match": [{"host": "a"}, {"host": "A"}]}).path == "spec.traffic.match[1]"


@pytest.mark.parametrize(
    ("key", "written"), [("interval", "99ms"), ("timeout", "9ms"), ("path", "health"), ("path", "/a b"), ("path", "/é")]
)
def test_health_checks_are_bounded(key, written):
    error = fault(variants={"stable": variant(health={"path": "/health", key: written})})
    assert error.path == f"spec.variants.stable.health.{key}"


@pytest.mark.parametrize("key", ["no_data", "source_error", "stuck"])
def test_nothing_happens_by_itself_within_a_second(key):
    assert fault(when={key: {"after": "999ms", "then": "hold"}}).path == f"spec.when.{key}.after"


def test_the_version_and_what_is_behind_it_are_the_identity():
    """The same pods in another order, another runtime or other limits are the same version; other pods are not."""
    pods = ["10.0.0.1:80", "10.0.0.2:80"]
    one, same, other = (
        value(variants={"stable": {"version": "v1", "endpoints": endpoints, **more}}).stable.identity
        for endpoints, more in (
            ({"static": pods}, {}),
            ({"static": pods[::-1]}, {"runtime": "vllm", "pods": {"max_concurrency": 3}}),
            ({"dns": "pods", "port": 80}, {}),
        )
    )
    assert one == same != other
    assert one.startswith("v1.")
