"""One answer, token by token, with onnxruntime-genai.

Owns sampling, the token loop, the taking in of the prompt and the size of the cache. Must not know folders, templates
or frames.

genai reserves, and touches, its key-value cache for the whole length that it is told: 360 MiB for the 8192 tokens of
a 135M model whose answers are rarely longer than a page. So an answer begins with room for one, and when that is used
up the text so far is taken in again with twice the room. That costs a pause; the memory would cost every answer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from neuroshell_orch.runtimes.stops import StopFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.workers.protocol import Generate

Native: TypeAlias = Any
"""An object of onnxruntime_genai, which comes without types."""

CHUNK: Final = 256
"""Prompt tokens taken in at once; a cancelled job is noticed between two chunks."""
_COLDEST: Final = 1e-3
"""Below it genai divides by what is nearly nothing."""
_NARROWEST: Final = 1e-6
"""A top_p of 0 would mean all to genai."""
_SEEDS: Final = (1 << 31) - 1
ROOM: Final = 1024
"""Tokens of the answer that the cache has room for at first."""


class Writer:
    """Writes one answer; ``count`` tokens so far, ``prefilled`` at this instant of the monotonic clock."""

    def __init__(
        self,
        og: Native,
        model: Native,
        decode: Callable[[int], str],
        request: Generate,
        *,
        ends: frozenset[int],
        vocabulary: int,
    ) -> None:
        self._og = og
        self._model = model
        self._decode = decode
        self._ends = ends
        self._vocabulary = vocabulary
        self._request = request
        self._stops = StopFilter(request.stop)
        self._unshown = 0
        self.count = 0
        self.prefilled = time.monotonic()

    def write(self, prompt: Native, limit: int, emit: Callable[[str, int], None], cancelled: Callable[[], bool]) -> str:
        """Up to ``limit`` tokens with the prompt's: why it ended. Raises RuntimeError where genai fails."""
        tokens, size, reason = prompt, min(limit, len(prompt) + ROOM), None
        while reason is None:
            generator = self._taken_in(tokens, size, cancelled)
            if self.count == 0:
                self.prefilled = time.monotonic()
            if generator is None:
                return "cancelled"
            reason = self._tokens(generator, emit, cancelled)
            if reason is None and size >= limit:
                reason = "length"
            tokens = generator.get_sequence(0)
            size = min(limit, len(prompt) + 2 * (size - len(prompt)))
            del generator  # before the next one takes its memory
        rest = self._stops.flush()
        if rest:
            emit(rest, self._unshown)
        return reason

    def _taken_in(self, tokens: Native, size: int, cancelled: Callable[[], bool]) -> Native:
        generator = self._og.Generator(self._model, self._parameters(size))
        for at in range(0, len(tokens), CHUNK):
            if cancelled():
                return None
            generator.append_tokens(tokens[at : at + CHUNK])
        return generator

    def _parameters(self, size: int) -> Native:
        request = self._request
        options: dict[str, Any] = {"max_length": size, "batch_size": 1, "num_beams": 1}
        if request.temperature > 0 and request.top_k != 1:
            options |= {
                "do_sample": True,
                "temperature": max(request.temperature, _COLDEST),
                "top_p": min(max(request.top_p, _NARROWEST), 1.0),
                "top_k": request.top_k if 0 < request.top_k < self._vocabulary else 0,
                "random_seed": request.seed & _SEEDS if request.seed >= 0 else -1,
            }
        else:
            options |= {"do_sample": False, "top_k": 1, "top_p": 1.0, "temperature": 1.0}
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(**options)
        return parameters

    def _tokens(self, generator: Native, emit: Callable[[str, int], None], cancelled: Callable[[], bool]) -> str | None:
        """The token loop: why the answer ended, or None when the room is used up."""
        next_token, get_token, is_done = generator.generate_next_token, generator.get_next_tokens, generator.is_done
        decode, ends, stops = self._decode, self._ends, self._stops
        while not is_done():
            if cancelled():
                return "cancelled"
            next_token()
            token = int(get_token()[0])
            if token in ends:
                return "stop"
            self.count += 1
            self._unshown += 1
            text = stops.feed(decode(token))
            if text:
                emit(text, self._unshown)
                self._unshown = 0
            if stops.stopped:
                return "stop"
        return None
