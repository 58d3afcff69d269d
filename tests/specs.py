"""Makers of policy texts for tests of the policy language."""

import yaml

from policies.spec.loader import load

PROXIES = {
    "apiVersion": "crossfade/v1",
    "kind": "Proxies",
    "metadata": {"name": "edge"},
    "spec": {"select": {"cluster": "edge"}, "listeners": [{"name": "public", "address": "0.0.0.0", "port": 8080}]},
}

PROMOTE = {"promote": {"keep_stable_for": "10m"}}

FILES = {
    "chat.jsonl": b'{"path": "/v1/chat", "headers": {"X-A": "b"}, "body": {"model": "m"}}\n{"method": "GET", "path": "/v1/models"}\n',
    "answer.json": b'{"type": "object"}',
}
"""Companions that a probe may name."""


def variant(version="v1", port=8001, **more):
    return {"version": version, "endpoints": {"static": [f"127.0.0.1:{port}"]}, **more}


def rollout(name="chat", **spec):
    """A Rollout as plain data, complete and without warnings; keywords replace whole parts of `spec`, None removes one."""
    parts = {
        "traffic": {"proxies": "edge", "listener": "public", "match": [{"host": "chat.internal"}]},
        "variants": {"stable": variant(), "candidate": variant("v2", 8002)},
        "steps": [{"canary": {"shares": ["5%", "50%"], "hold": {"for": "5m", "samples": 100}}}, PROMOTE],
        "gates": [{"name": "errors", "metric": "envoy/error_rate", "margin": {"absolute": "1%"}}],
        **spec,
    }
    return {
        "apiVersion": "crossfade/v1",
        "kind": "Rollout",
        "metadata": {"name": name},
        "spec": {key: value for key, value in parts.items() if value is not None},
    }


def text(*documents):
    return yaml.safe_dump_all(documents, sort_keys=False).encode()


def loaded(*documents):
    """Of one file `f.yaml` that begins with the Proxies `edge`, beside `FILES`."""
    return load({"f.yaml": text(PROXIES, *documents), **FILES})


def value(**spec):
    """The policy of a good rollout."""
    found = loaded(rollout(**spec))
    assert not found.errors, found.errors
    return found.rollouts[0]


def fault(**spec):
    """The one error of a bad rollout."""
    (error,) = loaded(rollout(**spec)).errors
    return error
