"""`crossfade record`: the server's blocks put together, into a file that is whole however it ends."""

import contextlib
import os
import signal

import pytest

from tests.cli.control import FakeControl, served
from tests.cli.running import run
from xds_server.adapters import recordings
from xds_server.cli import record
from xds_server.cli.exits import CliError
from xds_server.services import bodies


def seen(requests, errors=0):
    counts = {"requests": requests, "errors": errors, "fallbacks": 0, "broken": 0, "no_host": 0}
    return {**counts, "latency": [[100.0, requests]] if requests else [], "ttft": [], "statuses": {"200": requests - errors, "500": errors}}


def block(end, stable=9, candidate=1, *, errors=0, share=0.1, step="canary 10%", generation=3, version="v2", **more):
    variants = [
        {"name": "stable", "version": "v1", "identity": "v1.1", "share": 1.0 - share, "shadow_share": 0.0, "users": seen(stable)},
        {
            "name": "candidate",
            "version": version,
            "identity": f"{version}.1",
            "share": share,
            "shadow_share": 0.0,
            "users": seen(candidate, errors),
        },
    ]
    return {
        "start": end - 0.1,
        "end": end,
        "rollout": "chat",
        "generation": generation,
        "phase": "running",
        "step": step,
        "variants": variants,
        **more,
    }


class Script:
    """A listener that hears what was written down, and then the end of the stream."""

    def __init__(self, lines) -> None:
        self.lines = list(lines)

    async def take(self, timeout_s):
        if not self.lines:
            raise OSError("the end")
        lost, block = self.lines.pop(0)
        return lost, None if block is None else bodies.dump(block)


class Scripted(FakeControl):
    """Each connection hears one list of (lost, block); who comes once more finds the recorder told to end, as by `signal`."""

    def __init__(self, *connections, number=signal.SIGINT) -> None:
        super().__init__()
        self.connections = list(connections)
        self.number = number
        self.asked = 0

    def blocks(self, name):
        self.asked += 1
        if self.asked % 2:  # the first look only asks whether there is room
            return contextlib.nullcontext(None)
        if self.connections:
            return contextlib.nullcontext(Script(self.connections.pop(0)))
        os.kill(os.getpid(), self.number)
        return contextlib.nullcontext(Script([(0, None)]))


