"""Every state of one type on one stream, every input, what follows: the whole machine as a table, for all four forms of the protocol.

The forms are the variants (state of the world, delta) of a client that names resources and of one that wants everything. In the beginning
the world has `a` and `b`; a client that names asks for `a` and for `g`, which does not exist. Everything is leased, so that it can beat.

How to read an outcome: what the input meant (ACK, NACK, stale, wish), what is sent (`a2` is resource a in version 2, `-a` a removal, `~a1` a
heartbeat, `nothing` a response without content, `;` parts two responses), and the state after it (`=` is the same state; `+` in its name
means that something more waits for the answer). `|` parts the four forms in the order state of the world named, wildcard, delta named,
wildcard; one outcome is that of all.
"""

from itertools import product

import pytest

from tests.xds_peer import res, world
from xds_server.core.facts import Acked, Nacked, Request, Stale, Subscribed, Variant
from xds_server.core.stream import AdsStream
from xds_server.core.types import CDS, RTDS

FORMS = tuple(product(Variant, ("named", "wildcard")))
IDS = [f"{variant.value}-{wish}" for variant, wish in FORMS]
MEANING = {Acked: "ACK", Nacked: "NACK", Stale: "stale", Subscribed: "wish"}


class Machine:
    """One stream, and the inputs of the table as methods."""

    def __init__(self, variant, wish):
        self.sotw = variant is Variant.SOTW
        self.stream = AdsStream(variant)
        self.url = RTDS if wish == "named" else CDS
        self.wishes = ("a", "g") if wish == "named" else ("*",)
        self.listed = self.wishes
        self.serial = self.beat = 0
        self.nonce, self.has = "of-another-stream", {"a": "1", "b": "1"}
        self.newest = 1
        self.said = []
        self.publish()
        self.said.clear()

    def ask(self):
        self.wish(self.wishes)

    def subscribe(self):
        self.wish((*self.wishes, "b"), added=("b",))

    def unsubscribe(self):
        self.wish(self.wishes[1:], added=(), dropped=self.wishes[:1])

    def resubscribe(self):
        self.unsubscribe()
        self.ask()

    def ack(self, **more):
        known = self.stream.progress()
        self.request(*(self.listed if self.sotw or not known else ()), **{"nonce": self.nonce, **more})

    def nack(self):
        self.ack(error="no")

    def old_ack(self):
        self.ack(nonce="old")

    def old_nack(self):
        self.ack(nonce="old", error="no")

    def same(self):
        self.publish()

    def changed(self):
        self.newest += 1
        self.publish(a=str(self.newest))

    def removed(self):
        self.has.pop("a", None)
        self.publish()

    def added(self):
        self.publish(g="1")

    def heartbeat(self):
        self.beat += 1
        self.send(self.stream.heartbeat(self.url, ("a", "b", "g"), beat=self.beat))

    def publish(self, **edits):
        self.serial += 1
        self.has |= edits
        self.snapshot = world(self.serial, {self.url: [res(name, version, ttl_s=3.0) for name, version in self.has.items()]})
        self.send(self.stream.offer(self.snapshot))

    def wish(self, listed, added=None, dropped=()):
        """The client's whole list as the state of the world says it, and the change that says the same in delta."""
        first = not self.stream.progress()
        self.listed = listed
        names = listed if self.sotw or first or added is None else added
        self.request(*names, unsubscribe=() if self.sotw else dropped)

    def request(self, *names, **more):
        facts = self.stream.receive(Request(type_url=self.url, names=names, **more))
        self.said += [MEANING[type(fact)] for fact in facts]
        self.send(self.stream.offer(self.snapshot))

    def send(self, responses):
        for response in responses:
            self.nonce = response.nonce
            beat = "~" * (not self.stream.awaits)
            parts = [f"{beat}{each.name}{each.version}" for each in response.resources] + [f"-{name}" for name in response.removed]
            self.said.append((" ".join(parts) or "nothing") + ";")


INPUTS = [
    "ask",
    "ack",
    "nack",
    "old_ack",
    "old_nack",
    "subscribe",
    "unsubscribe",
    "resubscribe",
    "same",
    "changed",
    "removed",
    "added",
    "heartbeat",
]
"""`ask` is the first request in the state `new`, and the same wish once more in the others; an `ack` or `nack` carries the newest nonce."""

PATHS = {
    "new": "",
    "idle": "ask ack",
    "sent": "ask",
    "sent+": "ask changed",
    "beat": "ask ack heartbeat",
    "beat+": "ask ack heartbeat changed",
    "rejects": "ask nack",
    "rejects sent": "ask nack changed",
    "rejects sent+": "ask nack changed changed",
    "rejects beat": "ask ack added nack heartbeat",
    "rejects beat+": "ask ack added nack heartbeat changed",
}
"""How each state is reached from the beginning; more of the same state may be reached otherwise."""


FOLLOWED = {("rejects sent", (Variant.DELTA, "wildcard")): "rejects sent+"}
"""Here `b`, rejected together with `a`, is tried once more when the mended `a` is accepted."""


