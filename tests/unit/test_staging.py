"""The canary of the configuration, told step by step: who tries a change, what stops it, and who is to blame."""

import pytest

from xds_server.core.staging import ANSWER_S, WAIT_S, Staging

FLEET = [f"n{number:02}" for number in range(30)]


class Story:
    """Staging with a clock; every proxy accepts unless a test says otherwise."""

    def __init__(self, proxies=FLEET):
        self.staging, self.proxies, self.now = Staging(), list(proxies), 0.0

    def look(self, passed=0.0):
        self.now += passed
        self.staging.advance(self.proxies, now=self.now)
        return sorted(self.staging.trial.nodes) if self.staging.trial else []

    def all_ack(self):
        for node in tuple(self.staging.trial.nodes):
            self.staging.acked(node)

    def passes_a_stage(self):
        self.all_ack()
        self.look()
        return self.look(WAIT_S)

    def trying(self):
        return sorted(self.staging.trial.parts) if self.staging.trial else []


@pytest.fixture
def story():
    return Story()


def test_one_then_a_tenth_then_all(story):
    story.staging.propose("chat", 1)
    assert story.look() == ["n00"]
    assert story.passes_a_stage() == ["n00", "n01", "n02"]
    assert "chat" not in story.staging.accepted
    assert story.passes_a_stage() == []
    assert story.staging.accepted == {"chat": 1}
    assert not story.staging.pending


def test_of_ten_or_fewer_the_first_is_the_tenth():
    story = Story(FLEET[:10])
    story.staging.propose("chat", 1)
    assert story.look() == ["n00"]
    assert story.passes_a_stage() == []
    assert story.staging.accepted == {"chat": 1}


def test_an_ack_is_not_enough_the_proxy_must_stay_for_a_moment(story):
    story.staging.propose("chat", 1)
    story.look()
    story.all_ack()
    story.look()
    assert story.look(WAIT_S * 0.9) == ["n00"]
    assert len(story.look(WAIT_S * 0.2)) == 3


def test_a_rejection_in_the_second_stage_stops_it_for_all_others(story):
    story.staging.propose("chat", 1)
    story.look()
    assert story.passes_a_stage() == ["n00", "n01", "n02"]
    story.staging.rejected("n02", "n02 says no")
    assert story.look() == []
    assert story.staging.convicted == {"chat": "n02 says no"}
    assert "chat" not in story.staging.accepted


def test_a_rejection_of_somebody_who_tries_nothing_convicts_nobody(story):
    story.staging.propose("chat", 1)
    story.look()
    story.staging.rejected("n29", "no")
    assert story.trying() == ["chat"]


@pytest.mark.parametrize("proxies", [[], ["n00"]])
def test_with_nobody_to_spare_a_change_goes_straight_to_all(proxies):
    story = Story(proxies)
    story.staging.propose("chat", 1)
    assert story.look() == []
    assert story.staging.accepted == {"chat": 1}


def test_what_an_earlier_process_had_on_trial_never_goes_straight():
    story = Story([])
    story.staging.restore("chat", 1)
    story.staging.propose("chat", 2)
    story.look()
    assert story.staging.accepted == {"chat": 1}
    story.proxies = ["n00"]
    assert story.look() == ["n00"]
    story.passes_a_stage()
    assert story.staging.accepted == {"chat": 2}


def test_what_failed_with_others_never_goes_straight_when_the_proxies_leave():
    story = Story(FLEET[:2])
    for part in ("a", "b"):
        story.staging.propose(part, 1)
    story.look()
    story.staging.rejected("n00", "no")
    story.proxies = ["n00"]
    story.look()
    assert story.trying() == ["a"]
    assert story.staging.accepted == {}


def test_the_guilty_one_of_eight_is_found_by_halves(story):
    for part in "abcdefgh":
        story.staging.propose(part, 1)
    tried = []
    while story.staging.pending:
        story.look()
        tried.append("".join(story.trying()))
        if "g" in story.trying():
            story.staging.rejected("n00", "no")
        else:
            while story.staging.trial:
                story.passes_a_stage()
    assert story.staging.convicted == {"g": "no"}
    assert sorted(story.staging.accepted) == list("abcdefh")
    assert tried == ["abcdefgh", "abcd", "efgh", "ef", "gh", "g", "h"]


