"""The prober against real sockets: only a pod that answers 200 (or, without a health path, accepts) is ready; nothing raises."""

import asyncio
import threading
from contextlib import asynccontextmanager

import httpx
import pytest

from policies.spec.policy import DnsEndpoints, HealthCheck, StaticEndpoints, Variant
from tests import pods
from tests.rig import Backend, free_port
from xds_server.adapters import resolving
from xds_server.adapters.readiness import AT_ONCE, NOTHING, Prober, judge
from xds_server.adapters.resolving import Resolver

HEALTH = HealthCheck(path="/health", timeout_s=1.0)


def variant(*addresses, health=HEALTH, **more):
    return Variant(name="candidate", version="v2", endpoints=StaticEndpoints(addresses=addresses), health=health, **more)


async def probe(variant):
    return (await Prober().probe(variant)).pods


@asynccontextmanager
async def saying(answer, **more):
    async with pods.saying(answer, **more) as (host, port):
        yield f"{host}:{port}"


async def test_pods_that_answer_200_are_ready_and_the_rest_say_why_not():
    async with Backend() as good, Backend(health_status=503) as loading:
        dead = f"127.0.0.1:{free_port()}"
        found = await probe(variant(good.address, loading.address, dead))
        assert (found.ready, found.total) == (1, 3)
        assert found.words == f"{loading.address}/health answered 503"
        loading.health_status = 200
        found = await probe(variant(good.address, loading.address))
        assert (found.ready, found.total, found.words) == (2, 2, "")
        assert good.health_checks == 2
        assert good.requests == 0


async def test_a_refused_connection_is_named():
    where = f"127.0.0.1:{free_port()}"
    found = await probe(variant(where))
    assert (found.ready, found.total) == (0, 1)
    assert where in found.words


async def test_without_a_health_path_an_open_port_is_ready():
    async with saying(None) as where:
        dead = f"127.0.0.1:{free_port()}"
        found = await probe(variant(where, dead, health=None))
        assert (found.ready, found.total) == (1, 2)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"\r\n",
        b"HTTP/1.1\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: /ok\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"\xff\xfe\xfd \x80\x81\r\n",
        b"x" * 100_000,
        b"HTTP/1.1 200" + b"0" * 50 + b"\r\n",
    ],
    ids=["closed", "nothing", "empty line", "no status", "204", "redirect", "other protocol", "binary", "endless line", "long status"],
)
async def test_any_other_answer_is_not_ready_and_does_not_raise(answer):
    async with saying(answer) as where:
        found = await probe(variant(where))
        assert (found.ready, found.total) == (0, 1)
        assert where in found.words
        assert len(found.words) < 200


async def test_what_a_pod_says_is_told_without_escapes_of_a_terminal():
    async with saying(b"HTTP/1.1 \x1b[2J\x07 OK\r\n") as where:
        assert (await probe(variant(where))).words.isprintable()


async def test_whatever_the_http_library_raises_is_that_pods_fault(monkeypatch):
    """An error that nobody expected would end the process, and all its leases."""

    async def odd(*_):
        raise KeyError(3)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", odd)
    found = await probe(variant("127.0.0.1:9", http2=True))
    assert (found.ready, found.words) == (0, "127.0.0.1:9: 3")


async def test_a_pod_that_accepts_and_says_nothing_is_not_ready_after_its_timeout():
    async with saying(b"", hold=True) as where:
        found = await probe(variant(where, health=HealthCheck(path="/health", timeout_s=0.05)))
        assert found.ready == 0
        assert "in time" in found.words


async def test_one_pod_that_hangs_does_not_make_another_unready():
    async with saying(b"", hold=True) as slow, Backend() as good:
        found = await probe(variant(slow, good.address, health=HealthCheck(path="/health", timeout_s=0.3)))
        assert (found.ready, found.total) == (1, 2)


async def test_a_dns_name_stands_for_all_its_addresses():
    async with Backend() as pod:
        dns = Variant(name="candidate", version="v2", endpoints=DnsEndpoints(host="localhost", port=pod.port), health=HEALTH)
        found = await probe(dns)
        assert found.ready >= 1
        assert found.total >= found.ready


async def test_a_name_that_does_not_resolve_has_no_pods_and_says_so():
    dns = Variant(name="candidate", version="v2", endpoints=DnsEndpoints(host="no-such-host.invalid", port=80), health=HEALTH)
    found = await probe(dns)
    assert (found.ready, found.total) == (0, 0)
    assert "no-such-host.invalid" in found.words


