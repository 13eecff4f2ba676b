"""How the next token is chosen: what genai is told about it, and a chooser apart from the model.

Owns the translation of a request into genai's search options, and the *chooser*: a generator over a graph of a hundred
bytes that computes nothing. It is given the logits of whichever generator has read the text, and does all that genai
does behind a model: temperature, penalties, seeds, grammars. So what has read the text can be exchanged in the middle
of an answer, or be taken over from an earlier one, and the choice goes on undisturbed. Must not know prompts or text.

A grammar's failure is printed by llguidance to standard error with the tokens in it; that must not reach a journal, so
standard error is closed for as long as a grammar is at work.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from neuroshell_orch.runtimes import dummy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from neuroshell_orch.runtimes.genai_guidance import Guidance
    from neuroshell_orch.runtimes.genai_scores import Scores
    from neuroshell_orch.workers.protocol import Generate

Native: TypeAlias = Any
Options: TypeAlias = dict[str, Any]

_COLDEST: Final = 1e-3
"""Below it genai divides by what is nearly nothing."""
_NARROWEST: Final = 1e-6
"""A top_p of 0 would mean all to genai."""
_SEEDS: Final = (1 << 31) - 1


def options_of(request: Generate, vocabulary: int) -> Options:
    """The search options for ``request``. Its temperature is settled by now."""
    options: Options = {"do_sample": False, "top_k": 1, "top_p": 1.0, "temperature": 1.0}
    if request.temperature > 0 and request.top_k != 1:
        options = {
            "do_sample": True,
            "temperature": max(request.temperature, _COLDEST),
            "top_p": min(max(request.top_p, _NARROWEST), 1.0),
            "top_k": request.top_k if 0 < request.top_k < vocabulary else 0,
            "random_seed": request.seed & _SEEDS if request.seed >= 0 else -1,
        }
    if request.repeat_penalty != 1.0:
        options["repetition_penalty"] = request.repeat_penalty
    return options


def generator(og: Native, model: Native, size: int, options: Options, held_to: Guidance | None = None) -> Native:
    """A generator for one sequence of at most ``size`` tokens. Raises RuntimeError."""
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=size, batch_size=1, num_beams=1, **options)
    if held_to is not None:
        parameters.set_guidance(*held_to)
    return og.Generator(model, parameters)


class Chooser:
    """Chooses the tokens of one answer from logits that it is shown. ``close`` it when the answer has ended."""

    def __init__(self, chooser: Native, *, guided: bool, close: Callable[[Native], None] | None = None) -> None:
        self._generator = chooser
        self._guided = guided
        self._close = close

    def close(self) -> None:
        """It is not needed any more."""
        if self._close is not None:
            self._close(self._generator)
        self._generator = self._close = None

    def begin(self, prompt: list[int]) -> None:
        """What stands before the answer: penalties look at it."""
        self._generator.append_tokens(prompt)

    def choose(self, logits: Native, scores: Scores | None) -> int:
        """The next token. Raises RuntimeError where the grammar fails."""
        chooser = self._generator
        with self._silence():
            chooser.get_logits()  # its own, of no meaning; the grammar hears of the last token by that
            chooser.set_logits(logits)
            if scores is not None:
                scores.before(chooser)
            chooser.generate_next_token()
        return int(chooser.get_next_tokens()[0])

    def _silence(self) -> AbstractContextManager[None]:
        return _silent() if self._guided else nullcontext()


class Choosers:
    """Makes choosers for one model: ``config`` is its genai configuration, ``folder`` has its tokenizer."""

    def __init__(self, og: Native, folder: Path, config: Any, vocabulary: int) -> None:  # noqa: ANN401 - JSON
        self._og = og
        self._folder = folder
        self._config = config
        self._vocabulary = vocabulary
        self._context = int(config["model"]["context_length"])
        self._model: Native = None
        self._idle: tuple[tuple[Guidance, tuple[Any, ...]], Native] | None = None
        """The last chooser with a grammar: genai reads the whole vocabulary to make one, which takes 0.3 s and more."""
        self._graph = graph(vocabulary)
        """genai reads it where it lies, when the model is made."""

    def chooser(self, size: int, options: Options, held_to: Guidance | None = None) -> Chooser:
        """One for a sequence of at most ``size`` tokens. Raises RuntimeError where the grammar cannot be made."""
        if held_to is None:
            return Chooser(generator(self._og, self.model(), size, options), guided=False)
        key = (held_to, tuple(options.items()))
        if self._idle is not None and self._idle[0] == key:
            (_, made), self._idle = self._idle, None
        else:
            self._idle = None
            with _silent():
                made = generator(self._og, self.model(), self._context, options, held_to)
        seeded = options.get("random_seed", -1) >= 0
        return Chooser(made, guided=True, close=None if seeded else partial(self._keep, key))

    def drop(self) -> None:
        """Give up what is kept."""
        self._idle = None

    def _keep(self, key: tuple[Guidance, tuple[Any, ...]], chooser: Native) -> None:
        with suppress(RuntimeError), _silent():
            chooser.rewind_to(0)
            self._idle = key, chooser

    def model(self) -> Native:
        """Genai's model of the graph that computes nothing; its tokenizer is the real one."""
        if self._model is None:
            self._model = self._open()
        return self._model

    def _open(self) -> Native:
        config = self._og.Config(str(dummy.FOLDER))
        config.clear_providers()
        config.add_model_data("choose.onnx", self._graph)
        model = self._config["model"]
        kept = {key: model[key] for key in ("eos_token_id", "bos_token_id", "pad_token_id") if key in model}
        config.overlay(
            json.dumps(
                {
                    "model": {
                        **kept,
                        "vocab_size": self._vocabulary,
                        "context_length": self._context,
                        "tokenizer_dir": os.path.relpath(self._folder, dummy.FOLDER),
                        "decoder": {"filename": "choose.onnx"},
                    }
                }
            )
        )
        return self._og.Model(config)


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing that native code prints to standard error is seen by anybody."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def graph(vocabulary: int) -> bytes:
    """An ONNX model whose logits are always 0, written out as protobuf: ``onnx`` takes long to import."""
    shape = _field(1, 3) + _field(2, 7) + _field(8, b"shape") + _field(9, struct.pack("<3q", 1, 1, vocabulary))
    node = _field(1, b"shape") + _field(2, b"logits") + _field(4, b"ConstantOfShape")
    tokens = _value(b"input_ids", 7, _field(2, b"batch"), _field(2, b"sequence"))
    logits = _value(b"logits", 1, _field(1, 1), _field(1, 1), _field(1, vocabulary))
    body = _field(1, node) + _field(2, b"choose") + _field(5, shape) + _field(11, tokens) + _field(12, logits)
    return _field(1, 8) + _field(7, body) + _field(8, _field(1, b"") + _field(2, 17))


def _value(name: bytes, kind: int, *dimensions: bytes) -> bytes:
    shape = b"".join(_field(1, dimension) for dimension in dimensions)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message: a number, or bytes."""
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    return _number(number << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
