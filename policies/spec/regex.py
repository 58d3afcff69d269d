"""Regular expressions that every proxy can hold: a plain part of RE2, and no larger than Envoy takes.

Envoy refuses the whole configuration for one bad expression, so it is refused here. By default it takes programs of at most 100 instructions
(`re2.max_program_size.error_level`); the sizes here are upper bounds of those that Envoy 1.40 told for some 25 forms.
"""

import re
from dataclasses import dataclass
from typing import Final

from policies.spec.units import shown, wrong

SIZE_MAX: Final = 100
_DEPTH_MAX = 20

_DIGITS = frozenset(range(48, 58))
_WORD = _DIGITS | frozenset(range(65, 91)) | frozenset(range(97, 123)) | {95}
_SPACE = frozenset(b"\t\n\f\r ")
_ALL = frozenset(range(256))
_SETS: Final = {"d": _DIGITS, "D": _ALL - _DIGITS, "w": _WORD, "W": _ALL - _WORD, "s": _SPACE, "S": _ALL - _SPACE}

_REPEAT = re.compile(r"\{([0-9]{1,3})(,([0-9]{1,3})?)?\}")

_EXPECTED = r"RE2 of characters, ., [a-z], \d \w \s \b, ( ), (?: ), |, ^, $, * + ? {2,5}, and (?i) in front"


def matchable(value: str) -> str:
    """The expression itself. Raises: `wrong` if a proxy would refuse it."""
    reader = _Reader(value)
    reader.folds = reader.taken("(?i)")
    size = 4 + reader.alternatives(depth=0)
    if reader.rest:
        raise reader.fault(f"{shown(reader.rest[0])} closes nothing")
    if size > SIZE_MAX:
        message = f"{shown(value)} is too large for a proxy: up to {size} instructions"
        raise wrong(message, expected=f"at most {SIZE_MAX} instructions", hint="use prefix, suffix or contains, or fewer repetitions")
    return value


@dataclass(slots=True)
class _Reader:
    """Reads an expression once from left to right; every method gives the size of what it read [instructions]."""

    text: str
    position: int = 0
    folds: bool = False

    @property
    def rest(self) -> str:
        return self.text[self.position :]

    def fault(self, message: str) -> Exception:
        return wrong(f"{message} in {shown(self.text)}", expected=_EXPECTED)

    def take(self) -> str:
        if not self.rest:
            raise self.fault("something is missing at the end")
        self.position += 1
        return self.text[self.position - 1]

    def taken(self, what: str) -> bool:
        if self.rest.startswith(what):
            self.position += len(what)
            return True
        return False

    def alternatives(self, depth: int) -> int:
        if depth > _DEPTH_MAX:
            raise self.fault("brackets are too deep")
        size = self.sequence(depth)
        while self.taken("|"):
            size += 1 + self.sequence(depth)
        return size

    def sequence(self, depth: int) -> int:
        size = 0
        while self.rest and self.rest[0] not in "|)":
            size += self.repeated(self.atom(depth))
        return max(size, 1)

    def repeated(self, size: int) -> int:
        found = _REPEAT.match(self.rest)
        if found is not None:
            self.position += found.end()
            least = int(found[1])
            most = least if found[2] is None else int(found[3]) if found[3] else None
            if most is not None and most < least:
                raise self.fault(f"{found[0]} runs backwards")
            size = max(least, 1) * size + 2 if most is None else max(most, 1) * size + most - least
        elif self.rest[:1] in {"*", "+", "?"}:
            self.position += 1
            size += 2
        else:
            return size
        self.taken("?")
        if self.rest[:1] in {"*", "+", "?", "{"}:
            raise self.fault("a repetition is repeated")
        return size

    def atom(self, depth: int) -> int:
        character = self.take()
        match character:
            case "(":
                return self.group(depth)
            case "[":
                return self.runs(self.bracketed())
            case "\\":
                return self.escaped()
            case ".":
                return 2
            case "*" | "+" | "?" | "{":
                raise self.fault(f"{shown(character)} repeats nothing")
            case _:
                return 1

    def group(self, depth: int) -> int:
        captures = not self.taken("?:")
        if self.rest.startswith("?"):
            raise self.fault(f"{shown('(' + self.rest[:2])} is not known to the proxies")
        size = 2 * captures + self.alternatives(depth + 1)
        if not self.taken(")"):
            raise self.fault("a ( is not closed")
        return size

    def escaped(self) -> int:
        character = self.take()
        if character in _SETS:
            return self.runs(_SETS[character])
        if character not in "bB" and character.isalnum():
            raise self.fault(f"'\\{character}' is not known to the proxies")
        return 1

    def bracketed(self) -> frozenset[int]:
        negated = self.taken("^")
        found: frozenset[int] = frozenset()
        first = True
        while first or not self.rest.startswith("]"):
            first = False
            if self.rest.startswith("[:"):
                raise self.fault("'[:' is not supported")
            low = self.member()
            if isinstance(low, frozenset):
                found |= low
            elif self.rest.startswith("-") and self.rest[1:2] not in {"]", ""}:
                self.position += 1
                high = self.member()
                if isinstance(high, frozenset) or high < low:
                    raise self.fault("a range runs backwards")
                found |= frozenset(range(low, high + 1))
            else:
                found |= {low}
        self.take()
        return _ALL - found if negated else found

    def member(self) -> int | frozenset[int]:
        character = self.take()
        if character != "\\":
            return ord(character)
        character = self.take()
        if character in _SETS:
            return _SETS[character]
        if character.isalnum():
            raise self.fault(f"'\\{character}' is not known to the proxies")
        return ord(character)

    def runs(self, characters: frozenset[int]) -> int:
        """Instructions of a class: one for each run of neighbours; (?i) may split a run in two."""
        return sum(1 for character in characters if character - 1 not in characters) * (2 if self.folds else 1)
