"""How strict a gate must be and how long it takes: margins from budgets, levels of several gates, requests until a verdict.

The formulas of requests are the levels over the mean evidence of one request (Wald 1947: a sequential test ends when its evidence, which
grows by the Kullback-Leibler divergence, reaches its threshold); what mixing over alternatives and starts costs is 2 nats, as simulated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, isfinite, log, log1p

import numpy as np

from policies.statistics import blocks

MIXING_NATS = 2.0
"""What a FAIL pays for not knowing how bad and since when."""

BUDGET = 0.001
"""Default blast radius: tolerated excess of bad requests, as a share of all traffic."""


def before_step(share: float, *, margin: float = 0.0, budget: float = BUDGET) -> float:
    """The absolute margin at which a gate must PASS before the candidate gets `share` of the traffic.

    A candidate worse by this margin harms no more than `budget` of all requests at that share. Small shares need little proof.

    Args:
        share: The next share, 0 < share <= 1.
        margin: What the operator allows anyway, as a rate.
        budget: Tolerated excess of bad requests, as a share of all traffic, > 0.
    Returns: A rate; 1 or more = any candidate may.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    if not budget > 0:
        raise ValueError(f"budget must be > 0, got {budget}; hint: 0.001 tolerates one more bad request in a thousand")
    return max(budget / share, margin)


def level(alpha: float, candidates: int) -> float:
    """What each of several candidates that are compared with one baseline may use of alpha (union bound)."""
    if candidates < 1:
        raise ValueError(f"there must be one candidate at least, got {candidates}")
    return alpha / candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One probability of a false revert for a whole rollout, divided over named guardrails.

    Attributes:
        alpha: Of the rollout, 0 < alpha < 1.
        weights: (name of the guardrail, its part of alpha), sum 1.
    """

    alpha: float
    weights: tuple[tuple[str, float], ...]

    @classmethod
    def divide(cls, alpha: float, weights: Mapping[str, float]) -> "Budget":
        """Weights > 0 of any sum; the same for all = evenly."""
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        wrong = [name for name, weight in weights.items() if not (weight > 0 and isfinite(weight))]
        if wrong or not weights:
            raise ValueError(f"every guardrail needs a weight > 0: {', '.join(wrong) or 'there is none'}")
        total = sum(weights.values())
        return cls(alpha=alpha, weights=tuple((name, weight / total) for name, weight in weights.items()))

    def own(self, name: str) -> float:
        """The level at which this guardrail may fail by itself, and be named for it."""
        return self.alpha * dict(self.weights)[name]

    def joint(self, evidence: Mapping[str, float]) -> tuple[float, tuple[tuple[str, float], ...]]:
        """Evidence that some guardrail is violated, and what each adds to it, the largest first.

        The weighted mean of e-values is one whatever their dependence (Vovk & Wang, arXiv:1912.06116), and at least as strong as the
        strictest union bound. FAIL at 1 / alpha. A guardrail without evidence yet counts as 0.
        """
        parts = [(name, weight * evidence.get(name, 0.0)) for name, weight in self.weights]
        return sum(part for _, part in parts), tuple(sorted(parts, key=lambda part: -part[1]))


def requests_to_fail(ratio: float, *, rate: float, share: float, alpha: float) -> float:
    """Candidate requests until a candidate `ratio` times worse than allowed has failed; infinite for ratio <= 1 [requests].

    Args:
        ratio: Its error rate over the rate that the margin allows, > 0.
        rate: The allowed rate, 0 < rate < 1.
        share: The candidate's share of the requests, 0 < share < 1.
        alpha: The gate's level.
    """
    if ratio <= 1:
        return inf
    gain = ratio * log(ratio) - (ratio + (1 - share) / share) * log1p(share * (ratio - 1))
    return (log(1 / alpha) + MIXING_NATS) / (rate * gain) if gain > 0 else inf


def requests_to_pass(relative: float, *, rate: float, share: float, beta: float) -> float:
    """Candidate requests until a candidate as good as the baseline has passed a relative margin [requests].

    Args:
        relative: The margin, a fraction on top of the baseline's rate, > 0.
        rate: Error rate of both, 0 < rate < 1.
        share: The candidate's share of the requests, 0 < share < 1.
        beta: The level of PASS.
    """
    if relative <= 0:
        return inf
    gain = -log1p(relative) + log1p(share * relative) / share
    return log(1 / beta) / (rate * gain) if gain > 0 else inf


def requests_to_pass_absolute(margin: float, *, rate: float, share: float, beta: float) -> float:
    """The same for an absolute margin: log(1/beta) over the divergence of two equal arms from the nearest pair that differs by it.

    Args:
        margin: The margin, as a rate, 0 < margin < 1 - rate.
        rate, share, beta: As of `requests_to_pass`.
    """
    if margin <= 0:
        return inf
    if rate + margin >= 1:
        return 0.0
    theta = np.array([rate])
    x = float(blocks.project(np.array([share]), theta, theta, margin)[0])
    gain = _divergence(rate, x + margin) + (1 - share) / share * _divergence(rate, x)
    return log(1 / beta) / gain if gain > 0 else inf


def smallest_ratio(requests: float, *, rate: float, share: float, alpha: float) -> float:
    """The smallest regression, as a ratio > 1 of error rates, that so many candidate requests show; infinite if none does."""
    low, high = 0.0, log(1 / rate)
    if requests_to_fail(exp(high), rate=rate, share=share, alpha=alpha) > requests:
        return inf
    for _ in range(60):
        middle = (low + high) / 2
        seen = requests_to_fail(exp(middle), rate=rate, share=share, alpha=alpha) <= requests
        low, high = (low, middle) if seen else (middle, high)
    return exp(high)


def requests_to_compare(gap: float, *, deviation: float, alpha: float) -> float:
    """Effective requests, n_a n_b / (n_a + n_b), until two means `gap` apart (tolerance included) are told apart [requests].

    Args:
        gap: Distance of the true difference from what it is tested against, in the unit of the values.
        deviation: Standard deviation of one request's value.
        alpha: The level of the pair.
    """
    return 2 * log(1 / alpha) * deviation**2 / gap**2 if gap else inf


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q), 0 < p, q < 1 [nats]."""
    return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))
