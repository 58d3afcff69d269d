"""The verbs over real HTTP: what they send, print, and exit with."""

import json
import socket
import subprocess
import sys
import threading

import pytest
import yaml

from policies.rollout import Verb
from tests.cli.control import record, status
from tests.cli.running import run
from xds_server.services.control import VERBS, VERBS_OF_ALL, ActError, Fault


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_acts_and_prints_the_decision(server, control, verb):
    ran = run(verb, "chat", "--reason", "bad answers", "--server", server.url)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "reverted: aborted by tester: bad answers; all traffic back to v1\n"
    (act,) = control.acts
    assert (act["verb"], act["reason"], act["dry_run"]) == (verb, "bad answers", False)
    assert act["actor"]
    assert len(act["idempotency_key"]) == 32


def test_the_verbs_are_those_of_the_engine():
    assert set(VERBS) == {verb.value for verb in Verb}


@pytest.mark.parametrize(("arguments", "to"), [(("rollback", "chat", "--to", "v0"), "v0"), (("promote", "chat", "--variant", "b"), "b")])
def test_where_to_is_sent(server, control, arguments, to):
    assert run(*arguments, "--server", server.url).code == 0
    assert control.acts[0]["to"] == to


@pytest.mark.parametrize("verb", VERBS_OF_ALL)
def test_all_rollouts_freeze_by_one_command(server, control, verb):
    control.states["search"] = status("search")
    ran = run(verb, "--all", "--reason", "audit", "--server", server.url)
    assert ran.code == 0
    assert [line.split(":")[0] for line in ran.out.splitlines()] == ["chat", "search"]
    assert [(act["name"], act["verb"], act["reason"]) for act in control.acts] == [("chat", verb, "audit"), ("search", verb, "audit")]


def test_one_rollout_that_refuses_stops_no_other(server, control):
    control.refuse = ActError(Fault.REFUSED, "nothing is frozen")
    ran = run("unfreeze", "--all", "--server", server.url)
    assert (ran.code, ran.out) == (0, "chat: not done: nothing is frozen\n")
    control.refuse = ActError(Fault.STORE_UNAVAILABLE, "the disk is full")
    assert run("freeze", "--all", "--server", server.url).code == 3, "a share may still grow"


@pytest.mark.parametrize("arguments", [("freeze",), ("freeze", "chat", "--all")])
def test_a_freeze_is_of_one_or_of_all(server, control, arguments):
    assert run(*arguments, "--server", server.url).code == 2
    assert control.acts == []


def test_a_key_of_ones_own_is_sent(server, control):
    run("--server", server.url, "abort", "chat", "--idempotency-key", "deploy-17")
    assert control.acts[0]["idempotency_key"] == "deploy-17"


def test_a_dry_run_says_what_would_be_decided(server, control):
    ran = run("abort", "chat", "--dry-run", "--server", server.url)
    assert ran.out.startswith("would be decided: ")
    assert control.acts[0]["dry_run"] is True


@pytest.mark.parametrize(("form", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_the_record_comes_as_a_document(server, form, parse):
    assert parse(run("abort", "chat", "-o", form, "--server", server.url).out) == record()


def test_the_server_may_be_named_before_or_after_the_verb_or_by_the_variable(server, control, monkeypatch):
    nowhere = "http://127.0.0.1:1"
    assert run("--server", server.url, "abort", "chat").code == 0
    assert run("--server", nowhere, "abort", "chat", "--server", server.url).code == 0
    monkeypatch.setenv("CROSSFADE_SERVER", f"127.0.0.1:{server.port}")
    assert run("abort", "chat").code == 0
    assert run("--server", nowhere, "abort", "chat").code == 3
    assert len(control.acts) == 3


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault.REFUSED, 1), (Fault.UNKNOWN_ROLLOUT, 2), (Fault.STORE_UNAVAILABLE, 3), (Fault.NOT_READY, 3)]
)
def test_a_refusal_is_three_lines_and_an_exit_code(server, control, fault, code):
    control.refuse = ActError(fault, "nothing to abort: the rollout is idle", hint="look first")
    ran = run("abort", "chat", "--server", server.url)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.splitlines() == ["error: nothing to abort: the rollout is idle", f"  said by {server.url}", "hint: look first"]


def test_a_strange_rollout_name_stays_one_segment_of_the_url(server, control):
    ran = run("abort", "../../metrics?x=/", "--server", server.url)
    assert ran.code == 2
    assert "is not a rollout name" in ran.err
    assert control.acts == []


def test_no_server_is_exit_3_with_a_hint():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ran = run("abort", "chat", "--server", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert ran.code == 3
    lines = ran.err.splitlines()
    assert lines[0].startswith("error: no crossfade server answers at http://127.0.0.1:")
    assert lines[1] == "  connection refused"
    assert lines[2].startswith("hint: start one with `crossfade serve`")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"220 smtp ready\r\n", b"", b"HTTP/1.1 200 OK\r\n\r\n[1"]
)
def test_a_server_that_is_something_else_is_exit_3(answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def speak():
            for _ in range(2):
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(answer)

        speaker = threading.Thread(target=speak)
        speaker.start()
        ran = run("abort", "chat", "--server", f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
        speaker.join(10)
    assert ran.code == 3
    assert ran.err.startswith("error: no crossfade server answers")


def test_an_act_whose_answer_was_lost_is_sent_again_with_the_same_key():
    bodies = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def speak():
            for answer in (b"", b'HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{"decision":"x","because":"y"}'):
                peer, _ = listener.accept()
                with peer:
                    got = b""
                    while b"}" not in got:
                        got += peer.recv(65536)
                    bodies.append(got.split(b"\r\n\r\n")[1])
                    peer.sendall(answer)

        speaker = threading.Thread(target=speak)
        speaker.start()
        ran = run("abort", "chat", "--server", f"http://127.0.0.1:{listener.getsockname()[1]}")
        speaker.join(10)
    assert (ran.code, ran.out) == (0, "x: y\n")
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://x:99999", "http://127.0.0.1/path", "http://u:p@h"])
def test_what_is_no_address_is_wrong_usage(address):
    ran = run("abort", "chat", "--server", address)
    assert (ran.code, ran.err.splitlines()[1]) == (2, "  --server")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("abort",), "missing argument"),
        (("explode",), "no such command"),
        (("abort", "chat", "--nope"), "no such option"),
        (("vote",), "not supported yet"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_hint(arguments, words):
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err.splitlines()[0].lower()
    assert ran.err.splitlines()[-1].startswith("hint: ")


def test_without_a_verb_the_help_goes_to_stderr():
    ran = run()
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: crossfade" in ran.err


def test_a_crossfade_abort_loads_no_server_and_no_statistics():
    heavy = {"grpc", "numpy", "scipy", "starlette", "pydantic", "rich", "httpx", "yaml", "prometheus_client", "google.protobuf"}
    code = (
        "import sys\nfrom xds_server.cli import main\ntry:\n    main(['abort', 'chat', '--server', 'http://127.0.0.1:1'])\n"
        f"except SystemExit as end:\n    print(end.code, sorted({heavy} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == "3 []\n"
