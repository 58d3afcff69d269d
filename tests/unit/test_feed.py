"""The feed of evidence blocks: nothing is kept for nobody, a slow listener loses blocks and is told, a block has all that a recording needs."""

import asyncio
import contextlib
import json

import httpx
import pytest

from policies.evidence import LATENCY_BINS, LATENCY_EDGES_MS, Block, Counts
from policies.rollout import Mode
from policies.spec.policy import PromoteStep
from tests.cli.control import FakeControl
from tests.making import HOLD, Run, canary, policy
from xds_server.runtime import feed
from xds_server.runtime.feed import Feed, tell
from xds_server.services import bodies, http_api

SEEN = Counts(
    requests=5,
    errors=2,
    fallbacks=1,
    broken=1,
    latency=((40, 3), (LATENCY_BINS - 1, 2)),
    ttft=((30, 3),),
    statuses=(("200", 3), ("500", 2)),
)


@pytest.fixture
def run():
    """A release in its canary of 10 %, ACKed."""
    run = Run.of(policy(steps=(canary(1000, hold=HOLD), PromoteStep(keep_stable_for_s=2.0))))
    for act in (run.ack, run.ready, run.ack):
        act()
    assert run.state.mode is Mode.STEP
    return run


def block(number=0, **changes):
    return Block(start=1000.0 + number, end=1000.1 + number, **changes)


async def test_a_block_without_listeners_is_not_even_written(run, monkeypatch):
    monkeypatch.setattr(feed, "tell", lambda *_: pytest.fail("written for nobody"))
    made = Feed()
    made.give(block(), run.state)
    with made.listen("another"):
        made.give(block(), run.state)


async def test_a_listener_hears_every_block_in_order_until_it_leaves(run):
    made = Feed()
    with made.listen("chat") as listener, made.listen("chat") as other:
        for number in range(3):
            made.give(block(number), run.state)
        heard = [await listener.take(0.0) for _ in range(3)]
        assert [(lost, json.loads(found)["start"]) for lost, found in heard] == [(0, 1000.0), (0, 1001.0), (0, 1002.0)]
        assert await listener.take(0.0) == (0, None)
        assert (await other.take(0.0))[1] is heard[0][1]  # written once for all
    assert not made._listeners


async def test_a_listener_that_waits_is_woken_by_the_next_block(run):
    made = Feed()
    with made.listen("chat") as listener:
        waiting = asyncio.create_task(listener.take(60.0))
        await asyncio.sleep(0)
        made.give(block(), run.state)
        assert json.loads((await waiting)[1])["rollout"] == "chat"


async def test_a_slow_listener_loses_the_oldest_blocks_and_is_told_how_many(run):
    made = Feed()
    with made.listen("chat") as slow:
        for number in range(feed.BLOCKS_MAX + 7):
            made.give(block(number), run.state)
        lost, found = await slow.take(0.0)
        assert (lost, json.loads(found)["start"]) == (7, 1007.0)
        assert (await slow.take(0.0))[0] == 0
        assert len(slow._blocks) <= feed.BLOCKS_MAX


def test_listeners_are_bounded():
    made = Feed()
    with contextlib.ExitStack() as stack:
        for number in range(feed.LISTENERS_MAX):
            assert not made.full
            stack.enter_context(made.listen(f"rollout-{number}"))
        assert made.full
    assert not made.full


def test_a_block_names_versions_shares_and_what_each_audience_saw(run):
    stable, candidate = run.state.stable.identity, run.arm.variant.identity
    made = block(
        users={stable: Counts(requests=45), candidate: SEEN},
        shadows={candidate: Counts(requests=1)},
        pinned={"gone.1": Counts(requests=9)},
        lost=3,
        halves={stable: ((20, 0), (24, 1))},
    )
    told = tell(made, run.state)
    assert json.loads(bodies.dump(told)) == told
    variants = told.pop("variants")
    assert told == {
        "start": 1000.0,
        "end": 1000.1,
        "rollout": "chat",
        "generation": 1,
        "phase": "running",
        "step": "canary 10%",
        "lost_requests": 3,
    }
    assert [(each["name"], each["version"], each["identity"], each["share"]) for each in variants] == [
        ("stable", "v1", stable, 0.9),
        ("candidate", "v2", candidate, 0.1),
    ]
    assert variants[1]["users"] == {
        "requests": 5,
        "errors": 2,
        "fallbacks": 1,
        "broken": 1,
        "no_host": 0,
        "latency": [[float(f"{LATENCY_EDGES_MS[40]:.6g}"), 3], [None, 2]],
        "ttft": [[float(f"{LATENCY_EDGES_MS[30]:.6g}"), 3]],
        "statuses": {"200": 3, "500": 2},
    }
    assert variants[1]["shadows"]["requests"] == 1
    assert [each["pinned"] for each in variants] == [None, None]
    assert [each["halves"] for each in variants] == [[[20, 0], [24, 1]], None]


def test_after_a_promotion_the_candidate_is_stable_and_has_everything(run):
    run.serve(60, until=Mode.BAKING)
    (variant,) = tell(block(), run.state)["variants"]
    assert (variant["name"], variant["version"], variant["share"]) == ("stable", "v2", 1.0)


def test_a_release_of_what_is_stable_already_has_one_line(run):
    same = Run.of(policy(arms=(run.state.stable,)))
    assert len(tell(block(), same.state)["variants"]) == 1


async def test_the_api_knows_no_blocks_of_an_unknown_rollout_and_takes_only_so_many_listeners():
    control = FakeControl()
    transport = httpx.ASGITransport(app=http_api.app(control))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:18080") as client:
        assert (await client.get("/v1/rollouts/nope/blocks")).json()["error"]["code"] == "unknown_rollout"
        with contextlib.ExitStack() as stack:
            for _ in range(feed.LISTENERS_MAX):
                stack.enter_context(control.feed.listen("chat"))
            answer = await client.get("/v1/rollouts/chat/blocks")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_many_listeners")
