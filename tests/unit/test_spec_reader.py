"""YAML is read with its places and within bounds: hostile files cost no more than large honest ones."""

import pytest
import yaml

from policies.spec.reader import BYTES_MAX, DEPTH_MAX, DIRECTIVES_MAX, DOCUMENTS_MAX, NODES_MAX, REPEATED_MAX, read


def data(text):
    documents, errors = read("f", text)
    assert not errors, errors
    assert not any(document.faults for document in documents)
    return [document.data for document in documents]


def refused(text):
    _, errors = read("f", text)
    (error,) = errors
    return error


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("yes", "yes"), ("on", "on"), ("No", "No"), ("true", True), ("False", False), ("~", None), ("null", None), ("5", 5), ("-5", -5),
        ("012", 12), ("0x1F", "0x1F"), ("1_000", "1_000"), ("1.10", 1.1), ("1e3", 1000.0), (".5", 0.5), (".inf", ".inf"), ("1e999", None),
        ("12:30:00", "12:30:00"), ("2026-11-24", "2026-11-24"), ("5%", "5%"), ("5m", "5m"), ("'5'", "5"), ('"true"', "true"), ("!!str 5", "5"),
        ("! 5", "5"), ("!!int 5", 5), ("=", "="), ("10.0.0.7:80", "10.0.0.7:80"), ("9" * 30, float("9" * 30)),
    ],
)  # fmt: skip
def test_scalars_mean_what_yaml_1_2_says(written, meant):
    (found,) = data(f"a: {written}")
    if written == "1e999":
        meant = float("inf")
    assert found == {"a": meant}
    assert type(found["a"]) is type(meant)


def test_every_key_and_item_knows_its_place():
    (document,), _ = read("f", "# c\na: 1\nb:\n  - x\n  - {c: 2, d: [3]}\n")
    assert document.places == {
        (): (2, 1), ("a",): (2, 1), ("b",): (3, 1), ("b", 0): (4, 5), ("b", 1): (5, 5), ("b", 1, "c"): (5, 6), ("b", 1, "d"): (5, 12),
        ("b", 1, "d", 0): (5, 16),
    }  # fmt: skip
    assert document.place(("b", 1, "missing", 7)) == (5, 5)


def test_anchors_are_followed():
    assert data("a: &x 1\nb: &y [*x]\nc: &x 2\nd: *y\ne: *x\n") == [{"a": 1, "b": [1], "c": 2, "d": [1], "e": 2}]
    assert data("a: &x {b: [1]}\nc: *x\nd: &y 5\ne: [*y, *y]\n") == [{"a": {"b": [1]}, "c": {"b": [1]}, "d": 5, "e": [5, 5]}]


def test_an_alias_to_itself_or_to_nothing_is_refused():
    for text in ("a: &x [*x]", "a: *x", "a: &x 1\n---\nb: *x"):
        assert "names no finished anchor" in refused(text).message


def test_a_billion_laughs_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert f"repeat more than {REPEATED_MAX} values" in refused("\n".join(lines)).message


def test_deep_aliases_are_refused():
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60)]
    assert f"nested deeper than {DEPTH_MAX} levels" in refused("\n".join(lines)).message


@pytest.mark.parametrize("text", ["[" * 900_000, "{a: " * 200_000, "- " * 500_000, "? " * 500_000, "a: " + "[" * 100 + "]" * 100])
def test_deep_nesting_is_refused_where_it_goes_too_deep(text):
    error = refused(text)
    assert "nest" in error.message
    assert error.line == 1


def test_sizes_are_bounded():
    assert refused(b"a" * (BYTES_MAX + 1)).message == "the file has more than 1 MiB"
    assert f"more than {NODES_MAX} values" in refused("[" + "a," * NODES_MAX + "]").message
    assert (
        f"more than {REPEATED_MAX} values" in refused("---\n".join(["a: &a [" + "x," * 99 + "]\nb: [" + "*a," * 20 + "]\n"] * 120)).message
    )
    assert f"more than {DIRECTIVES_MAX} lines begin with %" in refused("%TAG !a! x\n" * 60_000 + "---\na").message
    assert f"more than {DOCUMENTS_MAX} documents" in refused("---\na\n" * (DOCUMENTS_MAX + 1)).message


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (b"a: 1\nb: \xff", 2, 1),
        ("a: 1\nb: \x01", 2, 4),
        ("a: 1\nb: \ud800", 2, 4),
        ("a: 1\nb: [", 3, 1),
        ("a: 1\n b: 2", 2, 3),
        ("a: 1\n\tb: 2", 2, 1),
        ("a: b: c", 1, 5),
        ('a: "\\q"', 1, 5),
        ("a: 'x", 1, 6),
        ("%YAML 3.0\n---\na: 1", 1, 1),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(text, line, column):
    error = refused(text)
    assert (error.line, error.column) == (line, column)


def test_a_byte_order_mark_is_no_fault():
    assert data(b"\xef\xbb\xbfa: 1") == [{"a": 1}]


def test_windows_line_ends_count_as_one():
    (document,), _ = read("f", b"a: 1\r\nb: 2\r\n")
    assert document.places["b",] == (2, 1)


def test_a_fault_of_the_parser_without_a_place_is_told_at_the_start(monkeypatch):
    def broken(*_, **__):
        raise yaml.YAMLError("no idea\nat all")

    monkeypatch.setattr(yaml, "parse", broken)
    error = refused("a: 1")
    assert (error.line, error.message) == (1, "not YAML: no idea")
