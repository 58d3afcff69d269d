"""Laws of the engine under any sequence of events: it never raises, never gives the candidate more than its state says, and always reverts."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from policies import engine, explain, report, verdicts, wish
from policies.evidence import Block
from policies.gates import Verdict
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
    Publish,
    Restarted,
    Rollout,
    Ticked,
    Verb,
    Withdraw,
)
from policies.spec.policy import CanaryStep, Hold, Lease, PromoteStep, ShadowStep, Then, When
from policies.steps import stages
from tests.making import ERRORS, LATENCY, counts, policy, variant

ADAPTER = TypeAdapter(Rollout)
POLICIES = st.builds(
    lambda candidate, steps, hold, fail, keep: policy(
        candidate=candidate,
        steps=tuple(
            replace(step, hold=hold) if not isinstance(step, PromoteStep) else replace(step, keep_stable_for_s=keep) for step in steps
        ),
        gates=(ERRORS, LATENCY),
        when=When(fail=fail, stuck_after_s=60, no_data_after_s=20),
        lease=Lease(ttl_s=3),
    ),
    st.sampled_from([None, variant("candidate", "v2", 8002), variant("candidate", "v3", 8003)]),
    st.lists(
        st.sampled_from([ShadowStep(share_bp=5000), CanaryStep(shares_bp=(100, 2500)), CanaryStep(shares_bp=(10_000,)), PromoteStep()]),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([Hold(), Hold(for_s=3), Hold(for_s=1, samples=5)]),
    st.sampled_from(list(Then)),
    st.sampled_from([0.0, 5.0]),
)
COUNTS = st.builds(
    lambda n, bad, ms: counts(n, min(n, bad), ms), st.integers(0, 40), st.integers(0, 40), st.sampled_from([50.0, 100.0, 400.0])
)


@st.composite
def events(draw):
    """A recipe: the real event is made from the state it meets (current publication, current versions)."""
    kind = draw(
        st.sampled_from(
            ["ack", "ack", "nack", "pods", "evidence", "evidence", "evidence", "tick", "command", "policy", "restart", "remove"]
        )
    )
    match kind:
        case "ack":
            late = draw(st.sampled_from([0, 0, 0, 1]))
            selected = draw(st.integers(0, 3))
            acked = draw(st.integers(0, selected)) if draw(st.booleans()) else selected
            return lambda s: Delivered(publication=s.publication - late, delivery=Delivery(selected=selected, acked=acked))
        case "nack":
            return lambda s: Delivered(publication=s.publication, delivery=Delivery(selected=2, acked=1, rejected=1, words="no"))
        case "pods":
            ready = draw(st.integers(0, 2))
            return lambda s: PodsProbed(identity=s.candidate.identity if s.candidate else "x", pods=Pods(ready=ready, total=2))
        case "evidence":
            stable, candidate, shadow = draw(COUNTS), draw(COUNTS), draw(COUNTS)

            def make(s):
                identity = s.candidate.identity if s.candidate else "gone"
                return EvidenceArrived(
                    block=Block(start=0, end=1, users={s.stable.identity: stable, identity: candidate}, shadows={identity: shadow})
                )

            return make
        case "tick":
            return lambda _: Ticked()
        case "command":
            verb, key = draw(st.sampled_from(list(Verb))), draw(st.sampled_from(["", "k1", "k2"]))
            return lambda _: Commanded(verb=verb, key=key, actor="ann")
        case "policy":
            document = draw(POLICIES)
            return lambda _: PolicyChanged(policy=document)
        case "restart":
            return lambda _: Restarted()
        case _:
            return lambda _: PolicyRemoved()


MOVES = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0, 7.0, -100.0, 1e6]), events()), max_size=60)


@settings(max_examples=150, deadline=None)
@given(POLICIES, MOVES)
def test_laws_hold_after_every_event(document, moves):
    now = 1e9
    step = engine.adopt(document, now=now)
    for dt, make in moves:
        state = step.state
        now += dt
        step = engine.step(state, make(state), now=now)
        check(state, step, now)


def check(before, step, now):
    state = step.state
    # Plain data: what is stored is what there is.
    assert ADAPTER.validate_json(ADAPTER.dump_json(state)) == state
    # A share needs a stage of the policy that says so.
    wanted = wish.traffic(state)
    assert (wanted is None) == (state.mode is Mode.RETIRED)
    allowed = {(0, 0)} | {(stage.share_bp, stage.shadow_bp) for stage in (*stages(state.policy), *([state.orphan] if state.orphan else []))}
    if wanted is not None:
        for arm in wanted.arms:
            assert (arm.share_bp, arm.shadow_bp) in (allowed if state.mode is Mode.STEP else {(0, 0)})
            assert arm.variant.identity != wanted.stable.identity
    # A changed wish has a new number, is saved and published; an unchanged one is not.
    changed = not wish.same(wish.traffic(before), wanted)
    kinds = [type(effect) for effect in step.effects]
    assert state.publication == before.publication + changed
    if changed:
        assert Persist in kinds
        assert Publish in kinds or Withdraw in kinds
        assert not state.delivery.complete
    # A stage is only ever left or entered with its number, and nothing is both refused and changed.
    if step.refused:
        assert step.effects == ()
    # Every decision and every state can be told.
    for effect in step.effects:
        if isinstance(effect, Notify):
            assert explain.sentence(effect.record.reason)
    report.report(state, now=now, held=False)
    assert all(value >= 0 for value in (state.held_s, state.stage_s, state.silent_s))


@settings(max_examples=100, deadline=None)
@given(POLICIES, MOVES)
def test_revert_is_reachable_from_wherever_a_release_is(document, moves):
    now = 1e9
    step = engine.adopt(document, now=now)
    for dt, make in moves:
        now += dt
        step = engine.step(step.state, make(step.state), now=now)
    state = step.state
    if state.mode not in {Mode.WARMING, Mode.STEP, Mode.PROMOTING, Mode.BAKING}:
        return
    before = state.previous or state.stable
    step = engine.step(state, Commanded(verb=Verb.ABORT), now=now)
    wanted = wish.traffic(step.state)
    assert wanted.stable.identity == before.identity
    assert all(arm.share_bp == arm.shadow_bp == 0 for arm in wanted.arms)
    step = engine.step(step.state, Delivered(publication=step.state.publication, delivery=Delivery(selected=1, acked=1)), now=now)
    assert step.state.mode is Mode.REVERTED


@settings(max_examples=100, deadline=None)
@given(POLICIES, MOVES)
def test_a_release_is_promoted_only_by_hand_or_with_every_gate_passed(document, moves):
    now = 1e9
    step = engine.adopt(document, now=now)
    for dt, make in moves:
        before, now = step.state, now + dt
        event = make(before)
        step = engine.step(before, event, now=now)
        for effect in step.effects:
            if isinstance(effect, Notify) and effect.record.decision.value in {"promoted", "advanced"}:
                if effect.record.reason.code == "stage_passed":
                    judged = engine._handle(engine._pass_time(before, now), event, now).state
                    assert {reading.verdict for reading in verdicts.readings(judged, now=now)} == {Verdict.PASS}
                    assert judged.delivery.complete
                    assert judged.held_s >= wish.stage(judged).hold.for_s
                else:
                    assert effect.record.reason.code in {"no_steps", "promoted_by_hand", "step_edited"}
