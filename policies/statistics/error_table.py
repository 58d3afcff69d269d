"""Blocks of thousands of runs at once: log E read from a table.

Given the candidate's share of a block, log E is linear in three counts: the candidate's errors, the baseline's errors, all requests. Its
coefficients depend on the share and on the rate the baseline is known to have, and on nothing else. So they are computed once for a grid of
shares per rate, as `blocks` has them, and interpolated: what is left of a block is the product of a sparse matrix (runs by grid) and the
table. Simulations live on this; a server, which has one run at a time, computes each block exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from policies.statistics.mixture import Floats

Arm = tuple[Floats, Floats]
"""(requests, errors) per run [requests]."""

STEP = 0.025
"""Distance of the grid's points on the scale of log odds of the share."""

REACH = 7.0
"""Log odds beyond which a share (0.1 % or 99.9 %) is computed exactly."""

POINTS = 4
"""Points a value is interpolated from: to about 1e-8 of log E."""

NODES = round(2 * REACH / STEP) + POINTS

COUNTS = 3
"""Candidate's errors, baseline's errors, all requests."""

MANY_REQUESTS = 1e6
"""Requests of a block from which it is computed exactly [requests]: errors of the table grow with them."""

_OFFSETS = np.arange(POINTS) - (POINTS // 2 - 1.0)
_DENOMINATORS = np.array([np.prod([offset - other for other in _OFFSETS if other != offset]) for offset in _OFFSETS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Coefficients of one pair of margins, filled rate by rate as they are asked for.

    Attributes:
        exact: log E of FAIL and of PASS from (candidate, baseline, place of the known rate), alternatives on the last axis; linear in counts.
        places: Number of known rates told apart.
        sizes: Number of alternatives of FAIL and of PASS.
        rows: The coefficients of both; axes place, node, count (all three flat), alternative. What was never asked for was never written.
        filled: Places that are there.
    """

    exact: Callable[[Arm, Arm, Floats], tuple[Floats, Floats]]
    places: int
    sizes: tuple[int, int]
    rows: tuple[Floats, Floats] = field(init=False)
    filled: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        rows = tuple(np.empty((self.places * NODES * COUNTS, size)) for size in self.sizes)
        object.__setattr__(self, "rows", rows)

    def fill(self, place: int) -> None:
        odds = np.exp((np.arange(NODES) - (POINTS // 2 - 1)) * STEP - REACH)
        share, none, one = odds / (1 + odds), np.zeros(NODES), np.ones(NODES)
        known = np.full(NODES, float(place))
        clean = self.exact((share, none), (1 - share, none), known)  # of one request in all
        bad_c = self.exact((share, one), (1 - share, none), known)
        bad_b = self.exact((share, none), (1 - share, one), known)
        there = slice(place * NODES * COUNTS, (place + 1) * NODES * COUNTS)
        for rows, *(of_c, of_b, of_all) in zip(self.rows, bad_c, bad_b, clean, strict=True):
            rows[there] = np.stack([of_c - of_all, of_b - of_all, of_all], axis=1).reshape(NODES * COUNTS, -1)
        self.filled.add(place)


def read(table: Table, candidate: Arm, baseline: Arm, place: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Log E of one block per run, of FAIL and of PASS; axes runs, alternatives.

    Args:
        table: Of the margins.
        candidate: Per run; requests > 0.
        baseline: The same of the other arm.
        place: Of the known rate, per run, 0 <= place < `table.places`.
    """
    for value in np.flatnonzero(np.bincount(place)).tolist():
        if value not in table.filled:
            table.fill(value)
    requests = candidate[0] + baseline[0]
    position = np.log(candidate[0] / baseline[0])
    far = (np.abs(position) >= REACH) | (requests > MANY_REQUESTS)
    position = (np.clip(position, -REACH, REACH) + REACH) / STEP
    node = np.minimum(position.astype(np.int32), NODES - POINTS)
    counts = np.stack([candidate[1], baseline[1], requests], axis=-1)
    values = np.einsum("pr,rc->rpc", _weights(position - node), counts, order="C")
    width = POINTS * COUNTS
    first = (place.astype(np.int32) * NODES + node) * COUNTS
    columns = first[:, np.newaxis] + np.arange(width, dtype=np.int32)
    ends = np.arange(0, (len(place) + 1) * width, width, dtype=np.int32)
    grid = csr_array((values.ravel(), columns.ravel(), ends), shape=(len(place), len(table.rows[0])))
    fail, good = (grid @ rows for rows in table.rows)
    if far.any():
        arms = (candidate[0][far], candidate[1][far]), (baseline[0][far], baseline[1][far])
        fail[far], good[far] = table.exact(*arms, place[far].astype(np.float64))
    return fail, good


def _weights(distance: Floats) -> Floats:
    """Lagrange's weights of the points around a place `distance` (0 to 1) behind the middle one; points on the first axis."""
    gaps = distance - _OFFSETS[:, np.newaxis]
    before, after = np.ones_like(gaps), np.ones_like(gaps)
    for index in range(1, POINTS):
        before[index] = before[index - 1] * gaps[index - 1]
        after[-1 - index] = after[-index] * gaps[-index]
    before *= after
    before /= _DENOMINATORS[:, np.newaxis]
    return before
