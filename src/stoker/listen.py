"""The socket that a server or a router listens on, taken before anything slow happens."""

from __future__ import annotations

import socket

from stoker.errors import StokerError


class AddressInUse(StokerError):
    """The address to listen on is taken or not ours."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address; it takes no connections yet. Port 0 takes a free one.

    Raises:
        AddressInUse: it cannot be had; the message says what to do.
    """
    if not 0 <= port <= 65535:
        raise AddressInUse(f"{port} is no port: choose one from 0 to 65535 with --port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressInUse(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Choose another port with "
            "--port (0 takes a free one), or another address with --host"
        ) from None
    return listener
