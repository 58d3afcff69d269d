"""From samples of counters to what was counted between them: each trouble that a Prometheus can have."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.evidence import LATENCY_BINS, latency_bin
from xds_server.adapters import prometheus_counters
from xds_server.adapters.prometheus_counters import Counters, Samples, Series

STEP_S = 10.0
POD = {"job": "envoy", "instance": "edge-0"}


def counter(code, values, **labels):
    return Series(labels={"__name__": "rq", "envoy_response_code": code, **POD, **labels}, values=places(values))


def bucket(le, values, **labels):
    return Series(labels={"__name__": "time_bucket", "le": le, **POD, **labels}, values=places(values))


def places(values):
    """A list is one value per place; None = there was none."""
    return values if isinstance(values, dict) else {place: value for place, value in enumerate(values) if value is not None}


def samples(*requests, latency=(), times=None):
    """By default each value has a sample of its own, taken just then."""
    taken = times or tuple(Series(labels=each.labels, values={place: place * STEP_S for place in each.values}) for each in requests)
    return Samples(requests=requests, times=taken, latency=tuple(latency))


def count(arms, number, *, dropped=None, cuts=()):
    """{place: counts per arm}; `cuts`: where one stretch ends and the next begins."""
    counters = Counters(step_s=STEP_S, dropped={} if dropped is None else dropped)
    found = {}
    edges = [0, *cuts, number]
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        part = {name: _cut(each, range(first, end)) for name, each in arms.items()}
        found |= dict(counters.take(part, range(first, end)))
    return found


def _cut(whole, stretch):
    def cut(all_series):
        return tuple(
            Series(labels=each.labels, values={at: value for at, value in each.values.items() if at in stretch}) for each in all_series
        )

    return Samples(requests=cut(whole.requests), times=cut(whole.times), latency=cut(whole.latency))


def totals(found, arm="a"):
    return {place: (arms[arm].requests, arms[arm].errors) for place, arms in found.items() if arm in arms}


def test_what_was_counted_before_is_the_base():
    found = count({"a": samples(counter("200", [1000, 1010, 1010, 1013]))}, 4)
    assert totals(found) == {1: (10, 0), 3: (3, 0)}  # and nothing was seen at 2


def test_answers_of_5xx_are_errors_whatever_the_label_is_called():
    found = count({"a": samples(counter("200", [0, 5]), counter("404", [0, 3]), counter("503", [0, 2]))}, 2)
    assert totals(found) == {1: (10, 2)}
    assert dict(found[1]["a"].statuses) == {"200": 5, "404": 3, "503": 2}
    for label in prometheus_counters.CODES:
        series = Series(labels={label: "5", **POD}, values={0: 1.0, 1: 4.0})
        assert totals(count({"a": samples(series)}, 2)) == {1: (3, 3)}


def test_the_first_error_of_a_counter_that_was_not_there_counts():
    found = count({"a": samples(counter("200", [100, 110, 120]), counter("500", [None, None, 4]))}, 3)
    assert totals(found) == {1: (10, 0), 2: (14, 4)}


def test_a_cluster_that_is_born_while_its_proxy_is_scraped_counts_from_its_first_request():
    new = counter("500", [None, 7, 9], envoy_cluster_name="new")
    old = counter("200", [100, 100, 100], envoy_cluster_name="old")
    found = count({"stable": samples(old), "a": samples(new)}, 3)
    assert totals(found) == {1: (7, 7), 2: (2, 2)}


def test_a_proxy_that_comes_into_view_has_a_past_of_its_own():
    late = counter("200", [None, None, 5000, 5001], instance="edge-1")
    found = count({"a": samples(counter("200", [0, 1, 2, 3]), late)}, 4)
    assert totals(found) == {1: (1, 0), 2: (1, 0), 3: (2, 0)}


def test_a_counter_that_falls_began_again_and_with_it_the_others_of_its_cluster():
    good, bad = counter("200", [90, 100, 6]), counter("500", [1, 2, 3])
    found = count({"a": samples(good, bad)}, 3)
    assert totals(found) == {1: (11, 1), 2: (9, 3)}


def test_another_cluster_of_the_same_proxy_did_not_begin_again():
    again, other = counter("200", [100, 5], envoy_cluster_name="x"), counter("200", [100, 103], envoy_cluster_name="y")
    found = count({"a": samples(again), "b": samples(other)}, 2)
    assert totals(found, "a") == {1: (5, 0)}
    assert totals(found, "b") == {1: (3, 0)}


def test_a_short_gap_is_one_long_block_and_a_long_one_is_not_counted():
    dropped = {}
    short = count({"a": samples(counter("200", [0, 1, None, None, None, 5, 6]))}, 7, dropped=dropped)
    assert totals(short) == {1: (1, 0), 5: (4, 0), 6: (1, 0)}
    assert dropped == {}
    long = count({"a": samples(counter("200", [0, 1, *[None] * 7, 5, 6]))}, 11, dropped=dropped)
    assert totals(long) == {1: (1, 0), 10: (1, 0)}
    assert dropped == {prometheus_counters.GAP: 1}


def test_three_scrapes_may_fail_however_rare_they_are():
    values = {0: 0, 3: 3, 6: 6, 15: 15, 18: 18, 30: 30, 33: 33}  # every 30 s; then 90 s and 120 s of nothing
    dropped = {}
    found = count({"a": samples(counter("200", values))}, 34, dropped=dropped)
    assert totals(found) == {3: (3, 0), 6: (3, 0), 15: (9, 0), 18: (3, 0), 33: (3, 0)}
    assert dropped == {prometheus_counters.GAP: 1}


def test_a_value_that_prometheus_repeats_is_no_sample():
    """After a scrape that never came an instant query gives the old value for five minutes: then a lump, which is a gap."""
    series = counter("200", [0, 1, *[1] * 7, 50, 51])
    times = Series(labels=POD, values=places([0, 10, *[10] * 7, 90, 100]))
    dropped = {}
    found = count({"a": samples(series, times=(times,))}, 11, dropped=dropped)
    assert totals(found) == {1: (1, 0), 10: (1, 0)}
    assert dropped == {prometheus_counters.GAP: 1}


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, -1.0])
def test_what_is_no_count_is_left_out_and_counted(broken):
    dropped = {}
    found = count({"a": samples(counter("200", [10, broken, 15]), counter("500", [1, 2, 2]))}, 3, dropped=dropped)
    assert totals(found) == {1: (1, 1), 2: (5, 0)}
    assert dropped == {prometheus_counters.BROKEN: 1}


def test_a_series_without_a_code_is_left_out_and_counted():
    dropped = {}
    found = count({"a": samples(Series(labels=POD, values=places([0, 5])))}, 2, dropped=dropped)
    assert found == {}
    assert dropped == {prometheus_counters.UNLABELLED: 1}


def test_a_request_is_as_slow_as_its_bucket_allows():
    buckets = [bucket("5", [0, 2]), bucket("10", [0, 2]), bucket("250", [0, 7]), bucket("+Inf", [0, 8])]
    found = count({"a": samples(counter("200", [0, 8]), latency=buckets)}, 2)
    assert found[1]["a"].latency == ((latency_bin(4.95), 2), (latency_bin(247.5), 5), (LATENCY_BINS - 1, 1))


def test_an_edge_that_is_no_number_is_the_last():
    buckets = [bucket("5", [0, 2]), bucket("x", [0, 3])]
    found = count({"a": samples(counter("200", [0, 3]), latency=buckets)}, 2)
    assert found[1]["a"].latency == ((latency_bin(4.95), 2), (LATENCY_BINS - 1, 1))


def test_buckets_of_several_proxies_and_codes_add_up():
    buckets = [
        bucket("5", [0, 1], response_code="200"),
        bucket("+Inf", [0, 3], response_code="200"),
        bucket("5", [0, 4], response_code="500"),
        bucket("+Inf", [0, 4], response_code="500"),
        bucket("7", [0, 2], instance="edge-1"),
        bucket("+Inf", [0, 2], instance="edge-1"),
    ]
    both = samples(counter("200", [0, 7]), counter("200", [0, 2], instance="edge-1"), latency=buckets)
    assert count({"a": both}, 2)[1]["a"].latency == ((latency_bin(4.95), 5), (latency_bin(6.93), 2), (LATENCY_BINS - 1, 2))


steps = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5), st.sampled_from(["", "", "", "again", "away"])), min_size=2, max_size=30)


@settings(max_examples=200, deadline=None)
@given(steps=steps, cuts=st.sets(st.integers(1, 29), max_size=4))
def test_nothing_is_counted_that_was_not_there_and_stretches_make_no_difference(steps, cuts):
    """A proxy that serves, restarts and is away for single scrapes: the whole is at most what it served, exactly that without restarts."""
    good, bad, served, failed = [], [], 0, 0
    total = [0, 0]
    for number, (more, errors, what) in enumerate(steps):
        total = [0, 0] if what == "again" else total
        total = [total[0] + more, total[1] + errors]
        served, failed = served + more + errors, failed + errors
        there = what != "away" or number in {0, len(steps) - 1}
        good.append(total[0] if there else None)
        bad.append(total[1] if there else None)
    arms = {"a": samples(counter("200", good), counter("500", bad))}
    found = totals(count(arms, len(steps)))
    whole = (sum(requests for requests, _ in found.values()), sum(errors for _, errors in found.values()))
    base = steps[0][0] + steps[0][1]
    assert whole[0] <= served - base
    assert whole[1] <= failed - steps[0][1]
    if longest_away(good) > 5:  # a gap, as long as scrapes are not usually so far apart
        return
    assert totals(count(arms, len(steps), cuts=sorted(cut for cut in cuts if cut < len(steps)))) == found
    if all(what != "again" for _, _, what in steps):
        assert whole == (served - base, failed - steps[0][1])


def longest_away(values):
    longest = now = 0
    for value in values:
        now = now + 1 if value is None else 0
        longest = max(longest, now)
    return longest
