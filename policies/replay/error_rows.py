"""An error gate of many runs at once, with one row per run: `policies.statistics.ErrorGate`, and its way into the engine's values and back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from policies.gates import GateState
from policies.replay.arrays import Ints, Rows, changed
from policies.statistics import ErrorGate
from policies.statistics.mixture import Floats, Process


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRows:
    """Evidence so far; `updated` gives the next. `gate`: all of its numbers are arrays."""

    gate: ErrorGate

    @classmethod
    def start(cls, fresh: ErrorGate, runs: int) -> Self:
        return cls(
            gate=_gate(
                fresh,
                {
                    name: np.tile(np.asarray(value, dtype=np.float64), (runs, *(1,) * np.ndim(value)))
                    for name, value in _parts(fresh).items()
                },
            )
        )

    def updated(self, arms: tuple[Ints, Ints], seen: Ints, *, elapsed_s: Floats, now: Floats, deadline_s: float) -> "ErrorRows":
        """The gate after one more block of each run; (requests, errors) of stable and of the candidate are columns."""
        del seen, now, deadline_s
        base, cand = arms
        return ErrorRows(gate=self.gate.update((base[:, 0], base[:, 1]), (cand[:, 0], cand[:, 1]), elapsed_s=elapsed_s))

    @property
    def log_fail(self) -> Floats:
        return self.gate.log_fail

    @property
    def log_pass(self) -> Floats:
        return self.gate.log_pass

    def state(self, row: int, like: GateState) -> GateState:
        """Memory of one run."""
        return replace(like, memory=_gate(self.gate, {name: value[row] for name, value in _parts(self.gate).items()}).memory())

    def put(self, rows: Sequence[int], states: Sequence[GateState]) -> "ErrorRows":
        """The same with what the engine has of some runs."""
        parts = {name: np.array(value) for name, value in _parts(self.gate).items()}
        for row, state in zip(rows, states, strict=True):
            for name, value in _parts(ErrorGate.restore(self.gate.config, state.memory)).items():
                parts[name][row] = value
        return ErrorRows(gate=_gate(self.gate, parts))

    def only(self, rows: Rows) -> "ErrorRows":
        """Some runs alone."""
        return ErrorRows(gate=_gate(self.gate, {name: value[rows] for name, value in _parts(self.gate).items()}))

    def with_rows(self, rows: Rows, given: "ErrorRows") -> "ErrorRows":
        """The same with other rows."""
        parts = {name: np.array(value) for name, value in _parts(self.gate).items()}
        for name, value in _parts(given.gate).items():
            parts[name][rows] = value
        return ErrorRows(gate=_gate(self.gate, parts))


_OWN = ("known_requests", "known_errors", "requests", "errors")
_PROCESS = ("log_fail", "log_pass", "left", "age_s")


def _parts(gate: ErrorGate) -> dict[str, Floats]:
    """All numbers of a gate by name."""
    own = {name: np.asarray(getattr(gate, name)) for name in _OWN}
    return own | {name: np.asarray(getattr(gate.process, name)) for name in _PROCESS}


def _gate(like: ErrorGate, parts: dict[str, Floats]) -> ErrorGate:
    """The gate with other numbers."""
    process = Process(**{name: parts[name] for name in _PROCESS})
    return changed(like, {"process": process} | {name: parts[name] for name in _OWN})
