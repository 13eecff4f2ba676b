"""The unit files that ``nsorch setup`` gives to one user, and takes away again.

Owns where they lie, the two or three lines that differ from one installation to the next, and the marker line by
which we know our own files: what does not carry it is never touched, what was edited since is kept as a backup. Must
not know what the service does, nor print anything: it returns what it did, or would do.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuroshell_orch.errors import OrchError

NAMES: Final = ("nsorch.socket", "nsorch.service", "nsorch-http.socket")
DEFAULT_EXEC: Final = "ExecStart=/usr/bin/nsorch serve"
TIMEOUT: Final = 60.0
"""Seconds for one call of systemctl; stopping the service may take most of its TimeoutStopSec=."""

_MARKER = re.compile(
    r'# Written by "nsorch setup", sha256 of the rest: (?P<digest>[0-9a-f]{64})\.[^\n]*\n(?P<rest>.*)', re.DOTALL
)
_XDG: Final = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_CACHE_HOME": ".cache",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
}


@dataclass(frozen=True)
class Change:
    """One thing that was done, or that would be done in a dry run.

    ``action`` is ``write``, ``unchanged``, ``remove``, ``backup`` (``path`` was edited since we wrote it and is kept
    as ``detail``), ``leave`` (not ours; ``detail`` says why) or ``run`` (``detail`` is the command).
    """

    action: str
    path: Path | None = None
    detail: str = ""


def source_folder() -> Path:
    """Where the unit files lie as they are shipped: inside the installed package, or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "units", package.parent / "systemd"):
        if (folder / NAMES[0]).is_file():
            return folder
    raise OrchError(
        "file-missing", f"The unit files are missing from {package / 'units'}.", "Install neuroshell-orch again."
    )


def install(executable: Path, dry_run: bool = False) -> list[Change]:
    """Write the units for this user so that they start ``executable``, and tell a running manager."""
    folder, source = _target_folder(), source_folder()
    changes: list[Change] = []
    for name in NAMES:
        text = _marked(name, _render(name, (source / name).read_text(encoding="utf-8"), executable))
        changes += _write(folder / name, text, dry_run)
    changes += _told(changes, dry_run)
    return changes


def remove(dry_run: bool = False) -> list[Change]:
    """Stop, disable and delete exactly what ``install`` wrote."""
    found = [path for folder in _folders() for name in NAMES if (path := folder / name).is_file()]
    ours = [path for path in found if _state(path) != "foreign"]
    changes = [Change("leave", path, _FOREIGN) for path in found if path not in ours]
    if ours and manager_runs():
        units = [name for name in NAMES if any(path.name == name for path in ours)]
        changes += _systemctl(dry_run, "disable", "--now", *units)
    for path in ours:
        if _state(path) == "edited":
            changes.append(_backup(path, dry_run))
        else:
            changes.append(Change("remove", path))
            if not dry_run:
                path.unlink()
        changes += _remove_links(path, dry_run)
    if not dry_run:
        changes += _remove_empty_folders({path.parent for path in ours})
    changes += _told(changes, dry_run)
    return changes


def manager_runs() -> bool:
    """Whether a systemd user manager can be talked to."""
    private = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "systemd" / "private"
    return private.exists() and shutil.which("systemctl") is not None


_FOREIGN: Final = 'it was not written by "nsorch setup"'


