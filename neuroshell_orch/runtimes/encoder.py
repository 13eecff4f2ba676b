"""Encoders: texts into vectors, by an ONNX graph, a tokenizer and the pooling that the model's folder names.

Owns the batches, the pooling and the length of a vector. The session, with all its errors, its cancelling and its
hibernation, is ``onnx``'s; tokens are ``encoder_text``'s. An input's vector does not depend on what else is in the
request but for the last digits of rounding. Must not know who asks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import tokenizers
from numpy.typing import NDArray

from neuroshell_orch import encoders
from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import tensors
from neuroshell_orch.runtimes.encoder_text import Texts, Tokens
from neuroshell_orch.runtimes.onnx import OnnxRuntime
from neuroshell_orch.workers.protocol import Done, Embed, Embedded, Generate, Infer, Load, Loaded, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Floats = NDArray[np.float32]

BATCH_TOKENS: Final = 2048
"""Tokens of a batch with its padding: more would not be faster, but take memory and longer to cancel."""
BATCH_ROWS: Final = 64
OUTPUTS: Final = ("last_hidden_state", "token_embeddings")
_FEEDS: Final = ("input_ids", "attention_mask", "token_type_ids")
_INTEGERS: Final = {"INT64": np.int64, "INT32": np.int32}


def create() -> EncoderRuntime:
    """For the registry."""
    return EncoderRuntime()


class EncoderRuntime:
    """One encoder."""

    def __init__(self) -> None:
        self._onnx = OnnxRuntime()
        self._encoder: encoders.Encoder | None = None
        self._texts: Texts | None = None
        self._feeds: dict[str, str] = {}
        self._output = ""

    def standby(self) -> str:
        """Load the dummy model and run it; the tokenizer's library is imported with this module."""
        return self._named(self._onnx.standby())

    def load(self, load: Load) -> Loaded:
        """Load an encoder's folder."""
        folder = Path(os.path.realpath(load.path))
        if not folder.exists():
            raise OrchError("file-missing", f"There is no {folder}.", "Add the model again, or remove it.")
        if not encoders.is_encoder(folder):
            hint = f"A folder with {encoders.FILE} or {encoders.MODULES} was expected."
            raise OrchError("model-invalid", f"{folder} is no encoder.", hint)
        encoder = encoders.read(folder)
        if not encoder.graph:
            raise OrchError("model-invalid", f"{folder} has no ONNX model.", "Convert it: nsorch model add NAME PATH")
        limit = min(encoder.max_tokens, load.context_length or encoder.max_tokens)
        texts = Texts(folder, encoder, limit)
        graph = folder / encoder.graph
        loaded = self._onnx.load(msgspec.structs.replace(load, path=str(graph)))
        self._feeds = {info.name: info.datatype for info in loaded.inputs}
        self._output = next((info.name for info in loaded.outputs if info.name in OUTPUTS and len(info.shape) == 3), "")
        fits = all(name in _FEEDS and kind in _INTEGERS for name, kind in self._feeds.items())
        if not fits or "input_ids" not in self._feeds or not self._output:
            raise OrchError(
                "unsupported",
                f"{graph} is not the graph of an encoder.",
                f"It must take {', '.join(_FEEDS)} and have the output {' or '.join(OUTPUTS)}.",
            )
        self._encoder, self._texts = encoder, texts
        version = self._named(loaded.runtime_version)
        return msgspec.structs.replace(loaded, context_length=limit, runtime_version=version, inputs=[], outputs=[])

    def hibernate(self) -> int:
        """Give the weights back."""
        return self._onnx.hibernate()

    def wake(self) -> None:
        """Fault the weights in."""
        self._onnx.wake()

    def generate(self, request: Generate, emit: Callable[[str, int], None], cancelled: Callable[[], bool]) -> Done:  # noqa: ARG002
        """Not for encoders."""
        raise OrchError("unsupported", "This model turns texts into vectors; it cannot chat.", "Use `nsorch embed`.")

    def infer(self, request: Infer, cancelled: Callable[[], bool]) -> list[Tensor]:  # noqa: ARG002
        """Not for encoders."""
        raise OrchError("unsupported", "This model takes texts, not tensors.", "Use `nsorch embed` with it.")

    def embed(self, request: Embed, cancelled: Callable[[], bool]) -> Embedded:
        """A vector for each input."""
        if self._encoder is None or self._texts is None:
            raise OrchError("internal", "This runtime holds no model.", "Load one first.")
        encoder, texts = self._encoder, self._texts
        size = request.dimensions or encoder.dimensions
        if not encoder.allows(size):
            known = "any number below it" if encoder.any_shorter else ", ".join(map(str, sorted(encoder.shorter)))
            hint = f"It has {encoder.dimensions}" + (f", or {known}." if known else "; fewer would mean nothing.")
            raise OrchError("unsupported", f"This model has no vectors of {size} dimensions.", hint)
        read: list[Tokens] = []
        for number, given in enumerate(request.inputs):
            if cancelled():
                raise OrchError("cancelled", "The request was cancelled.")
            read.append(texts.tokens(given, number))
            if read[-1].truncated and not request.truncate:
                message = f"input[{number}] is longer than the model reads."
                raise OrchError("prompt-too-long", message, "Shorten or split it, or allow it to be cut off.")
        vectors = np.zeros((len(read), size), np.float32)
        for rows in batches([len(tokens.ids) for tokens in read]):
            if cancelled():
                raise OrchError("cancelled", "The request was cancelled.")
            pooled = self._run([read[row].ids for row in rows], encoder, texts.padding, cancelled)
            vectors[rows] = shortened(pooled, size, normalise=encoder.normalise)
        return Embedded(
            job=request.job,
            dimensions=size,
            vectors=vectors.astype("<f4").tobytes(),
            tokens=sum(len(tokens.ids) for tokens in read),
            truncated=sum(tokens.truncated for tokens in read),
        )

    def _run(
        self, ids: list[list[int]], encoder: encoders.Encoder, padding: int, cancelled: Callable[[], bool]
    ) -> Floats:
        longest = max(map(len, ids))
        mask = np.zeros((len(ids), longest), np.int64)
        filled = np.full((len(ids), longest), padding, np.int64)
        for row, tokens in enumerate(ids):
            filled[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        values: dict[str, NDArray[Any]] = {
            "input_ids": filled,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        inputs = [
            tensors.from_numpy(name, kind, values[name].astype(_INTEGERS[kind])) for name, kind in self._feeds.items()
        ]
        (output,) = self._onnx.infer(Infer(1, inputs, [self._output]), cancelled)
        hidden = np.asarray(tensors.to_numpy(output), np.float32)
        if hidden.shape != (len(ids), longest, encoder.dimensions):
            message = f"The model's vectors are not of the size {encoder.dimensions} that its folder names."
            raise OrchError("model-invalid", message, "Fetch the model again.")
        return pool(hidden, mask, encoder.pooling)

    @staticmethod
    def _named(version: str) -> str:
        return f"{version}, tokenizers {tokenizers.__version__}"


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of the inputs in batches of like length, the longest first."""
    rows: list[int] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if rows and ((len(rows) + 1) * longest > BATCH_TOKENS or len(rows) == BATCH_ROWS):
            yield rows
            rows = []
        longest = longest if rows else lengths[row]
        rows.append(row)
    if rows:
        yield rows


def pool(hidden: Floats, mask: NDArray[np.int64], pooling: encoders.Pooling) -> Floats:
    """One vector for each row of tokens' vectors: that of the first token, or the mean of all that are not padding."""
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask[:, None, :].astype(np.float32)
    total: Floats = np.matmul(weights, hidden)[:, 0] / np.maximum(weights.sum(axis=2), 1)
    return total


def shortened(vectors: Floats, size: int, *, normalise: bool) -> Floats:
    """The first ``size`` values, with the length 1 where the model's vectors have it."""
    vectors = vectors[:, :size]
    if normalise:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors
