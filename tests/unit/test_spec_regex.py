"""Which regular expressions a policy may have: those that every Envoy takes. The verdicts are those of Envoy 1.40 itself."""

import pytest
from pydantic_core import PydanticCustomError

from policies.spec.regex import SIZE_MAX, matchable

TAKEN = [
    "acme-(eu|us)[0-9]+", "^a$", "(?i)premium|gold", r"\w+@example\.com", r"v\d+\.\d+", "[]a]+", "[a-]", "[-a]", "[^]]", "}a]", "(a|b|)", "()",
    "(?:ab)*?c", "a{2,}", "x{0}", "a{80}", r"[\]\\]", r"\-\_x", ".*", "|",
    "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
]  # fmt: skip

REFUSED = {
    "a(?=b)": "'(?=' is not known to the proxies in 'a(?=b)'",
    "(?!a)": "'(?!' is not known to the proxies in '(?!a)'",
    "(?<=a)b": "'(?<' is not known to the proxies in '(?<=a)b'",
    r"(a)\1": r"'\1' is not known to the proxies in '(a)\\1'",
    r"a\Z": r"'\Z' is not known to the proxies in 'a\\Z'",
    "a++": "a repetition is repeated in 'a++'",
    "a{2}{3}": "a repetition is repeated in 'a{2}{3}'",
    "a{1001}": "'{' repeats nothing in 'a{1001}'",
    "*a": "'*' repeats nothing in '*a'",
    "a{3,2}": "{3,2} runs backwards in 'a{3,2}'",
    "[z-a]": "a range runs backwards in '[z-a]'",
    "(a": "a ( is not closed in '(a'",
    "a)": "')' closes nothing in 'a)'",
    "[a": "something is missing at the end in '[a'",
    "a\\": "something is missing at the end in 'a\\\\'",
    "a{150}": "'a{150}' is too large for a proxy: up to 154 instructions",
    "(" * 30 + ")" * 30: "brackets are too deep in '(((((((((((((((((((((((((((((())))))))))))))))))))))))))...",
}


@pytest.mark.parametrize("expression", TAKEN)
def test_what_envoy_takes_is_taken(expression):
    assert matchable(expression) == expression


@pytest.mark.parametrize("expression", REFUSED)
def test_what_envoy_refuses_is_told(expression):
    with pytest.raises(PydanticCustomError) as error:
        matchable(expression)
    assert error.value.message() == REFUSED[expression]


def test_a_long_text_is_too_large_and_a_little_shorter_is_not():
    matchable("a" * (SIZE_MAX - 4))
    with pytest.raises(PydanticCustomError):
        matchable("a" * (SIZE_MAX - 3))
