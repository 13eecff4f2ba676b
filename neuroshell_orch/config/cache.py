"""A configuration of many files, kept as one: a thousand models would make half of the daemon's start.

Owns the file and the question whether it still holds: it names every file and folder that was read, with what changes
when one of them does. Only a configuration that nothing was to be said about is kept, so whatever is wrong is found in
the files themselves, with its line. Where each value came from is not kept. Must not know what the values mean.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch import __version__
from neuroshell_orch.config.load import Configuration, load
from neuroshell_orch.config.paths import config_dirs
from neuroshell_orch.config.schema import ModelSettings, ModeSettings, Settings
from neuroshell_orch.config.tree import MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORTH: Final = 100
"""Models from which on it pays."""
SETTLED_NS: Final = 2_000_000_000
"""A file that changed so lately could change again without a trace."""


class Kept(msgspec.Struct, frozen=True):
    """What is in the file. ``stamps``: path, inode, size, time of change; zeros where there is nothing."""

    version: str
    dirs: list[str]
    stamps: list[tuple[str, int, int, int]]
    settings: Settings
    modes: dict[str, ModeSettings]
    models: dict[str, ModelSettings]


def load_kept(file: Path) -> Configuration:
    """The configuration, read leniently, from ``file`` where that still holds."""
    kept = _read(file)
    if kept is not None:
        return Configuration(settings=kept.settings, modes=kept.modes, models=kept.models, warnings=[], origins={})
    roots = [str(path) for path in config_dirs()]
    stamps = [(path, *_stamp(path)) for path in _sources(roots)]
    found = load(lenient=True)
    with suppress(OSError):
        if len(found.models) < WORTH or found.warnings:
            file.unlink(missing_ok=True)
        elif max(changed for *_, changed in stamps) < time.time_ns() - SETTLED_NS:
            _write(file, Kept(__version__, roots, stamps, found.settings, found.modes, found.models))
    return found


def _read(file: Path) -> Kept | None:
    try:
        kept = msgspec.msgpack.decode(file.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return None
    holds = (
        kept.version == __version__
        and kept.dirs == [str(path) for path in config_dirs()]
        and all(_stamp(path) == (inode, size, changed) for path, inode, size, changed in kept.stamps)
        and all(map(os.path.exists, {model.path for model in kept.models.values()}))
    )
    return kept if holds else None


def _write(file: Path, kept: Kept) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.msgpack.encode(kept))
    fresh.replace(file)


def _sources(roots: list[str]) -> Iterator[str]:
    """Every file and folder that may be read, and each place where there could be one."""
    for root in roots:
        yield root
        yield f"{root}/{MAIN}"
        for folder in (f"{root}/{MAIN}.d", f"{root}/modes.d", f"{root}/models.d"):
            yield folder
            for path in _entries(folder):
                yield path
                if path.endswith(".d"):
                    yield from _entries(path)


def _entries(folder: str) -> list[str]:
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder)]
    except OSError:
        return []


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - likewise
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns
