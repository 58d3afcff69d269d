"""How a command ends: exit codes, and errors as three lines on stderr.

    error: what is wrong
      where it is
    hint: how to mend it

0 yes, done; 1 a negative answer; 2 wrong usage; 3 the server is not reachable or does not allow it; 130 interrupted.
"""

import os
import sys
from typing import Final

DONE: Final = 0
NO: Final = 1
USAGE: Final = 2
NOT_REACHED: Final = 3
INTERRUPTED: Final = 130

HTTP: Final[dict[int, int]] = {400: USAGE, 404: USAGE, 405: USAGE, 413: USAGE, 409: NO, 401: NOT_REACHED, 403: NOT_REACHED}
"""What an answer of the server means for the exit code; all others are NOT_REACHED."""


class CliError(Exception):
    """Ends the command with a message.

    Args:
        what: One line, no full stop.
        where: The flag, file or address it is about; "" = said in `what`.
        code: The exit code.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "", code: int = NO) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.code = code


def show(error: CliError, *, color: bool | None = None) -> None:
    """Writes an error to stderr."""
    colored = sys.stderr.isatty() and color is not False and not os.environ.get("NO_COLOR")
    head = "\x1b[1;31merror\x1b[0m" if colored else "error"
    lines = [f"{head}: {error.what}"]
    if error.where:
        lines.append(f"  {error.where}")
    if error.hint:
        lines.append(f"hint: {error.hint}")
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - the one place errors are written


def http_code(status: int) -> int:
    """The exit code for an HTTP status of the server."""
    return HTTP.get(status, NOT_REACHED)
