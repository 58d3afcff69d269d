"""`status`, `why`, `history`, `proxies` over real HTTP, as tables, documents, streams and waits."""

import io
import json
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import yaml

from tests.cli.control import Served, record, status
from tests.cli.running import run


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "not within 20 s"
        time.sleep(0.01)


def test_status_piped_is_aligned_plain_text(server):
    ran = run("status", "--server", server.url)
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out
    assert ran.out.splitlines() == [
        "chat  running  llama-3-8b-fp16 -> llama-3-8b-int8",
        "  traffic    stable 95%, candidate 5%  (weights stable 9507, candidate 500 of 10007)",
        "  step       canary 5% (2 of 6) since 2026-01-01 00:00:00 UTC; waits for samples (312 of 500)",
        "  candidate  2 of 2 pods ready",
        "  lease      30 s, held",
        "  proxies    2 of 2 ACKed",
        "    GATE    ROLE       VERDICT       WORSE    AS GOOD  ESTIMATE   REQUESTS  AGE",
        "    errors  guardrail  INCONCLUSIVE  3.1/100  0.4/20   0.1%|0.4%  6021|312  0.4 s",
        "  because    canary 5%: 312 of 500 samples",
    ]


def several(**changes):
    """A rollout with two arms, one of which was taken out."""
    shown = status(**changes)
    arm, gate = shown["variants"][0], shown["gates"][0]
    out = "b was taken out: errors"
    shown["variants"] = [
        arm | {"name": "b", "version": "v2", "share": 0.0, "ready": 0, "out": out},
        arm | {"name": "c", "version": "v3", "share": 0.1, "capacity_share": 0.25},
    ]
    shown["gates"] = [gate | {"variant": "b", "verdict": "FAIL"}, gate | {"variant": "c"}]
    shown["weights"] = {"stable": 9007, "b": 0, "c": 1000, "total": 10007}
    return shown


def test_status_of_several_arms_tells_them_apart(server, control):
    waits = [
        {"kind": "samples", "have": 312, "need": 500, "what": "", "variant": "c"},
        {"kind": "capacity", "have": 2500, "need": 5000, "what": "1 of 2 pods", "variant": "c"},
        {"kind": "approval", "have": 10, "need": 86400, "what": "team", "variant": ""},
        {"kind": "later", "have": 0, "need": 0, "what": "x", "variant": ""},
    ]
    step = {"index": 1, "of": 4, "kind": "ab", "label": "ab b 10%, c 10%", "since": "2026-01-01T00:00:00Z", "waiting_for": waits}
    control.states["chat"] = several(
        phase="frozen",
        step=step,
        winner="c",
        freezes=[{"source": "operator", "words": "frozen by ann: audit"}, {"source": "gate", "words": ""}],
        policy={"file": "chat.yaml", "source": "file:///repo#main", "commit": "3f9a51c2d0abcdef"},
    )
    missing = "samples of c (312 of 500), pods of c: they carry 25% of 50%, `crossfade approve` (team) (10 of 86400 s), later (x)"
    assert run("status", "--server", server.url).out.splitlines() == [
        "chat  frozen  llama-3-8b-fp16 -> b: v2, c: v3",
        "  traffic  stable 90%, c 10%  (weights stable 9007, b 0, c 1000 of 10007)",
        f"  step     ab b 10%, c 10% (2 of 4) since 2026-01-01 00:00:00 UTC; waits for {missing}",
        "  b        v2, 0 of 2 pods ready; out: b was taken out: errors",
        "  c        v3, 2 of 2 pods ready, enough for 25%",
        "  winner   c",
        "  frozen   frozen by ann: audit",
        "  frozen   by gate",
        "  lease    30 s, held",
        "  proxies  2 of 2 ACKed",
        "  policy   chat.yaml at 3f9a51c2d0ab of file:///repo#main",
        "    VARIANT  GATE    ROLE       VERDICT       WORSE    AS GOOD  ESTIMATE   REQUESTS  AGE",
        "    b        errors  guardrail  FAIL          3.1/100  0.4/20   0.1%|0.4%  6021|312  0.4 s",
        "    c        errors  guardrail  INCONCLUSIVE  3.1/100  0.4/20   0.1%|0.4%  6021|312  0.4 s",
        "  because  canary 5%: 312 of 500 samples",
    ]


