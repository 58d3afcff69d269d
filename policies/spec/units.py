"""Numbers with their units as people write them in a policy: durations, shares, margins. Each parser says what it expects."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_UNITS_S = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_DURATION = re.compile(r"^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)$")
_PERCENT = re.compile(r"^(\d{1,5}(?:\.\d{1,2})?)\s?%$")


def duration_s(value: Any) -> float:
    """`300ms`, `5m`, `1h`, `7d` -> seconds."""
    found = _DURATION.match(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{_shown(value)} is no duration; expected a number with a unit ms, s, m, h or d, such as 300ms or 5m")
    return float(Decimal(found[1]) * _UNITS_S[found[2]])


def share_bp(value: Any) -> int:
    """`12.5%` -> 1250 hundredths of a per cent; 0 < share <= 100 %."""
    bp = _percent_bp(value)
    if not 0 < bp <= 10_000:
        raise ValueError(f"{_shown(value)} is out of range; expected more than 0% and at most 100%")
    return bp


def fraction(value: Any) -> float:
    """`0.5%` -> 0.005."""
    return _percent_bp(value) / 10_000


def _percent_bp(value: Any) -> int:
    found = _PERCENT.match(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{_shown(value)} is no percentage; expected a number of at most two decimals and %, such as 5% or 0.25%")
    return int(Decimal(found[1]) * 100)


def fraction_or_duration(value: Any) -> tuple[str, float]:
    """A margin: ("fraction", 0.005) for `0.5%`, ("ms", 300.0) for `300ms`."""
    if isinstance(value, str) and _DURATION.match(value):
        return "ms", duration_s(value) * 1000.0
    if isinstance(value, str) and _PERCENT.match(value):
        return "fraction", fraction(value)
    raise ValueError(f"{_shown(value)} is no margin; expected a percentage such as 0.5% (error rate) or a duration such as 50ms (latency)")


def _shown(value: Any) -> str:
    return repr(value)[:60]


def _schema(pattern: str, examples: list[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": examples})


_DURATION_PATTERN = r"^\d{1,9}(\.\d{1,3})?(ms|s|m|h|d)$"
_PERCENT_PATTERN = r"^\d{1,5}(\.\d{1,2})?\s?%$"

DurationS = Annotated[float, BeforeValidator(duration_s), _schema(_DURATION_PATTERN, ["5m", "300ms"])]
ShareBp = Annotated[int, BeforeValidator(share_bp), _schema(_PERCENT_PATTERN, ["5%", "0.25%"])]
Fraction = Annotated[float, BeforeValidator(fraction), _schema(_PERCENT_PATTERN, ["10%"])]
MarginValue = Annotated[
    tuple[str, float], BeforeValidator(fraction_or_duration), _schema(f"{_DURATION_PATTERN}|{_PERCENT_PATTERN}", ["0.5%", "50ms"])
]
