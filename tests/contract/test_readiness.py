"""The prober against real sockets: only a pod that answers 200 (or, without a health path, accepts) is ready; nothing raises."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from policies.spec.policy import DnsEndpoints, HealthCheck, StaticEndpoints, Variant
from tests.rig import Backend, free_port
from xds_server.adapters.readiness import AT_ONCE, Prober

HEALTH = HealthCheck(path="/health", timeout_s=1.0)


def variant(*addresses, health=HEALTH):
    return Variant(name="candidate", version="v2", endpoints=StaticEndpoints(addresses=addresses), health=health)


@asynccontextmanager
async def saying(answer: bytes | None, *, hold=False):
    """A server that says these bytes to whoever connects, whatever was asked; None = closes at once."""
    done = asyncio.Event()

    async def serve(reader, writer):
        if answer is not None:
            await reader.readline()
            writer.write(answer)
        if hold:
            await done.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        done.set()
        server.close()
        await server.wait_closed()


async def test_pods_that_answer_200_are_ready_and_the_rest_say_why_not():
    async with Backend() as good, Backend(health_status=503) as loading:
        dead = f"127.0.0.1:{free_port()}"
        pods = await Prober().probe(variant(good.address, loading.address, dead))
        assert (pods.ready, pods.total) == (1, 3)
        assert pods.words == f"{loading.address}/health answered 503"
        loading.health_status = 200
        pods = await Prober().probe(variant(good.address, loading.address))
        assert (pods.ready, pods.total, pods.words) == (2, 2, "")
        assert good.health_checks == 2
        assert good.requests == 0


async def test_a_refused_connection_is_named():
    where = f"127.0.0.1:{free_port()}"
    pods = await Prober().probe(variant(where))
    assert (pods.ready, pods.total) == (0, 1)
    assert where in pods.words


async def test_without_a_health_path_an_open_port_is_ready():
    async with saying(None) as where:
        dead = f"127.0.0.1:{free_port()}"
        pods = await Prober().probe(variant(where, dead, health=None))
        assert (pods.ready, pods.total) == (1, 2)


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
        pods = await Prober().probe(variant(where))
        assert (pods.ready, pods.total) == (0, 1)
        assert where in pods.words
        assert len(pods.words) < 200


async def test_a_pod_that_accepts_and_says_nothing_is_not_ready_after_its_timeout():
    async with saying(b"", hold=True) as where:
        pods = await Prober().probe(variant(where, health=HealthCheck(path="/health", timeout_s=0.05)))
        assert pods.ready == 0
        assert "in time" in pods.words


async def test_one_pod_that_hangs_does_not_make_another_unready():
    async with saying(b"", hold=True) as slow, Backend() as good:
        pods = await Prober().probe(variant(slow, good.address, health=HealthCheck(path="/health", timeout_s=0.3)))
        assert (pods.ready, pods.total) == (1, 2)


async def test_a_dns_name_stands_for_all_its_addresses():
    async with Backend() as pod:
        dns = Variant(name="candidate", version="v2", endpoints=DnsEndpoints(host="localhost", port=pod.port), health=HEALTH)
        pods = await Prober().probe(dns)
        assert pods.ready >= 1
        assert pods.total >= pods.ready


async def test_a_name_that_does_not_resolve_has_no_pods_and_says_so():
    dns = Variant(name="candidate", version="v2", endpoints=DnsEndpoints(host="no-such-host.invalid", port=80), health=HEALTH)
    pods = await Prober().probe(dns)
    assert (pods.ready, pods.total) == (0, 0)
    assert "no-such-host.invalid" in pods.words


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

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pods = await Prober().probe(variant(*[where] * (AT_ONCE * 2), health=HealthCheck(path="/health", timeout_s=10.0)))
    assert pods.ready == AT_ONCE * 2
    assert most == AT_ONCE
    server.close()
    await server.wait_closed()
