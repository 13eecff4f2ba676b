"""Tiny GGUF files with fixed random weights, one for each trait in which the families differ.

Used by the tests and by the script that asked transformers for the reference, so both see the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, CONTEXT = 2, 64, 96, 4, 2, 128
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = ["th", "the", "in", "an", "and", "Ġt", "Ġth", "Ġthe", "er", "on"]
MERGES = ["t h", "th e", "i n", "a n", "an d", "Ġ t", "Ġt h", "Ġth e", "e r", "o n"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


@dataclass(frozen=True)
class Tiny:
    """One file: ``head_size`` may differ from HIDDEN / HEADS, ``kind`` is the matrices' block type."""

    name: str
    family: str
    seed: int
    head_size: int = HIDDEN // HEADS
    tied: bool = True
    bias: bool = False
    head_norm: bool = False
    kind: str = "F32"
    rope_base: float = 10000.0
    pre: str = "qwen2"


TINY = {
    tiny.name: tiny
    for tiny in (
        Tiny("llama-tied", "llama", 1, pre="smollm"),
        Tiny("llama-untied", "llama", 2, tied=False, kind="F16", pre="llama-bpe"),
        Tiny("qwen2", "qwen2", 3, bias=True, rope_base=1000000.0),
        Tiny("qwen2-untied", "qwen2", 4, tied=False, bias=True, kind="Q8_0"),
        Tiny("qwen3", "qwen3", 5, head_size=32, head_norm=True, rope_base=1000000.0),
    )
}


def alphabet() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary, in the order of the bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def shapes(tiny: Tiny) -> dict[str, tuple[int, ...]]:
    """Every tensor of the file, as numpy counts."""
    vocabulary = len(SPECIAL) + 256 + len(WORDS)
    query, key = HEADS * tiny.head_size, KV_HEADS * tiny.head_size
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, HIDDEN), "output_norm.weight": (HIDDEN,)}
    if not tiny.tied:
        found["output.weight"] = (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        found |= {at + f"{name}.weight": (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
        found |= {
            at + "attn_q.weight": (query, HIDDEN),
            at + "attn_k.weight": (key, HIDDEN),
            at + "attn_v.weight": (key, HIDDEN),
            at + "attn_output.weight": (HIDDEN, query),
            at + "ffn_gate.weight": (INTERMEDIATE, HIDDEN),
            at + "ffn_up.weight": (INTERMEDIATE, HIDDEN),
            at + "ffn_down.weight": (HIDDEN, INTERMEDIATE),
        }
        if tiny.bias:
            found |= {at + "attn_q.bias": (query,), at + "attn_k.bias": (key,), at + "attn_v.bias": (key,)}
        if tiny.head_norm:
            found |= {at + f"attn_{part}_norm.weight": (tiny.head_size,) for part in "qk"}
    return found


def write_tiny(path: Path, tiny: Tiny) -> Path:
    """Writes the file; the same ``tiny`` always gives the same weights."""
    writer = GGUFWriter(path, tiny.family)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(tiny.head_size)
    writer.add_value_length(tiny.head_size)
    writer.add_rope_freq_base(tiny.rope_base)
    writer.add_layer_norm_rms_eps(1e-6)
    if tiny.family == "llama":
        writer.add_rope_dimension_count(tiny.head_size)
        writer.add_vocab_size(len(SPECIAL) + 256 + len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tiny.pre)
    tokens = [*SPECIAL, *alphabet(), *WORDS]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    random = np.random.Generator(np.random.PCG64(tiny.seed))
    kind = GGMLQuantizationType[tiny.kind]
    for name, shape in shapes(tiny).items():
        values = random.integers(-1000, 1001, shape).astype(np.float32) / np.float32(4000)
        if name.endswith("norm.weight"):
            values += 1
        if len(shape) == 1 or kind is GGMLQuantizationType.F32:
            writer.add_tensor(name, values)
            continue
        # The attention's output is the one matrix whose Q4_1 is rounded: Q4_0 there makes the whole file exact.
        its = GGMLQuantizationType.Q4_0 if kind is GGMLQuantizationType.Q4_1 and "attn_output" in name else kind
        writer.add_tensor(name, quantize(values, its), raw_dtype=its)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sequence() -> list[int]:
    """The tokens that the reference scored."""
    return np.random.Generator(np.random.PCG64(9)).integers(0, len(SPECIAL) + 256 + len(WORDS), 40).tolist()
