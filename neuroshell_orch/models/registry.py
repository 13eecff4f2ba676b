"""The registered models: adding one, removing one with what we made for it, listing them.

Owns what ``nsorch model add``, ``rm``, ``list`` and ``show`` mean beyond writing a file: the first model becomes the
default (an encoder never does: it cannot be asked), and only files below our own data folder are ever deleted. Must not
know formats, downloads or the daemon.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from neuroshell_orch.config import paths, write
from neuroshell_orch.config.load import load
from neuroshell_orch.config.schema import SECTIONS
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from neuroshell_orch.config.schema import ModelSettings


class Removed(msgspec.Struct, frozen=True):
    """What removing a model did. ``kept`` is the path of files that were left, and ``reason`` says why."""

    name: str
    deleted: list[str]
    freed: int = 0
    kept: str = ""
    reason: str = ""
    default_model: str = ""
    """The default model from now on."""


def folder(name: str) -> Path:
    """Where the files that we make for the model ``name`` lie."""
    return paths.models_dir() / name


def models() -> list[ModelSettings]:
    """Every registered model that can be used, by name."""
    return list(load(lenient=True).models.values())


def get(name: str) -> ModelSettings:
    """One registered model. Raises OrchError ``model-unknown`` with the names there are."""
    config = load(lenient=True)
    write.require_model(config, name)
    return config.models[name]


def add(
    name: str,
    path: str | Path,
    runtime: str,
    digest: str = "",
    *,
    mode: str = "",
    threads: int = 0,
    context_length: int = 0,
    description: str = "",
    source: str = "",
    replace: bool = False,
) -> ModelSettings:
    """Register a model; the first one that can be asked becomes the default. ``source`` says where it came from.

    Raises OrchError: ``file-missing``, ``mode-unknown``, ``model-exists`` (unless ``replace``), ``bad-request``.
    """
    full = Path(path).expanduser().absolute()
    if not full.exists():
        raise OrchError("file-missing", f"{full} does not exist.", "Give the path of a model's file or folder.")
    config = load(lenient=True)
    if mode and mode not in config.modes:
        raise OrchError("mode-unknown", f"there is no mode {mode!r}.", f"Modes: {', '.join(config.modes)}.")
    values = {
        "path": str(full),
        "runtime": runtime,
        "digest": f"sha256:{digest.removeprefix('sha256:').lower()}" if digest else "",
        "mode": mode,
        "threads": threads or None,
        "context_length": context_length or None,
        "description": " ".join(description.split()).rstrip("\\"),
        "origin": source,
    }
    write.add_model(name, values, replace=replace)
    if config.settings.default_model not in config.models and runtime != "encoder":
        _make_default(name)
    return get(name)


def copy(source: str, name: str) -> ModelSettings:
    """Register the files of ``source`` under another ``name``, with the same settings; no file of it is copied.

    Raises OrchError: ``model-unknown``, ``model-exists``, ``bad-request`` where ``name`` cannot name a model.
    """
    model = get(source)
    values = {field.field: getattr(model, field.field) for field in SECTIONS["Model"].values()}
    changed = {field.field: field.default for field in SECTIONS["Model"].values()}
    write.add_model(name, {key: value for key, value in values.items() if value != changed[key]})
    return get(name)


def _make_default(name: str) -> str:
    """Make ``name`` the default unless somebody's later drop-in decides that; the default from now on."""
    try:
        write.set_default_model(name)
    except OrchError as error:
        if error.problem != "config-invalid":
            raise
    config = load(lenient=True)
    return config.settings.default_model if config.settings.default_model in config.models else ""


def remove(name: str, *, delete_files: bool = False) -> Removed:
    """Unregister a model; with ``delete_files`` also delete what we made for it, and nothing else, ever.

    If it was the default, the one model that is left takes its place; of several, none does.
    """
    config = load(lenient=True)
    path = config.models[name].path if name in config.models else ""
    deleted = [str(file) for file in write.remove_model(name)]
    default = config.settings.default_model
    if default == name:
        left = [other for other, model in config.models.items() if other != name and model.runtime != "encoder"]
        default = _make_default(left[0] if len(left) == 1 else "")
    own = folder(name)
    inside = bool(path) and Path(path).is_relative_to(own)
    kept, reason = path, "they were not made by nsorch"
    if inside or (delete_files and os.path.lexists(own)):
        user = next((m.name for m in config.models.values() if m.name != name and Path(m.path).is_relative_to(own)), "")
        if not delete_files:
            reason = "deleting them was not asked for"
        elif user:
            reason = f"the model {user} uses them"
        else:
            freed = _delete(own)
            outside = "" if inside else path
            return Removed(name, [*deleted, str(own)], freed, outside, reason if outside else "", default)
    return Removed(name, deleted, 0, kept, reason if kept else "", default)


def _delete(own: Path) -> int:
    """Delete ``own`` and return the bytes it took. A link is deleted as a link: what it points to is not ours."""
    if own.is_symlink():
        own.unlink()
        return 0
    import shutil  # noqa: PLC0415 - slow to import, and only needed here

    freed = 0
    for root, _, files in os.walk(own):
        freed += sum(Path(root, file).lstat().st_blocks * 512 for file in files)
    try:
        shutil.rmtree(own)
    except OSError as error:
        text = f"{own} cannot be deleted: {error.strerror}."
        raise OrchError(
            "write-failed", text, "The model is not registered any more; delete the folder by hand."
        ) from error
    return freed
