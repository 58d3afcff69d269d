"""The policies' one error: something in a policy file is wrong, and it is the author's to mend."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecError:
    """A fault in a policy file. A value, not an exception: all faults of all files are told at once.

    Attributes:
        line, column: Where it stands, from 1.
        path: Inside the document, e.g. `spec.steps[1].canary.shares`; "" for the document itself.
        expected: What would be right there.
        hint: How to mend it.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    expected: str = ""
    hint: str = ""
