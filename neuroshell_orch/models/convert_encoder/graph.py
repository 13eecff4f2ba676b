"""Builds the ONNX graph of a BERT: ids, their types and a mask in, a vector for each token out.

Owns the order of operators and the names of inputs and outputs. One Attention per layer multiplies by all three
matrices at once and attends; sums, biases and norms ride on one operator each. In float32 all of these compute what the
plain operators would, to the last digits. Everything that pools the tokens' vectors is the runtime's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from neuroshell_orch.models.convert.data_file import DataFile
from neuroshell_orch.models.convert_encoder.architecture import Architecture
from neuroshell_orch.models.convert_encoder.safetensors_file import Floats, SafetensorsFile

MICROSOFT: Final = "com.microsoft"
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT: Final = "last_hidden_state"
_OPSET: Final = 21
_IR_VERSION: Final = 10


class GraphBuilder:
    """Collects the nodes of one model. ``build`` may be called once."""

    def __init__(self, file: SafetensorsFile, model: Architecture, data: DataFile) -> None:
        self.file = file
        self.model = model
        self.data = data
        self.nodes: list[NodeProto] = []

    def build(self, layer_done: Callable[[int], None]) -> ModelProto:
        """The whole model; ``layer_done`` is told how many layers are written."""
        for name in INPUTS:
            self._node("Cast", [name], f"{name}.32", domain="", to=TensorProto.INT32)
        weights = ("word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight")
        value = self._node(
            "EmbedLayerNormalization",
            [
                "input_ids.32",
                "token_type_ids.32",
                *(self._weight(f"embeddings.{name}") for name in (*weights, "LayerNorm.weight", "LayerNorm.bias")),
            ],
            "embedded",
            extra=["embedded.mask"],
            epsilon=self.model.epsilon,
        )
        for layer in range(self.model.layers):
            value = self._layer(f"encoder.layer.{layer}", value, last=layer == self.model.layers - 1)
            layer_done(layer + 1)
        return self._finish()

    # ---- parts -----------------------------------------------------------------------------------------------

    def _layer(self, at: str, value: str, *, last: bool) -> str:
        attended = self._node(
            "Attention",
            [value, *self._query_key_value(f"{at}.attention.self"), "attention_mask.32"],
            f"{at}.attended",
            num_heads=self.model.heads,
        )
        value = self._skip_norm(f"{at}.attention.output", value, attended, f"{at}.attention.normed")
        wide = self._multiply(f"{at}.intermediate.dense", value)
        wide = self._node("BiasGelu", [wide, self._weight(f"{at}.intermediate.dense.bias")], f"{at}.gelu")
        return self._skip_norm(f"{at}.output", value, wide, OUTPUT if last else f"{at}.normed")

    def _query_key_value(self, at: str) -> tuple[str, str]:
        names = [f"{at}.{kind}" for kind in ("query", "key", "value")]
        matrix = np.concatenate([self._floats(f"{name}.weight").T for name in names], axis=1)
        bias = np.concatenate([self._floats(f"{name}.bias") for name in names])
        return self.data.add(f"{at}.weight", matrix), self.data.add(f"{at}.bias", bias)

    def _skip_norm(self, at: str, value: str, addend: str, result: str) -> str:
        """Multiplies ``addend`` by the dense matrix, adds its bias and ``value``, and normalises."""
        product = self._multiply(f"{at}.dense", addend)
        names = (f"{at}.LayerNorm.weight", f"{at}.LayerNorm.bias", f"{at}.dense.bias")
        inputs = [value, product, *map(self._weight, names)]
        return self._node("SkipLayerNormalization", inputs, result, epsilon=self.model.epsilon)

    def _multiply(self, at: str, value: str) -> str:
        matrix = self.data.add(f"{at}.weight", self._floats(f"{at}.weight").T)
        return self._node("MatMul", [value, matrix], f"{at}.product", domain="")

    # ---- pieces ----------------------------------------------------------------------------------------------

    def _floats(self, name: str) -> Floats:
        return self.file.floats(self.model.prefix + name)

    def _weight(self, name: str) -> str:
        return self.data.add(name, self._floats(name))

    def _node(
        self,
        kind: str,
        inputs: list[str],
        output: str,
        *,
        domain: str = MICROSOFT,
        extra: list[str] | None = None,
        **attributes: float,
    ) -> str:
        node = helper.make_node(kind, inputs, [output, *(extra or [])], name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return output

    def _finish(self) -> ModelProto:
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in INPUTS]
        shape: list[str | int | None] = ["batch", "sequence", self.model.hidden]
        outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, "bert", inputs, outputs, list(self.data.initializers.values()))
        imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, producer_name="neuroshell-orch")
