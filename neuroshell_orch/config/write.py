"""The few changes that we make to the configuration ourselves, each one a small file of this user's.

Owns writing: a temporary file beside the target, flushed, renamed over it, the folder flushed, so that a reader
sees the old or the new file and nothing else, whoever writes at the same time. After a change it is checked that it
counts. Must not know what the daemon does with a change, nor touch anything but configuration files.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuroshell_orch.config.kinds import NAME_FORMS, is_name
from neuroshell_orch.config.load import Configuration, load
from neuroshell_orch.config.parse import parse_bytes
from neuroshell_orch.config.paths import config_dirs
from neuroshell_orch.config.schema import SECTIONS, closest, resolve, show_value
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MODE_FILE: Final = "50-mode.conf"
DEFAULT_MODEL_FILE: Final = "50-default-model.conf"
_NOTE: Final = "# Written by nsorch; a change here lasts until it is written again.\n"


def set_mode(mode: str, model: str | None = None, config_home: Path | None = None) -> Path:
    """Select ``mode`` for every model that names none, or for ``model`` alone. Returns the file written.

    ``config_home`` is the configuration folder to write to, by default the last of ``config_dirs()``. Raises
    OrchError for an unknown name, where the file cannot be written, and where a later drop-in overrides it.
    """
    dirs = _dirs(config_home)
    config = load(dirs, lenient=True)
    if mode not in config.modes:
        raise OrchError("mode-unknown", f"there is no mode {mode!r}.", _names("Modes", mode, config.modes))
    if model is None:
        path = dirs[-1] / "nsorch.conf.d" / MODE_FILE
        where = ("Orchestrator", "", "mode")
    else:
        require_model(config, model)
        path = dirs[-1] / "models.d" / f"{model}.conf.d" / MODE_FILE
        where = ("Model", model, "mode")
    write_file(path, _render(where[0], {"mode": mode}))
    _verify(dirs, where, path, mode)
    return path


def reset_mode(model: str | None = None, config_home: Path | None = None) -> Path:
    """Take ``set_mode`` back. Returns the file that is gone now, whether or not it was there."""
    folder = "nsorch.conf.d" if model is None else f"models.d/{_valid(model)}.conf.d"
    path = _dirs(config_home)[-1] / folder / MODE_FILE
    _remove(path)
    return path


def set_default_model(name: str, config_home: Path | None = None) -> Path:
    """Make ``name`` the model that answers where none is named; an empty name takes that back."""
    dirs = _dirs(config_home)
    path = dirs[-1] / "nsorch.conf.d" / DEFAULT_MODEL_FILE
    if not name:
        _remove(path)
        return path
    require_model(load(dirs, lenient=True), name)
    write_file(path, _render("Orchestrator", {"default_model": name}))
    _verify(dirs, ("Orchestrator", "", "default_model"), path, name)
    return path


def add_model(name: str, values: dict[str, Any], *, replace: bool = False, config_home: Path | None = None) -> Path:
    """Register a model with ``values`` by field of ModelSettings (empty ones are dropped).

    Raises OrchError ``model-exists`` unless ``replace``, and ``bad-request`` where a value cannot be written.
    """
    dirs = _dirs(config_home)
    path = dirs[-1] / "models.d" / f"{_valid(name)}.conf"
    text = _render("Model", values)
    exists = OrchError(
        "model-exists", f"there is a model {name!r} already.", f"Remove it first: nsorch model rm {name}"
    )
    if not replace and name in load(dirs, lenient=True).models:
        raise exists
    if not write_file(path, text, exclusive=not replace and not _is_mask(path)):
        raise exists
    return path


def remove_model(name: str, config_home: Path | None = None) -> list[Path]:
    """Unregister a model. Returns the files that changed. One that another folder defines is masked for this user.

    Works for a model whose file is broken. Raises OrchError ``model-unknown`` where there is nothing to remove.
    """
    dirs = _dirs(config_home)
    path = dirs[-1] / "models.d" / f"{_valid(name)}.conf"
    elsewhere = any((folder / "models.d" / path.name).exists() for folder in dirs[:-1])
    if _is_mask(path) or not (elsewhere or os.path.lexists(path)):
        require_model(load(dirs, lenient=True), name)
    changed = [path]
    with _sentences(path):
        if elsewhere:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary(path)
            temporary.symlink_to("/dev/null")
            temporary.replace(path)
        else:
            path.unlink(missing_ok=True)
        _flush(path.parent)
        dropins = path.with_name(f"{path.name}.d")
        if dropins.is_dir() and not dropins.is_symlink():
            for file in sorted(dropins.glob("*.conf")):
                file.unlink(missing_ok=True)
                changed.append(file)
            with contextlib.suppress(OSError):  # what is left in it is not ours
                dropins.rmdir()
    return changed


def require_model(config: Configuration, name: str) -> None:
    """Raise OrchError ``model-unknown``, with the names there are, unless ``name`` is registered."""
    if name not in config.models:
        raise OrchError("model-unknown", f"there is no model {name!r}.", _names("Models", name, config.models))


def write_file(path: Path, text: str, *, exclusive: bool = False, mode: int = 0o644) -> bool:
    """Write ``text`` atomically to ``path``, with its folders.

    Returns False, and changes nothing, where ``exclusive`` and there is something at ``path`` already.
    """
    with _sentences(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(text.encode())
                os.fchmod(descriptor, mode)
                file.flush()
                os.fsync(descriptor)
            if not exclusive:
                temporary.replace(path)
            elif not _link(temporary, path):
                return False
        finally:
            temporary.unlink(missing_ok=True)
        _flush(path.parent)
    return True


def _link(temporary: Path, path: Path) -> bool:
    """Give ``temporary`` the name ``path`` unless that is taken; atomically where the file system has hard links."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:
        if os.path.lexists(path):
            return False
        temporary.replace(path)
    return True


def _dirs(config_home: Path | None) -> list[Path]:
    dirs = config_dirs()
    return dirs if config_home is None else [*dirs[:-1], config_home]


def _temporary(path: Path) -> Path:
    """A name beside ``path`` that no reader looks at."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")


def _flush(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_mask(path: Path) -> bool:
    """Whether ``path`` hides a model rather than describing one."""
    try:
        return path.is_char_device() or (path.is_file() and not path.stat().st_size)
    except OSError:
        return False


def _remove(path: Path) -> None:
    with _sentences(path):
        path.unlink(missing_ok=True)
        _flush(path.parent)


@contextlib.contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn what the kernel says into an OrchError that names the file."""
    try:
        yield
    except OSError as error:
        problem = "not-allowed" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "write-failed"
        hint = "Check who owns the folder and whether the disk is full."
        raise OrchError(problem, f"{path} cannot be written: {error.strerror}.", hint) from error


def _valid(name: str) -> str:
    if not is_name(name):
        raise OrchError("bad-request", f"{name[:80]!r} cannot name a model.", f"Use {NAME_FORMS}.")
    return name


def _names(what: str, name: str, known: Iterable[str]) -> str:
    guess = closest(name, known)
    listed = ", ".join(known) or "none yet"
    return f"Did you mean {guess}? {what}: {listed}." if guess else f"{what}: {listed}."


def _render(section: str, values: dict[str, Any]) -> str:
    """The text of a file that gives exactly ``values``; raises OrchError where a file cannot say them."""
    lines = [_NOTE, f"[{section}]\n"]
    table = {field.field: field for field in SECTIONS[section].values()}
    given = {name: value for name, value in values.items() if value not in (None, "")}
    lines += [f"{table[name].key}={show_value(table[name], value)}\n" for name, value in given.items()]
    text = "".join(lines)
    parsed = parse_bytes(text.encode("utf-8", "surrogateescape"), "")
    resolved = resolve(section, parsed.assignments)
    for finding in (*parsed.findings, *resolved.findings):
        raise OrchError("bad-request", f"{finding.message}.", "Nothing was written.")
    for name, value in given.items():
        if resolved.values.get(name) != value:
            text = f"{table[name].key}={value!r} cannot be written into a configuration file."
            raise OrchError("bad-request", text, "Use a value on one line, without spaces or a backslash at its end.")
    return text


def _verify(dirs: list[Path], where: tuple[str, str, str], path: Path, value: str) -> None:
    """Raise unless the value in force is ``value``, or another one that was written to ``path`` since."""
    item = load(dirs, lenient=True).origins.get(where)
    if item is None:
        raise OrchError("config-invalid", f"{path} was written but does not count.", "See: nsorch config check")
    if item.path != str(path) and item.value != value:
        text = f"{path} was written, but {item.where} overrides it with {item.key}={item.value}."
        raise OrchError("config-invalid", text, f"Remove that line or that file to use {value}.")
