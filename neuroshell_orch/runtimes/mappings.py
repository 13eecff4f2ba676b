"""The weight pages of this process: found by the data files' names, given back, faulted in again.

Owns the reading of ``/proc/self/smaps``, the ``madvise`` calls of hibernation, and the return of what the allocator
keeps. Only clean, file-backed pages
are ever given back: MADV_DONTNEED would lose a changed one. A changed page of a private mapping is an anonymous
one; ``Private_Dirty`` will not do, as it also counts file pages that the kernel has not written out yet. Must not
know a runtime.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_DONTNEED: Final = 4
_WILLNEED: Final = 3
_POPULATE_READ: Final = 22
_TOP_PAD: Final = -2
_STEP: Final = 32 << 20
_USUAL_STEP: Final = 128 << 10
FILLERS: Final = 4
"""Threads that fault pages in, where there are so many cores: two take half the time of one."""


class Mapping(NamedTuple):
    """One mapped piece of a data file. Sizes in bytes."""

    start: int
    end: int
    rss: int
    anonymous: int

    @property
    def size(self) -> int:
        """Its length."""
        return self.end - self.start


class Weights:
    """The mappings of a model's data files in this process. Made just before the model is loaded."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = [Path(os.path.realpath(path)) for path in paths]
        self._anonymous_before = self._private_before = 0
        if paths:
            before, Before.remembered = Before.remembered or Before(), None
            self._anonymous_before, self._private_before = before.anonymous, before.private
        self._filling: list[threading.Thread] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def can_hibernate(self) -> bool:
        """Whether giving the pages back frees most of what loading cost. Asked right after the load.

        A runtime that repacks weights keeps them in anonymous memory, although their file may stay mapped. The kernel's
        counters tell; its page tables are walked when the pages are given back, as that takes 15 ms, and here an answer
        waits.
        """
        size = sum(mapping.size for mapping in self._mapped("maps")) if self._paths else 0
        return size > max(_private() - self._private_before, self.grown())

    def grown(self) -> int:
        """Bytes of private memory that came since just before the load."""
        return _anonymous() - self._anonymous_before

    def give_back(self) -> int:
        """Drop the pages; the bytes that were resident before and are not now. Raises OrchError."""
        before = self._mapped()
        if not before:
            raise OrchError(
                "unsupported",
                "This model's weights do not lie in its file but in private memory, and cannot be given back.",
                "Use another mode for it, or let it be prepared for hibernation.",
            )
        if any(mapping.anonymous for mapping in before):
            raise OrchError("unsupported", "This model's weights were changed in memory.", "Use another mode for it.")
        for mapping in before:
            self._advise(mapping, _DONTNEED)
        return sum(m.rss for m in before) - sum(m.rss for m in self._mapped())

    def start_filling(self) -> None:
        """Begin to read the pages in again, in threads: the caller has other things to do meanwhile."""
        mapped = self._mapped("maps")
        count = min(FILLERS, len(os.sched_getaffinity(0)))
        parts = [mapped[number::count] for number in range(count)]
        self._filling = [threading.Thread(target=self._fill, args=(part,), name="fill", daemon=True) for part in parts]
        for thread in self._filling:
            thread.start()

    def fault_in(self) -> None:
        """Read the pages in again, or wait until that is done."""
        if not self._filling:
            self.start_filling()
        for thread in self._filling:
            thread.join()
        self._filling = []

    def _fill(self, mapped: Sequence[Mapping]) -> None:
        """Where the kernel cannot read at once (before 5.14), it is asked to read ahead."""
        for mapping in mapped:
            if not self._advise(mapping, _POPULATE_READ):
                self._advise(mapping, _WILLNEED)

    @contextmanager
    def growing(self) -> Iterator[None]:
        """While pages come in, the address space is locked most of the time: the heap grows by few big steps."""
        self._libc.mallopt(_TOP_PAD, _STEP)
        try:
            yield
        finally:
            self._libc.mallopt(_TOP_PAD, _USUAL_STEP)

    def _mapped(self, how: str = "smaps") -> list[Mapping]:
        with Path("/proc/self", how).open("rb") as lines:
            return mappings_of((line.decode("utf-8", "surrogateescape") for line in lines), set(map(str, self._paths)))

    def _advise(self, mapping: Mapping, advice: int) -> bool:
        return bool(self._libc.madvise(mapping.start, mapping.size, advice) == 0)


class Before:
    """Private memory before a load; ``remembered`` where that has begun before its ``Weights`` are made."""

    remembered: Before | None = None

    def __init__(self) -> None:
        self.anonymous = _anonymous()
        self.private = _private()


def remember() -> None:
    """A load begins now."""
    Before.remembered = Before()


def trim() -> None:
    """Give back what the allocator keeps of memory that was freed."""
    libc = ctypes.CDLL(None)
    libc.malloc_trim.argtypes = (ctypes.c_size_t,)
    libc.malloc_trim(0)


def mappings_of(smaps: Iterable[str], paths: set[str]) -> list[Mapping]:
    """The mappings in a smaps file that belong to one of ``paths``."""
    found: list[Mapping] = []
    ours = False
    for line in smaps:
        if not line[:1].isupper():  # a new mapping: addresses, permissions, offset, device, inode, path
            words = line.split(None, 5)
            ours = len(words) == 6 and words[5].rstrip("\n") in paths
            if ours:
                start, end = (int(part, 16) for part in words[0].split("-"))
                found.append(Mapping(start, end, 0, 0))
        elif ours and line.startswith("Rss:"):
            found[-1] = found[-1]._replace(rss=_kilobytes(line))
        elif ours and line.startswith("Anonymous:"):
            found[-1] = found[-1]._replace(anonymous=_kilobytes(line))
    return found


def _anonymous() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(_kilobytes(line) for line in lines if line.startswith("Anonymous:"))


def _private() -> int:
    """About the same, from counters that threads add to in portions."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(_kilobytes(line) for line in lines if line.startswith("RssAnon:"))


def _kilobytes(line: str) -> int:
    return int(line.split()[1]) * 1024
