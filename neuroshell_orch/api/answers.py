"""Answers that can be had again: what a request with an Idempotency-Key was told, for some minutes, in memory.

Owns the folder ``answers`` in the runtime folder, which is memory of this login: it outlives the daemon and never
reaches a disk. One file is one answer, readable by its owner only; its name and the note of its request are hashes, so
neither the key nor a prompt is in there. Bounded by count, bytes and age. Must not know HTTP.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.sd import journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LARGEST: Final = 4 << 20
"""Bytes of one answer that is kept."""
MOST: Final = 256
IN_ALL: Final = 16 << 20
_SLACK: Final = 4096
"""Bytes that a file may have besides the answer."""
_AHEAD: Final = 60.0
"""Seconds by which a file may be from the future, where the clock was set back."""


class Kept(msgspec.Struct, frozen=True):
    """One answer. ``asked`` is the hash of its request."""

    asked: bytes
    at: float
    head: list[tuple[bytes, bytes]]
    body: bytes


class Answers:
    """The files in ``folder``. ``wall`` is a clock that goes on while nobody runs."""

    def __init__(self, folder: Path, wall: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._wall = wall

    def find(self, name: str, keep: float) -> Kept | None:
        """What is kept under ``name`` and not older than ``keep`` seconds."""
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                kept = msgspec.msgpack.decode(file.read(LARGEST + _SLACK), type=Kept)
        except (OSError, msgspec.MsgspecError):
            return None
        return kept if self._fresh(kept.at, keep) else None

    def put(self, name: str, asked: bytes, head: list[tuple[bytes, bytes]], body: bytes, keep: float) -> None:
        """Keep an answer. Where that fails the journal says so, and the answer is given nevertheless."""
        now = self._wall()
        data = msgspec.msgpack.encode(Kept(asked, now, head, body))
        if len(body) > LARGEST or len(data) > LARGEST + _SLACK:
            return
        beside = self._folder / f".{name}"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.utime(beside, (now, now))
            beside.replace(self._folder / name)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            journal.log(journal.WARNING, f"An answer could not be kept in {self._folder}: {error.strerror}.")
        self.sweep(keep)

    def sweep(self, keep: float) -> int:
        """Remove what is too old, then the oldest of what is too much. How many are left."""
        found = []
        try:
            for entry in os.scandir(self._folder):
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime, status.st_size, self._folder / entry.name))
        except OSError:
            return 0  # nothing was kept yet
        total = left = 0
        for count, (at, size, path) in enumerate(sorted(found, reverse=True), 1):
            total += size
            if count > MOST or total > IN_ALL or not self._fresh(at, keep):
                with suppress(OSError):
                    path.unlink()
            else:
                left += 1
        return left

    def _fresh(self, at: float, keep: float) -> bool:
        return -_AHEAD <= self._wall() - at <= keep
