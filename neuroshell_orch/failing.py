"""Models whose load failed, and what their files were then: another file is a reason to try again at once.

Owns the look at the files. Must not know how long a failed model is left alone otherwise (the engine does).
"""

from __future__ import annotations

from pathlib import Path


class Failing:
    """The files of models that could not be loaded, by model."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[tuple[int, int, int] | None, ...]] = {}

    def failed(self, model: str, path: str) -> None:
        """It could not be loaded from what is at ``path`` now."""
        self._files[model] = signature(path)

    def replaced(self, model: str, path: str) -> bool:
        """Whether its files are others than those that it could not be loaded from. Says so once."""
        before = self._files.get(model)
        if before is None or signature(path) == before:
            return False
        del self._files[model]
        return True


def signature(path: str) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when the model at ``path`` (a file, or a folder and what lies in it) is replaced or edited."""
    root = Path(path).expanduser()
    try:
        files = sorted(root.iterdir()) if root.is_dir() else [root]
    except OSError:
        files = [root]
    return tuple(_stamp(file) for file in (root, *files))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
