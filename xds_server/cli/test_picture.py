"""What `crossfade test` shows: one line per scenario as soon as it is known, then how the runs ended over time, and what was expected in vain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from xds_server.cli import write
from xds_server.services.control import Json, JsonObject

if TYPE_CHECKING:
    from policies.replay.judge import Answer, Part, Spread, Summary
    from policies.replay.scenario import Scenario
    from policies.spec.policy import RolloutPolicy

BAR: Final = 16
"""Cells of an outcome."""

SIGNS: Final = (("promoted", "█", "green"), ("held", "▒", "yellow"), ("reverted", "░", "red"))
"""What fills a bar; told apart without colours too."""

Said = Callable[[float], str]
"""Says a number in words."""

STEPS: Final = " ▁▂▃▄▅▆▇█"

HEAD: Final = ("SCENARIO", "OUTCOME", "PROMOTED", "REVERTED", "HELD", "TO REVERT", "TO PROMOTE", "HARMED", "WRONG")
WIDTHS: Final = (14, BAR, 8, 8, 5, 14, 15, 11, 0)


@dataclass(frozen=True, slots=True)
class Picture:
    """Writes to stdout."""

    colored: bool

    def begin(self, policy: "RolloutPolicy", *, runs: int, seed: int, worlds: Sequence["Scenario"]) -> None:
        """What is replayed, and the head of the table."""
        from policies.replay.flock import can_flock  # noqa: PLC0415 - loaded when used
        from policies.steps import stages  # noqa: PLC0415 - loaded when used

        steps = " -> ".join(stage.label for stage in stages(policy)) or "no steps: promoted at once"
        how = "" if can_flock(policy) else ", replayed block by block"
        click.echo(f"{policy.name}: {steps}")
        click.echo(f"{runs} runs of each scenario, seed {seed}{how}")
        signs = ", ".join(f"{sign} {word}" for word, sign, _ in SIGNS)
        click.echo(f"{signs}; times and harmed users: median, p95; wrong: with its 95% interval")
        if policy.freeze:
            click.echo("freeze windows are not replayed", err=True)
        if worlds:
            click.echo("")
        click.echo(_line(HEAD))

    def row(self, summary: "Summary") -> None:
        """One scenario."""
        cells = [
            summary.scenario,
            self._bar(summary),
            write.percent(round(summary.promoted.rate, 4)),
            write.percent(round(summary.reverted.rate, 4)),
            write.percent(round(summary.held.rate, 4)),
            _spread(summary.to_revert, write.age),
            _spread(summary.to_promote, write.age),
            _spread(summary.harmed, _amount),
            _wrong(summary),
        ]
        click.echo(_line(cells, painted={1: cells[1]}))

    def end(self, found: Sequence["Summary"]) -> None:
        """How the runs ended over time, why, and what was expected."""
        width = max((len(each.scenario) for each in found), default=0)
        click.echo("\nOVER TIME: the part of all runs that was promoted, and that was reverted")
        for each in found:
            promoted, reverted = (_curve([getattr(moment, how) for moment in each.timeline]) for how in ("promoted", "reverted"))
            last = write.age(each.timeline[-1].at_s) if each.timeline else "-"
            up, down = write.paint(promoted, "green", colored=self.colored), write.paint(reverted, "red", colored=self.colored)
            click.echo(f"{each.scenario:<{width}}  {up}│  {down}│ {last}")
        click.echo("\nMOSTLY BECAUSE")
        for each in found:
            (ended, code, gate, step), count = each.reasons[0]
            named = f" ({gate})" if gate else ""
            click.echo(
                f"{each.scenario:<{width}}  {write.percent(count / each.runs):>5} {ended} at {step or '-'}: {code.replace('_', ' ')}{named}"
            )
        self._answers(found)

    def _answers(self, found: Sequence["Summary"]) -> None:
        told = [(each, answer) for each in found for answer in each.answers if answer.verdict != "holds"]
        asked = sum(len(each.answers) for each in found)
        if asked:
            click.echo(f"\n{asked - len(told)} of {asked} expectations hold")
        for each, answer in told:
            word = "FAILS" if answer.verdict == "fails" else "OPEN"
            color = "red" if answer.verdict == "fails" else "yellow"
            click.echo(f"{write.paint(word, color, colored=self.colored)}  {each.scenario}: {_sentence(answer)}")

    def _bar(self, summary: "Summary") -> str:
        rates = [getattr(summary, word).rate for word, _, _ in SIGNS]
        cells = _cells(rates, BAR)
        return "".join(
            write.paint(sign * count, color, colored=self.colored) for (_, sign, color), count in zip(SIGNS, cells, strict=True) if count
        )


def listing(worlds: Sequence["Scenario"]) -> list[str]:
    """The library, a line each."""
    return write.columns(("SCENARIO", "RIGHT", "WHAT IT IS"), [(each.name, each.meant, each.about) for each in worlds])


def _line(cells: Sequence[str], painted: dict[int, str] | None = None) -> str:
    plain = {} if painted is None else painted
    parts = []
    for index, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True)):
        shown = len(click.unstyle(cell)) if index in plain else len(cell)
        parts.append(cell + " " * max(width - shown, 0))
    return "  ".join(parts).rstrip()


def _cells(rates: Sequence[float], width: int) -> list[int]:
    """Whole cells that sum to `width`; whatever happened at all has one."""
    cells = [max(1, int(rate * width)) if rate > 0 else 0 for rate in rates]
    while sum(cells) != width:
        place = max(range(len(rates)), key=lambda index: (rates[index] * width - cells[index]) * (1 if sum(cells) < width else -1))
        cells[place] += 1 if sum(cells) < width else -1
    return cells


def _curve(values: Sequence[float]) -> str:
    return "".join(STEPS[0 if value <= 0 else max(1, round(value * (len(STEPS) - 1)))] for value in values)


def _part(part: "Part") -> str:
    return f"{write.percent(round(part.rate, 4))} ({_short(part.low)}-{_short(part.high)})"


def _short(rate: float) -> str:
    return f"{rate * 100:.1f}".removesuffix(".0")


def _spread(spread: "Spread", said: Said) -> str:
    return (
        "-" if spread.p50 is None or spread.p95 is None else f"{said(spread.p50)}, {said(spread.p95)}".replace(" ", "").replace(",", ", ")
    )


def _amount(amount: float) -> str:
    return f"{amount:.1f}".removesuffix(".0") if amount < 100 else f"{amount:.0f}"


def _wrong(summary: "Summary") -> str:
    """What a good policy does not do: false reverts, or missed regressions."""
    if summary.false_reverts is not None:
        return f"{_part(summary.false_reverts)} false"
    return f"{_part(summary.missed)} missed" if summary.missed is not None else "-"


def _sentence(answer: "Answer") -> str:
    expected = answer.expected
    what = expected.what.replace("_", " ") + (f" p{expected.level * 100:g}" if expected.level is not None else "")
    if answer.value is None:
        return f"{what} is expected {expected.text}, but no run ended so"
    said = _say(expected.what)
    seen = f"{said(answer.value)} ({said(answer.low)} to {said(answer.high)} at 99% confidence)"
    more = "" if answer.verdict == "fails" else "; more runs would tell"
    return f"{what} is expected {expected.text}, seen is {seen}{more}"


def _say(what: str) -> Said:
    from policies.replay.expectations import RATES, TIMES  # noqa: PLC0415 - loaded when used

    def bounded(amount: float) -> str:
        if abs(amount) == float("inf"):
            return "any"
        return write.percent(round(amount, 5)) if what in RATES else write.age(amount) if what in TIMES else _amount(amount)

    return bounded


# JSON.


def as_json(policy: "RolloutPolicy", found: Sequence["Summary"], *, runs: int, seed: int) -> JsonObject:
    """The whole outcome; durations end in `_s`, parts are fractions."""
    from policies.replay.flock import can_flock  # noqa: PLC0415 - loaded when used

    return {
        "rollout": policy.name,
        "runs": runs,
        "seed": seed,
        "folded": can_flock(policy),
        "holds": not any(summary.fails for summary in found),
        "scenarios": [_scenario(summary) for summary in found],
    }


def _scenario(summary: "Summary") -> JsonObject:
    return {
        "name": summary.scenario,
        "about": summary.about,
        "runs": summary.runs,
        "promoted": _part_json(summary.promoted),
        "reverted": _part_json(summary.reverted),
        "held": _part_json(summary.held),
        "false_reverts": _part_json(summary.false_reverts),
        "missed": _part_json(summary.missed),
        "time_to_revert_s": _spread_json(summary.to_revert),
        "time_to_promote_s": _spread_json(summary.to_promote),
        "users_harmed": _spread_json(summary.harmed),
        "users_slowed": _spread_json(summary.slowed),
        "candidate_requests": _spread_json(summary.candidates),
        "because": [
            {"ended": ended, "reason": code, "gate": gate or None, "step": step or None, "runs": count}
            for (ended, code, gate, step), count in summary.reasons
        ],
        "timeline": [
            {"at_s": round(moment.at_s, 3), "promoted": moment.promoted, "reverted": moment.reverted} for moment in summary.timeline
        ],
        "expect": [_answer_json(answer) for answer in summary.answers],
    }


def _part_json(part: "Part | None") -> Json:
    return None if part is None else {"runs": part.count, "rate": part.rate, "low": round(part.low, 6), "high": round(part.high, 6)}


def _spread_json(spread: "Spread") -> Json:
    return {"p50": _rounded(spread.p50), "p95": _rounded(spread.p95)}


def _rounded(value: float | None) -> float | None:
    return None if value is None or abs(value) == float("inf") else round(value, 3)


def _answer_json(answer: "Answer") -> JsonObject:
    expected = answer.expected
    return {
        "what": expected.what,
        "quantile": expected.level,
        "expected": expected.text,
        "verdict": answer.verdict,
        "value": _rounded(answer.value),
        "low": _rounded(answer.low),
        "high": _rounded(answer.high),
    }
