"""h2spec, the conformance suite for HTTP/2 servers, against the wire transport. Opt-in: `CROSSFADE_GO=1`, and Go.

`tests/go/go.mod` has its version and checksum; building it needs the Go module proxy the first time. docs/wire.md has what it printed.
"""

import asyncio
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.wire.test_transport import PATH, Service
from xds_server.adapters.wire_transport import WireTransport
from xds_server.core.transport import Method

__test__ = os.environ.get("CROSSFADE_GO") == "1"

pytestmark = pytest.mark.timeout(900)

SOURCE = Path(__file__).parents[1] / "go"
H2SPEC = "github.com/summerwind/h2spec/cmd/h2spec"
CASES, STRICT_CASES = 145, 146


@pytest.fixture(scope="module")
def h2spec(tmp_path_factory) -> Path:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    assert Path(go).exists(), "CROSSFADE_GO=1 needs Go; hint: put `go` on PATH"
    built = tmp_path_factory.mktemp("go") / "h2spec"
    made = subprocess.run(
        [go, "build", "-mod=readonly", "-buildvcs=false", "-o", built, H2SPEC], check=False, cwd=SOURCE, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    return built


@pytest.mark.parametrize("path", [PATH, "/"])
@pytest.mark.parametrize(("options", "cases"), [((), CASES), (("--strict",), STRICT_CASES)])
async def test_every_case_passes(h2spec, tmp_path, path, options, cases):
    """On a path with a service, where requests that are not gRPC are told so in plain HTTP, and on one without."""
    report = tmp_path / "report.xml"
    transport = WireTransport([Method(path=PATH, service=Service())])
    port = await transport.serve("127.0.0.1:0")
    try:
        arguments = ("-h", "127.0.0.1", "-p", str(port), "-P", path, "-o", "10", "-j", str(report), *options)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(h2spec, *arguments, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
        printed, _ = await process.communicate()
    finally:
        await transport.stop(0.1)
    suites = ET.parse(report).getroot()
    ran, skipped, failed = (sum(int(suite.get(name)) for suite in suites) for name in ("tests", "skipped", "failures"))
    assert (ran, skipped, failed) == (cases, 0, 0), printed.decode()[-4000:]
    assert process.returncode == 0
