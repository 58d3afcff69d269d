"""Which policy files are in force: good ones as they are, broken ones as they last were, none of it lost to an empty directory."""

from pathlib import Path

from xds_server.runtime.documents import Documents

EXAMPLE = (Path(__file__).parents[2] / "deploy" / "examples" / "minimal.yaml").read_bytes()
BROKEN = b"apiVersion: crossfade/v1\nkind: Rollout\nspec: {nonsense: 1}\n"


def names(documents):
    return [policy.name for policy in documents.loaded.rollouts]


def test_a_broken_file_keeps_its_last_good_text_and_shows_its_errors():
    documents = Documents()
    documents.take({"a.yaml": EXAMPLE})
    before = names(documents)
    assert before
    documents.take({"a.yaml": BROKEN})
    assert names(documents) == before
    assert documents.errors
    assert documents.errors[0].file == "a.yaml"
    documents.take({"a.yaml": EXAMPLE})
    assert documents.errors == ()


def test_a_newcomer_that_conflicts_with_an_incumbent_is_left_out():
    documents = Documents()
    documents.take({"b.yaml": EXAMPLE})
    before = names(documents)
    documents.take({"a.yaml": EXAMPLE, "b.yaml": EXAMPLE})
    assert names(documents) == before
    assert set(documents.good) == {"b.yaml"}
    assert documents.errors


def test_a_removed_file_is_gone_and_an_empty_directory_is_not_believed():
    documents = Documents()
    documents.take({"a.yaml": EXAMPLE, "notes.yaml": b""})
    before = names(documents)
    documents.take({})
    assert names(documents) == before
    assert "empty" in documents.errors[0].message
    documents.take({"notes.yaml": b""})
    assert names(documents) == []


def test_what_was_in_force_survives_a_restart_on_broken_files():
    documents = Documents()
    documents.take({"a.yaml": EXAMPLE})
    again = Documents()
    again.remember(documents.to_bytes())
    again.take({"a.yaml": BROKEN})
    assert names(again) == names(documents)
    third = Documents()
    third.remember(documents.to_bytes())
    third.take({})
    assert names(third) == names(documents)
