"""Header blocks to requests: decoding, what RFC 9113 section 8 asks of them, and what gRPC does.

A connection mostly carries one or two streams, and a fleet sends the same first block from each proxy. So the first block of a
connection, which depends on no state, is looked up in a cache that all connections share, and a decoder with its tables (10 KiB) is only
made when a second block comes: it then reads the first one again to catch up.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError

from xds_server.wire import grpc
from xds_server.wire.errors import Code, FatalError, StreamError
from xds_server.wire.limits import Reason

Fields = tuple[tuple[bytes, bytes], ...]

_CACHED: Final = 256
_CACHED_BLOCK_BYTES: Final = 1024
_PSEUDO: Final = {b":method", b":scheme", b":path", b":authority"}
_REQUIRED: Final = {b":method", b":scheme", b":path"}
_CONNECTION: Final = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_NAME_BYTES: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_NO_VALUE_BYTES: Final = (b"\0", b"\r", b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a well-formed request gets no service.

    Attributes:
        http: HTTP status when the peer does not speak gRPC; 0 when it does.
        status: gRPC status.
    """

    reason: Reason
    http: int
    status: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the headers of a call say.

    Attributes:
        path: `/package.Service/Method`.
        timeout_s: How long the peer waits for the end of the call [s]; None for ever.
        length: The `content-length` it promised [bytes].
        refusal: Why it gets no service.
        fields: All fields as they came, pseudo-header fields first.
    """

    path: str
    timeout_s: float | None
    length: int | None
    refusal: Refusal | None
    fields: Fields


class Blocks:
    """First blocks and the requests they are, for all connections of a listener."""

    __slots__ = ("_list_bytes", "_requests")

    def __init__(self, *, list_bytes: int) -> None:
        self._list_bytes = list_bytes
        self._requests: OrderedDict[bytes, tuple[bytes, Request]] = OrderedDict()

    def first(self, block: bytes) -> tuple[bytes, Request]:
        """What the first block of a connection says, and the block itself, one object for all who sent the same.

        Raises: FatalError, StreamError: As `Reader.fields` and `request`.
        """
        found = self._requests.get(block)
        if found is None:
            found = block, request(_decode(self.decoder(), block))
            if len(block) <= _CACHED_BLOCK_BYTES:
                if len(self._requests) >= _CACHED:
                    self._requests.popitem(last=False)
                self._requests[block] = found
        return found

    def decoder(self) -> Decoder:
        return Decoder(max_header_list_size=self._list_bytes)


class Reader:
    """The header blocks of one connection, in the order in which they came."""

    __slots__ = ("_blocks", "_decoder", "_first", "_last", "_last_request")

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._decoder: Decoder | None = None
        self._first: bytes | None = None
        self._last = b""
        self._last_request: Request | None = None

    def request(self, block: bytes) -> Request:
        """A block as the request it is.

        Raises:
            FatalError: If it cannot be decoded, so that no later one can.
            StreamError: If it is no request.
        """
        if self._decoder is None and self._first is None:
            self._first = block  # also when what follows raises: it was decoded
            self._first, found = self._blocks.first(block)
            return found
        if block == self._last and self._last_request is not None:
            return self._last_request
        found = request(self.fields(block))
        if min(block) >= 0x80:  # indexed fields only: the tables are as they were, so the same block will say the same
            self._last, self._last_request = block, found
        else:
            self._last_request = None
        return found

    def fields(self, block: bytes) -> Fields:
        """The fields of a block. Raises: FatalError: If it cannot be decoded."""
        if self._decoder is None:
            self._decoder = self._blocks.decoder()
            if self._first is not None:
                _decode(self._decoder, self._first)
                self._first = None
        self._last_request = None
        return _decode(self._decoder, block)


def _decode(decoder: Decoder, block: bytes) -> Fields:
    try:
        return tuple((bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True))
    except OversizedHeaderListError as error:
        raise FatalError(Code.ENHANCE_YOUR_CALM, Reason.HEADER_SIZE, f"header list over {decoder.max_header_list_size} bytes") from error
    except HPACKError as error:
        # hpack's words would tell the peer addresses of our memory
        raise FatalError(Code.COMPRESSION_ERROR, Reason.COMPRESSION, "a header block that cannot be decoded (RFC 7541)") from error


def request(fields: Fields) -> Request:
    """What the fields of a new stream ask for.

    Raises: StreamError: If they break RFC 9113 section 8.2 or 8.3.
    """
    pseudo = {name: value for name, value in fields if name.startswith(b":")}
    regular = [field for field in fields if not field[0].startswith(b":")]
    first = fields[: len(pseudo)]
    if len(pseudo) + len(regular) != len(fields) or any(not name.startswith(b":") for name, _ in first):
        raise _malformed("a pseudo-header field twice or after others", 8.3)
    if not _REQUIRED <= pseudo.keys() <= _PSEUDO or not pseudo[b":path"]:
        raise _malformed("pseudo-header fields are missing or unknown, or :path is empty", 8.3)
    for name, value in pseudo.items():
        _check_value(name, value)
    known = _regular(regular)
    host, authority = known.get(b"host"), pseudo.get(b":authority")
    if host is not None and authority is not None and host != authority:
        raise _malformed("host and :authority differ", 8.3)
    timeout, refusal = _asked(pseudo[b":method"], known)
    return Request(
        path=pseudo[b":path"].decode("latin-1"),
        timeout_s=timeout,
        length=_length(known.get(b"content-length")),
        refusal=refusal,
        fields=fields,
    )


def check_trailers(fields: Fields) -> None:
    """Raises: StreamError: If a trailer has a pseudo-header field or what no field may be (section 8.1)."""
    if any(name.startswith(b":") for name, _ in fields):
        raise _malformed("a pseudo-header field in a trailer", 8.1)
    _regular(fields)


def _regular(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The fields by name, of equal ones the last. Raises: StreamError: If one is not allowed (section 8.2)."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if not name or not _NAME_BYTES.issuperset(name):
            raise _malformed(f"a field named {name[:40]!r}", 8.2)
        if name in _CONNECTION or (name == b"te" and value != b"trailers"):
            raise _malformed(f"the field {name.decode()}, which speaks of a connection", 8.2)
        _check_value(name, value)
        if name == b"content-length" and found.get(name, value) != value:
            raise _malformed("two content-lengths", 8.1)
        found[name] = value
    return found


def _check_value(name: bytes, value: bytes) -> None:
    """Raises: StreamError: If a value cannot be one (section 8.2.1)."""
    if any(byte in value for byte in _NO_VALUE_BYTES) or value[:1] in {b" ", b"\t"} or value[-1:] in {b" ", b"\t"}:
        raise _malformed(f"the value of {name.decode()}", 8.2)


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise _malformed(f"content-length {value[:40]!r}", 8.1)
    return int(value)


def _asked(method: bytes, fields: dict[bytes, bytes]) -> tuple[float | None, Refusal | None]:
    """The time limit, and why there will be no service."""
    if method != b"POST":
        return None, Refusal(reason=Reason.METHOD, http=405, status=grpc.UNIMPLEMENTED, message="gRPC calls are POST requests")
    kind = fields.get(b"content-type", b"")
    if not (kind == b"application/grpc" or kind.startswith((b"application/grpc+", b"application/grpc;"))):
        words = "the content-type of a gRPC call is application/grpc"
        return None, Refusal(reason=Reason.CONTENT_TYPE, http=415, status=grpc.UNIMPLEMENTED, message=words)
    encoding = fields.get(b"grpc-encoding", b"identity")
    if encoding != b"identity":
        words = f"grpc-encoding {encoding[:40].decode('latin-1')} is not taken; hint: send messages uncompressed (identity)"
        return None, Refusal(reason=Reason.ENCODING, http=0, status=grpc.UNIMPLEMENTED, message=words)
    limit = fields.get(b"grpc-timeout")
    try:
        return (None if limit is None else grpc.timeout_s(limit.decode("latin-1"))), None
    except ValueError as error:
        return None, Refusal(reason=Reason.HEADERS, http=0, status=grpc.INTERNAL, message=str(error))


def _malformed(what: str, section: float) -> StreamError:
    return StreamError(Code.PROTOCOL_ERROR, Reason.HEADERS, f"malformed headers: {what} (RFC 9113 section {section})")
