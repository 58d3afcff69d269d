"""Policy files as named on a command line: read, judged, their faults as JSON."""

import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xds_server.cli import exits
from xds_server.cli.exits import CliError
from xds_server.services.control import JsonObject

if TYPE_CHECKING:
    from policies.errors import SpecError
    from policies.spec.loader import Loaded

FILE_MAX_BYTES: Final = 4 * 1024 * 1024

COMPANION: Final = re.compile(rb"[\w./-]{1,500}\.jsonl?\b", re.ASCII)
COMPANIONS_MAX: Final = 100


def read(paths: Sequence[str]) -> dict[str, bytes]:
    """All files by the name to show, with the companions they may name. Raises: CliError: What cannot be read."""
    texts: dict[str, bytes] = {}
    for path in paths:
        if path == "-":
            texts["<stdin>"] = sys.stdin.buffer.read(FILE_MAX_BYTES + 1)
            texts |= _named_in(texts["<stdin>"], Path())
        elif Path(path).is_dir():
            texts |= {str(Path(path) / name): text for name, text in directory(path).items()}
        else:
            texts[path] = _file(Path(path))
            texts |= _named_in(texts[path], Path(path).parent)
    if not any(is_document(name) or name in {"<stdin>", *paths} for name in texts):
        raise CliError("no policy file found", where=", ".join(paths), hint="policy files end in .yaml or .yml", code=exits.USAGE)
    return texts


def is_document(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def directory(path: str) -> dict[str, bytes]:
    """What `serve --policies` reads from a directory, by the names it uses. Raises: CliError."""
    from xds_server.adapters.policy_directory import PolicyDirectory  # noqa: PLC0415 - loaded when used
    from xds_server.errors import SourceError  # noqa: PLC0415 - loaded when used

    try:
        return asyncio.run(PolicyDirectory(path).read())
    except SourceError as error:
        raise CliError(str(error), where=path, hint=error.hint, code=exits.USAGE) from None


def _named_in(text: bytes, folder: Path) -> dict[str, bytes]:
    """Companions that a single file seems to name, where `load` looks for them; what is missing is told by who needs it."""
    found: dict[str, bytes] = {}
    for name in list(dict.fromkeys(each.decode() for each in COMPANION.findall(text)))[:COMPANIONS_MAX]:
        if name.startswith("/") or ".." in name.split("/"):
            continue
        near = next((path for path in (each / name for each in (folder, *folder.parents)) if path.is_file()), None)
        if near is not None:
            found[str(near)] = _file(near)
    return found


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise CliError(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}",
            hint="name a policy file or a directory of them",
            code=exits.USAGE,
        ) from None


def good(paths: Sequence[str], *, code: int = exits.NO) -> "Loaded":
    """The documents of files that must be free of errors. Raises: CliError."""
    from xds_server.adapters.policy_files import load  # noqa: PLC0415 - loaded when used
    from xds_server.cli.picture import faults  # noqa: PLC0415 - loaded when used

    loaded = load(read(paths))
    if loaded.errors:
        first = faults([as_json(loaded.errors[0])])[0]
        more = f" (and {len(loaded.errors) - 1} more)" if len(loaded.errors) > 1 else ""
        raise CliError(f"the policy is not valid{more}", where=first, hint=f"crossfade validate {' '.join(paths)}", code=code)
    return loaded


def as_json(error: "SpecError") -> JsonObject:
    """A fault as `validate -o json` and the API write it."""
    return {
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "path": error.path,
        "message": error.message,
        "expected": error.expected,
        "hint": error.hint,
    }
