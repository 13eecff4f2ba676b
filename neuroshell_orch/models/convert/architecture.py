"""What a GGUF file's fields and tensors say about the model: its family, its sizes, its rotary angles.

Owns the table of families that can be converted and the checks that make the rest safe: every size is bounded and
every tensor is there with the shape that the sizes imply. Knows nothing about ONNX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.convert.gguf_file import GgufFile

FAMILIES: Final = ("llama", "qwen2", "qwen3")
_SUPPORTED: Final = "Models of these families can be converted: " + ", ".join(FAMILIES) + "."


@dataclass(frozen=True)
class Architecture:
    """The sizes of one decoder and the traits in which the families differ."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context_length: int
    epsilon: float
    rope_base: float
    rope_scale: float
    """Positions are divided by this; 1 where the file asks for no scaling."""
    tied: bool
    """The embedding matrix is the output matrix too."""
    bias: bool
    """Queries, keys and values have an added bias."""
    head_norm: bool
    """Each head's query and key is normalised before it is rotated."""
    interleaved: bool
    """Rows of the query and key matrices are in the order of neighbouring pairs, not of two halves."""

    @property
    def query_size(self) -> int:
        """Values in all query heads together."""
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Values in all key heads together."""
        return self.kv_heads * self.head_size


def read_architecture(file: GgufFile) -> Architecture:
    """The model in ``file``, checked. Raises ``unsupported`` for another family, ``model-invalid`` for a bad field."""
    family = file.fields.get("general.architecture")
    if not isinstance(family, str):
        file.invalid("general.architecture", "is missing, so this is not a language model")
    if family not in FAMILIES:
        raise OrchError("unsupported", f"{file.path}: the model is of the family {family!r}.", _SUPPORTED)
    fields = _Fields(file, family)
    hidden = fields.integer("embedding_length", 1, 1 << 17)
    heads = fields.integer("attention.head_count", 1, 1024)
    head_size = fields.integer("attention.key_length", 1, 1024, default=hidden // heads)
    if fields.integer("attention.value_length", 1, 1024, default=head_size) != head_size:
        file.invalid(f"{family}.attention.value_length", "differs from key_length, which is not supported")
    if head_size % 2 or fields.integer("rope.dimension_count", 1, 1024, default=head_size) != head_size:
        file.invalid(f"{family}.rope.dimension_count", f"must be the head's size, {head_size}, and even")
    kv_heads = fields.integer("attention.head_count_kv", 1, heads, default=heads)
    if heads % kv_heads:
        file.invalid(f"{family}.attention.head_count_kv", f"is {kv_heads}, which does not divide {heads} heads")
    if "token_embd.weight" not in file.tensors:
        file.invalid("tensor 'token_embd.weight'", "is missing")
    if fields.integer("expert_count", 0, 1 << 16, default=0):
        raise OrchError("unsupported", f"{file.path}: the model is a mixture of experts.", _SUPPORTED)
    model = Architecture(
        family=family,
        layers=fields.integer("block_count", 1, 1024),
        hidden=hidden,
        intermediate=fields.integer("feed_forward_length", 1, 1 << 20),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=file.tensors["token_embd.weight"].shape[0],
        context_length=fields.integer("context_length", 1, 1 << 24),
        epsilon=fields.number("attention.layer_norm_rms_epsilon", 0.0, 1.0),
        rope_base=fields.number("rope.freq_base", 1.0, 1e12, default=10000.0),
        rope_scale=_rope_scale(file, fields),
        tied="output.weight" not in file.tensors,
        bias="blk.0.attn_q.bias" in file.tensors,
        head_norm=family == "qwen3",
        interleaved=family == "llama",
    )
    _check_tensors(file, model)
    return model


class _Fields:
    """The family's own fields, typed and bounded."""

    def __init__(self, file: GgufFile, family: str) -> None:
        self.file = file
        self.family = family

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        key = f"{self.family}.{name}"
        value = self.file.fields.get(key, default)
        if value is None:
            self.file.invalid(key, "is missing")
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.file.invalid(key, f"is {_short(value)}, a whole number from {low} to {high} was expected")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        key = f"{self.family}.{name}"
        value = self.file.fields.get(key, default)
        if value is None:
            self.file.invalid(key, "is missing")
        if not isinstance(value, float) or not math.isfinite(value) or not low <= value <= high:
            self.file.invalid(key, f"is {_short(value)}, a number from {low:g} to {high:g} was expected")
        return value

    def text(self, name: str) -> str | None:
        key = f"{self.family}.{name}"
        value = self.file.fields.get(key)
        if value is not None and not isinstance(value, str):
            self.file.invalid(key, f"is {_short(value)}, text was expected")
        return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _rope_scale(file: GgufFile, fields: _Fields) -> float:
    kind = fields.text("rope.scaling.type")
    if kind in (None, "none"):
        return 1.0
    if kind != "linear":
        raise OrchError(
            "unsupported",
            f"{file.path}: {fields.family}.rope.scaling.type is {kind!r}.",
            "Rotary embeddings without scaling or with linear scaling can be converted.",
        )
    return fields.number("rope.scaling.factor", 1.0, 1e6)


def expected_tensors(model: Architecture) -> dict[str, tuple[int, ...]]:
    """Every tensor that the graph reads, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (model.vocabulary, model.hidden),
        "output_norm.weight": (model.hidden,),
    }
    if not model.tied:
        shapes["output.weight"] = (model.vocabulary, model.hidden)
    for layer in range(model.layers):
        prefix = f"blk.{layer}."
        shapes |= {
            prefix + "attn_norm.weight": (model.hidden,),
            prefix + "attn_q.weight": (model.query_size, model.hidden),
            prefix + "attn_k.weight": (model.kv_size, model.hidden),
            prefix + "attn_v.weight": (model.kv_size, model.hidden),
            prefix + "attn_output.weight": (model.hidden, model.query_size),
            prefix + "ffn_norm.weight": (model.hidden,),
            prefix + "ffn_gate.weight": (model.intermediate, model.hidden),
            prefix + "ffn_up.weight": (model.intermediate, model.hidden),
            prefix + "ffn_down.weight": (model.hidden, model.intermediate),
        }
        if model.bias:
            shapes |= {
                prefix + "attn_q.bias": (model.query_size,),
                prefix + "attn_k.bias": (model.kv_size,),
                prefix + "attn_v.bias": (model.kv_size,),
            }
        if model.head_norm:
            shapes |= {
                prefix + "attn_q_norm.weight": (model.head_size,),
                prefix + "attn_k_norm.weight": (model.head_size,),
            }
    return shapes


def _check_tensors(file: GgufFile, model: Architecture) -> None:
    shapes = expected_tensors(model)
    for name, shape in shapes.items():
        if name not in file.tensors:
            file.invalid(f"tensor {name!r}", "is missing")
        if file.tensors[name].shape != shape:
            file.invalid(f"tensor {name!r}", f"has the shape {file.tensors[name].shape}, {shape} was expected")
    extra = {"rope_freqs.weight": (model.head_size // 2,)}
    if "rope_freqs.weight" in file.tensors and file.tensors["rope_freqs.weight"].shape != extra["rope_freqs.weight"]:
        file.invalid("tensor 'rope_freqs.weight'", f"must have the shape {extra['rope_freqs.weight']}")
    unknown = sorted(file.tensors.keys() - shapes.keys() - extra.keys())
    if unknown:
        raise OrchError(
            "unsupported",
            f"{file.path}: the tensor {unknown[0]!r} is no part of a plain {model.family} model.",
            _SUPPORTED,
        )
