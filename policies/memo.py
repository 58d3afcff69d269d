"""Values derived from a policy, remembered by the *object*: the engine asks at every event, and hashing a whole policy takes longer than deriving.

Safe because policies are frozen; the remembered object is kept alive, so that its id is its own.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

MOST = 16_384
"""Objects remembered per function; then it starts anew."""

A = TypeVar("A")
R = TypeVar("R")


def by_object(function: Callable[[A], R]) -> Callable[[A], R]:
    """Remembers what a pure function of one frozen object returns."""
    known: dict[int, tuple[A, R]] = {}

    @wraps(function)
    def remembered(argument: A) -> R:
        found = known.get(id(argument))
        if found is None:
            if len(known) >= MOST:
                known.clear()
            found = known[id(argument)] = argument, function(argument)
        return found[1]

    return remembered
