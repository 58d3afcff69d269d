"""Laws of the engine under any sequence of events: it never raises, never gives an arm more than its state says, and always reverts."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from policies import engine, explain, report, verdicts, wish
from policies.evidence import Block
from policies.gates import Verdict
from policies.lanes import FULL_BP, TOTAL, WHOLE, Home, Lane, misfit, slots
from policies.rollout import (
    Commanded,
    Delivered,
    Delivery,
    EvidenceArrived,
    Mode,
    Notify,
    Persist,
    Pods,
    PodsProbed,
    PolicyChanged,
    PolicyRemoved,
    Probed,
    Probing,
    Publish,
    Restarted,
    Rollout,
    SourceReported,
    Ticked,
    Verb,
    WindowChanged,
    Withdraw,
)
from policies.spec.policy import Role
from policies.steps import stages
from tests.making import counts
from tests.simulation import documents

ADAPTER = TypeAdapter(Rollout)
BY_HAND = {"promoted_by_hand", "advanced_by_hand", "retried"}
LANES = (WHOLE, Lane(start_bp=0, width_bp=5000), Lane(start_bp=2500, width_bp=1000), None)
POLICIES = st.builds(
    lambda seed, layer: documents.document(random.Random(seed), layer=layer), st.integers(0, 2**32), st.sampled_from(["", "", "ui"])
)
COUNTS = st.builds(
    lambda n, bad, ms: counts(n, min(n, bad), ms), st.integers(0, 40), st.integers(0, 40), st.sampled_from([50.0, 100.0, 400.0, 60_000.0])
)


def identity_of(state, index):
    return state.arms[index % len(state.arms)].variant.identity if state.arms else "gone"


def delivered(state):
    return Delivered(publication=state.publication, delivery=Delivery(selected=2, acked=2))


def served(stable_fails):
    """Good requests for everybody who has a share; a stable that fails some lets goals be reached."""

    def make(state):
        users = {state.stable.identity: counts(30, stable_fails)} | {
            arm.variant.identity: counts(10) for arm in state.arms if arm.in_effect_bp
        }
        shadows = {arm.variant.identity: counts(10) for arm in state.arms if arm.shadow_in_effect_bp}
        return EvidenceArrived(block=Block(start=0, end=1, users=users, shadows=shadows))

    return make


def ready(index):
    return lambda s: PodsProbed(identity=identity_of(s, index), pods=Pods(ready=2, total=2))


def probed(index):
    return lambda s: Probed(identity=identity_of(s, index), position=s.position, probing=Probing(asked=5, good=5, done=True))


def calm(stable_fails):
    return (delivered, *map(ready, range(4)), *map(probed, range(4)), *(3 * [served(stable_fails)]), lambda _: Ticked())


CALM = (calm(9), calm(0))
"""Moments in which all is well: without some of these no life gets far."""


@st.composite
def deliveries(draw):
    if draw(st.booleans()):
        return lambda s: Delivered(publication=s.publication, delivery=Delivery(selected=2, acked=1, rejected=1, words="no"))
    late, selected = draw(st.sampled_from([0, 0, 0, 1])), draw(st.integers(0, 3))
    acked = draw(st.integers(0, selected))
    return lambda s: Delivered(publication=s.publication - late, delivery=Delivery(selected=selected, acked=acked))


@st.composite
def pods(draw):
    index, seen = draw(st.integers(0, 3)), Pods(ready=draw(st.integers(0, 2)), total=2)
    return lambda s: PodsProbed(identity=identity_of(s, index), pods=seen)


@st.composite
def probes(draw):
    index = draw(st.integers(0, 3))
    found = draw(st.sampled_from([Probing(asked=1, good=1), Probing(asked=2, good=1, done=True, words="500")]))
    return lambda s: Probed(identity=identity_of(s, index), position=s.position, probing=found)


@st.composite
def commands(draw):
    said = Commanded(
        verb=draw(st.sampled_from(list(Verb))),
        key=draw(st.sampled_from(["", "k1", "k2"])),
        to=draw(st.sampled_from(["", "", "b", "v0", "v1"])),
        actor="ann",
    )
    return lambda _: said


@st.composite
def policies(draw):
    seed, lane, whole = draw(st.integers(0, 2**32)), draw(st.sampled_from(LANES)), draw(st.booleans())

    def make(s):
        layer = s.policy.assignment.layer
        document = documents.document(random.Random(seed), layer=layer) if whole else documents.edited(random.Random(seed), s.policy)
        return PolicyChanged(policy=document, lane=lane if document.assignment.layer else WHOLE)

    return make


OUTSIDE = (
    Restarted(),
    PolicyRemoved(),
    WindowChanged(words="the weekend"),
    WindowChanged(words=""),
    SourceReported(words="the log is silent"),
    SourceReported(words=""),
    Ticked(),
)


@st.composite
def evidence(draw):
    stable, arms, shadow = draw(COUNTS), draw(st.lists(COUNTS, min_size=4, max_size=4)), draw(COUNTS)

    def make(s):
        users = {s.stable.identity: stable} | {arm.variant.identity: mine for arm, mine in zip(s.arms, arms, strict=False)}
        return EvidenceArrived(block=Block(start=0, end=1, users=users, shadows={identity_of(s, 0): shadow}))

    return make


TROUBLE = st.one_of(
    deliveries(),
    pods(),
    probes(),
    evidence(),
    commands(),
    commands(),
    policies(),
    st.sampled_from(OUTSIDE).map(lambda event: lambda _: event),
)


def lives(calm_tenths, trouble, times=(1.0, 2.0)):
    """Times with recipes: the real event is made from the state it meets (current publication, current versions)."""
    moments = st.integers(0, 9).flatmap(lambda n: st.sampled_from(CALM) if n < calm_tenths else trouble.map(lambda make: (make,)))
    return st.lists(st.tuples(st.sampled_from(times), moments), min_size=15, max_size=40)


MOVES = lives(5, TROUBLE, (0.0, 0.1, 1.0, 1.0, 7.0, -100.0, 1e6))
FAR = lives(9, TROUBLE)
FREEZING = lives(6, st.one_of(st.sampled_from(OUTSIDE[2:4]).map(lambda event: lambda _: event), policies()))


def records(step):
    return [effect.record for effect in step.effects if isinstance(effect, Notify)]


def shares(state):
    wanted = wish.traffic(state)
    return {arm.variant.identity: arm.share_bp for arm in wanted.arms} if wanted is not None else {}


def adopted(document, now):
    return engine.adopt(document, now=now, lane=Lane(start_bp=0, width_bp=5000) if document.assignment.layer else WHOLE)


def life(document, moves):
    """(state before, event, step, now) of each move."""
    now = 1e9
    step = adopted(document, now)
    for dt, makers in moves:
        now += dt
        for make in makers:
            before = step.state
            event = make(before)
            step = engine.step(before, event, now=now)
            yield before, event, step, now


@settings(max_examples=100, deadline=None)
@given(POLICIES, MOVES)
def test_laws_hold_after_every_event(document, moves):
    for before, _, step, now in life(document, moves):
        check(before, step, now)


def check(before, step, now):
    state = step.state
    # Plain data: what is stored is what there is.
    if step.effects:
        assert ADAPTER.validate_json(ADAPTER.dump_json(state)) == state
    wanted = wish.traffic(state)
    assert (wanted is None) == (state.mode is Mode.RETIRED)
    if wanted is not None:
        allowed(state, wanted)
    # A changed wish has a new number, is saved and published; an unchanged one is not.
    changed = not wish.same(wish.traffic(before), wanted)
    kinds = [type(effect) for effect in step.effects]
    assert state.publication == before.publication + changed
    if changed:
        assert Persist in kinds
        assert Publish in kinds or Withdraw in kinds
        assert not state.delivery.complete
    # Nothing is both refused and changed.
    if step.refused:
        assert step.effects == ()
    # Every decision and every state can be told.
    assert all(explain.sentence(record.reason) for record in records(step))
    report.report(state, now=now, held=False)
    times = [state.held_s, state.stage_s, state.source_s, *(each for arm in state.arms for each in (arm.silent_s, arm.gone_s))]
    assert all(value >= 0 for value in times)


def allowed(state, wanted):
    """A share needs a stage that says so, of an arm that is in; all of them fit the lane, and stable has the rest."""
    shown = {(stage.shares, stage.shadows, stage.users) for stage in stages(state.policy)}
    at = state.orphan or (
        stages(state.policy)[state.position] if state.mode is Mode.STEP and state.position < len(stages(state.policy)) else None
    )
    assert state.mode is not Mode.STEP or state.orphan is not None or (at.shares, at.shadows, at.users) in shown
    out = {arm.name for arm in state.arms if arm.out}
    for arm in wanted.arms:
        name = arm.variant.name
        open_to = state.mode is Mode.STEP and name not in out
        assert arm.share_bp <= (at.share_of(name) if open_to else 0)
        assert arm.shadow_bp <= (at.copies_of(name) if open_to else 0)
        assert not arm.pinned or (open_to and at.users)
        assert arm.variant.identity != wanted.stable.identity
    assert sum(arm.share_bp for arm in wanted.arms) <= FULL_BP
    homes = [Home(share_bp=arm.share_bp, reserve_bp=arm.reserve_bp) for arm in wanted.arms]
    assert misfit(homes, wanted.lane) == ""
    assert sum(slot.weight for slot in slots(homes, wanted.lane)) == TOTAL


@settings(max_examples=80, deadline=None)
@given(POLICIES, FREEZING)
def test_while_frozen_no_share_grows(document, moves):
    had = {}
    for before, _, step, _ in life(document, moves):
        state = step.state
        if not state.freezes:
            continue
        if not before.freezes:  # what an event gives is given before it is judged; a window or a person freezes what was there
            had = shares(state if state.freezes[0].source == "gate" else before)
        assert all(share_bp <= had.get(identity, 0) for identity, share_bp in shares(state).items())


@settings(max_examples=80, deadline=None)
@given(POLICIES, MOVES)
def test_revert_is_reachable_from_wherever_a_release_is(document, moves):
    step, now = adopted(document, 1e9), 1e9
    for *_, step, now in life(document, moves):  # noqa: B007 - the last one is meant
        pass
    state = step.state
    if state.mode not in {Mode.WARMING, Mode.STEP, Mode.PROMOTING, Mode.BAKING}:
        return
    before = state.previous or state.stable
    step = engine.step(state, Commanded(verb=Verb.ABORT), now=now)
    wanted = wish.traffic(step.state)
    assert wanted.stable.identity == before.identity
    assert all(arm.share_bp == arm.shadow_bp == arm.pinned == 0 for arm in wanted.arms)
    step = engine.step(step.state, Delivered(publication=step.state.publication, delivery=Delivery(selected=1, acked=1)), now=now)
    assert step.state.mode is Mode.REVERTED


@settings(max_examples=80, deadline=None)
@given(POLICIES, FAR)
def test_a_stage_ends_by_itself_only_with_every_gate_passed_and_a_promotion_needs_every_goal(document, moves):
    for before, event, step, now in life(document, moves):
        for record in records(step):
            if record.decision.value not in {"advanced", "promoted"} or record.reason.code in BY_HAND | {"step_edited", "no_steps"}:
                continue
            judged = engine._handled(before, event, now).state
            at = wish.stage(judged)
            # an `ab` is decided and left in one event: the losers are not asked any more
            winner = step.state.winner or (step.state.arms[0].name if record.decision.value == "promoted" and at.kind == "ab" else "")
            asked = [arm for arm in judged.running if not winner or arm.name == winner]
            assert judged.delivery.complete
            assert judged.held_s >= at.hold.for_s or not at.waits_for_evidence
            for arm in asked:
                said = verdicts.readings(judged, arm, now=now)
                if at.waits_for_evidence and (at.share_of(arm.name) or at.copies_of(arm.name)):
                    assert {reading.verdict for reading in said if reading.role is not Role.GOAL} <= {Verdict.PASS}
            if record.decision.value == "promoted":
                promoted = next(arm for arm in judged.arms if arm.variant.identity == step.state.stable.identity)
                goals = verdicts.readings(judged, promoted, now=now)
                assert {reading.verdict for reading in goals if reading.role is Role.GOAL} <= {Verdict.PASS}
                named = {reading.name for reading in goals if reading.role is Role.GOAL}
                assert named == {gate.name for gate in judged.policy.gates if gate.role is Role.GOAL}


@settings(max_examples=100, deadline=None)
@given(POLICIES, MOVES)
def test_an_arm_that_is_out_has_nothing_and_stays_out_of_its_release(document, moves):
    for before, _, step, _ in life(document, moves):
        state, wanted = step.state, wish.traffic(step.state)
        if state.generation != before.generation or wanted is None:
            continue
        was_out = {arm.variant.identity for arm in before.arms if arm.out}
        out = {arm.variant.identity for arm in state.arms if arm.out}
        assert was_out & {arm.variant.identity for arm in state.arms} <= out
        assert all(arm.share_bp == arm.shadow_bp == arm.pinned == 0 for arm in wanted.arms if arm.variant.identity in out)


@pytest.mark.parametrize("kind", ["probe", "shadow", "canary", "switch", "ab", "approve", "promote"])
def test_the_random_policies_hold_every_kind_of_step(kind):
    kinds = {step.kind for seed in range(100) for step in documents.document(random.Random(seed)).steps}
    assert kind in kinds
