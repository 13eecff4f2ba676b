"""How many threads a model is fastest with, by trying: five seconds at the most, when its copy is prepared.

Owns the candidates, the clock and the choice. Half the cores can beat all of them (two threads of one core, cores of
two kinds, memory that is the bottleneck anyway), and no rule tells where. Every core stays the answer unless another
number is clearly better; where other programs were busy meanwhile, nothing was measured. Must not know who wants the
answer, nor where it is kept.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from neuroshell_orch.runtimes import base, onnxheader
from neuroshell_orch.runtimes.onnx import FAILURES, open_session
from neuroshell_orch.runtimes.onnxheader import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Native: TypeAlias = Any
Trial: TypeAlias = "Callable[[int, float], tuple[float, float]]"
"""Takes a number of threads and seconds to spend; answers a second, and the part of its threads' time that it had."""

BUDGET: Final = 5.0
SLICE: Final = 0.6
"""Seconds that one number of threads is tried for, after its load."""
CLEARLY: Final = 1.05
UNDISTURBED: Final = 0.8
"""The part of the processors that the trial with all cores must have had; onnxruntime's threads wait by spinning."""
PROMPT, ANSWER = 64, 32
"""Tokens of what counts as one answer: reading wants cores, writing wants memory."""
_SIZES: Final = {"FP32": "f4", "FP16": "f2", "FP64": "f8", "BOOL": "?"}
_TEXT: Final = ("input_ids", "attention_mask", "token_type_ids")


def candidates(cores: int) -> list[int]:
    """The numbers worth trying, all cores first."""
    return sorted({max(1, part) for part in (cores, cores * 3 // 4, cores // 2, cores // 4)}, reverse=True)


def tune(trial: Trial, cores: int, clock: Callable[[], float] = time.monotonic) -> dict[str, object] | None:
    """The best number of threads and all rates; None where nothing could be measured, as on a busy machine."""
    began, rates, longest = clock(), dict[int, float](), 0.0
    for threads in candidates(cores):
        started = clock()
        if rates and started + longest - began > BUDGET:
            break
        rates[threads], share = trial(threads, SLICE)
        if share < UNDISTURBED and threads == cores:
            return None
        longest = max(longest, clock() - started)
    if not rates or not all(rates.values()):
        return None
    best = max(rates, key=lambda threads: rates[threads])
    chosen = best if rates[best] >= CLEARLY * rates[cores] else cores
    return {"threads": chosen, "cores": cores, "rates": {str(t): round(rate, 3) for t, rate in rates.items()}}


def tune_model(path: Path) -> dict[str, object] | None:
    """Try the model at ``path``: a genai folder, or an ONNX file. None where it cannot be tried like that."""
    trial = _language_trial(path) if path.is_dir() else _tensor_trial(path)
    try:
        return None if trial is None else tune(trial, base.usable_threads())
    except FAILURES:
        return None  # its inputs want something that nobody can guess


def _language_trial(folder: Path) -> Trial:
    import onnxruntime_genai as og  # noqa: PLC0415 - only language models need it

    vocabulary = json.loads((folder / "genai_config.json").read_bytes())["model"]["vocab_size"]

    def trial(threads: int, seconds: float) -> tuple[float, float]:
        config = og.Config(str(folder))
        config.clear_providers()
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        model = og.Model(config)
        _answer(og, model, vocabulary, 0.0)
        share = _share(threads)
        return _answer(og, model, vocabulary, seconds), share()

    return trial


def _answer(og: Native, model: Native, vocabulary: int, seconds: float) -> float:
    """Answers a second, reckoned from a prompt and as many tokens as fit into ``seconds``."""
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=4 * PROMPT, min_length=4 * PROMPT, do_sample=False)
    generator = og.Generator(model, parameters)
    began = time.monotonic()
    generator.append_tokens([number % vocabulary for number in range(1, PROMPT + 1)])
    generator.generate_next_token()
    reading, count = time.monotonic() - began, 0
    while count < 2 or (count < 2 * PROMPT and time.monotonic() < began + seconds):
        generator.generate_next_token()
        count += 1
    writing = time.monotonic() - began - reading
    return 1 / (reading + ANSWER * writing / count)


def _tensor_trial(path: Path) -> Trial | None:
    header = onnxheader.read_file(path)
    needed = [value for value in header.inputs if value.name not in header.optional]
    feed = feed_of(needed)
    if feed is None:
        return None

    def trial(threads: int, seconds: float) -> tuple[float, float]:
        session = open_session(path, threads)
        session.run(None, feed)
        share, began, count = _share(threads), time.monotonic(), 0
        while not count or time.monotonic() < began + seconds:
            session.run(None, feed)
            count += 1
        return count / (time.monotonic() - began), share()

    return trial


def _share(threads: int) -> Callable[[], float]:
    """Called later: which part of the time of so many threads this process has had since."""
    began, used = time.monotonic(), time.process_time()
    return lambda: (time.process_time() - used) / (threads * max(time.monotonic() - began, 1e-9))


def feed_of(values: Iterable[Value]) -> dict[str, Native] | None:
    """Something to run a model with: zeros, or a short text's worth of ones; None where no such thing can be made."""
    import numpy as np  # noqa: PLC0415 - likewise

    feed: dict[str, Native] = {}
    for value in values:
        kind = _SIZES.get(value.datatype, value.datatype.lower())
        if value.shape is None or not (value.datatype in _SIZES or value.datatype.startswith(("INT", "UINT"))):
            return None
        text = value.name in _TEXT
        shape = [size if size >= 0 else (PROMPT if text and at else 1) for at, size in enumerate(value.shape)]
        feed[value.name] = (np.ones if text else np.zeros)(shape, np.dtype(kind))
    return feed
