"""A rollout's status as a picture: said once (`Picture`), drawn as aligned text when piped and as a framed table on a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.cli import write
from xds_server.cli.write import clean, clock, figure, items, number, part, percent, text
from xds_server.services.control import Json, JsonObject

if TYPE_CHECKING:
    from rich.console import RenderableType

GATE_HEAD = ("GATE", "ROLE", "VERDICT", "WORSE", "AS GOOD", "ESTIMATE", "REQUESTS", "AGE")
"""WORSE and AS GOOD: odds as of now, and those a FAIL or a PASS needs. ESTIMATE and REQUESTS: stable, then the candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One rollout, in words."""

    name: str
    phase: str
    versions: str
    rows: tuple[tuple[str, str], ...]
    gate_head: tuple[str, ...] = GATE_HEAD
    gates: tuple[tuple[str, ...], ...] = ()


def picture(status: JsonObject) -> Picture:
    """Reads a rollout of `GET /v1/rollouts`; what an older server leaves out is a dash."""
    variants = items(status.get("variants"))
    stable = clean(text(part(status, "stable").get("version")))
    rows = [("traffic", _traffic(status, variants))]
    if isinstance(status.get("step"), dict):
        rows.append(("step", _step(part(status, "step"))))
    rows += [(clean(text(variant.get("name"))), _arm(variant, several=len(variants) > 1)) for variant in variants]
    if status.get("winner"):
        rows.append(("winner", clean(text(status.get("winner")))))
    rows += [("frozen", _freeze(each)) for each in items(status.get("freezes"))]
    lease = part(status, "lease")
    rows.append(("lease", f"{figure(lease.get('ttl_s'))} s, {'held' if lease.get('held') else 'not held'}"))
    rows.append(("proxies", _proxies(part(status, "proxies"))))
    if policy := _policy(part(status, "policy")):
        rows.append(("policy", policy))
    rows.append(("because", clean(text(status.get("because")))))
    gates = items(status.get("gates"))
    named = len({text(gate.get("variant")) for gate in gates}) > 1
    return Picture(
        name=clean(text(status.get("name"))),
        phase=clean(text(status.get("phase"))),
        versions=_versions(stable, variants),
        rows=tuple(rows),
        gate_head=("VARIANT", *GATE_HEAD) if named else GATE_HEAD,
        gates=tuple((clean(text(gate.get("variant"))), *_gate(gate)) if named else _gate(gate) for gate in gates),
    )


def _versions(stable: str, variants: Sequence[JsonObject]) -> str:
    """Such as `v1 -> v2`, or `v1 -> b: v2, c: v3`."""
    if not variants:
        return stable
    versions = [clean(text(variant.get("version"))) for variant in variants]
    if len(variants) > 1:
        versions = [f"{clean(text(variant.get('name')))}: {version}" for variant, version in zip(variants, versions, strict=True)]
    return f"{stable} -> {', '.join(versions)}"


def _arm(variant: JsonObject, *, several: bool) -> str:
    """Its pods, what they can carry if that is not everything, and why it was taken out."""
    words = f"{clean(text(variant.get('version')))}, " if several else ""
    words += f"{text(variant.get('ready'))} of {text(variant.get('pods'))} pods ready"
    capacity = number(variant.get("capacity_share"))
    if capacity is not None and capacity < 1.0 and number(variant.get("ready")):
        words += f", enough for {percent(capacity)}"
    return words + (f"; out: {clean(text(variant.get('out')))}" if variant.get("out") else "")


def _freeze(freeze: JsonObject) -> str:
    source, words = clean(text(freeze.get("source"))), clean(text(freeze.get("words"), ""))
    return words or f"by {source}"


def _policy(policy: JsonObject) -> str:
    """Such as `chat.yaml at 3f9a51c2d0ab of file:///repo#main`; without commits the file alone."""
    file, commit, source = (clean(text(policy.get(key), "")) for key in ("file", "commit", "source"))
    return f"{file} at {commit[:12]} of {source}" if file and commit else file


def _traffic(status: JsonObject, variants: Sequence[JsonObject]) -> str:
    weights = part(status, "weights")
    shares = [number(variant.get("share")) or 0.0 for variant in variants]
    words = [f"stable {percent(max(0.0, 1.0 - sum(shares)))}"]
    for variant in variants:
        if variant.get("out"):
            continue
        shadow = f" and a copy of {percent(variant.get('shadow_share'))}" if number(variant.get("shadow_share")) else ""
        words.append(f"{clean(text(variant.get('name')))} {percent(variant.get('share'))}{shadow}")
    parts = ", ".join(f"{name} {figure_whole(weight)}" for name, weight in weights.items() if name != "total")
    return ", ".join(words) + (f"  (weights {parts} of {figure_whole(weights.get('total'))})" if parts else "")


def figure_whole(value: Json) -> str:
    amount = number(value)
    return "-" if amount is None else f"{amount:.0f}"


def _step(step: JsonObject) -> str:
    index = number(step.get("index"))
    place = "-" if index is None else f"{index + 1:.0f}"
    missing = ", ".join(_waiting(item) for item in items(step.get("waiting_for"))) or "nothing"
    return f"{text(step.get('label'))} ({place} of {text(step.get('of'))}) since {clock(step.get('since'))} UTC; waits for {missing}"


_WAITING: dict[str, str] = {
    "time": "time ({have} of {need} s)",
    "samples": "samples{whose} ({have} of {need})",
    "ack": "ACKs ({have} of {need} proxies){said}",
    "pods": "a ready pod{whose}{said}",
    "capacity": "pods{whose}: they carry {carried} of {due}",
    "probe": "the probe{whose} ({have} of {need} answers good)",
    "gate": "gate {what}{whose}",
    "goal": "goal {what}{whose}",
    "winner": "a winner by {what} ({have} of {need} s)",
    "approval": "`crossfade approve`{said} ({have} of {need} s)",
    "resume": "`crossfade resume`",
    "unfreeze": "the end of the freeze",
    "edit": "an edit of the policy: the step is no longer in it",
    "lane": "room in layer {what}",
}
"""What a step waits for, by kind."""


def _waiting(item: JsonObject) -> str:
    kind, what, variant = (clean(text(item.get(key), "")) for key in ("kind", "what", "variant"))
    return _WAITING.get(kind, "{kind}{whose}{said}").format(
        kind=kind or "-",
        what=what,
        said=f" ({what})" if what else "",
        whose=f" of {variant}" if variant else "",
        have=figure_whole(item.get("have")),
        need=figure_whole(item.get("need")),
        carried=_hundredths(item.get("have")),
        due=_hundredths(item.get("need")),
    )


def _hundredths(value: Json) -> str:
    """Hundredths of a per cent."""
    amount = number(value)
    return percent(None if amount is None else amount / 10_000)


def _proxies(proxies: JsonObject) -> str:
    rejected = number(proxies.get("rejected"))
    said = f": {clean(text(proxies.get('words')))}" if proxies.get("words") else ""
    return (
        f"{text(proxies.get('acked'))} of {text(proxies.get('selected'))} ACKed" + (f", {rejected:.0f} rejected" if rejected else "") + said
    )


def _gate(gate: JsonObject) -> tuple[str, ...]:
    estimate, samples = part(gate, "estimate"), part(gate, "samples")
    age_s = number(gate.get("reading_age_s"))
    return (
        clean(text(gate.get("name"))),
        text(gate.get("role")),
        text(gate.get("verdict")),
        f"{figure(gate.get('evidence'))}/{figure(gate.get('needed'))}",
        f"{figure(gate.get('evidence_pass'))}/{figure(gate.get('needed_pass'))}",
        "|".join(_estimate(estimate.get(arm), gate.get("unit")) for arm in ("stable", "candidate")),
        "|".join(text(samples.get(arm)) for arm in ("stable", "candidate")),
        "-" if age_s is None else f"{age_s:.1f} s",
    )


def _estimate(value: Json, unit: Json) -> str:
    return percent(value) if unit == "ratio" else "-" if number(value) is None else f"{figure(value)} {text(unit, '')}".strip()


def faults(errors: Sequence[JsonObject]) -> list[str]:
    """Faults of the policy files, two or three lines each."""
    lines = []
    for error in errors:
        place = ":".join(text(error.get(key), "?") for key in ("file", "line", "column"))
        expected = f"; expected {clean(text(error.get('expected')))}" if error.get("expected") else ""
        lines.append(
            f"{clean(place)}: {clean(text(error.get('path'), ''))}: {clean(text(error.get('message')))}{expected}".replace(": : ", ": ")
        )
        if error.get("hint"):
            lines.append(f"  hint: {clean(text(error.get('hint')))}")
    return lines


# Drawing.


def plain(pictures: Sequence[Picture], errors: Sequence[JsonObject]) -> str:
    return "\n\n".join([*("\n".join(_plain(each)) for each in pictures), *_plain_faults(errors)]) or "no rollouts"


def _plain(shown: Picture) -> Iterator[str]:
    yield f"{shown.name}  {shown.phase}  {shown.versions}"
    width = max(len(label) for label, _ in shown.rows)
    for label, words in shown.rows[:-1]:
        yield f"  {label.ljust(width)}  {words}"
    if shown.gates:
        yield from write.columns(shown.gate_head, shown.gates, indent="    ")
    label, words = shown.rows[-1]
    yield f"  {label.ljust(width)}  {words}"


def _plain_faults(errors: Sequence[JsonObject]) -> list[str]:
    return ["\n".join(["policy files: the last good text of each stays in force", *faults(errors)])] if errors else []


def rich(pictures: Sequence[Picture], errors: Sequence[JsonObject]) -> "RenderableType":
    """The same for a terminal."""
    from rich.console import Group  # noqa: PLC0415 - loaded when used
    from rich.panel import Panel  # noqa: PLC0415 - loaded when used
    from rich.text import Text  # noqa: PLC0415 - loaded when used

    drawn: list[RenderableType] = [_framed(each) for each in pictures] or [Text("no rollouts")]
    if errors:
        words = Text("\n".join(["the last good text of each file stays in force", *faults(errors)]))
        drawn.append(Panel(words, title="policy files", title_align="left", border_style="red"))
    return Group(*drawn)


def _framed(shown: Picture) -> "RenderableType":
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - loaded when used
    from rich.console import Group  # noqa: PLC0415 - loaded when used
    from rich.panel import Panel  # noqa: PLC0415 - loaded when used
    from rich.table import Table  # noqa: PLC0415 - loaded when used
    from rich.text import Text  # noqa: PLC0415 - loaded when used

    color = write.COLORS.get(shown.phase, "default")
    rows = Table.grid(padding=(0, 2))
    for label, words in shown.rows:
        rows.add_row(Text(label, style="dim"), Text(words, style="bold" if label == "because" else ""))
    inside: list[RenderableType] = [rows]
    if shown.gates:
        judged = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for title in shown.gate_head:
            judged.add_column(title, header_style="dim", no_wrap=title in {"VARIANT", "GATE", "VERDICT"})
        for gate in shown.gates:
            judged.add_row(*(Text(cell, style=write.COLORS.get(cell, "")) for cell in gate))
        inside.append(judged)
    heading = Text.assemble(" ", (shown.name, "bold"), "  ", (shown.phase, f"bold {color}"), "  ", shown.versions, " ")
    return Panel(Group(*inside), title=heading, title_align="left", border_style=color)
