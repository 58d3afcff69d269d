"""A fault of a policy document as the checks find it; `loader` gives it its file and line."""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.spec.reader import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    path: Path
    message: str
    expected: str = ""
    hint: str = ""


def one_of(words: Sequence[str]) -> str:
    return f"one of {', '.join(words)}" if words else ""
