"""The ways back, by a person or by an edit: what serves at once, what is delivered first, and what does not come back by itself."""

from dataclasses import replace

import pytest

from policies import wish
from policies.rollout import Mode, PolicyChanged, Ticked, Verb
from policies.spec.policy import Hold, Lease, PromoteStep
from tests.crowd import begun, serve
from tests.making import HOLD, Run, canary, counts, policy, variant

TWO = (canary(1000, hold=HOLD), PromoteStep(keep_stable_for_s=60.0))
BRIEF = (canary(1000, hold=HOLD), PromoteStep(keep_stable_for_s=0.5))
V7 = variant("stable", "v7", 8007)


def until(mode, steps=TWO):
    run = begun(policy(steps=steps))
    serve(run, 60, until=lambda state: state.mode is mode)
    assert run.state.mode is mode
    return run


def serving(run):
    return wish.traffic(run.state).stable.version


def edit(run, **changes):
    return run.on(PolicyChanged(policy=replace(run.state.policy, **changes)))


def by_rollback(run):
    run.command(Verb.ROLLBACK)


def by_abort(run):
    run.command(Verb.ABORT)


def by_gate(run):
    while run.state.mode is Mode.BAKING and run.now < 2000:
        run.now += 0.1
        run.evidence(candidate=counts(4, 4))


@pytest.mark.parametrize("back", [by_rollback, by_abort, by_gate])
def test_a_reverted_promotion_comes_back_by_an_edit_of_stable_only(back):
    run = until(Mode.BAKING)
    back(run)
    run.ack()
    assert (run.state.mode, serving(run)) == (Mode.REVERTED, "v1")
    for changes in ({"labels": (("team", "x"),)}, {"lease": Lease(ttl_s=9)}, {"arms": ()}, {"labels": ()}):
        edit(run, **changes)
        run.ack()
        run.wait(20)
        assert serving(run) == "v1"
        assert run.state.mode in {Mode.REVERTED, Mode.IDLE}
    edit(run, stable=V7)
    run.ack()
    assert serving(run) == "v7"


def test_a_reverted_promotion_stays_reverted_when_its_arm_returns_to_the_document():
    run = until(Mode.BAKING)
    run.command(Verb.ABORT)
    run.ack()
    edit(run, labels=(("team", "x"),))
    assert run.state.mode is Mode.REVERTED
    assert run.state.generation == 1


def test_a_git_revert_in_the_bake_goes_back_at_once():
    run = until(Mode.BAKING)
    edit(run, arms=())
    assert (run.state.mode, serving(run)) == (Mode.REVERTING, "v1")


def test_a_rollback_in_the_bake_serves_at_once_without_a_single_ack():
    run = until(Mode.BAKING)
    run.command(Verb.ROLLBACK)
    assert (run.state.mode, serving(run)) == (Mode.REVERTING, "v1")


def test_a_rollback_to_a_version_that_is_still_delivered_serves_at_once():
    run = until(Mode.PROMOTED, BRIEF)
    run.command(Verb.ROLLBACK)
    run.ack()
    assert [kept.version for kept in wish.traffic(run.state).kept] == ["v2"]
    run.command(Verb.ROLLBACK, to="v2")
    assert serving(run) == "v2"


def test_a_rollback_to_a_cold_version_waits_for_the_proxies_that_do_not_reject():
    run = until(Mode.PROMOTED, BRIEF)
    run.command(Verb.ROLLBACK)
    run.ack(selected=3, acked=1, rejected=1, words="no")
    assert serving(run) == "v2"
    run.ack(selected=3, acked=2, rejected=1, words="no")
    assert serving(run) == "v1"


def test_a_rollback_to_a_cold_version_waits_ten_seconds_at_most():
    run = until(Mode.PROMOTED, BRIEF)
    run.command(Verb.ROLLBACK)
    run.ack(selected=3, acked=0)
    run.wait(9.5)
    assert serving(run) == "v2"
    run.wait(1)
    assert serving(run) == "v1"


@pytest.mark.parametrize("verb", [Verb.ABORT, Verb.ROLLBACK])
def test_a_person_calls_off_a_new_stable_that_is_not_delivered_yet(verb):
    run = Run.of(policy(arms=()))
    run.ack()
    edit(run, stable=V7)
    assert [kept.version for kept in wish.traffic(run.state).kept] == ["v7"]
    assert not run.command(verb, actor="ann").refused
    assert run.records[-1].reason.code == "called_off"
    run.ack()
    run.wait(20)
    assert serving(run) == "v1"
    edit(run, labels=(("team", "x"),))
    run.ack()
    assert serving(run) == "v1"


def test_a_called_off_stable_comes_back_by_the_next_edit_of_stable():
    run = Run.of(policy(arms=()))
    run.ack()
    edit(run, stable=V7)
    run.command(Verb.ABORT)
    run.ack()
    edit(run, stable=variant("stable", "v8", 8008))
    run.ack()
    assert serving(run) == "v8"


def test_a_second_rollback_does_not_go_back_to_what_was_fled_from():
    run = until(Mode.PROMOTED, BRIEF)
    for _ in range(3):
        run.command(Verb.ROLLBACK)
        run.ack()
        run.now += 1
        run.on(Ticked())
        assert serving(run) == "v1"


def test_a_second_rollback_while_the_first_is_on_its_way_changes_nothing():
    run = until(Mode.PROMOTED, BRIEF)
    run.command(Verb.ROLLBACK)
    before = run.state
    run.command(Verb.ROLLBACK)
    assert run.state == before


def test_a_second_rollback_of_a_promotion_that_is_warm_changes_nothing():
    run = until(Mode.BAKING)
    run.command(Verb.ROLLBACK)
    run.command(Verb.ROLLBACK)
    run.ack()
    run.command(Verb.ROLLBACK)
    run.ack()
    assert serving(run) == "v1"
    assert run.decisions().count("rolled_back") == 1


def test_an_aborted_release_does_not_take_stable_back_too():
    run = begun(policy(steps=(canary(1000, hold=Hold(for_s=1e6)), PromoteStep())))
    run.command(Verb.ABORT)
    run.ack()
    run.command(Verb.ROLLBACK)
    assert (run.state.mode, serving(run)) == (Mode.REVERTED, "v1")
