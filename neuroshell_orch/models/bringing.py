"""Bringing a model of the catalogue in: fetch, convert, sum up, register.

Owns the order of the steps, the same for the command line and for a pull that the daemon sends out. Must not know who
asked, nor how progress is shown.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuroshell_orch.config import paths
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import catalogue, registry

if TYPE_CHECKING:
    from neuroshell_orch.config.schema import ModelSettings
    from neuroshell_orch.models.catalogue import Progress

CHUNK: Final = 4 << 20


def pull(name: str, progress: Progress) -> tuple[ModelSettings, bool]:
    """Fetch a model of the catalogue and register it; the second value is False if all of it was there already."""
    wanted = catalogue.entry(name)
    folder = registry.folder(name)
    known = {model.name: model for model in registry.models()}.get(name)
    if known is not None and Path(known.path) != folder:
        hint = f"Keep it, or remove it first: nsorch model rm {name}"
        raise OrchError("model-exists", f"There is a model {name} already, at {known.path}.", hint)
    there = known is not None and folder.is_dir()
    catalogue.pull(name, paths.models_dir(), paths.cache_dir(), progress)
    if known is not None:
        return known, not there
    package = wanted.package
    source = f"{package.project} {package.version} ({wanted.licence})"
    digest = digest_of(folder, progress)
    added = registry.add(name, folder, wanted.runtime, digest, description=wanted.description, source=source)
    return added, True


def digest_of(path: Path, progress: Progress) -> str:
    """The SHA-256 of a file; of a folder, that of the list of its files' names and digests."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total, done = sum(file.stat().st_size for file in files), 0
    sums: list[tuple[str, str]] = []
    for file in files:
        summed = hashlib.sha256()
        try:
            with file.open("rb") as stream:
                while block := stream.read(CHUNK):
                    summed.update(block)
                    done += len(block)
                    progress("hash", done, total)
        except OSError as error:
            message = f"{file} cannot be read: {error.strerror or error}."
            raise OrchError("not-allowed", message, "Check its permissions.") from error
        sums.append((os.fspath(file.relative_to(path)), summed.hexdigest()))
    if not path.is_dir():
        return sums[0][1]
    listing = "".join(f"{digest}  {name}\n" for name, digest in sums)
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
