"""The other forms of the policy language: who owns which requests, who gets which arm, what a variant changes, gates, freeze windows."""

import pytest

from policies.gates import open_gate
from policies.spec import policy as p
from policies.spec.loader import load
from policies.spec.parts import ARMS_MAX
from tests.specs import PROMOTE, PROXIES, fault, loaded, rollout, text, value, variant

WHERE = {"proxies": "edge", "listener": "public"}


def told(part, **spec):
    """Path below a part of `spec`, and message, of the one error of a bad rollout."""
    error = fault(**spec)
    return error.path.removeprefix(f"spec.{part}"), error.message


# Variants.


def test_every_name_beside_stable_is_an_arm_in_the_documents_order():
    variants = {"zeta": variant("v2", 8002), "stable": variant(), "alpha": variant("v3", 8003)}
    found = value(variants=variants, steps=[{"switch": {"to": "zeta"}}, {"promote": {"variant": "zeta"}}])
    assert [arm.name for arm in found.arms] == ["zeta", "alpha"]
    assert found.stable.name == "stable"


def arms(count):
    return {"stable": variant()} | {f"a{number}": variant(f"v{number}", 9000 + number) for number in range(count)}


def test_there_are_at_most_eight_arms():
    steps = [{"shadow": {"share": "5%", "hold": {"for": "1m"}}}, PROMOTE | {"promote": {"variant": "a0"}}]
    assert len(value(variants=arms(ARMS_MAX), steps=steps).arms) == ARMS_MAX
    assert told("variants", variants=arms(ARMS_MAX + 1), steps=steps) == ("", "there are 9 arms")


@pytest.mark.parametrize("name", ["Arm", "a_b", "-a", "a" * 64, "ä"])
def test_arms_have_dns_labels(name):
    assert told("variants.", variants={"stable": variant(), name: variant("v2", 8002)})[0] == name[:60]


def test_a_misspelt_stable_is_no_arm():
    error = fault(variants={"stabel": variant(), "candidate": variant("v2", 8002)})
    assert (error.path, error.hint) == ("spec.variants.stabel", "call it stable")


def configured(**config):
    return {"stable": variant(), "candidate": variant("v2", 8002, config=config)}


def test_a_variant_may_change_headers_path_and_model():
    (arm,) = value(variants=configured(headers={"X-Sampler": "dpm++", "A": "1"}, path="/v2/", model="m int8")).arms
    assert arm.config == p.Config(headers=(("a", "1"), ("x-sampler", "dpm++")), path="/v2/", model="m int8")


@pytest.mark.parametrize(
    "name",
    ["host", "Content-Length", "transfer-encoding", "Connection", "te", "upgrade", "x-request-id", "x-envoy-retry-on", "X-Crossfade-A", ":path"],
)  # fmt: skip
def test_headers_that_the_proxy_needs_are_not_changed(name):
    assert told("variants.candidate.config.headers.", variants=configured(headers={name: "a"})) == (
        name,
        f"{name!r} belongs to the proxy",
    )


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        ({}, "", "config changes nothing"),
        ({"headers": {}}, "", "config changes nothing"),
        ({"headers": {"a b": "c"}}, ".headers.a b", "'a b' does not fit"),
        ({"headers": {"a": "b\r\nc: d"}}, ".headers.a", "'b\\r\\nc: d' does not fit"),
        ({"headers": {"a": 5}}, ".headers.a", "5 is not text here"),
        ({"headers": {"a": "1", "A": "2"}}, ".headers.A", "'A' stands twice"),
        ({"path": "v2"}, ".path", "'v2' does not fit"),
        ({"path": "/a?b"}, ".path", "'/a?b' does not fit"),
        ({"model": 7}, ".model", "7 is not text here"),
        ({"body": {}}, ".body", "unknown key 'body'"),
    ],
)
def test_a_config_says_what_it_changes(config, path, message):
    assert told("variants.candidate.config", variants=configured(**config)) == (path, message)


def test_the_config_is_part_of_the_identity():
    plain, changed = (value(variants=configured(model=model)).arms[0].identity for model in ("a", "b"))
    assert plain != changed


def test_pods_start_slowly_and_speak_http2_where_they_are_told_to():
    pods = {"slow_start": "30s", "protocol": "http2", "max_concurrency": 3}
    stable = value(variants={"stable": variant(pods=pods)}, steps=None).stable
    assert (stable.slow_start_s, stable.http2, stable.max_concurrency) == (30.0, True, 3)
    assert told("variants.stable.pods", variants={"stable": variant(pods={"protocol": "grpc"})}) == (
        ".protocol",
        "'grpc' is not known here",
    )


# Whose requests.


def matching(*match):
    return {"traffic": WHERE | {"match": list(match)}}


