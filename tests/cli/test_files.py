"""`validate`, `schema`, `render`, `bootstrap`, `serve`'s settings and docs/cli.md."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cli.running import run
from xds_server.cli.docs import render_cli_docs
from xds_server.config import SETTINGS, TRANSPORTS, ConfigError, GitPlace, address, policies_place, read_config
from xds_server.runtime.server import TRANSPORTS as BUILT

PROXIES = """\
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec:
  select: {cluster: edge-gateway, node_id: "edge-*", metadata: {place.site: north}}
  listeners:
    - {name: http, address: 0.0.0.0, port: 8080}
"""
ROLLOUT = """\
apiVersion: crossfade/v1
kind: Rollout
metadata: {name: chat}
spec:
  traffic:
    proxies: edge
    listener: http
    match: [{host: chat.example.com}]
  variants:
    stable: {version: v1, endpoints: {static: ["127.0.0.1:9001"]}}
    candidate: {version: v2, endpoints: {static: ["127.0.0.1:9002"]}}
  assignment: {sticky: {header: x-user-id}}
  steps:
    - shadow: {share: 50%, hold: {for: 1m}}
    - canary: {shares: [1%, 10%], hold: {for: 5m, samples: 500}}
    - promote: {keep_stable_for: 1h}
  gates:
    - {name: errors, metric: envoy/error_rate, margin: {absolute: 0.5%}}
