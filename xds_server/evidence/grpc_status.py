"""How a gRPC request ended: with HTTP 200 nearly always, so what counts is `grpc-status`. Pure.

Two readers ask and answer differently. Gates: was it the variant's fault (`FAULTS`)? The audit: what did Envoy's load report make of it? It takes
the status for the HTTP one that it is translated to, where RESOURCE_EXHAUSTED is 429 and no error, and an answer without a status for an error.
Neighbour: `classify`. Source: gRPC's list of status codes and its mapping from HTTP; Envoy 1.40 as recorded in tests/fixtures/access_log.
"""

from dataclasses import dataclass
from typing import Any, Final

from xds_server.resources.names import GRPC_STATUS, GRPC_TAG

CANCELLED: Final = 1
UNKNOWN: Final = 2
LAST: Final = 16

EXHAUSTED: Final = 8
FAULTS: Final = frozenset({UNKNOWN, 4, EXHAUSTED, 12, 13, 14, 15})
"""UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: what a server says of itself. gRPC servers say
RESOURCE_EXHAUSTED where HTTP ones say 503: too many calls at once, no memory, a message over their limit. A user's quota says it too, but of both
variants alike, which gates are not moved by."""


@dataclass(frozen=True, slots=True)
class GrpcStatus:
    """Attributes:
    number: What the answer said, or what its HTTP status means in gRPC.
    said: Whether the answer had a status at all.
    """

    number: int
    said: bool

    @property
    def fault(self) -> bool:
        return self.number in FAULTS

    @property
    def reported_bad(self) -> bool:
        """Whether load reports count the ended request as an error."""
        return not self.said or (self.fault and self.number != EXHAUSTED)


def grpc_status(entry: Any) -> GrpcStatus | None:
    """Reads a parsed `HTTPAccessLogEntry`; None = not gRPC, or no answer began. What is no status of gRPC is UNKNOWN, as for its clients."""
    text = entry.common_properties.custom_tags.get(GRPC_TAG)
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(LAST)) else UNKNOWN
    said = GRPC_STATUS in entry.response.response_trailers or GRPC_STATUS in entry.response.response_headers
    return GrpcStatus(number if number <= LAST else UNKNOWN, said)
