"""The audit over random traffic: what was lost is handed out once it is sure, what was only late never."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from xds_server.evidence.audit import LEAST, SETTLE_S, TOLERANCE, WINDOW_S, Audit

FLUSH_S = 0.01
REPORT_S = 0.1
LOOK_S = 0.1
NAME = "chat/v1"


def run(*, seed, rates, lost_share, error_share, envoys, log_delay_s=FLUSH_S, extra_logged=0):
    """Plays traffic of so many requests in each tenth of a second and then a rest; yields (now, requests, errors) handed out, and the truth.

    Each Envoy reports in its own rhythm and sends its log at most `log_delay_s` late; entries are lost at random.
    """
    rng = random.Random(seed)
    audit = Audit()
    audit.follow([NAME])
    phases = [rng.random() * REPORT_S for _ in range(envoys)]
    events, lost, lost_errors = [], 0, 0
    for slot, number in enumerate(rates):
        for _ in range(number):
            at = (slot + rng.random()) * LOOK_S
            envoy = rng.randrange(envoys)
            error = rng.random() < error_share
            report_at = phases[envoy] + REPORT_S * (1 + (at - phases[envoy]) // REPORT_S)
            events.append((report_at, "report", error))
            if rng.random() < lost_share:
                lost, lost_errors = lost + 1, lost_errors + error
            else:
                events.append((at + rng.random() * log_delay_s, "log", error))
    events.extend((0.0, "log", False) for _ in range(extra_logged))
    end = len(rates) * LOOK_S + 3 * SETTLE_S
    looks = [(LOOK_S * (1 + look), "look", False) for look in range(int(end / LOOK_S))]
    handed = []
    for now, what, error in sorted([*events, *looks], key=lambda event: event[0]):
        if what == "report":
            audit.reported(NAME, 1, int(error), now=now)
        elif what == "log":
            audit.logged(NAME, errors=int(error))
        else:
            handed += [(now, requests, errors) for _, requests, errors in audit.missing(now)]
    return handed, lost, lost_errors, audit


TRAFFIC = st.lists(st.integers(0, 60), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), rates=TRAFFIC, envoys=st.integers(1, 3), error_share=st.sampled_from([0.0, 0.2, 1.0]))
def test_what_is_only_late_is_never_called_lost(seed, rates, envoys, error_share):
    handed, lost, _, audit = run(seed=seed, rates=rates, lost_share=0.0, error_share=error_share, envoys=envoys)
    assert lost == 0
    assert handed == []
    assert audit.gap(NAME) == 0.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rates=TRAFFIC,
    envoys=st.integers(1, 3),
    lost_share=st.floats(0.05, 1.0),
    error_share=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_what_was_lost_is_handed_out_and_never_more(seed, rates, envoys, lost_share, error_share):
    handed, lost, lost_errors, _ = run(seed=seed, rates=rates, lost_share=lost_share, error_share=error_share, envoys=envoys)
    total = sum(requests for _, requests, _ in handed)
    assert total <= lost
    assert sum(errors for _, _, errors in handed) <= lost_errors
    # What is left is noise: less than LEAST, or within the tolerance of what was reported in the window.
    assert lost - total < max(LEAST, TOLERANCE * sum(rates[-int(WINDOW_S / LOOK_S) :]) + 1)
    if error_share == 1.0:
        assert all(requests == errors for _, requests, errors in handed)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), extra=st.integers(1, 2000))
def test_a_log_that_brought_more_does_not_hide_a_later_loss(seed, extra):
    """Traffic, a rest of two seconds (the surplus is forgiven), then traffic of which all is lost."""
    quiet = [0] * 40
    first, *_ = run(seed=seed, rates=[*quiet], lost_share=0.0, error_share=0.0, envoys=1, extra_logged=extra)
    assert first == []
    handed, lost, _, audit = run(seed=seed, rates=[*quiet, *[10] * 20], lost_share=1.0, error_share=0.0, envoys=1, extra_logged=extra)
    assert lost == 200
    assert sum(requests for _, requests, _ in handed) == lost
    assert audit.gap(NAME) == 1.0


def test_a_loss_under_steady_traffic_is_seen_while_it_goes_on():
    """At 300 requests a second with a fifth of the entries lost the first correction comes within a few seconds, not at the next rest."""
    rates = [30] * 80
    handed, *_ = run(seed=1, rates=rates, lost_share=0.2, error_share=0.0, envoys=2)
    assert handed[0][0] < len(rates) * LOOK_S / 2


def test_series_are_bounded_however_often_somebody_reports():
    audit = Audit()
    audit.follow([NAME])
    for _ in range(20_000):
        audit.reported(NAME, 1, 0, now=1.0)
        audit.reported("chat/nobody's", 1, 0, now=1.0)
    kept = audit._clusters
    assert set(kept) == {NAME}
    assert max(len(kept[NAME].history), len(kept[NAME].reports)) <= 1024


def test_clusters_that_go_are_forgotten_and_those_that_stay_keep_their_balance():
    audit = Audit()
    audit.follow(["a", "b"])
    audit.reported("a", 100, 0, now=0.0)
    audit.follow(["a", "c"], gone=["b"])
    found = [each for look in range(30) for each in audit.missing(look / 10)]
    assert found == [("a", 100, 0)]
