"""The rules of each variant of an xDS stream, of heartbeats and of what is said about progress; names begin with the rule they hold.

P, S and D are the rules of both variants, of the state of the world and of delta, in the order of Envoy's `xds_protocol.rst`.
"""

import pytest

from tests.xds_peer import BOTH, Peer, content, res, world
from xds_server.core.facts import Acked, Request, Stale, Subscribed, Variant
from xds_server.core.stream import AdsStream, State
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS

# State of the world


@pytest.mark.rule("S1")
def test_s1_a_full_world_is_sent_whole_and_what_is_gone_is_left_out():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {LDS: [res("a"), res("b"), res("c")]})
    [answer] = peer.ask(LDS)
    peer.ack(answer)
    [answer] = peer.publish(2, {LDS: [res("a", "2"), res("b")]})
    assert content(answer) == {"a": "2", "b": "1"}
    peer.ack(answer)
    [answer] = peer.publish(3, {})
    assert content(answer) == {}
    peer.ack(answer)
    assert peer.stream.synced_serial == 3


@pytest.mark.rule("S1")
def test_s1_named_types_are_sent_in_parts_and_never_deleted_by_message():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {EDS: [res("a"), res("b")]})
    [answer] = peer.ask(EDS, "a", "b")
    peer.ack(answer, "a", "b")
    [answer] = peer.publish(2, {EDS: [res("a", "2"), res("b")]})
    assert content(answer) == {"a": "2"}
    peer.ack(answer, "a", "b")
    assert peer.publish(3, {EDS: [res("a", "2")]}) == ()
    assert peer.stream.synced_serial == 3


@pytest.mark.rule("S2")
def test_s2_names_that_are_left_out_are_unsubscribed_without_an_answer():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {EDS: [res("a"), res("b")]})
    [answer] = peer.ask(EDS, "a", "b")
    assert peer.ack(answer, "a") == ()
    assert peer.publish(2, {EDS: [res("a"), res("b", "2")]}) == ()


@pytest.mark.rule("S3")
def test_s3_a_stale_request_is_no_ack_but_its_names_count_after_the_next_one():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {EDS: [res("a"), res("b")]})
    [first] = peer.ask(EDS, "a")
    peer.ack(first, "a")
    [second] = peer.publish(2, {EDS: [res("a", "2"), res("b")]})
    assert peer.ask(EDS, "a", "b", nonce=first.nonce, error="about the old one") == ()
    assert peer.facts[0] == Stale(type_url=EDS, nonce=first.nonce)
    assert peer.stream.errors == ()
    [third] = peer.ack(second, "a", "b")
    assert content(third) == {"b": "1"}


@pytest.mark.rule("S4")
def test_s4_an_ack_that_names_more_is_answered_with_the_new_names():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {EDS: [res("a"), res("b")]})
    [answer] = peer.ask(EDS, "a")
    [more] = peer.ack(answer, "a", "b")
    assert content(more) == {"b": "1"}


@pytest.mark.rule("S5")
def test_s5_for_named_types_what_exists_is_sent_and_nothing_is_said_of_the_rest():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {EDS: [res("a")]})
    [answer] = peer.ask(EDS, "a", "missing")
    assert content(answer) == {"a": "1"}
    assert Peer(Variant.SOTW).ask(EDS, "missing") == ()


@pytest.mark.rule("S5")
def test_s5_a_full_world_answers_a_missing_name_by_leaving_it_out():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {CDS: [res("a")]})
    [answer] = peer.ask(CDS, "missing")
    assert content(answer) == {}


@pytest.mark.rule("S1", "P6")
def test_s1_a_full_rejected_world_is_one_unit_and_is_cleared_by_its_next_ack():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {CDS: [res("good"), res("bad")]})
    [answer] = peer.ask(CDS)
    peer.nack(answer)
    [smaller] = peer.publish(2, {CDS: [res("good")]})
    assert content(smaller) == {"good": "1"}
    peer.ack(smaller)
    assert peer.stream.errors == ()
    assert peer.stream.synced_serial == 2


# Delta


@pytest.mark.rule("D1")
def test_d1_subscriptions_count_even_with_a_stale_nonce():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {EDS: [res("a"), res("b")]})
    [first] = peer.ask(EDS, "a")
    assert peer.ask(EDS, "b", nonce="stale") == ()
    assert peer.facts == (Stale(type_url=EDS, nonce="stale"), Subscribed(type_url=EDS))
    [second] = peer.ack(first)
    assert content(second) == {"b": "1"}


@pytest.mark.rule("D1")
def test_d1_a_spontaneous_request_is_no_ack():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {EDS: [res("a"), res("b")]})
    [first] = peer.ask(EDS, "a")
    assert peer.ask(EDS, "b") == ()
    assert peer.facts == (Subscribed(type_url=EDS),)
    assert peer.stream.synced(EDS) == 0
    [second] = peer.ack(first)
    assert content(second) == {"b": "1"}


