"""A real git repository for tests, with somebody who works in it."""

import os
import subprocess

NAMES = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "Ann"), ("EMAIL", "ann@example.com"))}
QUIET = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
"""Nobody's own settings."""


class Repository:
    """A repository that somebody works in."""

    def __init__(self, path):
        self.path = path
        self.url = f"file://{path}"
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments):
        ran = subprocess.run(
            ["git", *arguments], cwd=self.path, env={**os.environ, **NAMES}, capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def write(self, **files):
        for name, text in files.items():
            self.file(name.replace("__", "/") + ".yaml", text)

    def file(self, name, text):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, *arguments):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "change", *arguments)
        return self.git("rev-parse", "HEAD")
