"""Where a variant's pods are: addresses as written, or what a DNS name stands for now.

A name server that hangs must hold up nobody else, and not the process's end either: each look-up has a thread of its own that nothing waits for
at the end (the shared pool of asyncio has neither), and while one hangs there is no second for the same name. A name that was known and cannot be
looked up now stands for what it stood for last, as it does in Envoy.
Neighbours: `readiness` and, through it, `probing` ask.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

from policies.spec.policy import DnsEndpoints, Endpoints, StaticEndpoints

Place = tuple[str, int]
"""(address, port) of one pod."""

PATIENCE_S = 5.0

KNOWN_MAX = 4096


def look_up(host: str, port: int) -> tuple[Place, ...]:
    """Blocks. Raises: OSError, UnicodeError: There is no such name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(sorted({(str(address[4][0]), port) for address in found}))


class Resolver:
    def __init__(self, look_up: Callable[[str, int], tuple[Place, ...]] = look_up) -> None:
        self._look_up = look_up
        self._asked: dict[Place, asyncio.Future[tuple[Place, ...] | str]] = {}
        """What is being looked up now."""
        self._last: dict[Place, tuple[Place, ...]] = {}

    async def places(self, endpoints: Endpoints) -> tuple[tuple[Place, ...], str]:
        """(the pods, what is wrong with the name); never raises."""
        match endpoints:
            case StaticEndpoints(addresses=addresses):
                split = (address.rpartition(":") for address in addresses)
                return tuple((host.strip("[]"), int(port)) for host, _, port in split), ""
            case DnsEndpoints(host=host, port=port):
                return await self._places(host, port)

    async def _places(self, host: str, port: int) -> tuple[tuple[Place, ...], str]:
        name = host, port
        if name not in self._asked:
            self._ask(name)
        answer: tuple[Place, ...] | str = f"no answer within {PATIENCE_S:g} s"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                answer = await asyncio.shield(self._asked[name])
        if isinstance(answer, str):
            return self._last.get(name, ()), f"cannot resolve {host}: {answer}"
        if len(self._last) >= KNOWN_MAX:
            self._last.clear()
        self._last[name] = answer
        return answer, ""

    def _ask(self, name: Place) -> None:
        loop = asyncio.get_running_loop()
        answered = self._asked[name] = loop.create_future()

        def answer(found: tuple[Place, ...] | str) -> None:
            self._asked.pop(name, None)
            if not answered.done():
                answered.set_result(found)

        def ask() -> None:
            try:
                found: tuple[Place, ...] | str = self._look_up(*name)
            except (OSError, UnicodeError) as error:
                found = getattr(error, "strerror", None) or str(error)
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(answer, found)

        threading.Thread(target=ask, name=f"resolve {name[0]}", daemon=True).start()
