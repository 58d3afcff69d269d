"""What the runtime needs of the world: ports, so that the whole decision core runs in simulation and policies come from anywhere."""

from collections.abc import AsyncIterator
from typing import Protocol

from policies.traffic import Traffic


class Delivering(Protocol):
    def publish(self, wish: Traffic) -> None: ...

    def withdraw(self, rollout: str) -> None: ...

    def flush(self) -> None: ...


class PolicySource(Protocol):
    """Where the policy files come from."""

    @property
    def revision(self) -> str:
        """The commit of what was handed on last; "" where there are no commits."""
        ...

    async def read(self) -> dict[str, bytes]:
        """All files by name. Raises: SourceError."""
        ...

    def changes(self) -> AsyncIterator[dict[str, bytes]]:
        """All files again, each time one has changed. Never ends, never raises."""
        ...

    def nudge(self) -> None:
        """Something may have changed: look at once."""
        ...
