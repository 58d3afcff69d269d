"""Policy files -> documents in force, with every fault of every file at once. Pure: the caller read the bytes.

A document is good or not by itself; then the good ones are held against each other (groups that do not exist, two rollouts on one host and path).
Files go in the order of their names: where two documents conflict, the later one is at fault.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policies.errors import SpecError
from policies.spec.documents import KINDS, LATER, Proxies, Rollout
from policies.spec.policy import FULL_BP, CanaryStep, ProxiesPolicy, RolloutPolicy
from policies.spec.reader import Document, Path, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a set of files says.

    Attributes:
        files: (kind, name) of each good document -> its file.
        errors: In the order of files and lines.
        warnings: Faults that forbid nothing.
    """

    rollouts: tuple[RolloutPolicy, ...]
    proxies: tuple[ProxiesPolicy, ...]
    errors: tuple[SpecError, ...]
    warnings: tuple[SpecError, ...]
    files: Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class _Good:
    file: str
    document: Document
    value: RolloutPolicy | ProxiesPolicy

    def fault(self, path: Path, message: str, *, expected: str = "", hint: str = "") -> SpecError:
        return _fault(self.file, self.document, path, message, expected=expected, hint=hint)


def load(texts: Mapping[str, bytes]) -> Loaded:
    """Judges files together.

    Args:
        texts: File name -> its bytes.
    """
    errors: list[SpecError] = []
    good: list[_Good] = []
    for file in sorted(texts):
        documents, faults = read(file, texts[file])
        errors += faults
        for document in documents:
            value, faults = _document(file, document)
            errors += faults
            if value is not None:
                good.append(_Good(file, document, value))
    kept: list[_Good] = []
    for found in [each for each in good if isinstance(each.value, ProxiesPolicy)] + [
        each for each in good if isinstance(each.value, RolloutPolicy)
    ]:
        faults = list(_conflicts(found, kept))
        errors += faults
        if not faults:
            kept.append(found)
    return Loaded(
        rollouts=tuple(sorted((each.value for each in kept if isinstance(each.value, RolloutPolicy)), key=lambda value: value.name)),
        proxies=tuple(sorted((each.value for each in kept if isinstance(each.value, ProxiesPolicy)), key=lambda value: value.name)),
        errors=tuple(sorted(errors, key=lambda error: (error.file, error.line, error.column, error.path))),
        warnings=tuple(warning for each in kept for warning in _doubts(each)),
        files={(type(each.value).__name__.removesuffix("Policy"), each.value.name): each.file for each in kept},
    )


def _document(file: str, document: Document) -> tuple[RolloutPolicy | ProxiesPolicy | None, list[SpecError]]:
    data = document.data
    if not isinstance(data, dict):
        expected = "a document with apiVersion, kind, metadata, spec"
        return None, [_fault(file, document, (), f"this is a {type(data).__name__}, not a policy document", expected=expected)]
    kind = data.get("kind")
    model: type[Rollout] | type[Proxies] | None = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        later = "GateBundle is not supported yet" if kind == "GateBundle" else ""
        message = later or (f"unknown kind {kind!r}" if "kind" in data else "the document has no kind")
        return None, [_fault(file, document, ("kind",), message, expected=f"one of {', '.join(KINDS)}", hint=_near(str(kind), list(KINDS)))]
    try:
        return model.model_validate(data).value(), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        return None, [_translated(file, document, model, each) for each in _plainest(details)]


