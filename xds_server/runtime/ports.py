"""What the conductor needs of the world: a port, so that the whole decision core runs in simulation."""

from typing import Protocol

from policies.traffic import Traffic


class Delivering(Protocol):
    def publish(self, wish: Traffic) -> None: ...

    def withdraw(self, rollout: str) -> None: ...

    def flush(self) -> None: ...
