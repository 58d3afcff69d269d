"""TLS of the wire transport, sans-IO: what was read goes in, what it says comes out, and what is to be written in turn.

The loop's own TLS keeps a buffer for each direction and connection that grows to the largest write and stays that big; a fleet of
settled proxies needs none. Here OpenSSL is asked directly (`ssl.SSLObject`), a record at a time, and all connections share the buffer
that it writes to, which is emptied before another has its turn. No record is ever larger than 16 KB, so nothing grows.

Neighbours: `wire_transport` owns the socket and the time limits; the handshake falls under the one of the greeting.
"""

import ssl
from pathlib import Path
from typing import Final

_RECORD: Final = 16 * 1024
"""Largest content of a TLS record (RFC 8446 section 5.1)."""


def tls_context(certificate: Path, key: Path, client_authorities: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer, and HTTP/2 only.

    Args:
        certificate, key: Of this server, in PEM form.
        client_authorities: Who vouches for clients, in PEM form; a client without such a certificate is turned away. None asks for none.
    Raises: OSError, ssl.SSLError: If a file cannot be read or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # RFC 9113 section 9.2.1
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    if client_authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_authorities)
    return context


class Tls:
    """The server's side of one connection.

    Args:
        outgoing: Shared by all connections of a loop; empty whenever no call of this class is under way.

    Attributes:
        is_ready: Whether the handshake is done: before, nothing may be protected.
        is_over: Whether the peer has said that it sends no more.
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "is_over", "is_ready")

    def __init__(self, context: ssl.SSLContext, outgoing: ssl.MemoryBIO) -> None:
        self._incoming: Final = ssl.MemoryBIO()
        self._outgoing: Final = outgoing
        self._object: Final = context.wrap_bio(self._incoming, outgoing, server_side=True)
        self.is_ready = self.is_over = False

    @property
    def protocol(self) -> str | None:
        """What both agreed to speak (ALPN)."""
        return self._object.selected_alpn_protocol()

    @property
    def certificate(self) -> bytes:
        """The peer's, in DER form; empty without mutual TLS."""
        return self._object.getpeercert(binary_form=True) or b""

    def receive(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """Takes in what was read.

        Returns: What the peer said, what is to be written in any case, and whether it broke the rules, so that this is its end.
        """
        said: list[bytes] = []
        is_broken = False
        view = memoryview(data)
        try:
            for start in range(0, len(data), _RECORD):
                self._incoming.write(view[start : start + _RECORD])
                self._read(said)
        except ssl.SSLError:
            is_broken = True
        return said[0] if len(said) == 1 else b"".join(said), self._outgoing.read(), is_broken

    def _read(self, said: list[bytes]) -> None:
        """All that is there. Raises: ssl.SSLError: If the peer broke the rules."""
        try:
            if not self.is_ready:
                self._object.do_handshake()
                self.is_ready = True
            while not self.is_over and (self._incoming.pending or self._object.pending()):
                piece = self._object.read(_RECORD)
                if piece:
                    said.append(piece)
                else:
                    self.is_over = True
        except ssl.SSLWantReadError:
            pass

    def protect(self, buffers: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """The same, as it is to be written. Raises: ssl.SSLError: If the connection cannot be written to."""
        data = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        written: list[bytes | memoryview] = []
        try:
            for start in range(0, len(data), _RECORD):
                self._object.write(data[start : start + _RECORD])
                written.append(self._outgoing.read())
        except ssl.SSLError:
            self._outgoing.read()
            raise
        return written

    def farewell(self) -> bytes:
        """What tells the peer that nothing follows (close_notify), if it is in a state to be told."""
        try:
            if self.is_ready:
                self._object.unwrap()
        except ssl.SSLError:  # it has not said so itself yet, or broke the rules
            pass
        return self._outgoing.read()
