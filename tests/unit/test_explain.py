"""Every decision can be told in one sentence with its numbers; status and records are plain JSON."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from policies import explain, gates, report, verdicts
from policies.gates import Verdict
from policies.rollout import Mode, PolicyChanged, Reason, Verb
from policies.spec.policy import Hold, Margin, PromoteStep, Then, When
from policies.steps import Stage, find, percent, stages
from policies.verdicts import Waiting
from tests.making import ERRORS, HOLD, LATENCY, Run, canary, policy, shadow, variant

SOURCES = [path.read_text() for path in (Path(__file__).parents[2] / "policies").glob("*.py")]
GIVEN = re.compile(r"(?:code=|refused\(state, )\"([a-z_.]+)\"")
PASSED_ON = re.compile(r"code = \"(\w+)\"(?: if [^\"]* else \"(\w+)\")?|Reason\(code=\"(\w+)\" if .* else \"(\w+)\"")
REFUSED = re.compile(r"_no\(state, (?:Verb\.(\w+)|event\.verb)(?:, \"(\w+)\")?\)")


def refusals(text):
    """What `_no(state, verb, why)` makes of it: `refused.<why>`, else `refused.<verb>`; `event.verb` there is `start` or `retry`."""
    for verb, why in REFUSED.findall(text):
        yield from (f"refused.{said}" for said in ([why or verb.lower()] if why or verb else ["start", "retry"]))


CODES = sorted(
    {code for text in SOURCES for code in GIVEN.findall(text)}
    | {code for text in SOURCES for found in PASSED_ON.findall(text) for code in found if code}
    | {code for text in SOURCES for code in refusals(text)}
    | {f"gate_{verdict.value.lower()}" for verdict in Verdict if verdict is not Verdict.PASS}
)


def test_no_sentence_is_for_a_reason_that_is_never_given():
    assert set(explain._SENTENCES) == set(CODES)


def test_every_verb_that_can_be_refused_has_its_sentence():
    """Each verb said to an idle rollout and to one that warms up: the refusal is told with words of its own."""
    for state in (Run.of(policy(arms=())), Run.of(policy())):
        for verb in Verb:
            step = replace(state).command(verb)
            if step.refused:
                assert step.because.code in CODES


@pytest.mark.parametrize("code", CODES)
def test_every_reason_the_engine_gives_has_a_sentence(code):
    assert code in explain._SENTENCES


def test_a_reason_of_a_newer_version_is_shown_with_its_facts():
    assert explain.sentence(Reason(code="later", facts={"b": 2, "a": 1})) == "later: a=1, b=2"


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (300, "5 min"), (7200, "2 h"), (86400, "1 d"), (3.5, "3.5 s"), (0.25, "0.25 s"), (1234, "1234 s")]
)
def test_durations_read_as_people_say_them(seconds, words):
    assert explain.duration(seconds) == words


@pytest.mark.parametrize(
    ("evidence", "words"), [(3.14159, "odds 3.1:1"), (130.4, "odds 130:1"), (5e12, "odds 5e12:1"), (None, "overwhelming odds")]
)
def test_evidence_is_told_as_odds(evidence, words):
    assert explain.odds(evidence) == words


def test_values_carry_their_unit():
    assert explain.value(0.009, "ratio") == "0.9 %"
    assert explain.value(123.456, "ms") == "123.5 ms"
    assert explain.value(None, "ms") == "no value"


@pytest.mark.parametrize(("bp", "words"), [(500, "5%"), (25, "0.25%"), (10_000, "100%"), (1, "0.01%")])
def test_shares_read_as_written(bp, words):
    assert percent(bp) == words


def reading_of(verdict, **changes):
    state = gates.open_gate(ERRORS, now=0.0, deadline_s=60.0)
    seen = gates.read(ERRORS, state, alpha=0.01, now=1.0, no_data_after_s=60.0)
    return replace(seen, verdict=verdict, **changes)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.FAIL, "worse"),
        (Verdict.PASS, "as good"),
        (Verdict.INCONCLUSIVE, "0 candidate and 0 stable requests seen"),
        (Verdict.NO_DATA, "no request"),
        (Verdict.ERROR, "cannot be read"),
    ],
)
def test_every_verdict_can_be_told(verdict, words):
    assert words in explain.reading(reading_of(verdict))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Waiting(kind="resume"), "paused until resumed"),
        (Waiting(kind="edit"), "no longer in the policy"),
        (Waiting(kind="ack", have=0, need=1), "no proxy has ACKed yet"),
        (Waiting(kind="ack", have=1, need=2), "1 of 2 proxies ACKed"),
        (Waiting(kind="pods", need=1, what="10.0.0.1:1 refused"), "no pod of the candidate is ready (10.0.0.1:1 refused)"),
        (Waiting(kind="time", have=40.04, need=300), "40 s of 5 min held"),
        (Waiting(kind="samples", have=312, need=500), "312 of 500 samples"),
        (Waiting(kind="gate", what="errors"), "gate errors not passed yet"),
        (Waiting(kind="gate", what="errors", variant="b"), "b: gate errors not passed yet"),
        (Waiting(kind="goal", what="thumbs"), "goal thumbs not reached yet"),
        (Waiting(kind="unfreeze", what="frozen by ann"), "frozen (frozen by ann)"),
        (Waiting(kind="lane", what="ui"), "layer ui has no room for it"),
        (Waiting(kind="capacity", have=5000, need=10_000, what="1 of 2 pods ready"), "can carry 50% of 100% (1 of 2 pods ready)"),
        (Waiting(kind="probe", have=12), "12 good answers so far"),
        (Waiting(kind="winner", have=60, need=3600, what="thumbs"), "no winner by thumbs yet, 1 min of 1 h"),
        (Waiting(kind="approval", have=60, need=3600, what="ops"), "waits for approval by ops, 1 min of 1 h"),
    ],
)
def test_what_a_stage_waits_for_can_be_told(item, words):
    assert words in explain.waiting("canary 5%", [item])


def test_guardrails_that_fail_only_together_are_told_together():
    run = Run.of(policy(gates=(ERRORS, LATENCY), steps=(canary(1000, hold=HOLD), PromoteStep())))
    run.serve(1)
    one = reading_of(Verdict.INCONCLUSIVE, evidence=150.0, weight=0.5, enough=True)
    other = replace(one, gate=LATENCY, evidence=120.0)
    reason = verdicts.failure(run.state, run.arm, [one, other])
    assert reason.code == "gates_failed"
    assert "gates errors, latency together failed" in explain.sentence(reason)
    assert "odds 135:1" in explain.sentence(reason)
    assert "100:1 needed" in explain.sentence(reason)
    assert verdicts.failure(run.state, run.arm, [replace(one, evidence=50.0), replace(other, evidence=50.0)]) is None


def test_records_and_status_are_plain_json():
    run = Run.of(policy())
    run.serve(60, until=Mode.PROMOTED)
    for record in run.records:
        text = json.loads(json.dumps(report.record(record)))
        assert text["because"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text["at"])


def test_a_rejected_resource_holds_where_the_policy_says_so_and_is_recorded_at_any_time():
    holding = Run.of(policy(when=When(nack=Then.HOLD)))
    holding.ack()
    holding.ready()
    holding.ack(selected=2, acked=1, rejected=1, words="bad listener")
    assert holding.state.mode is Mode.STEP
    assert holding.state.holding
    idle = Run.of(policy(arms=()))
    idle.ack(selected=1, acked=0, rejected=1, words="bad listener")
    assert "bad listener" in explain.sentence(idle.records[-1].reason)
    assert idle.state.mode is Mode.IDLE


def test_a_promotion_that_a_proxy_rejects_goes_back():
    run = Run.of(policy(steps=(canary(1000, hold=Hold(for_s=1e6)), PromoteStep())))
    run.serve(1)
    run.command(Verb.PROMOTE)
    run.ack(selected=1, acked=0, rejected=1, words="no")
    assert run.state.mode is Mode.REVERTING
    assert run.state.stable.version == "v1"


def test_stages_are_found_again_in_an_edited_list():
    old = stages(policy())
    assert [stage.label for stage in old] == ["shadow 10%", "canary 10%", "canary 50%", "promote"]
    assert find(old[2], 2, old[1:]) == 1
    assert find(Stage(kind="canary", shares=(("candidate", 77),)), 1, old) == 1
    assert find(Stage(kind="canary", shares=(("candidate", 77),)), 0, old) is None
    assert find(Stage(kind="shadow", shadows=(("candidate", 1),)), 9, old) is None


def test_steps_added_before_the_current_one_move_its_number_and_nothing_else():
    run = Run.of(policy(steps=(canary(1000, hold=Hold(for_s=1e6)), PromoteStep())))
    run.serve(2)
    held = run.state.held_s
    steps = (shadow(100), canary(1000, hold=Hold(for_s=1e6)), PromoteStep())
    run.on(PolicyChanged(policy=replace(run.state.policy, steps=steps)))
    assert (run.state.position, run.state.held_s) == (1, pytest.approx(held))


def test_a_new_stable_is_delivered_before_it_serves_and_a_candidate_waits_for_it():
    run = Run.of(policy(arms=()))
    run.ack()
    edited = policy(stable=variant("stable", "v9", 8009))
    run.on(PolicyChanged(policy=edited))
    assert run.state.stable.version == "v1"
    run.on(PolicyChanged(policy=replace(edited, labels=(("a", "b"),))))
    assert run.state.stable.version == "v1"
    run.ack()
    assert run.state.stable.version == "v9"
    assert run.state.mode is Mode.WARMING


def test_a_gate_edited_in_the_middle_starts_anew_and_others_keep_their_evidence():
    run = Run.of(policy(gates=(ERRORS, LATENCY), steps=(canary(1000, hold=Hold(for_s=1e6)), PromoteStep())))
    run.serve(3)
    before = run.arm.gates
    run.on(PolicyChanged(policy=replace(run.state.policy, gates=(ERRORS, replace(LATENCY, margin=Margin(relative=1.0))))))
    assert run.arm.gates[0] == before[0]
    assert run.arm.gates[1].blocks == 0


def test_losing_the_last_pod_keeps_a_stage_from_ending():
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep())))
    run.serve(1)
    run.ready(0)
    run.serve(5)
    assert run.state.mode is Mode.STEP
    assert "no pod of the candidate is ready" in report.report(run.state, now=run.now, held=True)["because"]
