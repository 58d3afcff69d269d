"""A client of one `AdsStream` for unit tests: it does what a test says and nothing by itself."""

import pytest

from xds_server.core.facts import Request, Variant
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.stream import AdsStream

BOTH = pytest.mark.parametrize("variant", list(Variant))


def res(name, version="1", **more):
    return Resource(name=name, version=version, body=f"{name}@{version}".encode(), **more)


def world(serial, types):
    return Snapshot(serial=serial, resources={url: {each.name: each for each in found} for url, found in types.items()})


class Peer:
    """A stream and its client, which in the state of the world lists the names of its last request in each answer that names none."""

    def __init__(self, variant):
        self.stream = AdsStream(variant)
        self.variant = variant
        self.listed = {}
        self.snapshot = None

    def publish(self, serial, types, **more):
        self.snapshot = world(serial, types)
        return self._offer(**more)

    def ask(self, type_url, *names, **more):
        self.listed[type_url] = names
        self.facts = self.stream.receive(Request(type_url=type_url, names=names, **more))
        return self._offer() if self.snapshot else ()

    def ack(self, response, *names, **more):
        if self.variant is Variant.SOTW and not names:
            names = self.listed[response.type_url]
        return self.ask(response.type_url, *names, nonce=response.nonce, **more)

    def nack(self, response, words="no"):
        return self.ack(response, error=words)

    def _offer(self, **more):
        return self.stream.offer(self.snapshot, **more)


def content(response):
    return {each.name: each.version for each in response.resources}
