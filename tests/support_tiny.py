"""A language model of a few kilobytes: the real graph, the real tokenizer, random weights.

Owns one function that writes an onnxruntime-genai folder whose answers are gibberish but deterministic, so that
worker and runtime tests need no download. Must not know the package it tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTEXT = 256
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD = 32, 2, 4, 2, 16
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tokenizer(folder: Path) -> int:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog, user and assistant"] * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": TEMPLATE,
        "added_tokens_decoder": {
            str(number): {"content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
            for number, text in enumerate(SPECIALS)
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


def _graph(vocabulary: int, seed: int) -> onnx.ModelProto:
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int, scale: float = 0.3) -> str:
        values = random.standard_normal(shape).astype(np.float32) * scale
        weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values, name))
        return name

    def node(kind: str, inputs: list[str], output: str, domain: str = "", **attributes) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def norm(value: str, name: str) -> str:
        ones = constant(f"{name}.weight", np.ones(HIDDEN, np.float32))
        return node("SimplifiedLayerNormalization", [value, ones], name, epsilon=1e-5, axis=-1, stash_type=1)

    angles = np.outer(np.arange(CONTEXT), 1.0 / 10000.0 ** (np.arange(0, HEAD, 2) / HEAD))
    cos, sin = (constant(n, f(angles).astype(np.float32)) for n, f in (("cos", np.cos), ("sin", np.sin)))
    total = node("ReduceSum", ["attention_mask", constant("axis1", np.array([1], np.int64))], "mask.sum", keepdims=0)
    past = node("Sub", [total, constant("one", np.array([1], np.int64))], "mask.past")
    lengths = node("Cast", [past], "seqlens_k", to=TensorProto.INT32)
    width = node("Gather", [node("Shape", ["attention_mask"], "mask.shape"), constant("i1", np.array(1))], "mask.width")
    longest = node("Cast", [width], "total_length", to=TensorProto.INT32)

    hidden = node("Gather", [weight("embedding", vocabulary, HIDDEN, scale=1.0), "input_ids"], "embedded")
    extra: list[str] = []
    for layer in range(LAYERS):
        at = f"layer{layer}"
        before = norm(hidden, f"{at}.norm1")
        q, k, v = (
            node("MatMul", [before, weight(f"{at}.{n}.weight", HIDDEN, heads * HEAD)], f"{at}.{n}")
            for n, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
        )
        cache = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        present = [f"present.{layer}.key", f"present.{layer}.value"]
        nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [q, k, v, *cache, lengths, longest, cos, sin],
                [f"{at}.attention", *present],
                domain="com.microsoft",
                num_heads=HEADS,
                kv_num_heads=KV_HEADS,
                do_rotary=1,
            )
        )
        extra += [*cache, *present]
        out = node("MatMul", [f"{at}.attention", weight(f"{at}.o.weight", HEADS * HEAD, HIDDEN)], f"{at}.o")
        hidden = node("Add", [hidden, out], f"{at}.sum1")
        up = node("MatMul", [norm(hidden, f"{at}.norm2"), weight(f"{at}.up.weight", HIDDEN, 64)], f"{at}.up")
        gate = node("Mul", [up, node("Sigmoid", [up], f"{at}.sigmoid")], f"{at}.gate")
        down = node("MatMul", [gate, weight(f"{at}.down.weight", 64, HIDDEN)], f"{at}.down")
        hidden = node("Add", [hidden, down], f"{at}.sum2")
    node("MatMul", [norm(hidden, "norm"), weight("head.weight", HIDDEN, vocabulary)], "logits")

    def value(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(shape))

    def cached(name: str) -> onnx.ValueInfoProto:
        return value(name, TensorProto.FLOAT, "batch", KV_HEADS, "total" if "present" in name else "past", HEAD)

    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            value("input_ids", TensorProto.INT64, "batch", "sequence"),
            value("attention_mask", TensorProto.INT64, "batch", "total"),
            *(cached(name) for name in extra if name.startswith("past")),
        ],
        [
            value("logits", TensorProto.FLOAT, "batch", "sequence", vocabulary),
            *(cached(name) for name in extra if name.startswith("present")),
        ],
        initializer=weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def tiny_genai_folder(path: Path, *, seed: int = 0) -> Path:
    """Write the model into the new folder ``path`` and return it. Weights lie in ``model.onnx.data``."""
    path.mkdir(parents=True)
    vocabulary = _tokenizer(path)
    onnx.save_model(
        _graph(vocabulary, seed),
        str(path / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=1024,
    )
    names = {
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    config = {
        "model": {
            "type": "llama",
            "bos_token_id": 1,
            "eos_token_id": [2, 0],
            "pad_token_id": 2,
            "vocab_size": vocabulary,
            "context_length": CONTEXT,
            "decoder": {
                "session_options": {"log_id": "tiny", "provider_options": []},
                "filename": "model.onnx",
                "head_size": HEAD,
                "hidden_size": HIDDEN,
                "num_attention_heads": HEADS,
                "num_key_value_heads": KV_HEADS,
                "num_hidden_layers": LAYERS,
                **names,
            },
        },
        "search": {"max_length": CONTEXT, "do_sample": False, "past_present_share_buffer": True},
    }
    (path / "genai_config.json").write_text(json.dumps(config, indent=1))
    return path
