"""Every kind of step: what it means, and what is told of one that makes no sense."""

import json

import pytest

from policies.spec import policy as p
from tests.specs import PROMOTE, fault, loaded, rollout, value, variant

TWO = {"stable": variant(), "b": variant("v2", 8002), "c": variant("v3", 8003)}
GOAL = [
    {"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "1%"}},
    {"name": "faster", "metric": "envoy/latency", "role": "goal", "better_by": {"relative": "0%"}},
]
CANARY = {"canary": {"shares": ["5%"], "hold": {"for": "1m"}}}


def step(*written, **spec):
    """The first step of a good rollout that has these."""
    return value(steps=[*written, PROMOTE], **spec).steps[0]


def bad(*written, **spec):
    error = fault(steps=[*written, PROMOTE], **spec)
    return error.path.removeprefix("spec.steps[0]."), error.message


def test_a_probe_asks_what_its_file_says():
    probe = step(
        {"probe": {"requests": "chat.jsonl", "rate": "30/min", "for": "2m", "expect": {"status": [200, 204], "within": "5s"}}}, CANARY
    )
    assert isinstance(probe, p.ProbeStep)
    assert (probe.file, probe.rate_per_s, probe.for_s) == ("chat.jsonl", 0.5, 120.0)
    assert probe.expect == p.Expect(statuses=(200, 204), within_s=5.0)
    assert [(request.method, request.path) for request in probe.requests] == [("POST", "/v1/chat"), ("GET", "/v1/models")]


def test_a_probe_left_alone_asks_once_a_second_for_a_minute_and_takes_any_200():
    probe = step({"probe": {"requests": "chat.jsonl"}}, CANARY)
    assert isinstance(probe, p.ProbeStep)
    assert (probe.rate_per_s, probe.for_s, probe.expect) == (1.0, 60.0, p.Expect())


@pytest.mark.parametrize("schema", ["answer.json", {"type": "object"}])
def test_the_schema_of_an_answer_is_a_file_or_stands_there(schema):
    probe = step({"probe": {"requests": "chat.jsonl", "expect": {"schema": schema}}}, CANARY)
    assert isinstance(probe, p.ProbeStep)
    assert json.loads(probe.expect.json_schema) == {"type": "object"}


@pytest.mark.parametrize(
    ("probe", "path", "message"),
    [
        ({}, "probe.requests", "requests is missing"),
        ({"requests": "/etc/passwd"}, "probe.requests", "'/etc/passwd' does not fit"),
        ({"requests": "../chat.jsonl"}, "probe.requests", "'../chat.jsonl' does not fit"),
        ({"rate": 5}, "probe.rate", "5 is no rate"),
        ({"rate": "5/h"}, "probe.rate", "'5/h' is no rate"),
        ({"rate": "0/s"}, "probe.rate", "'0/s' is out of range"),
        ({"rate": "1001/s"}, "probe.rate", "'1001/s' is out of range"),
        ({"for": "999ms"}, "probe.for", "this time is out of range"),
        ({"for": "61m"}, "probe.for", "this time is out of range"),
        ({"expect": {"status": 99}}, "probe.expect.status", "99 does not fit"),
        ({"expect": {"status": []}}, "probe.expect.status", "a list does not fit"),
        ({"expect": {"status": [200, 600]}}, "probe.expect.status[1]", "600 does not fit"),
        ({"expect": {"within": "0s"}}, "probe.expect.within", "this time is out of range"),
        ({"expect": {"schema": ["a"]}}, "probe.expect.schema", "a list does not fit"),
    ],
)
def test_a_probe_is_bounded(probe, path, message):
    whole = probe if not probe or "requests" in probe else {"requests": "chat.jsonl", **probe}
    assert bad({"probe": whole}, CANARY) == (path, message)


def test_a_shadow_has_one_share_for_every_arm_or_one_by_arm():
    def shadow(**shares):
        return value(steps=[{"shadow": shares}, {"promote": {"variant": "b"}}], variants=TWO).steps[0]

    assert shadow(share="10%") == p.ShadowStep(shares=(("b", 1000), ("c", 1000)))
    assert shadow(shares={"c": "5%"}) == p.ShadowStep(shares=(("c", 500),))


@pytest.mark.parametrize(
    ("shadow", "path", "message"),
    [
        ({}, "shadow", "a shadow has no share"),
        ({"share": "5%", "shares": {"candidate": "5%"}}, "shadow", "the shares are said twice"),
        ({"shares": {}}, "shadow.shares", "a mapping does not fit"),
        ({"shares": {"candidate": "0%"}}, "shadow.shares.candidate", "'0%' is out of range"),
        ({"share": "0%"}, "shadow.share", "'0%' is out of range"),
    ],
)
def test_a_shadow_copies_something(shadow, path, message):
    assert bad({"shadow": shadow}, CANARY) == (path, message)


HOLDS = (p.Hold(for_s=60.0), p.Hold(samples=5))


def test_a_canary_of_several_arms_has_shares_by_arm_and_keeps_the_arms_order():
    shares = [{"c": "1%", "b": "2%"}, {"b": "4.5%"}]
    written = {"canary": {"shares": shares, "hold": [{"for": "1m"}, {"samples": 5}]}}
    assert value(steps=[written, {"promote": {"variant": "b"}}], variants=TWO).steps[0] == p.CanaryStep(
        stages=(((("b", 200), ("c", 100)), HOLDS[0]), ((("b", 450),), HOLDS[1]))
    )


def test_a_canary_by_arm_may_be_one_stage():
    written = {"canary": {"shares": {"b": "5%", "c": "5%"}, "hold": {"for": "1m"}}}
    assert value(steps=[written, {"promote": {"variant": "c"}}], variants=TWO).steps[0] == p.CanaryStep(
        stages=(((("b", 500), ("c", 500)), HOLDS[0]),)
    )


def test_a_share_of_nothing_is_for_segments():
    segments = {"segments": [{"name": "staff", "when": {"header": "x-staff", "present": True}, "variant": "candidate"}]}
    canary = step({"canary": {"shares": ["0%", "5%"], "hold": {"for": "1m"}}}, assignment=segments)
    assert canary == p.CanaryStep(stages=(((("candidate", 0),), HOLDS[0]), ((("candidate", 500),), HOLDS[0])))


@pytest.mark.parametrize(
    ("canary", "path", "message"),
    [
        ({"shares": "5%"}, "canary.shares", "'5%' is no list"),
        ({"shares": 5}, "canary.shares", "5 is no list"),
        ({"shares": []}, "canary.shares", "a list does not fit"),
        ({"shares": {}}, "canary.shares", "a mapping does not fit"),
        ({"shares": [{}]}, "canary.shares[0]", "a mapping does not fit"),
        ({"shares": ["5%", 50]}, "canary.shares[1]", "50 is no percentage"),
        ({"shares": [{"candidate": 5}]}, "canary.shares[0].candidate", "5 is no percentage"),
        ({"shares": {"candidate": "101%"}}, "canary.shares.candidate", "'101%' is out of range"),
        ({"shares": ["5%", "6%"], "hold": [{"for": "1m"}]}, "canary.hold", "there are 1 holds for 2 stages"),
        ({"shares": {"candidate": "5%"}, "hold": [{}, {}]}, "canary.hold", "there are 2 holds for 1 stages"),
        ({"shares": ["5%"], "hold": [{"for": 5}]}, "canary.hold[0].for", "5 is no duration"),
        ({"share": "5%", "shares": ["5%"]}, "canary.share", "unknown key 'share'"),
    ],
)
def test_a_canary_says_its_stages(canary, path, message):
    assert bad({"canary": canary}) == (path, message)


def test_all_faults_of_a_list_of_shares_are_told():
    errors = loaded(rollout(steps=[{"canary": {"shares": ["5", "6%", 7]}}, PROMOTE])).errors
    assert [error.path for error in errors] == ["spec.steps[0].canary.shares[0]", "spec.steps[0].canary.shares[2]"]


def test_a_switch_goes_to_the_only_arm_or_to_the_one_it_names():
    assert step({"switch": {"hold": {"for": "1m"}}}) == p.SwitchStep(arm="candidate", hold=HOLDS[0])
    assert value(steps=[{"switch": {"to": "c"}}, {"promote": {"variant": "c"}}], variants=TWO).steps[0] == p.SwitchStep(arm="c")


def test_an_ab_has_shares_a_goal_and_an_end():
    ab = {"ab": {"shares": {"c": "40%", "b": "30%"}, "goal": "faster", "at_most": "7d", "hold": {"samples": 5}}}
    assert step(ab, variants=TWO, gates=GOAL) == p.AbStep(
        shares=(("b", 3000), ("c", 4000)), goal="faster", at_most_s=604800.0, hold=HOLDS[1]
    )


AB = {"shares": {"candidate": "50%"}, "goal": "faster", "at_most": "7d"}


@pytest.mark.parametrize(
    ("ab", "path", "message"),
    [
        ({"goal": "faster", "at_most": "7d"}, "ab.shares", "shares is missing"),
        (AB | {"shares": {}}, "ab.shares", "a mapping does not fit"),
        (AB | {"shares": {"candidate": "0%"}}, "ab.shares.candidate", "'0%' is out of range"),
        ({key: AB[key] for key in ("shares", "at_most")}, "ab.goal", "goal is missing"),
        ({key: AB[key] for key in ("shares", "goal")}, "ab.at_most", "at_most is missing"),
        (AB | {"at_most": "59s"}, "ab.at_most", "nobody wins that fast"),
    ],
)
def test_an_ab_without_one_of_them_is_none(ab, path, message):
    assert bad({"ab": ab}, gates=GOAL) == (path, message)


def test_an_approval_says_who_how_long_and_what_silence_means():
    assert step({"approve": {}}, CANARY) == p.ApproveStep()
    assert step({"approve": {"who": "operator", "within": "2h", "then": "freeze"}}, CANARY) == p.ApproveStep(
        who="operator", within_s=7200.0, then=p.Then.FREEZE
    )


@pytest.mark.parametrize(
    ("approve", "path", "message"),
    [
        ({"within": "0s"}, "approve.within", "nobody answers that fast"),
        ({"then": "promote"}, "approve.then", "'promote' is not known here"),
        ({"who": 5}, "approve.who", "5 is not text here"),
        ({"after": "1h"}, "approve.after", "unknown key 'after'"),
    ],
)
def test_an_approval_makes_sense(approve, path, message):
    assert bad({"approve": approve}, CANARY) == (path, message)


def test_a_promotion_names_its_arm_where_there_are_several():
    steps = value(steps=[{"switch": {"to": "b"}}, {"promote": {"variant": "b", "keep_stable_for": "1h"}}], variants=TWO).steps
    assert steps[-1] == p.PromoteStep(keep_stable_for_s=3600.0, arm="b")


def test_a_step_is_one_thing():
    assert fault(steps=[{"shadow": {"share": "5%"}, "ab": AB}], gates=GOAL).expected == (
        "exactly one of probe, shadow, canary, switch, ab, approve, promote in a step"
    )


def test_without_an_arm_there_are_no_steps_to_take():
    """Names of arms in steps mean nothing then."""
    assert value(variants={"stable": variant()}).steps == ()
