"""Builds the ONNX graph of one decoder, as onnxruntime-genai expects it: ids and a mask in, logits and caches out.

Owns the order of operators and the names of inputs and outputs. One GroupQueryAttention per layer rotates, appends to
the cache and attends; the residual sums ride on the norms. Weights come from ``matrices``, and this module does not
know in which precision they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from neuroshell_orch.models.convert.architecture import Architecture
from neuroshell_orch.models.convert.gguf_file import GgufFile
from neuroshell_orch.models.convert.matrices import Matrices

MICROSOFT: Final = "com.microsoft"
_OPSET: Final = 21
_IR_VERSION: Final = 10


class GraphBuilder:
    """Collects the nodes of one model. ``build`` may be called once."""

    def __init__(self, file: GgufFile, model: Architecture, matrices: Matrices, *, all_logits: bool) -> None:
        self.file = file
        self.model = model
        self.matrices = matrices
        self.all_logits = all_logits
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []

    def build(self, layer_done: Callable[[int], None]) -> ModelProto:
        """The whole model; ``layer_done`` is told how many layers are written."""
        model = self.model
        self._input("input_ids", TensorProto.INT64, ["batch", "sequence"])
        self._input("attention_mask", TensorProto.INT64, ["batch", "total"])
        self._masks()
        self._rotary()
        hidden = self.matrices.embed("input_ids", "embedding")
        self.nodes += self.matrices.take_nodes()
        normed = self._node(
            "SimplifiedLayerNormalization",
            [hidden, self._vector("blk.0.attn_norm.weight")],
            ["norm.0"],
            epsilon=model.epsilon,
            axis=-1,
            stash_type=1,
        )
        for layer in range(model.layers):
            attended = self._attention(layer, normed)
            hidden, normed = self._skip_norm(f"mid.{layer}", hidden, attended, f"blk.{layer}.ffn_norm.weight")
            fed = self._feed_forward(layer, normed)
            last = layer == model.layers - 1
            following = "output_norm.weight" if last else f"blk.{layer + 1}.attn_norm.weight"
            hidden, normed = self._skip_norm(f"end.{layer}", hidden, fed, following)
            layer_done(layer + 1)
        if not self.all_logits:
            # Only the last position is ever sampled: a long prompt would spend a fifth of its time on the others.
            normed = self._node("Gather", [normed, self._constant("last", [-1])], ["last_hidden"], axis=1)
        self.matrices.output(normed, "logits")
        self.nodes += self.matrices.take_nodes()
        self._output("logits", ["batch", "sequence" if self.all_logits else 1, model.vocabulary])
        return self._finish()

    # ---- parts -----------------------------------------------------------------------------------------------

    def _masks(self) -> None:
        """What GroupQueryAttention asks for: each row's last position, and the length of the longest row."""
        self._node("ReduceSum", ["attention_mask", self._constant("axis", [1])], ["mask.sum"], keepdims=0)
        self._node("Sub", ["mask.sum", self._constant("one", [1])], ["mask.last"])
        self._node("Cast", ["mask.last"], ["seqlens_k"], to=TensorProto.INT32)
        self._node("Shape", ["attention_mask"], ["mask.length"], start=1, end=2)
        self._node("Cast", ["mask.length"], ["mask.length32"], to=TensorProto.INT32)
        self._node("Squeeze", ["mask.length32"], ["total_sequence_length"])

    def _rotary(self) -> None:
        """Cosines and sines of every position's angles."""
        model = self.model
        exponents = np.arange(0, model.head_size, 2, dtype=np.float32) / np.float32(model.head_size)
        frequencies = np.float32(1) / np.power(np.float32(model.rope_base), exponents, dtype=np.float32)
        if "rope_freqs.weight" in self.file.tensors:
            factors = self.matrices.vector("rope_freqs.weight")
            if not (factors > 0).all():
                self.file.invalid("tensor 'rope_freqs.weight'", "holds a factor that is not positive")
            frequencies = frequencies / factors
        positions = np.arange(model.context_length, dtype=np.float32) / np.float32(model.rope_scale)
        angles = np.outer(positions, frequencies).astype(np.float32)
        self.matrices.data.add("cos_cache", np.cos(angles))
        self.matrices.data.add("sin_cache", np.sin(angles))

    def _attention(self, layer: int, normed: str) -> str:
        model, prefix = self.model, f"blk.{layer}.attn"
        if model.head_norm:
            query, key, value = f"q.{layer}", f"k.{layer}", f"v.{layer}"
            self._multiply({f"{prefix}_q": query, f"{prefix}_k": key, f"{prefix}_v": value}, normed)
            query = self._head_norm(f"{prefix}_q", query, model.query_size)
            key = self._head_norm(f"{prefix}_k", key, model.kv_size)
        else:
            query, key, value = f"qkv.{layer}", "", ""
            self._multiply({f"{prefix}_qkv": query}, normed)
        cache: list[str] = []
        for kind in ("key", "value"):
            shape: list[str | int] = ["batch", model.kv_heads, "past", model.head_size]
            cache.append(self._input(f"past_key_values.{layer}.{kind}", TensorProto.FLOAT, shape))
            self._output(f"present.{layer}.{kind}", ["batch", model.kv_heads, "total", model.head_size])
        self._node(
            "GroupQueryAttention",
            [query, key, value, *cache, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"],
            [f"attention.{layer}", f"present.{layer}.key", f"present.{layer}.value"],
            domain=MICROSOFT,
            num_heads=model.heads,
            kv_num_heads=model.kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
            scale=float(model.head_size) ** -0.5,
        )
        self._multiply({f"{prefix}_output": f"attended.{layer}"}, f"attention.{layer}")
        return f"attended.{layer}"

    def _head_norm(self, name: str, value: str, size: int) -> str:
        head = self.model.head_size
        self._node("Reshape", [value, self._constant("split", [0, 0, -1, head])], [f"{value}.heads"])
        self._node(
            "SimplifiedLayerNormalization",
            [f"{value}.heads", self._vector(f"{name}_norm.weight")],
            [f"{value}.normed"],
            epsilon=self.model.epsilon,
            axis=-1,
            stash_type=1,
        )
        flat = self._constant(f"join.{size}", [0, 0, size])
        return self._node("Reshape", [f"{value}.normed", flat], [f"{value}.joined"])

    def _feed_forward(self, layer: int, normed: str) -> str:
        gate, up = f"gate.{layer}", f"up.{layer}"
        self._multiply({f"blk.{layer}.ffn_gate": gate, f"blk.{layer}.ffn_up": up}, normed)
        self._node("QuickGelu", [gate], [f"silu.{layer}"], domain=MICROSOFT, alpha=1.0)
        self._node("Mul", [f"silu.{layer}", up], [f"gated.{layer}"])
        self._multiply({f"blk.{layer}.ffn_down": f"fed.{layer}"}, f"gated.{layer}")
        return f"fed.{layer}"

    def _skip_norm(self, name: str, hidden: str, addend: str, weight: str) -> tuple[str, str]:
        self._node(
            "SkipSimplifiedLayerNormalization",
            [hidden, addend, self._vector(weight)],
            [f"{name}.norm", "", "", f"{name}.sum"],
            domain=MICROSOFT,
            epsilon=self.model.epsilon,
        )
        return f"{name}.sum", f"{name}.norm"

    # ---- pieces ----------------------------------------------------------------------------------------------

    def _multiply(self, products: dict[str, str], value: str) -> None:
        self.matrices.multiply(products, value)
        self.nodes += self.matrices.take_nodes()

    def _vector(self, name: str) -> str:
        return self.matrices.data.add(name, self.matrices.vector(name))

    def _constant(self, name: str, values: list[int]) -> str:
        return self.matrices.constant(f"const.{name}", np.array(values, dtype=np.int64))

    def _node(self, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: float) -> str:
        node = helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return outputs[0]

    def _input(self, name: str, kind: int, shape: list[str | int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def _output(self, name: str, shape: list[str | int]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def _finish(self) -> ModelProto:
        initializers = [*self.matrices.constants.values(), *self.matrices.data.initializers.values()]
        outputs = [self.outputs[-1], *self.outputs[:-1]]
        graph = helper.make_graph(self.nodes, self.model.family, self.inputs, outputs, initializers)
        imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, producer_name="neuroshell-orch")
