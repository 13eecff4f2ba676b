"""How much memory one worker takes, as the kernel counts it.

Owns the reading of ``smaps_rollup`` and of a unit's cgroup, v2 or v1. The worker itself opens its ``smaps_rollup``
and passes the descriptor with its first frame: the kernel checks the permission at open, and two sandboxes with
user namespaces of their own may not open each other's files. It also keeps a reused process id from being taken
for the worker. Must not know what a worker does with its memory.

A read walks the page tables: about 1 ms for a small worker, tens for gigabytes of small pages. Ask when somebody
looks, not on a timer.
"""

from __future__ import annotations

import os
from pathlib import Path

from neuroshell_orch.api.schema import Memory


def read_memory(descriptor: int, pid: int | None = None, unit: str | None = None) -> Memory | None:
    """PSS, private dirty and resident bytes from an open ``smaps_rollup``; None when the process is gone."""
    try:
        text = os.pread(descriptor, 4096, 0).decode("ascii", "replace")
    except ProcessLookupError:
        return None
    sizes = parse_rollup(text)
    if "Rss" not in sizes:
        return None
    cgroup = cgroup_memory(pid, unit) if pid is not None and unit is not None else None
    return Memory(pss=sizes.get("Pss", 0), private_dirty=sizes.get("Private_Dirty", 0), rss=sizes["Rss"], cgroup=cgroup)


def parse_rollup(text: str) -> dict[str, int]:
    """The ``Name: N kB`` lines of a smaps file, in bytes."""
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            sizes[name] = int(words[0]) * 1024
    return sizes


def cgroup_memory(pid: int, unit: str, proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes charged to ``unit``'s own cgroup, or None where its memory is not counted apart from others'."""
    file = cgroup_file(pid, unit, proc, root)
    return None if file is None else count_of(file)


def cgroup_file(pid: int, unit: str, proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """The file in which the kernel counts the bytes of ``unit``'s own cgroup, if it does."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if path.rsplit("/", 1)[-1] != unit:
            continue
        if controllers == "":
            file = root / path.lstrip("/") / "memory.current"
        elif "memory" in controllers.split(","):
            file = root / "memory" / path.lstrip("/") / "memory.usage_in_bytes"
        else:
            continue
        if count_of(file) is not None:
            return file
    return None


def count_of(file: Path) -> int | None:
    """The number in a file of the kernel's; None where it is gone, as that of a cgroup that was removed."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
