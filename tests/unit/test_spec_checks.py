"""What cannot be said of one field: steps that lead nowhere, names that are not there, and what is allowed and probably not meant."""

import pytest

from tests.specs import PROMOTE, fault, loaded, rollout, value, variant

HOLD = {"for": "1m", "samples": 10}
ARMS = {"stable": variant(), "b": variant("v2", 8002), "c": variant("v3", 8003)}
GOAL = {"name": "faster", "metric": "envoy/latency", "role": "goal", "better_by": {"relative": "5%"}}
ERRORS = {"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "1%"}}
STAFF = {"name": "staff", "when": {"header": "x-staff", "exact": "1"}, "variant": "candidate"}


def canary(*shares, **more):
    return {"canary": {"shares": list(shares), "hold": HOLD, **more}}


def ab(goal="faster", **shares):
    return {"ab": {"shares": shares, "goal": goal, "at_most": "7d", "hold": HOLD}}


SHADOW = {"shadow": {"share": "10%", "hold": HOLD}}
PROBE = {"probe": {"requests": "chat.jsonl"}}
APPROVE = {"approve": {}}
SWITCH = {"switch": {"hold": HOLD}}


@pytest.mark.parametrize(
    ("steps", "path", "message"),
    [
        ([canary({"b": "1%", "d": "1%"})], "canary.shares[0].d", "there is no variant 'd'"),
        ([canary({"stable": "50%"})], "canary.shares[0].stable", "stable has what the arms leave"),
        ([{"canary": {"shares": {"d": "1%"}}}], "canary.shares.d", "there is no variant 'd'"),
        ([{"shadow": {"shares": {"d": "1%"}}}], "shadow.shares.d", "there is no variant 'd'"),
        ([ab(d="1%")], "ab.shares.d", "there is no variant 'd'"),
        ([{"switch": {"to": "d"}}], "switch.to", "there is no variant 'd'"),
        ([{"promote": {"variant": "stable"}}], "promote.variant", "stable has what the arms leave"),
        ([canary({"b": "60%", "c": "41%"})], "canary.shares[0]", "the arms have 101% together"),
        ([ab(b="60%", c="41%")], "ab.shares", "the arms have 101% together"),
        ([canary("5%")], "canary.shares[0]", "5% of which arm? There are 2"),
        ([SWITCH], "switch", "there are 2 arms and nothing says which is meant"),
        ([canary({"b": "5%"}), {"promote": {}}], "promote", "there are 2 arms and nothing says which is meant"),
        ([canary({"b": "5%", "c": "5%"}, {"b": "5%", "c": "5%"})], "canary.shares[1]", "b with 5% after 5% does not grow"),
        ([canary({"b": "5%", "c": "5%"}, {"b": "9%", "c": "4%"})], "canary.shares[1].c", "c with 4% after 5% does not grow"),
        ([canary({"b": "5%"}), ab(b="4%")], "ab.shares.b", "b with 4% after 5% does not grow"),
        ([canary({"b": "0%"})], "canary.shares[0]", "0% gives nobody an arm"),
        ([ab("fastest", b="5%")], "ab.goal", "there is no gate 'fastest'"),
        ([ab("errors", b="5%")], "ab.goal", "gate 'errors' is a guardrail, no goal"),
        ([ab(b="1%", c="1%"), ab(b="2%")], "ab.goal", "goal 'faster' has decided an earlier ab"),
        ([{"probe": {"requests": "chat.jsonl", "expect": {"schema": {"type": "x"}}}}], "probe.expect.schema", "$.type: 'x' is not valid"),
    ],
)  # fmt: skip
def test_what_steps_name_is_there_and_no_share_shrinks(steps, path, message):
    error = fault(variants=ARMS, steps=steps, gates=[ERRORS, GOAL])
    index = len(steps) - 1
    assert error.path == f"spec.steps[{index}].{path}"
    assert error.message.startswith(message)
    assert error.line > 1


def test_a_name_that_is_nearly_one_is_told():
    arms = {"stable": variant(), "large": variant("v2", 8002)}
    assert fault(variants=arms, steps=[{"switch": {"to": "lage"}}]).hint == "did you mean 'large'?"
    assert fault(variants=ARMS, gates=[ERRORS, GOAL], steps=[ab("fastr", b="5%")]).hint == "did you mean 'faster'?"


@pytest.mark.parametrize("after", [SHADOW, PROBE, canary("50%"), SWITCH])
def test_after_a_switch_there_is_nothing_more_to_try(after):
    assert fault(steps=[SWITCH, after, PROMOTE]).path == "spec.steps[1]"


@pytest.mark.parametrize(
    "steps",
    [
        [PROBE, SHADOW, canary("1%", "5%"), APPROVE, SHADOW, PROBE, SWITCH, APPROVE, PROMOTE],
        [canary("5%"), {"ab": {"shares": {"candidate": "5%"}, "goal": "faster", "at_most": "7d", "hold": HOLD}}, PROMOTE],
    ],
)
def test_steps_that_lead_forward_are_good_in_any_order(steps):
    assert value(steps=steps, gates=[ERRORS, GOAL]).steps


def test_some_arms_may_stand_while_others_grow():
    steps = [canary({"b": "5%", "c": "5%"}, {"b": "9%"}, {"b": "9%", "c": "6%"}), ab(b="9%", c="9%"), PROMOTE]
    assert value(variants=ARMS, steps=steps, gates=[ERRORS, GOAL]).arms


def test_nobody_but_a_segment_may_have_an_arm_first():
    assert value(assignment={"segments": [STAFF]}, steps=[canary("0%", "5%"), PROMOTE]).steps
    assert fault(assignment={"segments": [STAFF]}, steps=[canary("0%", "0%"), PROMOTE]).path == "spec.steps[0].canary.shares[1]"


def test_segments_name_variants():
    error = fault(assignment={"segments": [STAFF | {"variant": "candidat"}]})
    assert (error.path, error.hint) == ("spec.assignment.segments[0].variant", "did you mean 'candidate'?")


def test_two_arms_are_two_versions():
    error = fault(variants=ARMS | {"d": variant("v3", 8003)}, steps=[canary({"b": "5%"}), {"promote": {"variant": "b"}}])
    assert error.path == "spec.variants.d"


def test_without_an_arm_the_steps_wait_for_the_next_version():
    assert value(variants={"stable": variant()}, steps=[canary({"b": "5%"}), SWITCH, PROMOTE]).steps == ()


def warnings(**spec):
    found = loaded(rollout(**spec))
    assert not found.errors
    return [warning.path for warning in found.warnings]


PODS = {"pods": {"max_concurrency": 10}}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"gates": None}, "spec.gates"),
        ({"gates": [ERRORS | {"role": "signal"}]}, "spec.gates"),
        ({"steps": [canary("5%")]}, "spec.steps"),
        ({"steps": [canary("5%"), {"promote": {}}]}, "spec.steps[1].promote"),
        ({"steps": [PROMOTE], "gates": None}, "spec.steps[0]"),
        ({"steps": [canary("100%"), PROMOTE]}, "spec.steps[0]"),
        ({"steps": [SWITCH, PROMOTE]}, "spec.steps[0]"),
        ({"steps": [canary("5%", hold={}), PROMOTE]}, "spec.steps[0].canary"),
        ({"steps": [canary("5%", "6%", hold=[{}, HOLD]), PROMOTE]}, "spec.steps[0].canary"),
        ({"steps": [canary("5%", "6%", hold=[HOLD, {"for": "2h"}]), PROMOTE]}, "spec.steps[0].canary.hold[1]"),
        ({"when": {"stuck": {"after": "5m", "then": "revert"}}}, "spec.steps[0].canary.hold"),
        ({"steps": [{"probe": {"requests": "chat.jsonl", "for": "1h"}}, canary("5%"), PROMOTE], "when": {"stuck": {"after": "1h", "then": "hold"}}},
         "spec.steps[0].probe.for"),
        ({"steps": [{"ab": {"shares": {"candidate": "5%"}, "goal": "faster", "at_most": "1h", "hold": {"for": "1h"}}}, PROMOTE],
          "gates": [ERRORS, GOAL]}, "spec.steps[0].ab.hold"),
        ({"variants": {"stable": variant(), "candidate": variant("v2")}}, "spec.variants.candidate.endpoints"),
        ({"variants": {"stable": variant(), "candidate": variant()}}, "spec.variants.candidate"),
        ({"variants": {"stable": variant(**PODS), "candidate": variant("v2", 8002, pods={"max_concurrency": 4})}}, "spec.variants.candidate.pods"),
        ({"variants": ARMS, "steps": [canary({"b": "5%"}), {"promote": {"variant": "b", "keep_stable_for": "1h"}}]}, "spec.variants.c"),
        ({"steps": [SHADOW, canary("5%"), PROMOTE], "traffic": {"proxies": "edge", "listener": "public", "fallback": "gateway"}},
         "spec.traffic.fallback"),
        ({"assignment": {"sticky": {"header": "User-Agent"}}}, "spec.assignment.sticky.header"),
        ({"lease": "301s"}, "spec.lease"),
        ({"freeze": [{"cron": "0 0 * * *", "for": "1d"}]}, "spec.freeze[0]"),
        ({"freeze": [{"cron": "0 0 1 * *", "for": "31d"}]}, "spec.freeze[0]"),
    ],
)  # fmt: skip
def test_what_is_probably_not_meant_is_a_warning_and_no_error(spec, path):
    assert warnings(**spec) == [path]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"steps": [SHADOW, SWITCH, PROMOTE]},
        {"steps": [PROBE, canary("100%"), PROMOTE]},
        {"assignment": {"sticky": {"header": "authorization"}}},
        {"freeze": [{"cron": "0 18 * * FRI", "for": "62h"}, {"cron": "0 0 1 * *", "for": "30d"}, {"cron": "0 0 1 * MON", "for": "6d"}]},
        {"variants": {"stable": variant(**PODS), "candidate": variant("v2", 8002, pods={"max_concurrency": 5})}},
        {"variants": {"stable": variant(), "candidate": variant("v2", config={"model": "m"})}},
        {"lease": "5m"},
        {"variants": {"stable": variant()}, "gates": None},
    ],
)
def test_what_is_meant_is_no_warning(spec):
    assert warnings(**spec) == []