def after(form, inputs):
    machine = Machine(*form)
    for each in inputs:
        getattr(machine, each)()
    return machine


def state(form, inputs):
    """What can be seen of a stream with this history."""
    stream = after(form, inputs).stream
    if not stream.progress():
        return "new"
    more = after(form, inputs)
    more.said.clear()
    more.ack()
    on_the_way = {(0, False): "", (1, True): "sent", (1, False): "beat"}[stream.outstanding, stream.awaits]
    waits = "+" if on_the_way and any(";" in word for word in more.said) else ""
    return " ".join(filter(None, ["rejects" if stream.rejects else "", on_the_way + waits])) or "idle"


def outcome(form, path, each):
    machine = after(form, path)
    machine.said.clear()
    getattr(machine, each)()
    then, now = state(form, (*path, each)), state(form, path)
    said = " ".join(machine.said).removesuffix(";")
    return f"{said} {f'> {then}' if then != now else '='}".strip()


def cells(text):
    """Outcomes of all forms by state and input."""
    table = {}
    for line in text.strip().splitlines():
        if not line.startswith(" "):
            table[line] = {}
            continue
        each, _, outcomes = line.strip().partition(" ")
        found = [one.strip() for one in outcomes.split("|")]
        found *= len(FORMS) // len(found)
        assert len(found) == len(FORMS), line
        assert each not in table[[*table][-1]], f"{line} is there twice"
        table[[*table][-1]][each] = dict(zip(FORMS, found, strict=True))
    return table


