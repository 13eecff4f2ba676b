"""Language models by onnxruntime-genai: a folder with ``genai_config.json``, an ONNX graph and a tokenizer.

Owns loading; the chat template is in ``genai_prompt``, an answer's steps in ``genai_writer``. Must not know sockets or
frames beyond the message types, and never imports ``onnxruntime``: genai finds that library itself, and the package of
that name would cost every worker 25 ms and 19 MiB (8 of them private) for nothing. Its dummy model is therefore a
genai folder too (see ``dummy``), and a parked worker has run exactly what a load will run.

A load cannot be interrupted from outside: it is ended by ending the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroshell_orch.errors import OrchError
from neuroshell_orch.marks import mark
from neuroshell_orch.runtimes import base, devices, dummy, files, genai_rest, mappings
from neuroshell_orch.runtimes.genai_batch import RowWriter, advance
from neuroshell_orch.runtimes.genai_guidance import guidance, refusal
from neuroshell_orch.runtimes.genai_kept import Keeper
from neuroshell_orch.runtimes.genai_native import interface, without_numpy
from neuroshell_orch.runtimes.genai_open import open_model, open_tokenizer, overlay_of
from neuroshell_orch.runtimes.genai_prompt import Template
from neuroshell_orch.runtimes.genai_ready import Ready
from neuroshell_orch.runtimes.genai_rows import Rows, open_rows
from neuroshell_orch.runtimes.genai_sampling import Chooser, Choosers, options_of
from neuroshell_orch.runtimes.genai_writer import Bench, Native, Pace, Writer
from neuroshell_orch.workers.protocol import Done, Generate, Infer, Load, Loaded, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def create() -> GenaiRuntime:
    """For the registry."""
    return GenaiRuntime()


class GenaiRuntime:
    """One language model."""

    def __init__(self) -> None:
        import onnxruntime_genai  # noqa: PLC0415 - an import failure becomes the registry's sentence

        self._og: Native = without_numpy(onnxruntime_genai)
        self._folder = Path()
        self._model: Native = None
        self._tokenizer: Native = None
        self._ends: frozenset[int] = frozenset()
        self._context = 0
        self._vocabulary = 0
        self._template: Template | None = None
        self._weights = mappings.Weights([])
        self._bench: Bench | None = None
        self._rows: Rows | None = None
        """Where several answers are written together."""
        self._keep = True
        self._ready: Ready | None = None
        self._held = 0
        """Private bytes of a tokenizer that was ready before the load."""

    @property
    def _version(self) -> str:
        return f"onnxruntime-genai {self._og.__version__}"

    def standby(self) -> str:
        """Load the dummy model and make it produce a token, as a real one would."""
        model = self._og.Model(self._og.Config(str(dummy.FOLDER)))
        parameters = self._og.GeneratorParams(model)
        parameters.set_search_options(max_length=4)
        generator = self._og.Generator(model, parameters)
        generator.append_tokens([1])
        generator.generate_next_token()
        if int(generator.get_next_tokens()[0]) != dummy.successor(1):
            raise OrchError("load-failed", "The runtime genai computes wrong results on this machine.", "Reinstall it.")
        return self._version

    def make_ready(self, path: str) -> None:
        """Hold the tokenizer of the model at ``path``: a quarter of what its load takes, and little memory."""
        folder = Path(os.path.realpath(path))
        with suppress(OrchError, RuntimeError, OSError):
            files.check_genai(folder, _configuration(folder))
            if interface(self._og) is not None:
                before = mappings.Before()
                self._ready = Ready(folder, lambda: open_tokenizer(self._og, folder, None))
                mappings.trim()  # a third of what reading it took
                self._held = mappings.Before().anonymous - before.anonymous

    def load(self, load: Load) -> Loaded:
        """Load a genai folder."""
        self._folder = Path(os.path.realpath(load.path))
        config = _configuration(self._folder)
        declared = _number(self._folder, config, "context_length")
        self._vocabulary = _number(self._folder, config, "vocab_size")
        self._weights = mappings.Weights(files.check_genai(self._folder, config))
        mark("files")
        self._context = min(load.context_length, declared) if load.context_length > 0 else declared
        threads = base.usable_threads(load.threads)
        device = devices.choose_device(load.options)
        choosers = Choosers(self._og, self._folder, config, self._vocabulary)
        open_on = partial(self._open, config, choosers, threads, load.parallel)
        try:
            open_on(device)
        except RuntimeError as error:
            if device == "cpu" or load.options.get("device") == "cuda":
                raise self._refused(error) from error
            sys.stderr.write(f"{load.model}: not usable with CUDA, using the processor instead: {error}\n")
            device = "cpu"
            try:
                open_on(device)
            except RuntimeError as again:
                raise self._refused(again) from again
        self._keep = load.keep_prefix
        self._bench = Bench(
            self._og,
            self._model,
            self._tokenizer,
            self._ends,
            self._vocabulary,
            self._context,
            choosers,
            Keeper(load.parallel, keep=load.keep_prefix),
            Pace(),
        )
        return Loaded(
            seconds=0.0,
            runtime_version=self._version,
            device=device,
            context_length=self._context,
            can_hibernate=self._weights.can_hibernate(),
        )

    def _open(self, config: Any, choosers: Choosers, threads: int, parallel: int, device: str) -> None:  # noqa: ANN401
        if parallel > 1 and device == "cpu":
            self._rows = open_rows(self._folder, config, threads, parallel, self._context)
        if self._rows is not None:
            self._model = choosers.model()
            self._tokenizer = self._og.Tokenizer(self._model)
        else:
            ready, self._ready = self._ready, None
            tokenizer = None if ready is None else ready.take(self._folder)
            self._held = 0 if tokenizer is None else self._held
            overlay = overlay_of(threads)
            self._model, self._tokenizer = open_model(self._og, self._folder, device, overlay, tokenizer)
        self._ends = frozenset(int(number) for number in self._tokenizer.eos_token_ids)
        self._template = Template(self._tokenizer)

    def _refused(self, error: RuntimeError) -> OrchError:
        reason = " ".join(str(error).split())
        return OrchError(
            "model-invalid",
            f"The model in {self._folder} cannot be loaded: {reason}",
            "Add or fetch the model again; it may be damaged or made for another version of the runtime.",
        )

    def hibernate(self) -> int:
        """Give the weights back, and all else that a model can do without while nobody asks it."""
        if self._bench is not None:
            self._bench.keeper.drop()
            self._bench.choosers.drop()
        if self._rows is not None:
            self._rows.drop()
        genai_rest.shrink(self._og, self._model)
        mappings.trim()
        beyond = self._weights.grown() + self._held
        if beyond > genai_rest.KEPT and self._template is not None and self._bench is not None:
            self._use(None)
            mappings.trim()
        return self._weights.give_back()

    def wake(self) -> None:
        """Fault the weights in, and read the tokenizer beside that."""
        self._weights.start_filling()
        if self._tokenizer is None:
            try:
                with self._weights.growing():
                    self._use(open_tokenizer(self._og, self._folder, self._model))
            except RuntimeError as error:
                raise self._refused(error) from error
        self._weights.fault_in()

    def _use(self, tokenizer: Native) -> None:
        """Take this tokenizer, or give up the one there is."""
        if self._template is not None and self._bench is not None:
            self._tokenizer = tokenizer
            self._template.use(tokenizer)
            self._bench = self._bench._replace(tokenizer=tokenizer)

    def infer(self, request: Infer, cancelled: Callable[[], bool]) -> list[Tensor]:  # noqa: ARG002
        """Not for language models."""
        raise OrchError("unsupported", "This model writes text; it takes no tensors.", "Use `nsorch ask` with it.")

    def generate(self, request: Generate, emit: base.Emit, cancelled: Callable[[], bool]) -> Done:
        """Write one answer."""
        stream = self.begin(request, emit, cancelled)
        while stream.done is None:
            self.advance([stream])
        if isinstance(stream.done, OrchError):
            raise stream.done
        return stream.done

    def begin(self, request: Generate, emit: base.Emit, cancelled: Callable[[], bool]) -> Writer:
        """Take on one answer of several."""
        started = time.monotonic()
        assert self._template is not None  # noqa: S101 - the worker has loaded before it writes
        if self._tokenizer is None:
            self.wake()
        assert self._bench is not None  # noqa: S101 - likewise
        context = min(self._context, request.context) if request.context > 0 else self._context
        prompt = self._checked(self._template.encode(request), context)
        limit = min(context, len(prompt) + request.max_tokens) if request.max_tokens > 0 else context
        chooser = self._guided(self._bench, request, limit)
        made = (self._bench, request, prompt, limit, emit, cancelled, chooser, started)
        return Writer(*made) if self._rows is None else RowWriter(*made, self._rows, keep=self._keep)

    def advance(self, streams: Sequence[Writer]) -> None:
        """One step of each."""
        if self._rows is not None:
            advance(self._rows, [writer for writer in streams if isinstance(writer, RowWriter)])
            return
        alone = len(streams) == 1
        for writer in streams:
            writer.step(alone=alone)

    def _guided(self, bench: Bench, request: Generate, limit: int) -> Chooser | None:
        """Where the answer is held to something: who holds it. Raises OrchError where that cannot be."""
        assert self._template is not None  # noqa: S101 - likewise
        tools, schema = request.tools, request.schema
        if tools is None and not schema:
            return None
        try:
            held_to = guidance(request, self._template.style)
            return bench.choosers.chooser(limit, options_of(request, self._vocabulary), held_to)
        except (RuntimeError, OrchError) as error:
            if tools is not None and not (tools.required or tools.strict or schema):
                return None  # nothing was promised about arguments where the model chooses
            raise (refusal(error) if isinstance(error, RuntimeError) else error) from None

    def _checked(self, encoded: Native, context: int) -> list[int]:
        prompt: list[int] = encoded if isinstance(encoded, list) else encoded.tolist()
        if len(prompt) == 0:
            raise OrchError("empty-prompt", "There is nothing to answer.", "Write a prompt.")
        if len(prompt) >= context:
            whose, more = "model's context holds", "raise the model's ContextLength if it can take more"
            if context < self._context:
                whose, more = (
                    "request bounds the context to",
                    f"allow a longer context: the model's has {self._context}",
                )
            raise OrchError(
                "prompt-too-long",
                f"The prompt has {len(prompt)} tokens and the {whose} {context}.",
                f"Shorten it, or {more}.",
            )
        if prompt is encoded and not all(0 <= token < self._vocabulary for token in prompt):
            raise OrchError(
                "bad-request",
                f"A token of the prompt is not one of the model's {self._vocabulary}.",
                "Tokens of another model mean something else here: send the prompt as text.",
            )
        return prompt


def _configuration(folder: Path) -> Any:  # noqa: ANN401 - JSON
    path = folder / "genai_config.json"
    if not path.is_file():
        raise OrchError(
            "file-missing", f"There is no {path}.", "A language model is a folder with a genai_config.json in it."
        )
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise OrchError(
            "model-invalid", f"{path} cannot be read: {type(error).__name__}: {error}.", "Add or fetch the model again."
        ) from error


def _number(folder: Path, config: Any, key: str) -> int:  # noqa: ANN401
    try:
        number = config["model"][key]
    except (KeyError, TypeError):
        number = None
    if not isinstance(number, int) or number < 2:
        raise OrchError(
            "model-invalid",
            f"{folder / 'genai_config.json'}: model.{key} is {number!r}, not a number of tokens.",
            "Correct it, or add the model again.",
        )
    return number
