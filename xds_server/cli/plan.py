"""`crossfade plan`: what a policy can find out with the traffic it will get, and where it cannot decide.

Everything is computed here, from the policy files, with the gates that ship (`policies.planning`); no server is asked.
"""

import math
import re
from collections.abc import Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import click

from xds_server.cli import exits, write
from xds_server.cli.exits import CliError
from xds_server.cli.options import no_color, output
from xds_server.services.control import Json, JsonObject

if TYPE_CHECKING:
    from policies.planning.answer import CoursePlan, Detection, GatePlan, Plan, StagePlan
    from policies.planning.load import Load
    from policies.planning.warnings import Warned
    from policies.spec.faults import Fault
    from policies.spec.policy import RolloutPolicy

NUMBER: Final = r"(\d+(?:\.\d+)?)"
QUANTILE: Final = re.compile(r"p(\d{1,2}(?:\.\d+)?)=" + NUMBER + r"(?:ms)?")
BASELINES: Final = "error_rate=1%, latency_ms=lognormal(100,0.6) or latency_ms=p50=100,p99=400"


class Baseline(click.ParamType[dict[str, float]]):
    """What stable answers like, read into fields of `policies.planning.load.Load`."""

    name = "baseline"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        text = str(value).replace(" ", "")
        rate = re.fullmatch(f"error_rate={NUMBER}%", text)
        if rate is not None:
            return {"error_rate": float(rate[1]) / 100}
        shape = re.fullmatch(rf"latency_ms=lognormal\({NUMBER},{NUMBER}\)", text)
        if shape is not None:
            return {"latency_ms": float(shape[1]), "latency_spread": float(shape[2])}
        found = self._quantiles(text.removeprefix("latency_ms="))
        if found is None:
            self.fail(f"{value!r} does not say what stable answers like, such as {BASELINES}", param, ctx)
        return found

    @staticmethod
    def _quantiles(text: str) -> dict[str, float] | None:
        """The log-normal latency with two given quantiles."""
        found = [QUANTILE.fullmatch(part) for part in text.split(",")]
        if len(found) != 2 or found[0] is None or found[1] is None:
            return None
        (low, low_ms), (high, high_ms) = sorted((float(each[1]) / 100, float(each[2])) for each in found if each is not None)
        if not (0 < low < high and 0 < low_ms < high_ms):
            return None
        deviations = [NormalDist().inv_cdf(level) for level in (low, high)]
        spread = math.log(high_ms / low_ms) / (deviations[1] - deviations[0])
        return {"latency_ms": low_ms * math.exp(-spread * deviations[0]), "latency_spread": spread}


@click.command()
@click.argument("path", metavar="POLICY")
@click.option("--rps", type=click.FloatRange(0, min_open=True), required=True, metavar="N", help="All requests of the rollout, a second.")
@click.option(
    "--baseline",
    "baselines",
    type=Baseline(),
    multiple=True,
    metavar="WHAT",
    help=f"What stable answers like: {BASELINES}; may be repeated.  [default: error_rate=1%, latency_ms=lognormal(100,0.6)]",
)
@click.option("--rollout", metavar="NAME", help="Only this rollout.  [default: all]")
@output
@no_color
@click.pass_context
def plan(context: click.Context, *, path: str, rps: float, baselines: tuple[dict[str, float], ...], rollout: str | None, form: str) -> None:
    """Tell what a policy can find out with the traffic it will get.

    By stage and gate: the smallest trouble that is seen, the time and the bad answers until it is reverted, when a good candidate passes; how
    long the rollout takes, and could take. Simulated with the gates that ship, from a fixed seed. Exits 0 if the policy can decide, 1 if it cannot.
    """
    from policies.planning.plan import plan as planned  # noqa: PLC0415 - loaded when used
    from policies.planning.warnings import decides, warnings  # noqa: PLC0415 - loaded when used

    load = _load(rps, baselines)
    places = _Places(path)
    answers = [(found, warnings(found)) for found in (planned(policy, load) for policy in _chosen(path, rollout))]
    if form == "table":
        click.echo("\n\n".join("\n".join(_told(found, warned, places)) for found, warned in answers))
    else:
        write.document([_as_json(found, warned, places) for found, warned in answers], form)
    context.exit(exits.DONE if all(decides(warned) for _, warned in answers) else exits.NO)


def _load(rps: float, baselines: tuple[dict[str, float], ...]) -> "Load":
    from policies.planning.load import Load  # noqa: PLC0415 - loaded when used

    said: dict[str, float] = {}
    for each in baselines:
        said |= each
    try:
        return Load(rps=rps, **said)
    except ValueError as error:
        raise CliError(str(error), where="--rps" if "load" in str(error) else "--baseline", hint=BASELINES, code=exits.USAGE) from None


