import pytest

from tests.cli.control import FakeControl, served


@pytest.fixture
def control():
    return FakeControl()


@pytest.fixture
def server(control):
    with served(control) as server:
        yield server


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("CROSSFADE_SERVER", "NO_COLOR", "CROSSFADE_POLICIES", "CROSSFADE_STORE", "CROSSFADE_XDS", "CROSSFADE_API"):
        monkeypatch.delenv(name, raising=False)
