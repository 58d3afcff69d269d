"""YAML text -> plain data with the place of every key and value; refuses what no policy needs. Pure.

Works on PyYAML's events, not on loaded objects: an event knows its line, duplicate keys are seen, and nesting, size and aliases are bounded
while they are read, so a hostile file ("billion laughs", a million brackets) costs no more than a large honest one.
Plain scalars mean what YAML 1.2 says: `yes`, `on` and dates are text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import yaml

from policies.errors import SpecError

BYTES_MAX = 1024 * 1024
NODES_MAX = 200_000
REPEATED_MAX = 20_000
"""Of one file, however it is cut into documents: keys and values as written; values that aliases stand for."""
DEPTH_MAX = 40
DOCUMENTS_MAX = 1_000
DIRECTIVES_MAX = 100
"""Each is compared with all before it by the parser: many take seconds."""

Path = tuple[str | int, ...]
Place = tuple[int, int]
Data = str | int | float | bool | None | list["Data"] | dict[str, "Data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blemish:
    """A fault of the text.

    Attributes:
        lost: What stands there could not be read; `None` is in its place.
    """

    place: Place
    path: Path
    message: str
    hint: str
    lost: bool = False


@dataclass(slots=True)
class Document:
    """One YAML document.

    Attributes:
        places: Where each path stands (line, column from 1); of a key's value: where its key stands.
        plain: The text of scalars that were not read as text, as it stands in the file: `1.10` of the number 1.1.
        empty: Keys and items without a value: YAML reads them as null.
        faults: What is wrong whatever the document means.
    """

    data: Data = None
    places: dict[Path, Place] = field(default_factory=dict)
    plain: dict[Path, str] = field(default_factory=dict)
    empty: list[Path] = field(default_factory=list)
    faults: list["Blemish"] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Where a path stands, or the nearest thing around it that exists."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))


class _RefusedError(Exception):
    def __init__(self, place: Place, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.place, self.hint = place, hint


_DIRECTIVE = re.compile("^%", re.MULTILINE)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read(file: str, text: bytes | str) -> tuple[list[Document], list[SpecError]]:
    """All documents of a file that can be read, and what keeps the others from it."""
    if len(text) > BYTES_MAX:
        return [], [_error(file, (1, 1), f"the file has more than {BYTES_MAX >> 20} MiB", f"at most {BYTES_MAX} bytes", "split it")]
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return [], [_error(file, (line, 1), "the file is not UTF-8 text", "a YAML file in UTF-8", "save it as UTF-8")]
    if odd := _UNPRINTABLE.search(text):
        before = text[: odd.start()]
        place = (before.count("\n") + 1, odd.start() - before.rfind("\n"))
        return [], [_error(file, place, f"the character {odd[0]!r} is not allowed in YAML", "printable text", "remove it")]
    if len(directives := list(islice(_DIRECTIVE.finditer(text), DIRECTIVES_MAX + 1))) > DIRECTIVES_MAX:
        line = text.count("\n", 0, directives[-1].start()) + 1
        return [], [_error(file, (line, 1), f"more than {DIRECTIVES_MAX} lines begin with %", "a YAML document", "remove the directives")]
    documents: list[Document] = []
    try:
        documents.extend(document for document in _documents(text) if document.data is not None or document.faults)
    except _RefusedError as refused:
        return documents, [_error(file, refused.place, str(refused), "", refused.hint)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        words = error.problem or error.context or "it cannot be read"
        return documents, [_error(file, place, f"not YAML: {words}", "a YAML document", "check indentation, colons and quotes")]
    except yaml.YAMLError as error:
        words = (str(error).splitlines() or ["it cannot be read"])[0][:200]
        return documents, [_error(file, (1, 1), f"not YAML: {words}", "a YAML document", "")]
    return documents, []


def _documents(text: str) -> Iterator[Document]:
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    budget = _Budget()
    count = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            count += 1
            if count > DOCUMENTS_MAX:
                raise _RefusedError(_place(event), f"the file has more than {DOCUMENTS_MAX} documents", "split it")
            yield _Builder(_Script.of(events, budget), budget).built()


@dataclass(slots=True)
class _Budget:
    """Of one file, however it is cut into documents."""

    nodes: int = 0
    repeated: int = 0

    def spend(self, event: yaml.Event) -> None:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise _RefusedError(_place(event), f"the file has more than {NODES_MAX} values", "split it")

    def repeat(self, event: yaml.Event) -> None:
        self.repeated += 1
        if self.repeated > REPEATED_MAX:
            raise _RefusedError(_place(event), f"aliases repeat more than {REPEATED_MAX} values", "remove anchors, or split the file")


@dataclass(slots=True)
class _Script:
    """The events of one document. An alias says where the node begins that it repeats.

    Attributes:
        targets: By the place of an alias in `events`.
    """

    events: list[yaml.Event] = field(default_factory=list)
    targets: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Iterator[yaml.Event], budget: _Budget) -> "_Script":
        script, anchors = cls(), dict[str, int]()
        unfinished: list[tuple[int, str | None]] = []
        for event in source:
            index = len(script.events)
            if isinstance(event, yaml.DocumentEndEvent):
                break
            script.events.append(event)
            if isinstance(event, yaml.CollectionEndEvent):
                begin, anchor = unfinished.pop()
                if anchor is not None:
                    anchors[anchor] = begin
                continue
            budget.spend(event)
            if isinstance(event, yaml.ScalarEvent):
                if event.anchor is not None:
                    anchors[event.anchor] = index
            elif isinstance(event, yaml.CollectionStartEvent):
                unfinished.append((index, event.anchor))
                if len(unfinished) > DEPTH_MAX:
                    raise _RefusedError(_place(event), f"nested deeper than {DEPTH_MAX} levels")
            elif isinstance(event, yaml.AliasEvent):
                name = str(event.anchor)
                if name not in anchors:
                    raise _RefusedError(_place(event), f"the alias *{name[:60]} names no finished anchor", "write the value out")
                script.targets[index] = anchors[name]
        return script


class _Builder:
    """Makes data of a script, aliases followed."""

    def __init__(self, script: _Script, budget: _Budget) -> None:
        self._script = script
        self._budget = budget
        self._at = 0
        self._repeating = 0
        self._document = Document()

    def built(self) -> Document:
        self._document.data = self._node((), _place(self._script.events[0]), 0)
        return self._document

    def _node(self, path: Path, place: Place, depth: int) -> Data:
        event = self._script.events[self._at]
        if self._repeating:
            self._budget.repeat(event)
        if isinstance(event, yaml.AliasEvent):
            return self._repeated(path, place, depth)
        self._at += 1
        self._document.places[path] = place
        made: Data
        if isinstance(event, yaml.ScalarEvent):
            tag, made = _scalar(event)
            if not isinstance(made, str):
                self._document.plain[path] = event.value
                if made is None:
                    self._document.empty.append(path)
            good = tag in {"", _TAGS.get(type(made))}
        else:
            assert isinstance(event, yaml.CollectionStartEvent)
            if depth > DEPTH_MAX:
                raise _RefusedError(place, f"nested deeper than {DEPTH_MAX} levels, aliases followed", "write the values out")
            made = self._mapping(path, depth) if isinstance(event, yaml.MappingStartEvent) else self._list(path, depth)
            tag = _tag(event.tag, "")
            good = tag in {"", _TAGS.get(type(made))}
        if good:
            return made
        shown = tag if tag.startswith("!") else f"!!{tag}"
        self._blemish(place, path, f"the tag {shown[:60]} is not allowed here", "plain YAML only: remove the tag", lost=True)
        return None

    def _repeated(self, path: Path, place: Place, depth: int) -> Data:
        after, self._at = self._at + 1, self._script.targets[self._at]
        self._repeating += 1
        made = self._node(path, place, depth)
        self._repeating -= 1
        self._at = after
        return made

    def _list(self, path: Path, depth: int) -> Data:
        made: list[Data] = []
        while not isinstance(event := self._script.events[self._at], yaml.SequenceEndEvent):
            made.append(self._node((*path, len(made)), _place(event), depth + 1))
        self._at += 1
        return made

    def _mapping(self, path: Path, depth: int) -> Data:
        made: dict[str, Data] = {}
        while not isinstance(event := self._script.events[self._at], yaml.MappingEndEvent):
            place = _place(event)
            key = self._script.events[self._script.targets.get(self._at, self._at)]
            tag, name = _scalar(key) if isinstance(key, yaml.ScalarEvent) else ("", None)
            self._skip()
            if not isinstance(name, str):
                self._blemish(place, path, "a key must be text", "put the key in quotes")
            elif name == "<<" and not tag:
                self._blemish(place, path, "merge keys (<<) are not supported", "write the keys out")
            elif name in made:
                first = self._document.places[*path, name][0]
                self._blemish(place, (*path, name), f"the key {name[:60]!r} stands twice; first in line {first}", "remove one")
            else:
                made[name] = self._node((*path, name), place, depth + 1)
                continue
            self._skip()
        self._at += 1
        return made

    def _skip(self) -> None:
        """Past the next node."""
        open_ = 0
        while True:
            event = self._script.events[self._at]
            self._at += 1
            open_ += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if not open_:
                return

    def _blemish(self, place: Place, path: Path, message: str, hint: str, *, lost: bool = False) -> None:
        self._document.faults.append(Blemish(place=place, path=path, message=message, hint=hint, lost=lost))


_TAGS: Final[Mapping[type, str]] = {str: "str", int: "int", float: "float", bool: "bool", type(None): "null", list: "seq", dict: "map"}
"""What YAML calls our data."""
_SPECIAL = re.compile(r"[-+.0-9~nNtTfF]|$")
"""How whatever is not text begins."""
_NULL = re.compile(r"^(~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?[0-9]{1,18}$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?$")


def _scalar(event: yaml.ScalarEvent) -> tuple[str, str | float | bool | None]:
    """Its tag ("" = none: its looks say what it is) and what it means."""
    bare = event.tag is None and bool(event.implicit[0])
    tag = _tag(event.tag, "" if bare else "str")
    return tag, event.value if tag == "str" else _value(event.value)


def _value(text: str) -> str | float | bool | None:
    if not _SPECIAL.match(text):
        return text
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text[0] in "tT"
    if _INT.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text


def _tag(tag: str | None, usual: str) -> str:
    """Short name of a standard tag; any other as written; `usual` if there is none."""
    return usual if tag in {None, "!"} else str(tag).removeprefix("tag:yaml.org,2002:")


def _place(event: yaml.Event) -> Place:
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column + 1


def _error(file: str, place: Place, message: str, expected: str, hint: str) -> SpecError:
    return SpecError(file=file, line=place[0], column=place[1], path="", message=message, expected=expected, hint=hint)