def _chosen(path: str, name: str | None) -> list["RolloutPolicy"]:
    from xds_server.cli.policy_files import good  # noqa: PLC0415 - loaded when used

    rollouts = good((path,), code=exits.USAGE).rollouts
    chosen = [each for each in rollouts if name in {None, each.name}]
    if not chosen:
        names = ", ".join(each.name for each in rollouts) or "none"
        what = f"there is no rollout {name!r} in {path}" if name else f"there is no rollout in {path}"
        raise CliError(what, hint=f"there are: {names}", code=exits.USAGE)
    return chosen


class _Places:
    """Where things stand in the policy files."""

    def __init__(self, path: str) -> None:
        from xds_server.cli.policy_files import is_document, read  # noqa: PLC0415 - loaded when used

        self._texts = {} if path == "-" else {file: text for file, text in read((path,)).items() if is_document(file) or file == path}

    def of(self, rollout: str, fault: "Fault") -> JsonObject:
        """A fault as `validate -o json` writes it; without a place if the files came from stdin."""
        from policies.spec.reader import read  # noqa: PLC0415 - loaded when used
        from policies.spec.wording import written  # noqa: PLC0415 - loaded when used

        told: JsonObject = {"path": written(fault.path), "message": fault.message, "hint": fault.hint}
        for file, text in self._texts.items():
            for document in read(file, text)[0]:
                data = document.data
                meta = data.get("metadata") if isinstance(data, dict) and data.get("kind") == "Rollout" else None
                if isinstance(meta, dict) and meta.get("name") == rollout:
                    line, column = document.place(fault.path)
                    return {"file": file, "line": line, "column": column, **told}
        return {"file": "<stdin>", "line": None, "column": None, **told}


# For people.


def _told(found: "Plan", warned: tuple["Warned", ...], places: _Places) -> Iterator[str]:
    from policies.planning.sentences import assumed, sentences  # noqa: PLC0415 - loaded when used
    from policies.planning.warnings import decides  # noqa: PLC0415 - loaded when used
    from xds_server.cli.picture import faults  # noqa: PLC0415 - loaded when used

    yield f"{found.policy.name}  {assumed(found)}"
    if not found.policy.arms:
        yield "  nothing to roll out"
        return
    for course in found.courses:
        yield ""
        if len(found.courses) > 1:
            yield f"  {', '.join(course.arms)}"
        yield from _table(course)
    yield ""
    yield from (f"  {text}" for text in sentences(found))
    for each in warned:
        first, *rest = faults([places.of(found.policy.name, each.fault)])
        yield ""
        yield f"{'cannot decide' if each.blocks else 'note'}: {first}"
        yield from rest
    if decides(warned):
        yield ""
        yield f"{found.policy.name} can decide"


HEAD: Final = ("STAGE", "REQUESTS/S", "LASTS", "GATE", "SEES FROM", "SOME TROUBLE", "MUCH TROUBLE", "GOOD PASSES")
"""SEES FROM: the smallest trouble that is seen while the stage holds. Trouble: how much, and when it is reverted. Of a goal: improvements."""


def _table(course: "CoursePlan") -> Iterator[str]:
    from policies.planning.words import about, count  # noqa: PLC0415 - loaded when used

    rows: list[tuple[str, ...]] = []
    for stage in course.stages:
        flow = next(iter(stage.flows), None)
        lasts = "a person" if stage.phase.stage.kind == "approve" else "too long" if stage.least_s is None else about(stage.least_s)
        start = (stage.phase.stage.label, count(flow.arm) if flow is not None else "-", lasts)
        rows += [((start if not place else ("", "", "")) + _row(each)) for place, each in enumerate(stage.gates)] or [
            (*start, "-", *[""] * (len(HEAD) - 4))
        ]
    yield from write.columns(HEAD, rows, indent="  ")


def _row(each: "GatePlan") -> tuple[str, ...]:
    from policies.planning.words import about, amount  # noqa: PLC0415 - loaded when used

    sees = "-" if each.radius else "nothing" if each.smallest is None else amount(each.gate, each.smallest)
    if each.pass_chance is None:
        passes = ""
    elif each.pass_s is None:
        passes = "too late"
    else:
        passes = "at once" if each.pass_s < 0.2 else about(each.pass_s)
    troubles = [f"{amount(each.gate, found.amount)}: {_after(each, found)}" for found in each.detections[-2:]]
    return (each.name, sees, *["-"] * (2 - len(troubles)), *troubles, passes)


