"""Random conversations on one stream, as scripts that can be played again and cut down to what matters. `tests.interleaving` judges them."""

from tests.interleaving import NAMES, TYPES, VERSIONS, Interleaving
from xds_server.core.facts import Variant

STEPS = 40


def some(chance, values):
    return frozenset(each for each in values if chance.random() < 0.5)


def contents(chance):
    return {url: {name: chance.choice(VERSIONS) for name in sorted(some(chance, NAMES))} for url in TYPES if chance.random() < 0.7}


def step(chance):
    """A method of the interleaving with its arguments."""
    match chance.choices(range(10), (2, 3, 1, 1, 1, 4, 1, 0.4, 9, 9))[0]:
        case 0:
            return "publish", (contents(chance), chance.randrange(2)), {}
        case 1:
            return "edit", (chance.choice(TYPES), chance.choice(NAMES), chance.choice((*VERSIONS, None))), {}
        case 2:
            return "move", (), {}
        case 3:
            return "heartbeat", (), {}
        case 4:
            return "pass_time", (chance.uniform(0.1, 3.0),), {}
        case 5:
            return "wish", (chance.choice(TYPES), some(chance, NAMES)), {"wild": chance.random() < 0.5}
        case 6:
            return "ask_again", (chance.choice(TYPES), chance.choice(NAMES)), {}
        case 7:
            return "reconnect", (some(chance, ("a", "z")),), {}
        case 8:
            return "client_reads", (), {}
        case _:
            return "server_reads", (), {}


def write(chance):
    """A conversation: what kind of client it is, and what happens."""
    client = {"variant": chance.choice(tuple(Variant)), "rejects": chance.random() < 0.5, "partial": chance.random() < 0.5}
    return client, [step(chance) for _ in range(STEPS)]


def play(client, steps):
    """Raises what goes wrong. Nobody reads where nothing was written."""
    pair = Interleaving(**client)
    for name, positional, named in steps:
        if (name == "client_reads" and not pair.to_client) or (name == "server_reads" and not pair.to_server):
            continue
        getattr(pair, name)(*positional, **named)
        pair.check()
    pair.quiet()


def fault(client, steps):
    """The kind of what goes wrong; None for nothing."""
    try:
        play(client, steps)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return type(error)
    return None


def shrink(client, steps):
    """The same fault with no step that can be left out."""
    wrong, at = fault(client, steps), len(steps)
    while at:
        at -= 1
        fewer = steps[:at] + steps[at + 1 :]
        if fault(client, fewer) is wrong:
            steps = fewer
            at = min(at, len(steps))
    return steps


def talk(chance):
    """Plays a new conversation; a fault comes with the shortest script that has it."""
    client, steps = write(chance)
    try:
        play(client, steps)
    except Exception as error:
        lines = "\n".join(f"  {name} {positional} {named}" for name, positional, named in shrink(client, steps))
        error.add_note(f"{client}\n{lines}")
        raise
