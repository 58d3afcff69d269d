"""The front of the demo's model servers and the load that asks through it, against a small made-up model on loopback."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from contextlib import asynccontextmanager

import pytest

from xds_server.cli.demo import front as front_module
from xds_server.cli.demo.children import Child, DemoError, free_ports, port_is_free, until
from xds_server.cli.demo.front import Front, Mode, is_shadow, listen, port_of
from xds_server.cli.demo.http1 import BODY_MAX, HEAD_MAX, HttpError, message, read_body, read_head
from xds_server.cli.demo.load import Load, Plan, quantile

EVENTS = [b'data: {"model":"v1","n":%d}\n\n' % number for number in range(3)]


class FakeModel:
    """Streams three chunks; `gap_s` before each; `cut_after` = close after so many."""

    def __init__(self) -> None:
        self.gap_s = 0.0
        self.cut_after: int | None = None
        self.bodies: list[bytes] = []
        self.over = asyncio.Event()
        self.active = 0

    async def serve(self, reader, writer) -> None:
        self.active += 1
        try:
            await self._stream(reader, writer)
        finally:
            self.active -= 1
            writer.close()

    async def _stream(self, reader, writer) -> None:
        head = await read_head(reader)
        assert head is not None
        self.bodies.append(await read_body(reader, head))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for number, event in enumerate(EVENTS):
                if number == self.cut_after:
                    writer.transport.abort()
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.gap_s):
                        await self.over.wait()
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()


@asynccontextmanager
async def served():
    model = FakeModel()
    async with await listen(model.serve, 0) as behind:
        front = Front("v1", upstream=("127.0.0.1", port_of(behind)))
        async with await listen(front.public, 0) as public, await listen(front.control, 0) as control:
            yield front, model, port_of(public), port_of(control)
            model.over.set()

            async def ended() -> bool:
                return model.active == front.stats.users.active == front.stats.shadows.active == 0

            await until(ended, timeout_s=20, what="all answers ended")


async def exchange(port: int, raw: bytes) -> bytes:
    """What comes back until the end of the connection, or the first answer when it is kept."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=HEAD_MAX)
    try:
        writer.write(raw)
        writer.write_eof()
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


LOADS: list[Load] = []


@pytest.fixture(autouse=True)
async def _close_loads():
    yield
    while LOADS:
        LOADS.pop().close()
    for _ in range(3):  # transports close in the loop's next turns
        await asyncio.sleep(0)


def asking(port: int, **more) -> Load:
    load = Load(
        Plan(host="127.0.0.1", port=port, authority=more.pop("authority", "chat.demo"), rate_per_s=200, **{"in_flight_max": 64, **more})
    )
    LOADS.append(load)
    return load


async def test_a_good_answer_passes_whole_and_is_counted_once():
    async with served() as (front, model, port, _):
        answer = await asking(port).ask(7, "Say hello.")
        assert (answer.outcome, answer.model) == ("ok", "v1")
        assert json.loads(model.bodies[0])["messages"][0]["content"] == "Say hello."
        await until_idle(front)
        users = front.stats.users
        assert (users.requests, users.good, users.failed, users.broken, users.since_fault) == (1, 1, 0, 0, 0)
        assert front.stats.shadows.requests == 0


async def test_copies_are_counted_apart():
    async with served() as (front, _, port, _):
        await asking(port, authority="chat.demo-shadow").ask(1, "x")
        await asking(port, authority=f"chat.demo-shadow:{port}").ask(1, "x")
        await asking(port).ask(1, "x")
        assert (front.stats.shadows.requests, front.stats.users.requests) == (2, 1)


@pytest.mark.parametrize(
    ("host", "copy"), [("a-shadow", True), ("a.b-shadow:80", True), ("a", False), ("shadow", False), ("a-shadow.b", False), ("", False)]
)
def test_the_host_says_what_is_a_copy(host, copy):
    assert is_shadow(host) is copy


async def test_errors_mode_answers_500_keeps_the_connection_and_the_health_check_green():
    async with served() as (front, model, port, _):
        front.stats.ready = True
        front.set_mode(Mode.ERRORS)
        load = asking(port)
        outcomes = [(await load.ask(1, "x")).outcome for _ in range(3)]
        assert outcomes == ["status 500"] * 3
        assert model.bodies == []
        assert (front.stats.users.failed, front.stats.users.since_fault) == (3, 3)
        assert (await exchange(port, message("GET /health HTTP/1.1", (("host", "x"),)))).startswith(b"HTTP/1.1 200")
        assert front.stats.users.requests == 3


