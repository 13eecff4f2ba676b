"""The part of a model that a parked worker holds: its tokenizer, as the model's files were when it parked.

Owns the question whether they still are the same. Must not know how a tokenizer is made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Native: TypeAlias = Any
Stamps: TypeAlias = list[tuple[str, int, int, int]]


class Ready:
    """A tokenizer that was made from the files of ``folder``; ``make`` makes it."""

    def __init__(self, folder: Path, make: Callable[[], Native]) -> None:
        self._folder = folder
        self._stamps = _stamps(folder)
        self._tokenizer = make()

    def take(self, folder: Path) -> Native | None:
        """The tokenizer, if it is that of ``folder`` and nothing in there has changed; once."""
        tokenizer, self._tokenizer = self._tokenizer, None
        return tokenizer if folder == self._folder and _stamps(folder) == self._stamps else None


def _stamps(folder: Path) -> Stamps:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries]
    return sorted((name, facts.st_ino, facts.st_size, facts.st_mtime_ns) for name, facts in found)
