"""A recording through the real engine: what happened happens, and what a policy would have changed is changed as far as the recording reaches."""

from dataclasses import replace

import numpy as np
import pytest

from policies.evidence import Counts, latency_bin
from policies.replay.blocks import Block, InForce, Recording
from policies.replay.recorded import UnfitError, replay
from policies.rollout import Mode
from policies.spec.policy import ApproveStep, Hold, ProbeRequest, ProbeStep, PromoteStep
from tests.making import LATENCY, Run, canary, counts, policy, shadow
from tests.rig import binomial_band

SOON = Hold(for_s=30.0, samples=20)


def steps(*shares_bp, hold=SOON):
    return (canary(*shares_bp, hold=hold), PromoteStep(keep_stable_for_s=10.0))


def recording(number=600, *, every_s=1.0, stable=90, candidate=10, bad=lambda at: 0, share=1000, before=0, silent=range(0)):
    """`before` blocks of stable alone, then both; `bad`: errors of the candidate in the block that ends then."""
    blocks = []
    for place in range(1, number + 1):
        at = place * every_s
        if place in silent:
            continue
        arms = {"stable": counts(stable)}
        if place > before:
            arms["candidate"] = counts(candidate, bad(at))
        blocks.append(Block(at=at, arms=arms))
    in_force = () if share is None else (InForce(at=every_s, shares={"candidate": share}),)
    return Recording(blocks=tuple(blocks), in_force=in_force)


def ran(document, what, seed=1):
    return replay(document, what, random=np.random.default_rng(seed)).run


def test_a_good_candidate_is_promoted():
    run = ran(policy(steps=steps(1000)), recording())
    assert run.ended == "promoted"
    assert run.candidates > 0
    assert run.harmed == 0.0
    assert run.ended_s < 600


def test_one_that_turns_bad_is_reverted_when_it_does_and_the_gate_is_named():
    run = ran(policy(steps=steps(1000, hold=Hold(for_s=500.0))), recording(bad=lambda at: 10 if at > 200 else 0))
    assert (run.ended, run.gate, run.step) == ("reverted", "errors", "canary 10%")
    assert 200 < run.ended_s < 210
    assert run.harmed == pytest.approx(10 * (run.ended_s - 200))


def test_it_ends_where_the_same_blocks_end_on_the_engine_by_hand():
    document = policy(steps=steps(1000, hold=Hold(for_s=500.0)))
    what = recording(bad=lambda at: 4 if at % 3 == 0 else 0)
    hand = Run.of(document)
    started = hand.now
    for act in (hand.ready, hand.ack, hand.ack):
        act()
    for block in what:
        hand.now = started + block.at
        hand.evidence(block.arms["stable"], block.arms["candidate"])
        if not hand.state.delivery.complete:
            hand.ack()
        if hand.state.mode is Mode.REVERTED:
            break
    run = ran(document, what)
    assert hand.state.mode is Mode.REVERTED
    assert (run.ended, run.ended_s) == ("reverted", pytest.approx(hand.now - started))


def test_a_recording_that_ends_too_soon_decides_nothing_and_says_what_was_missing():
    run = ran(policy(steps=steps(1000, 5000)), recording(20))
    assert (run.ended, run.ended_s) == ("held", 20.0)
    assert run.step


def test_an_end_in_the_bake_is_a_promotion_and_trouble_in_it_a_revert():
    document = policy(steps=(canary(1000, hold=SOON), PromoteStep(keep_stable_for_s=10_000.0)))
    assert ran(document, recording()).ended == "promoted"
    assert ran(document, recording(bad=lambda at: 10 if at > 300 else 0)).ended == "reverted"


def test_a_hold_that_is_served_in_silence_promotes_nothing():
    document = policy(steps=steps(1000, hold=Hold(for_s=1000.0)))
    assert ran(document, recording(3000)).ended_s < 1100
    run = ran(document, recording(3000, silent=range(20, 2990)))
    assert run.ended_s > 2990


def test_the_release_begins_with_the_first_request_of_an_arm():
    run = ran(policy(steps=steps(1000)), recording(before=300))
    plain = ran(policy(steps=steps(1000)), recording())
    assert run.ended == "promoted"
    assert run.ended_s == pytest.approx(run.took_s + 300, abs=1.0)
    assert run.took_s <= plain.took_s + 1.0


def test_a_smaller_share_than_was_recorded_sees_that_part_of_the_requests():
    small = ran(policy(steps=steps(100, hold=Hold(for_s=1000.0))), recording(400, candidate=100, share=1000))
    low, high = binomial_band(100 * 400, 0.1)
    assert low <= small.candidates <= high
    late = ran(policy(steps=steps(100, hold=Hold(for_s=900.0))), recording(candidate=100, share=1000, bad=lambda _: 8))
    soon = ran(policy(steps=steps(1000, hold=Hold(for_s=900.0))), recording(candidate=100, share=1000, bad=lambda _: 8))
    assert (late.ended, soon.ended) == ("reverted", "reverted")
    assert late.ended_s > soon.ended_s


