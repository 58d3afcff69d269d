"""The world with a real hub: which proxies see a change of structure, and that shares never wait for it."""

from dataclasses import replace

import pytest

from policies.lanes import Lane
from policies.spec.policy import Listener, TrafficSpec
from policies.traffic import Arm
from tests.edge import DOCUMENT, V1, V2, V3, Edge, wish
from xds_server.core.types import CDS, LDS, RDS


@pytest.fixture
def edge():
    return Edge(first=[wish(), wish("mail", stable=V1, where=TrafficSpec(proxies="edge", listener="public"))])


ALL = [f"n{number:02}" for number in range(12)]


def test_new_clusters_go_to_one_proxy_then_to_a_tenth_then_to_all(edge):
    before = [proxy.got for proxy in edge.proxies]
    edge.publish(wish(publication=2, arm=V2))
    assert edge.who_has(V2) == []
    edge.look()
    assert edge.who_has(V2) == ["n00"]
    assert edge.world.delivery("chat")[1].words == "configuration on trial at 1 of 12 proxies"
    assert [proxy.got for proxy in edge.proxies[1:]] == before[1:]
    edge.passes_a_stage()
    assert edge.who_has(V2) == ["n00", "n01"]
    assert [proxy.got for proxy in edge.proxies[2:]] == before[2:]
    edge.passes_a_stage()
    assert edge.who_has(V2) == ALL
    edge.finish()
    publication, delivery = edge.world.delivery("chat")
    assert (publication, delivery.complete) == (2, True)


def test_a_rejected_change_is_seen_by_one_proxy_which_gets_the_old_world_back(edge):
    pig = edge.proxies[0]
    seen = []
    pig.rejects = lambda url, names: seen.append(names) or "no v2" if any(V2.identity in name for name in names) else ""
    edge.publish(wish(publication=2, arm=V2))
    edge.finish()
    assert len(seen) == 1
    assert edge.who_has(V2) == []
    assert pig.has == edge.proxies[1].has
    (publication, delivery) = edge.world.delivery("chat")
    assert publication == 2
    assert not delivery.complete
    assert (delivery.rejected, delivery.words) == (1, "n00 rejects CDS: no v2")
    assert edge.world.delivery("mail")[1].complete
    assert edge.world.note() != b""


def test_only_the_guilty_of_a_batch_is_convicted_and_only_one_proxy_ever_saw_it(edge):
    tried = set()
    for proxy in edge.proxies:

        def rejects(url, names, proxy=proxy):
            guilty = [name for name in names if name.startswith("bad/") and V2.identity in name]
            tried.update([proxy.node_id] if guilty else [])
            return "something is wrong" if guilty and url == CDS else ""

        proxy.rejects = rejects
    names = ("good-a", "good-b", "bad", "good-c")
    edge.publish(*(wish(name) for name in names))
    edge.finish()
    edge.publish(*(wish(name, 2, arm=V2) for name in names))
    edge.finish()
    assert tried == {"n00"}
    assert [name for name in names if edge.world.delivery(name)[1].complete] == ["good-a", "good-b", "good-c"]
    assert edge.world.delivery("bad")[1].words == "n00 rejects CDS: something is wrong"


def test_shares_of_another_rollout_never_wait_for_a_trial(edge):
    edge.publish(wish("mail", 2, arm=V2))
    edge.finish()
    edge.publish(wish(publication=2, arm=V3))
    edge.look()
    assert edge.who_has(V3) == ["n00"]
    asked = wish("mail", 3, arm=V2, share_bp=5000)
    edge.publish(asked)
    assert edge.shares(asked) == dict.fromkeys(ALL, 5003)
    assert edge.world.delivery("mail") == (3, replace(edge.world.delivery("mail")[1], selected=12, acked=12, rejected=0))
    edge.publish(replace(asked, publication=4, arms=(Arm(variant=V2),)))
    assert edge.shares(asked) == dict.fromkeys(ALL, 0)


