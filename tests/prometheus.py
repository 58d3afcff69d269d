"""The real Prometheus as a process of a test: with a history written beforehand, or scraping as it goes.

`deploy/system-packages.sh tests` fetches it; without it the tests that need one are skipped.
"""

import contextlib
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.real_envoy import DIE_WITH_PARENT
from tests.rig import free_port


def _found(name):
    ours = Path(sys.prefix) / "prometheus" / "usr" / "bin" / name
    return str(ours) if ours.exists() else shutil.which(name)


PROMETHEUS, PROMTOOL = _found("prometheus"), _found("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None, reason="prometheus is not installed; hint: deploy/system-packages.sh tests"
)


class Prometheus:
    """Use as a context manager.

    Args:
        scrape: Addresses to scrape every second for Envoy's counters.
    """

    def __init__(self, folder: Path, *, scrape=(), every="1s") -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self.url = f"http://127.0.0.1:{free_port()}"
        targets = ", ".join(f'"{address}"' for address in scrape)
        job = f"[{{job_name: envoy, metrics_path: /stats/prometheus, static_configs: [{{targets: [{targets}]}}]}}]"
        (folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {every}, scrape_timeout: {every}}}\nscrape_configs: {job if scrape else '[]'}\n"
        )

    def history(self, lines) -> None:
        """Writes (series, value, time [s since the epoch]) as if it had been scraped; before the start."""
        text = "".join(f"{series} {value} {at:.3f}\n" for series, value, at in lines)
        (self.folder / "history.txt").write_text(text + "# EOF\n")
        command = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", "history.txt", "data"]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def __enter__(self):
        address = self.url.removeprefix("http://")
        command = [
            *DIE_WITH_PARENT,
            PROMETHEUS,
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={address}",
        ]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([*command, "--storage.tsdb.retention.time=100y"], cwd=self.folder, stdout=log, stderr=log)
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def ready(self):
        """Whether it answers queries."""
        assert self._process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(urllib.error.URLError, OSError):
            return urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).status == 200
        return False
