"""Freeze windows open and close at the right second, over changes of the clock too; one that cannot be read is open."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.spec import cron as spec
from policies.spec.policy import FreezeWindow
from xds_server.adapters import calendar
from xds_server.adapters.calendar import Calendar, active, cron_ok, zone_exists

BERLIN = "Europe/Berlin"
WEEKEND = FreezeWindow(cron="0 18 * * FRI", for_s=62 * 3600.0, timezone=BERLIN)


def at(text, zone=BERLIN):
    """A moment on the wall clock of a zone; one behind "+" is in that offset."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp()


@pytest.mark.parametrize(
    ("now", "frozen"),
    [
        ("2026-11-27 17:59:59", False),
        ("2026-11-27 18:00:00", True),
        ("2026-11-29 03:00:00", True),
        ("2026-11-30 07:59:59", True),
        ("2026-11-30 08:00:00", False),
        ("2026-12-03 12:00:00", False),
    ],
)
def test_a_weekend_is_frozen_from_its_first_second_to_its_last(now, frozen):
    assert bool(active([WEEKEND], at(now))) is frozen


def test_words_say_which_window_and_until_when():
    words = active([WEEKEND], at("2026-11-28 12:00"))
    assert words == 'freeze window "0 18 * * FRI" for 62h (Europe/Berlin), until 2026-11-30T08:00:00+01:00'


def test_no_window_means_no_freeze():
    assert active([], at("2026-11-28 12:00")) == ""


def test_a_window_that_began_before_a_clock_change_lasts_as_long_as_it_says():
    """Clocks go back on 25 October 2026, and forward on 28 March 2027: 62 hours end at 7 and at 9 by the wall clock."""
    assert active([WEEKEND], at("2026-10-26 06:59:59"))
    assert not active([WEEKEND], at("2026-10-26 07:00:00"))
    assert active([WEEKEND], at("2027-03-29 08:59:59"))
    assert not active([WEEKEND], at("2027-03-29 09:00:00"))


def test_a_moment_that_the_clock_skips_comes_right_after_the_change():
    """28 March 2027 has no 2:30 in Berlin: after 1:59:59 it is 3:00."""
    night = FreezeWindow(cron="30 2 * * *", for_s=3600.0, timezone=BERLIN)
    assert not active([night], at("2027-03-28 01:59:59"))
    assert active([night], at("2027-03-28 03:00:00"))
    assert active([night], at("2027-03-28 03:59:59"))
    assert not active([night], at("2027-03-28 04:00:00"))


def test_a_moment_that_the_clock_repeats_counts_once():
    """25 October 2026 has 2:30 twice in Berlin."""
    night = FreezeWindow(cron="30 2 * * *", for_s=2400.0, timezone=BERLIN)
    assert not active([night], at("2026-10-25T02:29:59+02:00"))
    assert active([night], at("2026-10-25T02:30:00+02:00"))
    assert active([night], at("2026-10-25T02:09:59+01:00"))
    assert not active([night], at("2026-10-25T02:10:00+01:00"))
    assert not active([night], at("2026-10-25T02:30:00+01:00"))


def test_moments_that_follow_each_other_without_a_pause_are_one_window():
    hourly = FreezeWindow(cron="0 9-17 * * MON", for_s=3600.0)
    words = active([hourly], at("2026-11-23 10:30", "UTC"))
    assert words.endswith("until 2026-11-23T18:00:00+00:00")


def test_of_windows_that_overlap_the_one_that_is_open_longest_is_told():
    day = FreezeWindow(cron="0 0 28 11 *", for_s=86_400.0)
    assert "FRI" in active([day, WEEKEND], at("2026-11-28 12:00"))
    assert "FRI" in active([WEEKEND, day], at("2026-11-28 12:00"))
    assert active([day, WEEKEND], at("2026-11-30 07:00"))


def test_a_window_without_a_pause_has_no_known_end():
    always = FreezeWindow(cron="* * * * *", for_s=300.0)
    assert active([always], at("2026-11-28 12:00")).endswith("or later")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", "America", "", "x" * 5000, "a\0b"])
