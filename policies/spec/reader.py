"""YAML text -> plain data with the place of every key and value; refuses what no policy needs. Pure.

Works on PyYAML's node graph, not on loaded objects: nodes know their lines, duplicate keys are seen, and no alias is ever expanded more than
`NODES_MAX` nodes allow (so a "billion laughs" file costs nothing).
"""

from dataclasses import dataclass, field
from typing import Any

import yaml

from policies.errors import SpecError

BYTES_MAX = 1024 * 1024
NODES_MAX = 50_000
DEPTH_MAX = 40

Path = tuple[str | int, ...]
Place = tuple[int, int]


@dataclass(slots=True)
class Document:
    """One YAML document: its data and where each path stands (line, column from 1)."""

    data: Any
    places: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path) -> Place:
        """Where a path stands, or the nearest thing around it that exists."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))


class _Refused(Exception):
    def __init__(self, mark: Any, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.mark, self.hint = mark, hint


def read(file: str, text: bytes) -> tuple[list[Document], list[SpecError]]:
    """All documents of a file, or what keeps it from being read."""
    if len(text) > BYTES_MAX:
        return [], [_error(file, (1, 1), f"the file has {len(text)} bytes", f"at most {BYTES_MAX} bytes", "split it")]
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        return [], [_error(file, (line, 1), "the file is not UTF-8 text", "a YAML file in UTF-8", "")]
    documents = []
    try:
        for node in yaml.compose_all(decoded, Loader=yaml.SafeLoader):
            budget = [NODES_MAX]
            document = Document(data=None)
            document.data = _plain(node, (), document.places, budget, 0)
            documents.append(document)
    except _Refused as refused:
        return [], [_error(file, (refused.mark.line + 1, refused.mark.column + 1), str(refused), "", refused.hint)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return [], [_error(file, place, f"not YAML: {error.problem or error.context}", "a YAML document", "check indentation and quotes")]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return [], [_error(file, (1, 1), f"not YAML: {str(error).splitlines()[0][:200] if str(error) else 'nested too deeply'}", "", "")]
    return [document for document in documents if document.data is not None], []


def _plain(node: Any, path: Path, places: dict[Path, Place], budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise _Refused(node.start_mark, f"the document has more than {NODES_MAX} values, aliases counted", "remove anchors, or split it")
    if depth > DEPTH_MAX:
        raise _Refused(node.start_mark, f"nested deeper than {DEPTH_MAX} levels")
    places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, places, budget, depth)
    if isinstance(node, yaml.SequenceNode):
        if node.tag != "tag:yaml.org,2002:seq":
            raise _Refused(node.start_mark, f"tag {node.tag} is not allowed", "plain YAML only")
        return [_plain(each, (*path, index), places, budget, depth + 1) for index, each in enumerate(node.value)]
    return _scalar(node)


def _mapping(node: Any, path: Path, places: dict[Path, Place], budget: list[int], depth: int) -> dict[str, Any]:
    if node.tag != "tag:yaml.org,2002:map":
        raise _Refused(node.start_mark, f"tag {node.tag} is not allowed", "plain YAML only")
    result: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused(key.start_mark, "a key must be plain text")
        name = str(key.value)
        if name in result:
            raise _Refused(key.start_mark, f"the key {name!r} stands twice in one mapping", "remove one of them")
        result[name] = _plain(value, (*path, name), places, budget, depth + 1)
        places[*path, name] = (key.start_mark.line + 1, key.start_mark.column + 1)
    return result


_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}


def _scalar(node: Any) -> Any:
    if node.tag not in _SCALARS:
        raise _Refused(node.start_mark, f"tag {node.tag} is not allowed", "plain YAML only")
    if node.tag.endswith((":timestamp", ":str")):
        return node.value
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (ValueError, yaml.YAMLError):
        return node.value


def _error(file: str, place: Place, message: str, expected: str, hint: str) -> SpecError:
    return SpecError(file=file, line=place[0], column=place[1], path="", message=message, expected=expected, hint=hint)
