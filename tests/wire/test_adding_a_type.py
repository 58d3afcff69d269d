"""Adding a resource type is one row of `core.types`: with it secrets are served in all four forms and nothing else knows."""

import ast
import sys
from pathlib import Path

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3 import discovery_pb2 as wire

from tests.wire.discovery import DELTA, SOTW, connected, node, serving, until
from xds_server.core import types
from xds_server.core.facts import Variant
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.stream import State
from xds_server.core.types import BY_URL, CDS, ORDER, TYPES, ResourceType
from xds_server.services import ads
from xds_server.services.metrics import Metrics

SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
ROW = ResourceType(
    url=SDS, short="SDS", service="envoy.service.secret.v3.SecretDiscoveryService", methods=("StreamSecrets", "DeltaSecrets")
)
FORMS = {
    "aggregated sotw": (SOTW, SDS, Variant.SOTW),
    "aggregated delta": (DELTA, SDS, Variant.DELTA),
    "own sotw": (f"/{ROW.service}/StreamSecrets", "", Variant.SOTW),
    "own delta": (f"/{ROW.service}/DeltaSecrets", "", Variant.DELTA),
}


@pytest.fixture
def _secrets_are_a_type(monkeypatch):
    """What one more line in the table would do."""
    rows = (*TYPES, ROW)
    for name, module in tuple(sys.modules.items()):
        if name.startswith("xds_server.") and getattr(module, "TYPES", None) is TYPES:
            monkeypatch.setattr(module, "TYPES", rows)
    monkeypatch.setitem(BY_URL, SDS, ROW)
    monkeypatch.setitem(ORDER, SDS, len(TYPES))


def world(serial, words):
    body = Secret(name="key", generic_secret={"secret": {"inline_string": words}}).SerializeToString(deterministic=True)
    secret = Resource(name="key", version=f"v{serial}", body=body)
    return Snapshot(serial=serial, resources={SDS: {"key": secret}, CDS: {"c": Resource(name="c", version="1", body=b"c")}})


def asking(variant, type_url, *names, **more):
    if variant is Variant.SOTW:
        return wire.DiscoveryRequest(type_url=type_url, resource_names=names, **more)
    return wire.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, **more)


def told(response, variant):
    """The secret in a response of either variant."""
    [found] = response.resources
    packed = found if variant is Variant.SOTW else found.resource
    secret = Secret()
    assert packed.type_url == SDS
    assert packed.Unpack(secret)
    return secret.generic_secret.secret.inline_string


@pytest.mark.usefixtures("_secrets_are_a_type")
@pytest.mark.parametrize("form", FORMS)
async def test_a_secret_is_served_acked_changed_and_rejected_like_any_other_type(form):
    path, type_url, variant = FORMS[form]
    async with serving() as stage, connected(stage, path) as client:
        stage.hub.publish("all", world(1, "old"))
        await client.send(asking(variant, type_url, "key", node=node()))
        first = await client.receive()
        assert (told(first, variant), first.type_url) == ("old", SDS)
        stage.hub.publish("all", world(2, "new"))
        names = ("key",) if variant is Variant.SOTW else ()
        await client.send(asking(variant, type_url, *names, response_nonce=first.nonce))
        second = await client.receive()
        assert told(second, variant) == "new", "what was published before the ACK comes after it"
        nack = asking(variant, type_url, *names, response_nonce=second.nonce)
        nack.error_detail.message = "no such key"
        await client.send(nack)
        await until(lambda: stage.hub.sync_state("all", 2).words == "n1 rejects SDS: no such key")
        stage.hub.publish("all", world(3, "good"))
        third = await client.receive()
        assert told(third, variant) == "good"
        await client.send(asking(variant, type_url, *names, response_nonce=third.nonce))
        await until(lambda: stage.hub.sync_state("all", 3).acked == 1)
        [status] = stage.hub.proxies()
        assert [(each.type_url, each.state) for each in status.types] == [(SDS, State.SYNCED)]


@pytest.mark.usefixtures("_secrets_are_a_type")
def test_the_new_type_has_its_own_label_in_the_metrics():
    metrics = Metrics()
    metrics.pushed(SDS)
    assert b'crossfade_xds_pushes_total{type_url="SDS"} 1.0' in metrics.exposition()


MAY_NAME = {"stream.py": set(), "subscription.py": set(), "ads.py": {"RTDS"}}
"""The hub alone names one: who asks for runtime layers can hold a lease (`ProxyStatus.leased`)."""


@pytest.mark.parametrize("module", MAY_NAME)
def test_the_machinery_names_no_type_by_itself(module):
    folder = Path((ads if module == "ads.py" else types).__file__).parent
    tree = ast.parse((folder / module).read_text())
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    written = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    shorts = {row.short for row in TYPES}
    assert named & shorts <= MAY_NAME[module]
    assert not written & {*shorts, *BY_URL}
    assert not [text for text in written if "type.googleapis.com" in text]
