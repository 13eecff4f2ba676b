"""The part of a model that a parked worker holds: its tokenizer, as the model's files were when it parked.

Owns the question whether they still are the same. Must not know how a tokenizer is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from neuroshell_orch.runtimes import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Native: TypeAlias = Any


class Ready:
    """A tokenizer that was made from the files of ``folder``; ``make`` makes it."""

    def __init__(self, folder: Path, make: Callable[[], Native]) -> None:
        self._folder = folder
        self._stamps = files.stamps(folder)
        self._tokenizer = make()

    def take(self, folder: Path) -> Native | None:
        """The tokenizer, if it is that of ``folder`` and nothing in there has changed; once."""
        tokenizer, self._tokenizer = self._tokenizer, None
        return tokenizer if folder == self._folder and files.stamps(folder) == self._stamps else None
