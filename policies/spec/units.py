"""Words and numbers of a policy as people write them: durations, shares, margins, names. Each says what it expects.

`documents` builds its models of these; the JSON Schema takes their patterns from here.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_UNITS_S = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
DURATION: Final = r"^[0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h|d)$"
_PERCENT_PATTERN = r"^[0-9]{1,5}(\.[0-9]{1,2})?\s?%$"
_RATE_PATTERN = r"^[0-9]{1,5}(\.[0-9]{1,2})?/(s|min)$"
_RATE = re.compile(_RATE_PATTERN)
_DURATION = re.compile(DURATION)
_PERCENT = re.compile(_PERCENT_PATTERN)

LONGEST_S = 366 * 86400.0
"""No duration of a policy is longer than a year [s]."""


def wrong(
    message: str, *, expected: str = "", hint: str = "", at: tuple[str | int, ...] = (), near: tuple[str, Sequence[str]] = ("", ())
) -> PydanticCustomError:
    """A fault to raise in a validator: what, what would be right, how to mend it.

    Args:
        message: Says what is wrong, quoting the value.
        expected: What would be right.
        hint: How to mend it.
        at: Where below the place of the validator.
        near: A word and the words it may have meant, in place of a hint.
    """
    context = {"message": message, "expected": expected, "hint": hint or did_you_mean(*near), "at": at}
    return PydanticCustomError("policy", "{message}", context)


def nearest(word: str, known: Sequence[str]) -> str:
    """The known word that a misspelt one may have meant, or ""."""
    close = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.6)
    return close[0] if close else ""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A hint, or "" if nothing is near."""
    near = nearest(word, known)
    return f"did you mean {near!r}?" if near else ""


def shown(value: object) -> str:
    """A value as a message quotes it: short and on one line."""
    words = repr(value)
    return words if len(words) <= 60 else words[:57] + "..."


def duration_s(value: Any) -> float:
    """`300ms`, `5m`, `1h`, `7d` -> seconds, at most `LONGEST_S`."""
    expected = "a number with its unit ms, s, m, h or d, such as 300ms or 5m"
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        raise wrong(f"{shown(value)} is no duration", expected=expected, hint=f"write {value}s for seconds" if plain else "")
    seconds = float(Decimal(value.removesuffix(found[2])) * _UNITS_S[found[2]])
    if seconds > LONGEST_S:
        raise wrong(f"{shown(value)} is too long", expected="at most 366d")
    return seconds


def share_bp(value: Any) -> int:
    """`12.5%` -> 1250 hundredths of a per cent; 0 < share <= 100 %."""
    bp = _percent_bp(value)
    if not 0 < bp <= 10_000:
        raise wrong(f"{shown(value)} is out of range", expected="more than 0% and at most 100%")
    return bp


def share_or_nothing_bp(value: Any) -> int:
    """The same, and `0%`: nobody but the users of segments."""
    return 0 if _percent_bp(value) == 0 else share_bp(value)


def rate_per_s(value: Any) -> float:
    """`5/s` -> 5.0, `30/min` -> 0.5 [requests per second], from 1/min to 1000/s."""
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        raise wrong(
            f"{shown(value)} is no rate", expected="requests per s or min, such as 5/s or 30/min", hint=f"write {value}/s" if plain else ""
        )
    rate = float(value.partition("/")[0]) / (60.0 if found[2] == "min" else 1.0)
    if not 1 / 60 <= rate <= 1000:
        raise wrong(f"{shown(value)} is out of range", expected="from 1/min to 1000/s")
    return rate


def fraction(value: Any) -> float:
    """`0.5%` -> 0.005."""
    return _percent_bp(value) / 10_000


def _percent_bp(value: Any) -> int:
    if not isinstance(value, str) or not _PERCENT.fullmatch(value):
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        raise wrong(
            f"{shown(value)} is no percentage",
            expected="a number of at most two decimals and %, such as 5% or 0.25%",
            hint=f"write {value}% for per cent" if plain else "",
        )
    return int(Decimal(value.removesuffix("%").rstrip()) * 100)


def fraction_or_duration(value: Any) -> tuple[str, float]:
    """A margin: ("fraction", 0.005) for `0.5%`, ("ms", 300.0) for `300ms`."""
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return "ms", duration_s(value) * 1000.0
    if isinstance(value, str) and _PERCENT.fullmatch(value):
        return "fraction", fraction(value)
    raise wrong(f"{shown(value)} is no margin", expected="a percentage such as 0.5% (error rate) or a duration such as 50ms (latency)")


def ip_address(value: str) -> str:
    """An IP address in its canonical form."""
    try:
        return _ip(value)
    except ValueError:
        raise wrong(f"{shown(value)} is no IP address", expected="an IPv4 or IPv6 address, such as 0.0.0.0 or ::1") from None


def endpoint(value: str) -> str:
    """`IP:port` in its canonical form: `10.0.0.7:8000`, `[::1]:8000`."""
    expected = 'IP:port such as 10.0.0.7:8000 or "[fd00::7]:8000"'
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = _ip(host[1:-1] if bracketed else host)
    except ValueError:
        hint = f"a name goes under dns: {{dns: {host[:60]}, port: {port[:5]}}}" if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", host) else ""
        raise wrong(f"{shown(value)} is no address with a port", expected=expected, hint=hint) from None
    if (":" in ip) != bracketed:
        raise wrong(f"{shown(value)} is ambiguous", expected=expected, hint="an IPv6 address stands in brackets, and only that")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise wrong(f"{shown(value)} has no port from 1 to 65535", expected=expected)
    return f"[{ip}]:{int(port)}" if bracketed else f"{ip}:{int(port)}"


