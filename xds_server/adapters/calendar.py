"""Freeze windows: whether one of a policy's is open now, and until when.

Here and not in `policies` because it reads the time-zone database (the system's, else the one of the package `tzdata`). A moment of `cron` means
what Debian's cron makes of it: one that a clock change skips comes right after the change, one that it repeats counts once. `for` is time
that passes: 24 h over the night when clocks go back end one hour earlier by the clock on the wall.
Neighbours: `policies.spec.policy.FreezeWindow`; `runtime.watch` asks every second; `policy_files` refuses zones that there are not. Source: https://github.com/cuu508/cronsim.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from policies.spec.policy import FreezeWindow

MERGED_MAX = 200
"""Moments of one window that follow each other without a pause, looked through for the end."""

KNOWN_MAX = 4096

_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class _View:
    """What is true of a window from one moment to another [s since the epoch]; `words` "" = it is not open."""

    words: str
    since: float
    until: float


class Calendar:
    """Answers from memory as long as nothing can have changed."""

    def __init__(self) -> None:
        self._known: dict[FreezeWindow, _View] = {}

    def active(self, windows: Sequence[FreezeWindow], now: float) -> str:
        """Words for the window that is open the longest, "" if none is. One that cannot be read counts as open."""
        views = [self._view(window, now) for window in windows]
        return max((view for view in views if view.words), key=lambda view: view.until, default=_View("", 0.0, 0.0)).words

    def _view(self, window: FreezeWindow, now: float) -> _View:
        known = self._known.get(window)
        if known is None or not known.since <= now < known.until:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[window] = _look(window, now)
        return known


def active(windows: Sequence[FreezeWindow], now: float) -> str:
    """The same without a memory."""
    return Calendar().active(windows, now)


def zone_exists(name: str) -> bool:
    return _zone(name) is not None


def cron_ok(text: str) -> bool:
    """Whether it has five fields that mean something."""
    try:
        CronSim(text, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError, OverflowError):
        return False
    return len(text.split()) == 5


def _fault(window: FreezeWindow) -> str:
    if not zone_exists(window.timezone):
        return f"there is no time zone {window.timezone!r}"
    if not cron_ok(window.cron):
        return f"{window.cron!r} is no cron expression"
    return ""


def _look(window: FreezeWindow, now: float) -> _View:
    name = f'freeze window "{window.cron}" for {_told(window.for_s)} ({window.timezone})'
    fault = _fault(window)
    zone = _zone(window.timezone)
    if fault or zone is None:
        return _View(f"{name} cannot be read, so nothing grows: {fault}", now, math.inf)
    starts = _starts(window.cron, now - window.for_s, zone)
    first = next(starts, math.inf)
    if first > now:
        return _View("", now, first)
    end, more = first + window.for_s, ""
    for number, start in enumerate(starts):
        if start > end:
            break
        if number == MERGED_MAX:
            more = " or later"
            break
        end = start + window.for_s
    return _View(f"{name}, until {_moment(end, zone)}{more}", first, end)


def _starts(cron: str, after: float, zone: ZoneInfo) -> Iterator[float]:
    """Moments of the expression behind `after` [s since the epoch]."""
    begin = datetime.fromtimestamp(math.floor(max(after, 0.0)), UTC).astimezone(zone)
    try:
        for moment in CronSim(cron, begin):
            at = moment.timestamp()
            if at > after:  # in a repeated hour the library may begin with the first pass
                yield at
    except (CronSimError, OverflowError, ValueError):
        return  # no such day ever comes


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there; not a relative path; a folder of the database
        return None


def _moment(at: float, zone: ZoneInfo) -> str:
    try:
        return (datetime.fromtimestamp(0, UTC) + timedelta(seconds=round(at))).astimezone(zone).isoformat()
    except OverflowError:
        return "the end of time"


def _told(seconds: float) -> str:
    """Seconds as a person writes them, "62h", "90m"; days only from two on."""
    for size, unit in _UNITS:
        if seconds and not seconds % size and (unit != "d" or seconds >= 7 * size):
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"