def test_shares_of_the_rollout_on_trial_itself_do_not_wait(edge):
    edge.publish(wish(publication=2, arm=V2))
    edge.finish()
    edge.publish(wish(publication=3, arm=V2, share_bp=5000))
    longer = TrafficSpec(proxies="edge", listener="public", timeout_s=7.0)
    edge.publish(wish(publication=4, arm=V2, share_bp=5000, where=longer))
    edge.look()
    edge.publish(wish(publication=5, arm=V2, share_bp=0, where=longer))
    assert edge.shares(wish()) == dict.fromkeys(ALL, 0)


def test_reserves_and_segments_go_with_the_shares_and_need_no_trial(edge):
    edge.publish(wish(publication=2, arm=V2))
    edge.finish()
    assert not edge.world.leases()
    asked = wish(publication=3, arm=V2)
    edge.publish(replace(asked, arms=(Arm(variant=V2, reserve_bp=2000, pinned=True),)))
    assert not edge.world.trying
    assert edge.world.leases(), "being pinned is a lease too"
    edge.publish(replace(asked, publication=4, arms=(Arm(variant=V2, share_bp=1000, reserve_bp=2000),)))
    assert edge.shares(asked) == dict.fromkeys(ALL, 1000)


def test_shares_that_do_not_fit_the_lane_that_proxies_have_wait_for_the_new_one(edge):
    narrow, wide = Lane(start_bp=0, width_bp=1000), Lane(start_bp=0, width_bp=5000)
    edge.publish(replace(wish(publication=2, arm=V2, lane=narrow), arms=(Arm(variant=V2, reserve_bp=1000),)))
    edge.finish()
    asked = replace(wish(publication=3, arm=V2, lane=wide), arms=(Arm(variant=V2, share_bp=3000, reserve_bp=5000),))
    edge.publish(asked)
    assert edge.shares(asked) == dict.fromkeys(ALL, 0)
    edge.finish()
    assert edge.shares(asked) == dict.fromkeys(ALL, 3002)


def test_a_promotion_on_trial_leaves_everybody_else_the_share_they_have(edge):
    edge.publish(wish(publication=2, arm=V2))
    edge.finish()
    edge.publish(wish(publication=3, arm=V2, share_bp=5000))
    edge.publish(wish(publication=4, stable=V2, kept=(V1,)))
    assert edge.shares(wish()) == dict.fromkeys(ALL, 5003)
    assert edge.world.leases()
    edge.look()
    assert edge.shares(wish()) == dict.fromkeys(ALL[1:], 5003)
    edge.finish()
    assert edge.shares(wish()) == {}
    assert not edge.world.leases()


@pytest.mark.parametrize("promoted", [False, True])
def test_a_revert_of_a_promotion_goes_to_all_at_once(edge, promoted):
    edge.publish(wish(publication=2, arm=V2))
    edge.finish()
    edge.publish(wish(publication=3, arm=V2, share_bp=5000))
    edge.publish(wish(publication=4, stable=V2, kept=(V1,)))
    edge.look()
    if promoted:
        edge.finish()
    edge.publish(wish(publication=5, stable=V1, kept=(V2,)))
    routes = {proxy.has[RDS]["edge/public"] for proxy in edge.proxies}
    assert len(routes) == 1
    assert V2.identity.encode() not in routes.pop()
    assert edge.world.delivery("chat")[1].complete


def test_a_proxy_that_dies_of_a_change_is_followed_by_one_more_and_no_other(edge):
    died = []

    def dies(proxy):
        def rejects(url, names):
            if any(V2.identity in name for name in names):
                died.append(proxy.node_id)
                proxy.leave()
            return ""

        return rejects

    for proxy in edge.proxies:
        proxy.rejects = dies(proxy)
    edge.publish(wish(publication=2, arm=V2))
    edge.finish()
    assert died == ["n00", "n01"]
    assert edge.world.delivery("chat")[1].words == "proxy n00 went away while it tried the change; so did n01"


def test_a_proxy_that_connects_during_a_trial_sees_the_steady_world(edge):
    edge.publish(wish(publication=2, arm=V2))
    edge.look()
    edge.join("late")
    edge.pump()
    assert edge.who_has(V2) == ["n00"]
    edge.finish()
    assert edge.who_has(V2) == [*ALL, "late"]


def test_both_views_are_one_group():
    edge = Edge(proxies=0, first=[wish()])
    edge.join("plain", layers=0)
    edge.join("leased")
    edge.pump()
    edge.publish(wish(publication=2, arm=V2))
    edge.look()
    assert edge.who_has(V2) == ["plain"]
    edge.finish()
    assert edge.who_has(V2) == ["plain", "leased"]


