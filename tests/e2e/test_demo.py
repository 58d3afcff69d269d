"""The whole demo as a user runs it: real language models, a real Envoy, real load; it checks its own outcome in the traffic."""

import asyncio
import sys

import pytest

from tests.rig import free_port

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("scenario", "why"), [("errors", "gate errors failed in canary"), ("crash", "no pod of the candidate has been ready for")]
)
async def test_a_bad_model_is_reverted_in_front_of_the_user(scenario, why):
    command = (sys.executable, "-m", "xds_server.cli", "demo", "--scenario", scenario, "--port", str(free_port()))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert "reverted" in text
    assert "seen in the traffic itself" in text
    assert why in text
