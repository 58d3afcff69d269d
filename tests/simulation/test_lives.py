"""Random lives keep every invariant, and each invariant is shown to catch a mistake: a line of the engine is changed, and a life tells."""

import asyncio
from dataclasses import replace

import pytest

from policies import capacity, engine, passing, verdicts, wish
from policies.lanes import Lane
from policies.release import enter
from policies.rollout import Mode
from policies.steps import stages
from tests.simulation.invariants import INVARIANTS, Violation
from tests.simulation.sim import random_life
from xds_server.runtime import conductor

SEEDS = 150
PER_TEST = 10


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_random_lives_keep_every_invariant(first):
    """The violation names its seed; `python -m tests.simulation --seeds N-M` lives many more."""
    for seed in range(first, first + PER_TEST):
        asyncio.run(random_life(seed))


def full_at_once(patch):
    """Pods are not counted."""
    patch.setattr(capacity, "ceiling_bp", lambda *_: 10_000)


def shares_while_reverting(patch):
    """The stage goes on while everything should go back."""
    right = wish.stage
    patch.setattr(wish, "stage", lambda state: right(replace(state, mode=Mode.STEP) if state.mode is Mode.REVERTING else state))


def jumps_count(patch):
    """A jump of the clock serves a hold."""
    patch.setattr(passing, "MAX_TICK_S", 1e6)


def two_at_a_time(patch):
    """A stage is skipped where there is one to skip."""

    def skip(outcome, because, *, now, actor=""):
        position = outcome.state.position
        far = min(position + 2, len(stages(outcome.state.policy)) - 1)
        return enter(outcome, max(far, position + 1), now=now, because=because, actor=actor)

    patch.setattr(engine, "enter_next", skip)


def goals_forgotten(patch):
    """A goal that is not reached is nothing that is missing."""
    right = verdicts.waiting_for
    patch.setattr(verdicts, "waiting_for", lambda state, seen: tuple(item for item in right(state, seen) if item.kind != "goal"))


def caps_forgotten(patch):
    """What an arm had when growth was frozen is not looked at."""
    right = wish.shares
    patch.setattr(wish, "shares", lambda state: right(replace(state, arms=tuple(replace(arm, cap=None) for arm in state.arms))))


def keys_forgotten(patch):
    """A command is carried out whatever was said before."""
    right = engine._commanded
    patch.setattr(engine, "_commanded", lambda state, event, now: right(replace(state, commands=()), event, now))


def one_lane_for_all(patch):
    """Everybody in a layer begins with the first user."""
    patch.setattr(conductor, "allocate", lambda wanted, _: {name: Lane(start_bp=0, width_bp=width) for name, width in wanted.items()})


def changes_kept_secret(patch):
    """A change of the wish without a decision is not seen."""
    patch.setattr(wish, "untouched", lambda *_: True)


def published_first(patch):
    """The effects come in another order."""
    right = engine.step

    def step(state, event, *, now):
        done = right(state, event, now=now)
        return replace(done, effects=tuple(reversed(done.effects)))

    patch.setattr(engine, "step", step)


def lanes_never_too_narrow(patch):
    """Whether there is room is not looked at."""
    patch.setattr(wish, "fits", lambda _: True)


MISTAKES = {
    "share_never_exceeds_what_the_state_allows": full_at_once,
    "revert_always_ends_at_all_stable": shares_while_reverting,
    "no_step_without_its_hold_after_restarts": jumps_count,
    "at_most_one_step_per_acked_publication": two_at_a_time,
    "nothing_promotes_itself_without_every_goal_pass": goals_forgotten,
    "freeze_means_no_growth": caps_forgotten,
    "the_same_event_twice_is_once": keys_forgotten,
    "layers_never_share_a_user": one_lane_for_all,
    "what_is_published_is_what_the_state_says": changes_kept_secret,
    "a_decision_is_saved_before_it_is_published": published_first,
    "stable_takes_what_is_left": lanes_never_too_narrow,
}


@pytest.mark.parametrize("name", [invariant.__name__ for invariant in INVARIANTS])
def test_every_invariant_catches_its_mistake(name, monkeypatch):
    MISTAKES[name](monkeypatch)
    for seed in range(400):
        try:
            asyncio.run(random_life(seed))
        except Violation as found:
            if f": {name}: " in str(found):
                return
    pytest.fail(f"{MISTAKES[name].__name__} was not caught")
