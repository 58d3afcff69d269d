"""Evidence blocks for whoever listens (`GET /v1/rollouts/NAME/blocks`, `crossfade record`), beside the way they take to the engine.

Costs one look-up per block where nobody listens. A listener's queue is bounded: one that reads too slowly loses its oldest blocks and is told
how many, and neither the server nor the other listeners wait for it.
Neighbours: the evidence loop gives, `http_api` hands on.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from policies import report, wish
from policies.evidence import LATENCY_EDGES_MS, Block, Counts, Halves
from policies.rollout import Rollout
from policies.spec.policy import FULL_BP
from xds_server.services import bodies
from xds_server.services.control import Json, JsonObject

BLOCKS_MAX: Final = 600
"""Blocks kept for a listener [blocks]: a minute of them, where something arrives all the time."""

LISTENERS_MAX: Final = 16
"""Listeners at once, over all rollouts."""

_EDGES: Final[tuple[float | None, ...]] = (*(float(f"{edge:.6g}") for edge in LATENCY_EDGES_MS), None)


class Listener:
    """One who listens to one rollout."""

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()
        self._lost = 0
        self._came = asyncio.Event()

    def give(self, block: bytes) -> None:
        """Never blocks, never fails."""
        if len(self._blocks) >= BLOCKS_MAX:
            self._blocks.popleft()
            self._lost += 1
        self._blocks.append(block)
        self._came.set()

    async def take(self, timeout_s: float) -> tuple[int, bytes | None]:
        """The next block as JSON, as soon as there is one, and how many before it were lost; None = none came within the time-out."""
        if not self._blocks:
            self._came.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._came.wait()
            except TimeoutError:
                return 0, None
        lost, self._lost = self._lost, 0
        return lost, self._blocks.popleft()


class Feed:
    """All listeners of this process."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    @property
    def full(self) -> bool:
        """Whether nobody more may listen."""
        return sum(map(len, self._listeners.values())) >= LISTENERS_MAX

    @contextmanager
    def listen(self, rollout: str) -> Iterator[Listener]:
        """A listener, until the context is left."""
        listener = Listener()
        self._listeners.setdefault(rollout, []).append(listener)
        try:
            yield listener
        finally:
            others = self._listeners[rollout]
            others.remove(listener)
            if not others:
                del self._listeners[rollout]

    def give(self, block: Block, state: Rollout) -> None:
        """A block that was closed, and the state it is about to be judged in."""
        listeners = self._listeners.get(state.name)
        if listeners:
            told = bodies.dump(tell(block, state))
            for listener in listeners:
                listener.give(told)


def tell(block: Block, state: Rollout) -> JsonObject:
    """A block as the API has it: `docs/api.md`.

    Versions that are neither stable nor an arm of the release (what is left of an older one) are not in it.
    """
    at = wish.stage(state)
    stable = state.stable.identity
    arms = [arm for arm in state.arms if arm.variant.identity != stable] if state.mode not in wish.AFTER else []
    shares = {arm.name: arm.in_effect_bp for arm in arms}
    shadows = {arm.name: arm.shadow_in_effect_bp for arm in arms}
    variants: list[Json] = [
        {
            "name": variant.name,
            "version": variant.version,
            "identity": variant.identity,
            "share": shares.get(variant.name, FULL_BP - sum(shares.values())) / FULL_BP,
            "shadow_share": shadows.get(variant.name, 0) / FULL_BP,
            "users": _counts(block.users.get(variant.identity)),
            "shadows": _counts(block.shadows.get(variant.identity)),
            "pinned": _counts(block.pinned.get(variant.identity)),
            "halves": _halves(block.halves.get(variant.identity)),
        }
        for variant in (state.stable, *(arm.variant for arm in arms))
    ]
    return {
        "start": round(block.start, 3),
        "end": round(block.end, 3),
        "rollout": state.name,
        "generation": state.generation,
        "phase": report.phase(state),
        "step": at.label if at is not None else "",
        "variants": variants,
        "lost_requests": block.lost,
    }


def _counts(seen: Counts | None) -> JsonObject | None:
    if seen is None:
        return None
    return {
        "requests": seen.requests,
        "errors": seen.errors,
        "fallbacks": seen.fallbacks,
        "broken": seen.broken,
        "no_host": seen.no_host,
        "latency": _histogram(seen.latency),
        "ttft": _histogram(seen.ttft),
        "statuses": dict(seen.statuses),
    }


def _halves(seen: Halves | None) -> list[Json] | None:
    return None if seen is None else [list[Json](half) for half in seen]


def _histogram(bins: tuple[tuple[int, int], ...]) -> list[Json]:
    return [[_EDGES[place], count] for place, count in bins]
