"""The rules of one xDS stream that hold for both variants; names begin with the rule they hold.

P, S and D are the rules of both variants, of the state of the world and of delta, in the order of Envoy's `xds_protocol.rst`.
"""

import pytest

from tests.xds_peer import BOTH, Peer, content, res, world
from xds_server.core.facts import Acked, Nacked, Request, Subscribed, Variant
from xds_server.core.snapshot import Snapshot
from xds_server.core.stream import MAX_TYPES, AdsStream, State
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.errors import PeerError


@pytest.mark.rule("P3")
@BOTH
def test_p3_each_type_has_its_own_versions_nonces_and_answers(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")], RDS: [res("r")]})
    [clusters] = peer.ask(CDS)
    [routes] = peer.ask(RDS, "r")
    assert peer.nack(routes) == ()
    peer.ack(clusters)
    assert isinstance(peer.facts[0], Acked)
    assert [each.state for each in peer.stream.progress()] == [State.SYNCED, State.ERROR]


@pytest.mark.rule("P3")
@BOTH
def test_p3_a_type_that_waits_for_an_answer_holds_back_no_other(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")], RDS: [res("r")]})
    peer.ask(CDS)
    peer.ack(peer.ask(RDS, "r")[0])
    [routes] = peer.publish(2, {CDS: [res("c", "2")], RDS: [res("r", "2")]})
    assert routes.type_url == RDS


@pytest.mark.rule("P4")
@BOTH
def test_p4_the_first_request_of_a_type_is_initial_whatever_nonce_it_carries(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")]})
    [answer] = peer.ask(CDS, nonce="of-another-stream", error="old words")
    assert peer.facts == (Subscribed(type_url=CDS),)
    assert content(answer) == {"c": "1"}


@pytest.mark.rule("P4")
@BOTH
def test_p4_a_nonce_is_never_used_twice_on_a_stream(variant):
    peer = Peer(variant)
    seen = []
    peer.publish(1, {RDS: [res("r")]})
    [answer] = peer.ask(RDS, "r")
    for serial in range(2, 8):
        seen.append(answer.nonce)
        peer.ack(answer)
        [answer] = peer.publish(serial, {RDS: [res("r", str(serial % 2 + 5))]})
    assert len(set(seen)) == len(seen)


@pytest.mark.rule("P4")
@BOTH
def test_p4_equal_pushes_to_two_streams_have_equal_nonces(variant):
    peers = [Peer(variant), Peer(variant)]
    peers[1].publish(1, {CDS: [res("c")]})
    [old] = peers[1].ask(CDS)
    peers[1].ack(old)
    peers[0].snapshot = world(1, {CDS: [res("c")]})
    peers[0].ack(peers[0].ask(CDS)[0])
    nonces = {peer.publish(2, {CDS: [res("c", "2")]})[0].nonce for peer in peers}
    assert len(nonces) == 1


@pytest.mark.rule("P5")
@BOTH
def test_p5_a_nack_is_error_detail_and_nothing_else(variant):
    peer = Peer(variant)
    peer.publish(1, {RDS: [res("r")]})
    [answer] = peer.ask(RDS, "r")
    peer.nack(answer, words="weights")
    assert peer.facts[0] == Nacked(type_url=RDS, version=answer.version, message="weights", resources=("r",))


@pytest.mark.rule("P5")
@BOTH
def test_p5_a_rejection_without_words_is_still_one(variant):
    peer = Peer(variant)
    peer.publish(1, {RDS: [res("r")]})
    [answer] = peer.ask(RDS, "r")
    peer.nack(answer, words="")
    assert peer.stream.errors == ((RDS, "rejected without words"),)


@pytest.mark.rule("P6")
@BOTH
def test_p6_rejected_content_is_not_sent_again_until_it_changes(variant):
    peer = Peer(variant)
    peer.publish(1, {RDS: [res("r", "bad")]})
    [answer] = peer.ask(RDS, "r")
    assert peer.nack(answer) == ()
    assert peer.publish(2, {RDS: [res("r", "bad"), res("unasked")]}) == ()
    assert peer.stream.synced_serial == 0
    [better] = peer.publish(3, {RDS: [res("r", "good")]})
    assert content(better) == {"r": "good"}
    peer.ack(better)
    assert peer.stream.synced_serial == 3
    assert peer.stream.errors == ()


@pytest.mark.rule("P6")
@BOTH
def test_p6_a_newer_version_that_is_already_there_goes_out_on_the_nack(variant):
    peer = Peer(variant)
    peer.publish(1, {RDS: [res("r", "bad")]})
    [answer] = peer.ask(RDS, "r")
    assert peer.publish(2, {RDS: [res("r", "good")]}) == ()
    [better] = peer.nack(answer)
    assert content(better) == {"r": "good"}


@pytest.mark.rule("P6")
@BOTH
def test_p6_rejections_of_two_responses_add_up_until_each_is_answered_for(variant):
    peer = Peer(variant)
    peer.publish(1, {RDS: [res("one", "bad")]})
    peer.nack(peer.ask(RDS, "one", "two")[0])
    [answer] = peer.publish(2, {RDS: [res("one", "bad"), res("two", "bad")]})
    assert content(answer) == {"two": "bad"}
    peer.nack(answer, words="the second")
    [answer] = peer.publish(3, {RDS: [res("one", "bad"), res("two", "good")]})
    peer.ack(answer)
    assert peer.stream.resources(RDS) == (("one", "bad", True), ("two", "good", False))
    assert peer.stream.rejects


@pytest.mark.rule("P7")
@BOTH
def test_p7_after_a_nack_the_way_back_is_sent_although_it_was_accepted_before(variant):
    peer = Peer(variant)
    peer.publish(1, {RDS: [res("r", "old")]})
    [answer] = peer.ask(RDS, "r")
    peer.ack(answer)
    [bad] = peer.publish(2, {RDS: [res("r", "bad")]})
    peer.nack(bad)
    [back] = peer.publish(3, {RDS: [res("r", "old")]})
    assert content(back) == {"r": "old"}


@pytest.mark.rule("P8")
def test_p8_two_resources_of_one_name_cannot_be():
    with pytest.raises(ValueError, match="filed under the name 'b'"):
        Snapshot(serial=1, resources={CDS: {"a": res("a"), "b": res("a")}})


@pytest.mark.rule("P9")
@BOTH
def test_p9_what_was_not_asked_for_is_not_sent(variant):
    peer = Peer(variant)
    peer.publish(1, {RDS: [res("r"), res("other")]})
    [answer] = peer.ask(RDS, "r")
    assert content(answer) == {"r": "1"}
    peer.ack(answer)
    assert peer.publish(2, {RDS: [res("r"), res("other", "2"), res("third")], CDS: [res("c")]}) == ()


@pytest.mark.rule("P10")
def test_p10_two_first_requests_back_to_back_end_with_the_later_ones_names():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {CDS: [res("canary"), res("stable")]})
    [first] = peer.ask(CDS, "canary")
    assert content(first) == {"canary": "1"}
    assert peer.ask(CDS, "canary", "stable") == ()
    [second] = peer.ack(first, "canary", "stable")
    assert content(second) == {"canary": "1", "stable": "1"}


@pytest.mark.rule("P11")
@BOTH
def test_p11_a_plain_ack_is_not_answered(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")]})
    [answer] = peer.ask(CDS)
    assert peer.ack(answer) == ()


@pytest.mark.rule("P12")
@BOTH
def test_p12_a_name_asked_for_in_vain_is_sent_when_it_comes_into_being(variant):
    peer = Peer(variant)
    peer.publish(1, {})
    for answer in peer.ask(EDS, "later"):
        peer.ack(answer)
    [answer] = peer.publish(2, {EDS: [res("later")]})
    assert content(answer) == {"later": "1"}


@pytest.mark.rule("P13")
def test_p13_state_of_the_world_wildcards():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {CDS: [res("A"), res("B")]})
    [answer] = peer.ask(CDS)
    assert content(answer) == {"A": "1", "B": "1"}
    [answer] = peer.ack(answer, "*", "A")
    assert content(answer) == {"A": "1", "B": "1"}
    assert peer.ack(answer, "A") == ()
    [answer] = peer.publish(2, {CDS: [res("A", "2"), res("B", "2")]})
    assert content(answer) == {"A": "2"}
    assert peer.ask(CDS, nonce=answer.nonce) == ()
    assert peer.publish(3, {CDS: [res("A", "3"), res("B", "3")]}) == ()


@pytest.mark.rule("P13")
def test_p13_delta_wildcards():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {CDS: [res("A"), res("B")]})
    [answer] = peer.ask(CDS)
    assert content(answer) == {"A": "1", "B": "1"}
    [answer] = peer.ack(answer, "A")
    assert content(answer) == {"A": "1"}
    peer.ack(answer)
    assert peer.ask(CDS, unsubscribe=("*",)) == ()
    [answer] = peer.publish(2, {CDS: [res("A", "2"), res("B", "2")]})
    assert content(answer) == {"A": "2"}
    peer.ack(answer, unsubscribe=("A",))
    assert peer.publish(3, {CDS: [res("A", "3"), res("B", "3")]}) == ()


@pytest.mark.rule("P13")
def test_p13_delta_what_is_on_the_way_is_sent_again_when_the_wildcard_begins():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {CDS: [res("a"), res("b")]})
    [answer] = peer.ask(CDS, "a")
    assert peer.ask(CDS, "*") == ()
    [answer] = peer.ack(answer)
    assert content(answer) == {"a": "1", "b": "1"}


