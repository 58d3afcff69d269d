"""The traffic a policy is planned for: how many requests, and what stable answers like."""

from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite, log
from statistics import NormalDist

import numpy as np

from policies.evidence import LATENCY_EDGES_MS
from policies.statistics.mixture import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is expected.

    Attributes:
        rps: All requests of the rollout [requests/s], > 0.
        error_rate: Stable's, 0 <= error_rate < 1.
        latency_ms: Stable's median latency [ms], > 0.
        latency_spread: Standard deviation of the logarithm of its latency, > 0: its latency is taken for log-normal.

    Raises: ValueError: If a range above is broken.
    """

    rps: float
    error_rate: float = 0.01
    latency_ms: float = 100.0
    latency_spread: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.rps < inf:
            raise ValueError(f"the load must be > 0 requests/s, got {self.rps:g}")
        if not 0 <= self.error_rate < 1:
            raise ValueError(f"an error rate is at least 0% and less than 100%, got {self.error_rate:.3%}")
        for name, value in (("median latency", self.latency_ms), ("spread of the latency", self.latency_spread)):
            if not (value > 0 and isfinite(value)):
                raise ValueError(f"the {name} must be > 0, got {value:g}")

    def quantile_ms(self, level: float) -> float:
        """Stable's latency at a level, 0 < level < 1 [ms]."""
        return float(self.latency_ms * np.exp(self.latency_spread * NormalDist().inv_cdf(level)))

    def latencies(self, factor: float = 1.0) -> Floats:
        """Probability of each latency bin where every answer takes `factor` times as long as stable's."""
        return _latencies(log(self.latency_ms * factor), self.latency_spread)


@lru_cache(maxsize=256)
def _latencies(middle: float, spread: float) -> Floats:
    below = [NormalDist(middle, spread).cdf(log(edge)) for edge in LATENCY_EDGES_MS]
    found: Floats = np.diff(np.array([0.0, *below, 1.0]))
    return found
