"""One block of one latency gate: what `blocks.scores` computes for many runs at once, here for a single one by a handful of calls.

A server feeds thousands of gates with small blocks, and there numpy's price is per call. The scores of all bins are a table that is made when the
baseline's distribution is taken (`latency_gate.RENEW`); a block picks the columns of the bins that hold something. Equal to the general form up to
rounding: `tests/properties/test_gates.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.evidence import LATENCY_BINS
from policies.statistics.latency_gate import LatencyConfig, moved, scores
from policies.statistics.mixture import Floats

Pairs = Sequence[tuple[int, int]]
"""(bin, count) of the bins that hold something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Scores of the bins that differ; those outside are as the first or the last. Axes: alternatives of FAIL, then of PASS; bins.

    Attributes:
        candidate: 1 / u of each bin of the candidate, its margin taken off.
        baseline: u of each bin of the baseline.
        first: The bin of both first columns.
    """

    candidate: Floats
    baseline: Floats
    first: int


def table(config: LatencyConfig, known: Pairs | Sequence[tuple[int, float]]) -> Table:
    """The scores by a known distribution of the baseline, not empty [requests]."""
    histogram = np.zeros(LATENCY_BINS)
    for place, count in known:
        histogram[place] = count
    held = np.flatnonzero(histogram)
    first, last = max(int(held[0]) - 1, 0), min(int(held[-1]) + 1, LATENCY_BINS - 1)
    beyond = max(int(np.searchsorted(down, last)) for down in moved(config.relative, config.absolute_ms))
    worse, better = scores(config, histogram, candidate=np.arange(first, beyond + 1), baseline=np.arange(first, last + 1))
    of_candidate, of_baseline = (np.concatenate(arm) for arm in zip(worse, better, strict=True))
    return Table(candidate=np.exp(-of_candidate), baseline=np.exp(of_baseline), first=first)


def one_block(scored: Table, candidate: Pairs, baseline: Pairs) -> list[float]:
    """Log E of the block per alternative of FAIL, then of PASS; neither arm is empty.

    A request of the candidate adds log(u / (1 - f + f u)), one of the baseline -log(1 - f + f u), where f is the candidate's share.
    """
    places_c, counts_c = zip(*candidate, strict=True)
    places_b, counts_b = zip(*baseline, strict=True)
    requests_c = sum(counts_c)
    share = requests_c / (requests_c + sum(counts_b))
    of_candidate = _mixed(scored.candidate, places_c, scored.first, 1 - share, share)
    of_baseline = _mixed(scored.baseline, places_b, scored.first, share, 1 - share)
    log_e = of_candidate @ np.array(counts_c, dtype=np.float64)
    log_e += of_baseline @ np.array(counts_b, dtype=np.float64)
    log_less: list[float] = np.negative(log_e, out=log_e).tolist()
    return log_less


def _mixed(values: Floats, places: Sequence[int], first: int, weight: float, rest: float) -> Floats:
    """log(rest + weight * value) of the bins asked for."""
    mixed: Floats = values.take(np.array(places) - first, axis=1, mode="clip")
    mixed *= weight
    mixed += rest
    return np.log(mixed, out=mixed)
