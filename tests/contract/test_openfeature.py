"""The feature-flag API as the OpenFeature SDK sees it: every user gets in code what the proxies give them in traffic."""

from collections import Counter

import pytest
import xxhash
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason

from policies.lanes import Home, pick, slots
from policies.spec.policy import Assignment, Cookie, HeaderMatch, Segment
from tests.cli.control import FakeControl, placement, served

HEADER = Assignment(sticky_header="x-user-id")
USERS = [f"user-{number}" for number in range(500)]


@pytest.fixture
def control():
    return FakeControl()


@pytest.fixture
def client(control):
    with served(control) as server:
        provider = OFREPProvider(server.url, timeout=30.0)
        api.set_provider(provider, "crossfade-test")
        yield api.get_client("crossfade-test")
        provider.session.close()
        api.clear_providers()


def details(client, user, flag="chat", **attributes):
    return client.get_string_details(flag, "none", EvaluationContext(user, attributes))


@pytest.mark.parametrize(
    ("share_bp", "assignment"),
    [*((share_bp, HEADER) for share_bp in (500, 2000, 5000)), (2000, Assignment(cookie=Cookie(name="uid"), layer="models"))],
)
def test_every_user_gets_what_the_lanes_say(client, control, share_bp, assignment):
    control.placements["chat"] = placement(share_bp, assignment=assignment)
    laid_out = slots([Home(share_bp=share_bp, reserve_bp=5000)])
    salt = assignment.layer or "chat"
    wanted = {
        user: "stable" if pick(xxhash.xxh64(f"{user}#{salt}".encode()).intdigest(), laid_out) is None else "candidate" for user in USERS
    }
    got = {user: client.get_string_value("chat", "none", EvaluationContext(user)) for user in USERS}
    assert got == wanted
    assert abs(Counter(got.values())["candidate"] / len(USERS) - share_bp / 10_000) < 0.07


def test_an_answer_says_why_and_of_which_release(client):
    got = details(client, "user-1")
    assert (got.reason, got.variant, got.value) == (Reason.SPLIT, "stable", "stable")
    assert got.flag_metadata == {"rollout": "chat", "version": "v1", "generation": 3, "share": 0.95}


def test_attributes_are_headers_for_the_segments(client, control):
    staff = Segment(name="staff", when=(HeaderMatch(name="x-staff", value="1"),), variant="candidate")
    rules = Assignment(sticky_header="x-user-id", segments=(staff,))
    made = placement(500, assignment=rules)
    place = made.now.places[0]
    control.placements["chat"] = placement(
        500, assignment=rules, now=type(made.now)(places=(type(place)(name="candidate", share_bp=500, reserve_bp=5000, pinned=True),))
    )
    for attributes in ({"x-staff": "1"}, {"x_staff": "1"}, {"X-Staff": "1"}, {"x-staff": 1}):
        got = details(client, "user-1", **attributes)
        assert (got.variant, got.reason) == ("candidate", Reason.TARGETING_MATCH)
        assert got.flag_metadata["segment"] == "staff"
    assert details(client, "user-1", **{"x-staff": "0"}).reason == Reason.SPLIT


def test_an_unknown_rollout_is_the_codes_own_default(client):
    got = details(client, "user-1", flag="nope")
    assert (got.value, got.error_code) == ("none", ErrorCode.FLAG_NOT_FOUND)


def test_a_user_without_a_name_is_the_codes_own_default(client):
    got = details(client, None)
    assert (got.value, got.error_code) == ("none", ErrorCode.TARGETING_KEY_MISSING)


def test_a_flag_is_a_text(client):
    got = client.get_boolean_details("chat", False, EvaluationContext("user-1"))
    assert (got.value, got.error_code) == (False, ErrorCode.TYPE_MISMATCH)
