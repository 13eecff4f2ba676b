"""Makes an encoder's folder from sentence-transformers' layout with safetensors, without torch or transformers.

``convert_encoder`` owns the order of the steps and the promise that ``out`` appears complete or not at all. The parts
know one thing each: ``safetensors_file`` the container, ``architecture`` the model, ``graph`` the operators,
``archive`` the ZIP file that the folder may come in; the folder's description is ``encoders``'. Importing this package
brings in numpy and onnx: the daemon runs it in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from neuroshell_orch import encoders
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.convert.data_file import DataFile, open_data_file
from neuroshell_orch.models.convert_encoder.architecture import FAMILIES, read_architecture
from neuroshell_orch.models.convert_encoder.archive import unpack
from neuroshell_orch.models.convert_encoder.graph import GraphBuilder
from neuroshell_orch.models.convert_encoder.safetensors_file import SafetensorsFile
from neuroshell_orch.models.new_folder import new_folder, require_free

__all__ = ["FAMILIES", "EncoderReport", "convert_encoder"]

Progress = Callable[[str, int, int], None]

_GRAPH = "model.onnx"
_TOKENIZER = "tokenizer.json"
_TOKENIZER_LIMIT = 64 << 20


@dataclass(frozen=True)
class EncoderReport:
    """What was made: ``data_bytes`` is the size of the weights' file."""

    folder: Path
    encoder: encoders.Encoder
    layers: int
    data_bytes: int
    seconds: float


def convert_encoder(source: Path, out: Path, *, progress: Progress | None = None) -> EncoderReport:
    """Converts ``source`` (a folder, or a ZIP file of one) into the new folder ``out``, which appears whole or not.

    ``progress`` is called with ``("convert", layers done, layers)``.
    Raises OrchError: ``file-missing``, ``model-invalid``, ``unsupported``, ``model-exists``, ``no-space``.
    """
    started = time.monotonic()
    require_free(out)
    with new_folder(out) as folder, _as_folder(source, out.parent) as origin:
        described = encoders.read(origin)
        base = (origin / described.tokenizer).parent
        with SafetensorsFile(base / encoders.WEIGHTS) as file:
            model = read_architecture(base / "config.json", file)
            if described.max_tokens > model.positions or described.dimensions != model.hidden:
                message = f"{origin}: max_seq_length or word_embedding_dimension does not fit config.json."
                raise OrchError("model-invalid", message, "Fetch the model again.")
            _write_tokenizer(origin / described.tokenizer, folder / _TOKENIZER, model.vocabulary)

            def layer_done(count: int) -> None:
                if progress is not None:
                    progress("convert", count, model.layers)

            layer_done(0)
            with open_data_file(folder, f"{_GRAPH}.data") as stream:
                data = DataFile(stream, f"{_GRAPH}.data")
                proto = GraphBuilder(file, model, data).build(layer_done)
                stream.flush()
                os.fsync(stream.fileno())
        onnx.save_model(proto, folder / _GRAPH)
        encoder = msgspec.structs.replace(described, graph=_GRAPH, tokenizer=_TOKENIZER)
        encoders.write(folder, encoder)
    return EncoderReport(out, encoder, model.layers, data.size, time.monotonic() - started)


@contextlib.contextmanager
def _as_folder(source: Path, beside: Path) -> Iterator[Path]:
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix=f".{source.name}.", dir=beside) as scratch:
        unpack(source, Path(scratch))
        yield Path(scratch)


def _write_tokenizer(source: Path, target: Path, vocabulary: int) -> None:
    """A copy without padding and truncation, which are the runtime's to do. Raises OrchError."""
    try:
        if not source.is_file() or source.stat().st_size > _TOKENIZER_LIMIT:
            raise OrchError("file-missing", f"{source} is missing, or too large.", "A fast tokenizer is needed.")
        found = json.loads(source.read_bytes())
        largest = max(found["model"]["vocab"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = f"{source} is not a tokenizer with a vocabulary."
        raise OrchError("model-invalid", message, "Fetch the model again.") from None
    if type(largest) is not int or largest >= vocabulary:
        message = f"{source} has the token {largest}, and the model only {vocabulary}."
        raise OrchError("model-invalid", message, "Fetch the model again.")
    found |= {"padding": None, "truncation": None}
    target.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
