"""A slice of `make fuzz`, from fixed seeds, and proof that its judges can say no."""

import random
from pathlib import Path

import pytest

from tests.fuzz import hostile, policies, talks, wire
from tests.fuzz.run import attack
from tests.specs import PROXIES, rollout, text
from xds_server.core.stream import AdsStream
from xds_server.wire import Connection, states
from xds_server.wire.frames import DATA
from xds_server.wire.outgoing import Outgoing
from xds_server.wire.streams import Streams

CORPUS = sorted((Path(__file__).parents[1] / "fixtures/wire_corpus").iterdir())


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


def test_no_connection_is_judged_as_h2_does_not_without_a_reason():
    assert not any(attack("connections", number, 0) for number in range(4))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_bytes_that_once_took_a_new_way_through_the_wire_are_judged_as_h2_does(path):
    """What `tests.fuzz.wire_guided` found to take all the ways that it found."""
    data = path.read_bytes()
    wire.compare(wire.frames_of(data))
    wire.cut(wire.PREFACE + data, random.Random(0))


def conversations():
    for number in range(400):
        wire.converse(random.Random(number))


def test_a_frame_that_is_taken_where_none_is_welcome_is_found(monkeypatch):
    monkeypatch.setitem(states.VERDICTS[states.State.HALF_CLOSED_REMOTE], DATA, states.Verdict(takes=True))
    with pytest.raises(AssertionError, match=r" here, .* there"):
        conversations()


def test_a_server_that_sends_more_than_a_window_is_found(monkeypatch):
    """It forgets that what it sends narrows the window of the connection."""
    honest = Outgoing.put

    def put(self, buffers, size):
        honest(self, buffers, size)
        self.window += size

    monkeypatch.setattr(Outgoing, "put", put)
    with pytest.raises(wire.h2.exceptions.FlowControlError):
        conversations()


def test_a_server_that_speaks_on_a_closed_stream_is_found(monkeypatch):
    honest = Streams.cut

    def cut(self, call, code):
        honest(self, call, code)
        self.head(call.id, b"\x88")

    monkeypatch.setattr(Streams, "cut", cut)
    with pytest.raises(wire.h2.exceptions.ProtocolError):
        conversations()


def test_a_connection_that_depends_on_where_its_bytes_are_cut_is_found(monkeypatch):
    """It loses what comes in pieces of seven bytes."""
    honest = Connection.receive
    monkeypatch.setattr(Connection, "receive", lambda self, data: len(data) != 7 and honest(self, data))
    with pytest.raises(AssertionError):
        conversations()