HTTP2 = {"stable": variant(pods={"protocol": "http2"}), "candidate": variant("v2", 8002, pods={"protocol": "http2"})}


def test_a_grpc_service_is_the_start_of_a_path():
    (match,) = value(**matching({"host": "a", "grpc": "inference.v2.GRPCInferenceService"}), variants=HTTP2).traffic.match
    assert match == p.Match(host="a", path_prefix="/inference.v2.GRPCInferenceService/")


@pytest.mark.parametrize(
    ("match", "path", "message"),
    [
        ({"grpc": "a.B", "path_prefix": "/"}, ".path_prefix", "the path is said twice"),
        ({"grpc": "/a.B/"}, ".grpc", "'/a.B/' does not fit"),
        ({"grpc": "a..B"}, ".grpc", "'a..B' does not fit"),
    ],
)
def test_a_grpc_service_is_a_name(match, path, message):
    assert told("traffic.match[0]", **matching(match), variants=HTTP2) == (path, message)


def test_grpc_does_not_go_to_pods_of_http1():
    error = fault(**matching({"grpc": "a.B"}), variants=HTTP2 | {"candidate": variant("v2", 8002)})
    assert (error.path, error.hint) == ("spec.variants.candidate.pods", "pods: {protocol: http2}")


@pytest.mark.parametrize("compare", [compare for compare in p.Compare if compare is not p.Compare.PRESENT])
def test_a_header_is_compared_in_one_way(compare):
    (match,) = value(**matching({"headers": [{"header": "X-A", compare.value: "b"}, {"header": "c", "present": True}]})).traffic.match
    assert match.headers == (
        p.HeaderMatch(name="x-a", compare=compare, value="b"),
        p.HeaderMatch(name="c", compare=p.Compare.PRESENT),
    )


@pytest.mark.parametrize(
    ("condition", "path", "message"),
    [
        ({"header": "x-a"}, "", "x-a is compared with nothing"),
        ({"header": "x-a", "exact": "a", "prefix": "b"}, "", "x-a has exact and prefix"),
        ({"exact": "a"}, ".header", "header is missing"),
        ({"header": "host", "exact": "a"}, ".header", "the host is no header here"),
        ({"header": ":path", "exact": "a"}, ".header", "':path' does not fit"),
        ({"header": "x-a", "present": False}, ".present", "False is no condition"),
        ({"header": "x-a", "exact": ""}, ".exact", "'' does not fit"),
        ({"header": "x-a", "exact": " a"}, ".exact", "' a' does not fit"),
        ({"header": "x-a", "exact": 1}, ".exact", "1 is not text here"),
        ({"header": "x-a", "regex": "a("}, ".regex", "a ( is not closed in 'a('"),
        ({"header": "x-a", "equals": "a"}, ".equals", "unknown key 'equals'"),
    ],
)
def test_a_condition_that_makes_no_sense_is_told(condition, path, message):
    assert told("traffic.match[0].headers[0]", **matching({"headers": [condition]})) == (path, message)


# Who gets which arm.


@pytest.mark.parametrize(
    ("sticky", "more", "cookie"),
    [
        ({"cookie": {"name": "a", "ttl": "1h"}}, {}, p.Cookie(name="a", ttl_s=3600.0)),
        ({"cookie": "a"}, {}, p.Cookie(name="a")),
        ({"cookie": {}}, {}, p.Cookie(name="crossfade-chat")),
        ({"cookie": {}}, {"salt": "s"}, p.Cookie(name="crossfade-s")),
        ({"cookie": {}}, {"layer": "l"}, p.Cookie(name="crossfade-l")),
    ],
)
def test_a_cookie_names_the_user_and_has_the_name_of_the_salt_if_no_other(sticky, more, cookie):
    found = value(assignment={"sticky": sticky, **more}).assignment
    assert (found.cookie, found.sticky_header, found.sticky) == (cookie, None, True)


def test_rollouts_of_a_layer_need_no_salt():
    found = value(assignment={"sticky": {"header": "X-User"}, "layer": "front"}).assignment
    assert (found.layer, found.salt, found.sticky_header) == ("front", "", "x-user")


STAFF = {"name": "staff", "when": {"header": "X-Staff", "exact": "1"}, "variant": "candidate"}


def test_segments_pin_by_one_condition_or_by_several():
    several = {"name": "out", "when": [{"header": "a", "prefix": "b"}, {"header": "c", "present": True}], "variant": "stable"}
    assert value(assignment={"segments": [STAFF, several]}).assignment.segments == (
        p.Segment(name="staff", when=(p.HeaderMatch(name="x-staff", value="1"),), variant="candidate"),
        p.Segment(
            name="out",
            when=(p.HeaderMatch(name="a", compare=p.Compare.PREFIX, value="b"), p.HeaderMatch(name="c", compare=p.Compare.PRESENT)),
            variant="stable",
        ),
    )


