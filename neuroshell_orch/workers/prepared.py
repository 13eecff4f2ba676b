"""Prepared copies of models (see ``runtimes.prepare``) as the daemon sees them: where one would be, and its making.

Owns the name of a copy, which says all that it depends on: the model's files, onnxruntime's version, the processor's
abilities. So an upgrade or a moved home simply finds no copy and makes a new one. Must not import a runtime: the work
is done in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Final

from neuroshell_orch.errors import PROBLEMS, OrchError
from neuroshell_orch.workers.environment import worker_environment

_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu")
_FLAGS: Final = ("flags", "Features", "model name", "CPU part")


def prepared_path(cache: Path, source: Path) -> Path:
    """Where the prepared copy of ``source`` is, or would be: to be loaded instead of it once it exists."""
    digest = hashlib.sha256(repr((machine_key(), _files_of(source))).encode()).hexdigest()[:20]
    folder = cache / "prepared" / f"{source.stem}-{digest}"
    return folder if source.is_dir() else folder / source.name


def machine_key(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Onnxruntime's version and what the first processor can do."""
    versions = []
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    first = cpuinfo.read_text(errors="replace").split("\n\n", 1)[0]
    flags = [line for line in first.splitlines() if line.split(":")[0].strip() in _FLAGS]
    return "\n".join(versions + flags)


def _files_of(source: Path) -> list[tuple[str, int, int, int]]:
    paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    if not source.is_dir():
        paths += sorted(source.parent.glob(source.name + "*data"))
    facts = [(path, path.stat()) for path in paths]
    return [(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in facts]


async def prepare(cache: Path, source: Path) -> Path:
    """Make the prepared copy unless it exists; its path. It appears whole or not at all. Raises OrchError."""
    path = prepared_path(cache, source)
    folder = cache / "prepared" / path.relative_to(cache / "prepared").parts[0]
    if folder.exists():
        return path
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        await _run(source, new)
        with contextlib.suppress(FileExistsError, OSError):  # somebody else was faster: theirs is as good
            new.rename(folder)
    if not folder.exists():
        raise OrchError("load-failed", f"{folder} could not be written.", "Is the disk full?")
    return path


async def _run(source: Path, out: Path) -> None:
    environment = worker_environment(os.environ, {})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "neuroshell_orch.runtimes.prepare", str(source), str(out)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
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
        return
    try:
        problem, message, hint = json.loads(said)
    except ValueError:
        problem, message, hint = "load-failed", f"{source} could not be prepared (status {process.returncode}).", ""
    raise OrchError(problem if problem in PROBLEMS else "load-failed", message, hint)
