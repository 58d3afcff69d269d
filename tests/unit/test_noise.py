"""The noise between stable's pods, learnt minute by minute from two halves of them."""

import json

import numpy as np
import pytest
from pydantic import TypeAdapter

from policies.evidence import SAMPLED
from policies.noise import CALIBRATED_MINUTES, MINUTE_S, PHI_MAX, REMEMBERED_MINUTES, Noise, seen

RPS, RATE = 100, 0.01


def learnt(minutes, *, noise=0.0, seed=1, sampled=False, rate=RATE):
    """After minutes of A/A traffic in which each half's error rate is multiplied by a gamma of that variance."""
    chance = np.random.default_rng(seed)
    state, now = Noise(), 0.0
    for _ in range(minutes + 1):
        sides = []
        for _ in range(2):
            p = min(rate * (chance.gamma(1 / noise, noise) if noise else 1.0), 1.0)
            requests = int(chance.poisson(RPS / 2 * MINUTE_S))
            errors = int(chance.binomial(requests, p))
            if sampled:
                requests = int(chance.binomial(requests - errors, 1 / SAMPLED)) * SAMPLED + errors
            sides.append((requests, errors))
        state = seen(state, tuple(sides), now=now)
        now += MINUTE_S
    return state


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
def test_pods_that_differ_by_chance_are_no_noise(sampled, rate):
    found = [learnt(240, seed=seed, sampled=sampled, rate=rate).phi for seed in range(10)]
    assert min(found) >= 1.0
    assert np.median(found) < 1.15


def test_pods_that_have_bad_minutes_of_their_own_are_noise():
    found = learnt(240, noise=0.5)
    assert found.known
    # the variance of an arm's errors is K/2 (1 + cv^2 K/2): twice sixty errors a minute, cv^2 = 0.5
    assert 5 < found.phi < 20


def test_an_hour_with_errors_is_needed_to_know_it():
    assert not learnt(int(CALIBRATED_MINUTES) - 1).known
    assert learnt(int(CALIBRATED_MINUTES) + 2).known
    assert not learnt(300, rate=0.0).known


def test_old_minutes_are_forgotten_and_what_is_absurd_is_bounded():
    assert learnt(int(REMEMBERED_MINUTES) + 100).minutes == pytest.approx(REMEMBERED_MINUTES, abs=1.0)
    state = Noise()
    for minute in range(30):
        state = seen(state, ((1000, 1000 * (minute % 2)), (1000, 1000 * (1 - minute % 2))), now=minute * MINUTE_S)
    assert state.phi == PHI_MAX


def test_blocks_of_a_minute_are_one_minute_and_a_jump_of_the_clock_ends_it():
    whole = seen(seen(Noise(), ((600, 6), (600, 12)), now=0.0), None, now=MINUTE_S)
    parts = Noise()
    for second in range(60):
        parts = seen(parts, ((10, int(second < 6)), (10, int(second < 12))), now=float(second))
    assert seen(parts, None, now=MINUTE_S) == whole
    assert seen(parts, None, now=-1.0) == whole
    assert seen(whole, None, now=1e9) == whole


def test_it_is_plain_data_and_damage_is_forgotten():
    adapter = TypeAdapter(Noise)
    state = learnt(70)
    assert adapter.validate_json(json.dumps(adapter.dump_python(state, mode="json"))) == state
    damaged = seen(Noise(memory=(1.0,), since=0.0, halves=((10, 1), (10, 1))), None, now=MINUTE_S)
    assert damaged.minutes == 1.0
