"""The logits of each step: how likely tokens were, and what a client's penalties and biases change about them.

Owns the arithmetic between the model and genai's sampling. Used only for answers that ask for it: looking at fifty
thousand numbers for each token costs time. What is reported is the model's own opinion, before temperature, penalties,
bias or a grammar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from neuroshell_orch.workers.protocol import TokenScore

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.workers.protocol import Generate

Native: TypeAlias = Any


def wanted(request: Generate) -> bool:
    """Whether ``request`` needs the logits at all."""
    return request.scores >= 0 or _changes(request)


def _changes(request: Generate) -> bool:
    return bool(request.bias or request.frequency_penalty or request.presence_penalty)


class Scores:
    """Stands before and behind each step of one answer."""

    def __init__(self, request: Generate, decode: Callable[[int], str], vocabulary: int) -> None:
        import numpy  # noqa: ICN001, PLC0415 - genai has loaded it by now; plain answers never get here

        self._np = numpy
        self._request = request
        self._decode = decode
        self._changes = _changes(request)
        self._bias = {token: bias for token, bias in request.bias.items() if 0 <= token < vocabulary}
        self._written: dict[int, int] = {}
        self._logits: Native = None

    def before(self, generator: Native) -> None:
        """Look at the logits of the coming step, and change them where the client wants it."""
        logits = self._np.array(generator.get_logits(), dtype=self._np.float32)
        flat = logits.reshape(-1)
        if self._request.scores >= 0:
            self._logits = flat.copy()
        if self._changes:
            for token, bias in self._bias.items():
                flat[token] += bias
            presence, frequency = self._request.presence_penalty, self._request.frequency_penalty
            if presence or frequency:
                for token, count in self._written.items():
                    flat[token] -= presence + count * frequency
            generator.set_logits(logits)

    def chosen(self, token: int) -> TokenScore | None:
        """The score of the token that was chosen, where those are wanted."""
        self._written[token] = self._written.get(token, 0) + 1
        if self._request.scores < 0:
            return None
        logits, np = self._logits, self._np
        top = float(logits.max())
        total = top + float(np.log(np.exp(logits - top, dtype=np.float64).sum()))
        likeliest: list[tuple[str, float]] = []
        if count := min(self._request.scores, logits.size):
            numbers = np.argpartition(logits, -count)[-count:]
            order = sorted((int(number) for number in numbers), key=lambda number: (-float(logits[number]), number))
            likeliest = [(self._decode(number), float(logits[number]) - total) for number in order]
        return TokenScore(self._decode(token), float(logits[token]) - total, likeliest)
