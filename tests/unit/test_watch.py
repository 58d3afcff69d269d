"""What is seen outside reaches the engine as events: only where the state says something else, and one arm never holds up another."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from policies.rollout import ArmState, Freeze, Mode, Pods, PodsProbed, Probed, Probing, Rollout, SourceReported, WindowChanged
from policies.spec.policy import (
    CanaryStep,
    FreezeWindow,
    Hold,
    ProbeRequest,
    ProbeStep,
    RolloutPolicy,
    StaticEndpoints,
    TrafficSpec,
    Variant,
)
from policies.steps import Stage
from tests.rig import Backend, until
from xds_server.adapters.calendar import Calendar
from xds_server.adapters.readiness import Found
from xds_server.runtime import watch
from xds_server.runtime.watch import Probes, Readiness, orders, source_changes, window_changes
from xds_server.services.proxies import Member

PROBE = ProbeStep(requests=(ProbeRequest(path="/v1/chat"),), rate_per_s=100.0, for_s=0.1)
CANARY = CanaryStep(stages=(((("candidate", 100),), Hold(samples=1)),))
ALWAYS = FreezeWindow(cron="* * * * *", for_s=3600.0)


def variant(name, version):
    return Variant(name=name, version=version, endpoints=StaticEndpoints(addresses=("127.0.0.1:80",)))


def rollout(name="chat", *, mode=Mode.STEP, arms=("candidate",), steps=(PROBE, CANARY), freeze=(), **more):
    stable = variant("stable", "v1")
    made = tuple(variant(arm, f"v-{arm}") for arm in arms)
    traffic = TrafficSpec(proxies="edge", listener="public")
    policy = RolloutPolicy(name=name, traffic=traffic, stable=stable, arms=made, steps=steps, freeze=freeze)
    states = tuple(ArmState(variant=each) for each in made)
    return Rollout(name=name, policy=policy, stable=stable, declared_stable=stable.identity, mode=mode, arms=states, **more)


class World:
    """States by name and the events that were submitted; an event of pods or of a probe is applied as the engine would."""

    def __init__(self, *states):
        self.known = {state.name: state for state in states}
        self.events = []

    def states(self):
        return tuple(self.known.values())

    def submit(self, name, event):
        self.events.append((name, event))
        state = self.known[name]
        change = {"pods": event.pods} if isinstance(event, PodsProbed) else {"probing": event.probing}
        arms = tuple(replace(arm, **change) if arm.variant.identity == event.identity else arm for arm in state.arms)
        self.known[name] = replace(state, arms=arms)

    def said(self, name):
        return [event for rollout, event in self.events if rollout == name]


@asynccontextmanager
async def running(work):
    task = asyncio.create_task(work)
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch, "READY_S", 0.01)
    monkeypatch.setattr(watch, "ASK_S", 0.0)
    monkeypatch.setattr(watch, "PROBES_S", 0.01)


# Readiness.


class Pinger:
    """Says what it is told to of each version; one that is not told hangs."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []
        self.at_once = 0

    async def probe(self, variant, before):
        self.asked.append(variant.version)
        if variant.version.removeprefix("v-") not in self.answers:
            await asyncio.Event().wait()
        return self.answers[variant.version.removeprefix("v-")]


async def test_pods_are_told_once_and_again_only_when_they_change():
    world, pinger = World(rollout()), Pinger(candidate=Found(pods=Pods(ready=1, total=2), ready=(("127.0.0.1", 80),)))
    readiness = Readiness(pinger, world.states, world.submit)
    async with running(readiness.run()):
        await until(lambda: len(pinger.asked) > 3)
        assert [event.pods for event in world.said("chat")] == [Pods(ready=1, total=2)]
        pinger.answers["candidate"] = Found(pods=Pods(ready=2, total=2))
        await until(lambda: len(world.events) == 2)
        assert readiness.places("chat", world.known["chat"].arms[0].variant.identity) == ()


async def test_an_arm_that_hangs_holds_up_nobody_and_is_asked_once():
    world, pinger = World(rollout(arms=("slow", "fast")), rollout("other", arms=("fast",))), Pinger(fast=Found(pods=Pods(ready=1, total=1)))
    async with running(Readiness(pinger, world.states, world.submit).run()):
        await until(lambda: pinger.asked.count("v-fast") > 5)
    assert pinger.asked.count("v-slow") == 1
    assert {name for name, _ in world.events} == {"chat", "other"}


async def test_only_arms_in_a_release_are_asked():
    out = rollout("dropped", arms=("out",))
    out = replace(out, arms=(replace(out.arms[0], out=out.because),))
    world, pinger = World(rollout(mode=Mode.REVERTED, arms=("old",)), out, rollout("b", arms=("fast",))), Pinger(fast=Found())
    async with running(Readiness(pinger, world.states, world.submit).run()):
        await until(lambda: len(pinger.asked) > 3)
    assert set(pinger.asked) == {"v-fast"}


async def test_pods_of_a_rollout_that_went_meanwhile_are_not_told():
    gate, world = asyncio.Event(), World(rollout(), rollout("b", arms=("fast",)))

    class Slow(Pinger):
        async def probe(self, variant, before):
            if variant.version == "v-candidate":
                await gate.wait()
                return Found(pods=Pods(ready=1, total=1))
            return await super().probe(variant, before)

    pinger = Slow(fast=Found())
    async with running(Readiness(pinger, world.states, world.submit).run()):
        await until(lambda: pinger.asked)
        del world.known["chat"]
        seen = len(pinger.asked)
        await until(lambda: len(pinger.asked) > seen + 1)
        gate.set()
        await until(lambda: len(pinger.asked) > seen + 3)
    assert not world.said("chat")


# Probes.


async def test_a_rollout_in_a_probe_is_probed_and_told_how_it_went():
    async with Backend() as pod:
        world = World(rollout())
        async with running(Probes(world.states, world.submit, lambda *_: (("127.0.0.1", pod.port),)).run()):
            await until(lambda: world.events and world.events[-1][1].probing.done)
    last = world.events[-1][1]
    assert isinstance(last, Probed)
    assert last.position == 0
    assert last.probing.good == last.probing.asked == pod.requests > 1
    assert last.probing.words == ""


async def test_a_probe_ends_with_its_stage_and_a_new_release_begins_anew():
    steps = (replace(PROBE, for_s=3600.0),)
    async with Backend() as pod:
        world = World(rollout(steps=steps))
        async with running(Probes(world.states, world.submit, lambda *_: (("127.0.0.1", pod.port),)).run()):
            await until(lambda: world.events and world.events[-1][1].probing.good > 3)
            world.known["chat"] = rollout(steps=steps, mode=Mode.REVERTED)
            tasks = {task for task in asyncio.all_tasks() if task.get_name() == "probe chat"}
            await until(lambda: all(task.done() for task in tasks))
            assert tasks
            world.events.clear()
            world.known["chat"] = rollout(steps=steps, generation=2)
            await until(lambda: world.events)
    assert world.events[0][1].probing.asked <= 2


async def test_an_edit_of_the_probe_starts_it_anew():
    async with Backend() as pod:
        world = World(rollout(steps=(replace(PROBE, for_s=3600.0),)))
        async with running(Probes(world.states, world.submit, lambda *_: (("127.0.0.1", pod.port),)).run()):
            await until(lambda: pod.by_path["/v1/chat"])
            world.known["chat"] = rollout(steps=(replace(PROBE, requests=(ProbeRequest(path="/other"),)),))
            await until(lambda: world.events and world.events[-1][1].probing.done)
    assert pod.by_path["/other"] >= world.events[-1][1].probing.asked > 1


def test_a_probe_is_wanted_of_every_arm_that_is_in_and_not_done():
    state = rollout(arms=("b", "c", "d"))
    arms = (replace(state.arms[0], probing=Probing(done=True)), replace(state.arms[1], out=state.because), state.arms[2])
    assert [order.arm.name for order in orders(replace(state, arms=arms))] == ["d"]


@pytest.mark.parametrize("more", [{"position": 1}, {"mode": Mode.WARMING}, {"orphan": Stage(kind="probe", probe=PROBE)}, {"position": 7}])
def test_elsewhere_no_probe_is_wanted(more):
    assert list(orders(replace(rollout(), **more))) == []


# Freeze windows.


def windows(*states, policies=None):
    return list(window_changes(Calendar(), states, 1_795_000_000.0, policies))


def test_a_window_that_is_open_is_told_until_the_state_has_it():
    ((name, event),) = windows(rollout(freeze=(ALWAYS,)))
    assert name == "chat"
    assert "* * * * *" in event.words
    assert windows(rollout(freeze=(ALWAYS,), freezes=(Freeze(source="window", words=event.words),))) == []


def test_a_window_that_closed_or_left_the_policy_is_told():
    frozen = rollout(freezes=(Freeze(source="operator", words="x"), Freeze(source="window", words="old")))
    assert windows(frozen) == [("chat", WindowChanged(words=""))]


def test_without_windows_and_for_a_rollout_that_is_gone_nothing_is_told():
    assert windows(rollout(), rollout(freeze=(ALWAYS,), mode=Mode.RETIRED), rollout(freezes=(Freeze(source="operator"),))) == []


def test_a_window_of_a_document_about_to_come_into_force_counts_already():
    edited = rollout(freeze=(ALWAYS,)).policy
    assert [event.words != "" for _, event in windows(rollout(), policies={"chat": edited})] == [True]


# The source of the evidence.


def member(node, since=0.0):
    return Member(node_id=node, world="edge/leased", connected_since=since, settled=True, words="")


def sources(state, *, gap, members, logging=()):
    return [event.words for _, event in source_changes([state], lambda _: gap, lambda _: members, set(logging), 100.0)]


def test_a_proxy_that_serves_and_does_not_log_is_named():
    two = [member("edge-2"), member("edge-1")]
    assert sources(rollout(), gap=0.5, members=two, logging=["edge-2"]) == ["proxy edge-1 sends no access log"]
    assert sources(rollout(), gap=0.5, members=two) == ["proxy edge-1 sends no access log, nor do 1 more"]


def test_a_proxy_without_requests_need_not_log():
    assert sources(rollout(), gap=0.0, members=[member("edge-1")]) == []


def test_a_proxy_that_just_came_has_time():
    assert sources(rollout(), gap=0.2, members=[member("edge-1", since=95.0)]) == []


def test_most_requests_missing_is_told_even_if_every_proxy_logs():
    (words,) = sources(rollout(), gap=0.9, members=[member("edge-1")], logging=["edge-1"])
    assert "lacks most" in words
    assert sources(rollout(source_words=words), gap=0.95, members=[member("edge-1")], logging=["edge-1"]) == []


def test_a_source_that_works_again_is_told_once():
    broken = rollout(source_words="proxy edge-1 sends no access log")
    found = list(source_changes([broken], lambda _: 0.0, lambda _: [], set(), 100.0))
    assert found == [("chat", SourceReported(words=""))]
    assert sources(rollout(), gap=0.0, members=[]) == []
    assert sources(rollout(mode=Mode.IDLE), gap=1.0, members=[member("edge-1")]) == []