def recorded(control, *arguments):
    with served(control) as server:
        return run("record", "chat", "--server", server.url, *arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_ctrl_c_leaves_a_whole_file_and_is_no_failure(tmp_path, form, number):
    path = tmp_path / f"r.{form}"
    control = Scripted([(0, block(1000.2)), (0, block(1000.3, errors=1)), (0, None), (0, block(1001.4))], number=number)
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests in the background
    ran = recorded(control, "--out", path, "-o", "json")
    assert ran.code == 0, ran.err
    assert signal.getsignal(signal.SIGINT) is before
    found = recordings.read(path)
    assert [round(each.at, 3) for each in found] == [0.2, 1.3]
    assert found.blocks[0].arms["candidate"].requests == 2
    assert found.blocks[0].arms["candidate"].errors == 1
    assert found.blocks[1].arms["stable"].requests == 9
    assert sorted(tmp_path.iterdir()) == [path]


def test_what_was_recorded_is_told(tmp_path):
    ran = recorded(Scripted([(0, block(1000.2)), (4, block(1060.2))]), "--out", tmp_path / "r.csv")
    # Four of the stream, and at least one when the connection broke.
    assert ran.out == f"2 blocks in 60.1 s: stable 18, candidate 2 requests; 5 blocks of the server were missed; {tmp_path / 'r.csv'}\n"
    assert recordings.read(tmp_path / "r.csv").dropped == {recordings.MISSED: 4}


def test_a_server_that_goes_away_does_not_end_the_recording(tmp_path):
    ran = recorded(Scripted([(0, block(1000.2))], [(0, block(1005.2))]), "--out", tmp_path / "r.csv")
    assert ran.code == 0
    assert "trying again" in ran.err
    found = recordings.read(tmp_path / "r.csv")
    assert len(found.blocks) == 2
    assert found.dropped == {recordings.MISSED: 1}


def test_a_server_that_was_never_there_is_an_error_and_leaves_nothing(tmp_path):
    ran = run("record", "chat", "--server", "http://127.0.0.1:1", "--out", tmp_path / "r.csv")
    assert ran.code == 3
    assert "no crossfade server" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_rollout_is_an_error(tmp_path, server):
    ran = run("record", "nope", "--server", server.url, "--out", tmp_path / "r.csv")
    assert (ran.code, "no rollout 'nope'" in ran.err) == (2, True)


def test_nothing_seen_is_no_recording(tmp_path):
    ran = recorded(Scripted([(0, None)]), "--out", tmp_path / "r.csv")
    assert ran.code == 1
    assert "nothing was seen of chat" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_its_time_ends_it(tmp_path, server):
    ran = run("record", "chat", "--server", server.url, "--out", tmp_path / "r.csv", "--for", "10ms")
    assert "nothing was seen" in ran.err


@pytest.mark.parametrize("there", ["r.csv", "r.csv.part"])
def test_a_file_that_is_there_is_kept_unless_forced(tmp_path, there):
    path = tmp_path / "r.csv"
    (tmp_path / there).write_text("precious")
    ran = recorded(Scripted([(0, block(1000.2))]), "--out", path)
    assert ran.code == 2
    assert "is there already" in ran.err
    assert "--force" in ran.err
    assert (tmp_path / there).read_text() == "precious"
    assert recorded(Scripted([(0, block(1000.2))]), "--out", path, "--force").code == 0
    assert len(recordings.read(path).blocks) == 1
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "r.txt"), ".csv or .parquet"),
        (("--out", "no/such/folder/r.csv"), "nothing can be written into"),
        (("--out", "r.csv", "--every", "10ms"), "at least 0.1 s"),
        (("--out", "r.csv", "--for", "soon"), "is not a duration"),
        ((), "missing option"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    ran = run("record", "chat", "--server", "http://127.0.0.1:1", *arguments)
    assert ran.code in {1, 2}
    assert words in ran.err


def test_what_is_no_evidence_ends_it_with_what_came_before(tmp_path):
    broken = block(1001.2)
    broken["variants"][0]["users"]["errors"] = 99
    ran = recorded(Scripted([(0, block(1000.2)), (0, broken)]), "--out", tmp_path / "r.csv")
    assert ran.code == 1
    assert "column errors" in ran.err
    assert len(recordings.read(tmp_path / "r.csv").blocks) == 1


# How blocks are put together.


def recorder(path, every_s=1.0):
    return record._Recorder("chat", record._File(path, force=True), every_s)


def events(*blocks):
    return iter([("block", each) for each in blocks])


def together(path, *blocks, every_s=1.0):
    """What was told, and what is read, of blocks that came without a server."""
    return recorder(path, every_s).run(events(*blocks)), recordings.read(path)


def test_blocks_add_up_to_the_wanted_length(tmp_path):
    made = [block(1000.0 + (number + 1) / 10, errors=number % 2) for number in range(95)]
    told, found = together(tmp_path / "r.csv", *made, every_s=5.0)
    assert told["blocks"] == len(found.blocks) == 2
    assert sum(each.arms["stable"].requests for each in found) == 9 * 95
    assert sum(each.arms["candidate"].errors for each in found) == sum(number % 2 for number in range(95))
    assert sum(count for each in found for _, count in each.arms["stable"].latency) == 9 * 95


@pytest.mark.parametrize("change", [{"share": 0.2}, {"step": "canary 20%"}, {"version": "v3"}, {"generation": 4}])
def test_a_block_never_spans_a_change(tmp_path, change):
    told = recorder(tmp_path / "r.csv").run(events(block(1000.1), block(1000.2), block(1000.3, **change)))
    assert told["blocks"] == 2


def test_copies_and_chosen_users_are_recorded_beside(tmp_path):
    made = block(1000.1)
    made["variants"][0]["halves"] = [[5, 1], [4, 0]]
    made["variants"][1] |= {"shadows": seen(7), "pinned": seen(2), "shadow_share": 0.5}
    _, found = together(tmp_path / "r.csv", made)
    assert found.blocks[0].arms["candidate"].requests == 1
    assert found.blocks[0].halves == {"stable": ((5, 1), (4, 0))}
    assert found.dropped == {recordings.OTHER_AUDIENCE: 2}


def test_a_file_that_came_meanwhile_is_kept(tmp_path):
    made = record._Recorder("chat", record._File(tmp_path / "r.csv", force=False), 1.0)
    (tmp_path / "r.csv").write_text("precious")
    with pytest.raises(CliError, match="has come meanwhile") as caught:
        made.run(events(block(1000.1)))
    assert "r.csv.part" in caught.value.hint
    assert (tmp_path / "r.csv").read_text() == "precious"
    assert (tmp_path / "r.csv.part").exists()


def test_a_folder_that_goes_away_is_an_error(tmp_path, monkeypatch):
    made = recorder(tmp_path / "r.csv")
    monkeypatch.setattr(type(made._file.path), "replace", lambda *_: (_ for _ in ()).throw(OSError(2, "No such file or directory")))
    with pytest.raises(CliError, match="cannot be written: no such file"):
        made.run(events(block(1000.1)))


def test_a_full_disk_says_so_and_what_was_written_stays(tmp_path, monkeypatch):
    class Full:
        def write(self, rows):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(record, "writer", lambda *_: Full())
    with pytest.raises(CliError, match="no space left"):
        recorder(tmp_path / "r.csv").run(events(block(1000.1), block(1002.1)))
