"""Bringing a model in: what ``nsorch model add`` and ``pull`` do, step by step.

Owns the order (name, format, conversion, digest, registration) and that a step which fails leaves what was there
before. Must not know how anything is printed but progress, nor how a format is read or converted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuroshell_orch.config import paths
from neuroshell_orch.config.kinds import NAME_FORMS, is_name
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.config.schema import ModelSettings
    from neuroshell_orch.models.convert import Precision

    Progress = Callable[[str, int, int], None]

CHUNK: Final = 4 << 20


def add(name: str, path: Path, precision: Precision, progress: Progress) -> ModelSettings:
    """Register what lies at ``path``: in place, or converted into our own folder if it is a GGUF file."""
    from neuroshell_orch.models.formats import identify

    path = path.expanduser().absolute()
    _free(name)
    kind = identify(path)
    if kind != "gguf":
        runtime = "onnx" if kind == "onnx" else "genai"
        return registry.add(name, path, runtime, digest_of(path, progress))
    from neuroshell_orch.models.convert import convert_gguf

    folder = registry.folder(name)
    convert_gguf(path, folder, precision=precision, progress=progress)
    try:
        return registry.add(name, folder, "genai", digest_of(folder, progress), source=str(path))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # made a moment ago, and nobody knows of it
        raise


def pull(name: str, progress: Progress) -> tuple[ModelSettings, bool]:
    """Fetch a model of the catalogue and register it; the second value is False if all of it was there already."""
    from neuroshell_orch.models import catalogue

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


def _free(name: str) -> None:
    """Raises OrchError unless ``name`` can be given to a new model; asked before anything takes long."""
    if not is_name(name):
        raise OrchError("bad-request", f"{name[:80]!r} cannot name a model.", f"Use {NAME_FORMS}.")
    if any(model.name == name for model in registry.models()):
        hint = f"Choose another name, or remove it first: nsorch model rm {name}"
        raise OrchError("model-exists", f"There is a model {name} already.", hint)


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
