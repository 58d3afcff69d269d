"""What a real Envoy 1.40 said (tests/fixtures/access_log) becomes the counts that the clients' view calls for."""

import base64
import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest

from policies.evidence import LATENCY_BINS, LATENCY_EDGES_MS, NOTHING, Counts, add
from xds_server.evidence.classify import Booked, Failure, Observation, answered, classify
from xds_server.evidence.collector import Collector
from xds_server.resources.names import Owner

RECORDED = Path(__file__).parents[1] / "fixtures" / "access_log"
NUMBER = 20
LAST = LATENCY_BINS - 1


@cache
def case(name):
    return json.loads((RECORDED / f"{name}.json").read_text())


def owners_of(recorded):
    return {cluster: Owner(**owner, timeout_s=recorded["timeout_s"]) for cluster, owner in recorded["owners"].items()}


def messages(recorded):
    return [(kind, base64.b64decode(text)) for kind, text in recorded["said"]]


def collect(recorded, said=None):
    """Feeds a recording; returns (stable, candidate, copies) counts and the collector."""
    collector = Collector(clock=lambda: 100.0)
    collector.own("chat", owners_of(recorded))
    for kind, raw in messages(recorded) if said is None else said:
        (collector.access_log if kind == "log" else collector.load_report)(raw)
    stable = candidate = copies = NOTHING
    for rollout, block in collector.close(100.1):
        assert rollout == "chat"
        stable = add(stable, block.users.get(recorded["stable"], NOTHING))
        candidate = add(candidate, block.users.get(recorded["candidate"], NOTHING))
        copies = add(copies, block.shadows.get(recorded["candidate"], NOTHING))
        assert set(block.users) <= {recorded["stable"], recorded["candidate"]}
    return stable, candidate, copies, collector


def bad(*, fallbacks=0, broken=0, no_host=0):
    return (NUMBER, NUMBER, fallbacks, broken, no_host)


GOOD = (NUMBER, 0, 0, 0, 0)
NONE = (0, 0, 0, 0, 0)

EXPECTED = {
    # recording: (stable, candidate, copies) as (requests, errors, fallbacks, broken, no_host)
    "answered": (NONE, GOOD, NONE),
    "no_body": (NONE, GOOD, NONE),
    "stream": (NONE, GOOD, NONE),
    "overflow": (NONE, GOOD, NONE),
    "status_404": (NONE, GOOD, NONE),
    "status_503": (NONE, bad(), NONE),
    "status_503_gateway": (NONE, bad(fallbacks=NUMBER), NONE),
    "refused_fallback": (NONE, bad(fallbacks=NUMBER), NONE),
    "refused_none": (NONE, bad(), NONE),
    "refused_both": (NONE, bad(fallbacks=NUMBER), NONE),
    "no_host_fallback": (NONE, bad(fallbacks=NUMBER), NONE),
    "no_host_none": (NONE, bad(no_host=NUMBER), NONE),
    "broken_stream": (NONE, bad(broken=NUMBER), NONE),
    "killed_stream": (NONE, bad(broken=NUMBER), NONE),
    "killed_before_answer": (NONE, bad(), NONE),
    "killed_before_answer_gateway": (NONE, bad(fallbacks=NUMBER), NONE),
    "hang_timeout": (NONE, bad(), NONE),
    "stream_timeout": (NONE, bad(), NONE),
    "abort_before_answer": (NONE, NONE, NONE),
    "abort_stream": (NONE, NONE, NONE),
    "copies": (GOOD, NONE, GOOD),
    "copies_503": (GOOD, NONE, bad()),
    "copies_refused": (GOOD, NONE, bad()),
    "copies_broken": (GOOD, NONE, bad(broken=NUMBER)),
    "copies_timeout": (GOOD, NONE, bad()),
    "copies_removed": (GOOD, NONE, NONE),
    "grpc": (NONE, GOOD, NONE),
    "grpc_stream": (NONE, GOOD, NONE),
    "grpc_internal": (NONE, bad(), NONE),
    "grpc_internal_stream": (NONE, bad(), NONE),
    "grpc_unavailable_gateway": (NONE, bad(), NONE),
    "grpc_not_found": (NONE, GOOD, NONE),
    "grpc_cancelled": (NONE, NONE, NONE),
    "grpc_exhausted": (NONE, bad(), NONE),
    "grpc_nonsense": (NONE, bad(), NONE),
    "grpc_no_status": (NONE, bad(broken=NUMBER), NONE),
    "grpc_html": (NONE, bad(broken=NUMBER), NONE),
    "grpc_404": (NONE, bad(), NONE),
    "grpc_403": (NONE, GOOD, NONE),
    "grpc_503": (NONE, bad(), NONE),
    "grpc_cut": (NONE, bad(broken=NUMBER), NONE),
    "grpc_refused": (NONE, bad(fallbacks=NUMBER), NONE),
    "grpc_hang_timeout": (NONE, bad(), NONE),
    "grpc_stream_timeout": (NONE, bad(), NONE),
    "grpc_abort_before_answer": (NONE, NONE, NONE),
    "grpc_abort_stream": (NONE, NONE, NONE),
    "copies_grpc": (GOOD, NONE, GOOD),
    "copies_grpc_internal": (GOOD, NONE, bad()),
    "copies_grpc_cut": (GOOD, NONE, bad(broken=NUMBER)),
}
MIXED = ("copies_overflow", "grpc_statuses")
ANSWERED = {"status_503", "copies_503", "copies_grpc_internal"} | {
    f"grpc_{end}" for end in ("internal", "internal_stream", "unavailable_gateway", "exhausted", "nonsense", "404", "503")
}
"""Errors that came whole."""