@pytest.mark.rule("D2")
def test_d2_every_subscribed_name_is_answered_and_missing_ones_are_listed_as_removed():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {EDS: [res("a")]})
    [answer] = peer.ask(EDS, "a", "missing")
    assert content(answer) == {"a": "1"}
    assert answer.removed == ("missing",)


@pytest.mark.rule("D2")
def test_d2_a_type_nobody_serves_is_answered_too():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {})
    [answer] = peer.ask("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "cert")
    assert answer.removed == ("cert",)


@pytest.mark.rule("D3")
def test_d3_a_pure_unsubscribe_is_not_answered_and_unknown_ones_are_ignored():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {EDS: [res("a"), res("b")]})
    [answer] = peer.ask(EDS, "a", "b")
    peer.ack(answer)
    assert peer.ask(EDS, unsubscribe=("b", "never")) == ()
    assert peer.publish(2, {EDS: [res("a"), res("b", "2")]}) == ()


@pytest.mark.rule("D3")
def test_d3_an_explicit_name_dropped_under_a_wildcard_is_answered():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {CDS: [res("a"), res("b")]})
    [answer] = peer.ask(CDS, "*", "a", "missing")
    assert answer.removed == ("missing",)
    [answer] = peer.ack(answer, unsubscribe=("a", "missing"))
    assert content(answer) == {"a": "1"}
    assert answer.removed == ("missing",)


@pytest.mark.rule("D4")
def test_d4_a_removed_name_is_still_watched():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {EDS: [res("a")]})
    [answer] = peer.ask(EDS, "a")
    peer.ack(answer)
    [removal] = peer.publish(2, {})
    assert removal.removed == ("a",)
    peer.ack(removal)
    assert peer.publish(3, {}) == ()
    [back] = peer.publish(4, {EDS: [res("a")]})
    assert content(back) == {"a": "1"}


@pytest.mark.rule("D5")
@BOTH
def test_d5_an_empty_world_is_answered_once(variant):
    peer = Peer(variant)
    peer.publish(1, {})
    [answer] = peer.ask(CDS)
    assert (answer.resources, answer.removed) == ((), ())
    assert peer.ack(answer) == ()
    assert peer.stream.synced_serial == 1


@pytest.mark.rule("D8")
def test_d8_clusters_may_be_named_one_by_one_on_demand():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {CDS: [res("a"), res("b"), res("c")]})
    [answer] = peer.ask(CDS, "a")
    assert content(answer) == {"a": "1"}
    [answer] = peer.ack(answer, "b")
    assert content(answer) == {"b": "1"}
    peer.ack(answer)
    [answer] = peer.ask(CDS, "unknown")
    assert (content(answer), answer.removed) == ({}, ("unknown",))


# Heartbeats of leases


def leased(variant):
    peer = Peer(variant)
    peer.publish(1, {RTDS: [res("t", ttl_s=3.0), res("free")]}, now=0.0)
    [answer] = peer.ask(RTDS, "t", "free")
    peer.ack(answer)
    return peer


@pytest.mark.rule("D6")
@BOTH
def test_d6_a_heartbeat_prolongs_what_is_leased_and_leaves_the_rest(variant):
    peer = leased(variant)
    [beat] = peer.stream.heartbeat(RTDS, ["t", "free", "unknown"], beat=1, now=1.0)
    assert content(beat) == {"t": "1"}
    assert beat.bodiless == (variant is Variant.DELTA)
    assert peer.stream.synced_serial == 1, "a heartbeat on the way takes nothing back"
    assert peer.ack(beat) == ()
    assert peer.facts[0] == Acked(type_url=RTDS, version=beat.version, heartbeat=True)


@pytest.mark.rule("D6")
@BOTH
def test_d6_no_heartbeat_while_a_response_is_unanswered(variant):
    peer = leased(variant)
    [beat] = peer.stream.heartbeat(RTDS, ["t"], beat=1, now=1.0)
    assert peer.stream.heartbeat(RTDS, ["t"], beat=2, now=2.0) == ()
    assert peer.stream.heartbeat(CDS, ["t"], beat=3, now=2.0) == ()
    peer.ack(beat)
    assert peer.stream.heartbeat(RTDS, ["t"], beat=4, now=2.0)[0].nonce != beat.nonce


@pytest.mark.rule("D6")
def test_d6_a_heartbeat_that_comes_too_late_carries_the_whole_resource():
    peer = leased(Variant.DELTA)
    [beat] = peer.stream.heartbeat(RTDS, ["t"], beat=1, now=2.9)
    assert not beat.bodiless


@pytest.mark.rule("D6")
def test_d6_what_was_rejected_is_not_kept_alive():
    peer = leased(Variant.DELTA)
    [answer] = peer.publish(2, {RTDS: [res("t", "2", ttl_s=3.0), res("free")]})
    peer.nack(answer)
    assert peer.stream.heartbeat(RTDS, ["t"], beat=1, now=1.0) == ()


@pytest.mark.rule("D6")
@BOTH
def test_d6_a_lease_that_begins_or_ends_is_a_change_of_its_own(variant):
    peer = leased(variant)
    [answer] = peer.publish(2, {RTDS: [res("t"), res("free")]})
    assert [each.ttl_s for each in answer.resources] == [None]