def _plainest(details: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Of the faults pydantic finds for each member of a union at one place, the first that says something."""
    seen: set[Path] = set()
    for each in details:
        path = tuple(part for part in each["loc"] if part not in {"Sticky", "literal['none']", "literal['*']", "constrained-str"})
        if path not in seen:
            seen.add(path)
            yield each


def _translated(file: str, document: Document, model: type[BaseModel], each: ErrorDetails) -> SpecError:
    path: Path = tuple(
        part for part in each["loc"] if not (isinstance(part, str) and part.startswith(("Sticky", "literal[", "constrained")))
    )
    match each["type"]:
        case "extra_forbidden":
            key = str(path[-1])
            siblings = _keys(model, path[:-1])
            if key in LATER:
                return _fault(file, document, path, f"{key} is not supported yet", expected=_listed(siblings), hint=f"remove {key}")
            message = f"unknown key {key!r}"
            if path[:2] == ("spec", "variants"):
                message = f"more than one arm is not supported yet: {key!r}"
            return _fault(file, document, path, message, expected=_listed(siblings), hint=_near(key, siblings))
        case "missing":
            return _fault(file, document, path, f"{path[-1]} is missing", expected=f"the key {path[-1]}", hint=f"add {path[-1]}")
        case "string_pattern_mismatch":
            pattern = each.get("ctx", {}).get("pattern", "")
            return _fault(file, document, path, f"{each['input']!r:.80} is not allowed here", expected=f"text like {pattern}")
        case "value_error":
            message, _, expected = str(each["msg"]).removeprefix("Value error, ").partition("; expected ")
            if not expected and message.startswith("expected "):
                message, expected = "this does not fit", message.removeprefix("expected ")
            return _fault(file, document, path, message, expected=expected)
        case _:
            value = "" if isinstance(each["input"], dict | list) else f": {each['input']!r:.80}"
            return _fault(file, document, path, f"this does not fit{value}", expected=str(each["msg"]).replace("Input should be ", ""))


def _keys(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that are known at a path of a model."""
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        known = {field.alias or name: field.annotation for name, field in current.model_fields.items()}
        current = next((inner for inner in _models(known.get(part))), None)
        if current is None:
            return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _models(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def _conflicts(found: _Good, kept: list[_Good]) -> Iterator[SpecError]:
    value = found.value
    for other in kept:
        if type(other.value) is type(value) and other.value.name == value.name:
            line = other.document.place(("metadata", "name"))[0]
            message = f"{value.name!r} is declared a second time; first in {other.file}, line {line}"
            yield found.fault(("metadata", "name"), message, expected="each name once per kind", hint="rename or remove one of them")
    if isinstance(value, RolloutPolicy):
        yield from _owners(found, value, kept)
        return
    for other in kept:
        if isinstance(other.value, ProxiesPolicy) and other.value.select == value.select and other.value.name != value.name:
            message = f"selects the same Envoys as {other.value.name!r} in {other.file}"
            yield found.fault(("spec", "select"), message, expected="each Envoy in one group", hint="change one `select`")


def _owners(found: _Good, value: RolloutPolicy, kept: list[_Good]) -> Iterator[SpecError]:
    groups = {each.value.name: each.value for each in kept if isinstance(each.value, ProxiesPolicy)}
    group = groups.get(value.traffic.proxies)
    if group is None:
        known = sorted(groups)
        path: Path = ("spec", "traffic", "proxies")
        message = f"there are no Proxies named {value.traffic.proxies!r}"
        yield found.fault(path, message, expected=_listed(known) or "a Proxies document", hint=_near(value.traffic.proxies, known))
    elif value.traffic.listener not in {listener.name for listener in group.listeners}:
        known = [listener.name for listener in group.listeners]
        message = f"Proxies {group.name!r} have no listener {value.traffic.listener!r}"
        path = ("spec", "traffic", "listener")
        yield found.fault(path, message, expected=_listed(known), hint=_near(value.traffic.listener, known))
    for other in kept:
        if not isinstance(other.value, RolloutPolicy) or other.value.name == value.name:
            continue
        theirs = other.value.traffic
        if (theirs.proxies, theirs.listener) != (value.traffic.proxies, value.traffic.listener):
            continue
        for index, match in enumerate(value.traffic.match):
            if match in theirs.match:
                line = other.document.place(("spec", "traffic", "match"))[0]
                message = (
                    f"host {match.host} with path {match.path_prefix} belongs to rollout {other.value.name!r} ({other.file}, line {line})"
                )
                path = ("spec", "traffic", "match", index)
                yield found.fault(path, message, expected="each host and path in one rollout", hint="give one of them another host or path")


def _doubts(found: _Good) -> Iterator[SpecError]:
    value = found.value
    if not isinstance(value, RolloutPolicy) or value.candidate is None:
        return
    if not value.gates:
        yield found.fault(("spec", "steps"), "no gates: only time and samples decide", hint="add a gate on envoy/error_rate")
    first = value.steps[0]
    if isinstance(first, CanaryStep) and first.shares_bp[0] == FULL_BP:
        yield found.fault(
            ("spec", "steps", 0), "the first step gives the candidate everything at once", hint="start with a shadow or a small share"
        )


def _fault(file: str, document: Document, path: Path, message: str, *, expected: str = "", hint: str = "") -> SpecError:
    line, column = document.place(path)
    return SpecError(file=file, line=line, column=column, path=_written(path), message=message, expected=expected, hint=hint)


def _written(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def _listed(words: list[str]) -> str:
    return f"one of {', '.join(words)}" if words else ""