"""


@pytest.fixture
def policies(tmp_path):
    (tmp_path / "proxies.yaml").write_text(PROXIES)
    (tmp_path / "chat.yaml").write_text(ROLLOUT)
    return tmp_path


def test_good_files_are_counted_on_stderr(policies):
    ran = run("validate", policies)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "2 files good: 1 Rollout, 1 Proxies\n"
    assert run("validate", policies / "proxies.yaml", policies / "chat.yaml").code == 0
    assert json.loads(run("validate", policies, "-o", "json").out) == []


def test_gate_bundles_are_counted_where_there_are_some(policies):
    gate = "{name: errors, metric: envoy/error_rate, margin: {absolute: 0.5%}}"
    (policies / "usual.yaml").write_text(
        f"apiVersion: crossfade/v1\nkind: GateBundle\nmetadata: {{name: usual}}\nspec: {{gates: [{gate}]}}\n"
    )
    assert run("validate", policies).err == "3 files good: 1 Rollout, 1 Proxies, 1 GateBundle\n"


def test_validate_knows_which_time_zones_there_are(policies):
    (policies / "chat.yaml").write_text(ROLLOUT + '  freeze:\n    - {cron: "0 18 * * FRI", for: 62h, timezone: Europe/Berln}\n')
    ran = run("validate", policies, "-o", "json")
    (error,) = json.loads(ran.out)
    assert (ran.code, error["path"]) == (1, "spec.freeze[0].timezone")
    assert error["line"] == len(ROLLOUT.splitlines()) + 2
    assert error["file"].endswith("chat.yaml")


def test_every_kind_of_document_has_a_schema():
    from policies.spec.documents import KINDS as KNOWN
    from xds_server.cli.files import KINDS

    assert set(KINDS) == set(KNOWN)
    for kind in KINDS:
        assert run("schema", kind).code == 0


def test_all_errors_of_all_files_are_told_with_their_place(policies):
    (policies / "chat.yaml").write_text(ROLLOUT.replace("stable:", "stabel:"))
    (policies / "more.yaml").write_text("kind: Rolout\n")
    ran = run("validate", policies)
    assert ran.code == 1
    assert ran.err == f"{ran.out.count('.yaml:')} errors in 3 files\n"
    assert f"{policies}/chat.yaml:10:" in ran.out
    assert f"{policies}/more.yaml:1:" in ran.out
    found = json.loads(run("validate", policies, "-o", "json").out)
    assert len(found) == ran.out.count(".yaml:") >= 2
    assert all(list(error) == ["file", "line", "column", "path", "message", "expected", "hint"] for error in found)


def test_stdin_is_a_file_too(policies):
    assert run("validate", policies / "proxies.yaml", "-", stdin=ROLLOUT).code == 0
    ran = run("validate", "-", stdin="{")
    assert ran.code == 1
    assert ran.out.startswith("<stdin>:")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a" * 5_000_000, b"- \n" * 9, b""])
def test_bytes_that_are_no_policy_are_an_answer_not_a_crash(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    assert run("validate", tmp_path / "x.yaml").code in {0, 1}


PROBED = ROLLOUT.replace("  steps:\n", "  steps:\n    - probe: {requests: samples/chat.jsonl, rate: 5/s, for: 1m}\n")


@pytest.mark.parametrize("place", ["samples/chat.jsonl", "team/samples/chat.jsonl"])
def test_companions_are_found_for_a_directory_and_for_single_files(tmp_path, monkeypatch, place):
    (tmp_path / "team").mkdir()
    (tmp_path / "proxies.yaml").write_text(PROXIES)
    (tmp_path / "team" / "chat.yaml").write_text(PROBED)
    (tmp_path / place).parent.mkdir()
    (tmp_path / place).write_text('{"path": "/v1"}\n')
    monkeypatch.chdir(tmp_path)
    for paths in ((".",), (tmp_path,), ("proxies.yaml", "team/chat.yaml"), (tmp_path / "proxies.yaml", tmp_path / "team" / "chat.yaml")):
        ran = run("validate", *paths)
        assert (ran.code, ran.out) == (0, "")
        assert "2 files good" in ran.err
    (tmp_path / place).write_text("{")
    assert f"{place}:1:" in run("validate", ".").out
    (tmp_path / place).unlink()
    assert run("validate", ".").code == 1


def test_what_cannot_be_read_is_wrong_usage(tmp_path):
    assert run("validate", tmp_path / "none.yaml").err.splitlines()[0].endswith("none.yaml: no such file or directory")
    assert run("validate", tmp_path / "none.yaml").code == 2
    assert run("validate", tmp_path).err.startswith("error: no policy file found")
    assert run("validate", tmp_path).code == 2


def test_the_schema_accepts_a_good_document_and_no_unknown_key():
    document = yaml.safe_load(ROLLOUT)
    for arguments in ((), ("Rollout",), ("rollout",)):
        schema = json.loads(run("schema", *arguments).out)
        jsonschema.validate(document, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, "speck": 1}, schema)
    assert run("schema", "Rolout").code == 2


def rendered(*arguments):
    ran = run("render", *arguments)
    assert (ran.code, ran.err) == (0, "")
    return yaml.safe_load(ran.out)


def layers(world):
    keys = {}
    for layer in world["edge"]["RTDS"].values():
        keys |= layer.get("layer", {})
    return keys


def shares(world):
    """The candidate's and the total weight, as the runtime overlay has them."""
    weights = [int(value) for value in layers(world).values() if isinstance(value, int | float)]
    return min(weights), sum(weights)


def test_render_shows_every_resource_of_the_group(policies):
    world = rendered(policies)
    assert list(world) == ["edge"]
    assert {"CDS", "EDS", "LDS", "RDS", "RTDS"} == set(world["edge"])
    assert any("v2" in name for name in world["edge"]["CDS"])
    (listener,) = world["edge"]["LDS"].values()
    assert listener["address"]["socket_address"]["port_value"] == 8080


def test_render_gives_the_asked_share(policies):
    assert shares(rendered(policies))[0] == 0
    candidate, total = shares(rendered(policies, "--shares", "candidate=10%"))
    assert total == 10007
    assert abs(candidate / total - 0.1) < 1e-4
    assert shares(rendered(policies, "--step", "3")) == (candidate, total)
    assert shares(rendered(policies, "--step", "1"))[0] == 0
    assert json.loads(run("render", policies, "--step", "2", "-o", "json").out) == rendered(policies, "--step", "2")


ARMS = (
    ROLLOUT.replace("    candidate: {", "    small: {")
    .replace("  assignment:", '    large: {version: v3, endpoints: {static: ["127.0.0.1:9003"]}}\n  assignment:')
    .replace("shadow: {share: 50%", "shadow: {shares: {small: 50%}")
    .replace("shares: [1%, 10%]", "shares: [{small: 1%, large: 2%}, {small: 10%, large: 20%}]")
    .replace("promote: {", "promote: {variant: small, ")
)


