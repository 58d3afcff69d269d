"""Asks a variant's pods whether they are ready: HTTP GET of its health path answers 200, or (no path) its port accepts a connection.

Envoy checks the same for its own picks, but does not tell a control plane; and a model that is still loading must not get a share.
"""

import asyncio
import socket
from collections.abc import Sequence

from policies.rollout import Pods
from policies.spec.policy import DnsEndpoints, HealthCheck, StaticEndpoints, Variant

AT_ONCE = 32
"""Pods asked at the same time."""

CONNECT_TIMEOUT_S = 1.0


class Prober:
    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def probe(self, variant: Variant) -> Pods:
        """Asks every pod once. Never raises: what is wrong is said in `Pods.words`."""
        try:
            async with asyncio.timeout(5.0):
                places = await _places(variant)
        except (OSError, TimeoutError) as error:
            return Pods(words=f"cannot resolve {_name(variant)}: {str(error) or 'timed out'}")
        answers = await asyncio.gather(*(self._ask(host, port, variant.health) for host, port in places))
        wrong = [words for words in answers if words]
        return Pods(ready=len(answers) - len(wrong), total=len(answers), words=wrong[0] if wrong else "")

    async def _ask(self, host: str, port: int, health: HealthCheck | None) -> str:
        """What is wrong with one pod, "" for nothing."""
        where = f"{host}:{port}"
        try:
            async with self._slots, asyncio.timeout(health.timeout_s if health else CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port, limit=4096)
                try:
                    if health is None:
                        return ""
                    writer.write(
                        f"GET {health.path} HTTP/1.1\r\nHost: {where}\r\nUser-Agent: crossfade\r\nConnection: close\r\n\r\n".encode()
                    )
                    line = await reader.readline()
                finally:
                    writer.close()
        except TimeoutError:
            return f"{where} did not answer in time"
        except (OSError, ValueError) as error:
            return f"{where}: {getattr(error, 'strerror', None) or error}"
        status = line.split(b" ")[1:2]
        if status == [b"200"]:
            return ""
        return f"{where}{health.path} answered {status[0].decode('ascii', 'replace') if status else 'nothing'}"


def _name(variant: Variant) -> str:
    return variant.endpoints.host if isinstance(variant.endpoints, DnsEndpoints) else variant.version


async def _places(variant: Variant) -> Sequence[tuple[str, int]]:
    match variant.endpoints:
        case StaticEndpoints(addresses=addresses):
            split = [address.rpartition(":") for address in addresses]
            return [(host.strip("[]"), int(port)) for host, _, port in split]
        case DnsEndpoints(host=host, port=port):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return sorted({(str(address[4][0]), port) for address in found})
