"""The text of one answer: from tokens to pieces that may be shown, and how it comes to an end by itself.

Owns decoding, stop strings, the scores of tokens that are not shown yet, and the count. Must not know where tokens come
from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from neuroshell_orch.runtimes import genai_scores
from neuroshell_orch.runtimes.stops import StopFilter

if TYPE_CHECKING:
    from neuroshell_orch.runtimes.base import Emit
    from neuroshell_orch.workers.protocol import Generate, TokenScore

Native: TypeAlias = Any


class Text:
    """``count`` tokens so far. ``scores`` stands before and behind each step, where a client wants that."""

    def __init__(self, tokenizer: Native, request: Generate, ends: frozenset[int], vocabulary: int, emit: Emit) -> None:
        self._decode = tokenizer.create_stream().decode
        self.scores: genai_scores.Scores | None = None
        if genai_scores.wanted(request):
            self.scores = genai_scores.Scores(request, lambda token: tokenizer.decode([token]), vocabulary)
        self._ends = ends
        self._stops = StopFilter(request.stop)
        self._emit = emit
        self._unshown = 0
        self._unshown_scores: list[TokenScore] = []
        self.count = 0

    def accept(self, token: int) -> bool:
        """The next token. Whether the answer ends with it."""
        if token in self._ends:
            return True
        self.count += 1
        self._unshown += 1
        if self.scores is not None and (score := self.scores.chosen(token)) is not None:
            self._unshown_scores.append(score)
        stops = self._stops
        text = stops.feed(self._decode(token))
        if text:
            self._show(text)
        return stops.stopped

    def close(self) -> None:
        """No token comes any more: show what was held back."""
        rest = self._stops.flush()
        if rest or (self._unshown_scores and not self._stops.stopped):
            self._show(rest)

    def _show(self, text: str) -> None:
        if self.scores is None:
            self._emit(text, self._unshown)
        else:
            self._emit(text, self._unshown, self._unshown_scores)
            self._unshown_scores = []
        self._unshown = 0