def test_a_larger_share_than_was_recorded_makes_do_with_what_there_is():
    what = recording(bad=lambda at: 10 if at > 200 else 0)
    larger = ran(policy(steps=steps(5000, hold=Hold(for_s=500.0))), what)
    assert larger.ended == "reverted"
    assert larger.candidates == 10 * larger.ended_s


def test_blocks_in_which_there_was_less_than_wanted_are_told():
    what = recording(50)
    wants_more = replay(policy(steps=steps(5000, hold=Hold(for_s=500.0))), what, random=np.random.default_rng(1))
    assert (wants_more.blocks, wants_more.short) == (50, 50)
    as_it_was, less = (
        replay(policy(steps=steps(share, hold=Hold(for_s=500.0))), what, random=np.random.default_rng(1)) for share in (1000, 100)
    )
    assert (as_it_was.short, less.short) == (0, 0)
    assert (wants_more.drawn, as_it_was.drawn, less.drawn) == (True, False, True)


def test_without_known_shares_all_that_was_recorded_is_seen():
    what = recording(share=None)
    run = ran(policy(steps=steps(100, hold=Hold(for_s=500.0))), what)
    assert run.candidates == 10 * run.ended_s


def test_chance_draws_the_parts_alone():
    bad = recording(candidate=40, share=4000, bad=lambda at: at % 3 == 0)
    document = policy(steps=steps(100, hold=Hold(for_s=550.0)))
    assert ran(document, bad, seed=5) == ran(document, bad, seed=5)
    assert len({ran(document, bad, seed=seed).candidates for seed in range(5)}) > 1
    whole = policy(steps=steps(4000, hold=Hold(for_s=550.0)))
    assert len({ran(whole, bad, seed=seed) for seed in range(3)}) == 1


def test_histograms_and_statuses_are_drawn_with_the_requests():
    seen = Counts(requests=100, errors=20, latency=((40, 80), (60, 20)), ttft=((30, 90),), statuses=(("200", 80), ("500", 20)))
    blocks = tuple(Block(at=float(at), arms={"stable": counts(900), "candidate": seen}) for at in range(1, 4))
    run = ran(policy(gates=(), steps=steps(500)), Recording(blocks=blocks, in_force=(InForce(at=1.0, shares={"candidate": 1000}),)))
    assert 90 < run.candidates < 210


def test_copies_are_taken_to_be_answered_as_users_were():
    document = policy(steps=(shadow(1000, hold=Hold(for_s=300.0, samples=20)), *steps(1000)))
    assert ran(document, recording()).ended == "promoted"
    early = ran(document, recording(bad=lambda at: 10 if at > 50 else 0))
    assert (early.ended, early.step) == ("reverted", "shadow 10%")
    assert early.candidates == 0


def test_approvals_are_given():
    document = policy(steps=(canary(1000, hold=SOON), ApproveStep(who="team", within_s=60.0), PromoteStep()))
    assert ran(document, recording()).ended == "promoted"


def test_probes_succeed():
    document = policy(steps=(ProbeStep(requests=(ProbeRequest(path="/"),), rate_per_s=2.0, for_s=5.0), *steps(1000)))
    assert ran(document, recording()).ended == "promoted"


def test_a_variant_may_be_silent_in_a_block():
    blocks = [Block(at=float(at), arms={"candidate": counts(10)} if at % 2 else {"stable": counts(90)}) for at in range(1, 600)]
    assert ran(policy(steps=steps(1000)), Recording(blocks=tuple(blocks))).ended == "promoted"


def test_slow_answers_of_a_recording_revert_too():
    def block(at):
        slow = Counts(requests=20, latency=((latency_bin(400.0), 20),))
        return Block(at=at, arms={"stable": counts(80), "candidate": slow if at > 60 else counts(20)})

    run = ran(
        policy(gates=(LATENCY,), steps=steps(1000, hold=Hold(for_s=250.0))),
        Recording(blocks=tuple(block(float(at)) for at in range(1, 300))),
    )
    assert (run.ended, run.gate) == ("reverted", "latency")
    assert run.ended_s > 60


@pytest.mark.parametrize("arms", [{"stable": counts(5)}, {"candidate": counts(5)}, {}])
def test_what_the_recording_does_not_have_is_named(arms):
    with pytest.raises(UnfitError, match="it has nothing of"):
        ran(policy(steps=steps(1000)), Recording(blocks=(Block(at=1.0, arms=arms),)))


def test_a_policy_without_arms_has_nothing_to_replay():
    with pytest.raises(UnfitError, match="of an arm"):
        ran(replace(policy(), arms=(), steps=()), recording(5))
