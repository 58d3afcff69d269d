"""Child processes: each with a log file, none outlives the demo.

A child leads its own session, so that Ctrl-C in the terminal reaches the demo alone, which ends its children in order. If the demo
itself is killed, the kernel kills them (PR_SET_PDEATHSIG, Linux; set by a few lines of Python that then become the child's program).
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

TAIL_BYTES = 16 * 1024

LAUNCH = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
except (AttributeError, OSError):
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class DemoError(Exception):
    """The demo cannot go on: what happened, and the tail of a log or a hint that explains it."""

    def __init__(self, message: str, *, hint: str = "", log: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.log = log


class Child:
    """One running process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self.wanted = True
        """False once the demo itself has ended it."""
        self._process = process

    @classmethod
    async def start(cls, name: str, command: Sequence[str | Path], *, folder: Path, output: Path | None = None) -> "Child":
        """Starts a program; standard error (and output, unless a file is given for it) goes to `<name>.log` in the folder."""
        log = folder / f"{name}.log"
        words = [str(word) for word in command]
        with log.open("ab") as err, (output or log).open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), *words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.returncode

    def tail(self, lines: int = 12) -> str:
        """The last lines of its log."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
        return ""

    def check(self) -> None:
        """Raises: DemoError: If it ended although nobody asked it to."""
        if self.wanted and self.code is not None:
            raise DemoError(f"{self.name} ended by itself (exit status {self.code})", log=self.tail())

    async def end(self, timeout_s: float) -> int:
        """Waits for its own end. Raises: DemoError: If it takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._process.wait()
        except TimeoutError:
            raise DemoError(f"{self.name} did not end within {timeout_s:.0f} s", log=self.tail()) from None

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.wanted = False
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, and SIGKILL if it stays."""
        self.wanted = False
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now, all different."""
    sockets = []
    try:
        for _ in range(count):
            sock = socket.socket()
            sockets.append(sock)
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def port_is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def until(
    condition: Callable[[], Awaitable[bool]], *, timeout_s: float, what: str, children: Sequence[Child] = (), every_s: float = 0.05
) -> None:
    """Waits for a condition, watching the children. Raises: DemoError: If it does not come in time or a child ends."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        for child in children:
            child.check()
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not within {timeout_s:.0f} s", log=children[0].tail() if children else "")
        await asyncio.sleep(every_s)
