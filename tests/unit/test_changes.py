"""What applying a document would do, told before it is applied, and the same as what the engine then does."""

from dataclasses import replace

import pytest

from policies.changes import FIELDS_MAX, Effect, FieldChange, differences, effect_on
from policies.rollout import Mode, PolicyChanged, PolicyRemoved
from policies.spec.policy import FULL_BP, PromoteStep
from tests.making import Run, canary, policy, shadow, variant


@pytest.fixture
def running():
    """Half-way through a release of v2."""
    run = Run.of(policy())
    run.ack()
    run.ready()
    assert run.state.mode is Mode.STEP
    return run


def effects(run, document):
    """What is foretold; what happens must agree."""
    before = run.state
    effect, words = effect_on(before, document)
    if document is None:
        run.on(PolicyRemoved())
        assert run.state.mode is Mode.RETIRED
        return effect, words
    run.on(PolicyChanged(policy=document, lane=before.lane))
    assert (run.state.generation != before.generation) == (effect in {Effect.STARTS, Effect.RESTARTS})
    assert (run.state.incoming is not None) == (effect is Effect.RECOMMITS)
    return effect, words


@pytest.mark.parametrize(
    ("changes", "effect"),
    [
        ({}, Effect.UNCHANGED),
        ({"labels": (("team", "chat"),)}, Effect.EDITED),
        ({"steps": (shadow(2000), canary(1000, 5000), PromoteStep(keep_stable_for_s=2.0))}, Effect.EDITED),
        ({"arms": (variant("candidate", "v3", 8002),)}, Effect.RESTARTS),
        ({"arms": (variant("candidate", "v2", 8003),)}, Effect.RESTARTS),
        ({"arms": (variant("candidate", "v2", 8002, max_concurrency=7),)}, Effect.EDITED),
        ({"arms": ()}, Effect.ENDS),
        ({"stable": variant("stable", "v0", 8001)}, Effect.RECOMMITS),
    ],
)
def test_each_edit_of_a_running_rollout_has_its_effect(running, changes, effect):
    found, words = effects(running, policy(**changes))
    assert found is effect
    assert bool(words) == (effect in {Effect.RESTARTS, Effect.ENDS, Effect.RECOMMITS} or "steps" in changes)


def test_documents_that_come_and_go(running):
    assert effect_on(None, policy()) == (Effect.NEW, "")
    assert effect_on(None, None)[0] is Effect.UNCHANGED
    assert effects(running, None)[0] is Effect.GONE
    assert effect_on(running.state, None)[0] is Effect.UNCHANGED
    assert effect_on(running.state, policy())[0] is Effect.NEW


def test_a_candidate_for_an_idle_rollout_starts():
    run = Run.of(policy(arms=()))
    assert effects(run, policy())[0] is Effect.STARTS


def test_asking_changes_nothing(running):
    before = running.state
    effect_on(before, policy(arms=(variant("candidate", "v3"),)))
    assert running.state == before


# Values that differ.


def test_differences_are_told_by_path():
    old = {"spec": {"steps": [{"canary": {"shares": ["5%", "10%"]}}], "gates": [{"name": "a", "margin": 1}, {"name": "b"}]}}
    new = {"spec": {"steps": [{"canary": {"shares": ["5%", "20%"]}}], "gates": [{"name": "b"}, {"name": "a", "margin": 2}], "x": True}}
    assert differences(old, new) == (
        FieldChange(path="spec.steps[0].canary.shares[1]", old='"10%"', new='"20%"'),
        FieldChange(path="spec.gates[a].margin", old="1", new="2"),
        FieldChange(path="spec.x", old=None, new="true"),
    )


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({"a": [1, 2]}, {"a": [1]}, ["a[1]"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": {}}, {"a": []}, ["a"]),
        ({"a": []}, {"a": [{"name": "x"}]}, ["a[x]"]),
        ({"a": [{"name": "x"}, {"name": "x"}]}, {"a": [{"name": "x"}, {"name": "y"}]}, ["a[1].name"]),
        ({}, {}, []),
        (1, 2, [""]),
    ],
)
def test_odd_pairs(old, new, paths):
    assert [each.path for each in differences(old, new)] == paths


def test_values_of_policies_are_compared_too():
    gate = policy().gates[0]
    found = differences(policy(), policy(gates=(replace(gate, margin=replace(gate.margin, absolute=0.1)),)))
    assert found == (FieldChange(path="gates[errors].margin.absolute", old="0.05", new="0.1"),)


def test_long_values_and_many_fields_are_cut():
    (one,) = differences({"a": "x" * 10_000}, {"a": "y"})
    assert len(one.old) < 200
    many = differences({}, {str(number): number for number in range(FULL_BP)})
    assert len(many) == FIELDS_MAX + 1