def numbers(counts: Counts):
    return (counts.requests, counts.errors, counts.fallbacks, counts.broken, counts.no_host)


def test_every_recording_but_the_mixed_ones_has_an_expectation():
    assert {path.stem for path in RECORDED.glob("*.json")} - {*MIXED} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_requests_are_counted_once_for_the_version_they_were_meant_for(name):
    *arms, _ = collect(case(name))
    assert tuple(numbers(arm) for arm in arms) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_failed_attempt_and_its_fallback_are_one_request_in_whatever_order_and_blocks_they_arrive(name):
    recorded = case(name)
    entries = [entry for kind, raw in messages(recorded) if kind == "log" for entry in logged(raw)]
    for ordered in (entries, entries[::-1]):
        one_each = [("log", message(entry)) for entry in ordered]
        for arm, expected in zip(collect(recorded, one_each)[:3], EXPECTED[name], strict=True):
            assert (arm.requests, arm.errors) == expected[:2]
        collector = Collector(clock=lambda: 0.0)
        collector.own("chat", owners_of(recorded))
        total = 0
        for at, (_, raw) in enumerate(one_each):
            collector.access_log(raw)
            for _, block in collector.close(float(at)):
                total += sum(counts.requests for counts in (*block.users.values(), *block.shadows.values()))
                assert all(counts.fallbacks <= counts.errors <= counts.requests for counts in block.users.values())
        assert total == sum(requests for requests, *_ in EXPECTED[name])


@pytest.mark.parametrize(
    "name",
    [name for name, arms in EXPECTED.items() if any(arm[1] for arm in arms) and name not in ANSWERED]
    + ["abort_before_answer", "abort_stream", "grpc_abort_before_answer", "grpc_abort_stream", "grpc_cancelled"],
)
def test_what_never_came_to_its_end_has_unbounded_latency(name):
    """A hanging candidate logs no last byte: read as zero it would look like the fastest."""
    _, candidate, copies, _ = collect(case(name))
    assert add(candidate, copies).latency == ((LAST, NUMBER),)


def test_waiting_for_a_pod_that_has_no_room_counts_as_latency():
    """Two requests at a time of 300 ms each: the last of twenty waits for nine others."""
    _, candidate, _, _ = collect(case("overflow"))
    slowest = max(place for place, _ in candidate.latency)
    assert 2500 < LATENCY_EDGES_MS[slowest] < 4000
    assert max(place for place, _ in candidate.ttft) >= slowest - 1
    fastest = min(place for place, _ in candidate.latency)
    assert 280 < LATENCY_EDGES_MS[fastest] < 400


