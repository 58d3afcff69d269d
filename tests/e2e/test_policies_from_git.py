"""`crossfade serve` on a branch of a real repository: started, told of a push by webhook, restarted while the repository is away."""

import hashlib
import hmac

import pytest
import yaml

from tests.repository import QUIET, Repository
from tests.rig import free_port, until
from tests.stage import Stage

SECRET = "a-secret-of-both"
POD = f"127.0.0.1:{free_port()}"


def document(name):
    variants = {"stable": {"version": "v1", "endpoints": {"static": [POD]}}}
    traffic = {"proxies": "edge", "listener": "public", "match": [{"host": f"{name}.example.com"}]}
    spec = {"traffic": traffic, "variants": variants}
    return {"apiVersion": "crossfade/v1", "kind": "Rollout", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
async def stage(tmp_path, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CROSSFADE_POLICIES_POLL", "24h")
    monkeypatch.setenv("CROSSFADE_WEBHOOK_SECRET", SECRET)
    async with Stage(tmp_path / "stage") as stage:
        stage.repository = Repository(tmp_path / "work")
        stage.repository.file("policies/proxies.yaml", yaml.safe_dump(stage.proxies()))
        yield stage


async def push(stage, secret=SECRET):
    """What a git server sends, whatever the push was."""
    body = b'{"ref": "refs/heads/main"}'
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return await stage.http.post("/v1/policies:changed", content=body, headers={"X-Hub-Signature-256": signature})


async def policies(stage):
    """Where each rollout comes from."""
    found = (await stage.http.get("/v1/rollouts")).json()["rollouts"]
    return {each["name"]: (each["policy"]["commit"], each["policy"]["file"]) for each in found}


async def test_a_branch_is_followed_and_each_rollout_names_its_commit(stage):
    repository = stage.repository
    repository.file("policies/chat.yaml", yaml.safe_dump(document("chat")))
    first = repository.commit()
    stage.policies = f"{repository.url}#main:policies"
    await stage.start_server()
    assert await policies(stage) == {"chat": (first, "chat.yaml")}
    assert (await push(stage, "another secret")).status_code == 403
    assert (await stage.cli("diff", str(repository.path / "policies")))[0] == 0

    repository.file("policies/search.yaml", yaml.safe_dump(document("search")))
    code, out, _ = await stage.cli("diff", str(repository.path / "policies"))
    assert (code, out.split()) == (1, ["Rollout", "search", "new"])
    second = repository.commit()
    assert (await push(stage)).status_code == 202
    expected = {"chat": (first, "chat.yaml"), "search": (second, "search.yaml")}

    async def followed():
        return await policies(stage) == expected

    await until(followed, "the pushed commit")

    away = repository.path.rename(repository.path.with_name("away"))
    await push(stage)

    async def told():
        return any("cannot fetch main" in words for words in (await stage.http.get("/readyz")).json()["waiting_for"])

    await until(told, "the error in /readyz")
    assert await policies(stage) == expected
    stage.server.terminate()
    assert await stage.server.wait() == 0
    await stage.start_server()
    assert await policies(stage) == expected
    away.rename(repository.path)
