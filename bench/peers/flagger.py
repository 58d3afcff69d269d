"""Flagger's analysis, with the figures its README shows.

Read in fluxcd/flagger 15bd6ad: `pkg/controller/scheduler.go` (order of a tick, the counter), `pkg/metrics/providers/prometheus.go` (no value
is an error), README and `docs/gitbook/usage/metrics.md` (interval 1m, threshold 10, success rate >= 99 %, p99 <= 500 ms).
"""

import numpy as np

from bench.peers import Window


class Checks:
    """The counter of failed checks: it never falls, and the tick that finds it at the threshold rolls back, before it looks at anything."""

    def __init__(self, threshold):
        self.threshold = threshold
        self.failed = 0

    def tick(self, bad):
        fires = np.broadcast_to(self.failed >= self.threshold, bad.shape)
        self.failed = self.failed + bad
        return fires


class Flagger:
    """Every minute: the candidate's success rate over the last minute, `least` or a failed check. A minute without requests is one too."""

    def __init__(self, *, least=0.99, threshold=10, interval_s=60.0):
        self.window = Window(interval_s)
        self.least = least
        self.checks = Checks(threshold)

    def see(self, block):
        minute = self.window.push(block)
        if minute is None:
            return None
        bad = (minute.n_c == 0) | (minute.n_c - minute.k_c < self.least * minute.n_c - 1e-9)
        return self.checks.tick(bad)


class FlaggerLatency:
    """The same counter over the p99 of the candidate's last minute, `most_ms` or a failed check."""

    def __init__(self, edges_ms, *, most_ms=500.0, quantile=0.99, threshold=10):
        self.above = np.asarray(edges_ms) >= most_ms
        self.quantile = quantile
        self.checks = Checks(threshold)

    def see_minute(self, candidate):
        """`candidate`: counts per bin of one minute; axes runs, bins. The p99 is above where fewer than 99 % are below."""
        total = candidate.sum(axis=-1)
        bad = (total == 0) | ((candidate * self.above).sum(axis=-1) > (1 - self.quantile) * total)
        return self.checks.tick(bad)
