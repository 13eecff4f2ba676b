"""The environment and the command line of a worker, the same under both launchers.

Owns what a worker may inherit from the daemon and what it must not. A pure function of its arguments; must not
know how the process is then started.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMAND: Final = (sys.executable, "-P", "-m", "neuroshell_orch.workers.boot")

PARENT: Final = "NSORCH_WORKER_PARENT"
"""Set to the daemon's process id where the worker is its child and must die with it."""

_NEVER_PREFIXES: Final = ("LISTEN_", "WATCHDOG_", "MEMORY_PRESSURE_")
_NEVER: Final = frozenset({"NOTIFY_SOCKET", "MAINPID", "MANAGERPID", "INVOCATION_ID", "FDSTORE", PARENT})

_FIXED: Final = {
    "ORT_DISABLE_TELEMETRY": "1",  # on by default, and a thread besides
    "OMP_NUM_THREADS": "1",  # numpy's own pool is never used; ORT's threads are set per session
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
_MMAP_THRESHOLD: Final = "glibc.malloc.mmap_threshold=131072"
"""Keeps big buffers out of the heap, so that they go back to the kernel one by one."""


def worker_environment(inherited: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """The daemon's environment without what systemd meant for the daemon alone, then ours, then ``extra``."""
    kept = {k: v for k, v in inherited.items() if k not in _NEVER and not k.startswith(_NEVER_PREFIXES)}
    tunables = [part for part in kept.get("GLIBC_TUNABLES", "").split(":") if part]
    if not any(part.startswith("glibc.malloc.mmap_threshold=") for part in tunables):
        tunables.append(_MMAP_THRESHOLD)
    return {**kept, **_FIXED, "GLIBC_TUNABLES": ":".join(tunables), **extra}
