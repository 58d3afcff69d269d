"""docs/wire.md names tests and limits; they are there, and as it says."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from xds_server.wire import Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/wire.md").read_text()
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_wire*.py")) + (ROOT / "tests/wire/test_hostile.py").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_a_test_that_the_page_names_is_there_once(name):
    assert len(re.findall(rf"def {name}\(", TESTS)) == 1


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|xds_server)/[\w/.]+)`", PAGE))))
def test_a_file_that_the_page_names_is_there(path):
    assert (ROOT / path).exists()


def test_the_page_has_every_limit_with_its_default():
    stated = {name: float(value.replace(",", "")) for name, value in re.findall(r"^\| `(\w+)` \| ([\d,.]+) \|", PAGE, re.MULTILINE)}
    assert stated == {each.name: float(getattr(Limits(), each.name)) for each in fields(Limits)}


def test_the_page_says_how_many_inputs_the_corpus_has():
    assert f"({len(list((ROOT / 'tests/fixtures/wire_corpus').iterdir()))} inputs)" in PAGE
