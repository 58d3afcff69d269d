"""What README tells people to type exists."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from xds_server.cli.app import crossfade

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted({line.split("#")[0].strip() for line in README.splitlines() if re.match(r"^crossfade \w", line)})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_exist_with_their_options(command):
    words = command.split(">")[0].split()
    help_text = CliRunner().invoke(crossfade, [words[1], "--help"])
    assert help_text.exit_code == 0, help_text.output
    for word in words[2:]:
        if word.startswith("--"):
            assert word in help_text.output


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_make_targets_of_the_readme_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_of_the_readme_lead_somewhere(link):
    assert link.startswith("https://") or (ROOT / link).exists()
