"""Shapes that all of a replay uses: arrays with one row per run, and frozen values made of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]
"""Places of runs."""

T = TypeVar("T")


def changed(value: T, parts: Mapping[str, Any]) -> T:
    """A dataclass with other values for some of its fields, named by data."""
    after: T = replace(value, **parts)  # type: ignore[type-var]  # there is no type for "a dataclass"
    return after