@pytest.mark.rule("P13")
@BOTH
@pytest.mark.parametrize("type_url", [EDS, RDS, RTDS])
def test_p13_an_empty_list_is_no_wildcard_for_named_types(variant, type_url):
    peer = Peer(variant)
    peer.publish(1, {type_url: [res("x")]})
    assert peer.ask(type_url) == ()


@pytest.mark.rule("P14")
@BOTH
def test_p14_a_name_that_is_dropped_and_wanted_again_is_sent_again(variant):
    peer = Peer(variant)
    peer.publish(1, {EDS: [res("e")]})
    [answer] = peer.ask(EDS, "e")
    if variant is Variant.SOTW:
        assert peer.ask(EDS, nonce=answer.nonce) == ()
        [again] = peer.ask(EDS, "e", nonce=answer.nonce)
    else:
        assert peer.ack(answer, unsubscribe=("e",)) == ()
        [again] = peer.ask(EDS, "e")
    assert content(again) == {"e": "1"}
    assert again.nonce != answer.nonce


@pytest.mark.rule("P14")
def test_p14_delta_a_name_subscribed_twice_is_sent_twice():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {EDS: [res("e")]})
    [answer] = peer.ask(EDS, "e")
    [again] = peer.ack(answer, "e")
    assert content(again) == {"e": "1"}


