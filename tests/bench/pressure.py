"""Taking a file's pages away from whoever has given them back, in the two ways in which a kernel comes to do it.

Owns the advice about a file that nobody has mapped, the control group whose limit makes the kernel look for pages, and
the count of pages that are still there. Must not know whose they are.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

UNLIMITED = 1 << 62


def take_pages(path: Path) -> None:
    """Drop a file's clean pages that no process has mapped."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def cached(path: Path) -> float:
    """Which part of a file lies in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(descriptor).st_size
    at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    os.close(descriptor)
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    try:
        if libc.mincore(at, size, pages) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        libc.munmap(at, size)
    return sum(page & 1 for page in pages) / len(pages)


class Group:
    """A control group with a limit that can be moved."""

    def __init__(self, folder: Path, limit: str) -> None:
        self._folder = folder
        self._limit = folder / limit

    def squeeze(self, size: int) -> None:
        """Let the kernel take clean pages until no more than ``size`` is left, or as far as it gets."""
        with suppress(OSError):  # what is in use cannot be taken, and the old limit stays
            self._limit.write_text(str(size))

    def relax(self) -> None:
        self._limit.write_text("-1" if self._limit.name.startswith("memory.limit") else "max")

    def take(self, pid: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        parent = self._folder.parent / "cgroup.procs"
        for pid in (self._folder / "cgroup.procs").read_text().split():
            with suppress(OSError):
                parent.write_text(pid)
        self._folder.rmdir()


@contextmanager
def group(name: str) -> Iterator[Group | None]:
    """A control group of our own, or None where we may not make one."""
    found = None
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.high")):
        folder = Path(root) / name
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / limit).exists():
            found = Group(folder, limit)
            break
        folder.rmdir()
    try:
        yield found
    finally:
        if found is not None:
            found.remove()
