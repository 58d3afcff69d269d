"""YAML text -> plain data with the place of every key and value; refuses what no policy needs. Pure.

Works on PyYAML's events, not on loaded objects: an event knows its line, duplicate keys are seen, and nesting, size and aliases are bounded
while they are read, so a hostile file ("billion laughs", a million brackets) costs no more than a large honest one.
Plain scalars mean what YAML 1.2 says: `yes`, `on` and dates are text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from policies.errors import SpecError

BYTES_MAX = 1024 * 1024
NODES_MAX = 50_000
DEPTH_MAX = 40
DOCUMENTS_MAX = 1_000

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
        faults: What is wrong whatever the document means.
    """

    data: Data = None
    places: dict[Path, Place] = field(default_factory=dict)
    plain: dict[Path, str] = field(default_factory=dict)
    faults: list["Blemish"] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Where a path stands, or the nearest thing around it that exists."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))


@dataclass(frozen=True, slots=True)
class _Node:
    """A YAML node as read, before aliases are followed. One of text, items and entries counts."""

    place: Place
    tag: str
    text: str | None = None
    bare: bool = False
    items: tuple["_Node", ...] | None = None
    entries: tuple[tuple["_Node", "_Node"], ...] = ()


class _RefusedError(Exception):
    def __init__(self, place: Place, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.place, self.hint = place, hint


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
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events = yaml.parse(text, Loader=loader)
    count = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            count += 1
            if count > DOCUMENTS_MAX:
                raise _RefusedError(_place(event), f"the file has more than {DOCUMENTS_MAX} documents", "split it")
            yield _flat(_Tree(events).node(next(events), 0))


class _Tree:
    """Builds the nodes of one document from its events."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._anchors: dict[str, _Node] = {}
        self._count = 0

    def node(self, event: yaml.Event, depth: int) -> _Node:
        place = _place(event)
        self._count += 1
        if self._count > NODES_MAX:
            raise _too_many(place)
        if depth > DEPTH_MAX:
            raise _RefusedError(place, f"nested deeper than {DEPTH_MAX} levels")
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            known = self._anchors.get(name)
            if known is None:
                raise _RefusedError(place, f"the alias *{name[:60]} names no finished anchor", "write the value out")
            return known
        made = self._made(event, place, depth)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = made
        return made

    def _made(self, event: yaml.Event, place: Place, depth: int) -> _Node:
        if isinstance(event, yaml.ScalarEvent):
            bare = event.tag is None and bool(event.implicit[0])
            return _Node(place=place, tag=_tag(event.tag, "" if bare else "str"), text=event.value, bare=bare)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
                items.append(self.node(inner, depth + 1))
            return _Node(place=place, tag=_tag(event.tag, "seq"), items=tuple(items))
        assert isinstance(event, yaml.MappingStartEvent)
        entries = []
        while not isinstance(inner := next(self._events), yaml.MappingEndEvent):
            key = self.node(inner, depth + 1)
            entries.append((key, self.node(next(self._events), depth + 1)))
        return _Node(place=place, tag=_tag(event.tag, "map"), entries=tuple(entries))


def _flat(root: _Node) -> Document:
    """Nodes -> data by path, aliases followed."""
    document = Document()
    count = 0

    def blemish(place: Place, path: Path, message: str, hint: str, *, lost: bool = False) -> None:
        document.faults.append(Blemish(place=place, path=path, message=message, hint=hint, lost=lost))

    def data(node: _Node, path: Path, place: Place, depth: int) -> Data:
        nonlocal count
        count += 1
        if count > NODES_MAX:
            raise _too_many(place)
        if depth > DEPTH_MAX:
            raise _RefusedError(place, f"nested deeper than {DEPTH_MAX} levels, aliases followed", "write the values out")
        document.places[path] = place
        if node.items is not None and node.tag == "seq":
            return [data(item, (*path, index), item.place, depth + 1) for index, item in enumerate(node.items)]
        if node.items is None and node.text is None and node.tag == "map":
            return mapping(node, path, depth)
        if node.text is not None and node.tag in _SCALAR_TAGS:
            value = _scalar(node)
            if not isinstance(value, str):
                document.plain[path] = node.text
            if node.tag in {"", _type_tag(value)}:
                return value
        tag = node.tag if node.tag.startswith("!") else f"!!{node.tag}"
        blemish(place, path, f"the tag {tag[:60]} is not allowed here", "plain YAML only: remove the tag", lost=True)
        return None

    def mapping(node: _Node, path: Path, depth: int) -> Data:
        result: dict[str, Data] = {}
        for key, value in node.entries:
            name = key.text if key.text is not None and isinstance(_scalar(key), str) else None
            if name is None:
                blemish(key.place, path, "a key must be text", "put the key in quotes")
            elif name == "<<" and key.bare:
                blemish(key.place, path, "merge keys (<<) are not supported", "write the keys out")
            elif name in result:
                first = document.places[*path, name][0]
                blemish(key.place, (*path, name), f"the key {name[:60]!r} stands twice; first in line {first}", "remove one")
            else:
                result[name] = data(value, (*path, name), key.place, depth + 1)
        return result

    document.data = data(root, (), root.place, 0)
    return document


_SCALAR_TAGS = frozenset({"", "str", "int", "float", "bool", "null"})
_NULL = re.compile(r"^(~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?[0-9]{1,18}$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?$")


def _scalar(node: _Node) -> str | float | bool | None:
    text = node.text or ""
    if node.tag == "str":
        return text
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text[0] in "tT"
    if _INT.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text


def _type_tag(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _tag(tag: str | None, usual: str) -> str:
    """Short name of a standard tag; any other as written; `usual` if there is none."""
    return usual if tag in {None, "!"} else str(tag).removeprefix("tag:yaml.org,2002:")


def _place(event: yaml.Event) -> Place:
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column + 1


def _too_many(place: Place) -> _RefusedError:
    return _RefusedError(place, f"the document has more than {NODES_MAX} values, aliases counted", "remove anchors, or split it")


def _error(file: str, place: Place, message: str, expected: str, hint: str) -> SpecError:
    return SpecError(file=file, line=place[0], column=place[1], path="", message=message, expected=expected, hint=hint)
