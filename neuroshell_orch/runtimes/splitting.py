"""Big quantised matrices of a graph, cut along their outputs into parts of a few MiB.

Owns the cutting, before a copy is prepared. At load onnxruntime lays each matrix out by one thread, into a buffer of
its size. The matrix over a vocabulary is a third of a small model: one thread has it while the others have nothing
left to do, and no other buffer could be used again for it, so its pages are new ones from the kernel. In parts, a load
takes three quarters of the time. Each output is computed from the same numbers in the same order as before, so the
results are the same bit for bit. Only slices of the data are named: no weight is read here. Must not know who wants it.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

import onnx
from onnx import NodeProto, TensorProto, helper

if TYPE_CHECKING:
    from pathlib import Path

BIG: Final = 16 << 20
PART: Final = 4 << 20
"""Bytes of a matrix that is cut, and of its parts: a buffer for one stays in the heap while a model is loaded (see
``heap``). Smaller parts load no faster, and of 2 MiB each token took a twentieth longer."""
_TILE: Final = 64
"""Outputs that kernels compute together, or a multiple of it."""
_LARGEST: Final = 64 << 20
"""Bytes of a graph file that is looked into; where there are more, the weights are in it."""
_MATRIX, _SCALES, _ZEROS, _ORDER, _BIAS = 1, 2, 3, 4, 5


def split_file(path: Path) -> bytes | None:
    """The graph in ``path`` with its big matrices in parts, or None where there is nothing to cut.

    Data files are still named relative to its folder.
    """
    if path.stat().st_size > _LARGEST:
        return None
    model = onnx.load(path, load_external_data=False)
    return model.SerializeToString() if split(model) else None


def split(model: onnx.ModelProto) -> int:
    """Cut the matrices of ``model``, in place. How many were cut."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes, count = list[NodeProto](), 0
    for node in graph.node:
        parts = _parts(node, tensors)
        count += bool(parts)
        nodes += _cut(graph, node, parts, tensors) if parts else [node]
    if count:
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        if not any(attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute):
            kept = [tensor for tensor in graph.initializer if tensor.name in used]
            del graph.initializer[:]
            graph.initializer.extend(kept)
    return count


def _parts(node: NodeProto, tensors: dict[str, TensorProto]) -> list[tuple[int, int]]:
    """From which output to which each part goes; none where the node stays as it is."""
    if node.op_type != "MatMulNBits" or not _SCALES < len(node.input) <= _BIAS + 1:
        return []
    rows = next((attribute.i for attribute in node.attribute if attribute.name == "N"), 0)
    matrix = tensors.get(node.input[_MATRIX])
    if rows <= 0 or matrix is None or prod(matrix.dims) < BIG or matrix.data_type != TensorProto.UINT8:
        return []
    sliced = [tensors.get(node.input[at]) for at in _sliced(node)]
    if not all(tensor is not None and _is_cuttable(tensor, rows) for tensor in sliced):
        return []
    step = max(_TILE, PART * rows // prod(matrix.dims) // _TILE * _TILE)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def _sliced(node: NodeProto) -> list[int]:
    """The inputs that have something for each output."""
    return [at for at in (_MATRIX, _SCALES, _ZEROS, _BIAS) if at < len(node.input) and node.input[at]]


def _is_cuttable(tensor: TensorProto, rows: int) -> bool:
    """Whether it lies as plain bytes, as many for each output."""
    elsewhere = tensor.data_location == TensorProto.EXTERNAL
    if not elsewhere and len(tensor.raw_data) != _size(tensor):
        return False
    return bool(tensor.dims) and tensor.dims[0] % rows == 0 and _size(tensor) % rows == 0


def _size(tensor: TensorProto) -> int:
    width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(prod(tensor.dims)) * int(width)


def _cut(
    graph: onnx.GraphProto, node: NodeProto, parts: list[tuple[int, int]], tensors: dict[str, TensorProto]
) -> list[NodeProto]:
    made: list[NodeProto] = []
    whole = node.output[0]
    rows = parts[-1][1]
    for number, (start, stop) in enumerate(parts):
        part = NodeProto()
        part.CopyFrom(node)
        part.name = part.output[0] = f"{whole}/part{number}"
        for attribute in part.attribute:
            if attribute.name == "N":
                attribute.i = stop - start
        for at in _sliced(node):
            piece = _slice(tensors[node.input[at]], rows, start, stop, f"{node.input[at]}/{whole}/part{number}")
            part.input[at] = piece.name
            graph.initializer.append(piece)
        made.append(part)
    joined = helper.make_node("Concat", [part.output[0] for part in made], [whole], name=f"{whole}/joined", axis=-1)
    return [*made, joined]


def _slice(tensor: TensorProto, rows: int, start: int, stop: int, name: str) -> TensorProto:
    """The part of ``tensor`` that belongs to these outputs."""
    size = _size(tensor) // rows
    found = TensorProto(name=name, data_type=tensor.data_type)
    found.dims.extend([tensor.dims[0] // rows * (stop - start), *tensor.dims[1:]])
    if tensor.data_location != TensorProto.EXTERNAL:
        found.raw_data = tensor.raw_data[start * size : stop * size]
        return found
    said = {entry.key: entry.value for entry in tensor.external_data}
    said |= {"offset": str(int(said.get("offset", "0")) + start * size), "length": str((stop - start) * size)}
    found.data_location = TensorProto.EXTERNAL
    for key, value in said.items():
        if key != "checksum":
            found.external_data.add(key=key, value=value)
    return found
