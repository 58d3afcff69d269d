"""What pydantic finds wrong with a document, in the words of the house: what, what was expected, how to mend it. Pure.

Neighbours: `documents` and its parts (the models, whose own faults come ready made by `units.wrong`), `loader` (which asks for the words).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from policies.spec.documents import KINDS
from policies.spec.faults import Fault, one_of
from policies.spec.parts import Part
from policies.spec.reader import Data, Document, Path
from policies.spec.units import PATTERN_WORDS, did_you_mean, nearest, shown

FAULTS_MAX: Final = 200
"""Faults put into words for one document: a word is searched for near ones, and nobody reads more."""

Model = type[Part]


def faults(document: Document, model: Model, error: ValidationError, silent: Iterable[Path]) -> Iterator[Fault]:
    """All that is wrong, in the order pydantic has it.

    Args:
        silent: Places of which something has been said already.
    """
    details = error.errors(include_url=False)[:FAULTS_MAX]
    known = set(silent)
    misspelt = set(_misspelt(document, model, details))
    for each in details:
        fault = _translated(document, model, each)
        if fault.path not in known and not (each["type"] == "missing" and fault.path in misspelt):
            yield fault


def unknown_kind(kind: Data, *, said: bool) -> Fault:
    """`kind`: what stands in place of a kind; `said`: whether anything does."""
    expected = one_of(list(KINDS))
    if not said:
        return Fault(path=(), message="the document has no kind", expected=expected, hint="add kind: Rollout")
    near = did_you_mean(kind, list(KINDS)) if isinstance(kind, str) else ""
    return Fault(path=("kind",), message=f"unknown kind {shown(kind)}", expected=expected, hint=near)


def empty_fault(path: Path) -> Fault:
    """Of a key or item without a value: null means nothing in a policy."""
    hint = "write promote: {}" if path and path[-1] == "promote" else "give it a value, or remove it"
    what = written(path[-1:]) if path and isinstance(path[-1], str) else f"item {path[-1]}" if path else "the document"
    return Fault(path=path, message=f"{what} is empty", expected="a value", hint=hint)


def written(path: Path) -> str:
    """A path as people write it: `spec.steps[1].canary.shares[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:60]}" if text else part[:60]
    return text


def _misspelt(document: Document, model: Model, details: Iterable[ErrorDetails]) -> Iterator[Path]:
    """Keys that are missing only because they stand there misspelt."""
    for each in details:
        path: Path = tuple(each["loc"])
        if each["type"] == "extra_forbidden":
            yield (*path[:-1], nearest(str(path[-1]), _keys(_owner(document, model, path))))


def _translated(document: Document, model: Model, each: ErrorDetails) -> Fault:
    path: Path = tuple(each["loc"])
    if path and path[-1] == "[key]":
        path = path[:-1]
    owner = _owner(document, model, path)
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
            words = [str(word) for word in get_args(_annotation(owner, path[-1]))]
            if isinstance(value, str) and owner is not None and value in owner.LATER_VALUES.get(str(path[-1]), ()):
                return Fault(path=path, message=f"{path[-1]} {value} is not supported yet", expected=one_of(words))
            near = did_you_mean(value, words) if isinstance(value, str) else ""
            return Fault(path=path, message=f"{shown(value)} is not known here", expected=one_of(words), hint=near)
        case "string_pattern_mismatch":
            expected = PATTERN_WORDS.get(context["pattern"], "another form")
            return Fault(path=path, message=f"{shown(value)} does not fit", expected=expected)
        case "string_type" if not isinstance(value, dict | list):
            plain = document.plain.get(path, str(value))[:60]
            return Fault(path=path, message=f"{plain} is not text here", expected="text", hint=f'put it in quotes: "{plain}"')
        case _:
            said = str(each["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
            kind = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else shown(value)
            return Fault(path=path, message=f"{kind} does not fit", expected=_SAID.get(each["type"], said[:1].lower() + said[1:]))


_SAID: Final[Mapping[str, str]] = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "list_type": "a list",
}


def _unknown_key(owner: Model | None, path: Path) -> Fault:
    key = str(path[-1])
    known = _keys(owner)
    if owner is not None and key in owner.LATER:
        return Fault(path=path, message=f"{key} is not supported yet", expected=one_of(known), hint=f"remove {key}")
    return Fault(path=path, message=f"unknown key {key[:60]!r}", expected=one_of(known), hint=did_you_mean(key, known))


# Which model reads what stands at a path.


def _owner(document: Document, model: Model, path: Path) -> Model | None:
    """The model of the mapping that holds the last key of a path; None if there is none."""
    models, data = [model], document.data
    for part in path[:-1]:
        if isinstance(part, str):
            models = list(_parts(_annotation(_meant(models, data), part)))
            data = data.get(part) if isinstance(data, dict) else None
        else:
            data = data[part] if isinstance(data, list) and part < len(data) else None
    return _meant(models, data)


def _meant(models: Sequence[Model], data: Data) -> Model | None:
    """Where a mapping may be one of several things: the one that knows most of its keys."""
    keys = data.keys() if isinstance(data, dict) else frozenset[str]()
    return max(models, key=lambda model: len(keys & set(_keys(model))), default=None)


def _annotation(owner: Model | None, key: str | int) -> Any:
    for name, field in owner.model_fields.items() if owner is not None else ():
        if (field.alias or name) == key:
            return field.annotation
    return owner.OTHERS if owner is not None else None


def _parts(annotation: Any) -> Iterator[Model]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _keys(owner: Model | None) -> list[str]:
    return [field.alias or name for name, field in owner.model_fields.items()] if owner is not None else []


def _like(owner: Model | None, path: Path) -> str:
    """What should stand at a missing key."""
    part = next(_parts(_annotation(owner, path[-1])), None)
    return f"{path[-1]} with {', '.join(_keys(part))}" if part is not None else f"the key {path[-1]}"


def _example(owner: Model | None, path: Path) -> str:
    """A line that could be added."""
    for name, field in owner.model_fields.items() if owner is not None else ():
        if (field.alias or name) == path[-1] and field.examples:
            example = field.examples[0]
            shape = f"[{', '.join(map(str, example))}]" if isinstance(example, list) else example
            return f"add {path[-1]}: {shape}"
    return f"add {path[-1]}"
