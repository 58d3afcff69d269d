"""Each story in `transcripts/` happens as it is written. `python -m tests.scenarios --rewrite` follows a wanted change."""

import pytest

from tests.scenarios.runner import FOLDER, play
from xds_server.core.stream import AdsStream

STORIES = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_happens_as_it_is_written(path):
    written = path.read_text()
    assert play(written).splitlines() == written.splitlines()


def test_all_classic_stories_are_told():
    assert [path.stem[:2] for path in STORIES] == [f"{number:02}" for number in range(1, len(STORIES) + 1)]
    assert len(STORIES) >= 12


def test_every_story_has_a_title_and_the_server_says_something_in_it():
    for path in STORIES:
        first, *lines = path.read_text().splitlines()
        assert first.startswith("# "), path.name
        assert any(line.startswith("    -> ") for line in lines), path.name


def test_what_the_server_does_is_not_taken_from_the_transcript():
    told = "# A wrong one\nstream sotw\n== 1: CDS v1 [a@1]\n<- ask CDS\n    -> #1 CDS v9 [b@1]\n    .. nonsense\n"
    assert play(told).splitlines()[4:] == ["    -> #1 CDS v1 [a@1]"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("<- shrug CDS", "line 2: '<- shrug CDS' is not written as it must be"),
        ("see nowhere", "line 2: 'see nowhere' is no step"),
        ("sing", "line 2: 'sing' is no step"),
        ("<- ACK CDS", "line 2: '<- ACK CDS' answers nothing"),
        ("<- ask XDS", "XDS is no type"),
        ("== 1: XDS v1 [a@1]", "XDS is no type"),
        ("== 1: CDS v1 [a]", "line 2: 'a' is not written"),
    ],
)
def test_a_line_that_cannot_be_played_is_named(line, complaint):
    with pytest.raises(ValueError, match=complaint):
        play(f"stream sotw\n{line}\n")


def test_a_client_cannot_speak_before_its_stream_begins():
    with pytest.raises(ValueError, match="line 1: '<- ask CDS' comes before any stream"):
        play("<- ask CDS\n")


def test_a_fault_of_the_stream_is_no_story_even_when_it_is_rewritten(monkeypatch):
    monkeypatch.setattr(AdsStream, "_take_child_along", lambda *_, **__: None)
    with pytest.raises(ValueError, match="the oracle says something else"):
        play((FOLDER / "07-cluster-takes-endpoints-along.txt").read_text())