@pytest.mark.rule("P15")
@BOTH
def test_p15_one_publication_goes_out_in_make_before_break_order(variant):
    peer = Peer(variant)
    types = {LDS: "l", RDS: "r", CDS: "c", EDS: "e", RTDS: "t"}
    peer.publish(1, {url: [res(name)] for url, name in types.items()})
    for url, name in types.items():
        names = () if url in {LDS, CDS} else (name,)
        [answer] = peer.ask(url, *names)
        peer.ack(answer)
    answers = peer.publish(2, {url: [res(name, "2")] for url, name in types.items()})
    assert [each.type_url for each in answers] == [CDS, EDS, LDS, RDS, RTDS]


@pytest.mark.rule("P15", "D7")
@BOTH
def test_p15_a_cluster_goes_only_after_the_routes_without_it_are_accepted(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("old"), res("new")], RDS: [res("r", "old")]})
    peer.ack(peer.ask(CDS)[0])
    peer.ack(peer.ask(RDS, "r")[0])
    answers = peer.publish(2, {CDS: [res("new")], RDS: [res("r", "new")]})
    assert [each.type_url for each in answers] == [RDS]
    assert peer.stream.synced_serial == 1
    [removal] = peer.ack(answers[0])
    assert removal.type_url == CDS
    if variant is Variant.DELTA:
        assert (content(removal), removal.removed) == ({}, ("old",))
    else:
        assert content(removal) == {"new": "1"}
    peer.ack(removal)
    assert peer.stream.synced_serial == 2


