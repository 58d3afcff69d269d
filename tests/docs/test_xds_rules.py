"""docs/xds.md says of every rule of the protocol which tests hold it; the tests say the same with `@pytest.mark.rule`."""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "xds.md").read_text()
RULES = [f"{letter}{number}" for letter, last in (("P", 22), ("S", 6), ("D", 8)) for number in range(1, last + 1)]
ROWS = {rule: set(re.findall(r"`(test_\w+)`", tests)) for rule, tests in re.findall(r"^\| ([PSD]\d+) \|.*\|(.*)\|$", PAGE, re.MULTILINE)}


def functions():
    """(name, rules it is marked with) of every test function there is."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                calls = [
                    each for each in node.decorator_list if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.rule"
                ]
                yield node.name, {ast.literal_eval(rule) for call in calls for rule in call.args}


FUNCTIONS = list(functions())
NAMES = Counter(name for name, _ in FUNCTIONS)
MARKED = defaultdict(set)
for test, marks in FUNCTIONS:
    for mark in marks:
        MARKED[mark].add(test)


def test_every_rule_has_a_row_and_every_mark_is_a_rule():
    assert list(ROWS) == RULES
    assert MARKED.keys() == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_exactly_the_tests_that_are_marked_with_it(rule):
    assert ROWS[rule] == MARKED[rule]


def test_a_test_named_after_a_rule_is_marked_with_it():
    named = [(name, match[1].upper(), marks) for name, marks in FUNCTIONS if (match := re.match(r"test_([psd]\d+)_", name))]
    assert named
    assert [name for name, rule, marks in named if rule not in marks] == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_a_test_that_the_page_names_is_there_once(name):
    assert NAMES[name] == 1


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+)`", PAGE))))
def test_a_file_that_the_page_names_is_there(path):
    assert (TESTS.parent / path).exists()
