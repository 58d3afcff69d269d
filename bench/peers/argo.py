"""Argo Rollouts' analysis run, with the template of its documents.

Read in argoproj/argo-rollouts 9f8d111: `docs/features/analysis.md` (the success-rate template: interval 5m, successCondition >= 0.95,
failureLimit 3), `analysis/analysis.go` and `rollout/analysis.go` (failures are counted over the whole run; *more* than the limit aborts),
`utils/evaluate` (NaN is a failed measurement where only a success condition is given).
"""

import numpy as np

from bench.peers import Window


class Argo:
    """Every five minutes: the candidate's success rate over the last five. The fourth failed measurement aborts."""

    def __init__(self, *, least=0.95, failure_limit=3, interval_s=300.0):
        self.window = Window(interval_s)
        self.least = least
        self.failure_limit = failure_limit
        self.failed = 0

    def see(self, block):
        window = self.window.push(block)
        if window is None:
            return None
        good = (window.n_c > 0) & (window.n_c - window.k_c >= self.least * window.n_c - 1e-9)
        self.failed = self.failed + np.logical_not(good)
        return self.failed > self.failure_limit
