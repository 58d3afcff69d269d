"""Tests on running totals: the z-test looked at again and again, two published sequential tests, and the bound nobody can beat.

Each sees blocks of ten seconds and adds them up over the whole run, whatever the share was.
"""

import numpy as np
from scipy.special import gammaln, ndtr

from bench.peers import Window

LEAST = 30
"""Requests of each arm below which a test with a normal approximation says nothing."""


class Totals:
    """Sums of all blocks; `test` says where it fires."""

    def __init__(self, *, alpha=0.05):
        self.alpha = alpha
        self.window = Window(10.0)
        self.n_b = self.k_b = self.n_c = self.k_c = 0

    def see(self, block):
        block = self.window.push(block)
        if block is None:
            return None
        self.n_b, self.k_b = self.n_b + block.n_b, self.k_b + block.k_b
        self.n_c, self.k_c = self.n_c + block.n_c, self.k_c + block.k_c
        return self.test()


class NaiveZ(Totals):
    """The one-sided two-proportion z-test (pooled variance) at every look, as if it were the only one."""

    def test(self):
        n_c, n_b = np.maximum(self.n_c, 1), np.maximum(self.n_b, 1)
        pooled = (self.k_c + self.k_b) / (n_c + n_b)
        deviation = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / n_c + 1 / n_b), 1e-300))
        p = ndtr(-(self.k_c / n_c - self.k_b / n_b) / deviation)
        return (p < self.alpha) & (self.n_c >= LEAST) & (self.n_b >= LEAST)


def half_width(variance, n, *, alpha=0.05, tuned=5000, one_sided=True):
    """GrowthBook's asymptotic confidence sequence: half its width.

    Read in growthbook `packages/stats/gbstats` (sequential_interval_halfwidth, sequential_rho), after Waudby-Smith et al.,
    arXiv:2103.06476.

    Args:
        variance: Of one observation, so that variance / n is that of the estimate.
        n: Observations of both arms.
        tuned: The n at which it is tightest.
    """
    level = 2 * alpha if one_sided else alpha
    squared = (-2 * np.log(level) + np.log(1 - 2 * np.log(level))) / tuned
    grown = n * squared + 1
    nats = np.log(1 + np.sqrt(grown) / (2 * alpha)) if one_sided else np.log(np.sqrt(grown) / alpha)
    return np.sqrt(variance * 2 * grown / (n * n * squared) * nats)


class GrowthBook(Totals):
    """Fires where the lower end of the difference's confidence sequence is above 0."""

    def test(self):
        n_c, n_b = np.maximum(self.n_c, 1), np.maximum(self.n_b, 1)
        p_c, p_b = self.k_c / n_c, self.k_b / n_b
        n = n_c + n_b
        variance = (p_c * (1 - p_c) / n_c + p_b * (1 - p_b) / n_b) * n
        return (p_c - p_b > half_width(variance, n, alpha=self.alpha)) & (self.n_c >= LEAST) & (self.n_b >= LEAST)


class Multinomial(Totals):
    """Lindon and Malek's test (arXiv:2011.03567, Netflix): of all errors, more than the share `weight` are the candidate's.

    A Dirichlet prior of 100 observations around the weights. The split of traffic is taken for what was configured, once and for all.
    """

    PRIOR = 100.0

    def __init__(self, weight, *, alpha=0.05):
        super().__init__(alpha=alpha)
        self.weight = weight

    def test(self):
        return (self.evidence() >= -np.log(self.alpha)) & (self.k_c > self.weight * (self.k_c + self.k_b))

    def evidence(self):
        """Log odds that errors do not split as traffic does."""
        total = gammaln(self.PRIOR) - gammaln(self.PRIOR + self.k_c + self.k_b)
        for errors, weight in ((self.k_c, self.weight), (self.k_b, 1 - self.weight)):
            prior = self.PRIOR * weight
            total = total + gammaln(prior + errors) - gammaln(prior) - errors * np.log(weight)
        return total


class Oracle(Totals):
    """Wald's sequential test by one who knows both error rates. Not a tool: what no test can beat by much."""

    def __init__(self, *, p_b, p_c, alpha=0.05):
        super().__init__(alpha=alpha)
        self.bad, self.good = np.log(p_c / p_b), np.log((1 - p_c) / (1 - p_b))

    def test(self):
        return self.k_c * self.bad + (self.n_c - self.k_c) * self.good >= -np.log(self.alpha)
