"""Numbers of a plan as people say them, and as they write them into a policy."""

import math

from policies.spec.policy import Gate, Margin, Metric, Role


def about(seconds: float) -> str:
    """A time, roughly: 0.7 s, 33 s, 5.1 min, 51 min, 1.3 h, 2.5 d."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds)} s"


def rounded_up(seconds: float) -> float:
    """A time as a person would write it, not shorter [s]."""
    step = next(size for limit, size in ((60, 5), (600, 30), (7200, 300), (math.inf, 1800)) if seconds <= limit)
    return float(math.ceil(seconds / step - 1e-9) * step)


def written(seconds: float) -> str:
    """A time as a policy has it: 90s, 5m, 2h."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def count(requests: float) -> str:
    return _two_digits(requests) if requests < 100 else f"{float(f'{requests:.2g}'):,.0f}".replace(",", " ")


def whole(requests: float) -> str:
    """A number of requests: whole ones, two digits if there are many."""
    return count(math.ceil(requests - 1e-9))


def percent(fraction: float) -> str:
    """0.019 is "1.9%"; three digits at most."""
    return f"{fraction * 100:.3g}%" if fraction < 1 else "100%"


def amount(gate: Gate, value: float) -> str:
    """An error rate, or a change of latency."""
    if gate.metric is Metric.ERROR_RATE:
        return percent(float(f"{value:.2g}"))
    return f"{'+' if value >= 1 else '-'}{abs(value - 1) * 100:.0f}%"


def change(gate: Gate, base: float, value: float) -> str:
    """From stable's to another amount, as a noun: "a rise from 1% to 5%", "a latency of +25%"."""
    if gate.metric is Metric.ERROR_RATE:
        return f"a {'fall' if gate.role is Role.GOAL else 'rise'} from {percent(base)} to {amount(gate, value)}"
    return f"a latency of {amount(gate, value)}"


def margin(value: Margin, metric: Metric) -> str:
    """As a policy has it: {absolute: 1%, relative: 50%}."""
    parts = []
    if value.absolute is not None:
        parts.append(f"absolute: {percent(value.absolute) if metric is Metric.ERROR_RATE else f'{math.ceil(value.absolute)}ms'}")
    if value.relative is not None:
        parts.append(f"relative: {value.relative * 100:.3g}%")
    return f"{{{', '.join(parts)}}}"


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"
