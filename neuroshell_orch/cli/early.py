"""A connection that is made before the command is loaded.

Owns that one connection, and the first lines of the request on it: while this process imports its parser, systemd
already starts the daemon, and the daemon sees that it will be asked, and for which model. On a cold machine that is
a fifth of the time to the first token. A guess from the words of the command line: what it gets wrong costs a worker
that nobody takes. Must not know what the connection is used for.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

ASK = ("POST", "/v1/chat/completions")
HEADER = "X-Nsorch-Model"

_sock: socket.socket | None = None
_begun = b""


def connect(arguments: Sequence[str] = ()) -> None:
    """Connect if there is a service; if not, the command will meet the same error and tell it."""
    global _sock, _begun  # noqa: PLW0603  (it must outlive the import of everything else)
    from neuroshell_orch import client, exchange, marks
    from neuroshell_orch.errors import OrchError

    try:
        _sock = client.connect()
    except OrchError:
        _sock = None
        return
    marks.mark("connected")
    name = model(arguments)
    if not _is_prompt_here() or not (name.isascii() and name.isprintable()):
        return
    begun = exchange.beginning(*ASK) + f"{HEADER}: {name}\r\n".encode()
    try:
        _sock.sendall(begun)
    except OSError:
        drop()
    else:
        _begun = begun


def _is_prompt_here() -> bool:
    """Whether nothing has to be read that may take for ever: a request that has begun must come to its end."""
    try:
        return stat.S_ISCHR(os.fstat(0).st_mode)
    except OSError:
        return True


def model(arguments: Sequence[str]) -> str:
    """The model that the command line names, empty where it names none."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if word in {"-m", "--model"}:
            return next(words, "")
        for option in ("--model=", "-m"):
            if word.startswith(option):
                return word.removeprefix(option)
    return ""


def take() -> tuple[socket.socket | None, bytes]:
    """The early connection, once, and what was sent on it."""
    global _sock, _begun
    taken = _sock, _begun
    _sock, _begun = None, b""
    return taken


def drop() -> None:
    """Close the connection if nobody took it: the command line was wrong."""
    sock, _ = take()
    if sock is not None:
        sock.close()
