"""A slice of `make fuzz` in every run of the tests, and that a finding would be one."""

import pytest

from tests.fuzz import attack


def test_hostile_bytes_are_refused_and_some_are_taken_for_a_request():
    taken = attack.bytes_in(seed=7, count=5_000)
    assert 0 < taken < 5_000


def test_hostile_streams_harm_nobody_else():
    ended = attack.sessions(seed=7, count=300)
    assert 0 < ended <= 300


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_random_conversations_break_no_law(start):
    for seed in range(start, start + 100):
        attack.conversation(seed)


def test_a_decoder_that_fails_otherwise_is_found(monkeypatch):
    monkeypatch.setattr(attack, "decode", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError) as found:
        attack.bytes_in(seed=7, count=1)
    assert found.value.__notes__[0].startswith("decode(")