def test_an_unknown_zone_is_told_and_counts_as_frozen(zone):
    window = FreezeWindow(cron="0 18 * * FRI", for_s=60.0, timezone=zone)
    assert not zone_exists(zone)
    assert "there is no time zone" in active([window], at("2026-11-24 12:00"))


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "* * * * * *", "61 * * * *", "0 18 * * FRIDAY", "@daily", "0 18 31 2 *", "a b c d e", "0-" * 500]
)
def test_what_is_no_cron_expression_is_told_and_counts_as_frozen(cron):
    window = FreezeWindow(cron=cron, for_s=60.0)
    assert not cron_ok(cron)
    assert "no cron expression" in active([window], at("2026-11-24 12:00"))


@pytest.mark.parametrize("for_s", [0.0, 0.5, 1e9, 1e15, 1e300])
def test_any_length_has_an_answer(for_s):
    active([FreezeWindow(cron="0 18 * * FRI", for_s=for_s, timezone=BERLIN)], at("2026-11-24 12:00"))


def test_a_leap_day_that_is_years_away_is_no_fault():
    leap = FreezeWindow(cron="0 0 29 2 *", for_s=86_400.0)
    assert not active([leap], at("2027-02-28 12:00", "UTC"))
    assert active([leap], at("2028-02-29 12:00", "UTC"))


ZONES = st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "America/St_Johns"])
CRONS = st.sampled_from(["0 18 * * FRI", "30 2 * * *", "15 1,2,3 * * *", "0 */6 * * *", "* 2 * * *", "0 0 1 * *"])
YEAR = st.integers(int(at("2026-01-01", "UTC")), int(at("2028-01-01", "UTC")))


@given(cron=CRONS, zone=ZONES, for_s=st.sampled_from([60.0, 3600.0, 7200.0, 90_000.0, 62 * 3600.0]), now=YEAR)
@settings(max_examples=100, deadline=None)
def test_a_window_is_open_exactly_while_one_of_its_moments_is_no_older_than_its_length(cron, zone, for_s, now):
    """Against an oracle that lists the moments from further back."""
    window = FreezeWindow(cron=cron, for_s=for_s, timezone=zone)
    moments = calendar._starts(cron, now - for_s - 2 * 86_400.0, ZoneInfo(zone))
    expected = False
    for moment in moments:
        if moment > now:
            break
        expected = expected or now < moment + for_s
    assert bool(active([window], now)) is expected


@given(moments=st.lists(YEAR, min_size=2, max_size=12), cron=CRONS, zone=ZONES)
@settings(max_examples=100, deadline=None)
def test_what_is_remembered_never_changes_an_answer(moments, cron, zone):
    """In any order: clocks are set back too."""
    windows = [FreezeWindow(cron=cron, for_s=5400.0, timezone=zone), WEEKEND]
    remembering = Calendar()
    for moment in moments:
        for now in (moment, moment + 1, moment + 3600):
            assert bool(remembering.active(windows, now)) is bool(active(windows, now))


FIELDS = st.tuples(
    *(
        st.one_of(
            st.just("*"),
            st.integers(low, high).map(str),
            st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda pair: f"{min(pair)}-{max(pair)}"),
            st.tuples(st.sampled_from(["*", f"{low}-{high}", str(low)]), st.integers(0, 70)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
            st.sampled_from(
                ["FRI", "fri", "Mon-Fri", "JAN", "jan-mar", "1,2,3", "L", "LW", "?", "7", "0-7", "FRI-MON", "MON#2", "5L", "", "1,", "-1"]
            ),
        )
        for low, high in ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    )
).map(" ".join)


@given(FIELDS)
@settings(max_examples=300, deadline=None)
def test_whatever_the_policy_language_takes_as_cron_the_calendar_can_read(text):
    """Else a policy that is good would be frozen for ever."""
    try:
        taken = spec.cron(text)
    except ValueError:
        return
    assert cron_ok(taken)
    active([FreezeWindow(cron=taken, for_s=3600.0)], at("2026-11-24 12:00"))
