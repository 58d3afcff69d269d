"""`crossfade assign`: from policy files and from a running server, the same users get the same variants."""

import json
import re
from collections import Counter

import pytest
import xxhash

from policies.assign import Layout, Place
from policies.lanes import Home, pick, slots
from policies.spec.policy import Assignment, HeaderMatch, Segment
from tests import specs
from tests.cli.control import placement
from tests.cli.running import run

STICKY = {"sticky": {"header": "x-user-id"}}


@pytest.fixture
def policies(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_bytes(specs.text(specs.PROXIES, specs.rollout(assignment=STICKY)))
    return path


def test_a_user_is_told_now_and_in_each_step_to_come(policies):
    ran = run("assign", "chat", "--policies", policies, "--key", "ann", "--key", "bob")
    assert (ran.code, ran.err) == (0, "")
    head, *rows = ran.out.splitlines()
    assert re.split(" {2,}", head) == ["USER", "NOW", "1 CANARY 5%", "2 CANARY 50%", "3 PROMOTE"]
    assert [row.split()[0] for row in rows] == ["ann", "bob"]
    assert {row.split()[1] for row in rows} == {"stable"}
    assert {row.split()[-1] for row in rows} == {"candidate"}


@pytest.mark.parametrize("arguments", [("--share", "candidate=5%"), ("--step", "1")])
def test_users_from_stdin_are_shared_out_as_the_lanes_say(policies, arguments):
    users = [f"user-{number}" for number in range(2000)]
    ran = run("assign", "chat", "--policies", policies, *arguments, "-o", "json", stdin="\n".join(users) + "\n")
    got = {row["key"]: row["assignments"][0]["variant"] for row in json.loads(ran.out)}
    laid_out = slots([Home(share_bp=500, reserve_bp=5000)])
    wanted = {
        user: "stable" if pick(xxhash.xxh64(f"{user}#chat".encode()).intdigest(), laid_out) is None else "candidate" for user in users
    }
    assert got == wanted
    assert 60 <= Counter(got.values())["candidate"] <= 140


def test_the_server_is_asked_for_its_rules(server, control):
    later = Layout(label="canary 50%", step=2, places=(Place(name="candidate", share_bp=5000, reserve_bp=5000),))
    control.placements["chat"] = placement(500, steps=(later,))
    ran = run("assign", "chat", "--key", "user-1", "-o", "json", "--server", server.url)
    assert json.loads(ran.out) == [
        {
            "key": "user-1",
            "rollout": "chat",
            "assignments": [
                {"step": None, "label": "now", "variant": "stable", "version": "v1", "by": "share", "segment": None},
                {"step": 2, "label": "canary 50%", "variant": "stable", "version": "v1", "by": "share", "segment": None},
            ],
        }
    ]


def test_a_segment_is_told_by_its_name(server, control):
    staff = Segment(name="staff", when=(HeaderMatch(name="x-staff", value="1"),), variant="candidate")
    rules = Assignment(segments=(staff,))
    now = Layout(places=(Place(name="candidate", share_bp=500, reserve_bp=500, pinned=True),))
    control.placements["chat"] = placement(assignment=rules, now=now)
    ran = run("assign", "chat", "--header", "X-Staff=1", "--server", server.url)
    assert ran.out.splitlines()[1].split() == ["-", "candidate", "(staff)"]
    assert run("assign", "chat", "--key", "ann", "--server", server.url).out.splitlines()[1].split() == ["ann", "any"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope", "--key", "a"), "there is no rollout 'nope'"),
        (("chat", "--key", "a", "--step", "9"), "chat has 3 steps, not 9"),
        (("chat", "--key", "a", "--share", "b=1%"), "chat has no variant 'b'"),
        (("chat", "--key", "a", "--share", "candidate=1%", "--step", "1"), "exclude each other"),
        (("chat", "--key", "a", "--header", "x"), "'x' is not a header"),
        (("Chat", "--key", "a"), "is not a rollout name"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(policies, arguments, words):
    ran = run("assign", *arguments, "--policies", policies)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_a_share_needs_the_policies(server):
    assert run("assign", "chat", "--key", "a", "--step", "1", "--server", server.url).code == 2
    assert run("assign", "nope", "--key", "a", "--server", server.url).code == 2