@pytest.mark.rule("P15")
@BOTH
def test_p15_while_the_routes_are_rejected_the_cluster_they_use_stays(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("old"), res("new")], RDS: [res("r", "old")]})
    peer.ack(peer.ask(CDS)[0])
    peer.ack(peer.ask(RDS, "r")[0])
    [routes] = peer.publish(2, {CDS: [res("new")], RDS: [res("r", "new")]})
    assert peer.nack(routes) == ()
    [more] = peer.publish(3, {CDS: [res("new"), res("more")], RDS: [res("r", "new")]})
    assert "old" not in more.removed
    assert ("old" in content(more)) == (variant is Variant.SOTW)


@pytest.mark.rule("P15")
def test_p15_a_removal_does_not_wait_for_a_route_that_goes_without_a_message():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {CDS: [res("c"), res("old")], RDS: [res("r")]})
    peer.ack(peer.ask(CDS)[0])
    peer.ack(peer.ask(RDS, "r")[0], "r")
    [clusters] = peer.publish(2, {CDS: [res("c")]})
    assert content(clusters) == {"c": "1"}


@pytest.mark.rule("P16")
@BOTH
def test_p16_a_changed_cluster_takes_its_endpoints_along_unasked(variant):
    peer = Peer(variant)
    endpoints = {EDS: [res("c"), res("d")]}
    peer.publish(1, {CDS: [res("c"), res("d")], **endpoints})
    peer.ack(peer.ask(CDS)[0])
    peer.ack(peer.ask(EDS, "c", "d")[0])
    answers = peer.publish(2, {CDS: [res("c", "2"), res("d")], **endpoints})
    assert [(each.type_url, content(each).get("c")) for each in answers] == [(CDS, "2"), (EDS, "1")]
    assert content(answers[1]) == {"c": "1"}


@pytest.mark.rule("P16")
@BOTH
def test_p16_endpoints_go_by_the_clusters_references_too(variant):
    peer = Peer(variant)
    endpoints = {EDS: [res("pods")]}
    peer.publish(1, {CDS: [res("c", references=((EDS, "pods"),))], **endpoints})
    peer.ack(peer.ask(CDS)[0])
    peer.ack(peer.ask(EDS, "pods")[0])
    answers = peer.publish(2, {CDS: [res("c", "2", references=((EDS, "pods"),))], **endpoints})
    assert [each.type_url for each in answers] == [CDS, EDS]


@pytest.mark.rule("P16")
@BOTH
def test_p16_endpoints_that_cannot_go_with_the_cluster_follow_the_ack_on_the_way(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")], EDS: [res("c")]})
    peer.ack(peer.ask(CDS)[0])
    [endpoints] = peer.ask(EDS, "c")
    assert [each.type_url for each in peer.publish(2, {CDS: [res("c", "2")], EDS: [res("c")]})] == [CDS]
    [again] = peer.ack(endpoints)
    assert content(again) == {"c": "1"}


@pytest.mark.rule("P16")
@BOTH
def test_p16_rejected_endpoints_are_not_sent_again_with_their_cluster(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")], EDS: [res("c", "bad")]})
    peer.ack(peer.ask(CDS)[0])
    peer.nack(peer.ask(EDS, "c")[0])
    assert [each.type_url for each in peer.publish(2, {CDS: [res("c", "2")], EDS: [res("c", "bad")]})] == [CDS]


@pytest.mark.rule("P16")
def test_p16_endpoints_asked_for_a_second_time_in_the_same_words_are_sent_again():
    peer = Peer(Variant.SOTW)
    peer.publish(1, {EDS: [res("c")]})
    [answer] = peer.ask(EDS, "c")
    assert peer.ack(answer, "c") == ()
    [again] = peer.ask(EDS, "c", nonce=answer.nonce)
    assert content(again) == {"c": "1"}
    assert peer.ack(again, "c") == ()


@pytest.mark.rule("P17")
@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("*",), ()])
def test_p17_state_of_the_world_a_client_that_comes_back_is_answered_in_full(names):
    before = Peer(Variant.SOTW)
    before.publish(1, {CDS: [res("a"), res("b")]})
    [had] = before.ask(CDS, *names)
    before.ack(had)
    back = Peer(Variant.SOTW)
    back.publish(1, {CDS: [res("a"), res("b")]})
    [answer] = back.ask(CDS, *names, nonce=had.nonce)
    assert content(answer) == content(had)


