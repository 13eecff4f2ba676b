"""Makes an onnxruntime-genai folder from a GGUF file, without torch and without transformers.

``convert_gguf`` owns the order of the steps and the promise that ``out`` appears complete or not at all. The parts
know one thing each: ``gguf_file`` the container, ``architecture`` the model, ``weights`` the arithmetic, ``matrices``
the operators' data, ``graph`` the operators, ``tokenizer`` the vocabulary, ``genai_config`` the description.
Importing this package brings in numpy, onnx and gguf: the daemon runs it in a process of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from neuroshell_orch.models.convert.architecture import FAMILIES, Architecture, read_architecture
from neuroshell_orch.models.convert.data_file import DataFile, open_data_file
from neuroshell_orch.models.convert.genai_config import write_genai_config
from neuroshell_orch.models.convert.gguf_file import GgufFile
from neuroshell_orch.models.convert.graph import GraphBuilder
from neuroshell_orch.models.convert.matrices import Matrices, Precision
from neuroshell_orch.models.convert.tokenizer import write_tokenizer
from neuroshell_orch.models.new_folder import new_folder, require_free

__all__ = ["FAMILIES", "ConvertReport", "Precision", "convert_gguf"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ConvertReport:
    """What was made: ``data_bytes`` is the size of the weights' file."""

    folder: Path
    family: str
    precision: Precision
    layers: int
    context_length: int
    data_bytes: int
    has_template: bool
    seconds: float


def convert_gguf(
    gguf: Path,
    out: Path,
    *,
    precision: Precision = "int4",
    progress: Progress | None = None,
    all_logits: bool = False,
) -> ConvertReport:
    """Converts ``gguf`` into the new folder ``out``, which appears whole or not at all.

    ``progress`` is called with ``("convert", layers done, layers)``. ``all_logits`` makes a model that scores every
    position instead of the last one, which measuring needs and answering does not.
    Raises OrchError: ``file-missing``, ``model-invalid``, ``unsupported``, ``model-exists``, ``no-space``.
    """
    started = time.monotonic()
    require_free(out)
    with new_folder(out) as folder, GgufFile(gguf) as file:
        model = read_architecture(file)
        facts = write_tokenizer(file, folder, model.vocabulary)
        write_genai_config(folder, model, facts)
        size = _write_model(file, model, folder, precision, all_logits=all_logits, progress=progress)
    return ConvertReport(
        folder=out,
        family=model.family,
        precision=precision,
        layers=model.layers,
        context_length=model.context_length,
        data_bytes=size,
        has_template=facts.has_template,
        seconds=time.monotonic() - started,
    )


def _write_model(
    file: GgufFile,
    model: Architecture,
    folder: Path,
    precision: Precision,
    *,
    all_logits: bool,
    progress: Progress | None,
) -> int:
    def layer_done(count: int) -> None:
        if progress is not None:
            progress("convert", count, model.layers)

    layer_done(0)
    with open_data_file(folder, "model.onnx.data") as stream:
        data = DataFile(stream, "model.onnx.data")
        builder = GraphBuilder(file, model, Matrices(file, model, data, precision), all_logits=all_logits)
        proto = builder.build(layer_done)
        stream.flush()
        os.fsync(stream.fileno())
    onnx.save_model(proto, folder / "model.onnx")
    return data.size