async def test_health_is_red_until_the_model_is_ready():
    async with served() as (_, _, port, _):
        assert (await exchange(port, message("GET /health HTTP/1.1", (("host", "x"),)))).startswith(b"HTTP/1.1 503")


async def test_slow_mode_takes_at_least_three_times_as_long_and_loses_nothing():
    async with served() as (front, model, port, _):
        model.gap_s = 0.02
        front.set_mode(Mode.SLOW)
        start = time.monotonic()
        answer = await asking(port).ask(1, "x")
        assert answer.outcome == "ok"
        assert time.monotonic() - start >= 3 * len(EVENTS) * model.gap_s * 0.95


async def test_a_stream_that_ends_early_is_broken_for_the_user_too():
    async with served() as (front, model, port, _):
        model.cut_after = 2
        answer = await asking(port).ask(1, "x")
        assert answer.outcome == "broken"
        await until_idle(front)
        assert (front.stats.users.good, front.stats.users.broken) == (0, 1)


async def test_a_dead_model_is_a_503():
    async with served() as (front, _, port, _):
        front.upstream = ("127.0.0.1", free_ports(1)[0])
        assert (await asking(port).ask(1, "x")).outcome == "status 503"
        assert front.stats.users.failed == 1


async def test_a_user_who_leaves_does_not_stop_the_server():
    async with served() as (front, model, port, _):
        model.gap_s = 0.05
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(message("POST /v1/x HTTP/1.1", (("host", "chat.demo"),), b"{}"))
        await writer.drain()
        writer.transport.abort()
        model.gap_s = 0.0
        assert (await asking(port).ask(1, "x")).outcome == "ok"
        await until_idle(front)


async def test_control_port_shows_and_sets_and_explains():
    async with served() as (front, _, _, control):
        shown = await exchange(control, message("GET /stats HTTP/1.1", (("connection", "close"),)))
        assert json.loads(shown.partition(b"\r\n\r\n")[2])["name"] == "v1"
        await exchange(control, message("POST /mode HTTP/1.1", (("connection", "close"),), b"slow\n"))
        assert front.stats.mode is Mode.SLOW
        refused = await exchange(control, message("POST /mode HTTP/1.1", (("connection", "close"),), b"happy"))
        assert refused.startswith(b"HTTP/1.1 400")
        assert b"good, errors, slow" in refused
        assert front.stats.mode is Mode.SLOW
        assert (await exchange(control, message("GET / HTTP/1.1", (("connection", "close"),)))).startswith(b"HTTP/1.1 404")


async def test_since_fault_counts_from_the_fault():
    async with served() as (front, _, port, _):
        load = asking(port)
        await load.ask(1, "x")
        front.set_mode(Mode.ERRORS)
        struck = front.stats.fault_at
        front.set_mode(Mode.ERRORS)
        assert front.stats.fault_at == struck
        await load.ask(1, "x")
        assert (front.stats.users.requests, front.stats.users.since_fault) == (2, 1)
        front.set_mode(Mode.GOOD)
        assert front.stats.fault_at is None


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n bad : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: 99\r\n\r\nshort", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (BODY_MAX + 1), 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffff\r\n", 413),
        (b"GET / HTTP", 400),
    ],
)
async def test_garbage_gets_an_answer_and_the_next_connection_is_served(raw, status):
    async with served() as (_, _, port, _):
        got = await exchange(port, raw)
        assert got.startswith(b"HTTP/1.1 %d" % status), got[:80]
        assert (await asking(port).ask(1, "x")).outcome == "ok"


async def test_an_endless_head_is_cut_off():
    """The answer may be lost: the kernel resets a connection that is closed while bytes wait."""
    async with served() as (_, _, port, _):
        got = b""
        with contextlib.suppress(ConnectionError):
            got = await exchange(port, b"GET / HTTP/1.1\r\nx: " + b"a" * (4 * HEAD_MAX))
        assert not got or got.startswith(b"HTTP/1.1 431")
        assert (await asking(port).ask(1, "x")).outcome == "ok"


async def test_random_bytes_never_stop_the_server():
    dice = random.Random(5)
    async with served() as (front, _, port, control):
        for number in range(60):
            await exchange((port, control)[number % 2], dice.randbytes(dice.randrange(1, 400)) + b"\r\n\r\n")
        assert (await asking(port).ask(1, "x")).outcome == "ok"
        await until_idle(front)


async def test_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(front_module, "CONNECTIONS_MAX", 2)
    async with served() as (_, _, port, _):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
        for reader, _ in held:
            assert await reader.readline()
        assert await exchange(port, b"") == b""
        for _, writer in held:
            writer.close()


