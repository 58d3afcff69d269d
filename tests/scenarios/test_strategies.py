"""Each strategy happens as its story in `strategies/` tells it. `python -m tests.scenarios --rewrite` follows a wanted change."""

import pytest

from policies.spec.policy import Step
from tests.scenarios.strategies import FOLDER, play

STORIES = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_strategy_happens_as_it_is_told(path):
    written = path.read_text()
    assert play(written).splitlines() == written.splitlines()


def test_every_kind_of_step_and_every_verb_of_an_operator_is_told():
    told = "\n".join(path.read_text() for path in STORIES)
    for step in Step.__args__:
        assert f"- {step.__dataclass_fields__['kind'].default}:" in told
    for verb in ("start", "advance", "promote", "abort", "pause", "resume", "retry", "approve", "rollback", "freeze", "unfreeze"):
        assert f": {verb}" in told, verb


def test_what_crossfade_does_is_not_taken_from_the_story():
    head = "# A wrong one\n| variants: {stable: v1}\n"
    assert play(head + "    0 s promoted: nonsense\n").splitlines()[2:] == [
        "    0 s adopted: v1 is stable and serves all requests",
        "    = v1 100%",
        "    . nothing to roll out",
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("sing", "'sing': is no line of a story"),
        ("60 s of 100/s, loud", "'loud' says nothing of traffic"),
        ("ann: jump", "'jump' is not a valid Verb"),
    ],
)
def test_a_line_that_says_nothing_is_an_error(line, complaint):
    with pytest.raises(ValueError, match=complaint):
        play(f"# A wrong one\n| variants: {{stable: v1}}\n{line}\n")
