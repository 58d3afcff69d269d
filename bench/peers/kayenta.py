"""Kayenta's judge: Mann and Whitney's test of one-minute values, candidate against a fresh copy of stable.

Read in spinnaker/kayenta a69573b: `NetflixACAJudge.scala` (tolerance 0.25, confidence 0.98, effect size), `MannWhitneyClassifier.scala`
(High if the lower end of the interval is above a quarter of the estimated shift and the ratio of means at least the allowed increase, 1),
`MannWhitney.scala` (interval and estimate as R's `wilcox.test` computes them with normal approximation, ties and continuity corrected),
`WeightedSumScorer.scala` (a failing critical metric is score 0). Missing values are 0, as its documents advise for errors.
"""

from collections import deque

import numpy as np
from scipy.special import ndtri

from bench.peers import Window

TOLERANCE = 0.25
CONFIDENCE = 0.98
HAIR = 1e-9
EVERY = 10
LOOKBACK = 60
"""Minutes."""


def shift(candidate, baseline):
    """Hodges and Lehmann's estimate: the median of all differences; axes runs, values."""
    differences = candidate[:, :, np.newaxis] - baseline[:, np.newaxis, :]
    return np.median(differences.reshape(len(candidate), -1), axis=-1)


def standardised(candidate, baseline, moved):
    """The statistic of the test of "candidate - moved" against the baseline, corrected for ties and continuity; axes runs, values."""
    left = candidate - moved[:, np.newaxis]
    size_c, size_b = left.shape[1], baseline.shape[1]
    differences = left[:, :, np.newaxis] - baseline[:, np.newaxis, :]
    above = (differences > 0).sum(axis=(1, 2)) + (differences == 0).sum(axis=(1, 2)) / 2 - size_c * size_b / 2
    total = size_c + size_b
    variance = size_c * size_b / 12 * (total + 1 - _ties(np.concatenate([left, baseline], axis=1)) / (total * (total - 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, (above - np.sign(above) / 2) / np.sqrt(variance), 0.0)


def _ties(values):
    """Sum of c^3 - c over groups of c equal values; axes runs, values."""
    ordered = np.sort(values, axis=1)
    place = np.arange(values.shape[1])
    changes = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, changes]), place, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.hstack([changes, edge]), place, place[-1])[:, ::-1], axis=1)[:, ::-1]
    return ((last - first + 1.0) ** 2 - 1).sum(axis=1)


def high(candidate, baseline):
    """Whether the judge calls the metric High, per run; axes runs, values of one minute each.

    The lower end of the interval is above a quarter of the shift exactly where the test of a hair more than that rejects (the statistic
    falls in steps, and the end lies on one): no root is searched.
    """
    bound = TOLERANCE * np.abs(shift(candidate, baseline)) + HAIR
    rejects = standardised(candidate, baseline, bound) > ndtri(1 - (1 - CONFIDENCE) / 2)
    return rejects & (candidate.mean(axis=1) >= baseline.mean(axis=1))


class Judge:
    """Judges every ten minutes the values of the last hour at most."""

    def __init__(self):
        self.values = deque(maxlen=LOOKBACK)
        self.minutes = 0

    def minute(self, candidate, baseline):
        """Takes one value per run and arm; at every tenth says in which runs the candidate fails, else None."""
        self.values.append((candidate, baseline))
        self.minutes += 1
        if self.minutes % EVERY:
            return None
        values_c, values_b = (np.stack(arm, axis=1) for arm in zip(*self.values, strict=True))
        return np.concatenate([high(values_c[part], values_b[part]) for part in _parts(len(values_c))])


def _parts(runs, size=200):
    return [slice(start, start + size) for start in range(0, runs, size)]


class Kayenta:
    """One-minute error rates, a critical metric."""

    def __init__(self):
        self.window = Window(60.0)
        self.judge = Judge()

    def see(self, block):
        minute = self.window.push(block)
        if minute is None:
            return None
        return self.judge.minute(minute.k_c / np.maximum(minute.n_c, 1), minute.k_t / np.maximum(minute.n_t, 1))
