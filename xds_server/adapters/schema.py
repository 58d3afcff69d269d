"""Whether answers fit a JSON Schema, asked of a child process that can be killed (`schema_child` says why)."""

import asyncio
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

CHILD = Path(__file__).with_name("schema_child.py")
PATIENCE_S = 6.0
"""For one answer, the start of the child included."""


class Schema:
    """One schema; used as a context, so that the child ends with it. Without a text every body fits and there is no child."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end()

    async def fault(self, body: bytes) -> str:
        """What is wrong with a body, "" for nothing. Never raises."""
        if not self._text:
            return ""
        async with self._turn:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await self._ask(body)
            except (TimeoutError, EOFError):
                await self._end()
                return f"holding the body against the JSON Schema took longer than {PATIENCE_S - 1:.0f} s"
            except (OSError, ValueError, RuntimeError) as error:  # the last is uvloop's word for a child that has just gone
                await self._end()
                return f"the JSON Schema could not be asked: {error}"
            except asyncio.CancelledError:
                await self._end()
                raise

    async def _ask(self, body: bytes) -> str:
        if self._child is None or self._child.returncode is not None:
            await self._end()
            pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
            self._child = await asyncio.create_subprocess_exec(sys.executable, "-I", str(CHILD), stdin=pipe, stdout=pipe, stderr=nothing)
            _say(self._child, self._text.encode())
        _say(self._child, body)
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        await self._child.stdin.drain()
        line = await self._child.stdout.readline()
        if not line:
            raise EOFError
        return str(json.loads(line))

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.returncode is None:
            child.kill()
        await child.communicate()  # closes the pipes


def _say(child: asyncio.subprocess.Process, message: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(b"%d\n" % len(message) + message)
