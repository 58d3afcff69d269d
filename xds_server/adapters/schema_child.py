"""The child process that holds answers against a JSON Schema: reads one schema, then bodies, and says of each what is wrong.

A process of its own, run by its path, because no thread can be stopped: a pattern or a schema that takes for ever would hold the interpreter's lock
and with it every lease. It ends itself when one answer takes too long, and when nobody is there any more to ask.
Neighbours: `schema` is the other side.
"""

import json
import signal
import sys
from collections.abc import Callable
from typing import BinaryIO

from jsonschema.exceptions import best_match  # type: ignore[import-untyped]  # has no stubs
from jsonschema.validators import Draft202012Validator, validator_for  # type: ignore[import-untyped]  # has no stubs
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # has no stubs

ALARM_S = 5
MAX_WORDS = 200


def checker(schema: bytes) -> Callable[[bytes], str]:
    """A function that says what is wrong with a body, "" for nothing; it never raises."""
    try:
        read = json.loads(schema)
        kind = validator_for(read, default=Draft202012Validator)
        kind.check_schema(read)
    except Exception as error:  # noqa: BLE001 - whatever the library makes of a schema is the schema's fault
        words = f"the JSON Schema of the probe cannot be used: {getattr(error, 'message', None) or error}"[:MAX_WORDS]
        return lambda _: words
    validator = kind(read, registry=REGISTRY)  # the standard's own schemas and no others: nothing is fetched

    def check(body: bytes) -> str:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return "the body is no JSON"
        try:
            worst = best_match(validator.iter_errors(value))
        except Exception as error:  # noqa: BLE001 - whatever the library makes of a schema is the schema's fault
            return f"the JSON Schema of the probe cannot be used: {error!s:.150}"
        return "" if worst is None else f"the body does not fit the schema: {worst.json_path}: {worst.message}"[:MAX_WORDS]

    return check


def take(stream: BinaryIO) -> bytes | None:
    """One message: its length on a line, then its bytes; None at the end."""
    line = stream.readline()
    return stream.read(int(line)) if line else None


def main() -> None:
    schema = take(sys.stdin.buffer)
    check = checker(schema or b"")
    while (body := take(sys.stdin.buffer)) is not None:
        signal.alarm(ALARM_S)
        words = check(body)
        signal.alarm(0)
        sys.stdout.buffer.write(json.dumps(words).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