# What is said about progress


@BOTH
def test_synced_tells_the_newest_snapshot_accepted_in_all_types_asked_for(variant):
    peer = Peer(variant)
    assert peer.stream.synced_serial == 0
    peer.publish(4, {CDS: [res("c")], LDS: [res("l")]})
    assert peer.stream.synced(LDS) == 4, "a type never asked for is satisfied"
    [clusters] = peer.ask(CDS)
    [listeners] = peer.ask(LDS)
    peer.ack(clusters)
    assert (peer.stream.synced(CDS), peer.stream.synced(LDS), peer.stream.synced_serial) == (4, 0, 0)
    peer.ack(listeners)
    assert peer.stream.synced_serial == 4


@BOTH
def test_synced_goes_back_while_an_answer_to_a_new_wish_is_on_the_way(variant):
    peer = Peer(variant)
    peer.publish(4, {EDS: [res("a"), res("b")]})
    [answer] = peer.ask(EDS, "a")
    [more] = peer.ack(answer, "a", "b") if variant is Variant.SOTW else peer.ack(answer, "b")
    assert peer.stream.synced_serial == 3
    peer.ack(more)
    assert peer.stream.synced_serial == 4


@BOTH
def test_progress_names_the_state_of_each_type(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")]})
    [answer] = peer.ask(CDS)
    [progress] = peer.stream.progress()
    assert (progress.state, progress.acked_version) == (State.STALE, "")
    peer.facts = peer.stream.receive(Request(type_url=CDS, nonce=answer.nonce), now=12.0)
    peer.stream.offer(peer.snapshot)
    [progress] = peer.stream.progress()
    assert (progress.state, progress.sent_version, progress.acked_version) == (State.SYNCED, answer.version, answer.version)
    assert progress.acked_at == 12.0
    peer.ask(EDS, "absent")
    assert peer.stream.progress()[1].state is (State.NOT_SENT if variant is Variant.SOTW else State.STALE)


def test_a_rejected_removal_is_an_error_until_the_next_ack():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {RDS: [res("r")]})
    peer.ack(peer.ask(RDS, "r")[0])
    [removal] = peer.publish(2, {})
    peer.nack(removal, words="in use")
    assert peer.stream.errors == ((RDS, "in use"),)
    [back] = peer.publish(3, {RDS: [res("r")]})
    peer.ack(back)
    assert peer.stream.errors == ()


@BOTH
def test_an_error_goes_when_the_client_no_longer_wants_what_it_rejected(variant):
    peer = Peer(variant)
    peer.publish(1, {RDS: [res("bad")]})
    peer.nack(peer.ask(RDS, "bad")[0])
    peer.ask(RDS, nonce="" if variant is Variant.DELTA else "x", unsubscribe=("bad",))
    assert peer.stream.errors == ()
    assert peer.stream.synced_serial == 1


@pytest.mark.rule("P7")
def test_removals_rejected_along_with_something_else_go_again_with_the_next_change():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {CDS: [res("a")]})
    peer.ack(peer.ask(CDS)[0])
    [mixed] = peer.publish(2, {CDS: [res("b", "bad")]})
    assert mixed.removed == ("a",)
    assert peer.nack(mixed) == ()
    [again] = peer.publish(3, {CDS: [res("b", "good")]})
    assert (content(again), again.removed) == ({"b": "good"}, ("a",))
    peer.ack(again)
    assert peer.stream.synced_serial == 3


@pytest.mark.rule("P6", "P7")
@pytest.mark.parametrize("variant", list(Variant))
def test_what_was_rejected_beside_something_bad_is_tried_once_more_when_that_is_mended(variant):
    stream = AdsStream(variant)
    names = ("a", "b", "c")
    said = stream.receive(Request(type_url=EDS, names=names))
    (response,) = stream.offer(world(1, {EDS: [res("a", "bad"), res("b"), res("c")]}))

    def answer(error=None):
        nonlocal said, response
        said = stream.receive(Request(type_url=EDS, names=names if variant is Variant.SOTW else (), nonce=response.nonce, error=error))

    answer("a is bad")
    mended = world(2, {EDS: [res("a", "2"), res("b"), res("c")]})
    (response,) = stream.offer(mended)
    assert [each.name for each in response.resources] == ["a"], "the mended one alone: what else was bad must not spoil it"
    answer()
    (response,) = stream.offer(mended)
    assert [each.name for each in response.resources] == ["b", "c"]
    answer("c is bad too")
    assert stream.offer(mended) == (), "once is enough"
    assert stream.errors == ((EDS, "c is bad too"),)
    assert stream.synced_serial < 2
    (response,) = stream.offer(world(3, {EDS: [res("a", "2"), res("b"), res("c", "2")]}))
    answer()
    (response,) = stream.offer(world(3, {EDS: [res("a", "2"), res("b"), res("c", "2")]}))
    answer()
    assert (stream.errors, stream.synced_serial) == ((), 3)
