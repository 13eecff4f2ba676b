"""A connection that is made before the command is loaded.

Owns that one connection. While this process imports its parser, systemd already starts the daemon: on a cold
machine that is a tenth of a second of the time to the first token. Must not know what the connection is used for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_sock: socket.socket | None = None


def connect() -> None:
    """Connect if there is a service; if not, the command will meet the same error and tell it."""
    global _sock  # noqa: PLW0603  (it must outlive the import of everything else)
    from neuroshell_orch import client
    from neuroshell_orch.errors import OrchError

    try:
        _sock = client.connect()
    except OrchError:
        _sock = None


def take() -> socket.socket | None:
    """The early connection, once."""
    global _sock
    sock, _sock = _sock, None
    return sock


def drop() -> None:
    """Close the connection if nobody took it: the command line was wrong."""
    sock = take()
    if sock is not None:
        sock.close()