def test_decisions_about_several_arms_tell_each_share(server, control):
    control.records["chat"] = [record("advanced", share=0.3, shares={"b": 0.1, "c": 0.2})]
    assert "b 10% c 20%" in run("history", "chat", "--server", server.url).out
    assert "  shares: b 10%, c 20%" in run("why", "chat", "--server", server.url).out.splitlines()


def test_status_says_what_a_proxy_rejects_and_what_is_wrong_with_the_files(server, control):
    control.states["chat"] = status(proxies={"selected": 2, "acked": 1, "rejected": 1, "words": "n1 rejects RDS: no such\ncluster"})
    control.errors = [
        {
            "file": "a.yaml",
            "line": 3,
            "column": 5,
            "path": "steps[0]",
            "message": "unknown key",
            "expected": "hold",
            "hint": "did you mean hold?",
        }
    ]
    out = run("status", "--server", server.url).out
    assert "1 of 2 ACKed, 1 rejected: n1 rejects RDS: no such cluster" in out
    assert "a.yaml:3:5: steps[0]: unknown key; expected hold\n  hint: did you mean hold?" in out


def test_a_rollout_with_nothing_to_do_has_a_short_status(server, control):
    control.states["chat"] = status(
        phase="idle", variants=[], step=None, gates=[], weights={"stable": 10007, "total": 10007}, because="nothing to roll out"
    )
    assert run("status", "--server", server.url).out.splitlines()[:2] == [
        "chat  idle  llama-3-8b-fp16",
        "  traffic  stable 100%  (weights stable 10007 of 10007)",
    ]


def test_text_of_others_cannot_move_the_terminal(server, control):
    control.states["chat"] = status(because="\x1b[2Jgone\r\n", stable={"version": "v\x07"})
    out = run("status", "--server", server.url).out
    assert not [sign for sign in out if not sign.isprintable() and sign != "\n"]


