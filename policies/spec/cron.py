"""Cron expressions of freeze windows: five fields, as crontab(5) has them. Only whether they can ever be; when they are is the runtime's to know."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, reduce
from itertools import pairwise
from operator import or_
from typing import Annotated, Final

from pydantic import AfterValidator, WithJsonSchema

from policies.spec.units import shown, wrong

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class _Field:
    """`words`: what stands for the numbers from `least` on."""

    name: str
    least: int
    most: int
    words: tuple[str, ...] = ()


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _WEEKDAYS),
)

_WORD = "[0-9]{1,2}|[A-Z]{3}"
_PART = re.compile(rf"(\*|(?P<first>{_WORD})(-(?P<last>{_WORD}))?)(/(?P<step>[0-9]{{1,2}}))?")

_LIKE = "minute hour day month weekday, such as 0 18 * * FRI"


def cron(value: str) -> str:
    """The same in capitals with single blanks between the fields."""
    fields = value.upper().split()
    if len(value) > 200 or len(fields) != len(_FIELDS):
        raise wrong(f"{shown(value)} is no cron expression", expected=f"five fields: {_LIKE}")
    _, _, days, months, _ = (_numbers(written, field) for written, field in zip(fields, _FIELDS, strict=True))
    if fields[4].startswith("*") and all(min(days) > _DAYS_OF_MONTH[month - 1] for month in months):
        raise wrong(f"{shown(value)} never comes", expected="a day that the month has", hint="look at the third and fourth field")
    return " ".join(fields)


_SOME_YEARS = tuple(date(2024, 1, 1) + timedelta(days=day) for day in range(4 * 365 + 1))


@cache
def _days(what: Callable[[date], int]) -> dict[int, int]:
    """By day of the month, month or day of the week: the days of some years that are one, a bit each."""
    found: dict[int, int] = {}
    for place, day in enumerate(_SOME_YEARS):
        found[what(day)] = found.get(what(day), 0) | 1 << place
    return found


def _of_month(day: date) -> int:
    return day.day


def _month(day: date) -> int:
    return day.month


def longest_gap_s(value: str) -> float:
    """The longest time between two moments of a good expression [s]; with both days restricted either is enough, as crontab(5) says."""
    written = value.split()
    minutes, hours, days, months, weekdays = (_numbers(part, field) for part, field in zip(written, _FIELDS, strict=True))
    by_day = reduce(or_, (_days(_of_month)[day] for day in days))
    by_weekday = reduce(or_, (_days(date.isoweekday)[day or 7] for day in weekdays))
    either = not written[2].startswith("*") and not written[4].startswith("*")
    when = reduce(or_, (_days(_month)[month] for month in months)) & (by_day | by_weekday if either else by_day & by_weekday)
    moments = sorted(60 * hour + minute for hour in hours for minute in minutes)
    within = max((later - earlier for earlier, later in pairwise(moments)), default=0)
    apart = max((len(run) + 1 for run in f"{when:b}".strip("0").split("1")[1:-1]), default=len(_SOME_YEARS))
    return 60.0 * max(within, apart * 1440 - moments[-1] + moments[0])


def _numbers(written: str, field: _Field) -> set[int]:
    """What a field stands for: `*`, `5`, `1-5`, `*/10`, `MON-FRI`, and lists of these."""
    numbers: set[int] = set()
    for part in written.split(","):
        found = _PART.fullmatch(part)
        if found is None or (found["step"] and found["first"] and not found["last"]):
            expected = f"{field.least} to {field.most}, *, ranges such as 1-5, steps such as */5, and lists of these"
            raise wrong(f"{shown(part)} is no {field.name}", expected=expected)
        first, last, step = field.least, field.most, int(found["step"] or 1)
        if found["first"]:
            first = last = _number(found["first"], field)
            if found["last"]:
                last = _number(found["last"], field)
        if last < first:
            message = f"{shown(part)} runs backwards"
            raise wrong(message, expected="a range that grows", hint="write two ranges: SAT-SUN is SAT,SUN")
        if step == 0:
            raise wrong(f"{shown(part)} has no step", expected="a step from 1")
        numbers.update(range(first, last + 1, step))
    return numbers


def _number(word: str, field: _Field) -> int:
    number = int(word) if word.isdigit() else field.words.index(word) + field.least if word in field.words else -1
    if not field.least <= number <= field.most:
        words = f", or {', '.join(field.words)}" if field.words else ""
        raise wrong(f"{shown(word)} is no {field.name}", expected=f"{field.least} to {field.most}{words}")
    return number


CronText = Annotated[str, AfterValidator(cron), WithJsonSchema({"type": "string", "examples": ["0 18 * * FRI"]})]
