"""Files beside the policies: requests of a probe (`*.jsonl`, one JSON object a line) and JSON Schemas of its answers (`*.json`). Pure.

Neighbours: `steps` (which name them), `loader` (which finds them among the files). What a schema means is its own standard:
https://json-schema.org/draft/2020-12.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from policies.errors import SpecError
from policies.spec.policy import ProbeRequest
from policies.spec.units import HEADER, PATTERN_WORDS, did_you_mean, shown

SUFFIXES: Final = (".jsonl", ".json")
"""What a companion's name ends with; every other file holds policies."""

BYTES_MAX: Final = 64 * 1024
REQUESTS_MAX: Final = 200
ERRORS_MAX: Final = 20
"""Faults told of one file."""

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_KEYS: Final = ("method", "path", "headers", "body")
_PATH: Final = re.compile(r'/[!"$-~]{0,2000}')
_HEADER: Final = re.compile(HEADER)
_HEADER_TEXT: Final = re.compile(r"[ -~]{0,2000}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""JSON can write it, UTF-8 cannot."""
_THE_PROBERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})


def find(name: str, beside: str, files: Mapping[str, bytes | str]) -> str | None:
    """The file that a policy in file `beside` means: looked for in its folder, then in each folder around it.

    Args:
        name: With slashes, never upwards.
    """
    for folder in PurePosixPath(beside).parents:
        if str(folder / name) in files:
            return str(folder / name)
    return None


class _WrongError(Exception):
    """A fault of one line."""

    def __init__(self, path: str, message: str, expected: str, hint: str = "") -> None:
        super().__init__(message)
        self.path, self.message, self.expected, self.hint = path, message, expected, hint


def requests(file: str, content: bytes | str) -> tuple[tuple[ProbeRequest, ...], tuple[SpecError, ...]]:
    """The requests of a probe, and what is wrong with the file; with an error nothing of it is to be used."""
    text = _text(file, content)
    if isinstance(text, SpecError):
        return (), (text,)
    found: list[ProbeRequest] = []
    errors: list[SpecError] = []
    lines = [(line, written) for line, written in enumerate(text.split("\n"), start=1) if written.strip()]
    for line, written in lines[:REQUESTS_MAX]:
        try:
            found.append(_request(_json(written)))
        except _WrongError as wrong:
            errors.append(_error(file, line, wrong))
    if len(lines) > REQUESTS_MAX:
        message = f"there are {len(lines)} requests"
        errors.append(
            _error(file, lines[REQUESTS_MAX][0], _WrongError("", message, f"at most {REQUESTS_MAX}", "they are repeated: fewer do"))
        )
    if not found and not errors:
        hint = '{"path": "/v1/completions", "body": {"prompt": "Hello"}}'
        errors.append(_error(file, 1, _WrongError("", "the file has no request", "a JSON object on each line", hint)))
    return tuple(found), tuple(errors[:ERRORS_MAX])


def json_schema(file: str, content: bytes | str) -> tuple[str, tuple[SpecError, ...]]:
    """A JSON Schema as text, and what is wrong with it."""
    text = _text(file, content)
    if isinstance(text, SpecError):
        return "", (text,)
    try:
        schema = _json(text)
        said = "a JSON Schema is a mapping" if not isinstance(schema, dict) else fault_of_schema(schema)
    except _WrongError as wrong:
        line = re.search(r"line ([0-9]+)", wrong.message)
        return "", (_error(file, int(line[1]) if line else 1, wrong),)
    if said:
        return "", (_error(file, 1, _WrongError("", said, "a JSON Schema, draft 2020-12")),)
    return text, ()


def fault_of_schema(schema: Mapping[str, Any]) -> str:
    """What makes a mapping no JSON Schema, "" if it is one."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # noqa: PLC0415 - slow to load, and few policies have a schema
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]  # noqa: PLC0415 - loaded when used

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path}: {error.message[:200]}"
    except RecursionError:
        return "it is nested too deeply"
    return ""


def _request(said: Any) -> ProbeRequest:
    if not isinstance(said, dict):
        raise _WrongError("", f"{shown(said)} is no request", "a JSON object with path, and perhaps method, headers, body")
    unknown = next((key for key in said if key not in _KEYS), None)
    if unknown is not None:
        raise _WrongError(unknown[:60], f"unknown key {shown(unknown)}", f"one of {', '.join(_KEYS)}", did_you_mean(unknown, _KEYS))
    path = said.get("path")
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise _WrongError(
            "path",
            f"{shown(path)} is no path" if "path" in said else "path is missing",
            "a path that starts with /, such as /v1/completions",
        )
    method = said.get("method", "POST" if "body" in said else "GET")
    if method not in _METHODS:
        near = did_you_mean(method.upper(), _METHODS) if isinstance(method, str) else ""
        raise _WrongError("method", f"{shown(method)} is no method", f"one of {', '.join(_METHODS)}", near)
    headers = dict(_headers(said.get("headers", {})))
    body = said.get("body", "")
    if isinstance(body, dict | list):
        body = json.dumps(body, separators=(",", ":"))
        headers.setdefault("content-type", "application/json")
    if not isinstance(body, str) or _SURROGATE.search(body):
        raise _WrongError("body", f"{shown(body)} is no body", "a text, or JSON as a mapping or a list")
    return ProbeRequest(method=method, path=path, headers=tuple(headers.items()), body=body)


def _headers(said: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(said, dict):
        raise _WrongError("headers", f"{shown(said)} are no headers", 'a mapping of names to texts, such as {"x-user-id": "probe"}')
    seen: set[str] = set()
    for name, value in said.items():
        plain = name.lower()
        if not _HEADER.fullmatch(name):
            raise _WrongError("headers", f"{shown(name)} does not fit", PATTERN_WORDS[HEADER])
        if plain in _THE_PROBERS:
            raise _WrongError(f"headers.{plain}", f"{plain} is set by the prober itself", "another header", f"remove {plain}")
        if plain in seen:
            raise _WrongError(f"headers.{plain}", f"{plain} stands twice", "each header once", "remove one")
        if not isinstance(value, str) or not _HEADER_TEXT.fullmatch(value):
            raise _WrongError(f"headers.{plain}", f"{shown(value)} does not fit", "printable ASCII text")
        seen.add(plain)
        yield plain, value


def _json(written: str) -> Any:
    try:
        return json.loads(written, parse_constant=_no_number, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if "\n" in written else f"column {error.colno}"
        raise _WrongError("", f"not JSON: {error.msg} ({where})", "a JSON object", "check quotes, commas and braces") from None
    except (ValueError, RecursionError):
        raise _WrongError("", "not JSON: a number is too long, or it is nested too deeply", "a JSON object") from None


def _no_number(word: str) -> Any:
    raise _WrongError("", f"{word} is no JSON number", "a number")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        double = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _WrongError("", f"the key {shown(double)} stands twice", "each key once", "remove one")
    return made


def _text(file: str, content: bytes | str) -> str | SpecError:
    """What a file says, or why it cannot be read."""
    if len(content) > BYTES_MAX:
        return _error(
            file, 1, _WrongError("", f"the file has more than {BYTES_MAX >> 10} KiB", f"at most {BYTES_MAX} bytes", "keep fewer samples")
        )
    try:
        return content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return _error(file, line, _WrongError("", "the file is not UTF-8 text", "JSON in UTF-8", "save it as UTF-8"))


def _error(file: str, line: int, wrong: _WrongError) -> SpecError:
    return SpecError(file=file, line=line, column=1, path=wrong.path, message=wrong.message, expected=wrong.expected, hint=wrong.hint)
