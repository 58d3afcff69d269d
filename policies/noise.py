"""How much more the pods of stable differ among themselves than chance explains: what the error gates of a rollout divide their evidence by.

Stable's pods stand in two halves, as if the one were a candidate for the other (A/A). Each minute with errors says how far the halves are apart;
`phi` is the mean of that, at least 1. It is learnt all the time, also while nothing is rolled out, and used by blocks that come later.
With fewer than two pods, or before an hour of it, gates take requests for independent, and say so.
Neighbours: `policies.statistics.dispersion` has the formula, `xds_server.evidence.halves` counts.
"""

from dataclasses import dataclass, replace

from policies.evidence import SAMPLED, Halves
from policies.statistics.dispersion import Dispersion

MINUTE_S = 60.0

CALIBRATED_MINUTES = 60.0
"""Minutes with errors in them after which the noise counts as known."""

REMEMBERED_MINUTES = 1440.0
"""Older minutes are forgotten: noise has its seasons."""

PHI_MAX = 100.0
"""Pods that differ so much say nothing about versions; more would only make every gate blind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What is known; round-trips through JSON.

    Attributes:
        phi: Times by which counts vary more than by chance, >= 1.
        minutes: That it was learnt in.
        since: Start of the open minute [s since the epoch]; None = there is none.
        halves: Its counts so far.
        memory: Of the calibration.
    """

    phi: float = 1.0
    minutes: float = 0.0
    since: float | None = None
    halves: Halves = ((0, 0), (0, 0))
    memory: tuple[float, ...] = (0.0,) * 6

    @property
    def known(self) -> bool:
        return self.minutes >= CALIBRATED_MINUTES


def seen(noise: Noise, halves: Halves | None, *, now: float) -> Noise:
    """The noise after a block.

    Args:
        halves: Of stable's pods in the block; None = they cannot be told apart.
        now: Seconds since the epoch. A jump of the clock ends the minute.
    """
    if noise.since is not None and not 0 <= now - noise.since < MINUTE_S:
        noise = _closed(noise)
    if halves is None:
        return noise
    (first, second), (more, others) = noise.halves, halves
    total = (first[0] + more[0], first[1] + more[1]), (second[0] + others[0], second[1] + others[1])
    return replace(noise, halves=total, since=now if noise.since is None else noise.since)


def _closed(noise: Noise) -> Noise:
    """After the open minute. That good answers are only sampled makes the halves look further apart by 1 + SAMPLED * errors / requests."""
    first, second = noise.halves
    try:
        before = Dispersion.restore(noise.memory)
    except ValueError:
        before = Dispersion.start()
    after = before.update(first, second)
    requests, errors = first[0] + second[0], first[1] + second[1]
    square = (after.squares - before.squares) / (1 + SAMPLED * errors / max(requests, 1))
    kept = min(1.0, REMEMBERED_MINUTES / max(float(after.minutes), 1.0))
    numbers = [float(value) * kept for value in replace(after, squares=before.squares + square).memory()]
    learnt = Dispersion.restore(tuple(numbers))
    return Noise(phi=min(float(learnt.phi), PHI_MAX), minutes=float(learnt.minutes), memory=learnt.memory())
