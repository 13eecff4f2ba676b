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
_MALLOC: Final = {"glibc.malloc.mmap_threshold": 128 << 10, "glibc.malloc.arena_max": 2}
"""Big buffers stay out of the heap, so that they go back to the kernel one by one. Two heaps: the allocator gives the
end of none but the first back when it is told to, so with one for each thread 3 MiB stayed in a model at rest, and 15
in one at work; with a single one, what is kept and what is not lie mixed, and 2 MiB stayed."""


def worker_environment(inherited: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """The daemon's environment without what systemd meant for the daemon alone, then ours, then ``extra``."""
    kept = {k: v for k, v in inherited.items() if k not in _NEVER and not k.startswith(_NEVER_PREFIXES)}
    tunables = [part for part in kept.get("GLIBC_TUNABLES", "").split(":") if part]
    said = {part.partition("=")[0] for part in tunables}
    tunables += [f"{name}={value}" for name, value in _MALLOC.items() if name not in said]
    return {**kept, **_FIXED, "GLIBC_TUNABLES": ":".join(tunables), **extra}
