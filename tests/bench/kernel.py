"""Memory and machine, as the kernel tells them.

Owns the reading of ``smaps_rollup`` (PSS and Private_Dirty; never RSS, which counts shared pages once for each
process) and the line that names this machine. Must not know what the processes do.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

MEBIBYTE = 1 << 20


class Memory(NamedTuple):
    """Bytes."""

    pss: int
    private_dirty: int

    def plus(self, other: Memory) -> Memory:
        return Memory(self.pss + other.pss, self.private_dirty + other.private_dirty)


NOTHING = Memory(0, 0)


def parse(rollup: str) -> Memory:
    """From the text of a ``smaps_rollup``."""
    sizes = {line.partition(":")[0]: line.split()[1] for line in rollup.splitlines() if line.endswith(" kB")}
    return Memory(int(sizes["Pss"]) * 1024, int(sizes["Private_Dirty"]) * 1024)


def memory(pid: int) -> Memory:
    """What ``pid`` takes; nothing when it is gone. Raises PermissionError for a process in a sandbox of its own."""
    try:
        return parse(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return NOTHING


def marked(variable: str) -> list[int]:
    """Live processes with ``variable`` (NAME=value) in their environment."""
    wanted = variable.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # gone, or somebody else's
            continue
    return found


def cores() -> int:
    """The processors that we may use."""
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """One line that says where the figures come from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return (
        f"{model}, {cores()} cores, {size:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}, "
        f"onnxruntime {_version('onnxruntime', 'onnxruntime-gpu')}, "
        f"onnxruntime-genai {_version('onnxruntime-genai', 'onnxruntime-genai-cuda')}"
    )


def load() -> str:
    """The load averages: how busy the machine was with other things."""
    return " ".join(f"{average:.1f}" for average in os.getloadavg())


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
