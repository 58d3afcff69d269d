"""Who gets which arm, on the real Envoy: every pick of 20,000 users is the one computed without it, whatever the shares do.

The pods are listeners of a second Envoy that answer by themselves, and requests are pipelined: 80,000 of them are a matter of seconds.
"""

import asyncio
import re
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import xxhash

from policies.lanes import Lane, pick, slots
from policies.spec.policy import (
    Assignment,
    Compare,
    Cookie,
    HeaderMatch,
    Lease,
    Listener,
    Match,
    ProxiesPolicy,
    Segment,
    Select,
    StaticEndpoints,
    TrafficSpec,
    Variant,
)
from policies.traffic import Arm, Traffic
from tests.e2e.plane import Plane
from tests.real_envoy import Envoy
from tests.rig import free_port, until
from xds_server.evidence.classify import classify
from xds_server.resources import names
from xds_server.resources.bootstrap import bootstrap
from xds_server.resources.routes import homes

USERS = [f"user-{number}" for number in range(20_000)]
HEADER = "x-user"
VERSIONS = ("v1", "v2", "v3", "v4")
CONNECTIONS = 8
WINDOW = 64
"""Requests written to a connection before their answers are read."""

END = b"\r\n\r\nok"


@dataclass(frozen=True, slots=True)
class Answer:
    variant: str
    cookie: str


@dataclass
class World:
    """Four versions behind one Envoy that hears from a plane."""

    plane: Plane
    port: int
    variants: dict[str, Variant]

    def wish(self, *shares_bp, reserve_bp=3000, rollout="chat", publication=1, path="/", lane=None, **more):
        """Stable `v1` and as many arms as there are shares."""
        arms = tuple(
            Arm(variant=self.variants[version], share_bp=share, reserve_bp=reserve_bp)
            for version, share in zip(VERSIONS[1:], shares_bp, strict=False)
        )
        made = Traffic(
            rollout=rollout,
            publication=publication,
            generation=1,
            where=TrafficSpec(proxies="edge", listener="public", match=(Match(path_prefix=path),)),
            assignment=Assignment(sticky_header=HEADER),
            lease=Lease(ttl_s=30.0),
            stable=self.variants["v1"],
            arms=arms,
        )
        return replace(made, **({"lane": lane} if lane else {}), **more)

    async def ask(self, lines, path="/"):
        """One request for each group of header lines; the answers in the same order."""
        requests = [f"GET {path} HTTP/1.1\r\nhost: a\r\n".encode() + each + b"\r\n" for each in lines]
        size = -(-len(requests) // CONNECTIONS)
        parts = await asyncio.gather(*(self._talk(requests[start : start + size]) for start in range(0, len(requests), size)))
        return [answer for part in parts for answer in part]

    async def _talk(self, requests):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        answers = []
        async with asyncio.timeout(60.0):
            for start in range(0, len(requests), WINDOW):
                window = requests[start : start + WINDOW]
                writer.write(b"".join(window))
                came = b""
                while came.count(END) < len(window):
                    came += await reader.read(1 << 20)
                answers += [_answer(head) for head in came.split(END)[:-1]]
        writer.transport.abort()
        return answers

    async def users(self, users, path="/"):
        answers = await self.ask([f"{HEADER}: {user}\r\n".encode() for user in users], path)
        return {user: answer.variant for user, answer in zip(users, answers, strict=True)}


def _answer(head):
    assert head.startswith(b"HTTP/1.1 200"), head
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return Answer(lines[b"x-variant"].decode(), lines.get(b"set-cookie", b"").decode())


def predicted(wish, values):
    """The version that each user gets, from the policy's words alone."""
    laid_out = slots(homes(wish), wish.lane)
    salted = (names.salted(value, wish.rollout, wish.assignment) for value in values)
    arms = [pick(xxhash.xxh64(text.encode()).intdigest(), laid_out) for text in salted]
    return {value: "v1" if arm is None else wish.arms[arm].variant.version for value, arm in zip(values, arms, strict=True)}


@pytest.fixture
async def world(tmp_path):
    async with pods(tmp_path) as variants, proxied(tmp_path, variants) as made:
        yield made


@asynccontextmanager
async def pods(folder):
    ports = {version: free_port() for version in VERSIONS}
    admin = free_port()
    config = {"admin": _address(admin), "static_resources": {"listeners": [_pod(version, port) for version, port in ports.items()]}}
    async with Envoy(config, folder, admin_port=admin, name="pods"):
        yield {
            version: Variant(name=version, version=version, endpoints=StaticEndpoints(addresses=(f"127.0.0.1:{port}",)))
            for version, port in ports.items()
        }


def _address(port):
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


def _pod(version, port):
    answer = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "ok"}},
        "response_headers_to_add": [{"header": {"key": "x-variant", "value": version}}],
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": version,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": version, **_address(port), "filter_chains": [{"filters": filters}]}


