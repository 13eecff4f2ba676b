"""Prepared copies on disk: where one would be, whether the one that lies there may be loaded, and which are of no use.

Owns the name of a copy, which says all that it depends on (the model's files, the runtimes' versions, the processor's
abilities, how it is made), and the list of files inside it, by which one that was cut off, changed, or carried here
from another machine is told. So an upgrade, a new processor or a moved home simply finds no copy. Must not import a
runtime; knows nothing of how a copy is made (``prepared`` does).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from neuroshell_orch.core.figures import Figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MANIFEST: Final = "nsorch-prepared.json"
FORMAT: Final = 4
"""Changes with the options that copies are made with, and with what the manifest says."""
LOCK: Final = ".lock"
_FLAGS: Final = ("flags", "Features", "model name", "CPU part")
_PACKAGE: Final = re.compile(r"(onnxruntime(?:[-_.](?:gpu|genai|cuda|genai[-_.]cuda))?)-([^-]+)\.(?:dist|egg)-info")


class Tuning(msgspec.Struct, frozen=True):
    """How fast the model was with so many threads (answers of a usual length, or runs, a second) on ``cores`` cores."""

    threads: int
    cores: int
    rates: dict[int, float]


class Manifest(msgspec.Struct, frozen=True):
    """What a copy is, and every file in it with its size and its time of change in nanoseconds.

    ``costs`` are figures that were measured with it, by the artefact: the settings that it was loaded with count, too.
    """

    format: int
    key: str
    source: str
    machine: str
    files: dict[str, tuple[int, int]]
    seconds: float = 0.0
    tuning: Tuning | None = None
    costs: dict[str, Figures] = {}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


def home(cache: Path) -> Path:
    """The folder of all copies."""
    return cache / "prepared"


def key_of(source: Path) -> str:
    """All that a copy of ``source`` depends on, as a digest. Raises OSError where there is no such file."""
    return hashlib.sha256(repr((FORMAT, machine_key(), _files_of(source))).encode()).hexdigest()


def folder_of(cache: Path, source: Path, key: str = "") -> Path:
    """The folder that the prepared copy of ``source`` is in, or would be."""
    return home(cache) / f"{source.stem}-{(key or key_of(source))[:20]}"


def prepared_path(cache: Path, source: Path) -> Path:
    """What would be loaded instead of ``source``: a folder, or a file in the copy's folder."""
    return within(folder_of(cache, source), source)


def within(folder: Path, source: Path) -> Path:
    """What is loaded of the copy in ``folder``."""
    return folder if source.is_dir() else folder / source.name


def find(cache: Path, source: Path) -> tuple[Path, Manifest] | None:
    """The copy that may be loaded instead of ``source``, if there is one. Raises OSError for a source that is gone."""
    key = key_of(source)
    folder = folder_of(cache, source, key)
    manifest, problem = examine(folder, key)
    return None if manifest is None or problem else (within(folder, source), manifest)


def examine(folder: Path, key: str = "") -> tuple[Manifest | None, str]:
    """What a copy says of itself, and why it must not be loaded, if so. Costs one ``stat`` a file.

    Whoever writes to a file changes its size or its time; the content is not read again at every load.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None, "it is not there" if not folder.exists() else "it is not whole"
    except (OSError, msgspec.MsgspecError):
        return None, "its list of files cannot be read"
    if manifest.format != FORMAT or (key and manifest.key != key):
        return manifest, "it was made for another processor, runtime or version of the model"
    for name, (size, changed) in manifest.files.items():
        try:
            found = (folder / name).lstat()
        except OSError:
            return manifest, f"its file {name} is missing"
        if found.st_size != size:
            return manifest, f"its file {name} has {found.st_size} bytes instead of {size}"
        if found.st_mtime_ns != changed:
            return manifest, f"its file {name} was changed"
    return manifest, ""


def seal(folder: Path, source: Path, key: str, seconds: float, tuning: Tuning | None) -> Manifest:
    """Write the manifest of a copy that has just been made. Raises OSError."""
    found = {path: path.lstat() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST}
    files = {str(path.relative_to(folder)): (facts.st_size, facts.st_mtime_ns) for path, facts in found.items()}
    manifest = Manifest(FORMAT, key, str(source), machine_key(), files, seconds, tuning)
    write(folder, manifest)
    return manifest


def write(folder: Path, manifest: Manifest) -> None:
    """Write what a copy says of itself, whole or not at all. Raises OSError."""
    partial = folder / f".{MANIFEST}.{os.getpid()}"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    partial.replace(folder / MANIFEST)


def has_other(cache: Path, source: Path) -> bool:
    """Whether any copy was ever made of a model of this name: then a new one is a repair, and nobody waits for it."""
    with contextlib.suppress(OSError):
        return any(name.startswith(f"{source.stem}-") for name in os.listdir(home(cache)))
    return False


class Unused(NamedTuple):
    """A copy that nobody needs; ``size`` in bytes on disk."""

    folder: Path
    size: int
    reason: str


def unused(cache: Path, sources: Iterable[Path]) -> list[Unused]:
    """The copies that no model of ``sources`` would load, and what makings that were cut short have left."""
    wanted: dict[Path, str] = {}
    for source in sources:
        with contextlib.suppress(OSError):
            key = key_of(source)
            wanted[folder_of(cache, source, key)] = key
    found: list[Unused] = []
    for path in sorted(home(cache).glob("*")) if home(cache).is_dir() else []:
        if path.name == LOCK or (path.name.startswith(".") and not _abandoned(cache)):
            continue
        manifest, problem = examine(path, wanted.get(path, ""))
        if path in wanted and not problem:
            continue
        reason = "its making was cut short" if path.name.startswith(".") else problem
        if path not in wanted and not path.name.startswith("."):
            reason = f"no registered model uses it (made of {manifest.source})" if manifest else "nobody knows it"
        found.append(Unused(path, size_on_disk(path), reason))
    return found


def remove(folder: Path) -> None:
    """Delete one copy; a worker that has it mapped keeps its pages. Raises OSError."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder)


def size_on_disk(folder: Path) -> int:
    """The bytes that a folder takes on disk; files that go meanwhile do not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(root, name).lstat().st_blocks * 512
    return total


@contextlib.contextmanager
def making(cache: Path) -> Iterator[None]:
    """While a copy is made: what lies there half done belongs to somebody."""
    home(cache).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home(cache) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _abandoned(cache: Path) -> bool:
    """Whether nobody makes a copy now."""
    try:
        descriptor = os.open(home(cache) / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@functools.cache
def machine_key(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The runtimes' versions and what the first processor can do."""
    first = cpuinfo.read_text(errors="replace").split("\n\n", 1)[0]
    flags = [line for line in first.splitlines() if line.split(":")[0].strip() in _FLAGS]
    return "\n".join([*_versions(), *flags])


def _versions() -> list[str]:
    """Of the runtimes that are installed, by the names of their folders: importing the metadata's reader costs more."""
    found: set[str] = set()
    for place in sys.path:
        with contextlib.suppress(OSError):
            matches = (_PACKAGE.fullmatch(name) for name in os.listdir(place or "."))
            found.update(f"{match[1]} {match[2]}" for match in matches if match)
    return sorted(found)


def size_of(source: Path) -> int:
    """The bytes of all files of a model. Raises OSError."""
    return sum(size for _, size, _, _ in _files_of(source))


def _files_of(source: Path) -> list[tuple[str, int, int, int]]:
    paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    if not source.is_dir():
        paths += sorted(source.parent.glob(source.name + "*data"))
    facts = [(path, path.stat()) for path in paths]
    return [(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in facts]