@pytest.mark.parametrize("proxies", [0, 1])
def test_where_nobody_can_be_spared_a_change_is_published_at_once(proxies):
    edge = Edge(proxies=proxies, first=[wish()])
    edge.publish(wish(publication=2, arm=V2))
    assert len(edge.who_has(V2)) == proxies
    assert not edge.world.trying
    assert edge.world.note() == b""


def test_a_process_that_dies_in_the_middle_of_a_trial_does_not_ship_the_change_to_all_when_it_comes_back(edge):
    edge.publish(wish(publication=2, arm=V2))
    note = edge.world.note()
    edge.look()
    again = Edge(note=note, first=[wish(publication=2, arm=V2), wish("mail")])
    assert again.who_has(V2) == []
    again.look()
    assert again.who_has(V2) == ["n00"]
    again.finish()
    assert again.who_has(V2) == ALL
    assert again.world.note() == b""


def test_a_listener_that_is_rejected_blames_no_rollout_and_the_old_ones_stay(edge):
    for proxy in edge.proxies:
        proxy.rejects = lambda url, names: "cannot bind" if "edge/wrong" in names and url == LDS else ""
    wrong = Listener(name="wrong", address="203.0.113.7", port=1)
    edge.publish(wish(publication=2, arm=V2))
    edge.world.set_proxies([replace(DOCUMENT, listeners=(*DOCUMENT.listeners, wrong))])
    edge.world.flush()
    edge.finish()
    assert edge.world.rejected_listeners("edge") == "n00 rejects LDS: cannot bind"
    assert edge.who_has(V2) == ALL
    assert edge.world.delivery("chat")[1].complete
    assert all(set(proxy.has[LDS]) == {"edge/public"} for proxy in edge.proxies)
    edge.world.set_proxies([DOCUMENT])
    assert edge.world.rejected_listeners("edge") == ""


def test_the_convicted_is_tried_again_when_it_is_published_again_and_not_when_its_shares_change(edge):
    tries = []

    def rejects(url, names):
        if any(V2.identity in name for name in names) and url == CDS:
            tries.append(names)
            return "not yet" if len(tries) == 1 else ""
        return ""

    edge.proxies[0].rejects = rejects
    edge.publish(wish(publication=2, arm=V2, share_bp=100))
    edge.finish()
    edge.publish(wish(publication=3, arm=V2))
    edge.finish()
    assert len(tries) == 1
    assert edge.world.delivery("chat")[1].acked == 12
    assert not edge.world.delivery("chat")[1].complete
    edge.publish(wish(publication=4, arm=V2))
    edge.finish()
    assert len(tries) == 2
    assert edge.who_has(V2) == ALL


def test_what_cannot_be_rendered_is_convicted_without_a_proxy(edge):
    twins = (Arm(variant=V2), Arm(variant=V2))
    edge.publish(replace(wish(publication=2), arms=twins), wish("mail", 2, arm=V3))
    edge.finish()
    assert "cannot be rendered" in edge.world.delivery("chat")[1].words
    assert edge.world.delivery("mail")[1].complete
    assert edge.who_has(V3) == ALL


def test_evidence_is_credited_to_the_clusters_of_both_worlds(edge):
    edge.publish(wish(publication=2, arm=V2))
    edge.finish()
    edge.publish(wish(publication=3, arm=V3))
    assert {owner.identity for owner in edge.owned["chat"].values()} == {V1.identity, V2.identity, V3.identity}
    edge.finish()
    assert {owner.identity for owner in edge.owned["chat"].values()} == {V1.identity, V3.identity}
    edge.world.withdraw("chat")
    assert edge.owned["chat"] == {}


def test_a_rollout_that_goes_goes_everywhere_at_once(edge):
    edge.publish(wish(publication=2, arm=V2))
    edge.look()
    edge.world.withdraw("chat")
    edge.world.flush()
    edge.pump()
    assert edge.who_has(V2) == []
    assert all(not any(name.startswith("chat/") for name in proxy.has[CDS]) for proxy in edge.proxies)
