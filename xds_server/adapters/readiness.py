"""Asks a variant's pods whether they are ready: HTTP GET of its health path answers 200, or (no path) its port accepts a connection.

Pods that speak HTTP/2 (`Variant.http2`) are asked their health path in HTTP/2 without TLS, as Envoy does. Envoy checks the same for its own picks,
but does not tell a control plane; and a model that is still loading must not get a share.
Neighbours: `resolving` says where the pods are; `runtime.watch` asks once a second and tells the engine.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from policies.rollout import Pods
from policies.spec.policy import HealthCheck, Variant
from xds_server.adapters.resolving import Place, Resolver

AT_ONCE = 32
"""Pods of one variant asked at the same time."""

IN_ALL = 256
"""Pods asked at the same time: file descriptors are finite."""

CONNECT_TIMEOUT_S = 1.0

MAX_WORDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is known of a variant's pods.

    Attributes:
        ready: The pods that are ready.
        streaks: By pod: answers in a row that spoke against what it is taken for.
    """

    pods: Pods = Pods()
    ready: tuple[Place, ...] = ()
    streaks: Mapping[Place, int] = field(default_factory=dict)


NOTHING = Found()


class Prober:
    def __init__(self, resolver: Resolver | None = None) -> None:
        self._resolver = resolver or Resolver()
        self._slots = asyncio.Semaphore(IN_ALL)
        self._no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # made once: the library makes a slow one even for plain HTTP

    async def probe(self, variant: Variant, before: Found = NOTHING) -> Found:
        """Asks every pod once. Never raises: what is wrong is said in `Pods.words`.

        Args:
            before: What was found the last time: a pod that was ready counts as ready until `unhealthy_after` answers in a row
                say otherwise, and one that was not as not ready until `healthy_after`; a new one is what it says it is.
        """
        places, trouble = await self._resolver.places(variant.endpoints)
        slots = asyncio.Semaphore(AT_ONCE)

        async def ask(place: Place) -> str:
            async with slots, self._slots:
                return await self._ask(place, variant)

        answers = dict(zip(places, await asyncio.gather(*map(ask, places)), strict=True))
        return judge(answers, variant.health, before, trouble)

    async def _ask(self, place: Place, variant: Variant) -> str:
        """What is wrong with one pod, "" for nothing."""
        health = variant.health
        where = named(place)
        try:
            async with asyncio.timeout(health.timeout_s if health else CONNECT_TIMEOUT_S):
                if health is None:
                    _, writer = await asyncio.open_connection(*place)
                    writer.close()
                    return ""
                status = await (self._http2(place, health.path) if variant.http2 else _http1(place, health.path))
        except TimeoutError:
            return f"{where} did not answer in time"
        except Exception as error:  # noqa: BLE001 - what a pod makes the HTTP library raise is an answer of that pod
            return printable(f"{where}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}")[:MAX_WORDS]
        return "" if status == "200" else printable(f"{where}{health.path} answered {status or 'nothing'}")[:MAX_WORDS]

    async def _http2(self, place: Place, path: str) -> str:
        async with httpx.AsyncHTTPTransport(verify=self._no_tls, http1=False, http2=True) as connection:
            url = httpx.URL(scheme="http", host=place[0], port=place[1], raw_path=path.encode())
            answer = await connection.handle_async_request(httpx.Request("GET", url, headers={"user-agent": "crossfade"}))
            await answer.aclose()
            return str(answer.status_code)


async def _http1(place: Place, path: str) -> str:
    """By hand: one connection and one line of the answer, a thousand times a second."""
    reader, writer = await asyncio.open_connection(*place, limit=4096)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {named(place)}\r\nUser-Agent: crossfade\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
    finally:
        writer.close()
    return b"".join(line.split(b" ")[1:2]).decode("ascii", "replace").strip()


def printable(words: str) -> str:
    """What a pod said as it may be kept and shown: half of a surrogate pair can be neither, and who reads a terminal wants no escapes."""
    return "".join(sign if sign.isprintable() else " " for sign in words)


def named(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def judge(answers: Mapping[Place, str], health: HealthCheck | None, before: Found, trouble: str = "") -> Found:
    """Which pods are ready, by what they said now (what is wrong with each, "" for nothing) and before.

    Args:
        trouble: What is wrong with their name.
    """
    ready: list[Place] = []
    streaks: dict[Place, int] = {}
    for place, wrong in answers.items():
        was = place in before.ready
        streak = before.streaks.get(place, 0) + 1 if bool(wrong) == was else 0
        enough = (health.unhealthy_after if was else health.healthy_after) if health and place in before.streaks else 1
        if (not was) if streak >= enough else was:
            ready.append(place)
        streaks[place] = 0 if streak >= enough else streak
    words = next((wrong for place, wrong in answers.items() if wrong and place not in ready), "") or trouble
    return Found(pods=Pods(ready=len(ready), total=len(answers), words=words), ready=tuple(ready), streaks=streaks)
