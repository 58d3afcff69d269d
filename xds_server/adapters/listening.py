"""What both transports say of an address that cannot be listened on."""

import socket

from xds_server.errors import ListenError


def probe(address: str) -> None:
    """Binds HOST:PORT once by hand: transports say that an address cannot be had, the system says why.

    Raises: ListenError: If it is in use, not this machine's or not an address.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65_535:
        raise listen_error(address, "it is not of the form HOST:PORT")
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, bound = found[0]
        with socket.socket(family, kind, protocol) as bound_once:
            bound_once.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound_once.bind(bound)
    except OSError as error:
        raise listen_error(address, error.strerror or str(error)) from error


def listen_error(address: str, reason: str) -> ListenError:
    return ListenError(
        f"cannot listen on {address}: {reason}; hint: stop what uses it, or choose another address (port 0 takes a free one)"
    )
