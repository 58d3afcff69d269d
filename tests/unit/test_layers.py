"""Rollouts of one layer: a release keeps its lane, and an edit that does not fit into it waits."""

from dataclasses import replace

import pytest

from policies import verdicts, wish
from policies.lanes import Lane
from policies.rollout import Mode, PolicyChanged
from policies.spec.policy import Assignment, Hold, PromoteStep
from tests.crowd import begun, serve, share
from tests.making import canary, policy
from xds_server.adapters.store_memory import MemoryStore
from xds_server.runtime.conductor import Conductor

LONG = Hold(for_s=1e6)
LAYERED = Assignment(sticky_header="x-user", layer="ui")


class Nowhere:
    """Takes every wish and delivers none."""

    def publish(self, wish):
        pass

    def withdraw(self, rollout):
        pass

    def flush(self):
        pass


@pytest.fixture
def conductor():
    return Conductor(
        store=MemoryStore(),
        world=Nowhere(),
        clock=lambda: 1000.0,
        decided=lambda record: None,
        dropped=lambda kind: None,
        saved=lambda kind, seconds: None,
    )


def layered(name, share_bp):
    return policy(name=name, assignment=LAYERED, steps=(canary(share_bp, hold=LONG), PromoteStep()))


async def test_a_release_keeps_its_lane_when_an_edit_asks_for_less_or_for_more(conductor):
    documents = {name: layered(name, 3000) for name in ("a", "b")}
    await conductor.apply_policies(documents)
    before = {name: entry.state.lane for name, entry in conductor.entries.items()}
    assert all(entry.state.mode is Mode.WARMING for entry in conductor.entries.values())
    for share_bp in (1000, 4500):
        await conductor.apply_policies(documents | {"a": layered("a", share_bp)})
        assert {name: entry.state.lane for name, entry in conductor.entries.items()} == before


async def test_a_rollout_that_finds_no_room_in_its_layer_waits_and_moves_nobody(conductor):
    await conductor.apply_policies({"a": layered("a", 6000)})
    await conductor.apply_policies({"a": layered("a", 6000), "b": layered("b", 5000)})
    lanes = {name: entry.state.lane for name, entry in conductor.entries.items()}
    assert (lanes["a"], lanes["b"].width_bp) == (Lane(start_bp=0, width_bp=6000), 0)


def test_an_edit_that_does_not_fit_into_the_lane_waits_and_keeps_the_share():
    lane = Lane(start_bp=2000, width_bp=1000)
    document = layered("chat", 1000)
    run = begun(document)
    run.on(PolicyChanged(policy=document, lane=lane))
    serve(run, 1)
    run.on(PolicyChanged(policy=replace(document, steps=(canary(4000, hold=LONG), PromoteStep())), lane=lane))
    assert share(run) == {"candidate": 1000}
    assert wish.traffic(run.state).lane == lane
    serve(run, 5)
    seen = tuple((arm, verdicts.readings(run.state, arm, now=run.now)) for arm in run.state.running)
    assert "lane" in {item.kind for item in verdicts.waiting_for(run.state, seen)}
    assert share(run) == {"candidate": 1000}
