"""Which troubles (of a goal: improvements) a gate is asked about, and how they are called.

An amount is what simulated runs take: an error rate, or a factor on stable's latency. A gate with a limit does not look at stable: its troubles
are some times what the limit allows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.planning.load import Load
from policies.spec.policy import Gate, Margin, Metric, Role
from policies.statistics.latency_gate import quantile

ERROR_FACTORS = (2.0, 5.0)
LATENCY_FACTORS = (1.25, 2.0)
ERROR_IMPROVEMENTS = (0.5, 0.1)
LATENCY_IMPROVEMENTS = (0.9, 0.75)

LEAST_RATE = 0.001
"""A stable without errors counts as having so many when they are multiplied."""

TOTAL = 1.0

WORST_FACTOR = 10.0
"""Latencies above this times stable's are not looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One amount. `beyond`: more than the gate's margin; less counts as as good (of a goal: as not better)."""

    amount: float
    beyond: bool


def base(gate: Gate, load: Load) -> float:
    """The amount of a candidate as good as stable."""
    return load.error_rate if gate.metric is Metric.ERROR_RATE else 1.0


def allowed(gate: Gate, load: Load) -> float:
    """The amount at the gate's margin: of a guardrail or signal the largest that counts as as good, of a goal the largest that is not better."""
    if gate.limit is not None:
        return gate.limit if gate.metric is Metric.ERROR_RATE else gate.limit / load.quantile_ms(quantile(gate.statistic) or 0.5)
    goal = gate.role is Role.GOAL
    margin = (gate.better_by if goal else gate.margin) or Margin(relative=0.0)
    relative, absolute = margin.relative, margin.absolute
    if gate.metric is Metric.ERROR_RATE:
        rate = load.error_rate
        if goal:
            return max(min(rate / (1 + (relative or 0.0)), rate - (absolute or 0.0)), 0.0)
        return max(rate * (1 + (relative or 0.0)), rate + (absolute or 0.0))
    by = (absolute or 0.0) / load.quantile_ms(quantile(gate.statistic) or 0.5)
    if goal:
        return max(min(1 / (1 + (relative or 0.0)), 1 - by), 0.0)
    return max(1 + (relative or 0.0), 1 + by)


def sizes(gate: Gate, load: Load) -> tuple[Size, ...]:
    """The usual ones of a gate, from small to large."""
    rate, usual = _usual(gate, load)
    match gate.metric, gate.role:
        case Metric.ERROR_RATE, Role.GOAL:
            amounts: Sequence[float] = [load.error_rate * factor for factor in ERROR_IMPROVEMENTS]
        case Metric.ERROR_RATE, _:
            amounts = [*(rate * factor for factor in ERROR_FACTORS if rate * factor < TOTAL), TOTAL]
        case Metric.LATENCY, Role.GOAL:
            amounts = LATENCY_IMPROVEMENTS
        case _:
            amounts = [usual * factor for factor in LATENCY_FACTORS]
    limit = allowed(gate, load)
    better = gate.role is Role.GOAL
    return tuple(Size(amount=amount, beyond=amount < limit if better else amount > limit * (1 + 1e-9)) for amount in amounts)


def _usual(gate: Gate, load: Load) -> tuple[float, float]:
    """What troubles are multiples of: an error rate and a factor on stable's latency."""
    if gate.limit is not None:
        return allowed(gate, load), allowed(gate, load)
    return max(load.error_rate, LEAST_RATE), 1.0


def target(gate: Gate, load: Load) -> Size | None:
    """The one that a stage should not miss: five times the errors, twice the latency, else the least that is beyond the margin.

    Of a goal: the largest improvement. None = no usual one is beyond the margin.
    """
    found = [size for size in sizes(gate, load) if size.beyond]
    if gate.role is Role.GOAL:
        return found[-1] if found else None
    rate, usual = _usual(gate, load)
    wanted = min(rate * ERROR_FACTORS[-1], TOTAL) if gate.metric is Metric.ERROR_RATE else usual * LATENCY_FACTORS[-1]
    return next((size for size in found if size.amount >= wanted * (1 - 1e-9)), None)


def span(gate: Gate, load: Load) -> tuple[float, float]:
    """(least, most) trouble beyond the margin in which the smallest that is seen is looked for: what `beyond` adds to `allowed`."""
    if gate.role is Role.GOAL:
        most = allowed(gate, load) * 0.98
    else:
        worst = WORST_FACTOR * max(1.0, allowed(gate, load))
        most = (TOTAL if gate.metric is Metric.ERROR_RATE else worst) - allowed(gate, load)
    return most / 2000, most