def weights(world):
    """What each version gets by the runtime overlay; stable may have several places."""
    found = {}
    for key, value in layers(world).items():
        version = next((each for each in ("v1", "v2", "v3") if f"/{each}." in key), None)
        if version is not None and isinstance(value, int | float):
            found[version] = found.get(version, 0) + int(value)
    return found


def test_render_gives_each_of_several_arms_its_share(policies):
    (policies / "chat.yaml").write_text(ARMS)
    assert weights(rendered(policies, "--step", "3")) == {"v1": 7006, "v2": 1000, "v3": 2001}
    assert weights(rendered(policies, "--shares", "small=10%", "--shares", "large=20%")) == {"v1": 7006, "v2": 1000, "v3": 2001}
    assert weights(rendered(policies, "--shares", "large=100%")) == {"v1": 0, "v2": 0, "v3": 10007}
    ran = run("render", policies, "--shares", "small=60%", "--shares", "large=60%")
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: the shares are more than 100 % together")


def test_render_without_a_lease_writes_the_share_into_the_routes(policies):
    leased, plain = (json.dumps(rendered(policies, "--step", "3", *more)["edge"]["RDS"]) for more in ((), ("--no-lease",)))
    assert "9007" not in leased
    assert "9007" in plain


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rollout", "nope"),
        ("--step", "9"),
        ("--step", "0"),
        ("--shares", "other=1%"),
        ("--shares", "candidate=101%"),
        ("--shares", "candidate=ten"),
        ("--step", "1", "--shares", "candidate=1%"),
        ("--to", "istio"),
        ("--to", "nginx"),
    ],
)
def test_render_of_what_is_not_there_is_wrong_usage(policies, arguments):
    ran = run("render", policies, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")


def test_render_of_a_broken_policy_names_the_first_fault(policies):
    (policies / "chat.yaml").write_text(ROLLOUT.replace("stable:", "stabel:"))
    ran = run("render", policies)
    assert ran.code == 1
    assert "chat.yaml:" in ran.err.splitlines()[1]
    assert ran.err.splitlines()[-1] == f"hint: crossfade validate {policies}"


OLD_PYDANTIC = pytest.mark.filterwarnings("ignore::DeprecationWarning:envoy_data_plane", "ignore::DeprecationWarning:pydantic")
"""envoy-data-plane declares its validators in a form pydantic has deprecated."""


def bootstrapped(*arguments):
    ran = run("bootstrap", "--proxies", "edge", *arguments)
    assert (ran.code, ran.err) == (0, "")
    return yaml.safe_load(ran.out)


@OLD_PYDANTIC
def test_a_bootstrap_is_of_the_group(policies):
    found = bootstrapped("--policies", policies, "--node-id", "edge-7", "--xds", "10.0.0.1:18001")
    assert (found["node"]["id"], found["node"]["cluster"]) == ("edge-7", "edge-gateway")
    assert found["node"]["metadata"] == {"place": {"site": "north"}, "crossfade": {"layers": 16}}
    assert "10.0.0.1" in json.dumps(found["static_resources"])
    assert "18001" in json.dumps(found["static_resources"])
    assert bootstrapped("--policies", policies)["node"]["id"] == "edge-1"


@OLD_PYDANTIC
def test_a_bootstrap_can_come_from_the_server(server):
    found = bootstrapped("--server", server.url)
    assert (found["node"]["id"], found["node"]["cluster"]) == ("edge-1", "edge")
    assert found["node"]["metadata"]["zone"] == "a"


@OLD_PYDANTIC
def test_an_envoy_takes_the_bootstrap(policies, tmp_path):
    file = tmp_path / "envoy.yaml"
    file.write_text(run("bootstrap", "--proxies", "edge", "--policies", policies).out)
    envoy = Path(sys.executable).with_name("envoy")
    ran = subprocess.run([envoy, "--mode", "validate", "-c", file], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("arguments", [("--proxies", "nope"), ("--proxies", "edge", "--xds", "nowhere"), ()])
def test_a_bootstrap_of_what_is_not_there_is_wrong_usage(policies, arguments):
    assert run("bootstrap", *arguments, "--policies", policies).code == 2


# The settings of `serve`.


def test_settings_come_from_flags_then_variables_then_defaults(monkeypatch):
    seen = []
    module = type(sys)("xds_server.runtime")
    module.run = lambda config: seen.append(config) or 0
    monkeypatch.setitem(sys.modules, "xds_server.runtime", module)
    monkeypatch.setenv("CROSSFADE_STORE", "memory:")
    monkeypatch.setenv("CROSSFADE_XDS", "127.0.0.1:1")
    assert run("serve", "--policies", "p", "--xds", "[::1]:2").code == 0
    (config,) = seen
    assert (str(config.policies), config.store, config.xds, config.api) == ("p", "memory:", "[::1]:2", "127.0.0.1:18080")


@pytest.mark.parametrize(
    ("value", "url", "ref", "folder"),
    [
        ("file:///srv/repo#main:policies", "file:///srv/repo", "main", "policies"),
        ("file:///srv/repo", "file:///srv/repo", "HEAD", ""),
        ("https://host/x.git#v1.2", "https://host/x.git", "v1.2", ""),
        ("https://host/x#feature/a:deep/er/", "https://host/x", "feature/a", "deep/er"),
        ("git@host:org/repo.git#main:policies", "git@host:org/repo.git", "main", "policies"),
        ("git@host:org/repo.git:policies", "git@host:org/repo.git", "HEAD", "policies"),
        ("git@host:org/repo", "git@host:org/repo", "HEAD", ""),
        ("ssh://git@host:2222/x.git#:policies", "ssh://git@host:2222/x.git", "HEAD", "policies"),
        ("git+https://host/x", "https://host/x", "HEAD", ""),
        ("/srv/x.git", "/srv/x.git", "HEAD", ""),
        ("https://ann:se#cret@host/x.git#main", "https://ann:se#cret@host/x.git", "main", ""),
    ],
)
def test_a_git_repository_is_told_from_a_directory(value, url, ref, folder):
    place = policies_place(value, where="")
    assert isinstance(place, GitPlace)
    assert (place.url, place.ref, place.folder) == (url, ref, folder)
    assert policies_place(str(place), where="") == place or "***" in str(place)


@pytest.mark.parametrize("value", ["policies", "./a/b", "/srv/x.git/policies", "a.gitops", "with space", "C:/policies", "a#b"])
def test_a_directory_stays_a_directory(value):
    assert policies_place(value, where="") == Path(value)


@pytest.mark.parametrize("url", ["https://ann:geheim@host/x.git", "https://geheim@host/x.git", "ssh://ann:geheim@host/x"])
def test_a_password_is_not_shown(url):
    config = read_config({"policies": f"{url}#main"})
    assert "geheim" not in f"{config} {config.policies} {config!r} {config.policies.shown}"
    assert config.policies.url == url


def test_what_was_fetched_is_kept_beside_the_store(tmp_path):
    assert read_config({"policies": "p", "store": "sqlite:/var/lib/x.db"}).policies_cache == Path("/var/lib/x.db.git")
    assert read_config({"policies": "p", "store": "memory:"}).policies_cache is None
    assert read_config({"policies": "p", "policies_cache": str(tmp_path)}).policies_cache == tmp_path
    assert read_config({"policies": "p", "policies_poll": "1.5m"}).policies_poll_s == pytest.approx(90.0)


def test_the_secret_of_the_webhook_comes_from_a_file_or_a_variable(monkeypatch, tmp_path):
    seen = []
    module = type(sys)("xds_server.runtime")
    module.run = lambda config: seen.append(config.webhook_secret) or 0
    monkeypatch.setitem(sys.modules, "xds_server.runtime", module)
    (tmp_path / "secret").write_text("of the file\n")
    for given in ((), ("--webhook-secret-file", str(tmp_path / "secret"))):
        assert run("serve", "--policies", "p", *given).code == 0
        monkeypatch.setenv("CROSSFADE_WEBHOOK_SECRET", "of the variable")
        assert run("serve", "--policies", "p", *given).code == 0
    assert seen == [b"", b"of the variable", b"of the file", b"of the file"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no policy directory given"),
        (("--policies", "https://github.com/x/y.git#-x"), "is not a branch or tag"),
        (("--policies", "git@github.com:x/y#main:../up"), "is not a folder of a repository"),
        (("--policies", "git@github.com:"), "is not the URL of a git repository"),
        (("--policies", "p", "--policies-poll", "1ms"), "is not a time between two looks"),
        (("--policies", "p", "--webhook-secret-file", "/dev/null"), "is empty"),
        (("--policies", "p", "--webhook-secret-file", "/nowhere"), "cannot read /nowhere"),
        (("--policies", "p", "--store", "etcd://x"), "not supported yet"),
        (("--policies", "p", "--store", "sqlite:"), "is not a store"),
        (("--policies", "p", "--xds", "18000"), "is not an address"),
        (("--policies", "p", "--xds", "::1:18000"), "is not an address"),
        (("--policies", "p", "--api", "h:70000"), "is not an address"),
        (("--policies", "p", "--log-level", "loud"), "is not a log level"),
    ],
)
def test_a_setting_that_makes_no_sense_is_wrong_usage(arguments, words):
    ran = run("serve", *arguments)
    assert ran.code == 2
    lines = ran.err.splitlines()
    assert words in lines[0]
    assert "CROSSFADE_" in lines[1]
    assert lines[2].startswith("hint: ")


def test_what_hinders_a_start_is_told_in_three_lines(tmp_path):
    folder = tmp_path / "none"
    command = [sys.executable, "-m", "xds_server.cli", "serve", "--policies", folder, "--store", "memory:"]
    command += ["--xds", "127.0.0.1:0", "--api", "127.0.0.1:0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    what, where, hint = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert what.startswith(f"error: cannot read policies from {folder}: ")
    assert where == f"  --policies {folder}"
    assert hint.startswith("hint: ")


def test_a_port_in_use_is_exit_3_that_names_it(policies):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "xds_server.cli", "serve", "--policies", policies, "--store", "memory:"]
        ran = subprocess.run([*command, "--api", address], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 3
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert lines[0] == f"error: cannot listen on {address}: Address already in use"
    assert lines[2].startswith("hint: ")


def test_an_address_is_read_with_its_brackets():
    assert str(address("[::1]:18000", where="")) == "[::1]:18000"
    assert address("[::1]:18000", where="").host == "::1"
    with pytest.raises(ConfigError):
        address("[::1]", where="")


def test_every_default_is_a_value_its_own_check_accepts():
    assert read_config({"policies": "p"}).log_level == "info"
    assert all(setting.help and setting.why for setting in SETTINGS)


def test_the_transport_is_one_there_is():
    assert read_config({"policies": "p"}).transport == "grpcio"
    assert set(BUILT) == set(TRANSPORTS)
    for name in TRANSPORTS:
        assert read_config({"policies": "p", "transport": name}).transport == name
    with pytest.raises(ConfigError, match="'udp' is no transport") as raised:
        read_config({"policies": "p", "transport": "udp"})
    assert raised.value.hint == "wire, grpcio"


def test_the_docs_have_every_verb_and_setting():
    text = render_cli_docs()
    for verb in (
        "serve",
        "validate",
        "schema",
        "render",
        "bootstrap",
        "status",
        "why",
        "history",
        "abort",
        "promote",
        "pause",
        "resume",
        "proxies",
    ):
        assert f"\n## crossfade {verb}\n\n```text\nUsage: crossfade {verb} " in text
    assert all(setting.variable in text for setting in SETTINGS)


@pytest.mark.parametrize("arguments", [(), ("abort",), ("serve",), ("render",)])
def test_the_docs_are_what_help_prints(arguments):
    command = [sys.executable, "-m", "xds_server.cli", *arguments, "--help"]
    environment = {**os.environ, "COLUMNS": "100"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert f"```text\n{ran.stdout.rstrip()}\n```" in render_cli_docs()
