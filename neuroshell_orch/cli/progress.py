"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere.

Owns when something is shown at all (after a second) and how often. What is done calls the object with a step's name,
how much is done and how much there is. rich is imported only for a bar that is really drawn.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Self

from neuroshell_orch.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

QUIET_SECONDS: Final = 1.0
LINE_SECONDS: Final = 5.0

WORDS: Final = {"download": "downloading", "unpack": "unpacking", "convert": "converting", "hash": "reading"}
BYTES: Final = ("download", "unpack", "hash")


class Progress:
    """Use as a context manager; call it with a step, the amount done and the total (0: unknown)."""

    def __init__(self) -> None:
        self._step = ""
        self._began = self._shown = 0.0
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, step: str, done: int, total: int) -> None:
        """``done`` of ``total`` of ``step`` is done."""
        now = time.monotonic()
        if step != self._step:
            self._close()
            self._step, self._began, self._shown = step, now, 0.0
        if now - self._began < QUIET_SECONDS and self._bar is None:
            return
        if sys.stderr.isatty():
            self._draw(done, total)
        elif now - self._shown >= LINE_SECONDS or not self._shown:
            self._shown = now
            output.note(f"{WORDS.get(step, step)}: {amount(step, done, total)}")

    def _draw(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if self._bar is None:
            count = DownloadColumn() if self._step in BYTES else MofNCompleteColumn()
            columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(WORDS.get(self._step, self._step), total=total or None)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def amount(step: str, done: int, total: int) -> str:
    """How far a step is, in its own unit."""
    if step in BYTES:
        return f"{output.size(done)} of {output.size(total)}" if total else output.size(done)
    return f"{done} of {total}" if total else str(done)
