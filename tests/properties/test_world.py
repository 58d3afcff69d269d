"""Any interleaving of wishes, trials, answers and deaths: shares never wait, and every proxy ends where it should."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.traffic import Arm
from tests.edge import V1, V2, V3, Edge, wish
from xds_server.core.staging import WAIT_S
from xds_server.core.types import CDS

ROLLOUTS = ("a", "b", "c")
BAD = V3
"""The version that proxies reject."""

rollouts = st.sampled_from(ROLLOUTS)
moves = st.one_of(
    st.tuples(st.just("candidate"), rollouts, st.sampled_from([None, V2, BAD])),
    st.tuples(st.just("share"), rollouts, st.sampled_from([0, 1000, 5000])),
    st.tuples(st.just("look"), st.sampled_from([0.0, 0.3, WAIT_S]), st.none()),
    st.tuples(st.just("join"), st.none(), st.none()),
    st.tuples(st.just("leave"), st.integers(0, 100), st.none()),
)


def rejects(url, names):
    return "no" if url == CDS and any(BAD.identity in name for name in names) else ""


class Life(Edge):
    """Every proxy rejects the bad version."""

    def __init__(self, *, defers):
        self.wanted = {name: wish(name) for name in ROLLOUTS}
        super().__init__(proxies=0, first=self.wanted.values(), defers=defers)
        for number in range(12):
            self.join(f"n{number:02}", rejects=rejects)
        self.pump()
        self.joined = 0

    def move(self, what, where, value):
        match what:
            case "candidate":
                old = self.wanted[where]
                self.want(replace(old, generation=old.generation + 1, arms=(Arm(variant=value, reserve_bp=10_000),) if value else ()))
            case "share":
                self.want(replace(self.wanted[where], arms=tuple(replace(arm, share_bp=value) for arm in self.wanted[where].arms)))
            case "look":
                self.look(where)
            case "join":
                self.joined += 1
                self.join(f"late-{self.joined}", rejects=rejects)
            case "leave" if len(self.proxies) > 3:
                self.proxies.pop(where % len(self.proxies)).leave()
        self.pump()

    def want(self, asked):
        self.wanted[asked.rollout] = asked = replace(asked, publication=asked.publication + 1)
        self.publish(asked)

    def shares_are_the_newest(self):
        """Wherever a proxy has the release's own structure, it has the newest share, whatever else is on trial."""
        for asked in self.wanted.values():
            for arm in asked.arms:
                assert len(set(self.shares(asked, arm.variant).values())) <= 1


@settings(max_examples=60, deadline=None)
@given(made=st.lists(moves, max_size=25), defers=st.booleans())
def test_shares_never_wait_the_bad_stays_nowhere_and_the_good_reaches_all(made, defers):
    life = Life(defers=defers)
    for move in made:
        life.move(*move)
        life.shares_are_the_newest()
        assert life.who_has(BAD) == []
    life.finish()
    for asked in life.wanted.values():
        _, delivery = life.world.delivery(asked.rollout)
        bad = any(arm.variant == BAD for arm in asked.arms)
        assert delivery.complete != bad or "went away" in delivery.words  # of a proxy that leaves, nobody knows why
        assert not bad or delivery.words
    held = [proxy.has for proxy in life.proxies]
    assert all(each == held[0] for each in held)
    assert V1.identity in str(held[0][CDS])
