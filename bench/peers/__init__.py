"""The rules of other tools, told again in a few lines each and vectorised over simulated runs: what `bench.gates` compares with.

Rules are facts and were read in each tool's documents and source; the code is ours. A rule sees one block of traffic after the other and
says in which runs it takes the candidate out. `Block` and the windows below are what they share.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What came in `seconds`, per run [requests].

    Attributes:
        n_b, k_b: Requests and errors of stable.
        n_c, k_c: The same of the candidate.
        n_t, k_t: The same of a third arm: a fresh copy of stable that gets as much traffic as the candidate, which Kayenta asks for.
    """

    seconds: float
    n_b: np.ndarray
    k_b: np.ndarray
    n_c: np.ndarray
    k_c: np.ndarray
    n_t: np.ndarray
    k_t: np.ndarray

    def __add__(self, other):
        return Block(**{name: getattr(self, name) + getattr(other, name) for name in Block.__slots__})


class Window:
    """Adds blocks up until they are `seconds` long; `push` gives the whole window when it closes, else None."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.held = None

    def push(self, block):
        self.held = block if self.held is None else self.held + block
        if self.held.seconds < self.seconds - 1e-9:
            return None
        whole, self.held = self.held, None
        return whole
