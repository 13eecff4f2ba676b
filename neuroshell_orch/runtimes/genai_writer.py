"""One answer, token by token, with onnxruntime-genai.

Owns sampling, the token loop, the taking in of the prompt and the size of the cache. Must not know folders, templates
or frames.

genai reserves, and touches, its key-value cache for the whole length that it is told: 360 MiB for the 8192 tokens of
a 135M model whose answers are rarely longer than a page. So an answer begins with room for one, and when that is used
up the text so far is taken in again with twice the room. That costs a pause; the memory would cost every answer. A
grammar has no such second beginning: genai counts what it takes in as prompt. So an answer that is held to one is
repeated token by token, each of them forced, which takes as long as it took before.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from neuroshell_orch.runtimes import genai_scores
from neuroshell_orch.runtimes.stops import StopFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.runtimes.base import Emit
    from neuroshell_orch.runtimes.genai_guidance import Guidance
    from neuroshell_orch.workers.protocol import Generate, TokenScore

Native: TypeAlias = Any
"""An object of onnxruntime_genai, which comes without types."""

CHUNK: Final = 256
"""Prompt tokens taken in at once; a cancelled job is noticed between two chunks."""
_COLDEST: Final = 1e-3
"""Below it genai divides by what is nearly nothing."""
_NARROWEST: Final = 1e-6
"""A top_p of 0 would mean all to genai."""
_SEEDS: Final = (1 << 31) - 1
_IMPOSSIBLE: Final = -1e9
"""The logit of a token that must not be chosen."""
ROOM: Final = 1024
"""Tokens of the answer that the cache has room for at first."""


class Writer:
    """Writes one answer; ``count`` tokens so far, ``prefilled`` at this instant of the monotonic clock."""

    def __init__(
        self,
        og: Native,
        model: Native,
        tokenizer: Native,
        request: Generate,
        *,
        ends: frozenset[int],
        vocabulary: int,
        guidance: Guidance | None = None,
    ) -> None:
        self._og = og
        self._model = model
        self._decode = tokenizer.create_stream().decode
        self._guidance = guidance
        self._scores: genai_scores.Scores | None = None
        if genai_scores.wanted(request):
            self._scores = genai_scores.Scores(request, lambda token: tokenizer.decode([token]), vocabulary)
        self._unshown_scores: list[TokenScore] = []
        self._ends = ends
        self._vocabulary = vocabulary
        self._request = request
        self._stops = StopFilter(request.stop)
        self._unshown = 0
        self.count = 0
        self.prefilled = time.monotonic()

    def write(self, prompt: Native, limit: int, emit: Emit, cancelled: Callable[[], bool]) -> str:
        """Up to ``limit`` tokens with the prompt's: why it ended. Raises RuntimeError where genai fails."""
        tokens, size, reason = prompt, min(limit, len(prompt) + ROOM), None
        while reason is None:
            generator = self._taken_in(tokens, len(prompt), size, cancelled)
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
        if rest or (self._unshown_scores and not self._stops.stopped):
            self._show(rest, emit)
        return reason

    def _show(self, text: str, emit: Emit) -> None:
        if self._scores is None:
            emit(text, self._unshown)
        else:
            emit(text, self._unshown, self._unshown_scores)
            self._unshown_scores = []
        self._unshown = 0

    def _taken_in(self, tokens: Native, prompt: int, size: int, cancelled: Callable[[], bool]) -> Native:
        """A generator that has read ``tokens``, of which the first ``prompt`` are not the answer's. None: cancelled."""
        generator = self._og.Generator(self._model, self._parameters(size))
        at_once = len(tokens) if self._guidance is None else prompt
        for at in range(0, at_once, CHUNK):
            if cancelled():
                return None
            generator.append_tokens(tokens[at : min(at + CHUNK, at_once)])
        for token in tokens[at_once:]:
            if cancelled():
                return None
            forced = generator.get_logits()
            forced.fill(_IMPOSSIBLE)
            forced.reshape(-1)[token] = 0
            generator.set_logits(forced)
            generator.generate_next_token()
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
        if request.repeat_penalty != 1.0:
            options["repetition_penalty"] = request.repeat_penalty
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(**options)
        if self._guidance is not None:
            parameters.set_guidance(*self._guidance)
        return parameters

    def _tokens(self, generator: Native, emit: Emit, cancelled: Callable[[], bool]) -> str | None:
        """The token loop: why the answer ended, or None when the room is used up."""
        next_token, get_token, is_done = generator.generate_next_token, generator.get_next_tokens, generator.is_done
        decode, ends, stops, scores = self._decode, self._ends, self._stops, self._scores
        while not is_done():
            if cancelled():
                return "cancelled"
            if scores is not None:
                scores.before(generator)
            next_token()
            token = int(get_token()[0])
            if token in ends:
                return "stop"
            self.count += 1
            self._unshown += 1
            if scores is not None and (score := scores.chosen(token)) is not None:
                self._unshown_scores.append(score)
            text = stops.feed(decode(token))
            if text:
                self._show(text, emit)
            if stops.stopped:
                return "stop"
        return None
