"""The demo's users: a bounded, open-loop stream of short streaming chat completions, and what came of each.

Open loop: requests leave at the given rate whether or not earlier ones were answered, as users do. At most `in_flight_max` wait at
once; what does not fit is not sent and counted. The version that answered is read from the answer itself (`"model"` in the first event).
"""

import asyncio
import json
import random
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from xds_server.cli.demo.http1 import HEAD_MAX, Head, HttpError, chunks, message, read_head

PROMPTS = ("Say hello.", "Name a fruit.", "Name a colour.", "Count to three.", "What is rain?", "Name a river.")
MODEL = re.compile(rb'"model":"([^"]{1,100})"')
TIMES_MAX = 4096
"""Answers remembered for the quantiles; older ones are forgotten."""

IDLE_CONNECTIONS_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request came to.

    Attributes:
        outcome: "ok", "status 500", "broken" (the stream ended early), "refused", "timeout".
        model: The version that answered, as far as the answer says.
        first_ms: Time to the first body byte; None = none came [ms].
        total_ms: Time to the end [ms].
    """

    user: int
    outcome: str
    model: str = ""
    first_ms: float | None = None
    total_ms: float = 0.0


@dataclass(slots=True)
class Tally:
    """Sums over all answers so far. `sent` counts requests that left, `skipped` those that found no room."""

    sent: int = 0
    skipped: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    firsts_ms: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_MAX))
    totals_ms: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_MAX))

    def add(self, answer: Answer) -> None:
        self.outcomes[answer.outcome] += 1
        if answer.outcome == "ok":
            self.models[answer.model] += 1
            self.totals_ms.append(answer.total_ms)
            if answer.first_ms is not None:
                self.firsts_ms.append(answer.first_ms)

    @property
    def answered(self) -> int:
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        return self.answered - self.outcomes["ok"]


def quantile(values: "deque[float] | list[float]", level: float) -> float:
    """The value below which `level` of the values lie; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(level * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send where.

    Attributes:
        in_flight_max: Few, so that on a busy machine the models' queues stay short: a version that waits in a queue looks slow.
        jitter: Spreads departures by that fraction of the gap between them.
    """

    host: str
    port: int
    authority: str
    rate_per_s: float
    users: int = 200
    max_tokens: int = 4
    in_flight_max: int = 4
    timeout_s: float = 30.0
    jitter: float = 0.3
    seed: int = 1


class Load:
    """Sends until cancelled; `tally` may be read at any time."""

    def __init__(self, plan: Plan, *, seen: Callable[[Answer], None] | None = None) -> None:
        self.plan = plan
        self.tally = Tally()
        self._seen = seen
        self._random = random.Random(plan.seed)  # noqa: S311  a load, not a secret
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Sends nothing more; `run` ends when what is under way has been answered."""
        self._stop.set()

    async def run(self, requests: int | None = None) -> None:
        """Sends until `stop` or, if given, so many requests."""
        gap_s = 1.0 / self.plan.rate_per_s
        start, number = time.monotonic(), 0
        running: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.TaskGroup() as tasks:
                while not self._stop.is_set() and (requests is None or number < requests):
                    due = start + gap_s * (number + self.plan.jitter * (self._random.random() - 0.5))
                    if not await self._until(due):
                        break
                    number += 1
                    if len(running) >= self.plan.in_flight_max:
                        self.tally.skipped += 1
                        continue
                    task = tasks.create_task(self._user(self._random.randrange(self.plan.users), self._random.choice(PROMPTS)))
                    running.add(task)
                    task.add_done_callback(running.discard)
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of the connections kept for the next requests."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _until(self, due: float) -> bool:
        """Waits; False = stopped meanwhile."""
        try:
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await self._stop.wait()
        except TimeoutError:
            return True
        return False

    async def _user(self, user: int, prompt: str) -> None:
        self.tally.sent += 1
        answer = await self.ask(user, prompt)
        self.tally.add(answer)
        if self._seen is not None:
            self._seen(answer)

    async def ask(self, user: int, prompt: str) -> Answer:
        """One request of one user."""
        start = time.monotonic()
        first_ms: float | None = None
        text = bytearray()
        reader: asyncio.StreamReader | None = None
        outcome, keep = "refused", False
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self.plan.timeout_s):
                reader, writer = await self._connect()
                outcome = "broken"
                writer.write(self._request(user, prompt))
                await writer.drain()
                head = await read_head(reader)
                if head is not None:
                    async for piece in _body(reader, head):
                        first_ms = (time.monotonic() - start) * 1000 if first_ms is None else first_ms
                        text += piece[: 64 * 1024 - len(text)]
                    outcome, keep = ("ok" if head.status == 200 else f"status {head.status}"), head.keeps
        except TimeoutError:
            outcome = "timeout"
        except (HttpError, ConnectionError, OSError):
            pass
        finally:
            self._give_back(reader, writer, keep=keep)
        named = MODEL.search(text)
        return Answer(
            user=user,
            outcome=outcome,
            model=named[1].decode("utf-8", "replace") if named else "",
            first_ms=first_ms,
            total_ms=(time.monotonic() - start) * 1000,
        )

    def _request(self, user: int, prompt: str) -> bytes:
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.plan.max_tokens,
            "temperature": 0,
            "stream": True,
        }
        headers = (("host", self.plan.authority), ("content-type", "application/json"), ("x-user-id", f"user-{user:03}"))
        return message("POST /v1/chat/completions HTTP/1.1", headers, json.dumps(body).encode())

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.plan.host, self.plan.port, limit=HEAD_MAX)

    def _give_back(self, reader: asyncio.StreamReader | None, writer: asyncio.StreamWriter | None, *, keep: bool) -> None:
        if reader is None or writer is None:
            return
        if keep and len(self._idle) < IDLE_CONNECTIONS_MAX:
            self._idle.append((reader, writer))
        else:
            writer.close()


async def _body(reader: asyncio.StreamReader, head: Head) -> AsyncIterator[bytes]:
    if head.chunked:
        async for piece in chunks(reader):
            yield piece
        return
    left = head.length
    if left is None:
        raise HttpError(502, "an answer without an end")
    while left:
        piece = await reader.read(min(left, 16 * 1024))
        if not piece:
            raise HttpError(502, "the answer ended early")
        left -= len(piece)
        yield piece