def test_time_to_first_token_is_the_first_body_byte_not_the_head():
    _, candidate, _, _ = collect(case("abort_stream"))
    assert candidate.requests == 0
    _, candidate, _, _ = collect(case("stream"))
    assert sum(count for _, count in candidate.ttft) == NUMBER
    assert all(LATENCY_EDGES_MS[place] > 20 for place, _ in candidate.ttft)
    _, candidate, _, _ = collect(case("no_body"))
    assert candidate.ttft == ()


def test_a_clients_impatience_is_nobodys_error_and_is_shown():
    _, candidate, _, _ = collect(case("abort_stream"))
    assert candidate.statuses == (("cancelled", NUMBER),)


def test_copies_over_their_limit_are_no_evidence():
    _, _, copies, collector = collect(case("copies_overflow"))
    assert 0 < copies.requests < NUMBER
    assert copies.errors == 0
    assert collector.dropped == {"shadow_cut": NUMBER - copies.requests}


def test_a_users_request_over_the_limit_is_an_error_of_the_version_picked():
    recorded = case("copies_overflow")
    [entry, *_] = [entry for kind, raw in messages(recorded) if kind == "log" for entry in logged(raw) if not cluster(entry)]
    entry.common_properties.custom_tags["picked"] = f"chat/{recorded['candidate']}+fallback"
    seen, booked = classify(entry, owners_of(recorded))
    assert isinstance(seen, Observation)
    assert (seen.identity, seen.failure, seen.status, booked) == (recorded["candidate"], Failure.OVERFLOW, "UO", Booked.NOT)


@pytest.mark.parametrize("name", [*EXPECTED, *MIXED])
def test_the_common_case_is_told_as_any_other(name):
    recorded = case(name)
    owners, chance = owners_of(recorded), random.Random(name)
    for kind, raw in messages(recorded):
        for entry in logged(raw) if kind == "log" else ():
            for _ in range(20):
                plain, (seen, booked) = answered(entry, owners), classify(entry, owners)
                if plain is not None:
                    name, owner, audience, latency, ttft, code = plain
                    assert name == cluster(entry)
                    assert booked is Booked.GOOD
                    assert seen == Observation(owner.rollout, owner.identity, audience, None, False, latency, ttft, "", str(code))
                spoil(entry, chance, owners)


def spoil(entry, chance, owners):
    """Something about an entry is another."""
    common = entry.common_properties
    match chance.randrange(7):
        case 0:
            entry.response.response_code.value = chance.choice((0, 99, 100, 200, 404, 499, 500, 599, 600))
        case 1:
            common.upstream_cluster = chance.choice([*owners, "", "other"])
        case 2:
            common.custom_tags["picked"] = chance.choice([*owners, "", "other"])
        case 3:
            common.custom_tags["ttft_us"] = chance.choice(("", "x", "1500", "9" * 20))
        case 4:
            common.time_to_last_upstream_rx_byte.FromMicroseconds(chance.choice((0, 10, 10**9)))
        case 5:
            common.access_log_type = chance.choice((6, 9, 9, 9))
        case _:
            common.route_name = chance.choice(("chat", "chat#staff"))


def test_the_common_case_is_told_of_what_was_answered():
    recorded = case("answered")
    found = [answered(entry, owners_of(recorded)) for kind, raw in messages(recorded) if kind == "log" for entry in logged(raw)]
    assert len(found) == NUMBER
    assert None not in found


@pytest.mark.parametrize("name", [*EXPECTED, *MIXED])
def test_each_entry_is_booked_as_the_load_report_books_it(name):
    recorded = case(name)
    owners = owners_of(recorded)
    booked, reported = {}, {}
    for kind, raw in messages(recorded):
        if kind == "log":
            for entry in logged(raw):
                _, how = classify(entry, owners)
                if how is not Booked.NOT:
                    good, wrong = booked.get(cluster(entry), (0, 0))
                    booked[cluster(entry)] = (good + (how is Booked.GOOD), wrong + (how is Booked.BAD))
        else:
            for stats in LoadStatsRequest.FromString(raw).cluster_stats:
                for each in stats.upstream_locality_stats:
                    good, wrong = reported.get(stats.cluster_name, (0, 0))
                    totals = (good + each.total_successful_requests, wrong + each.total_error_requests)
                    reported[stats.cluster_name] = totals
    reported = {name: totals for name, totals in reported.items() if name in owners and any(totals)}
    assert booked == reported


