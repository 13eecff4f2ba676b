"""The sockets that systemd opened for us, and the unit that we run in.

Owns LISTEN_*: which descriptor is which socket, found by its name and its own address, never by its position,
which differs between versions of systemd. Must not know what is served on them.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from systemd.daemon import listen_fds_with_names

from neuroshell_orch.sd import journal

API: Final = "api"
HTTP: Final = "http"

ROLES: Final[dict[str, str]] = {
    "api": API,
    "nsorch.socket": API,
    "http": HTTP,
    "nsorch-http.socket": HTTP,
}
"""FileDescriptorName= to what it is for. A socket unit without FileDescriptorName= passes its own name."""

FAMILIES: Final[dict[str, tuple[socket.AddressFamily, ...]]] = {
    API: (socket.AF_UNIX,),
    HTTP: (socket.AF_INET, socket.AF_INET6),
}
"""A TCP socket under the name of the private one would be open to every user: the family must fit the name."""

VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def listen_sockets() -> dict[str, list[socket.socket]]:
    """The listening sockets by role (``api``, ``http``); empty when nobody activated us.

    A descriptor that we do not know is closed and reported. LISTEN_* is gone from the environment afterwards.
    """
    try:
        passed: dict[int, str] = listen_fds_with_names(unset_environment=True)
    except OSError as error:
        journal.log(journal.WARNING, f"The sockets that systemd passed cannot be read: {error}.")
        passed = {}
    for name in VARIABLES:
        # The library removes them from the C environment only; a child would still get Python's copy.
        os.environ.pop(name, None)
    found: dict[str, list[socket.socket]] = {}
    for fd, name in passed.items():
        try:
            listener = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            _report(fd, name, "it is not a socket")
            continue
        refusal = _refusal(name, listener)
        if refusal:
            listener.close()
            _report(fd, name, refusal)
        else:
            found.setdefault(ROLES[name], []).append(listener)
    return found


def _refusal(name: str, listener: socket.socket) -> str:
    """Why ``listener`` is not used, or an empty string."""
    role = ROLES.get(name)
    if role is None:
        return f"no socket of ours has this name (known: {', '.join(ROLES)})"
    if listener.family not in FAMILIES[role]:
        return f"its address {listener.getsockname()!r} does not fit the name"
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it is not a listening stream socket"
    return ""


def _report(fd: int, name: str, refusal: str) -> None:
    journal.log(journal.WARNING, f"Closed descriptor {fd} ({name!r}) that systemd passed: {refusal}.")


def own_unit() -> str | None:
    """The user unit that this process belongs to, or None where no user manager started it."""
    manager = os.environ.get("MANAGERPID", "")
    return find_unit(_cgroup("self"), _cgroup(manager) if manager.isdecimal() else "")


def find_unit(cgroup: str, manager: str = "") -> str | None:
    """The user unit named by the text of a /proc/PID/cgroup file (v1, v2 or both).

    Where the path has no ``user@UID.service``, ``manager`` (the same text for the user manager) says below which
    group its units lie.
    """
    parts = _path(cgroup)
    for index, part in enumerate(parts):
        if part.startswith("user@") and part.endswith(".service"):
            return _first_unit(parts[index + 1 :])
    root = _path(manager)
    if root and root[-1] == "init.scope":
        del root[-1]
    if not manager or parts[: len(root)] != root:
        return None
    return _first_unit(parts[len(root) :])


def _cgroup(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _path(cgroup: str) -> list[str]:
    """The parts of systemd's own hierarchy: the named one of v1 where there is one, else v2."""
    unified = ""
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "name=systemd":
            return [part for part in path.split("/") if part]
        if number == "0" and not controllers:
            unified = path
    return [part for part in unified.split("/") if part]


def _first_unit(parts: list[str]) -> str | None:
    for part in parts:
        name = part.removeprefix("_")
        if name == "init.scope":
            return None
        if name.endswith((".service", ".scope")):
            return name
    return None
