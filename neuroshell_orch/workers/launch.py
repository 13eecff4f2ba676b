"""The door to the launchers: which one to use here.

Owns the choice between transient services and child processes, and gathers the names that the composition root
needs. Must not know how either works.
"""

from __future__ import annotations

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.contract import Exit, Handle, Launcher, WorkerSpec
from neuroshell_orch.workers.spawn import ChildLauncher

__all__ = ["ChildLauncher", "Exit", "Handle", "Launcher", "WorkerSpec", "choose_launcher"]


async def choose_launcher(preference: str) -> Launcher:
    """The launcher for ``preference``: ``auto``, ``systemd`` or ``child``."""
    if preference == "systemd":
        raise OrchError("unsupported", "There is no user manager here.", "Set Launcher=child or auto.")
    return ChildLauncher()
