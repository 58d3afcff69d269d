"""Any interleaving of changes, answers, crashes and time: laws of the canary of the configuration.

The proxies are honest: they reject what is bad whenever they see it, and go away with what crashes them. The machine keeps two or more of
them; with fewer there is nobody to spare, which is told in the unit tests.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xds_server.core.staging import ANSWER_S, WAIT_S, Staging

PARTS = ("", "a", "b", "c", "d", "e", "f")
parts = st.sampled_from(PARTS)


class Fleet(RuleBasedStateMachine):
    @initialize(size=st.integers(2, 45), tells=st.booleans())
    def begin(self, size, tells):
        self.staging = Staging()
        self.proxies = [f"n{number}" for number in range(size)]
        self.tells = tells
        self.wanted, self.tokens, self.now = {}, 0, 0.0

    @rule(part=parts, kind=st.sampled_from(["good", "good", "bad", "crash"]))
    def propose(self, part, kind):
        self.tokens += 1
        self.wanted[part] = (self.tokens, kind)
        self.staging.propose(part, self.wanted[part])

    @rule(part=parts)
    def propose_again(self, part):
        if part in self.wanted:
            self.staging.propose(part, self.wanted[part])

    @rule(part=parts)
    def back_to_what_was_accepted(self, part):
        if self.staging.accepted.get(part) is not None and part in self.wanted:
            self.wanted[part] = self.staging.accepted[part]
            self.staging.propose(part, self.wanted[part])
            assert part not in self.staging.behind

    @rule(part=parts)
    def withdraw(self, part):
        self.wanted.pop(part, None)
        self.staging.withdraw(part)

    @rule(part=parts)
    def urgent(self, part):
        self.tokens += 1
        self.wanted[part] = (self.tokens, "good")
        self.staging.accept(part, self.wanted[part])
        assert self.staging.accepted[part] == self.wanted[part]
        assert part not in self.staging.behind

    @rule()
    def join(self):
        self.proxies.append(f"n{len(self.proxies)}-{self.tokens}-{self.now}")

    @precondition(lambda self: len(self.proxies) > 2)
    @rule(place=st.integers(0, 1000), told=st.booleans())
    def leave(self, place, told):
        node = self.proxies.pop(place % len(self.proxies))
        if told:
            self.staging.lost(node)

    @rule(passed=st.sampled_from([0.0, 0.1, WAIT_S, ANSWER_S + 1.0]))
    def look(self, passed):
        self.now += passed
        self.staging.advance(self.proxies, now=self.now)

    @rule(answering=st.integers(0, 2**16))
    def answer(self, answering):
        trial = self.staging.trial
        for place, node in enumerate(tuple(trial.nodes) if trial else ()):
            if answering >> place % 16 & 1 and self.staging.trial is trial and node in trial.nodes:
                self._answer(trial, node)

    def _answer(self, trial, node):
        kinds = {part: self.wanted[part][1] for part in trial.parts}
        bad = sorted(part for part, kind in kinds.items() if kind == "bad")
        if "crash" in kinds.values():
            self.staging.lost(node)
        elif bad:
            self.staging.rejected(node, f"no {bad[0]}", bad if self.tells else ())
        else:
            self.staging.acked(node)

    @invariant()
    def few_see_what_is_not_accepted(self):
        trial = self.staging.trial
        if trial is not None:
            assert trial.parts
            assert len(trial.nodes) <= trial.size
            assert trial.parts <= set(self.staging.pending)

    @invariant()
    def what_is_bad_is_never_for_everybody(self):
        assert all(token[1] == "good" for token in self.staging.accepted.values() if token is not None)

    @invariant()
    def the_convicted_are_seen_by_nobody(self):
        trial = self.staging.trial
        on_trial = trial.parts if trial else frozenset()
        assert on_trial.isdisjoint(self.staging.convicted)
        for part in self.staging.convicted:
            assert self.staging.accepted.get(part) != self.wanted[part]

    @invariant()
    def every_part_is_accepted_behind_or_gone(self):
        for part, token in self.wanted.items():
            assert (self.staging.accepted.get(part) == token) != (part in self.staging.behind)
        assert set(self.staging.behind) <= self.wanted.keys()

    def teardown(self):
        """Left alone, every good change arrives and every bad one is convicted, in a bounded number of trials."""
        if not hasattr(self, "staging"):
            return
        trials, last = 0, None
        for _ in range(400):
            if not self.staging.pending:
                break
            self.now += WAIT_S
            self.staging.advance(self.proxies, now=self.now)
            trial = self.staging.trial
            trials, last = trials + (trial is not None and trial is not last), trial or last
            for node in tuple(trial.nodes) if trial else ():
                if self.staging.trial is trial and node in trial.nodes:
                    self._answer(trial, node)
            self.few_see_what_is_not_accepted()
            self.what_is_bad_is_never_for_everybody()
        assert not self.staging.pending
        assert trials <= 3 * len(PARTS) + 4
        for part, (_, kind) in self.wanted.items():
            if kind == "good":
                assert part not in self.staging.convicted or self.blamed_by_accident(part)
            else:
                assert part in self.staging.convicted

    def blamed_by_accident(self, part):
        """Proxies that left by themselves twice while they tried it, or never answered: nobody can tell that from a crash."""
        return "went away" in self.staging.convicted[part] or "did not answer" in self.staging.convicted[part]


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
