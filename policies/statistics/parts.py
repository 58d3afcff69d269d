"""What the gates of one number or one histogram share: numbers or arrays in, a process ahead, a memory out and back."""

from collections.abc import Sequence
from math import isfinite

import numpy as np
import numpy.typing as npt

from policies.statistics.mixture import LOG_NOTHING, Bools, Floats, Number, Process

Amount = float | npt.NDArray[np.integer] | Floats
"""A number, or one per run."""


def number(value: Amount) -> Number:
    """The same as float or array of floats."""
    if isinstance(value, (int, float)):
        return float(value)
    return np.asarray(value, dtype=np.float64)


def advance(process: Process, log_e: tuple[Floats, Floats] | None, *, update: Bools | bool, elapsed_s: float, deadline_s: float) -> Process:
    """`Process.advance`, by the quicker way where there is one run. `update`: the runs that had a block."""
    if isinstance(update, bool):
        return process.advance_one(log_e if update else None, elapsed_s=elapsed_s, deadline_s=deadline_s)
    return process.advance(log_e if update.any() else None, update=update, elapsed_s=elapsed_s, deadline_s=deadline_s)


def column(value: Number) -> Number:
    """A number as it is, an array with one more axis: to be multiplied by alternatives on the last axis."""
    return value if isinstance(value, float) else value[..., np.newaxis]


def unpack(memory: Sequence[float], size: int, what: str) -> Floats:
    """A memory as an array. Raises: ValueError: If it is not `size` finite numbers."""
    if len(memory) != size or not isfinite(sum(memory)):
        raise ValueError(f"memory of this {what} is {size} finite numbers, got {len(memory)}; hint: start the gate afresh")
    return np.array(memory, dtype=np.float64)


def nothing(like: Number) -> Floats:
    """Log of no evidence at all, one per run of `like`."""
    return np.full(np.shape(like), LOG_NOTHING)
