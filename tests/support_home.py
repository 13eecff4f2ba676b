"""A private home for a test: nothing of the person who runs it is read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FOLDERS = {
    "HOME": "home",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
    "XDG_CACHE_HOME": "cache",
    "XDG_RUNTIME_DIR": "run",
}


def private_home(root: Path, environment: pytest.MonkeyPatch) -> None:
    """Every XDG directory lies under ``root``, until ``environment`` is undone."""
    for name, folder in FOLDERS.items():
        path = root / folder
        path.mkdir(mode=0o700)
        environment.setenv(name, str(path))