def test_log_and_load_report_agree_in_every_recording():
    for name in (*EXPECTED, "grpc_statuses"):
        collector = Collector(clock=lambda: 0.0)
        recorded = case(name)
        collector.own("chat", owners_of(recorded))
        for kind, raw in messages(recorded):
            (collector.access_log if kind == "log" else collector.load_report)(raw)
        balances = {name: cluster.balance for name, cluster in collector._audit._clusters.items()}
        assert set(balances.values()) <= {0}, name
        assert lost(collector) == 0
        assert collector.gap("chat") == 0.0


def test_what_the_log_lost_is_counted_from_the_load_report_once():
    for name, errors in (("answered", 0), ("status_503", 15)):
        recorded = case(name)
        collector = Collector(clock=lambda: 0.0)
        collector.own("chat", owners_of(recorded))
        kept = 5
        for kind, raw in messages(recorded):
            if kind == "load":
                collector.load_report(raw)
            else:
                for entry in logged(raw):
                    if kept:
                        kept -= 1
                        collector.access_log(message(entry))
        blocks = [block for at in range(60) for _, block in collector.close(at / 10)]
        counts = [block.users[recorded["candidate"]] for block in blocks if recorded["candidate"] in block.users]
        assert sum(block.lost for block in blocks) == 15
        assert sum(each.requests for each in counts) == NUMBER
        assert sum(each.errors for each in counts) == errors + (5 if errors else 0)
        assert collector.gap("chat") == 0.75


def lost(collector):
    return sum(block.lost for at in range(60) for _, block in collector.close(at / 10))


def test_clusters_nobody_owns_and_requests_in_progress_are_dropped_and_counted():
    recorded = case("answered")
    collector = Collector(clock=lambda: 0.0)
    for kind, raw in messages(recorded):
        if kind == "log":
            collector.access_log(raw)
    assert collector.dropped == {"unknown_cluster": NUMBER}
    assert collector.entries_total == NUMBER
    collector.own("chat", owners_of(recorded))
    entry = a_good_entry(recorded)
    entry.common_properties.access_log_type = 8
    collector.access_log(message(entry))
    assert collector.dropped == {"unknown_cluster": NUMBER, "not_an_end": 1}
    assert list(collector.close(1.0)) == []


def test_two_rollouts_never_share_a_block():
    recorded = case("answered")
    entry = a_good_entry(recorded)
    other = HTTPAccessLogEntry()
    other.CopyFrom(entry)
    other.common_properties.upstream_cluster = other.common_properties.custom_tags["picked"] = "mail/m1"
    collector = Collector(clock=lambda: 5.0)
    collector.own("chat", owners_of(recorded))
    collector.own("mail", {"mail/m1": Owner(rollout="mail", identity="m1", audience="users")})
    collector.access_log(message(entry, other))
    blocks = dict(collector.close(6.0))
    assert {name: set(block.users) for name, block in blocks.items()} == {"chat": {recorded["candidate"]}, "mail": {"m1"}}
    assert all((block.start, block.end) == (5.0, 6.0) for block in blocks.values())
    assert list(collector.close(7.0)) == [], "a rollout that nothing arrived for gives nothing"


@pytest.mark.parametrize("tag", ["", "-", "²", "1e9", "-5", "9" * 5000, "nan"])
def test_a_tag_that_is_no_number_is_no_time(tag):
    recorded = case("answered")
    entry = a_good_entry(recorded)
    entry.common_properties.custom_tags["ttft_us"] = tag
    seen, _ = classify(entry, owners_of(recorded))
    assert isinstance(seen, Observation)
    assert seen.ttft_ms is None


def test_statuses_that_do_not_exist_share_one_name():
    recorded = case("answered")
    for code in (0xFFFFFFFF, 600, 99):
        entry = a_good_entry(recorded)
        entry.response.response_code.value = code
        seen, _ = classify(entry, owners_of(recorded))
        assert isinstance(seen, Observation)
        assert seen.status == "other"


