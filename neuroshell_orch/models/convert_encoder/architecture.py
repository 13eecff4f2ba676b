"""What ``config.json`` and the tensors say about the model: BERT's sizes, and that every weight is there.

Owns the family that can be converted and the checks that make the rest safe: every size is bounded, and every tensor
has the shape that the sizes imply. Knows nothing about ONNX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.convert_encoder.safetensors_file import SafetensorsFile

FAMILIES: Final = ("bert",)
_SUPPORTED: Final = "Encoders of these families can be converted: " + ", ".join(FAMILIES) + "."
_UNUSED: Final = ("pooler.", "embeddings.position_ids", "cls.")
"""Tensors of a BERT that a sentence encoder does not need."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of one BERT. ``prefix`` goes before every tensor's name."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float
    prefix: str


def read_architecture(path: Path, file: SafetensorsFile) -> Architecture:
    """The model that the ``config.json`` at ``path`` describes, checked against ``file``. Raises OrchError."""
    fields = _Fields(path)
    family = fields.values.get("model_type")
    if family not in FAMILIES:
        raise OrchError("unsupported", f"{path}: the model is of the family {str(family)[:40]!r}.", _SUPPORTED)
    for key, wanted in {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}.items():
        if fields.values.get(key, wanted) != wanted:
            raise OrchError("unsupported", f"{path}: {key} is not {wanted}.", _SUPPORTED)
    hidden, heads = fields.whole("hidden_size", 1 << 16), fields.whole("num_attention_heads", 1024)
    if hidden % heads:
        raise fields.invalid(f"num_attention_heads is {heads}, which does not divide hidden_size {hidden}")
    model = Architecture(
        layers=fields.whole("num_hidden_layers", 1024),
        hidden=hidden,
        intermediate=fields.whole("intermediate_size", 1 << 20),
        heads=heads,
        vocabulary=fields.whole("vocab_size", 1 << 24),
        positions=fields.whole("max_position_embeddings", 1 << 20),
        types=fields.whole("type_vocab_size", 1024),
        epsilon=fields.number("layer_norm_eps", 1.0),
        prefix="bert." if "bert.embeddings.word_embeddings.weight" in file.tensors else "",
    )
    _check_tensors(file, model)
    return model


class _Fields:
    """The fields of ``config.json``, typed and bounded. ``encoders.read`` has seen the file already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any]
        try:
            self.values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self.invalid("it is not a JSON object") from None
        except OSError as error:
            raise OrchError("file-missing", f"{path} cannot be read: {error.strerror}.", "") from None

    def whole(self, key: str, most: int) -> int:
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= most:
            raise self.invalid(f"{key} must be a whole number from 1 to {most}")
        return value

    def number(self, key: str, most: float) -> float:
        value = self.values.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not 0 < value <= most
        ):
            raise self.invalid(f"{key} must be a number above 0, {most:g} at most")
        return float(value)

    def invalid(self, what: str) -> OrchError:
        return OrchError("model-invalid", f"{self.path}: {what}.", "Fetch the model again.")


def expected_tensors(model: Architecture) -> dict[str, tuple[int, ...]]:
    """Every tensor that the graph reads, with its shape; the names are without the prefix."""
    hidden, wide = model.hidden, model.intermediate
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (model.vocabulary, hidden),
        "embeddings.position_embeddings.weight": (model.positions, hidden),
        "embeddings.token_type_embeddings.weight": (model.types, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(model.layers):
        for name, (rows, columns) in {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (wide, hidden),
            "output.dense": (hidden, wide),
        }.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{layer}.{name}.bias"] = (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shapes[f"encoder.layer.{layer}.{name}.bias"] = (hidden,)
    return shapes


def _check_tensors(file: SafetensorsFile, model: Architecture) -> None:
    shapes = expected_tensors(model)
    for name, shape in shapes.items():
        entry = file.tensors.get(model.prefix + name)
        if entry is None:
            file.invalid(f"tensor {model.prefix + name!r}", "is missing")
        if entry.shape != shape:
            file.invalid(f"tensor {model.prefix + name!r}", f"has the shape {entry.shape}, {shape} was expected")
    known = shapes.keys()
    unknown = [
        name
        for name in sorted(file.tensors)
        if name.removeprefix(model.prefix) not in known and not name.removeprefix(model.prefix).startswith(_UNUSED)
    ]
    if unknown:
        raise OrchError(
            "unsupported", f"{file.path}: the tensor {unknown[0][:200]!r} is no part of a plain BERT.", _SUPPORTED
        )
