"""Blocks over real HTTP: who does not read loses the oldest and is told how many; nobody else loses any, and a listener that left is forgotten."""

import asyncio
import contextlib
import json

import httpx
import pytest

from policies.evidence import Block, Counts
from tests.cli.control import FakeControl
from tests.making import Run, policy
from tests.rig import until
from xds_server.runtime.web import Api
from xds_server.services import http_api

WIDE = Counts(requests=1, statuses=(("x" * 20_000, 1),))
BLOCKS = 1500
"""Some 30 MB: more than the queue and every buffer between the two ends hold."""


@pytest.fixture
async def served():
    """(control, address) of the API on a real port."""
    control = FakeControl()
    api = Api(http_api.app(control), "127.0.0.1:0")
    port = api.bind()
    serving = asyncio.create_task(api.serve())
    yield control, f"http://127.0.0.1:{port}"
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    api.release()


@contextlib.asynccontextmanager
async def listening(address):
    """Events as they come: (kind, data)."""
    async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", f"{address}/v1/rollouts/chat/blocks") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def events():
            kind = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    yield kind, json.loads(line[6:])

        heard = events()
        assert await anext(heard) == ("listening", {})
        yield heard


async def test_who_does_not_read_loses_blocks_and_is_told_and_the_others_lose_none(served):
    control, address = served
    state = Run.of(policy()).state
    async with listening(address) as slow, listening(address) as quick:
        heard = []
        hear = heard.append

        async def read():
            async for event in quick:
                hear(event)

        reading = asyncio.create_task(read())
        for number in range(BLOCKS):
            control.feed.give(Block(start=number, end=number + 1.0, users={state.stable.identity: WIDE}), state)
            if number % 50 == 49:  # the loop of a server is never this busy
                await until(lambda number=number: len(heard) == number + 1, "the quick one to hear all so far", every_s=0.001)
        reading.cancel()
        assert [data["start"] for _, data in heard] == list(range(BLOCKS))
        starts, lost = [], 0
        while lost + len(starts) < BLOCKS:
            kind, data = await anext(slow)
            if kind == "lost":
                lost += data["lost"]
            else:
                starts.append(data["start"])
    assert lost > 0
    assert starts == sorted(set(starts))
    assert starts[-1] == BLOCKS - 1
    assert BLOCKS - len(starts) == lost


async def test_a_listener_that_left_is_forgotten(served):
    control, address = served
    async with listening(address):
        assert control.feed._listeners
    state = Run.of(policy()).state

    def gone():
        control.feed.give(Block(start=0.0, end=1.0), state)
        return not control.feed._listeners

    await until(gone, "the server to notice")
