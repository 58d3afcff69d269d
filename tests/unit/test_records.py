"""What the history says: each decision with its own place, nothing a hundred times, and why a rollout was reverted until something else happens."""

from dataclasses import replace

from policies.rollout import Decision, Mode, Verb, WindowChanged
from policies.spec.policy import AbStep, Hold, PromoteStep, Then, When
from tests.crowd import GOAL, begun, serve, several
from tests.making import ERRORS, canary, policy

LONG = Hold(for_s=1e6)
ONE = (canary(1000, hold=LONG), PromoteStep())


def test_a_proxy_that_rejects_and_acks_by_turns_is_recorded_once_a_minute():
    run = begun(policy(steps=ONE, when=When(nack=Then.HOLD)))
    for _ in range(100):
        run.now += 0.5
        run.ack(selected=2, acked=2, rejected=1, words="edge-1: no")
        run.wait(0.5)
        run.ack(selected=2)
        run.wait(0.5)
    assert 2 <= run.decisions().count("held") <= 3
    assert run.decisions().count("resumed") <= 3
    assert run.state.mode is Mode.STEP


def test_the_same_hold_is_recorded_again_after_a_minute():
    run = begun(policy(steps=ONE, when=When(nack=Then.HOLD)))
    for _ in range(2):
        run.ack(selected=2, acked=2, rejected=1, words="edge-1: no")
        run.wait(1)
        run.ack(selected=2)
        run.wait(61)
    assert run.decisions().count("held") == 2


def test_pods_that_come_and_go_every_second_change_the_share_rarely():
    run = begun(policy(steps=(canary(8000, hold=LONG), PromoteStep())))
    before, records = run.state.publication, len(run.records)
    run.ready(ready=2, total=2)
    for index in range(60):
        run.ready(ready=1 if index % 2 else 2, total=2)
        run.ack()
        serve(run, 1)
    assert run.arm.ceiling_bp == 5000
    assert run.state.publication - before == 1
    assert len(run.records) - records <= 4


def test_the_end_of_a_window_does_not_overwrite_why_a_rollout_was_reverted():
    run = begun(policy(steps=ONE))
    run.on(WindowChanged(words="night"))
    run.command(Verb.ABORT, reason="smells")
    run.ack()
    why = run.state.because
    run.on(WindowChanged(words=""))
    assert (why.facts["said"], run.state.because, run.state.freezes) == ("smells", why, ())
    assert run.decisions()[-1] == "unfrozen"


def test_of_two_decisions_of_one_event_each_has_its_own_step_and_shares():
    ab = AbStep(shares=(("b", 3000), ("c", 3000)), goal="goal", at_most_s=60.0, hold=Hold(for_s=1.0))
    run = begun(several("bc", steps=(ab, canary({"b": 4000, "c": 4000}, hold=LONG), PromoteStep()), gates=(ERRORS, GOAL)))
    serve(run, 59, failing={"v1": 0.4, "v3": 0.42}, until=lambda state: state.position == 1)
    won, advanced = (next(each for each in run.records if each.decision is which) for which in (Decision.WON, Decision.ADVANCED))
    assert won.at == advanced.at
    assert (won.step, won.shares) == ("ab b 30%, c 30%", (("b", 3000), ("c", 0)))
    assert (advanced.step, advanced.shares) == ("canary b 40%, c 40%", (("b", 4000), ("c", 0)))


def test_the_same_key_with_another_verb_is_another_command():
    run = begun(policy(steps=ONE))
    run.command(Verb.PAUSE, key="k")
    run.command(Verb.RESUME, key="k")
    assert not run.state.paused
    count = len(run.records)
    run.command(Verb.PAUSE, key="k")
    assert (run.state.paused, len(run.records)) == (False, count)


def test_an_abort_is_never_swallowed_by_its_key():
    run = begun(policy(steps=ONE))
    run.command(Verb.ABORT, key="k")
    run.ack()
    run.command(Verb.START)
    assert run.state.mode is Mode.WARMING
    run.command(Verb.ABORT, key="k")
    assert run.state.mode is Mode.REVERTING


def test_after_an_arm_was_dropped_stables_own_requests_are_what_the_other_is_held_against():
    """Together the arms had everything: stable has the dropped arm's users now, and they fail as much as the arm's own."""
    run = begun(several("bc", steps=(canary({"b": 1000, "c": 1000}), canary({"b": 5000, "c": 5000}, hold=LONG), PromoteStep(arm="b"))))
    serve(run, 60, until=lambda state: state.position == 1)
    serve(run, 10, failing={"v3": 1.0})
    assert run.state.arms[1].out is not None
    remembered, used = run.state.yardstick, run.state.yardstick.used
    serve(run, 20, failing={"v1": 0.5, "v2": 0.5})
    assert run.state.mode is Mode.STEP
    assert run.state.yardstick.used == used
    assert run.state.stable_samples > 0
    assert replace(remembered, used=0).seen != run.state.yardstick.seen