def test_where_the_words_name_one_the_others_are_not_suspected_alone(story):
    for part in "abcdefgh":
        story.staging.propose(part, 1)
    story.look()
    story.staging.rejected("n00", "no g", {"g", "somebody else"})
    assert story.staging.convicted == {"g": "no g"}
    story.look()
    assert story.trying() == list("abcdefh")


def test_two_that_only_fail_together_cost_one_of_them(story):
    for part in "ab":
        story.staging.propose(part, 1)
    story.look()
    story.staging.rejected("n00", "no")
    story.look()
    assert story.trying() == ["a"]
    while story.staging.trial:
        story.passes_a_stage()
    story.look()
    story.staging.rejected("n00", "no")
    assert story.staging.accepted == {"a": 1}
    assert story.staging.convicted == {"b": "no"}


def test_a_proxy_that_goes_away_is_replaced_once_and_a_second_one_convicts(story):
    story.staging.propose("chat", 1)
    story.look()
    story.staging.lost("n00")
    assert story.look() == ["n01"]
    story.staging.lost("n01")
    assert story.staging.convicted == {"chat": "proxy n00 went away while it tried the change; so did n01"}


def test_the_only_other_proxy_that_is_left_may_be_the_one_that_went_away():
    story = Story(FLEET[:2])
    story.staging.propose("chat", 1)
    story.look()
    story.staging.lost("n00")
    story.proxies = ["n00"]
    assert story.look() == ["n00"]
    story.staging.lost("n00")
    assert story.staging.convicted == {"chat": "proxy n00 went away while it tried the change, twice"}


def test_a_proxy_that_leaves_unseen_is_missed_at_the_next_look(story):
    story.staging.propose("chat", 1)
    story.look()
    story.proxies.remove("n00")
    assert story.look() == ["n01"]


def test_silence_counts_as_a_loss(story):
    story.staging.propose("chat", 1)
    story.look()
    assert story.look(ANSWER_S) == ["n01"]
    story.look(ANSWER_S)
    assert "did not answer within 15 s" in story.staging.convicted["chat"]


def test_of_many_that_try_a_tenth_may_leave_for_their_own_reasons():
    story = Story([f"n{number:03}" for number in range(400)])
    story.staging.propose("chat", 1)
    story.look()
    story.passes_a_stage()
    for node in sorted(story.staging.trial.nodes)[:4]:
        story.staging.lost(node)
    assert len(story.look()) == 40
    story.staging.lost(next(iter(story.staging.trial.nodes)))
    assert "and 1 more" in story.staging.convicted["chat"]


def test_a_change_that_is_replaced_leaves_the_trial_and_the_others_stay(story):
    for part in "ab":
        story.staging.propose(part, 1)
    story.look()
    story.staging.propose("a", 2)
    assert story.trying() == ["b"]
    while story.staging.trial:
        story.passes_a_stage()
    assert story.staging.accepted == {"b": 1}
    story.look()
    assert story.trying() == ["a"]


def test_a_change_that_is_taken_back_is_over_at_once(story):
    story.staging.accept("chat", 1)
    story.staging.propose("chat", 2)
    story.look()
    story.staging.propose("chat", 1)
    assert story.look() == []
    assert not story.staging.behind


def test_the_convicted_is_tried_again_when_it_is_another_and_only_then(story):
    story.staging.propose("chat", 1)
    story.look()
    story.staging.rejected("n00", "no")
    story.staging.propose("chat", 1)
    assert story.look() == []
    story.staging.propose("chat", 2)
    assert story.staging.convicted == {}
    assert story.look() == ["n00"]


def test_a_change_that_needs_no_trial_passes_one_that_runs(story):
    for part in "ab":
        story.staging.propose(part, 1)
    story.look()
    story.staging.accept("a", 2)
    assert story.staging.accepted == {"a": 2}
    assert story.trying() == ["b"]