@asynccontextmanager
async def proxied(folder, variants):
    port, admin = free_port(), free_port()
    plane = Plane(ProxiesPolicy(name="edge", select=Select(), listeners=(Listener(name="public", address="127.0.0.1", port=port),)))
    await plane.start()
    try:
        config = bootstrap(node_id="n", cluster="edge", xds_host="127.0.0.1", xds_port=plane.port, admin_port=admin)
        async with Envoy(config, folder, admin_port=admin):
            yield World(plane=plane, port=port, variants=variants)
    finally:
        await plane.stop()


@pytest.mark.parametrize(
    ("few", "many", "every"),
    [
        pytest.param((100,), (3000,), 4, id="1 arm"),
        pytest.param((500, 100), (500, 3000), 4, id="2 arms"),
        pytest.param((100, 200, 300), (2500, 200, 3000), 1, id="3 arms"),
    ],
)
async def test_every_user_gets_the_arm_predicted_and_leaves_stable_only_once(world, few, many, every):
    users, some = USERS[::every], USERS[::8]
    await world.plane.delivered(first := world.wish(*few))
    before = await world.users(some)
    assert before == predicted(first, some)
    await world.plane.delivered(grown := world.wish(*many, publication=2))
    now = await world.users(users)
    assert now == predicted(grown, users)
    assert all(was in {"v1", now[user]} for user, was in before.items())
    assert set(now.values()) == set(VERSIONS[: len(many) + 1])


async def test_a_cookie_names_the_user_from_the_first_answer_on(world):
    assigned = Assignment(cookie=Cookie(name="cf.id", ttl_s=3600.0))
    await world.plane.delivered(first := world.wish(1000, 2000, 500, assignment=assigned))
    answers = await world.ask([b""] * len(USERS))
    minted = [re.fullmatch(r"cf\.id=([0-9a-f-]{36}); Path=/; Max-Age=3600; HttpOnly; SameSite=Lax", answer.cookie) for answer in answers]
    users = {found[1]: answer.variant for found, answer in zip(minted, answers, strict=True)}
    assert len(users) == len(USERS)
    assert users == predicted(first, users), "the first request counts"
    await world.plane.delivered(grown := world.wish(3000, 2000, 2500, assignment=assigned, publication=2))
    some = list(users)[::4]
    again = await world.ask([f"cookie: theme=dark; cf.id={user}; cf.ident=7\r\n".encode() for user in some])
    assert {answer.cookie for answer in again} == {""}
    now = {user: answer.variant for user, answer in zip(some, again, strict=True)}
    assert now == predicted(grown, some)
    assert all(users[user] in {"v1", has} for user, has in now.items())


COOKIES = {
    b"cf.id=ann": "ann",
    b"cf.id=ann; cf.id=bob": "ann",
    b"a=1;cf.id=ann;b=2": "ann",
    b"a=\xff\xfe; cf.id=ann; b=\xc3\x28": "ann",
    b'cf.id="a=b c"': '"a=b c"',
    b"xcf.id=bob; cf.id=ann": "ann",
    b"cf.id=bob#chat": "bob#chat",
    b"x=cf.id=bob; cfxid=bob; CF.ID=bob": None,
    b"cf.id=": None,
    b"cf.id; cf.id=;x": None,
    b"": None,
}


async def test_whatever_cookies_a_client_sends_the_value_is_found_or_another_is_minted(world):
    wish = world.wish(3000, 3000, 3000, assignment=Assignment(cookie=Cookie(name="cf.id")))
    await world.plane.delivered(wish)
    answers = await world.ask([b"cookie: " + cookies + b"\r\n" for cookies in COOKIES])
    for (cookies, value), answer in zip(COOKIES.items(), answers, strict=True):
        minted = answer.cookie.removeprefix("cf.id=").partition(";")[0]
        assert bool(minted) is (value is None), cookies
        assert predicted(wish, [value or minted]) == {value or minted: answer.variant}, cookies
    lines = [b"cookie: a=1\r\ncookie: cf.id=ann\r\n", b"cookie: cf.id=ann\r\ncookie: a=1\r\n"]
    assert {answer.cookie for answer in await world.ask(lines)} == {""}