def _home(variable: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / _XDG[variable]


def _folders() -> list[Path]:
    """Where a program may put units into a home: the data folder first, as systemd asks of installers."""
    places = [_home("XDG_DATA_HOME"), Path.home() / _XDG["XDG_DATA_HOME"], _home("XDG_CONFIG_HOME")]
    return list(dict.fromkeys(place / "systemd" / "user" for place in places))


def _target_folder() -> Path:
    """The first of our folders that the running manager reads; without a manager, the first."""
    folders = _folders()
    if not manager_runs():
        return folders[0]
    done = _call("show", "--property=UnitPath", "--value")
    searched = {Path(part) for part in done.split()}
    for folder in folders:
        if folder in searched:
            return folder
    raise OrchError(
        "service-unreachable",
        f"Your systemd user manager does not read units from {folders[0]}.",
        "Log out and in again so that it sees your XDG_DATA_HOME, or unset that variable.",
    )


def _render(name: str, text: str, executable: Path) -> str:
    """The unit with what differs on this machine: the program, and folders that are not the usual ones."""
    if name != "nsorch.service":
        return text
    if text.count(DEFAULT_EXEC) != 1:
        raise OrchError("file-missing", f"{name} has no line {DEFAULT_EXEC!r}.", "Install neuroshell-orch again.")
    if not executable.is_absolute() or not os.access(executable, os.X_OK):
        raise OrchError(
            "file-missing", f"{executable} is not a program.", "Name the installed nsorch by its full path."
        )
    lines = [f"ExecStart={_quote(str(executable))} serve"]
    for variable, usual in _XDG.items():
        place = _home(variable)
        if place != Path.home() / usual:
            lines += [
                f"Environment={_quote(f'{variable}={place}')}",
                f"ExecStartPre=+/bin/mkdir -p -m 0700 {_quote(str(place / 'nsorch'))}",
                f"ReadWritePaths={_quote(str(place / 'nsorch'))}",
            ]
    return text.replace(DEFAULT_EXEC, "\n".join(lines))


def _quote(word: str) -> str:
    """One word of a unit file: % is a specifier, quotes and backslashes are systemd's own."""
    if any(ord(letter) < 0x20 for letter in word):
        raise OrchError("bad-request", f"{word!r} cannot stand in a unit file.", "Install it under a plainer path.")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if re.search(r"[^A-Za-z0-9_./=%+,:@-]", word) else escaped


def _marked(name: str, text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (
        f'# Written by "nsorch setup", sha256 of the rest: {digest}. '
        f"Put your own changes into a drop-in: systemctl --user edit {name}\n{text}"
    )


def _state(path: Path) -> str:
    """``ours`` as we wrote it, ``edited`` since, or ``foreign``. A link is not ours: we write none."""
    if path.is_symlink():
        return "foreign"
    found = _MARKER.fullmatch(path.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        return "foreign"
    return "ours" if hashlib.sha256(found["rest"].encode()).hexdigest() == found["digest"] else "edited"


def _write(path: Path, text: str, dry_run: bool) -> list[Change]:
    changes: list[Change] = []
    if path.exists() or path.is_symlink():
        state = _state(path)
        if state == "foreign":
            return [Change("leave", path, _FOREIGN)]
        if state == "edited":
            changes.append(_backup(path, dry_run))
        elif path.read_text(encoding="utf-8") == text:
            return [Change("unchanged", path)]
    if not dry_run:
        _write_atomically(path, text)
    return [*changes, Change("write", path)]


def _write_atomically(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OrchError(
            "not-allowed", f"{path} cannot be written: {error.strerror}.", "Check the folder's owner and free space."
        ) from error


def _backup(path: Path, dry_run: bool) -> Change:
    """Move an edited file to the first free backup name, which systemd does not read."""
    number = 0
    while (target := path.with_name(f"{path.name}.bak{number or ''}")).exists():
        number += 1
    if not dry_run:
        path.rename(target)
    return Change("backup", path, str(target))


def _remove_links(path: Path, dry_run: bool) -> list[Change]:
    """Links by which a unit that is gone was enabled; ``systemctl disable`` needs a manager, this does not."""
    changes: list[Change] = []
    for wants in (_home("XDG_CONFIG_HOME") / "systemd" / "user").glob("*.wants"):
        link = wants / path.name
        if link.is_symlink() and link.readlink() == path:
            changes.append(Change("remove", link))
            if not dry_run:
                link.unlink()
    return changes


def _remove_empty_folders(folders: set[Path]) -> list[Change]:
    """``systemd/user`` and ``systemd``, where nothing is left in them."""
    changes: list[Change] = []
    for folder in (place for user in folders for place in (user, user.parent)):
        try:
            folder.rmdir()
        except OSError:
            continue  # not empty, or gone already
        changes.append(Change("remove", folder))
    return changes


def _told(changes: list[Change], dry_run: bool) -> list[Change]:
    """daemon-reload, where files changed and somebody is there to read them again."""
    if not manager_runs() or all(change.action in {"unchanged", "leave"} for change in changes):
        return []
    return _systemctl(dry_run, "daemon-reload")


def _systemctl(dry_run: bool, *arguments: str) -> list[Change]:
    if not dry_run:
        _call(*arguments)
    return [Change("run", None, " ".join(("systemctl", "--user", *arguments)))]


def _call(*arguments: str) -> str:
    command = ["systemctl", "--user", *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OrchError("service-unreachable", f"{' '.join(command)} failed: {error}.", "") from error
    if done.returncode != 0:
        raise OrchError(
            "service-unreachable",
            f"{' '.join(command)} failed: {done.stderr.strip() or f'exit code {done.returncode}'}.",
            'Is this a login of its own ("su" and "sudo" are not)? Try: systemctl --user status',
        )
    return done.stdout
