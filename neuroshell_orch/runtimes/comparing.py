"""Whether a prepared copy computes what its model does, by running both.

Owns what is run and how much may differ. A copy rests on what onnxruntime saves and how it maps that again; should a
version do one of them otherwise, nothing but the results would show it. Where nothing can be made up to run a model
with, or where it says something else each time, nothing is known. Must not know who wants the answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from neuroshell_orch.runtimes import onnxheader, tuning
from neuroshell_orch.runtimes.onnx import FAILURES, open_session

if TYPE_CHECKING:
    from pathlib import Path

Native: TypeAlias = Any

TOLERANCE: Final = 1e-3
"""Part of the largest value that may differ: on one machine nothing does, but another kernel rounds otherwise."""
TOKENS: Final = 24
STEPS: Final = 2
"""Tokens that are read at once, and one by one after that: these take other kernels."""


def alike(source: Path, copy: Path) -> bool:
    """Whether both, ONNX files or genai folders, compute the same as far as that can be told."""
    run = _language if source.is_dir() else _tensors
    try:
        expected = run(source)
    except FAILURES:
        expected = None  # not runnable with what was made up
    try:
        if expected is None:
            return _opens(copy)
        found = run(copy)
    except FAILURES:
        return False
    return found is not None and (_same(expected, found) or not _same(expected, run(source) or []))


def _opens(copy: Path) -> bool:
    """Of a model that cannot be run here nothing else can be told. Raises as onnxruntime does."""
    if not copy.is_dir():
        open_session(copy, 1)
    return True


def _same(expected: list[Native], found: list[Native]) -> bool:
    return len(expected) == len(found) and all(map(_close, expected, found))


def _close(one: Native, other: Native) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    finite = one[np.isfinite(one)]
    most = float(np.abs(finite).max()) if finite.size else 0.0
    return bool(np.allclose(one, other, rtol=0, atol=TOLERANCE * most, equal_nan=True))


def _tensors(path: Path) -> list[Native] | None:
    header = onnxheader.read_file(path)
    feed = tuning.feed_of(value for value in header.inputs if value.name not in header.optional)
    if feed is None:
        return None
    random = np.random.default_rng(1)  # zeros would hide what they are multiplied by
    feed = {n: random.standard_normal(x.shape).astype(x.dtype) if x.dtype.kind == "f" else x for n, x in feed.items()}
    found: list[Native] = open_session(path, 1).run(None, feed)
    return [np.asarray(tensor) for tensor in found if getattr(tensor, "dtype", None) is not None]


def _language(folder: Path) -> list[Native]:
    import onnxruntime_genai as og  # noqa: PLC0415 - only language models need it

    vocabulary = json.loads((folder / "genai_config.json").read_bytes())["model"]["vocab_size"]
    config = og.Config(str(folder))
    config.clear_providers()
    model = og.Model(config)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=TOKENS + STEPS + 1, do_sample=False)
    generator = og.Generator(model, parameters)
    found = []
    for tokens in ([*range(1, TOKENS + 1)], *([number] for number in range(1, STEPS + 1))):
        generator.append_tokens([number % vocabulary for number in tokens])
        found.append(np.array(generator.get_logits(), np.float32)[..., -1, :])
    return found
