"""Values derived from a frozen object, remembered by the *object*: the engine asks at every event, and hashing takes longer than deriving.

`by_object` keeps the object alive, so that its id is its own: for policies, which stay. `while_alive` forgets with the object: for what a gate
has learnt, which is replaced again and again.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import ref

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


def while_alive(function: Callable[[A], R]) -> Callable[[A], R]:
    """Remembers what a pure function of one frozen object returns, as long as that object lives; it must allow weak references."""
    known: dict[int, tuple[ref[A], R]] = {}

    @wraps(function)
    def remembered(argument: A) -> R:
        key = id(argument)
        found = known.get(key)
        if found is None:
            found = known[key] = ref(argument, lambda _: known.pop(key, None)), function(argument)
        return found[1]

    return remembered