async def test_chunked_requests_arrive_whole():
    async with served() as (_, model, port, _):
        raw = (
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
        )
        assert (await exchange(port, raw)).startswith(b"HTTP/1.1 200")
        assert model.bodies == [b"abcde"]


async def test_an_answer_with_neither_length_nor_chunks_is_no_whole_answer():
    reader = asyncio.StreamReader()
    reader.feed_data(b"HTTP/1.1 nope OK\r\n\r\n")
    head = await read_head(reader)
    assert head is not None
    with pytest.raises(HttpError):
        _ = head.status


# The load.


async def test_the_load_sends_what_it_was_asked_and_counts_every_outcome():
    async with served() as (front, _, port, _):
        load = asking(port)
        await load.run(20)
        assert (load.tally.sent, load.tally.skipped, dict(load.tally.outcomes), dict(load.tally.models)) == (20, 0, {"ok": 20}, {"v1": 20})
        front.set_mode(Mode.ERRORS)
        await load.run(5)
        assert load.tally.outcomes["status 500"] == 5
        assert load.tally.failed == 5


async def test_the_load_never_has_more_under_way_than_it_may():
    async with served() as (_, model, port, _):
        model.gap_s = 0.2
        load = asking(port, in_flight_max=3)
        await load.run(12)
        assert load.tally.sent == 3
        assert load.tally.skipped == 9


async def test_nobody_there_is_refused_and_a_hang_is_a_timeout():
    assert (await asking(free_ports(1)[0]).ask(1, "x")).outcome == "refused"
    async with served() as (_, model, port, _):
        model.gap_s = 30.0
        assert (await asking(port, timeout_s=0.1).ask(1, "x")).outcome == "timeout"


async def test_stop_ends_the_load_after_the_last_answer():
    async with served() as (_, _, port, _):
        load = asking(port)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(load.run())

            async def some() -> bool:
                return load.tally.answered >= 3

            await until(some, timeout_s=20, what="answers")
            load.stop()
            async with asyncio.timeout(20):
                await running
        assert load.tally.answered == load.tally.sent


def test_quantiles_of_nothing_are_nothing():
    assert quantile([], 0.5) == 0.0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0], 0.99) == 1.0


# Children.


async def test_a_child_that_ends_by_itself_is_told_with_its_last_words(tmp_path):
    child = await Child.start("one", [sys.executable, "-c", "print('last words'); raise SystemExit(3)"], folder=tmp_path)
    assert await child.end(20) == 3
    with pytest.raises(DemoError, match="one ended by itself") as caught:
        child.check()
    assert "last words" in caught.value.log


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path):
    code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = await Child.start("two", [sys.executable, "-c", code], folder=tmp_path)

    async def up() -> bool:
        return "up" in child.tail()

    await until(up, timeout_s=20, what="up", children=[child])
    await child.stop(grace_s=0.1)
    assert child.code == -signal.SIGKILL
    child.check()


async def test_children_die_with_a_killed_parent(tmp_path):
    code = (
        "import asyncio,pathlib,sys\n"
        "from xds_server.cli.demo.children import Child\n"
        "async def main():\n"
        "    child = await Child.start('inner', [sys.executable, '-c', \"import time; print('up', flush=True); time.sleep(60)\"],"
        " folder=pathlib.Path(sys.argv[1]))\n"
        "    print('pid', child.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await Child.start("outer", [sys.executable, "-c", code, tmp_path], folder=tmp_path)

    async def up() -> bool:
        return "pid" in parent.tail() and (tmp_path / "inner.log").exists() and "up" in (tmp_path / "inner.log").read_text()

    await until(up, timeout_s=20, what="inner", children=[parent])
    inner = int(parent.tail().split()[-1])
    parent.kill()

    async def gone() -> bool:
        try:
            os.kill(inner, 0)
            with open(f"/proc/{inner}/stat") as file:  # noqa: ASYNC230, PTH123  a line of /proc
                return file.read().rpartition(") ")[2].startswith("Z")
        except (ProcessLookupError, FileNotFoundError):
            return True

    await until(gone, timeout_s=20, what="inner gone")
    await parent.end(20)


async def test_waiting_has_an_end_and_says_for_what():
    async def never() -> bool:
        return False

    with pytest.raises(DemoError, match="the moon"):
        await until(never, timeout_s=0.05, what="the moon")


def test_free_ports_differ_and_a_taken_one_is_seen():
    import socket

    assert len(set(free_ports(5))) == 5
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        assert not port_is_free(sock.getsockname()[1])
    assert port_is_free(free_ports(1)[0])


async def until_idle(front: Front) -> None:
    async def idle() -> bool:
        return front.stats.users.active == front.stats.shadows.active == 0

    await until(idle, timeout_s=20, what="front idle")