@pytest.mark.parametrize(
    ("assignment", "path", "message"),
    [
        ({"sticky": {}}, ".sticky", "nothing names the user"),
        ({"sticky": {"header": "a", "cookie": "b"}}, ".sticky", "the user is named twice"),
        ({"sticky": {"cookie": "a b"}}, ".sticky.cookie.name", "'a b' does not fit"),
        ({"sticky": {"cookie": {"ttl": "59s"}}}, ".sticky.cookie.ttl", "the users would change versions all the time"),
        ({"sticky": "cookie"}, ".sticky", "'cookie' is not a way to be sticky"),
        ({"layer": "a"}, ".layer", "a layer needs to know who is the same user"),
        ({"layer": "a", "sticky": "none"}, ".layer", "a layer needs to know who is the same user"),
        ({"layer": "a", "sticky": {"header": "a"}, "salt": "b"}, ".salt", "a layer has its own salt"),
        ({"layer": "A", "sticky": {"header": "a"}}, ".layer", "'A' does not fit"),
        ({"segments": [STAFF, STAFF]}, ".segments[1].name", "two segments are called 'staff'"),
        ({"segments": [STAFF | {"when": []}]}, ".segments[0].when", "a list does not fit"),
        ({"segments": [STAFF | {"when": {"header": "a"}}]}, ".segments[0].when", "a is compared with nothing"),
        ({"segments": [STAFF | {"when": "staff"}]}, ".segments[0].when", "'staff' does not fit"),
        ({"segments": [STAFF | {"name": f"s{number}"} for number in range(33)]}, ".segments", "a list does not fit"),
    ],
)
def test_an_assignment_makes_sense(assignment, path, message):
    assert told("assignment", assignment=assignment) == (path, message)


# Gates.

RATE = {"name": "g", "metric": "envoy/error_rate"}
SLOW = {"name": "g", "metric": "envoy/latency"}
GUARD = {"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "1%"}}


@pytest.mark.parametrize(
    ("gate", "margin", "better_by"),
    [
        (RATE | {"better_by": {"absolute": "0%"}}, p.Margin(absolute=0.005), p.Margin(absolute=0.0)),
        (SLOW | {"better_by": {"relative": "5%"}}, p.Margin(relative=0.05), p.Margin(relative=0.05)),
        (SLOW | {"better_by": {"absolute": "20ms"}, "margin": {"relative": "3%"}}, p.Margin(relative=0.03), p.Margin(absolute=20.0)),
    ],
)
def test_a_goal_asks_for_something_better(gate, margin, better_by):
    found = value(gates=[GUARD, gate | {"role": "goal"}]).gates[1]
    assert (found.role, found.margin, found.better_by) == (p.Role.GOAL, margin, better_by)


@pytest.mark.parametrize(
    ("gate", "path", "message"),
    [
        (RATE, ".margin", "margin is missing"),
        (RATE | {"role": "goal"}, ".better_by", "better_by is missing"),
        (RATE | {"role": "goal", "better_by": {}}, ".better_by", "the better_by is empty"),
        (RATE | {"role": "signal", "better_by": {"absolute": "1%"}}, ".better_by", "a signal does not ask for something better"),
        (RATE | {"role": "goal", "better_by": {"absolute": "5ms"}}, ".better_by.absolute", "the absolute better_by of envoy/error_rate has the wrong unit"),
        (SLOW | {"role": "goal", "better_by": {"absolute": "5%"}}, ".better_by.absolute", "the absolute better_by of envoy/latency has the wrong unit"),
        (SLOW | {"role": "goal", "better_by": {"relative": "100%"}}, ".better_by.relative", "nothing is better by 100%"),
    ],
)  # fmt: skip
def test_a_gate_asks_what_its_role_is_for(gate, path, message):
    assert told("gates[0]", gates=[gate]) == (path, message)


@pytest.mark.parametrize("better_by", [{"relative": "0%"}, {"relative": "99%"}])
@pytest.mark.parametrize("gate", [RATE, SLOW, SLOW | {"statistic": "p50"}])
def test_a_goal_that_is_accepted_can_be_opened(gate, better_by):
    goal = value(gates=[GUARD, gate | {"role": "goal", "better_by": better_by}]).gates[1]
    assert open_gate(goal, now=0.0, deadline_s=60.0).name == "g"


def bundle(name, *gates):
    return {"apiVersion": "crossfade/v1", "kind": "GateBundle", "metadata": {"name": name}, "spec": {"gates": list(gates)}}


def test_a_bundles_gates_stand_where_it_is_used():
    found = loaded(rollout(gates=[GUARD, {"use": "web"}]), bundle("web", SLOW | {"margin": {"relative": "5%"}}))
    assert not found.errors
    assert [gate.name for gate in found.rollouts[0].gates] == ["errors", "g"]


def test_a_bundle_has_gates():
    assert [error.path for error in loaded(bundle("web")).errors] == ["spec.gates"]


# What happens by itself.


@pytest.mark.parametrize("then", p.Then)
def test_everything_that_happens_by_itself_may_be_each_of_three(then):
    after = {"after": "1m", "then": then.value}
    when = value(
        when={"fail": then.value, "nack": then.value, "no_data": after, "source_error": after, "stuck": after | {"after": "1h"}}
    ).when
    assert {when.fail, when.nack, when.no_data, when.source_error, when.stuck} == {then}
    assert (when.no_data_after_s, when.source_error_after_s, when.stuck_after_s) == (60.0, 60.0, 3600.0)


FRIDAY = {"cron": "0 18 * * fri", "for": "62h"}


def test_a_freeze_window_is_written_in_capitals():
    found = value(freeze=[FRIDAY, FRIDAY | {"timezone": "America/Argentina/Buenos_Aires"}]).freeze
    assert found[0] == p.FreezeWindow(cron="0 18 * * FRI", for_s=223200.0)
    assert found[1].timezone == "America/Argentina/Buenos_Aires"


@pytest.mark.parametrize(
    "cron", ["* * * * *", "*/5 0-6,22-23 1,15 JAN-MAR,12 1-5", "0 0 29 2 *", "0  0 31 2 MON", "59 23 31 12 7", "0 0 * * SUN"]
)
def test_cron_has_five_fields_with_lists_ranges_steps_and_names(cron):
    (window,) = value(freeze=[FRIDAY | {"cron": cron, "for": "1m"}]).freeze
    assert window.cron == " ".join(cron.split())


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("", "'' is no cron expression"),
        ("0 18 * *", "'0 18 * *' is no cron expression"),
        ("@weekly", "'@weekly' is no cron expression"),
        ("60 * * * *", "'60' is no minute"),
        ("* 24 * * *", "'24' is no hour"),
        ("* * 0 * *", "'0' is no day of the month"),
        ("* * * 13 *", "'13' is no month"),
        ("* * * FEBR *", "'FEBR' is no month"),
        ("* * * * 8", "'8' is no day of the week"),
        ("* * * * FRI-MON", "'FRI-MON' runs backwards"),
        ("*/0 * * * *", "'*/0' has no step"),
        ("5/10 * * * *", "'5/10' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("-1 * * * *", "'-1' is no minute"),
        ("0 0 31 2,4 *", "'0 0 31 2,4 *' never comes"),
        ("٥ * * * *", "'٥' is no minute"),
    ],
)  # fmt: skip
def test_a_cron_expression_that_can_never_be_is_told(cron, message):
    assert told("freeze[0]", freeze=[FRIDAY | {"cron": cron}]) == (".cron", message)


