"""A replay that folds quiet blocks is the real engine fed with every block: the same runs end the same way, at the same time, for the same reason."""

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from policies.replay.flock import can_flock
from policies.replay.scenario import Incident, Latency, Load, Moment, Noise, Scenario
from policies.replay.simulate import simulate
from policies.spec.policy import (
    ApproveStep,
    Gate,
    Hold,
    Margin,
    Metric,
    ProbeRequest,
    ProbeStep,
    PromoteStep,
    Role,
    SwitchStep,
    Then,
    When,
)
from tests.making import canary, policy, shadow

RUNS = 3

ERRORS = Gate(name="errors", metric=Metric.ERROR_RATE, margin=Margin(absolute=0.01))
GATES = (
    (ERRORS,),
    (Gate(name="errors", metric=Metric.ERROR_RATE, margin=Margin(relative=0.5, absolute=0.005)),),
    (ERRORS, Gate(name="p95", metric=Metric.LATENCY, statistic="p95", margin=Margin(relative=0.25))),
    (ERRORS, Gate(name="slow", metric=Metric.LATENCY, role=Role.SIGNAL, margin=Margin(relative=0.2))),
    (ERRORS, Gate(name="better", metric=Metric.ERROR_RATE, role=Role.GOAL, margin=Margin(absolute=0.005), better_by=Margin(relative=0.0))),
)

holds = st.builds(Hold, for_s=st.sampled_from([0.0, 20.0, 90.0]), samples=st.sampled_from([0, 50, 300]))
steps = st.lists(
    st.one_of(
        st.builds(lambda share, hold: canary(share, hold=hold), st.sampled_from([100, 1000, 5000]), holds),
        st.builds(lambda hold: canary(500, 2500, hold=hold), holds),
        st.builds(lambda hold: shadow(2000, hold=hold), holds),
        st.builds(ApproveStep, who=st.just("ann"), within_s=st.sampled_from([60.0, 600.0]), then=st.sampled_from(Then)),
        st.just(ProbeStep(requests=(ProbeRequest(),), for_s=30.0)),
    ),
    min_size=1,
    max_size=3,
)
endings = st.one_of(
    st.builds(lambda bake: (PromoteStep(keep_stable_for_s=bake),), st.sampled_from([0.0, 120.0])),
    st.builds(lambda hold: (SwitchStep(arm="candidate", hold=hold), PromoteStep(keep_stable_for_s=60.0)), holds),
)
whens = st.builds(
    When,
    fail=st.sampled_from(Then),
    no_data_after_s=st.sampled_from([30.0, 300.0]),
    no_data=st.sampled_from([Then.HOLD, Then.REVERT]),
    stuck_after_s=st.sampled_from([200.0, 900.0]),
    stuck=st.sampled_from([Then.REVERT, Then.HOLD]),
)
policies = st.builds(
    lambda first, last, gates, when, alpha: policy(steps=(*first, *last), gates=gates, when=when, false_revert=alpha),
    steps,
    endings,
    st.sampled_from(GATES),
    whens,
    st.sampled_from([0.01, 0.2]),
)
moments = st.builds(Moment, s=st.sampled_from([0.0, 10.0, 75.5, 240.0]))
incidents = st.one_of(
    st.builds(
        Incident,
        kind=st.just("errors"),
        arm=st.sampled_from(["candidate", "stable", "all"]),
        at=moments,
        for_s=st.sampled_from([15.0, 1e6]),
        ramp_s=st.sampled_from([0.0, 30.0]),
        rate=st.sampled_from([0.05, 0.3, 1.0]),
    ),
    st.builds(Incident, kind=st.just("latency"), at=moments, times=st.sampled_from([1.3, 3.0]), ramp_s=st.sampled_from([0.0, 20.0])),
    st.builds(Incident, kind=st.just("latency"), at=moments, tail_share=st.just(0.1), tail_times=st.just(8.0)),
    st.builds(Incident, kind=st.just("silence"), at=moments, for_s=st.sampled_from([50.0, 1e6])),
    st.builds(Incident, kind=st.just("pods"), at=moments, for_s=st.sampled_from([4.0, 40.0]), ready=st.sampled_from([0, 1])),
)
scenarios = st.builds(
    Scenario,
    name=st.just("drawn"),
    load=st.builds(
        Load, points=st.sampled_from([((0.0, 0.5),), ((0.0, 20.0),), ((0.0, 2.0), (600.0, 80.0))]), swing=st.sampled_from([0.0, 0.9])
    ),
    errors=st.sampled_from(
        [(("stable", 0.01),), (("stable", 0.02), ("candidate", 0.06)), (("stable", 0.0),), (("stable", 0.05), ("candidate", 0.01))]
    ),
    noise=st.sampled_from([Noise(), Noise(shared=0.6), Noise(arms=0.5, every_s=20.0)]),
    latency=st.sampled_from([Latency(), Latency(p50_ms=5.0, p99_ms=6.0)]),
    incidents=st.lists(incidents, max_size=2).map(tuple),
    approve_after_s=st.sampled_from([0.0, 45.0, None]),
    ack_s=st.sampled_from([0.0, 0.2, 3.0]),
    horizon_s=st.just(2000.0),
)


@settings(max_examples=30, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(document=policies, scenario=scenarios, seed=st.integers(0, 2**32))
def test_a_folded_replay_ends_as_the_engine_fed_with_every_block(document, scenario, seed):
    assert can_flock(document)
    quick, exact = (simulate(document, scenario, runs=RUNS, random=np.random.default_rng(seed), exact=exact) for exact in (False, True))
    assert quick == exact
    assert len(quick) == RUNS
    assert all(0 <= run.ended_s <= 2000.001 and run.harmed >= 0 and run.took_s >= 0 for run in quick)
