"""The transports a test runs over: `Transport(methods)` makes the one whose turn it is; `each_transport` gives each its turn.

Whoever does not ask for each gets what `crossfade serve` uses: the default, or what CROSSFADE_TRANSPORT says.
"""

import os

import pytest

from xds_server.runtime.server import TRANSPORTS

_turn = os.environ.get("CROSSFADE_TRANSPORT", "wire")


def Transport(methods, **options):  # noqa: N802 - stands for a class
    return TRANSPORTS[_turn](methods, **options)


@pytest.fixture(params=TRANSPORTS)
def each_transport(request):
    """Runs a test once over each; a module asks for it with `pytestmark = pytest.mark.usefixtures("each_transport")`."""
    global _turn  # noqa: PLW0603 - helpers deep below a test make the server
    before, _turn = _turn, request.param
    yield request.param
    _turn = before
