"""The door to the launchers: which one to use here.

Owns the choice between transient services and child processes, and gathers the names that the composition root
needs. The systemd side is imported only when wanted: it brings a D-Bus library. Must not know how either works.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.contract import Exit, Handle, Launcher, WorkerSpec
from neuroshell_orch.workers.spawn import ChildLauncher

if TYPE_CHECKING:
    from neuroshell_orch.workers.transient import SystemdLauncher

__all__ = ["ChildLauncher", "Exit", "Handle", "Launcher", "WorkerSpec", "choose_launcher", "connect_systemd"]

PREFERENCES = ("auto", "systemd", "child")


async def connect_systemd() -> SystemdLauncher:
    """The launcher for transient services. Raises OrchError ``service-unreachable`` without a user manager."""
    from neuroshell_orch.workers.transient import SystemdLauncher  # noqa: PLC0415

    return await SystemdLauncher.connect()


async def choose_launcher(preference: str) -> Launcher:
    """The launcher for ``preference``: ``systemd``, ``child``, or ``auto``: systemd where there is a user manager."""
    if preference not in PREFERENCES:
        allowed = ", ".join(PREFERENCES)
        raise OrchError("config-invalid", f"The launcher {preference!r} is not known.", f"Use one of: {allowed}.")
    if preference == "child" or (preference == "auto" and "XDG_RUNTIME_DIR" not in os.environ):
        return ChildLauncher()
    try:
        return await connect_systemd()
    except OrchError:
        if preference == "systemd":
            raise
        return ChildLauncher()