def test_of_grpc_the_servers_faults_are_errors_and_the_clients_are_not():
    """The last three of the twenty are no status at all: 99, a word, nothing."""
    _, candidate, _, _ = collect(case("grpc_statuses"))
    assert dict(candidate.statuses) == {f"grpc {number}": 1 for number in range(17) if number not in {1, 2}} | {"grpc 2": 4, "cancelled": 1}
    assert (candidate.requests, candidate.errors) == (19, 7 + 3)
    assert sum(dict(candidate.latency).values()) == NUMBER


@pytest.mark.parametrize("tag", ["99999999999", "-1", "", "none", "²", "17", "9" * 5000, "1 ", "+0"])
def test_what_is_no_grpc_status_is_unknown_and_an_error(tag):
    recorded = case("grpc")
    entry = a_good_entry(recorded)
    entry.common_properties.custom_tags["grpc"] = tag
    seen, booked = classify(entry, owners_of(recorded))
    assert isinstance(seen, Observation)
    assert (seen.failure, seen.status, booked) == (Failure.STATUS, "grpc 2", Booked.BAD)


@pytest.mark.parametrize("name", ["grpc_no_status", "grpc_404"])
def test_a_client_cannot_make_pods_fail_that_are_no_grpc_servers_by_calling_its_request_grpc(name):
    recorded = case(name)
    owners = {cluster: replace(owner, http2=False) for cluster, owner in owners_of(recorded).items()}
    seen, booked = classify(a_good_entry(recorded), owners)
    assert isinstance(seen, Observation)
    assert (seen.failure, booked) == (None, Booked.BAD), "the load report counts them as errors all the same"


def test_an_answer_of_a_pod_that_says_cancelled_is_no_error_and_no_sample_of_speed():
    _, candidate, _, _ = collect(case("grpc_cancelled"))
    assert candidate.statuses == (("cancelled", NUMBER),)


def test_a_pods_silence_is_told_from_a_clients_by_the_routes_timeout():
    recorded = case("abort_before_answer")
    [entry, *_] = [entry for kind, raw in messages(recorded) if kind == "log" for entry in logged(raw)]
    took_s = entry.common_properties.duration.ToMilliseconds() / 1e3

    def end(timeout_s):
        owners = {name: Owner(**owner, timeout_s=timeout_s) for name, owner in recorded["owners"].items()}
        seen, _ = classify(entry, owners)
        assert isinstance(seen, Observation)
        return seen.failure, seen.cancelled

    assert end(took_s) == (Failure.TIMEOUT, False)
    assert end(took_s * 2) == (None, True)
    assert end(0.0) == (None, True)


@pytest.mark.parametrize("name", [name for name, arms in EXPECTED.items() if arms[1] != NONE])
def test_what_a_segment_brought_is_counted_the_same_and_apart_from_users(name):
    recorded = case(name)
    collector = Collector(clock=lambda: 0.0)
    collector.own("chat", owners_of(recorded))
    for kind, raw in messages(recorded):
        if kind == "log":
            entries = logged(raw)
            for entry in entries:
                if entry.common_properties.route_name:
                    entry.common_properties.route_name = "chat#staff"
            collector.access_log(message(*entries))
    [(_, block)] = collector.close(1.0)
    assert block.users == {}
    assert numbers(block.pinned[recorded["candidate"]]) == EXPECTED[name][1]


def test_stable_under_another_name_is_stable():
    recorded = case("copies")
    owners = owners_of(recorded)
    owners["chat/2=v1"] = owners[f"chat/{recorded['stable']}"]
    [entry, *_] = [
        entry
        for kind, raw in messages(recorded)
        if kind == "log"
        for entry in logged(raw)
        if cluster(entry) == f"chat/{recorded['stable']}"
    ]
    entry.common_properties.custom_tags["picked"] = "chat/2=v1"
    seen, _ = classify(entry, owners)
    assert isinstance(seen, Observation)
    assert (seen.identity, seen.failure, seen.audience) == (recorded["stable"], None, "users")


def a_good_entry(recorded):
    return next(entry for kind, raw in messages(recorded) if kind == "log" for entry in logged(raw))


def logged(raw):
    return StreamAccessLogsMessage.FromString(raw).http_logs.log_entry


def message(*entries):
    return StreamAccessLogsMessage(http_logs=StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=entries)).SerializeToString()


def cluster(entry):
    return entry.common_properties.upstream_cluster