@pytest.mark.rule("P17")
def test_p17_delta_what_a_client_brought_along_is_not_sent_again_and_what_is_gone_is_listed():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {CDS: [res("same"), res("newer", "2"), res("new")]})
    [answer] = peer.ask(CDS, initial_versions={"same": "1", "newer": "1", "gone": "1"})
    assert content(answer) == {"newer": "2", "new": "1"}
    assert answer.removed == ("gone",)


@pytest.mark.rule("P17")
def test_p17_delta_named_types_are_answered_on_reconnect_and_unwanted_ones_listed():
    peer = Peer(Variant.DELTA)
    peer.publish(1, {EDS: [res("e"), res("unwanted")]})
    [answer] = peer.ask(EDS, "e", initial_versions={"e": "1", "unwanted": "1"})
    assert content(answer) == {"e": "1"}
    assert answer.removed == ("unwanted",)


@pytest.mark.rule("P18")
@BOTH
def test_p18_routes_are_pushed_to_a_client_that_never_asked_for_clusters(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")], RDS: [res("r")]})
    [answer] = peer.ask(RDS, "r")
    peer.ack(answer)
    assert peer.stream.synced_serial == 1
    [update] = peer.publish(2, {CDS: [res("c", "2")], RDS: [res("r", "2")]})
    assert update.type_url == RDS


@pytest.mark.rule("P19")
@BOTH
def test_p19_a_world_of_equal_content_is_not_sent_again_under_a_new_serial(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c")]})
    peer.ack(peer.ask(CDS)[0])
    assert peer.publish(2, {CDS: [res("c")]}) == ()
    assert peer.stream.synced_serial == 2


@pytest.mark.rule("P11")
@BOTH
def test_one_response_per_type_is_unanswered_and_the_newest_wins(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c", "1")]})
    [answer] = peer.ask(CDS)
    for serial in range(2, 6):
        assert peer.publish(serial, {CDS: [res("c", str(serial))]}) == ()
    [newest] = peer.ack(answer)
    assert content(newest) == {"c": "5"}


@BOTH
def test_a_change_that_was_taken_back_before_the_ack_is_never_sent(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("c", "1")]})
    [answer] = peer.ask(CDS)
    peer.publish(2, {CDS: [res("c", "2")]})
    peer.publish(3, {CDS: [res("c", "1")]})
    assert peer.ack(answer) == ()
    assert peer.stream.synced_serial == 3


@BOTH
def test_a_snapshot_that_goes_back_is_refused(variant):
    peer = Peer(variant)
    peer.publish(2, {})
    with pytest.raises(ValueError, match="older than snapshot 2"):
        peer.publish(1, {})


@BOTH
def test_more_types_than_anybody_needs_are_refused(variant):
    stream = AdsStream(variant)
    for number in range(MAX_TYPES):
        stream.receive(Request(type_url=f"type.googleapis.com/t{number}", names=("a",)))
    with pytest.raises(PeerError, match="resource types"):
        stream.receive(Request(type_url="type.googleapis.com/one.more", names=("a",)))


@BOTH
def test_a_type_with_a_removal_held_back_is_not_synced_by_the_ack_of_the_rest(variant):
    peer = Peer(variant)
    peer.publish(1, {CDS: [res("old"), res("new")], RDS: [res("r", "old")]})
    peer.ack(peer.ask(CDS)[0])
    peer.ack(peer.ask(RDS, "r")[0])
    clusters, routes = peer.publish(2, {CDS: [res("new", "2")], RDS: [res("r", "new")]})
    assert peer.ack(clusters) == ()
    assert peer.stream.synced(CDS) == 1
    [removal] = peer.ack(routes)
    peer.ack(removal)
    assert peer.stream.synced(CDS) == 2
