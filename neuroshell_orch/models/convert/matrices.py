"""Writes one model's weights in the wanted precision and emits the operators that multiply by them.

Owns the names under which GGUF keeps a matrix, the order of its rows (llama's queries and keys are stored in pairs)
and the choice of operator: MatMulNBits and GatherBlockQuantized for 4 and 8 bits, FusedMatMul and Gather for float32.
The output matrix gets 8 bits, because in 4 it alone costs five per cent in perplexity; a tied one is written once.

Where blocks have an offset (``weights`` says why), each block's mean is appended to the input and the offsets to the
matrix, in 4 bits like the rest: one pooling and one concatenation per input buy the exact grid for 6 % more data. The
attention's output goes without: there rounding costs less than one per cent in perplexity. Knows nothing about what
comes before or after an operator.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from neuroshell_orch.models.convert.architecture import Architecture
from neuroshell_orch.models.convert.data_file import DataFile
from neuroshell_orch.models.convert.gguf_file import GgufFile
from neuroshell_orch.models.convert.weights import (
    BLOCK,
    Affine,
    Floats,
    Quantised,
    below,
    beside,
    float_rows,
    int4_rows,
    int8_rows,
    quantise4,
)

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
            self._write_float(name)
            self._emit("Gather", [name, ids], result)
            return result
        self._write_bits(name, [int8_rows(self.file, self.file.tensors[f"{name}.weight"])])
        self._emit_look_up(name, ids, result)
        return result

    def output(self, value: str, result: str) -> None:
        """``result`` becomes the score of every token."""
        name = "token_embd" if self.model.tied else "output"
        if self.precision == "float32":
            self._write_float(name)
            self._emit("FusedMatMul", [value, name], result, MICROSOFT, transB=1)
            return
        if f"{name}.packed" not in self.data.initializers:
            self._write_bits(name, [int8_rows(self.file, self.file.tensors[f"{name}.weight"])])
        self._emit_bits(name, value, result, rows=self.model.vocabulary, columns=self.model.hidden, bits=8)

    def multiply(self, products: dict[str, str], value: str) -> None:
        """For each matrix and result in ``products``: the result becomes ``value`` times the matrix, plus its bias."""
        if self.precision == "float32":
            for name, result in products.items():
                self._multiply_float(name, value, result)
            return
        matrices = {name: self._affine(name) for name in products}
        columns = self.file.tensors[f"{self._sources(next(iter(products)))[0]}.weight"].shape[-1]
        extra = 0
        if any(part.offsets.any() for parts in matrices.values() for part in parts):
            value, extra = self._append_means(value), columns // BLOCK
        for name, parts in matrices.items():
            if extra:
                parts = [Affine(beside(part.matrix, quantise4(part.offsets)), part.offsets) for part in parts]  # noqa: PLW2901
            self._write_bits(name, [part.matrix for part in parts])
            rows = sum(len(part.matrix.packed) for part in parts)
            self._emit_bits(name, value, products[name], rows=rows, columns=columns + extra, bits=4)

    # ---- operators -------------------------------------------------------------------------------------------

    def _emit(self, kind: str, inputs: list[str], result: str, domain: str = "", **attributes: int) -> None:
        node = helper.make_node(kind, inputs, [result], name=result, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)

    def _emit_bits(self, name: str, value: str, result: str, *, rows: int, columns: int, bits: int) -> None:
        inputs = [value, f"{name}.packed", f"{name}.scales", f"{name}.zeros" if bits == 4 else "", "", self._bias(name)]
        while not inputs[-1]:
            inputs.pop()
        self._emit(
            "MatMulNBits", inputs, result, MICROSOFT,
            K=columns, N=rows, bits=bits, block_size=BLOCK, accuracy_level=_ACCURACY,
        )  # fmt: skip

    def _emit_look_up(self, name: str, ids: str, result: str) -> None:
        """Rows of a matrix of 8 bits, whose bytes get more names: in the shape that this operator wants.

        Nothing multiplies by an untied one, so that these are its only names then.
        """
        rows, blocks = self.model.vocabulary, -(-self.model.hidden // BLOCK)
        table = self.data.alias(f"{name}.table", f"{name}.packed", (rows, blocks * BLOCK))
        scales = self.data.alias(f"{name}.table_scales", f"{name}.scales", (rows, blocks))
        if not self.model.tied:
            del self.data.initializers[f"{name}.packed"], self.data.initializers[f"{name}.scales"]
        self._emit(
            "GatherBlockQuantized", [table, ids, scales], result, MICROSOFT,
            bits=8, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        )  # fmt: skip

    def _multiply_float(self, name: str, value: str, result: str) -> None:
        self._write_float(name)
        bias = self._bias(name)
        product = f"{result}.product" if bias else result
        self._emit("FusedMatMul", [value, name], product, MICROSOFT, transB=1)
        if bias:
            self._emit("Add", [product, bias], result)

    def _append_means(self, value: str) -> str:
        node = helper.make_node("AveragePool", [value], [f"{value}.means"], name=f"{value}.means")
        node.attribute.append(helper.make_attribute("kernel_shape", [BLOCK]))
        node.attribute.append(helper.make_attribute("strides", [BLOCK]))
        self._nodes.append(node)
        self._emit("Concat", [value, f"{value}.means"], f"{value}.augmented", axis=-1)
        return f"{value}.augmented"

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

    def _reordered(self, name: str, values: Floats) -> Floats:
        order = self._order(name)
        return values if order is None else values[order]

    def _affine(self, name: str) -> list[Affine]:
        parts: list[Affine] = []
        wanted = not name.endswith("attn_output")
        for source in self._sources(name):
            part, order = (
                int4_rows(self.file, self.file.tensors[f"{source}.weight"], offsets=wanted),
                self._order(source),
            )
            if order is not None:
                part = Affine(part.matrix.rows(order), part.offsets[order])
            # The kernel multiplies by the block's mean, not by its sum.
            parts.append(part._replace(offsets=part.offsets * np.float32(BLOCK)))
        return parts

    def _write_float(self, name: str) -> None:
        if name not in self.data.initializers:
            sources = self._sources(name)
            parts = [float_rows(self.file, self.file.tensors[f"{source}.weight"]) for source in sources]
            self.data.add(name, *map(self._reordered, sources, parts))

    def _write_bits(self, name: str, parts: list[Quantised]) -> None:
        matrix = below(parts)
        self.data.add(f"{name}.packed", matrix.packed)
        self.data.add(f"{name}.scales", matrix.scales.reshape(-1))
        zeros = matrix.packed_zeros()
        if zeros is not None:
            self.data.add(f"{name}.zeros", zeros.reshape(-1))

    def _bias(self, name: str) -> str:
        sources = self._sources(name)
        if not all(f"{source}.bias" in self.file.tensors for source in sources):
            return ""
        parts = [self._reordered(source, self.vector(f"{source}.bias")) for source in sources]
        return self.data.add(f"{name}.bias", np.concatenate(parts))
