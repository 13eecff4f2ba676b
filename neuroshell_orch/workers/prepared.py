"""The making of prepared copies (see ``runtimes.prepare``), in a process of its own.

Owns that process and the moment at which a copy appears: whole, with its manifest, or not at all; one that must not be
loaded any more is replaced in the same step. What a copy is and where it lies is in ``copies``. Must not import a
runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.errors import PROBLEMS, OrchError
from neuroshell_orch.workers import copies
from neuroshell_orch.workers.copies import prepared_path
from neuroshell_orch.workers.environment import worker_environment

if TYPE_CHECKING:
    from neuroshell_orch.core.figures import Figures

__all__ = ["make", "noted", "prepare", "prepared_path", "tuned"]

KEPT: Final = 8
"""Artefacts whose costs a copy remembers: the same model with other settings."""

_GROWTH: Final = 3
"""A copy of weights in 4 bits was measured at 2.4 times its model: it keeps the weights as they were besides."""


async def prepare(cache: Path, source: Path) -> Path:
    """Make the prepared copy unless there is one that may be loaded; its path. Raises OrchError."""
    return (await make(cache, source))[0]


async def make(
    cache: Path, source: Path, *, tune: bool = False, background: bool = False, again: bool = False
) -> tuple[Path, copies.Manifest]:
    """Make the prepared copy unless there is one that may be loaded; its path, and what it says of itself.

    ``tune``: find out the fastest number of threads, too, which takes up to five seconds more. ``background``: leave
    the processor to others. ``again``: replace even a good one. Raises OrchError.
    """
    try:
        key = copies.key_of(source)
    except OSError as error:
        message = f"{source} cannot be read: {error.strerror}."
        raise OrchError("file-missing", message, "Add the model again, or remove it.") from None
    folder = copies.folder_of(cache, source, key)
    if not again and (found := _good(folder, source, key)) is not None:
        return await tuned(cache, source) if tune else found
    try:
        with copies.making(cache), tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            _check_room(source, folder.parent)
            new = Path(scratch) / "new"
            new.mkdir()
            began = time.monotonic()
            tuning = await _run(source, new, tune=tune, background=background)
            copies.seal(new, source, key, time.monotonic() - began, tuning)
            if again or _good(folder, source, key) is None:
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(Path(scratch) / "old")
            with contextlib.suppress(FileExistsError, OSError):  # somebody else was faster: theirs is as good
                new.rename(folder)
    except OSError as error:
        message = f"The prepared copy of {source} cannot be written: {error.strerror}."
        raise OrchError("write-failed", message, f"Look after {folder.parent}. The model works without it.") from error
    if (made := _good(folder, source, key)) is None:
        raise OrchError("load-failed", f"{folder} was changed while it was made.", "Try it again.")
    return made


async def tuned(cache: Path, source: Path) -> tuple[Path, copies.Manifest]:
    """The copy that there is, with its fastest number of threads found out if it was not yet. Raises OrchError."""
    found = copies.find(cache, source)
    if found is None:
        return await make(cache, source, tune=True)
    path, manifest = found
    if manifest.tuning is None:
        tuning = await _run(path, path.parent, tune=True, only=True)
        manifest = msgspec.structs.replace(manifest, tuning=tuning)
        _write(copies.folder_of(cache, source, manifest.key), manifest)
    return path, manifest


def noted(cache: Path, source: Path, manifest: copies.Manifest, artefact: str, costs: Figures) -> copies.Manifest:
    """The manifest of a copy with what was measured with it, on disk, too. Raises OrchError."""
    kept = dict(list(manifest.costs.items())[1 - KEPT :])  # the oldest are of settings that are gone
    manifest = msgspec.structs.replace(manifest, costs={**kept, artefact: costs})
    _write(copies.folder_of(cache, source, manifest.key), manifest)
    return manifest


def _write(folder: Path, manifest: copies.Manifest) -> None:
    try:
        copies.write(folder, manifest)
    except OSError as error:
        message = f"{folder / copies.MANIFEST} cannot be written: {error.strerror}."
        raise OrchError("write-failed", message, "Free some disk space. The copy is good without it.") from error


def _good(folder: Path, source: Path, key: str) -> tuple[Path, copies.Manifest] | None:
    manifest, problem = copies.examine(folder, key)
    return None if manifest is None or problem else (copies.within(folder, source), manifest)


def _check_room(source: Path, folder: Path) -> None:
    wanted, free = _GROWTH * copies.size_of(source), shutil.disk_usage(folder).free
    if wanted > free:
        message = f"The prepared copy of {source} may take {wanted >> 20} MiB, and {folder} has {free >> 20} MiB free."
        raise OrchError("write-failed", message, "Free some disk space, or set Prepare=no for this model.")


async def _run(
    source: Path, out: Path, *, tune: bool, background: bool = False, only: bool = False
) -> copies.Tuning | None:
    flags = ["--tune"] * tune + ["--background"] * background + ["--made"] * only
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "neuroshell_orch.runtimes.prepare", str(source), str(out), *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=worker_environment(os.environ, {}),
        start_new_session=True,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode == 0:
        return msgspec.json.decode(said, type=copies.Tuning | None)
    try:
        problem, message, hint = json.loads(said)
    except ValueError:
        problem, message, hint = "load-failed", f"{source} could not be prepared (status {process.returncode}).", ""
    raise OrchError(problem if problem in PROBLEMS else "load-failed", message, hint)
