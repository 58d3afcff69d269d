"""Code paths and traffic agree: the feature flags and `crossfade assign` say of each user what the real Envoy does."""

import json

import pytest

from tests.rig import Backend, Client
from tests.stage import Stage, rollout, variant

pytestmark = pytest.mark.timeout(180)

USERS = [f"user-{number}" for number in range(400)]


async def flags(stage, **context):
    """The version by user, as applications are told."""
    found = {}
    for user in USERS:
        answer = await stage.http.post("/ofrep/v1/evaluate/flags/chat", json={"context": {"targetingKey": user, **context}})
        found[user] = answer.json()["metadata"]["version"]
    return found


async def assigned(stage):
    keys = [argument for user in USERS for argument in ("--key", user)]
    code, out, err = await stage.cli("assign", "chat", *keys, "-o", "json")
    assert code == 0, err
    return [{row["key"]: row["assignments"][moment]["version"] for row in json.loads(out)} for moment in (0, 1)]


async def traffic(client, **request):
    replies = await client.burst(len(USERS), user=USERS.__getitem__, **request)
    return {reply.user: reply.variant for reply in replies}


async def test_flags_assignments_and_traffic_agree_on_every_user_of_two_arms(tmp_path):
    steps = [
        {"canary": {"shares": [{"b": "10%", "c": "20%"}, {"b": "30%", "c": "40%"}], "hold": {"for": "1h"}}},
        {"promote": {"variant": "c"}},
    ]
    segments = [{"name": "staff", "when": {"header": "x-staff", "exact": "1"}, "variant": "b"}]
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Backend(name="v3") as v3, Stage(tmp_path) as stage:
        document = rollout(
            v1,
            steps=steps,
            gates=[],
            variants={"stable": variant("v1", v1), "b": variant("v2", v2), "c": variant("v3", v3)},
            assignment={"sticky": {"header": "x-user"}, "segments": segments},
        )
        await stage.start(document)
        async with Client(stage.port) as client:
            await stage.serving(client)
            await stage.shares(b=0.1, c=0.2)
            now, then = await assigned(stage)
            assert now == await flags(stage) == await traffic(client)
            assert set(now.values()) == {"v1", "v2", "v3"}
            staff = {"x-staff": "1"}
            assert await flags(stage, **staff) == await traffic(client, headers=staff) == dict.fromkeys(USERS, "v2")
            await stage.act("advance")
            await stage.shares(b=0.3, c=0.4)
            assert then == await flags(stage) == await traffic(client), "what was foretold came"
            await stage.act("abort")
            await stage.phase("reverted")
            assert set((await flags(stage)).values()) == {"v1"}
