"""The data file of a prepared copy, written once more as its readers want it.

Owns where each tensor and each laid-out matrix lies. onnxruntime appends a laid-out matrix right behind its tensor,
wherever that ends, and maps it from there; but a kernel finds the parts of it by addresses that it rounds up to 64, so
one that lies otherwise than it did when it was laid out is read wrongly, and silently. Here everything lies at such an
address. Small tensors go into the graph: to map one takes onnxruntime 20 system calls, some of them on each folder on
the way. Must not know what is in a tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import onnx
from onnx import TensorProto

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Iterator

ALIGNMENT: Final = 64
"""Bytes that the widest vectors of a processor have, which its kernels' buffers are rounded to."""
PAGE: Final = 4096
INLINE: Final = 4096
"""Tensors of less are kept in the graph, and so in private memory, which a model at rest has little of."""
_PREPACKED: Final = "prepacked"
_CHUNK: Final = 1 << 20


def align(graph: Path) -> None:
    """Rewrite the data file of ``graph``, which onnxruntime has just saved beside it, and the graph to match.

    Raises OrchError where the graph says something of its data that is not understood.
    """
    data = graph.with_name(graph.name + ".data")
    if not data.exists():
        return
    model = onnx.load(graph, load_external_data=False)
    with data.open("rb") as source, data.with_name(data.name + ".new").open("wb") as target:
        written = _Written(source, target)
        try:
            for tensor in _tensors(model):
                if tensor.data_location == TensorProto.EXTERNAL:
                    _place(tensor, written, data.name)
        except (KeyError, ValueError) as error:
            raise OrchError(
                "load-failed",
                f"{graph} cannot be prepared: this onnxruntime saves weights in another form ({error!r}).",
                "The model can be used as it is.",
            ) from error
    Path(target.name).replace(data)
    graph.write_bytes(model.SerializeToString())


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of ``model``, wherever one can stand; in the branches of conditions, too."""
    graphs = [model.graph]
    nodes: list[onnx.NodeProto] = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


class _Written:
    """What has been written of ``source`` to ``target``, each piece once."""

    def __init__(self, source: BinaryIO, target: BinaryIO) -> None:
        self._source = source
        self._target = target
        self._at: dict[tuple[int, int], int] = {}

    def piece(self, start: int, size: int, alignment: int) -> int:
        """Write these bytes, unless they have been; where they lie. Raises ValueError where there are fewer."""
        if (start, size) not in self._at:
            self._target.write(bytes(-self._target.tell() % alignment))
            self._at[start, size] = self._target.tell()
            for chunk in range(0, size, _CHUNK):
                self._target.write(self.read(start + chunk, min(_CHUNK, size - chunk)))
        return self._at[start, size]

    def read(self, start: int, size: int) -> bytes:
        """These bytes. Raises ValueError where there are fewer."""
        self._source.seek(start)
        found = self._source.read(size)
        if len(found) != size:
            message = f"{size} bytes at {start} of {Path(self._source.name).name} are not there"
            raise ValueError(message)
        return found


def _place(tensor: TensorProto, written: _Written, name: str) -> None:
    said = {entry.key: entry.value for entry in tensor.external_data}
    if said["location"] != name:
        raise ValueError(said["location"])
    start, size = int(said.get("offset", "0")), int(said["length"])
    prepacked = {key: value for key, value in said.items() if key.startswith(_PREPACKED)}
    del tensor.external_data[:]
    if size < INLINE and not prepacked:
        tensor.raw_data = written.read(start, size)
        tensor.data_location = TensorProto.DEFAULT
        return
    said["offset"] = str(written.piece(start, size, PAGE if size >= PAGE else ALIGNMENT))
    for key, value in prepacked.items():
        pieces = [f"{written.piece(at, length, ALIGNMENT)};{length};{rest}" for at, length, rest in _blobs(value)]
        said[key] = "|".join([value.partition("|")[0], *pieces])
    for key, value in said.items():
        if key != "checksum":
            tensor.external_data.add(key=key, value=value)


def _blobs(value: str) -> list[tuple[int, int, str]]:
    """Where the laid-out parts lie that a tensor's entry names: ``key|offset;length;checksum|…``. Raises ValueError."""
    found = []
    for blob in value.split("|")[1:]:
        offset, length, rest = blob.split(";")
        found.append((int(offset), int(length), rest))
    return found
