"""The worker that the next daemon will most likely need: a note that one daemon leaves for the next.

Owns the file and the question whether it still holds: it names what the note was derived from (files and folders of the
configuration), and one that changed makes it void. A note is a guess about what will be asked, never about how a model
is loaded: whoever uses it compares. Read before anything else is imported, so it needs the standard library's ``os``
and no more; the two frames in it are as the worker will read them. Must not know frames.
"""

from __future__ import annotations

import os
import sys

FIRST = "nsorch likely 1"
"""The first line; another format has another number."""
MOST = 1 << 16
"""Bytes that are read of it."""


class Likely:
    """A worker to start. ``announce`` lets it import its runtime, ``load`` lets it load."""

    def __init__(
        self,
        launcher: str,
        model: str,
        announce: bytes,
        load: bytes,
        *,
        default: bool = False,
        memory_max: int | None = None,
    ) -> None:
        self.launcher = launcher
        self.model = model
        self.announce = announce
        self.load = load
        self.default = default
        self.memory_max = memory_max

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Likely) and vars(self) == vars(other)

    __hash__ = object.__hash__


def stamp(path: str) -> str:
    """What changes when ``path`` is replaced, edited, made or removed."""
    try:
        found = os.stat(path)  # noqa: PTH116 - no pathlib here
    except OSError:
        return "-"
    return f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def write(path: str, likely: Likely, version: str, sources: list[str]) -> None:
    """Leave the note. Raises OSError. What cannot be written in lines leaves none."""
    lines = [
        FIRST,
        _identity(version),
        likely.launcher,
        likely.model,
        likely.announce.hex(),
        likely.load.hex(),
        "default" if likely.default else "",
        str(likely.memory_max or ""),
        *(f"{stamp(source)} {source}" for source in sources),
    ]
    if any("\n" in line for line in lines):
        return
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 - no pathlib here
    fresh = f"{path}.{os.getpid()}"
    with open(fresh, "w", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        file.write("\n".join([*lines, ""]))
    os.replace(fresh, path)  # noqa: PTH105


def forget(path: str) -> None:
    """Leave none."""
    try:
        os.unlink(path)  # noqa: PTH108 - no pathlib here
    except OSError:
        return


def read(path: str, version: str) -> Likely | None:
    """The note, if there is one and it still holds."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            lines = file.read(MOST).split("\n")
    except OSError:
        return None
    if len(lines) < 9 or lines[0] != FIRST or lines[1] != _identity(version) or lines[-1]:
        return None
    for line in lines[8:-1]:
        known, _, source = line.partition(" ")
        if stamp(source) != known:
            return None
    try:
        announce, load = bytes.fromhex(lines[4]), bytes.fromhex(lines[5])
        memory_max = int(lines[7]) if lines[7] else None
    except ValueError:
        return None
    return Likely(lines[2], lines[3], announce, load, default=lines[6] == "default", memory_max=memory_max)


def _identity(version: str) -> str:
    """Whose note it is: another version may write other frames, and another folder of configuration counts then."""
    names = ("NSORCH_CONFIG_DIRS", "NSORCH_RUNTIMES", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    return " ".join([version, sys.executable, *(f"{name}={os.environ.get(name, '')}" for name in names)])
