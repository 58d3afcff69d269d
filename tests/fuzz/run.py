"""Five kinds of attack, one after the other, each input from its own seed so that a finding can be had again alone."""

import random
import traceback
from pathlib import Path

from tests.fuzz.hostile import Hostile, read_any
from tests.fuzz.policies import Spoiler, judge_any
from tests.fuzz.sessions import Stage
from tests.fuzz.talks import talk
from tests.fuzz.wire import converse

BATCH = 1000
"""Messages and hostile streams that come from one seed."""
POLICIES = 50
"""Sets of policy files that do."""
CONNECTIONS = 50
"""And connections."""


def messages(chance):
    source = Hostile(chance)
    for _ in range(BATCH):
        read_any(source)


def sessions(chance):
    stage = Stage(Hostile(chance))
    for _ in range(BATCH):
        stage.attack()


def policies(chance):
    source = Spoiler(chance)
    for _ in range(POLICIES):
        judge_any(source)


def connections(chance):
    for _ in range(CONNECTIONS):
        converse(chance)


ATTACKS = {
    "messages": (messages, BATCH),
    "sessions": (sessions, BATCH),
    "conversations": (talk, 1),
    "policies": (policies, POLICIES),
    "connections": (connections, CONNECTIONS),
}


def attack(kind, number, seed):
    """One batch of a kind. The words of a finding, "" for none."""
    try:
        ATTACKS[kind][0](random.Random(f"{seed}/{kind}/{number}"))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return f"{kind} batch {number} of seed {seed}:\n{''.join(traceback.format_exception(error))}"
    return ""


def rss_mib():
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
