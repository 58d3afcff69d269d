"""`python -m tests.scenarios` names the transcripts that are out of step; with `--rewrite` it brings them into step."""

import sys

from tests.scenarios import runner, strategies

STORIES = ((runner.FOLDER, runner.play), (strategies.FOLDER, strategies.play))


def main(arguments):
    """0 if all is in step now, 1 if something is not or cannot be played."""
    if arguments not in ([], ["--rewrite"]):
        print("usage: python -m tests.scenarios [--rewrite]", file=sys.stderr)
        return 2
    rewrite, out_of_step = bool(arguments), 0
    for path, play in ((path, play) for folder, play in STORIES for path in sorted(folder.glob("*.txt"))):
        written = path.read_text()
        try:
            played = play(written)
        except ValueError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        if played != written:
            print(f"{path.name}: {'rewritten; read the difference' if rewrite else 'out of step'}")
            if rewrite:
                path.write_text(played)
            else:
                out_of_step = 1
    return out_of_step


sys.exit(main(sys.argv[1:]))
