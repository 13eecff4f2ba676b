"""Writes one model's weights in the wanted precision and emits the operators that multiply by them.

Owns the names under which GGUF keeps a matrix, the order of its rows (llama's queries and keys are stored in pairs)
and the choice of operator: MatMulNBits and GatherBlockQuantized in 4 bits, FusedMatMul and Gather in float32. A tied
embedding is written once. Knows nothing about what comes before or after an operator.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from neuroshell_orch.models.convert.architecture import Architecture
from neuroshell_orch.models.convert.data_file import DataFile
from neuroshell_orch.models.convert.gguf_file import GgufFile
from neuroshell_orch.models.convert.weights import BLOCK, Floats, Int4, float_rows, int4_rows, join

Precision = Literal["int4", "float32"]

MICROSOFT: Final = "com.microsoft"
_ACCURACY: Final = 4
"""Activations are rounded to 8 bits for the product: the fast kernels; 0 would multiply in float32."""


class Matrices:
    """The weights of the model in ``file``, going to ``data``."""

    def __init__(self, file: GgufFile, model: Architecture, data: DataFile, precision: Precision) -> None:
        self.file = file
        self.model = model
        self.data = data
        self.precision = precision
        self.constants: dict[str, TensorProto] = {}
        self.output_name = "token_embd" if model.tied else "output"
        self._nodes: list[NodeProto] = []

    def take_nodes(self) -> list[NodeProto]:
        """The operators emitted since the last call."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def vector(self, name: str) -> Floats:
        """A small tensor of one dimension."""
        return float_rows(self.file, self.file.tensors[name]).reshape(-1)

    def constant(self, name: str, value: NDArray[np.int64]) -> str:
        """A few numbers that stay inside the graph."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def embed(self, ids: str, result: str) -> str:
        """``result`` becomes the embedding of each of ``ids``."""
        name = "token_embd"
        if self.precision == "float32":
            self._write(name)
            self._nodes.append(helper.make_node("Gather", [name, ids], [result], name=result))
            return result
        self._write(name)
        rows, blocks = self.model.vocabulary, -(-self.model.hidden // BLOCK)
        inputs = [
            self.data.alias(f"{name}.table", f"{name}.packed", (rows, blocks * BLOCK // 2)),
            ids,
            self.data.alias(f"{name}.table_scales", f"{name}.scales", (rows, blocks)),
            self.data.alias(f"{name}.table_zeros", f"{name}.zeros", (rows, -(-blocks // 2))),
        ]
        node = helper.make_node(
            "GatherBlockQuantized", inputs, [result], name=result, domain=MICROSOFT,
            bits=4, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        self._nodes.append(node)
        return result

    def multiply(self, name: str, value: str, result: str) -> None:
        """``result`` becomes ``value`` times the matrix ``name``, plus its bias if it has one."""
        rows, columns = self._write(name)
        bias = self._bias(name)
        if self.precision == "float32":
            product = f"{result}.product" if bias else result
            self._nodes.append(
                helper.make_node("FusedMatMul", [value, name], [product], name=product, domain=MICROSOFT, transB=1)
            )
            if bias:
                self._nodes.append(helper.make_node("Add", [product, bias], [result], name=result))
            return
        inputs = [value, f"{name}.packed", f"{name}.scales", f"{name}.zeros", *(("", bias) if bias else ())]
        node = helper.make_node(
            "MatMulNBits", inputs, [result], name=result, domain=MICROSOFT,
            K=columns, N=rows, bits=4, block_size=BLOCK, accuracy_level=_ACCURACY,
        )  # fmt: skip
        self._nodes.append(node)

    # ---- writing ---------------------------------------------------------------------------------------------

    def _sources(self, name: str) -> list[str]:
        """The tensors that lie one below the other in the matrix ``name``: three of them for ``…_qkv``."""
        if name.endswith("_qkv"):
            return [name.removesuffix("qkv") + part for part in "qkv"]
        return [name]

    def _order(self, name: str) -> NDArray[np.intp] | None:
        """Where each row comes from, for the matrices whose rows GGUF keeps in another order."""
        if not self.model.interleaved or not name.endswith(("attn_q", "attn_k")):
            return None
        heads = self.model.heads if name.endswith("_q") else self.model.kv_heads
        order = np.arange(heads * self.model.head_size).reshape(heads, self.model.head_size // 2, 2)
        return np.ascontiguousarray(order.swapaxes(1, 2)).reshape(-1)

    def _write(self, name: str) -> tuple[int, int]:
        entries = [self.file.tensors[f"{source}.weight"] for source in self._sources(name)]
        shape = (sum(entry.shape[0] for entry in entries), entries[0].shape[-1])
        if self.precision == "float32":
            if name not in self.data.initializers:
                parts = [float_rows(self.file, entry) for entry in entries]
                self.data.add(name, *map(self._reordered, self._sources(name), parts))
            return shape
        if f"{name}.packed" not in self.data.initializers:
            quantised = [int4_rows(self.file, entry) for entry in entries]
            matrix = join([self._reordered4(*pair) for pair in zip(self._sources(name), quantised, strict=True)])
            self.data.add(f"{name}.packed", matrix.packed)
            self.data.add(f"{name}.scales", matrix.scales.reshape(-1))
            self.data.add(f"{name}.zeros", matrix.zero_points.reshape(-1))
        return shape

    def _bias(self, name: str) -> str:
        sources = self._sources(name)
        if not all(f"{source}.bias" in self.file.tensors for source in sources):
            return ""
        parts = [self._reordered(source, self.vector(f"{source}.bias")) for source in sources]
        return self.data.add(f"{name}.bias", np.concatenate(parts))

    def _reordered(self, name: str, values: Floats) -> Floats:
        order = self._order(name)
        return values if order is None else values[order]

    def _reordered4(self, name: str, matrix: Int4) -> Int4:
        order = self._order(name)
        if order is None:
            return matrix
        return Int4(matrix.packed[order], matrix.scales[order], matrix.zero_points[order])
