"""The server's socket, which is taken before the model is loaded."""

from __future__ import annotations

import socket

from ..errors import InputError


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there: who comes before the model is loaded waits. Raises InputError where none can be."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, number)
    except OSError as error:
        raise InputError(f"--host {host:.100} is no address of this machine: {error.strerror}") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)
    except OSError as error:
        found.close()
        text = f"--port {port} of {host:.100} cannot be had: {error.strerror}; choose another, or 0 for any free one"
        raise InputError(text) from error
    return found