async def test_rollouts_of_one_layer_never_share_a_user(world):
    both = Assignment(sticky_header=HEADER, layer="models")
    chat = world.wish(2000, 1900, reserve_bp=2000, path="/chat", lane=Lane(start_bp=500, width_bp=4500), assignment=both)
    mail = world.wish(
        1000, 1600, 900, reserve_bp=1600, rollout="mail", path="/mail", lane=Lane(start_bp=5000, width_bp=5000), assignment=both
    )
    await world.plane.delivered(chat, mail)
    asked = {"/chat": chat, "/mail": mail}
    some = USERS[::4]
    got = {path: await world.users(some, path) for path in asked}
    assert got == {path: predicted(wish, some) for path, wish in asked.items()}
    drawn = [{user for user, variant in found.items() if variant != "v1"} for found in got.values()]
    assert all(drawn)
    assert drawn[0].isdisjoint(drawn[1])


async def test_segments_are_pinned_apart_from_the_drawn_and_only_while_we_say_so(tmp_path):
    staff = Segment(name="staff", when=(HeaderMatch(name="x-staff", value="1"),), variant="v2")
    never = Segment(name="robots", when=(HeaderMatch(name="x-robot", compare=Compare.PRESENT),), variant="stable")
    assigned = Assignment(sticky_header=HEADER, segments=(never, staff))
    async with pods(tmp_path) as variants, proxied(tmp_path, variants) as world:
        wish = world.wish(0, lease=Lease(ttl_s=1.0), assignment=assigned)
        everybody = replace(wish, arms=(replace(wish.arms[0], share_bp=3000, pinned=True, shadow_bp=10_000),))
        asks = [b"x-staff: 1\r\n"] * 50 + [b"x-staff: 2\r\n"] * 50 + [b"x-staff: 1\r\nx-robot: \r\n"] * 50

        async def got():
            return [answer.variant for answer in await world.ask(asks)]

        await world.plane.delivered(wish)
        assert await got() == ["v1"] * 150
        await world.plane.delivered(replace(wish, publication=2, arms=(replace(wish.arms[0], pinned=True),)))
        assert await got() == ["v2"] * 50 + ["v1"] * 100
        await until(lambda: len(world.plane.entries) >= 300, "the entries so far")
        world.plane.entries.clear()
        await world.plane.delivered(replace(everybody, publication=3))
        assert (await got())[:50] == ["v2"] * 50
        await until(lambda: len(world.plane.entries) >= 200, "150 requests and the copies of 50")
        assert seen(world, everybody) == {("v2", "pinned"): 50, ("v1", "pinned"): 50, ("v2", "shadow"): 50, "drawn": 50}
        await world.plane.stop()
        await until(lambda: _only_stable(world), "the lease to pass")


async def _only_stable(world):
    return {answer.variant for answer in await world.ask([b"x-staff: 1\r\n"] * 8)} == {"v1"}


def seen(world, wish):
    """What the access log says of whom; what is drawn is one number."""
    owners = names.owners([wish])
    found = [classify(entry, owners)[0] for entry in world.plane.entries]
    return dict(Counter("drawn" if each.audience == "users" else (each.identity.partition(".")[0], each.audience) for each in found))


CONDITIONS = {
    # word: (value, fits, does not)
    Compare.EXACT: ("beta", "beta", "Beta"),
    Compare.PREFIX: ("be", "beta", "abe"),
    Compare.SUFFIX: ("ta", "beta", "tab"),
    Compare.CONTAINS: ("et", "beta", "bta"),
    Compare.REGEX: ("b.t+a", "betta", "a-betta"),
    Compare.PRESENT: ("", "anything", None),
}


async def test_a_condition_is_what_its_word_says(world):
    segments = tuple(
        Segment(name=compare, when=(HeaderMatch(name=f"x-{compare}", compare=compare, value=value),), variant="v2")
        for compare, (value, _, _) in CONDITIONS.items()
    )
    wish = world.wish(0, assignment=Assignment(segments=segments))
    await world.plane.delivered(replace(wish, arms=(replace(wish.arms[0], pinned=True),)))
    good = [f"x-{compare}: {value}\r\n".encode() for compare, (_, value, _) in CONDITIONS.items()]
    bad = [f"x-{compare}: {value}\r\n".encode() if value else b"" for compare, (_, _, value) in CONDITIONS.items()]
    assert {answer.variant for answer in await world.ask(good)} == {"v2"}
    assert {answer.variant for answer in await world.ask(bad)} == {"v1"}


async def test_requests_with_a_rollouts_headers_are_its_own(world):
    tagged = TrafficSpec(proxies="edge", listener="public", match=(Match(headers=(HeaderMatch(name="x-beta", value="1"),)),))
    beta = replace(world.wish(), rollout="beta", where=tagged, stable=world.variants["v4"])
    await world.plane.delivered(world.wish(), beta)
    assert [answer.variant for answer in await world.ask([b"x-beta: 1\r\n", b"x-beta: 2\r\n", b""])] == ["v4", "v1", "v1"]
