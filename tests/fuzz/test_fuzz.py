"""A slice of `make fuzz`, from fixed seeds, and proof that its judges can say no."""

import random

import pytest

from tests.fuzz import hostile, policies, talks
from tests.fuzz.run import attack
from tests.specs import PROXIES, rollout, text
from xds_server.core.stream import AdsStream


def test_no_message_does_anything_but_be_read_or_be_refused():
    assert not any(attack("messages", number, 0) for number in range(5))


def test_no_hostile_stream_harms_the_hub_or_an_honest_proxy():
    assert not attack("sessions", 0, 0)


def test_no_conversation_leaves_a_client_without_what_it_wants():
    assert not any(attack("conversations", number, 0) for number in range(300))


def test_a_policy_that_is_taken_and_does_not_lead_forward_is_found(monkeypatch):
    monkeypatch.setattr("policies.spec.step_checks.faults", lambda _: ())
    files = {"f.yaml": text(PROXIES, rollout(steps=[{"canary": {"shares": ["50%", "5%"]}}]))}
    with pytest.raises(AssertionError):
        policies.judge(files)


def test_of_the_hostile_messages_some_are_taken_and_some_refused():
    source = hostile.Hostile(random.Random(1))
    taken = sum(hostile.read_any(source) for _ in range(500))
    assert 50 < taken < 450


def test_a_stream_that_errs_is_found_with_a_short_script(monkeypatch):
    """It forgets to send the second response of an offer."""
    honest = AdsStream.offer
    monkeypatch.setattr(AdsStream, "offer", lambda self, snapshot, **more: honest(self, snapshot, **more)[:1])
    bad = next(seed for seed in range(50) if talks.fault(*talks.write(random.Random(seed))) is AssertionError)
    with pytest.raises(AssertionError) as found:
        talks.talk(random.Random(bad))
    assert len(found.value.__notes__[-1].splitlines()) < 12
