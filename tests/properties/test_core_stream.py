"""Any interleaving of wishes, publications, moves, reconnects and answers: one xDS stream against a naive client and a naive oracle."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.interleaving import NAMES, TYPES, VERSIONS, Interleaving
from xds_server.core.facts import Variant

urls = st.sampled_from(TYPES)
names = st.sampled_from(NAMES)
contents = st.dictionaries(urls, st.dictionaries(names, st.sampled_from(VERSIONS), max_size=3), max_size=5)


class Streams(RuleBasedStateMachine):
    """One stream of either variant; what happens when is Hypothesis's choice, what must follow is in `tests.interleaving`."""

    @initialize(variant=st.sampled_from(list(Variant)), rejects=st.booleans(), partial=st.booleans())
    def begin(self, variant, rejects, partial):
        self.pair = Interleaving(variant, rejects=rejects, partial=partial)

    @rule(types=contents, world=st.integers(0, 1))
    def publish(self, types, world):
        self.pair.publish(types, world)

    @rule(url=urls, name=names, version=st.sampled_from((*VERSIONS, None)))
    def edit(self, url, name, version):
        self.pair.edit(url, name, version)

    @rule()
    def move(self):
        self.pair.move()

    @rule()
    def heartbeat(self):
        self.pair.heartbeat()

    @rule(seconds=st.floats(0.1, 3.0))
    def pass_time(self, seconds):
        self.pair.pass_time(seconds)

    @rule(url=urls, wanted=st.frozensets(names, max_size=3), wild=st.booleans())
    def wish(self, url, wanted, wild):
        self.pair.wish(url, wanted, wild=wild)

    @rule(url=urls, name=names)
    def ask_again(self, url, name):
        self.pair.ask_again(url, name)

    @rule(leftovers=st.frozensets(st.sampled_from(("a", "z")), max_size=2))
    def reconnect(self, leftovers):
        self.pair.reconnect(leftovers)

    @precondition(lambda self: self.pair.to_client)
    @rule()
    def client_reads(self):
        self.pair.client_reads()

    @precondition(lambda self: self.pair.to_server)
    @rule()
    def server_reads(self):
        self.pair.server_reads()

    @rule()
    def quiet(self):
        self.pair.quiet()

    @invariant()
    def holds(self):
        if hasattr(self, "pair"):
            self.pair.check()

    def teardown(self):
        if hasattr(self, "pair"):
            self.pair.quiet()


Streams.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestStreams = Streams.TestCase
