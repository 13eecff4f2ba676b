"""One answer, step by step, with onnxruntime-genai: a piece of the prompt, or one token.

Owns the taking in of the prompt, the choice of a generator and the size of its cache. Must not know folders, templates
or frames; how text comes of tokens is in ``genai_text``, how they are chosen in ``genai_sampling``.

genai reserves, and touches, its key-value cache for the whole length that it is told: 360 MiB for the 8192 tokens of
a 135M model whose answers are rarely longer than a page. So an answer begins with room for one, and when that is used
up the text so far is taken in again with twice the room. That costs a pause; the memory would cost every answer.

Where genai chooses with the options that the generator was made for, it does so by itself; where there is a grammar,
or the generator was made for another answer, a chooser does (see ``genai_sampling``).
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.genai_kept import Keeper, Kept
from neuroshell_orch.runtimes.genai_sampling import Chooser, Choosers, Options, generator, options_of
from neuroshell_orch.runtimes.genai_text import Text
from neuroshell_orch.workers.protocol import Done

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.runtimes.base import Emit
    from neuroshell_orch.workers.protocol import Generate

Native: TypeAlias = Any
"""An object of onnxruntime_genai, which comes without types."""

ROOM: Final = 1024
"""Tokens of the answer that the cache has room for at first."""
SLACK: Final = 128
"""Tokens of room beyond, so that the next question of the same length finds it large enough."""


class Pace:
    """How much of a prompt is computed at once: as much as takes a moment, measured.

    A cancelled answer is noticed between two pieces, and other answers get their tokens there. The result does not
    depend on the pieces, as long as none is a single token. Measured on two cores, pieces of 64 take 2 % longer than a
    whole prompt, of 32 8 %, of 16 a quarter, of 8 twice as long: so there are none below 32, however slow the machine.
    """

    FIRST: Final = 64
    LEAST: Final = 32
    MOST: Final = 512
    ALONE: Final = 0.12
    TOGETHER: Final = 0.05

    def __init__(self) -> None:
        self._rate = 0.0
        """Tokens a second."""

    def piece(self, left: int, *, alone: bool) -> int:
        """How many of ``left`` tokens are taken next."""
        seconds = self.ALONE if alone else self.TOGETHER
        wanted = self.FIRST if self._rate == 0.0 else int(self._rate * seconds)
        piece = min(left, max(self.LEAST, min(wanted, self.MOST)))
        return piece - 1 if left - piece == 1 and piece > 2 else piece

    def took(self, tokens: int, seconds: float) -> None:
        """Learn from a piece."""
        if tokens >= self.LEAST and seconds > 0:
            rate = tokens / seconds
            self._rate = rate if self._rate == 0.0 else (self._rate + rate) / 2


class Bench(NamedTuple):
    """What all answers of one loaded model are made with. ``context`` is the longest sequence there can be."""

    og: Native
    model: Native
    tokenizer: Native
    ends: frozenset[int]
    vocabulary: int
    context: int
    choosers: Choosers
    keeper: Keeper
    pace: Pace


class Writer:
    """Writes one answer: ``step`` until ``done``."""

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
    ) -> None:
        self.done: Done | OrchError | None = None
        self._bench = bench
        self._job = request.job
        self._text = Text(bench.tokenizer, request, bench.ends, bench.vocabulary, emit)
        self._cancelled = cancelled
        self._options: Options = options_of(request, bench.vocabulary)
        self._seeded = "random_seed" in self._options and self._options["random_seed"] >= 0
        self._chooser = chooser
        self._prompt = prompt
        self._limit = limit
        self._end = min(limit, len(prompt) + ROOM)
        """The length at which the text is taken in again, or the answer ends."""
        self._tokens = prompt
        """What is to be taken in."""
        self._at = 0
        self._last: int | None = None
        """The token that was chosen and that the generator has not read."""
        self._generator: Native = None
        self._taken = False
        """Whether the keeper counts a generator as ours."""
        self._size = 0
        self._made_for: Options = {}
        self._cached = 0
        self._started = started
        self._prefilled = 0.0

    def step(self, *, alone: bool) -> None:
        """Go on a little. Every failure ends in ``done``."""
        if self._cancelled():
            self._finish("cancelled")
        elif self._at < len(self._tokens):
            self._guarded(partial(self._take_in, alone=alone))
        else:
            self._guarded(self._write)

    @property
    def is_cancelled(self) -> bool:
        """Whether it is to be ended."""
        return self._cancelled()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except RuntimeError as error:
            self._fail(f"The runtime failed in the middle of an answer: {error}", "Ask again.")
        except MemoryError:
            hint = "Close programs, choose a smaller model or a smaller context, or raise its MemoryMax."
            self._fail("There was not enough memory.", hint)

    # ---- the text so far ----

    def _take_in(self, *, alone: bool) -> None:
        if self._generator is None:
            self._begin()
        tokens, at = self._tokens, self._at
        piece = self._bench.pace.piece(len(tokens) - at, alone=alone)
        began = time.monotonic()
        self._generator.append_tokens(tokens[at : at + piece])
        now = time.monotonic()
        self._bench.pace.took(piece, now - began)
        self._at += piece
        if not self._prefilled and self._at == len(tokens):
            self._prefilled = now

    def _begin(self) -> None:
        """Find the generator that has read most of the prompt, or make one."""
        keeper, shared = self._bench.keeper, 0
        kept, more = keeper.take(self._prompt, self._end)
        self._taken = True
        if kept is not None:
            try:
                kept.generator.rewind_to(more)
            except RuntimeError:  # not every kind of model can
                kept, more = None, 0
            else:
                shared = more
        if kept is None:
            self._make(self._end + SLACK + more, self._options)
        else:
            self._generator, self._size, self._made_for = kept.generator, kept.size, kept.options
        if self._chooser is None and kept is not None and (self._seeded or kept.options != self._options):
            self._chooser = self._bench.choosers.chooser(self._limit, self._options)
        if self._chooser is not None:
            self._chooser.begin(self._prompt)
        self._at = self._cached = shared

    def _make(self, size: int, options: Options) -> None:
        self._size, self._made_for = min(self._bench.context, size), options
        self._generator = generator(self._bench.og, self._bench.model, self._size, options)

    def _again(self) -> None:
        """The room is used up: take in the text with more of it."""
        room = self._end - len(self._prompt)
        self._end = min(self._limit, len(self._prompt) + 2 * room)
        self._tokens = self._generator.get_sequence(0).tolist()
        if self._last is not None and len(self._tokens) < len(self._prompt) + self._text.count:
            self._tokens.append(self._last)
        self._last = None
        self._at = len(self._prompt)
        if self._size >= self._end:
            self._generator.rewind_to(self._at)
        else:
            self._generator = None  # before the next one takes its memory
            self._make(self._end + SLACK, self._made_for)
            self._at = 0

    # ---- one token ----

    def _write(self) -> None:
        text, writer = self._text, self._generator
        if self._chooser is None:
            if text.scores is not None:
                text.scores.before(writer)
            writer.generate_next_token()
            token = int(writer.get_next_tokens()[0])
        else:
            if self._last is not None:
                writer.append_tokens([self._last])
            token = self._last = self._chooser.choose(writer.get_logits(), text.scores)
        if text.accept(token):
            self._finish("stop")
            return
        length = len(self._prompt) + text.count
        if length >= self._limit:
            self._finish("length")
        elif length >= self._end:
            self._again()

    # ---- the end ----

    def _finish(self, reason: str) -> None:
        if reason != "cancelled":
            self._text.close()
        if self._chooser is not None:
            self._chooser.close()
        self._give_back()
        now = time.monotonic()
        prefilled = self._prefilled or now
        self.done = Done(
            job=self._job,
            reason=reason,
            prompt_tokens=len(self._prompt),
            completion_tokens=self._text.count,
            prefill_seconds=prefilled - self._started,
            decode_seconds=now - prefilled,
            cached_tokens=self._cached,
        )

    def _fail(self, message: str, hint: str) -> None:
        self._give_back(keep=False)
        self.done = OrchError("answer-failed", message, hint)

    def _give_back(self, *, keep: bool = True) -> None:
        if not self._taken:
            return
        read = self._prompt[: self._at]
        kept = Kept(self._generator, read, self._size, self._made_for) if keep else None
        self._generator, self._taken = None, False
        self._bench.keeper.give(kept)