def _after(each: "GatePlan", found: "Detection") -> str:
    from policies.planning.words import about, whole  # noqa: PLC0415 - loaded when used

    if not found.beyond:
        return "as good"
    if found.time_s is None:
        return "too late"
    counts = found.harm is not None and each.gate.metric == "envoy/error_rate"
    return about(found.time_s) + (f", {whole(found.harm or 0.0)} bad" if counts else "")


# For machines.


def _as_json(found: "Plan", warned: tuple["Warned", ...], places: _Places) -> JsonObject:
    from policies.planning.sentences import budget, sentences  # noqa: PLC0415 - loaded when used
    from policies.planning.warnings import decides  # noqa: PLC0415 - loaded when used

    policy, load = found.policy, found.load
    alpha = policy.false_revert
    shares: list[Json] = [{"gate": name, "share": share, "odds_needed": 1 / (alpha * share)} for name, share in budget(policy)]
    courses: list[Json] = [_course_json(course) for course in found.courses]
    told: list[Json] = [{**places.of(policy.name, each.fault), "blocks": each.blocks} for each in warned]
    words: list[Json] = list(sentences(found)) if policy.arms else []
    return {
        "rollout": policy.name,
        "decides": decides(warned),
        "load": {
            "rps": load.rps,
            "error_rate": load.error_rate,
            "latency_p50_ms": load.latency_ms,
            "latency_p99_ms": load.quantile_ms(0.99),
            "latency_log_sd": load.latency_spread,
        },
        "budget": {"false_revert": alpha, "guardrails": shares},
        "arms": courses,
        "warnings": told,
        "words": words,
    }


def _course_json(course: "CoursePlan") -> JsonObject:
    shorter: list[Json] = [
        {"label": each.phase.stage.label, "hold_s": each.phase.stage.hold.for_s, "lasts_s": each.least_s} for each in course.shorter
    ]
    stages: list[Json] = [_stage_json(each) for each in course.stages]
    return {
        "arms": list(course.arms),
        "lasts_s": course.least_s,
        "stages": stages,
        "shortest": {"lasts_s": course.shortest_s, "stages": shorter},
    }


def _stage_json(each: "StagePlan") -> JsonObject:
    from policies.spec.wording import written  # noqa: PLC0415 - loaded when used

    stage, blast = each.phase.stage, each.blast
    return {
        "label": stage.label,
        "kind": stage.kind,
        "path": written(each.phase.path),
        "share": sum((share for _, share in stage.shares), 0) / 10_000,
        "traffic": [{"of": "copies" if flow.copies else "users", "arm_rps": flow.arm, "stable_rps": flow.against} for flow in each.flows],
        "hold_s": stage.hold.for_s,
        "samples": stage.hold.samples,
        "samples_after_s": each.samples_s,
        "lasts_s": each.least_s,
        "lasts_p80_s": each.sure_s,
        "waits_for": each.bottleneck,
        "within_s": each.phase.horizon_s if stage.kind != "promote" else None,
        "suggested_hold_s": each.suggested_hold_s,
        "can_be_left_out": each.skippable,
        "total_failure_bad_answers_p50": blast[0] if blast else None,
        "total_failure_bad_answers_p95": blast[1] if blast else None,
        "gates": [_gate_json(gate) for gate in each.gates],
    }


def _gate_json(each: "GatePlan") -> JsonObject:
    latency = each.gate.metric != "envoy/error_rate"
    key = "latency_factor" if latency else "error_rate"
    harm = "answers" if latency else "bad_answers"
    changes: list[Json] = [
        {
            key: found.amount,
            "beyond_margin": found.beyond,
            "seen_within_hold": found.chance,
            "after_p50_s": found.time_s,
            "after_p80_s": found.sure_s,
            f"{harm}_p50": found.harm,
            f"{harm}_p95": found.harm_most,
        }
        for found in each.detections
    ]
    return {
        "gate": each.gate.name,
        "role": each.gate.role.value,
        "of": "copies" if each.copies else "users",
        "statistic": each.gate.statistic,
        "odds_needed": each.needed,
        "window_s": each.window_s,
        f"smallest_seen_{key}": each.smallest,
        "changes": changes,
        "good_passes_after_p50_s": each.pass_s,
        "good_passes_after_p80_s": each.pass_sure_s,
        "good_passes_requests": each.pass_requests,
        "good_passes_in_time": each.pass_chance,
    }