def _ip(value: str) -> str:
    if "%" in value:
        raise ValueError("an address with a zone is only known on its own machine")
    return str(ipaddress.ip_address(value))


NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
VERSION: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$"
HEADER: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$"
URL_PATH: Final = r'^/[!"$-~]{0,500}$'
PREFIX: Final = r'^/[!"$->@-~]{0,500}$'
DNS_NAME: Final = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?\.?$"
HOST: Final = r"^(\*|(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])$"
SALT: Final = r"^[A-Za-z0-9._-]{1,60}$"
HEADER_TEXT: Final = r"^[!-~]([ -~]{0,498}[!-~])?$"
COOKIE: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,80}$"
GRPC: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,99}(\.[A-Za-z_][A-Za-z0-9_]{0,99}){0,20}$"
FILE: Final = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,20}$"
ZONE: Final = r"^(UTC|[A-Z][A-Za-z_]{1,20}(/[A-Za-z0-9_+-]{1,30}){1,2})$"

PATTERN_WORDS: Final = {
    NAME: "1 to 63 lower-case letters, digits and dashes, such as chat-llm",
    VERSION: "up to 100 letters, digits, dots, dashes and underscores, such as llama-3-8b-int8",
    HEADER: "the name of an HTTP header, such as x-user-id",
    URL_PATH: "a path that starts with /, such as /health",
    PREFIX: "the start of a path without a query, such as /v1/",
    DNS_NAME: "a DNS name, such as chat.models.svc",
    HOST: "a host without port, such as chat.example.com, *.example.com, or * for every host",
    SALT: "up to 60 letters, digits, dots, dashes and underscores",
    HEADER_TEXT: "up to 500 printable ASCII characters, no blank at either end",
    COOKIE: "the name of a cookie, such as crossfade-chat",
    GRPC: "a gRPC service with its package, such as inference.GRPCInferenceService",
    FILE: "a file below the policies' folder, such as samples/chat.jsonl",
    ZONE: "an IANA time zone, such as Europe/Berlin, or UTC",
}
"""What a person is told when a text does not match."""

Name = Annotated[str, StringConstraints(pattern=NAME)]
Version = Annotated[str, StringConstraints(pattern=VERSION)]
Header = Annotated[str, StringConstraints(pattern=HEADER)]
UrlPath = Annotated[str, StringConstraints(pattern=URL_PATH)]
Prefix = Annotated[str, StringConstraints(pattern=PREFIX)]
DnsName = Annotated[str, StringConstraints(pattern=DNS_NAME)]
Host = Annotated[str, StringConstraints(pattern=HOST)]
Salt = Annotated[str, StringConstraints(pattern=SALT)]
HeaderText = Annotated[str, StringConstraints(pattern=HEADER_TEXT)]
CookieName = Annotated[str, StringConstraints(pattern=COOKIE)]
GrpcService = Annotated[str, StringConstraints(pattern=GRPC)]
FileName = Annotated[str, StringConstraints(pattern=FILE)]
Zone = Annotated[str, StringConstraints(pattern=ZONE)]
IpAddress = Annotated[str, AfterValidator(ip_address)]
Endpoint = Annotated[str, AfterValidator(endpoint)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Count = Annotated[int, Field(ge=0, le=10**9, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
LabelText = Annotated[str, StringConstraints(min_length=1, max_length=200)]


@dataclass(frozen=True, slots=True)
class OrText:
    """Marks a mapping that has a short form: a text of this pattern."""

    pattern: str

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "pattern": self.pattern}, handler(core)]}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Marks a union whose form is told by what stands there, so that a fault is told of what was meant and not of every form.

    Attributes:
        form: What stands there -> the type it is read as; raises `wrong` if it is none.
    """

    form: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any, _: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return _reader(self.form(value)).validate_python(value)

        return core_schema.no_info_wrap_validator_function(read, handler(source))


@cache
def _reader(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _written(pattern: str, examples: list[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": examples})


DurationS = Annotated[float, BeforeValidator(duration_s), _written(DURATION, ["5m", "300ms"])]
ShareBp = Annotated[int, BeforeValidator(share_bp), _written(_PERCENT_PATTERN, ["5%", "0.25%"])]
ShareOrNothingBp = Annotated[int, BeforeValidator(share_or_nothing_bp), _written(_PERCENT_PATTERN, ["5%", "0%"])]
RatePerS = Annotated[float, BeforeValidator(rate_per_s), _written(_RATE_PATTERN, ["5/s", "30/min"])]
Fraction = Annotated[float, BeforeValidator(fraction), _written(_PERCENT_PATTERN, ["10%"])]
MarginValue = Annotated[
    tuple[str, float], BeforeValidator(fraction_or_duration), _written(f"{DURATION}|{_PERCENT_PATTERN}", ["0.5%", "50ms"])
]
