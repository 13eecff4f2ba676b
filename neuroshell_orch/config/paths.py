"""Where our files lie: the XDG folders of this user, each already ending in ``nsorch``, and the configuration folders.

Owns the XDG rules (a variable that is unset, empty or relative does not count) and the checks that make a folder
under ``/tmp`` safe to use. Creates nothing but that folder. Must not know what is inside any of them.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import Final

from neuroshell_orch.errors import OrchError

NAME: Final = "nsorch"
DIRS_VARIABLE: Final = "NSORCH_CONFIG_DIRS"
_SYSTEM_DIRS: Final = (Path("/usr/lib/nsorch"), Path("/etc/nsorch"))
_TMP: Final = "/tmp"  # noqa: S108 - client and daemon must agree on it, so TMPDIR cannot decide; the folder is checked


def home() -> Path:
    """This user's home folder: ``$HOME``, else the user database's word, else one that cannot be written to."""
    value = os.environ.get("HOME", "")
    if value.startswith("/"):
        return Path(value)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def _xdg(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    return (Path(value) if value.startswith("/") else home() / fallback) / NAME


def config_home() -> Path:
    """The folder of this user's own configuration, ``$XDG_CONFIG_HOME/nsorch``."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def data_dir() -> Path:
    """The folder of the models that we made or fetched, ``$XDG_DATA_HOME/nsorch``."""
    return _xdg("XDG_DATA_HOME", ".local/share")


def models_dir() -> Path:
    """The folder in which each model that we made has its own folder."""
    return data_dir() / "models"


def cache_dir() -> Path:
    """The folder of what can be made again, ``$XDG_CACHE_HOME/nsorch``."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """The folder of what is worth keeping over a restart, ``$XDG_STATE_HOME/nsorch``."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def runtime_dir() -> Path:
    """The folder of sockets and locks: below ``$XDG_RUNTIME_DIR``, ``/run/user/UID``, or ``/tmp`` (made and checked).

    A runtime folder that is missing or belongs to somebody else (as under ``sudo``) does not count. Raises OrchError
    where the folder under ``/tmp`` is not safe.
    """
    uid = os.getuid()
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if base.startswith("/") and _is_own_folder(base, uid):
            return Path(base) / NAME
    return _private_tmp(uid)


def _is_own_folder(path: str, uid: int) -> bool:
    try:
        found = Path(path).stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid


def _private_tmp(uid: int) -> Path:
    path = Path(_TMP) / f"{NAME}-{uid}"
    hint = "Set XDG_RUNTIME_DIR to a folder of your own with mode 0700."
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise OrchError("not-allowed", f"{path} cannot be made: {error.strerror}.", hint) from error
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise OrchError("not-allowed", f"{path} is not a folder that only you can use.", hint)
    return path


def vendor_dir() -> Path:
    """The drop-ins that travel inside the package."""
    return Path(__file__).resolve().parent.parent / "vendor"


def config_dirs() -> list[Path]:
    """The configuration folders, a later one wins over an earlier one; the last one is the one that we write to.

    ``NSORCH_CONFIG_DIRS`` (separated by colons) replaces all of them but the vendor's.
    """
    given = [Path(part).absolute() for part in os.environ.get(DIRS_VARIABLE, "").split(":") if part]
    dirs = [vendor_dir(), *(given or [*_SYSTEM_DIRS, config_home()])]
    return list(reversed(dict.fromkeys(reversed(dirs))))  # one that is named twice counts where it is named last