CELLS = cells("""
new
    ask         wish a1 > sent | wish a1 b1 > sent | wish a1 -g > sent | wish a1 b1 > sent
    ack         wish a1 > sent | wish a1 b1 > sent | wish a1 -g > sent | wish a1 b1 > sent
    nack        wish a1 > sent | wish a1 b1 > sent | wish a1 -g > sent | wish a1 b1 > sent
    old_ack     wish a1 > sent | wish a1 b1 > sent | wish a1 -g > sent | wish a1 b1 > sent
    old_nack    wish a1 > sent | wish a1 b1 > sent | wish a1 -g > sent | wish a1 b1 > sent
    subscribe   wish a1 b1 > sent | wish a1 b1 > sent | wish a1 b1 -g > sent | wish a1 b1 > sent
    unsubscribe wish > idle | wish a1 b1 > sent | wish -g > sent | wish a1 b1 > sent
    resubscribe wish wish a1 > sent | wish a1 b1 > sent | wish -g; wish > sent+ | wish a1 b1; wish > sent+
    same        =
    changed     =
    removed     =
    added       =
    heartbeat   =
idle
    ask         = | = | wish a1 -g > sent | wish nothing > sent
    ack         a1 > sent | = | = | =
    nack        =
    old_ack     stale =
    old_nack    stale =
    subscribe   wish b1 > sent | wish a1 b1 > sent | wish b1 > sent | wish b1 > sent
    unsubscribe wish =
    resubscribe wish wish a1 > sent | wish wish a1 b1 > sent | wish wish a1 -g > sent | wish wish a1 b1 > sent
    same        =
    changed     a2 > sent | a2 b1 > sent | a2 > sent | a2 > sent
    removed     = | b1 > sent | -a > sent | -a > sent
    added       g1 > sent | a1 b1 g1 > sent | g1 > sent | g1 > sent
    heartbeat   ~a1 > beat | ~a1 ~b1 > beat | ~a1 > beat | ~a1 ~b1 > beat
sent
    ask         = | = | wish > sent+ | wish > sent+
    ack         ACK > idle
    nack        NACK > rejects
    old_ack     stale =
    old_nack    stale =
    subscribe   wish > sent+
    unsubscribe wish =
    resubscribe wish wish > sent+
    same        =
    changed     > sent+
    removed     = | > sent+ | > sent+ | > sent+
    added       > sent+
    heartbeat   =
sent+
    ask         = | = | wish = | wish =
    ack         ACK a2 > sent | ACK a2 b1 > sent | ACK a2 > sent | ACK a2 > sent
    nack        NACK a2 > rejects sent | NACK a2 b1 > rejects sent | NACK a2 -g > rejects sent | NACK a2 > rejects sent+
    old_ack     stale =
    old_nack    stale =
    subscribe   wish =
    unsubscribe wish > sent
    resubscribe wish wish =
    same        =
    changed     =
    removed     > sent | = | = | =
    added       =
    heartbeat   =
beat
    ask         = | = | wish > beat+ | wish > beat+
    ack         ACK > idle
    nack        NACK > rejects
    old_ack     stale =
    old_nack    stale =
    subscribe   wish > beat+
    unsubscribe wish =
    resubscribe wish wish > beat+
    same        =
    changed     > beat+
    removed     = | > beat+ | > beat+ | > beat+
    added       > beat+
    heartbeat   =
beat+
    ask         = | = | wish = | wish =
    ack         ACK a2 > sent | ACK a2 b1 > sent | ACK a2 > sent | ACK a2 > sent
    nack        NACK a2 > rejects sent | NACK a2 b1 > rejects sent | NACK a2 > rejects sent | NACK a2 > rejects sent+
    old_ack     stale =
    old_nack    stale =
    subscribe   wish =
    unsubscribe wish > beat
    resubscribe wish wish =
    same        =
    changed     =
    removed     > beat | = | = | =
    added       =
    heartbeat   =
rejects
    ask         = | = | wish a1 -g > rejects sent | wish nothing > rejects sent
    ack         =
    nack        =
    old_ack     stale =
    old_nack    stale =
    subscribe   wish b1 > rejects sent | wish a1 b1 > rejects sent | wish b1 -g > rejects sent+ | wish b1 > rejects sent+
    unsubscribe wish > idle | wish > idle | wish -g > rejects sent | wish > idle
    resubscribe wish wish a1 > sent | wish wish a1 b1 > sent | wish -g; wish > rejects sent+ | wish wish a1 b1 > sent
    same        =
    changed     a2 > rejects sent | a2 b1 > rejects sent | a2 -g > rejects sent | a2 > rejects sent+
    removed     > idle | b1 > rejects sent | -a -g > rejects sent | -a > rejects sent+
    added       g1 > rejects sent | a1 b1 g1 > rejects sent | g1 > rejects sent+ | g1 > rejects sent
    heartbeat   =
rejects sent
    ask         = | = | wish > rejects sent+ | wish =
    ack         ACK > idle | ACK > idle | ACK > idle | ACK b1 > rejects sent
    nack        NACK > rejects
    old_ack     stale =
    old_nack    stale =
    subscribe   wish > rejects sent+ | wish > rejects sent+ | wish > rejects sent+ | wish =
    unsubscribe wish > sent | wish > sent | wish = | wish > sent
    resubscribe wish wish > sent+ | wish wish > sent+ | wish wish > rejects sent+ | wish wish > sent+
    same        =
    changed     > rejects sent+ | > rejects sent+ | > rejects sent+ | =
    removed     = | > rejects sent+ | > rejects sent+ | =
    added       > rejects sent+ | > rejects sent+ | > rejects sent+ | =
    heartbeat   =
rejects sent+
    ask         = | = | wish = | wish =
    ack         ACK a3 > sent | ACK a3 b1 > sent | ACK a3 > sent | ACK a3 b1 > rejects sent
    nack        NACK a3 > rejects sent | NACK a3 b1 > rejects sent | NACK a3 -g > rejects sent | NACK a3 =
    old_ack     stale =
    old_nack    stale =
    subscribe   wish =
    unsubscribe wish > sent | wish > sent | wish > rejects sent | wish > sent
    resubscribe wish wish > sent+ | wish wish > sent+ | wish wish = | wish wish > sent+
    same        =
    changed     =
    removed     > rejects sent | = | = | =
    added       =
    heartbeat   =
rejects beat
    ask         = | = | wish > rejects beat+ | wish > rejects beat+
    ack         ACK > rejects
    nack        NACK > rejects
    old_ack     stale =
    old_nack    stale =
    subscribe   wish > rejects beat+
    unsubscribe wish = | wish > beat | wish = | wish > beat
    resubscribe wish wish > rejects beat+ | wish wish > beat+ | wish wish > rejects beat+ | wish wish > beat+
    same        =
    changed     > rejects beat+
    removed     = | > rejects beat+ | > rejects beat+ | > rejects beat+
    added       =
    heartbeat   =
rejects beat+
    ask         = | = | wish = | wish =
    ack         ACK a2 > rejects sent | ACK a2 b1 g1 > rejects sent | ACK a2 > rejects sent | ACK a2 > rejects sent
    nack        NACK a2 > rejects sent+ | NACK a2 b1 g1 > rejects sent | NACK a2 > rejects sent+ | NACK a2 > rejects sent+
    old_ack     stale =
    old_nack    stale =
    subscribe   wish =
    unsubscribe wish > rejects beat | wish > beat | wish > rejects beat | wish > beat
    resubscribe wish wish = | wish wish > beat+ | wish wish = | wish wish > beat+
    same        =
    changed     =
    removed     > rejects beat | = | = | =
    added       =
    heartbeat   =
""")


def test_no_cell_is_missing():
    assert list(CELLS) == list(PATHS)
    assert {name: list(row) for name, row in CELLS.items()} == dict.fromkeys(PATHS, INPUTS)


@pytest.mark.parametrize("form", FORMS, ids=IDS)
@pytest.mark.parametrize("name", PATHS)
def test_what_follows_from_each_input_in_each_state_is_what_the_table_says(name, form):
    path = PATHS[name].split()
    assert state(form, path) == FOLLOWED.get((name, form), name)
    assert {each: outcome(form, path, each) for each in INPUTS} == {each: found[form] for each, found in CELLS[name].items()}


@pytest.mark.parametrize("form", FORMS, ids=IDS)
def test_no_two_inputs_lead_out_of_the_table(form):
    found = {state(form, (*path.split(), *inputs)) for path in PATHS.values() for inputs in product(INPUTS, repeat=2)}
    assert found == PATHS.keys()