@pytest.mark.parametrize(
    ("window", "path", "message"),
    [
        ({"for": "1h"}, ".cron", "cron is missing"),
        ({"cron": "0 18 * * FRI"}, ".for", "for is missing"),
        (FRIDAY | {"for": "59s"}, ".for", "this window is over before it is seen"),
        (FRIDAY | {"timezone": "Berlin!"}, ".timezone", "'Berlin!' does not fit"),
        (FRIDAY | {"timezone": "+02:00"}, ".timezone", "'+02:00' does not fit"),
        (FRIDAY | {"timezone": "../etc/passwd"}, ".timezone", "'../etc/passwd' does not fit"),
    ],
)
def test_a_freeze_window_says_when_and_how_long(window, path, message):
    assert told("freeze[0]", freeze=[window]) == (path, message)


# What no rollout owns.


def group(default):
    return text({**PROXIES, "spec": {**PROXIES["spec"], "default": default}})


def test_what_no_rollout_owns_may_go_somewhere():
    endpoints = p.DnsEndpoints(host="gateway", port=80)
    (found,) = load({"f": group({"endpoints": {"dns": "gateway", "port": 80}})}).proxies
    assert found.default == p.DefaultRoute(endpoints=endpoints)
    (found,) = load({"f": group({"endpoints": {"static": ["10.0.0.1:80"]}, "timeout": "5s"})}).proxies
    assert found.default == p.DefaultRoute(endpoints=p.StaticEndpoints(addresses=("10.0.0.1:80",)), timeout_s=5.0)


@pytest.mark.parametrize(
    ("default", "path"), [({}, "endpoints"), ({"endpoints": {"dns": "a"}}, "endpoints"), ({"endpoints": {}, "to": 1}, "endpoints")]
)
def test_a_default_has_endpoints(default, path):
    assert f"spec.default.{path}" in [error.path for error in load({"f": group(default)}).errors]
