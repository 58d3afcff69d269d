"""`crossfade record` on the running product: what users saw at the proxy is what is in the file."""

import asyncio
import contextlib
import os
import shutil
import signal

from tests.rig import Backend, Client, until
from tests.stage import CLI, Stage, rollout
from xds_server.adapters import recordings
from xds_server.adapters.recording_rows import rows
from xds_server.errors import RecordingError

STEPS = [{"canary": {"shares": ["30%"], "hold": {"for": "1h"}}}]
BURST = 300


def total(part):
    """Requests in the blocks that are written so far; 0 where half a line is."""
    copy = part.with_name("so-far.csv")
    shutil.copy(part, copy)
    with contextlib.suppress(RecordingError):
        return sum(row.counts.requests for _, row in rows(copy, most=10_000))
    return 0


@contextlib.asynccontextmanager
async def recording(stage, *arguments):
    """The command as a process, once it listens."""
    process = await asyncio.create_subprocess_exec(
        *CLI,
        "record",
        "chat",
        *map(str, arguments),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "CROSSFADE_SERVER": f"http://127.0.0.1:{stage.api}"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_recording_has_what_the_clients_counted(tmp_path):
    path, part = tmp_path / "chat.csv", tmp_path / "chat.csv.part"
    async with Backend(name="v1") as v1, Backend(name="v2") as v2, Stage(tmp_path / "stage") as stage:
        await stage.start(rollout(v1, v2, steps=STEPS, gates=[]))
        await stage.share(0.3)
        v2.error_share = 0.4
        async with Client(stage.port) as client, recording(stage, "--out", path, "--every", "200ms") as process:
            replies = []

            async def heard():
                # Each block is written when the next begins.
                replies.append(await client.request())
                return part.exists()

            await until(heard, "the recorder to listen", every_s=0.05)
            replies += await client.burst(BURST)

            async def written():
                replies.append(await client.request())
                return total(part) >= BURST

            await until(written, "the burst to be in the file", every_s=0.05)
            process.send_signal(signal.SIGINT)
            out, err = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, err.decode()
        assert str(path) in out.decode()
        assert not part.exists()
        found = recordings.read(path)
        status = await stage.status()
    assert found.variants == {"stable": "v1", "candidate": "v2"}
    assert [(dict(each.shares), each.step) for each in found.in_force] == [({"candidate": 3000}, status["step"]["label"])]
    of = {name: [each.arms[name] for each in found if name in each.arms] for name in found.variants}
    seen = {name: (sum(each.requests for each in counts), sum(each.errors for each in counts)) for name, counts in of.items()}
    for name, version in found.variants.items():
        answers = [reply for reply in replies if reply.variant == version]
        # The first ones may have come before the recorder listened, the last ones after it ended.
        assert seen[name][0] <= len(answers)
        assert seen[name][1] <= sum(bool(reply.failure) for reply in answers)
    assert BURST <= sum(requests for requests, _ in seen.values()) <= len(replies)
    assert seen["candidate"][1] > 0
    assert seen["stable"][1] == 0
    assert all(sum(count for _, count in each.latency) == each.requests for counts in of.values() for each in counts)
    assert all(dict(each.statuses).keys() <= {"200", "500"} for counts in of.values() for each in counts)
    assert found.dropped == {}
