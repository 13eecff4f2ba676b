"""Answers that are written together: each reads its prompt in its row, then all get their next token in one pass.

Owns the order of such a round. Prompts are read one after the other, a piece a round, so that those who came first have
their first words first; whoever writes gets a token in each round all the same. Must not know sessions or templates.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeAlias

from neuroshell_orch.runtimes.genai_writer import Bench, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neuroshell_orch.runtimes.base import Emit
    from neuroshell_orch.runtimes.genai_rows import Rows
    from neuroshell_orch.runtimes.genai_sampling import Chooser
    from neuroshell_orch.workers.protocol import Generate

Native: TypeAlias = Any


class RowWriter(Writer):
    """Writes one answer in a row of its own."""

    def __init__(
        self,
        bench: Bench,
        request: Generate,
        prompt: list[int],
        limit: int,
        emit: Emit,
        cancelled: Callable[[], bool],
        chooser: Chooser | None,
        started: float,
        rows: Rows,
        *,
        keep: bool,
    ) -> None:
        super().__init__(bench, request, prompt, limit, emit, cancelled, chooser, started)
        self._rows = rows
        self._keep = keep
        self.row = -1

    @property
    def reads(self) -> bool:
        """Whether it has not read its prompt yet, or is to be ended."""
        return self.done is None and (self._at < len(self._tokens) or self._cancelled())

    @property
    def last(self) -> int:
        """The token that it has chosen last, and not read."""
        assert self._last is not None  # noqa: S101 - whoever has read its prompt has chosen
        return self._last

    def _take_in(self, *, alone: bool) -> None:
        if self.row < 0:
            self.row, self._at = self._rows.take(self._prompt)
            if self.row < 0:
                return  # until another answer ends
            self._cached, self._taken = self._at, True
            if self._chooser is None and not self._plain():
                self._chooser = self._bench.choosers.chooser(self._limit, self._options)
            if self._chooser is not None:
                self._chooser.begin(self._prompt)
        at = self._at
        piece = self._bench.pace.piece(len(self._prompt) - at, alone=alone)
        began = time.monotonic()
        logits = self._rows.read(self.row, self._prompt[at : at + piece])
        now = time.monotonic()
        self._bench.pace.took(piece, now - began)
        self._at += piece
        if self._at == len(self._prompt):
            self._prefilled = now
            self._choose(logits)

    def _plain(self) -> bool:
        """Whether simply the likeliest token is next."""
        return (
            not self._options["do_sample"] and "repetition_penalty" not in self._options and self._text.scores is None
        )

    def take(self, logits: Native) -> None:
        """What comes next, now that the last token is read. Every failure ends in ``done``."""
        self._guarded(lambda: self._choose(logits))

    def fail(self, error: RuntimeError) -> None:
        """The pass failed."""

        def again() -> None:
            raise error

        self._guarded(again)

    def _choose(self, logits: Native) -> None:
        if self._chooser is None:
            token = int(logits.argmax())
        else:
            token = self._chooser.choose(logits.reshape(1, 1, -1), self._text.scores)
        self._last = token
        if self._text.accept(token):
            self._finish("stop")
        elif len(self._prompt) + self._text.count >= self._limit:
            self._finish("length")

    def _give_back(self, *, keep: bool = True) -> None:
        if self._taken:
            self._taken = False
            self._rows.give(self.row, keep=keep and self._keep)


def advance(rows: Rows, writers: Sequence[RowWriter]) -> None:
    """One round."""
    alone, read = len(writers) == 1, False
    for writer in writers:
        if writer.reads and (not read or writer.is_cancelled):
            read = read or not writer.is_cancelled
            writer.step(alone=alone)
    writing = sorted((w for w in writers if w.done is None and not w.reads), key=lambda writer: writer.row)
    if not writing:
        return
    low = writing[0].row
    for writer in reversed(writing):
        if writing[-1].row - low >= len(writing):
            writer.row = rows.closer(writer.row, low)
            writing.sort(key=lambda writer: writer.row)
    try:
        logits = rows.step({writer.row: writer.last for writer in writing})
    except RuntimeError as error:
        for writer in writing:
            writer.fail(error)
    else:
        for writer in writing:
            writer.take(logits[writer.row])
