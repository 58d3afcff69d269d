"""What ends with a release, and what ends one that cannot begin."""

from dataclasses import replace

import pytest

from policies.lanes import Lane
from policies.rollout import Mode, PolicyChanged, SourceReported, Verb, WindowChanged
from policies.spec.policy import Assignment, Hold, PromoteStep, Then, When
from tests.crowd import begun, serve
from tests.making import Run, canary, policy, variant

LONG = Hold(for_s=1e6)
ONE = (canary(1000, hold=LONG), PromoteStep())
NEXT = (variant("candidate", "v3", 8003),)


def edit(run, **changes):
    return run.on(PolicyChanged(policy=replace(run.state.policy, **changes)))


def gate_frozen():
    run = begun(policy(steps=ONE, when=When(fail=Then.FREEZE)))
    serve(run, 5, failing={"v2": 1.0})
    assert [each.source for each in run.state.freezes] == ["gate"]
    return run


@pytest.mark.parametrize("arms", [NEXT, ()], ids=["the next candidate", "none"])
def test_a_gates_freeze_ends_with_its_release_when_the_document_ends_it(arms):
    run = gate_frozen()
    edit(run, arms=arms)
    assert run.state.freezes == ()


def test_a_gates_freeze_ends_with_its_release_when_a_person_ends_it():
    run = gate_frozen()
    run.command(Verb.ABORT)
    assert run.state.freezes == ()


def test_a_new_stable_in_a_release_that_a_gate_froze_serves_when_it_is_delivered():
    run = gate_frozen()
    edit(run, stable=variant("stable", "v9", 8009), arms=())
    run.ack()
    assert (run.state.stable.version, run.state.freezes) == ("v9", ())


def test_a_source_error_of_an_earlier_release_does_not_count_for_the_next():
    run = begun(policy(steps=ONE, when=When(source_error=Then.REVERT, source_error_after_s=30.0)))
    run.on(SourceReported(words="prometheus: refused"))
    run.wait(29)
    edit(run, arms=NEXT)
    run.ack()
    run.ready()
    run.ack()
    run.wait(25)
    assert run.state.mode is Mode.STEP
    run.wait(10)
    assert run.state.mode is Mode.REVERTING


def test_a_release_that_cannot_begin_is_stuck_after_its_time():
    run = Run.of(policy(steps=ONE, when=When(stuck_after_s=60.0)))
    run.ack()
    run.wait(59)
    assert run.state.mode is Mode.WARMING
    run.wait(2)
    assert run.state.mode is Mode.REVERTING
    assert run.records[-1].reason.code == "stuck"


def test_waiting_for_a_window_or_for_a_lane_makes_no_release_stuck():
    run = Run.of(policy(steps=ONE, when=When(stuck_after_s=60.0)))
    run.on(WindowChanged(words="night"))
    run.wait(120)
    assert run.state.mode is Mode.WARMING
    run.on(WindowChanged(words=""))
    layered = replace(run.state.policy, assignment=Assignment(sticky_header="x-user", layer="ui"))
    run.on(PolicyChanged(policy=layered, lane=None))
    run.wait(120)
    assert run.state.mode is Mode.WARMING
    run.on(PolicyChanged(policy=layered, lane=Lane(start_bp=0, width_bp=2000)))
    run.wait(61)
    assert run.state.mode is Mode.REVERTING


def test_retry_works_while_the_traffic_is_on_its_way_back():
    run = begun(policy(steps=ONE))
    run.command(Verb.ABORT)
    assert run.state.mode is Mode.REVERTING
    assert not run.command(Verb.RETRY).refused
    assert (run.state.mode, run.state.generation) == (Mode.WARMING, 2)