@pytest.mark.parametrize(("form", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_status_as_a_document_is_what_the_server_says(server, control, form, parse):
    control.states["search"] = status("search")
    wanted = {"rollouts": [control.states["chat"], control.states["search"]], "policy_errors": []}
    assert parse(run("status", "-o", form, "--server", server.url).out) == wanted
    assert parse(run("status", "search", "-o", form, "--server", server.url).out) == {**wanted, "rollouts": wanted["rollouts"][1:]}


def test_an_unknown_rollout_is_told_which_there_are(server):
    ran = run("status", "chta", "--server", server.url)
    assert (ran.code, ran.err) == (2, "error: there is no rollout 'chta'\nhint: there are: chat\n")


def waiting(server, control, *arguments, then):
    """Runs a wait; `then` happens once it is watching."""

    def act():
        until(lambda: control.waiters > 0)
        then()

    actor = threading.Thread(target=act)
    actor.start()
    ran = run("status", "chat", *arguments, "--server", server.url)
    actor.join(20)
    return ran


def test_a_wait_ends_with_0_when_the_named_end_comes(server, control):
    ran = waiting(server, control, "--wait", "promoted, reverted", then=lambda: control.change(phase="reverted", step=None))
    assert ran.code == 0
    assert ran.err.splitlines() == ["chat running canary 5%", "chat reverted"]
    assert ran.out.startswith("chat  reverted")


def test_a_wait_ends_with_1_when_another_end_comes(server, control):
    ran = waiting(server, control, "--wait", "promoted", "-o", "json", then=lambda: control.change(phase="reverted"))
    assert ran.code == 1
    assert json.loads(ran.out)["rollouts"][0]["phase"] == "reverted"


def test_a_wait_that_takes_too_long_is_a_no(server):
    ran = run("status", "chat", "--wait", "promoted", "--timeout", "300ms", "--server", server.url)
    assert ran.code == 1
    assert ran.err.splitlines()[-3:] == [
        "error: it is running after 0.3 s",
        "  waited for promoted",
        "hint: crossfade status says what is missing",
    ]


def test_a_wait_survives_a_restart_of_the_server(control):
    first = Served(control)
    again = []

    def restart():
        first.stop()
        control.change(phase="promoted")
        again.append(Served(control, first.port))

    ran = waiting(first, control, "--wait", "promoted", then=restart)
    again[0].stop()
    assert ran.code == 0
    assert "trying again" in ran.err


@pytest.mark.parametrize(
    "arguments", [("--wait", "done"), ("--wait", ""), ("--timeout", "1m"), ("--wait", "promoted", "--timeout", "soon")]
)
def test_a_wait_that_makes_no_sense_is_wrong_usage(server, arguments):
    assert run("status", "chat", *arguments, "--server", server.url).code == 2


def test_a_wait_without_a_name_needs_one_rollout(server, control):
    control.states["search"] = status("search")
    ran = run("status", "--wait", "promoted", "--server", server.url)
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: --wait needs to know which rollout; there are: chat, search")


def test_a_watch_piped_writes_each_change_once(server, control):
    command = [sys.executable, "-m", "xds_server.cli", "status", "chat", "--watch", "-o", "json", "--server", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["rollouts"][0]["phase"] == "running"
        control.change(phase="holding")
        assert json.loads(process.stdout.readline())["rollouts"][0]["phase"] == "holding"
        process.terminate()


def test_watchers_are_bounded_and_let_go_of(server, control, monkeypatch):
    monkeypatch.setattr("xds_server.services.http_api.WATCHERS_MAX", 1)
    watcher = urllib.request.urlopen(f"{server.url}/v1/watch", timeout=20)
    assert watcher.headers["Content-Type"].startswith("text/event-stream")
    assert watcher.readline() == b"event: rollouts\n"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/v1/watch", timeout=20)
    assert refused.value.code == 503
    refused.value.close()
    watcher.close()

    def free():
        try:
            urllib.request.urlopen(f"{server.url}/v1/watch", timeout=20).close()
        except urllib.error.HTTPError as error:
            error.close()
            return False
        return True

    until(free)


def test_a_silent_watch_has_a_heart_beat(server, monkeypatch):
    monkeypatch.setattr("xds_server.services.http_api.HEARTBEAT_S", 0.05)
    with urllib.request.urlopen(f"{server.url}/v1/watch", timeout=20) as watcher:
        lines = iter(watcher.readline, b"")
        assert next(line for line in lines if line.startswith(b":")) == b": alive\n"


def test_why_tells_the_last_decision_with_its_numbers(server):
    assert run("why", "chat", "--server", server.url).out.splitlines() == [
        "2026-01-01 00:00:01  reverted in canary 5%, by tester",
        "  aborted by tester: bad answers; all traffic back to v1",
        "    by    tester",
        "    said  bad answers",
    ]


def test_why_can_tell_more_and_as_json(server, control):
    assert json.loads(run("why", "chat", "--last", "2", "-o", "json", "--server", server.url).out) == control.records["chat"]


def test_history_is_a_table_oldest_first(server):
    lines = run("history", "chat", "--server", server.url).out.splitlines()
    assert lines[0].split("  ")[0] == "TIME (UTC)"
    assert [line.split()[3] for line in lines[1:]] == ["started", "reverted"]
    assert lines[2].endswith("aborted by tester: bad answers; all traffic back to v1")


def test_a_history_of_an_unknown_rollout_is_wrong_usage(server):
    assert run("history", "nope", "--server", server.url).code == 2
    assert run("history", "chat", "--last", "0", "--server", server.url).code == 2


NODES = [
    {
        "node": "edge-1",
        "cluster": "edge",
        "version": "1.40.0",
        "peer": "127.0.0.1:5",
        "group": "edge",
        "variant": "delta",
        "service": "ADS",
        "leased": True,
        "connected_since": "2026-01-01T00:00:00Z",
        "sync": "ERROR",
        "types": [
            {"type": "CDS", "sync": "SYNCED", "sent": "1", "acked": "1", "acked_age_s": 3.21, "words": ""},
            {"type": "RDS", "sync": "ERROR", "sent": "2", "acked": "1", "acked_age_s": 900.0, "words": "no such cluster"},
            {"type": "LDS", "sync": "NOT_SENT", "sent": "", "acked": "", "acked_age_s": None, "words": ""},
        ],
        "refused": None,
        "times": None,
    },
    {
        "node": "who",
        "cluster": "x",
        "version": "",
        "group": None,
        "variant": None,
        "service": None,
        "leased": False,
        "sync": "ERROR",
        "types": [],
        "refused": "no group",
        "times": 3,
    },
]


def test_proxies_shows_sync_states_the_last_ack_and_their_own_words(server, control):
    control.nodes = NODES
    lines = run("proxies", "--server", server.url).out.splitlines()
    assert lines[0].split() == ["NODE", "CLUSTER", "GROUP", "VERSION", "XDS", "LEASE", "SYNC", "LAST", "ACK", "TYPES"]
    states = ["CDS:SYNCED", "RDS:ERROR", "LDS:NOT_SENT"]
    assert lines[1].split() == ["edge-1", "edge", "edge", "1.40.0", "delta", "yes", "ERROR", "3.2", "s", *states]
    assert lines[2].split() == ["who", "x", "-", "-", "-", "no", "ERROR", "-", "-"]
    assert lines[3:] == ["edge-1 rejects RDS 2: no such cluster", "who was turned away 3 times: no group"]


@pytest.mark.parametrize("node", ["edge-1", "edge-*"])
def test_a_named_proxy_is_shown_type_by_type(server, control, node):
    control.nodes = NODES
    assert [line.split() for line in run("proxies", node, "--server", server.url).out.splitlines()] == [
        ["NODE", "STREAM", "TYPE", "SYNC", "SENT", "ACKED", "LAST", "ACK"],
        ["edge-1", "ADS", "CDS", "SYNCED", "1", "1", "3.2", "s"],
        ["edge-1", "ADS", "RDS", "ERROR", "2", "1", "15", "min"],
        ["edge-1", "ADS", "LDS", "NOT_SENT", "-", "-", "-"],
        ["edge-1", "rejects", "RDS", "2:", "no", "such", "cluster"],
    ]
    assert json.loads(run("proxies", node, "-o", "json", "--server", server.url).out) == NODES[:1]
    assert control.asked_for == node, "the server need not tell of thousands to show one"


def test_a_proxy_that_is_not_there_is_said_on_stderr(server, control):
    control.nodes = NODES
    ran = run("proxies", "edge", "--server", server.url)
    assert (ran.code, ran.out, ran.err) == (0, "", "no proxy 'edge' is connected\n")


def test_proxies_of_an_older_server_are_shown_as_far_as_it_goes(server, control):
    control.nodes = [{"node": "a", "types": [{"type": "CDS"}]}]
    assert run("proxies", "--server", server.url).out.splitlines()[1].split() == ["a", *"---", "-", "no", "-", "-", "CDS:-"]


def test_no_proxy_is_said_on_stderr(server):
    ran = run("proxies", "--server", server.url)
    assert (ran.code, ran.out, ran.err) == (0, "", "no proxy is connected\n")


def test_a_terminal_gets_a_frame_and_no_color_takes_the_colours_away():
    from rich.console import Console

    from xds_server.cli import picture

    shown = picture.rich([picture.picture(status())], [{"file": "a.yaml", "message": "broken"}])
    for color in (True, False):
        console = Console(force_terminal=True, width=120, color_system="standard", no_color=not color, file=io.StringIO())
        console.print(shown)
        text = console.file.getvalue()
        assert "╭" in text
        assert "INCONCLUSIVE" in text
        assert "a.yaml" in text
        assert ("\x1b[36m" in text or "\x1b[1;36m" in text) is color


def test_a_status_of_another_version_is_shown_as_far_as_it_goes():
    from xds_server.cli import picture

    text = picture.plain([picture.picture({"name": "x", "gates": [{}], "step": {}, "variants": [{}]})], [{}])
    assert text.startswith("x  -")


def test_records_have_the_keys_the_table_reads():
    assert record().keys() >= {"at", "generation", "decision", "step", "share", "actor", "because", "facts"}
