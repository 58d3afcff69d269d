"""Fixtures of the tests over real connections."""

from tests.wire.transports import each_transport

__all__ = ["each_transport"]
