"""Policy files -> documents in force, with every fault of every file at once. Pure: the caller read the bytes.

A document is good or not by itself; then the good ones are held against each other (groups that do not exist, two rollouts on one host and path).
Where two documents clash both are told and neither is in force: which file's name comes first is no reason to prefer it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from policies.errors import SpecError
from policies.spec import checks
from policies.spec.checks import Fault, one_of
from policies.spec.documents import KINDS, KINDS_LATER, Proxies, Rollout
from policies.spec.parts import Part, Variants
from policies.spec.policy import ProxiesPolicy, RolloutPolicy
from policies.spec.reader import Data, Document, Path, Place, read
from policies.spec.units import PATTERN_WORDS, did_you_mean, nearest, shown

ERRORS_MAX: Final = 100
"""Faults told of one file."""

NAME_PATH: Path = ("metadata", "name")

Model = type[Rollout] | type[Proxies]


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
    """A document that is good by itself."""

    file: str
    document: Document
    value: RolloutPolicy | ProxiesPolicy

    @property
    def kind(self) -> str:
        return "Rollout" if isinstance(self.value, RolloutPolicy) else "Proxies"

    def error(self, fault: Fault) -> SpecError:
        return _error(self.file, self.document.place(fault.path), fault)


def load(texts: Mapping[str, bytes | str]) -> Loaded:
    """Judges files together.

    Args:
        texts: File name -> its bytes (or its text).
    """
    errors: list[SpecError] = []
    good: list[_Good] = []
    broken_groups: set[str] = set()
    unread = False
    for file in sorted(texts):
        documents, wrong = read(file, texts[file])
        unread = unread or bool(wrong)
        of_file = list(wrong)
        for document in documents:
            value, faults = _judged(document)
            of_file += [_error(file, place, fault) for place, fault in faults]
            if value is not None:
                good.append(_Good(file, document, value))
            elif (name := _name_of_group(document.data)) is not None:
                broken_groups.add(name)
            else:
                unread = unread or not _is_rollout(document.data)
        errors += _capped(file, of_file)
    kept, between = _compatible(good, broken_groups, unread=unread)
    return Loaded(
        rollouts=tuple(sorted((each.value for each in kept if isinstance(each.value, RolloutPolicy)), key=lambda value: value.name)),
        proxies=tuple(sorted((each.value for each in kept if isinstance(each.value, ProxiesPolicy)), key=lambda value: value.name)),
        errors=tuple(sorted((*errors, *between), key=_order)),
        warnings=tuple(sorted((warning for each in kept for warning in _warnings(each)), key=_order)),
        files={(each.kind, each.value.name): each.file for each in kept},
    )


def _judged(document: Document) -> tuple[RolloutPolicy | ProxiesPolicy | None, list[tuple[Place, Fault]]]:
    """A document by itself: its value, or all its faults with their places."""
    told = [(each.place, Fault(path=each.path, message=each.message, hint=each.hint)) for each in document.faults]
    value, faults = _understood(document, {each.path for each in document.faults if each.lost})
    told += [(document.place(fault.path), fault) for fault in faults]
    return (None if told else value), told


def _understood(document: Document, lost: set[Path]) -> tuple[RolloutPolicy | ProxiesPolicy | None, list[Fault]]:
    data = document.data
    if not isinstance(data, dict):
        if () in lost:
            return None, []
        what = "a list" if isinstance(data, list) else "a single value"
        return None, [Fault(path=(), message=f"{what} is no policy document", expected="a mapping of apiVersion, kind, metadata, spec")]
    kind = data.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        return None, [_unknown_kind(kind, said="kind" in data)]
    empty = {path: None for path in _empty(data, ()) if path not in lost}
    faults = [_empty_fault(path) for path in empty]
    try:
        read_as = model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        misspelt = set(_misspelt(model, details))
        for each in details:
            fault = _translated(document, model, each)
            known = fault.path in lost or fault.path in empty or (each["type"] == "missing" and fault.path in misspelt)
            if not known:
                faults.append(fault)
        return None, faults
    if not faults and not lost:  # else `None` stands where something was meant
        faults += checks.faults(read_as)
    return (None if faults or lost else read_as.value()), faults


def _unknown_kind(kind: Data, *, said: bool) -> Fault:
    expected = one_of(list(KINDS))
    if not said:
        return Fault(path=(), message="the document has no kind", expected=expected, hint="add kind: Rollout")
    if isinstance(kind, str) and kind in KINDS_LATER:
        return Fault(path=("kind",), message=f"{kind} is not supported yet", expected=expected, hint="write its contents into each rollout")
    near = did_you_mean(kind, list(KINDS)) if isinstance(kind, str) else ""
    return Fault(path=("kind",), message=f"unknown kind {shown(kind)}", expected=expected, hint=near)


def _empty(data: Data, path: Path) -> Iterator[Path]:
    """Keys without a value: YAML reads them as null, and null means nothing in a policy."""
    if data is None:
        yield path
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _empty(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _empty(value, (*path, index))


def _empty_fault(path: Path) -> Fault:
    hint = "write promote: {}" if path[-1] == "promote" else "give it a value, or remove it"
    return Fault(path=path, message=f"{_last(path)} is empty", expected="a value", hint=hint)


# What pydantic says, in our words.


def _misspelt(model: Model, details: Iterable[ErrorDetails]) -> Iterator[Path]:
    """Keys that are missing only because they stand there misspelt."""
    for each in details:
        path: Path = tuple(each["loc"])
        if each["type"] == "extra_forbidden":
            yield (*path[:-1], nearest(str(path[-1]), _keys(_part(model, path[:-1]))))


def _translated(document: Document, model: Model, each: ErrorDetails) -> Fault:
    path: Path = tuple(each["loc"])
    owner = _part(model, path[:-1])
    context: dict[str, Any] = each.get("ctx", {})
    value = each["input"]
    match each["type"]:
        case "policy":
            return Fault(path=(*path, *context["at"]), message=context["message"], expected=context["expected"], hint=context["hint"])
        case "extra_forbidden":
            return _unknown_key(owner, path)
        case "missing":
            return Fault(path=path, message=f"{path[-1]} is missing", expected=_like(owner, path), hint=_example(owner, path))
        case "literal_error":
            words = _literals(owner, path)
            if isinstance(value, str) and owner is not None and value in owner.LATER_VALUES.get(str(path[-1]), ()):
                return Fault(path=path, message=f"{path[-1]} {value} is not supported yet", expected=one_of(words))
            near = did_you_mean(value, words) if isinstance(value, str) else ""
            return Fault(path=path, message=f"{shown(value)} is not known here", expected=one_of(words), hint=near)
        case "string_pattern_mismatch":
            expected = PATTERN_WORDS.get(context["pattern"], "another form")
            return Fault(path=path, message=f"{shown(value)} does not fit", expected=expected)
        case "string_type" if not isinstance(value, dict | list):
            written = document.plain.get(path, str(value))[:60]
            return Fault(path=path, message=f"{written} is not text here", expected="text", hint=f'put it in quotes: "{written}"')
        case _:
            said = str(each["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
            kind = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else shown(value)
            return Fault(path=path, message=f"{kind} does not fit", expected=_SAID.get(each["type"], said[:1].lower() + said[1:]))


_SAID: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "list_type": "a list",
}


def _unknown_key(owner: type[Part] | None, path: Path) -> Fault:
    key = str(path[-1])
    known = _keys(owner)
    near = did_you_mean(key, known)
    if owner is not None and key in owner.LATER:
        return Fault(path=path, message=f"{key} is not supported yet", expected=one_of(known), hint=f"remove {key}")
    if owner is Variants and not near:
        message = f"more than one arm is not supported yet: {key[:60]!r}"
        return Fault(path=path, message=message, expected="stable and candidate", hint=f"call it candidate, or remove {key[:60]}")
    return Fault(path=path, message=f"unknown key {key[:60]!r}", expected=one_of(known), hint=near)


def _part(model: Model, path: Path) -> type[Part] | None:
    """The model of the mapping at a path; None if there is none."""
    current: type[Part] | None = model
    for part in path:
        if isinstance(part, str) and current is not None:
            current = next(_parts(_annotation(current, part)), None)
    return current


def _annotation(owner: type[Part], key: str) -> Any:
    return next((field.annotation for name, field in owner.model_fields.items() if (field.alias or name) == key), None)


def _parts(annotation: Any) -> Iterator[type[Part]]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _keys(owner: type[Part] | None) -> list[str]:
    return [field.alias or name for name, field in owner.model_fields.items()] if owner is not None else []


def _literals(owner: type[Part] | None, path: Path) -> list[str]:
    annotation = _annotation(owner, str(path[-1])) if owner is not None else None
    return [str(word) for word in get_args(annotation)]


def _like(owner: type[Part] | None, path: Path) -> str:
    """What should stand at a missing key."""
    parts = _part_of_key(owner, path)
    return f"{path[-1]} with {', '.join(_keys(parts))}" if parts is not None else f"the key {path[-1]}"


def _part_of_key(owner: type[Part] | None, path: Path) -> type[Part] | None:
    return next(_parts(_annotation(owner, str(path[-1]))), None) if owner is not None else None


def _example(owner: type[Part] | None, path: Path) -> str:
    """A line that could be added."""
    for name, field in owner.model_fields.items() if owner is not None else ():
        if (field.alias or name) == path[-1] and field.examples:
            example = field.examples[0]
            written = f"[{', '.join(map(str, example))}]" if isinstance(example, list) else example
            return f"add {path[-1]}: {written}"
    return f"add {path[-1]}"


# Documents among each other.


def _compatible(good: list[_Good], broken_groups: set[str], *, unread: bool) -> tuple[list[_Good], list[SpecError]]:
    """The documents that get on with all others, and what is wrong with the rest.

    Args:
        good: Each good by itself.
        broken_groups: Names of Proxies documents that exist and are not good: not being able to use one is not its rollouts' fault.
        unread: Something could not be read that may be the Proxies that is missing.
    """
    errors: list[SpecError] = []
    bad: set[int] = set()
    for index, other in _rivals(good):
        for one, two in ((index, other), (other, index)):
            found = checks.clash(good[one].value, good[two].value)
            if found is not None:
                bad.add(one)
                line = good[two].document.place(found.there)[0]
                message = f"{found.message} ({good[two].file}, line {line})"
                errors.append(good[one].error(Fault(path=found.here, message=message, expected=found.expected, hint=found.hint)))
    groups = {each.value.name: each.value for each in good if isinstance(each.value, ProxiesPolicy)}
    for index, each in enumerate(good):
        if not isinstance(each.value, RolloutPolicy):
            continue
        wanted = each.value.traffic.proxies
        if wanted in broken_groups or (unread and wanted not in groups):
            continue
        fault = checks.dangling(each.value, groups)
        if fault is not None:
            bad.add(index)
            errors.append(each.error(fault))
    return [each for index, each in enumerate(good) if index not in bad], errors


def _rivals(good: list[_Good]) -> Iterator[tuple[int, int]]:
    """Pairs that may clash, each once: only what shares a name, a selection or a place of traffic."""
    claims: dict[object, list[int]] = {}
    for index, each in enumerate(good):
        for claim in _claims(each):
            claims.setdefault(claim, []).append(index)
    pairs = {(first, second) for holders in claims.values() for first, second in pairwise(holders) if first != second}
    yield from sorted(pairs)


def _claims(each: _Good) -> Iterable[object]:
    yield (each.kind, each.value.name)
    if isinstance(each.value, ProxiesPolicy):
        yield each.value.select
    else:
        where = each.value.traffic
        for match in where.match:
            yield (where.proxies, where.listener, match)


def _warnings(each: _Good) -> Iterator[SpecError]:
    if isinstance(each.value, RolloutPolicy):
        for fault in checks.doubts(each.value):
            yield each.error(fault)


# Names, places, order.


def _name_of_group(data: Data) -> str | None:
    if not isinstance(data, dict) or data.get("kind") != "Proxies":
        return None
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def _is_rollout(data: Data) -> bool:
    return isinstance(data, dict) and data.get("kind") == "Rollout"


def _error(file: str, place: Place, fault: Fault) -> SpecError:
    return SpecError(
        file=file,
        line=place[0],
        column=place[1],
        path=written(fault.path),
        message=fault.message,
        expected=fault.expected,
        hint=fault.hint,
    )


def _order(error: SpecError) -> tuple[str, int, int]:
    return error.file, error.line, error.column


def _capped(file: str, errors: list[SpecError]) -> list[SpecError]:
    if len(errors) <= ERRORS_MAX:
        return errors
    kept = sorted(errors, key=_order)[:ERRORS_MAX]
    message = f"{len(errors) - ERRORS_MAX} more errors in this file are not shown"
    return [*kept, SpecError(file=file, line=kept[-1].line, column=kept[-1].column, path="", message=message, hint="mend these first")]


def written(path: Path) -> str:
    """A path as people write it: `spec.steps[1].canary.shares[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:60]}" if text else part[:60]
    return text


def _last(path: Path) -> str:
    return written(path[-1:]) if path and isinstance(path[-1], str) else f"item {path[-1]}" if path else "the document"