async def test_so_many_pods_are_asked_at_once_and_no_more():
    now, most = 0, 0
    gate = asyncio.Event()

    async def serve(reader, writer):
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await reader.readline()
        if now >= AT_ONCE:
            gate.set()
        await gate.wait()
        now -= 1
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    hosts = [f"127.0.0.{number}" for number in range(1, AT_ONCE * 2 + 1)]
    server = await asyncio.start_server(serve, hosts, port := free_port())
    found = await probe(variant(*(f"{host}:{port}" for host in hosts), health=HealthCheck(path="/health", timeout_s=10.0)))
    assert found.ready == AT_ONCE * 2
    assert most == AT_ONCE
    server.close()
    await server.wait_closed()


async def test_the_addresses_of_ready_pods_are_known():
    async with Backend() as good, Backend(health_status=503) as loading:
        found = await Prober().probe(variant(good.address, loading.address))
        assert found.ready == (("127.0.0.1", good.port),)


# Pods that speak HTTP/2.


@pytest.mark.parametrize(("status", "ready"), [(200, 1), (503, 0)])
async def test_a_pod_of_http2_is_asked_in_http2(status, ready):
    async with pods.http2(status=status) as ((_, port), seen):
        found = await probe(variant(f"127.0.0.1:{port}", http2=True))
    assert (found.ready, found.total) == (ready, 1)
    assert found.words == ("" if ready else f"127.0.0.1:{port}/health answered 503")
    assert [each[":path"] for each in seen] == ["/health"]


async def test_a_pod_that_does_not_speak_http2_is_not_ready_where_it_should():
    async with Backend() as old, saying(b"\xff" * 1000) as odd:
        found = await probe(variant(old.address, odd, http2=True))
        assert (found.ready, found.total) == (0, 2)
        assert found.words.startswith(old.address)


# Thresholds.

PLACE = ("127.0.0.1", 80)


def course(answers, **thresholds):
    """Whether the pod counts as ready after each answer: "+" or "-"."""
    found, seen = NOTHING, ""
    for answer in answers:
        found = judge({PLACE: "" if answer == "+" else "bad"}, HealthCheck(path="/", **thresholds), found)
        seen += "+" if found.ready else "-"
    return seen


def test_one_bad_answer_in_a_row_of_good_ones_does_not_make_a_pod_unready():
    assert course("+-+-+--+", unhealthy_after=2) == "++++++-+"


def test_a_pod_becomes_ready_after_so_many_good_answers():
    assert course("-++-+++", unhealthy_after=1, healthy_after=3) == "------+"


def test_a_new_pod_is_what_it_says_at_once():
    assert course("+", healthy_after=3) == "+"
    assert course("-", unhealthy_after=3) == "-"


def test_a_pod_that_is_gone_is_forgotten():
    before = judge({PLACE: ""}, HEALTH, NOTHING)
    assert judge({}, HEALTH, before) == NOTHING


# Names.


async def test_a_name_that_hangs_is_asked_for_once_and_holds_up_no_other(monkeypatch):
    monkeypatch.setattr(resolving, "PATIENCE_S", 0.05)
    asked, free = [], threading.Event()

    def look_up(host, port):
        asked.append(host)
        if host.startswith("slow"):
            free.wait(20.0)
        return (("127.0.0.1", port),)

    resolver = Resolver(look_up)
    for _ in range(3):
        slow, fast = await asyncio.gather(*(resolver.places(DnsEndpoints(host=host, port=80)) for host in ("slow.test", "fast.test")))
        assert slow == ((), "cannot resolve slow.test: no answer within 0.05 s")
        assert fast == ((PLACE,), "")
    assert asked.count("slow.test") == 1
    assert asked.count("fast.test") == 3
    free.set()


async def test_a_known_name_that_cannot_be_looked_up_stands_for_what_it_stood_for_last():
    broken = False

    def look_up(host, port):
        if broken:
            raise OSError("no name server")
        return (("127.0.0.1", port),)

    resolver = Resolver(look_up)
    name = DnsEndpoints(host="pods.test", port=80)
    assert await resolver.places(name) == ((PLACE,), "")
    broken = True
    assert await resolver.places(name) == ((PLACE,), "cannot resolve pods.test: no name server")


async def test_a_name_no_name_server_takes_is_told():
    found = await probe(Variant(name="candidate", version="v2", endpoints=DnsEndpoints(host="x" * 70 + ".test", port=80)))
    assert found.total == 0
    assert "cannot resolve" in found.words
