"""Sockets that one thread ends while another one waits for them."""

import socket
from contextlib import suppress


def cut(line: socket.socket) -> None:
    """End a connection, whatever thread waits for it; the socket is closed by who owns it."""
    with suppress(OSError):  # is closed already; not its own `shutdown`, which lets go of TLS under its reader
        socket.socket.shutdown(line, socket.SHUT_RDWR)
