"""What an arm is held against when stable has no traffic any more: stable's requests of before."""

from policies import yardstick
from policies.evidence import NOTHING
from policies.rollout import Mode, Yardstick
from policies.spec.policy import Hold, PromoteStep, SwitchStep
from tests.crowd import begun, serve, share
from tests.making import canary, counts, policy

LONG = Hold(for_s=1e6)


def seen(requests, errors=0, latency_ms=100.0):
    return yardstick.measure(Yardstick(), counts(requests, errors, latency_ms), now=0.0)


def given(measure, requests, blocks):
    """All that is given out in some blocks."""
    errors = total = 0
    bins = {}
    for _ in range(blocks):
        measure, out = yardstick.give(measure, requests)
        total, errors = total + out.requests, errors + out.errors
        for place, count in out.latency:
            bins[place] = bins.get(place, 0) + count
    return total, errors, bins


def test_errors_come_back_in_the_part_they_were():
    assert given(seen(1000, 30), 7, 1000)[:2] == (7000, 210)


def test_latencies_come_back_in_the_parts_they_were():
    measure = yardstick.measure(seen(900, latency_ms=100.0), counts(100, latency_ms=900.0), now=0.0)
    total, _, bins = given(measure, 10, 100)
    assert sum(bins.values()) == total == 1000
    assert sorted(bins.values()) == [100, 900]


def test_a_stable_that_was_hardly_seen_is_no_yardstick():
    assert yardstick.give(seen(yardstick.LEAST - 1), 10)[1] == NOTHING
    assert yardstick.give(seen(yardstick.LEAST), 10)[1].requests == 10


def test_a_block_gives_out_so_many_at_most_and_nothing_for_nothing():
    assert yardstick.give(seen(1000), 10**9)[1].requests == yardstick.PER_BLOCK
    assert yardstick.give(seen(1000), 0)[1] == NOTHING


def test_what_is_remembered_is_bounded_and_keeps_its_parts():
    measure = Yardstick()
    for second in range(2000):
        measure = yardstick.measure(measure, counts(1000, 100), now=float(second))
    assert measure.seen.requests <= yardstick.MOST + 1000
    assert abs(measure.seen.errors / measure.seen.requests - 0.1) < 0.01


def switched():
    return begun(policy(steps=(canary(1000, hold=Hold(for_s=3)), SwitchStep(arm="candidate", hold=LONG), PromoteStep())))


def test_a_switch_takes_everything_by_one_change():
    run = switched()
    serve(run, 60, until=lambda state: state.position == 1)
    shares = [dict(record.shares)["candidate"] for record in run.records if record.decision.value in {"entered", "advanced"}]
    assert shares == [1000, 10_000]
    assert share(run) == {"candidate": 10_000}


def test_where_enough_is_known_one_second_in_ten_is_measured():
    measure = seen(yardstick.ENOUGH)
    assert yardstick.measure(measure, counts(10), now=11.0) is measure
    assert yardstick.measure(measure, counts(10), now=20.0).seen.requests == yardstick.ENOUGH + 10


def test_behind_a_switch_an_arm_is_judged_against_what_stable_was():
    run = switched()
    serve(run, 60, until=lambda state: state.position == 1)
    serve(run, 20)
    assert run.state.mode is Mode.STEP
    serve(run, 10, failing={"v2": 1.0})
    assert run.state.mode is Mode.REVERTED
    assert share(run) == {"candidate": 0}


def test_an_arm_that_fails_as_often_as_stable_did_is_not_taken_back():
    run = switched()
    serve(run, 60, failing={"v1": 0.2, "v2": 0.2}, until=lambda state: state.position == 1)
    serve(run, 30, failing={"v2": 0.2})
    assert run.state.mode is Mode.STEP


def test_while_it_bakes_a_promoted_version_that_fails_goes_back_to_the_one_that_is_warm():
    run = begun(policy(steps=(canary(1000), PromoteStep(keep_stable_for_s=60))))
    serve(run, 60, until=lambda state: state.mode is Mode.BAKING)
    serve(run, 10, failing={"v2": 1.0})
    assert (run.state.mode, run.state.stable.version) == (Mode.REVERTED, "v1")
    assert run.state.rejected == (policy().arms[0].identity,)


def test_a_version_that_bakes_well_is_kept_and_the_old_one_let_go_at_the_end():
    run = begun(policy(steps=(canary(1000), PromoteStep(keep_stable_for_s=20))))
    serve(run, 60, until=lambda state: state.mode is Mode.BAKING)
    serve(run, 19)
    assert (run.state.mode, run.state.previous.version) == (Mode.BAKING, "v1")
    serve(run, 2)
    assert (run.state.mode, run.state.previous) == (Mode.PROMOTED, None)
